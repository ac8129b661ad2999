"""Exact gradients under a user's options: who gets them, and how their graph is compiled.

    pipeline   …, quantize-frozen, hybrid-first-order ┬─ probes, …, quantize-activations ─▶ program
    --exact-layers K|all                              └─ …, reverse-mode, …              ─▶ joint

Both programs start from what `hybrid-first-order` leaves, so they share every tensor. The joint one
is unperturbed: it has no probes, and the passes that make them are left out of its pipeline. With
K = all nothing is left for probes, and they are left out of the first one, too.
"""

from dataclasses import replace
from typing import Any, Final

from zofx.errors import PipelineError
from zofx.ir.facts import PARTED, PERTURBED, STACKED
from zofx.ir.pipeline import After, Pass, Pipeline
from zofx.ir.program import Program
from zofx.ir.schema import Stage
from zofx.passes import PASSES
from zofx.zo.settings import Settings

EXACT: Final = "hybrid-first-order"
ALL: Final = "all"
LORA: Final = "lora"
PROBED: Final = {PERTURBED, STACKED, PARTED}
LATE: Final = "quantize-activations"
"""Rewrites products that `reverse-mode` has to see as they were."""

UNABLE: Final = ("forward-mode", "insert-low-rank", "expose-scales")
RATE: Final = 1e-3
ADAPTER_RATE: Final = 4e-3
"""Of LoRA: better than 2e-3 on dev, a higher one untried (benchmarks/README.md, Learning)."""
STEPS: Final = 300
RULE: Final = "adam()"


def with_exact_layers(pipeline: Pipeline, layers: str) -> Pipeline:
    """Give the last blocks, or all, exact gradients.

    Raises:
        PipelineError: the method's trainables have none.
    """
    other = next((p.name for p in pipeline.passes if p.name in UNABLE), None)
    if other:
        raise PipelineError(
            f"--exact-layers {layers}: {other} trains along directions of its own, which exact "
            "gradients have no use for; leave --exact-layers out, or take another method"
        )
    passes = [p for p in pipeline.passes if p.name != EXACT]
    place = next((n for n, p in enumerate(passes) if p.stage >= Stage.PERTURB), len(passes))
    exact = PASSES[EXACT](layers=layers)  # type: ignore[call-arg]  # an option of this pass
    after = [p for p in passes[place:] if layers != ALL or not _probes(p)]
    return Pipeline((*passes[:place], exact, *after))


def joint_pipeline(pipeline: Pipeline) -> Pipeline | None:
    """From what `hybrid-first-order` leaves to the joint graph; None where nothing is exact."""
    names = [p.name for p in pipeline.passes]
    if EXACT not in names:
        return None
    rest = [p for p in pipeline.passes[names.index(EXACT) + 1 :] if not _probes(p)]
    late: list[Pass] = [p for p in rest if p.name == LATE]
    if late:
        late.append(PASSES["quantize-cotangents"]())
    return Pipeline((*(p for p in rest if p.name != LATE), PASSES["reverse-mode"](), *late))


def rewrite(
    pipeline: Pipeline, program: Program, after: After = lambda *_: None
) -> tuple[Program, Program | None]:
    """The program, and the joint one of scores and gradients if some tensors have exact ones.

    Args:
        pipeline: `with_exact_layers`, or without.
        program: as captured.
        after: called after every pass of both.
    """
    joint, base = joint_pipeline(pipeline), program

    def watch(item: Pass, before: Program, now: Program, *rest: Any) -> None:
        nonlocal base
        base = now if item.name == EXACT else base
        after(item, before, now, *rest)

    program = pipeline.run(program, watch)
    return program, None if joint is None else joint.run(base, after)


def _probes(item: Pass) -> bool:
    """Whether a pass makes probes, or rewrites what they are made of."""
    return not PROBED.isdisjoint((*item.requires, *item.establishes))


def settings_for(settings: Settings, asked: str | None, train: str | None = None) -> Settings:
    """A method's settings of a run, where --exact-layers changes what it trains by.

    Args:
        settings: of the method.
        asked: as `--exact-layers` takes it.
        train: as `--train` takes it: adapters start at zero, and take a higher rate than weights.
    """
    if asked is None:
        return settings
    rate = ADAPTER_RATE if train == LORA else RATE
    if asked == ALL:
        return replace(
            settings, estimator="exact", queries=0, tensors="", rays="", trial=False,
            lr=rate, steps=STEPS, exact_rule=RULE,
        )  # fmt: skip
    if settings.exact_lr:
        return settings
    return replace(settings, exact_lr=rate, exact_rule=RULE)
