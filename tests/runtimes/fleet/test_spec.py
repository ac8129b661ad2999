"""What --fleet says."""

import pytest

from zofx.errors import UsageError
from zofx.runtimes.fleet.spec import FleetSpec, Kind, parse_fleet

READ = [
    ("4", FleetSpec((Kind("ort", "cuda", 4),))),
    ("ort=2,torch/cuda=1", FleetSpec((Kind("ort", "cpu", 2), Kind("torch", "cuda", 1)))),
    ("ray://head:10001", FleetSpec((Kind("ort", "cuda", None),), "ray://head:10001")),
    ("torch=8@10.0.0.1:6379", FleetSpec((Kind("torch", "cpu", 8),), "10.0.0.1:6379")),
    ("2@auto", FleetSpec((Kind("ort", "cuda", 2),), "auto")),
]


@pytest.mark.parametrize(("text", "spec"), READ)
def test_forms(text: str, spec: FleetSpec) -> None:
    """Every form; an engine that is named runs on the CPU unless it says otherwise."""
    assert parse_fleet(text, "ort", "cuda") == spec


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "two", "ort=", "=x", "ort/=2", "2@nowhere", "4,,2"]
)
def test_no_fleet(text: str) -> None:
    """Anything else is refused, and quoted."""
    with pytest.raises(UsageError, match=f"--fleet {text}"):
        parse_fleet(text, "ort", "cpu")
