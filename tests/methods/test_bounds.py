"""The bounds and the model: what they derive, where the answer is known."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests import tiny
from tests.methods.bench import MODELS, questions
from tests.methods.bounds import UNIT, Forced, cross_entropy, losses_and_slopes, rounding_of_move
from tests.methods.bowl import SHAPES, Bowl, draw, random, start
from tests.methods.free_run import FreeRun
from tests.methods.model import MASK, Model
from tests.methods.reference import Mezo, Tensors
from zofx.session import Batch
from zofx.tasks.objectives import OBJECTIVES
from zofx.tasks.rows import Encoded

LR, EPS = 0.01, 0.3
DELTA = torch.tensor([3e-6, 1e-6], dtype=torch.float64)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Both kinds."""
    folder = MODELS[request.param](tmp_path_factory.mktemp("model"))
    return Model(folder, request.param == "causal")


def test_a_derivative_of_scores_is_one_of_the_loss() -> None:
    """Questions with a row per candidate and with one for all, and one with fewer candidates."""
    cells = np.zeros((4, 1), np.int64)
    encoded = Encoded(
        batch=Batch(cells, cells, cells, cells[..., None]),
        row_example=np.array([0, 1, 1, 1]),
        row_candidate=np.array([[1, 0], [0, -1], [1, -1], [2, -1]]),
        gold=np.array([0, 2]),
        counts=np.array([[1, 1, 0], [2, 1, 3]]),
    )
    scores = random(0, 3, 4, 2)
    actual = losses_and_slopes(scores, encoded)
    at = scores[:1].clone().requires_grad_()
    loss = cross_entropy(at, encoded)
    (gradient,) = torch.autograd.grad(loss.sum(), at)
    wanted = torch.cat([loss.detach(), (gradient * scores[1:]).sum((1, 2))])
    torch.testing.assert_close(actual, wanted)
    given = OBJECTIVES["cross-entropy"].on(encoded)(scores.float().numpy())
    torch.testing.assert_close(
        cross_entropy(scores, encoded), torch.from_numpy(given), rtol=1e-6, atol=0
    )


def test_a_move_in_float32_is_within_its_rounding() -> None:
    """And a tenth of the bound is not enough for some weight: it is no more than it has to be."""
    method = Mezo(start(), draw, LR, EPS, queries=2)
    for values in method.theta.values():
        values.copy_(values.float())
    before = copy.deepcopy(method.theta)
    losses = torch.tensor([1.0, 0.5, 0.25, 0.75], dtype=torch.float64)
    method.step(0, Forced(Bowl(), losses))
    ratios = []
    for name, allowed in rounding_of_move(before, method, 6).items():
        theta = before[name].float()
        for query, c in enumerate((0.5 / (2 * EPS), -0.5 / (2 * EPS))):
            theta = theta + torch.tensor(-LR * c / 2).float() * draw(0, query, name).float()
        ratios.append(((theta.double() - method.theta[name]).abs() / allowed).max())
    assert 0.1 < max(ratios) < 1
    assert torch.finfo(torch.float32).eps / 2 == UNIT


def test_a_free_run_is_bounded_by_its_worst_losses() -> None:
    """Losses that are always off by δ, against each other: close to the bound, and never above."""
    free = FreeRun(Mezo(start(), draw, LR, EPS))
    worst = Mezo(start(), draw, LR, EPS)
    for t in range(10):
        losses = [worst_loss(worst, t, side) for side in (0, 1)]
        worst.step(t, Forced(Bowl(), torch.stack(losses)))
        allowed = free.step(t, Bowl(), DELTA, roundings=0)
        ratios = [
            ((worst.theta[name] - free.theta[name]).abs() / allowed[name]).max() for name in SHAPES
        ]
        assert max(ratios) < 1 + 1e-6
        assert t > 0 or max(ratios) > 1 - 1e-6


def worst_loss(method: Mezo, t: int, side: int) -> Tensor:
    """f at θ ± εz, and δ more at the one and less at the other."""
    by = -EPS if side else EPS
    at = {name: values + by * draw(t, 0, name) for name, values in method.theta.items()}
    return Bowl()(at) + (-DELTA[1] if side else DELTA[0])


def test_the_derivatives_of_the_model_are_its_differences(model: Model) -> None:
    """jvp, gradient and central difference of one loss agree in float64."""
    loss = model.loss(questions(model.causal)[0])
    along = _along(model.weights)
    value, slope = loss.slope(model.weights, along)
    assert value == pytest.approx(float(loss(model.weights)), rel=1e-13)
    gradient = loss.gradient(model.weights, list(along))
    dot = sum((gradient[name] * along[name]).sum() for name in along)
    assert float(slope) == pytest.approx(float(dot), rel=1e-10)
    ends = [loss({n: w + by * along[n] for n, w in model.weights.items()}) for by in (1e-5, -1e-5)]
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)


def _along(weights: Tensors) -> Tensors:
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(values.shape, generator=random, dtype=torch.float64)
        for name, values in weights.items()
    }


def test_the_loss_is_the_mean_over_questions_asked_alone(model: Model) -> None:
    """Padding changes nothing."""
    batch = questions(model.causal)[0]
    alone = torch.stack([model.loss([one])(model.weights) for one in batch])
    assert float(model.loss(batch)(model.weights)) == pytest.approx(float(alone.mean()), rel=1e-12)


def test_the_loss_by_hand(model: Model) -> None:
    """Of one question: scores from plain logits, then −log softmax over the candidates."""
    asked = questions(model.causal)[0][0]
    words, scores = model.tokenizer, []
    for text in asked.candidates:
        whole = asked.prompt + text if model.causal else asked.prompt.replace(MASK, "<mask>")
        ids = words.convert_tokens_to_ids(whole.split())
        if model.causal:
            ids = [tiny.SPECIAL.index("<s>"), *ids]
            places = range(len(ids) - len(text.split()), len(ids))
            wanted = [(place - 1, ids[place]) for place in places]
        else:
            wanted = [(ids.index(tiny.SPECIAL.index("<mask>")), words.convert_tokens_to_ids(text))]
        with torch.no_grad():
            logits = model.net(input_ids=torch.tensor([ids])).logits[0]
        logprob = functional.log_softmax(logits, -1)
        scores.append(torch.stack([logprob[place, token] for place, token in wanted]).mean())
    wanted_loss = functional.cross_entropy(torch.stack(scores)[None], torch.tensor([asked.answer]))
    actual = model.loss([asked])(model.weights)
    assert float(actual) == pytest.approx(float(wanted_loss), rel=1e-12)


def test_the_model_is_in_float64(model: Model) -> None:
    """All of it: rounding the weights to float32 shows, and so does the float32 model."""
    asked = questions(model.causal)[0]
    nudged = {name: values * (1 + 1e-12) for name, values in model.weights.items()}
    change = abs(float(model.loss(asked)(nudged) - model.loss(asked)(model.weights)))
    assert 0 < change < 1e-9


def test_questions_of_all_kinds_are_asked() -> None:
    """Candidates of one token and of several, side by side."""
    texts = [text for batch in questions(True) for asked in batch for text in asked.candidates]
    assert {len(text.split()) for text in texts} == {1, 3}
