"""The runtimes: engines that evaluate and train an artifact. README.md says how to write one."""

if __name__ != "zofx.runtimes":  # from the repository root this folder also answers to "runtimes"
    raise ImportError("import zofx.runtimes, not runtimes")

from typing import TYPE_CHECKING

from zofx.registry import Table, lazy

if TYPE_CHECKING:
    from zofx.session import Runtime

RUNTIMES: "Table[Runtime]" = Table(
    "runtime",
    "runtimes",
    {
        "ort": lazy("zofx.runtimes.ort:RUNTIME"),
        "torch": lazy("zofx.runtimes.torch_eager:RUNTIME"),
    },
)
