"""The comparison with public trainers, on stand-ins of their checkouts: it needs no network."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.fidelity import __main__ as script
from benchmarks.fidelity import lozo, mezo, zobench
from benchmarks.fidelity.compare import Row, Told, compared
from benchmarks.fidelity.public import Draws, namespace
from benchmarks.fidelity.subject import Ground
from tests.benchmarks.checkouts import dense, low_rank
from zofx.errors import UsageError

STEPS = 2


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The model, and zofx's runs, each made once."""
    return Ground(tmp_path_factory.mktemp("ground"), STEPS)


def shares(rows: list[Row], what: str) -> list[float]:
    """What part of the allowed difference was seen, step by step."""
    return [row[what]["share"] for row in rows]


def test_a_checkout_that_takes_the_same_steps_agrees(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Losses and weights are within their bounds, in the file; the other two are missing."""
    monkeypatch.setattr(script, "Ground", lambda root, steps: ground)
    path, out = dense(tmp_path), tmp_path / "result.json"
    assert script.main(["--mezo", str(path), "--steps", str(STEPS), "-o", str(out)]) == 0
    output = capsys.readouterr()
    assert "git clone https://github.com/optsuite/LOZO" in output.err
    assert "princeton-nlp" not in output.err
    results = json.loads(out.read_bytes())
    (case,) = results["cases"]
    assert case["as_expected"]
    assert "agrees" in output.out
    steps = case["in_step"]
    assert [row["step"] for row in steps] == [0, 1]
    for what in ("losses", "weights", "textbook"):
        assert max(shares(steps, what)) <= 1
    assert min(shares(steps, "weights")) > 0.01  # float32 is seen: the bound is not out of reach
    assert case["freely"]["zofx_from_float64"]["path"][-1] < 1e-3
    assert results["peers"]["mezo"] == {"repository": mezo.PEER.repository, "commit": None}
    assert results["machine"]["versions"]["torch"]


def test_a_checkout_that_steps_a_thousandth_further_does_not(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 1, and the steps are named."""
    monkeypatch.setattr(script, "Ground", lambda root, steps: ground)
    assert script.main(["--mezo", str(dense(tmp_path, rate=1.001))]) == 1
    assert "NOT AS EXPECTED at steps [0, 1]" in capsys.readouterr().out


def test_the_fault_of_lozo_is_told_from_its_method(ground: Ground, tmp_path: Path) -> None:
    """Given the right U it agrees; as it is, it differs where V is drawn, as is predicted."""
    right, as_it_is = lozo.CASES[:2]
    path = low_rank(tmp_path, anew=False)
    run = ground.trajectory(right.method, right.numbers)
    agreeing = compared(right, path, run)
    assert agreeing["as_expected"]
    assert max(shares(agreeing["in_step"], "weights")) <= 1
    differing = compared(as_it_is, path, run)
    assert differing["as_expected"]
    first, *rest = shares(differing["in_step"], "weights")
    assert first > 1e6
    assert max(rest) <= 1
    assert max(shares(differing["in_step"], "textbook")) <= 1


def test_a_fault_that_is_no_longer_there_is_reported(ground: Ground, tmp_path: Path) -> None:
    """Code that draws V in the update, too, agrees where a difference was predicted."""
    as_it_is = lozo.CASES[1]
    path = low_rank(tmp_path, anew=True)
    comparison = compared(as_it_is, path, ground.trajectory(as_it_is.method, as_it_is.numbers))
    assert not comparison["as_expected"]
    first = comparison["in_step"][0]
    assert first["weights"]["share"] <= 1 < first["textbook"]["share"]


def test_conservative_by_adam_is_torch_with_adamw() -> None:
    """Moves and returns of the prediction are those of the optimizer, whichever point is best."""
    start = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    z = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    lr, eps = 0.01, 0.25
    method = zobench.ConservativeByAdam({"w": start.clone()}, lambda *_: z, lr, eps)
    weight = torch.nn.Parameter(start.clone())
    optimizer = zobench.by_default(iter([weight]), lr)
    cases = (((1.0, 3.0, 2.5, 2.0, 2.0), (1, -2, 1)), ((1.0, 3.0, 2.5, 0.5, 2.0), (1, -2, 2)))
    for t, (losses, moves) in enumerate(cases):
        method.step(t, Told(torch.tensor(losses, dtype=torch.float64)))
        for by in moves:
            weight.grad = by * (losses[1] - losses[2]) / (2 * eps) * z
            optimizer.step()
        torch.testing.assert_close(method.theta["w"], weight.data, rtol=1e-12, atol=0)


def test_draws_are_given_in_order() -> None:
    """Seeding starts over; more than was given, or less, is another order than was assumed."""
    draws = Draws()
    draws.give([torch.arange(4.0), torch.ones(2)])
    first = draws.normal(mean=0, std=1, size=torch.Size((2, 2)), dtype=torch.float64)
    assert torch.equal(first, torch.arange(4.0, dtype=torch.float64).view(2, 2))
    with pytest.raises(UsageError, match="drew 4 of 6"):
        draws.require_used()
    draws.manual_seed(1)
    assert torch.equal(draws.randn(3), torch.arange(3.0))
    with pytest.raises(UsageError, match="beyond"):
        draws.randn(4)
    with pytest.raises(UsageError, match="no standard normal"):
        draws.normal(mean=1, std=1, size=(1,))
    assert draws.inference_mode is torch.inference_mode


def test_public_code_is_given_stand_ins_and_keeps_torch(tmp_path: Path) -> None:
    """What is not torch, numpy or the standard library is false, callable and of any attribute."""
    path = tmp_path / "code.py"
    path.write_text(
        "import json, torch, somewhere.deep as deep\n"
        "from somewhere import is_available, __version__\n"
        "if is_available():\n    raise RuntimeError\n"
        "class Kind(deep.Base):\n    pass\n"
        "tensor = torch.ones(2)\n"
    )
    names = namespace(path)
    assert torch.equal(names["tensor"], torch.ones(2))
    assert names["json"] is json
    assert "somewhere" not in sys.modules
    with pytest.raises(UsageError, match="is not there"):
        namespace(tmp_path / "other.py")


def test_without_a_checkout_it_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and a command per repository."""
    monkeypatch.setattr(sys, "argv", ["fidelity"])
    monkeypatch.delitem(sys.modules, "benchmarks.fidelity.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks.fidelity", run_name="__main__")
    assert ended.value.code == 2
    output = capsys.readouterr()
    for peer in script.PEERS:
        assert f"git clone {peer.repository}" in output.err
        assert f"checkout {peer.commit[:7]}" in output.err
        assert f"--{peer.option}" in output.err
    assert not output.out


def test_another_repository_is_refused(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2, and the file that is not there."""
    monkeypatch.setattr(script, "Ground", lambda root, steps: ground)
    assert script.main(["--mezo", str(tmp_path)]) == 2
    assert f"{tmp_path}/large_models/utils.py is not there" in capsys.readouterr().err
