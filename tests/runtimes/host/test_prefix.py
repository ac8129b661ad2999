"""A cut program: its frozen prefix is computed by row, once if it is kept, to the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.artifacts import CASES, Case, Family
from tests.loads import LOADS, ONE_SIDED, TWO_POINT, bits
from zofx.runtimes import RUNTIMES
from zofx.runtimes.host.activation_cache import ActivationCache
from zofx.runtimes.host.engine_session import EngineSession
from zofx.runtimes.host.prefix import FrozenPrefix
from zofx.session import Batch

CUT = [case for case in CASES if case.from_layer]


@pytest.fixture(params=CUT, ids=str)
def cut(request: pytest.FixtureRequest) -> Case:
    """Every artifact that is cut."""
    chosen: Case = request.param
    return chosen


def opened(family: Family, case: Case, engine: str) -> tuple[EngineSession, FrozenPrefix]:
    """A session of its own, and its frozen prefix."""
    session = RUNTIMES[engine].load(family.artifact(case), threads=1)
    assert isinstance(session, EngineSession)
    assert session.frozen_prefix is not None
    return session, session.frozen_prefix


def test_kept_or_not_the_bits_are_the_same(
    family: Family, cut: Case, engine: str, tmp_path: Path
) -> None:
    """On every load; the second time nothing is computed; another session reads the same."""
    session, prefix = opened(family, cut, engine)
    plain = [asked.on(session) for asked in LOADS]
    session.keep_activations(ActivationCache(tmp_path))
    first = [asked.on(session) for asked in LOADS]
    computed = prefix.computed
    again = [asked.on(session) for asked in LOADS]
    assert prefix.computed == computed
    session.close()
    other, there = opened(family, cut, engine)
    other.keep_activations(ActivationCache(tmp_path))
    later = [asked.on(other) for asked in LOADS]
    other.close()
    assert there.computed == 0
    for scores in (first, again, later):
        for own, wanted in zip(scores, plain, strict=True):
            np.testing.assert_array_equal(bits(own), bits(wanted))


def test_a_row_has_the_same_activations_in_any_batch(
    family: Family, cut: Case, engine: str
) -> None:
    """Alone or among others, in any order, padded further: the same bits, and 0 at padding."""
    session, prefix = opened(family, cut, engine)
    batch = ONE_SIDED.batch
    together = prefix(batch)
    order = np.array([2, 0, 3, 1])
    turned = Batch(**{name: value[order] for name, value in batch.named().items()})
    np.testing.assert_array_equal(bits(prefix(turned)), bits(together[order]))
    wider = replace(
        batch,
        input_ids=np.pad(batch.input_ids, ((0, 0), (0, 3)), constant_values=1),
        attention_mask=np.pad(batch.attention_mask, ((0, 0), (0, 3))),
    )
    padded = prefix(wider)
    np.testing.assert_array_equal(bits(padded[:, :-3]), bits(together))
    assert (padded[wider.attention_mask == 0] == 0).all()
    session.close()


def test_a_damaged_entry_is_computed_again(
    family: Family, cut: Case, engine: str, tmp_path: Path
) -> None:
    """Scores stay, and the entry is mended."""
    session, prefix = opened(family, cut, engine)
    session.keep_activations(ActivationCache(tmp_path))
    wanted = TWO_POINT.on(session)
    file = sorted(tmp_path.iterdir())[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"nono")
    computed = prefix.computed
    np.testing.assert_array_equal(bits(TWO_POINT.on(session)), bits(wanted))
    assert prefix.computed == computed + 1
    assert file.read_bytes() == whole
    session.close()


def test_engines_do_not_share(family: Family, tmp_path: Path) -> None:
    """What one engine computed is not another's, nor another artifact's, in one folder."""
    for place, (case, engine) in enumerate((case, name) for case in CUT for name in RUNTIMES):
        session, prefix = opened(family, case, engine)
        session.keep_activations(ActivationCache(tmp_path))
        TWO_POINT.on(session)
        session.close()
        assert prefix.computed == 3
        assert len(list(tmp_path.iterdir())) == 3 * (place + 1)


def test_a_program_that_is_not_cut_keeps_nothing(family: Family, tmp_path: Path) -> None:
    """The folder stays empty."""
    session = RUNTIMES["ort"].load(family.artifact(CASES[0]), threads=1)
    assert isinstance(session, EngineSession)
    session.keep_activations(ActivationCache(tmp_path))
    TWO_POINT.on(session)
    session.close()
    assert list(tmp_path.iterdir()) == []
