"""Methods as data: what to compile, how to drive it, where it comes from.

Noise and selection are compiled in (pipeline text); estimator and update rule are driven (recipe).
A new method is a row here and, at most, one pass and one rule.
"""

from dataclasses import dataclass
from typing import Final

from zofx.registry import Table
from zofx.zo.settings import Settings


@dataclass(frozen=True)
class Method:
    """A zeroth-order method.

    Attributes:
        name: as in `--method NAME`.
        summary: one line.
        source: citation and link.
        pipeline: pass text; options visible, overridable by `--set PASS.OPTION=VALUE`.
        settings: defaults of a run.
    """

    name: str
    summary: str
    source: str
    pipeline: str
    settings: Settings


MEZO = (
    "Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes, NeurIPS, "
    "arXiv 2305.17333"
)
BENCH = (
    "Zhang et al. 2024, Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning, "
    "ICML, arXiv 2402.11592"
)
LOZO = (
    "Chen et al. 2025, Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank "
    "Structures, ICLR, arXiv 2410.07698"
)

ALL = "canonicalize, narrow-positions, select-parameters{match=.}, split-dense"
PROBED = "insert-perturbation{noise=gaussian}, stack-probes, narrow-vocabulary"

ROWS: Final = (
    Method(
        "senszoq",
        "train the 0.1 % most sensitive weights as a sparse trainable by two probes in one "
        "forward; "
        "the rest is frozen and quantized",
        "Guo et al. 2025, Zeroth-Order Fine-Tuning of LLMs with Transferable Static Sparsity, "
        "ICLR, arXiv 2406.02913",
        "canonicalize, narrow-positions, select-sensitive{fraction=0.001 scope=global cover=0.95}, "
        "split-sparse, quantize-frozen{format=int8-row}, insert-perturbation{noise=gaussian}, "
        "stack-probes, narrow-vocabulary, split-base-probe, quantize-activations",
        # Measured on SmolLM2-135M and TREC (106,168 trained weights), where 3e-4 diverges. The more
        # weights train, the less a step may move: a larger model wants a smaller rate.
        # ε is where 8-bit activations are least wrong (docs/precision.md).
        Settings(lr=1e-4, eps=1e-3, schedule="linear"),
    ),
    Method(
        "mezo",
        "train all parameters: two probes along a dense Gaussian direction",
        MEZO,
        f"{ALL}, {PROBED}",
        Settings(lr=1e-6),
    ),
    Method(
        "zo-sgd-sign",
        "mezo that keeps only the sign of the projected gradient; "
        "with --tensors 'sign_coordinates()' the sign of every coordinate of the estimate",
        BENCH,
        f"{ALL}, {PROBED}",
        Settings(lr=1e-6, rays="sign()"),
    ),
    Method(
        "zo-sgd-momentum",
        "mezo with a heavy ball; with --tensors '' --rays 'past_momentum(0.9, 20)' its state is "
        "the last rays instead of a tensor",
        BENCH,
        f"{ALL}, {PROBED}",
        Settings(lr=1e-7, tensors="momentum(0.9)"),
    ),
    Method(
        "zo-adam",
        "mezo with Adam; with --tensors 'past_adam()' its moments are made from the last rays",
        BENCH,
        f"{ALL}, {PROBED}",
        Settings(lr=1e-4, tensors="adam()"),
    ),
    Method(
        "zo-sgd-conservative",
        "mezo that tries the step forwards, backwards and not at all, and keeps the best",
        BENCH,
        f"{ALL}, {PROBED}",
        Settings(lr=1e-6, trial=True),
    ),
    Method(
        "forward-grad",
        "exact directional derivatives by forward-mode differentiation instead of two probes",
        "Baydin et al. 2022, Gradients without Backpropagation, arXiv 2202.08587; as compared in "
        f"{BENCH}",
        f"{ALL}, insert-perturbation{{noise=gaussian}}, forward-mode",
        Settings(estimator="forward-gradient", lr=5e-7),
    ),
    Method(
        "zo-blockwise",
        "one block of parameters at a time, with a projected gradient of its own; "
        "--set alternate-blocks.by=query moves all at once (Jacobi)",
        BENCH,
        f"{ALL}, insert-perturbation{{noise=gaussian}}, alternate-blocks{{by=step level=layer}}, "
        "stack-probes, narrow-vocabulary",
        Settings(lr=1e-6),
    ),
    Method(
        "zo-sparse-grad",
        "mezo on a random part of the weights, drawn anew every so many steps",
        BENCH,
        f"{ALL}, insert-perturbation{{noise=gaussian}}, "
        "mask-directions{keep=0.8 interval=100 scope=trainable}, stack-probes, narrow-vocabulary",
        Settings(lr=1e-6),
    ),
    Method(
        "zo-hybrid",
        "the last blocks by backpropagation, all before them by probes; torch runtime only",
        BENCH,
        f"{ALL}, hybrid-first-order{{layers=1}}, {PROBED}",
        Settings(lr=1e-6, exact_lr=1e-3),
    ),
    Method(
        "sparse-mezo",
        "mezo on the weights that are small now: a mask made of θ in every forward, stored nowhere",
        "Liu et al. 2024, Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM "
        "Fine-Tuning, arXiv 2402.15751",
        f"{ALL}, insert-perturbation{{noise=gaussian}}, mask-large-weights{{fraction=0.2}}, "
        "stack-probes, narrow-vocabulary",
        Settings(lr=2e-6),
    ),
    Method(
        "lozo",
        "low-rank directions U·V: V is kept for some steps, and what is learnt folded into the "
        "matrix when it changes",
        LOZO,
        "canonicalize, narrow-positions, select-parameters{match=.}, "
        "insert-low-rank{rank=2 basis=refreshed sides=one gain=1}, "
        f"split-dense, {PROBED}",
        Settings(lr=1e-6, refresh=50),
    ),
    Method(
        "lozo-momentum",
        "lozo with momentum in the coordinates of V, carried over to a new basis",
        LOZO,
        "canonicalize, narrow-positions, select-parameters{match=.}, "
        "insert-low-rank{rank=2 basis=refreshed sides=one gain=1}, "
        f"split-dense, {PROBED}",
        Settings(lr=1e-6, refresh=50, tensors="low_rank_momentum(0.9)"),
    ),
    Method(
        "lora-fa",
        "the B of LoRA adapters, A frozen, several queries side by side in one forward; "
        "the matrices may be quantized",
        "Gao et al. 2024, P-RGE, Enabling On-Device LLM Personalization with Inference Engines, "
        "arXiv 2409.15520; Zhang et al. 2023, LoRA-FA, arXiv 2308.03303",
        f"canonicalize, narrow-positions, insert-lora{{rank=8 alpha=16.0 freeze=A}}, {PROBED}",
        Settings(eps=1e-2, lr=1e-4, queries=4),
    ),
    Method(
        "qzo",
        "the scales of a quantized model, its codes frozen; projected gradients are clipped",
        "Shang et al. 2025, Fine-tuning Quantized Neural Networks with Zeroth-order Optimization, "
        "arXiv 2505.13430",
        "canonicalize, narrow-positions, quantize-frozen{format=int4}, expose-scales, " + PROBED,
        Settings(lr=1e-6, rays="clip(100)"),
    ),
    Method(
        "subzero",
        "directions in a random subspace with orthonormal bases on both sides of each matrix",
        "Yu et al. 2024, Zeroth-Order Fine-Tuning of LLMs in Random Subspaces, arXiv 2410.08989",
        "canonicalize, narrow-positions, select-parameters{match=.}, "
        "insert-low-rank{rank=8 basis=refreshed sides=two gain=norm orthonormal=true}, "
        f"split-dense, {PROBED}",
        Settings(lr=1e-6, refresh=1000),
    ),
    Method(
        "hizoo",
        "mezo preconditioned by a running diagonal Hessian, from a third probe",
        "Zhao et al. 2025, Second-Order Fine-Tuning without Pain for LLMs: a Hessian Informed "
        "Zeroth-Order Optimizer, ICLR, arXiv 2402.15173",
        f"{ALL}, insert-perturbation{{noise=gaussian}}, scale-directions, stack-probes, "
        "narrow-vocabulary",
        Settings(estimator="two-point-curvature", lr=1e-6, tensors="diagonal_hessian(1e-8)"),
    ),
    Method(
        "fzoo",
        "one-sided probes along several ±1 directions, the step divided by the spread of losses",
        "Dang et al. 2025, FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models "
        "towards Adam-Scale Speed, arXiv 2506.09034",
        f"{ALL}, insert-perturbation{{noise=rademacher}}, stack-probes, narrow-vocabulary",
        Settings(estimator="one-sided", queries=8, lr=1e-4, rays="normalise_by_spread()"),
    ),
)

METHODS: Table[Method] = Table(
    "method",
    "methods",
    {row.name: lambda row=row: row for row in ROWS},  # type: ignore[misc]
)
