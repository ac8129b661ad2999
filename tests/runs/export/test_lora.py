"""LoRA factors: exactly what the method trained, or the best of a rank with its error."""

from dataclasses import replace

import numpy as np
import pytest

from zofx.artifact.manifest import TensorRow, read_trainables
from zofx.artifact.merge import merged_tensors
from zofx.errors import UnsupportedError
from zofx.runs.export.lora import factors_of
from zofx.runs.export.subject import Subject


@pytest.mark.parametrize("name", ["lora", "transposed"])
def test_factors_are_the_change_of_the_merged_weight(
    name: str, request: pytest.FixtureRequest
) -> None:
    """W(θ) − W(θ₀) = scale · up · down, transposed where the checkpoint is, within rounding."""
    subject: Subject = request.getfixturevalue(name)
    before, after = dict(merged_tensors(subject.folder)), dict(
        merged_tensors(subject.folder, subject.theta)
    )  # fmt: skip
    factors = list(factors_of(subject))
    assert factors
    for made in factors:
        change = (after[made.weight] - before[made.weight]).numpy()
        product = np.float32(made.scale) * (made.up @ made.down)
        size = np.abs(before[made.weight].numpy()).max() + np.abs(product).max()
        difference = np.abs(change - (product.T if made.transposed else product)).max()
        assert difference <= 16 * 2**-24 * size
        assert (made.change, made.transposed) == (None, name == "transposed")


def test_an_approximation_states_what_it_loses(sparse: Subject) -> None:
    """‖ΔW − up · down‖ as measured is the error as stated; more rank loses less."""
    before = dict(merged_tensors(sparse.folder))
    after = dict(merged_tensors(sparse.folder, sparse.theta))
    lost = []
    for rank in (1, 4):
        factors = list(factors_of(sparse, rank))
        for made in factors:
            change = (after[made.weight] - before[made.weight]).numpy().astype(np.float64)
            measured = np.linalg.norm(change - made.up.astype(np.float64) @ made.down)
            assert made.change == pytest.approx(np.linalg.norm(change), rel=1e-4)
            assert made.lost == pytest.approx(measured, rel=1e-3)
        lost.append(sum(made.lost for made in factors))
    assert 0 < lost[1] < lost[0]


def test_what_changes_no_matrix_is_refused(lora: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors, adapters before the text: with the name and the reason."""
    for form, shape, why in (
        ("", (32,), "is no matrix, and LoRA changes matrices alone"),
        ("adapter", (2, 5, 16), "stands before the text and changes no matrix"),
    ):
        row = TensorRow("extra", "trainable", shape, "F32", None, form, None)
        manifest = replace(lora.manifest, tensors=(*lora.manifest.tensors, row))
        moved = {**lora.theta, "extra": np.ones(shape, np.float32)}
        theirs = {**read_trainables(lora.folder), "extra": np.zeros(shape, np.float32)}
        monkeypatch.setattr(
            "zofx.runs.export.lora.read_trainables", lambda folder, read=theirs: read
        )
        with pytest.raises(UnsupportedError, match=why):
            list(factors_of(replace(lora, manifest=manifest, theta=moved), 4))
