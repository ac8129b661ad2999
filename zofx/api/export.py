"""An artifact, or a run of it, as what other tools load.

    Subject ──merge──▶ tensors of the checkpoint ──▶ hf     a folder that transformers loads
                                                 ──▶ gguf   a file that llama.cpp loads
    Subject ──▶ LoRA factors                     ──▶ peft   an adapter that PEFT loads
    Subject ──▶ inputs of graph.onnx             ──▶ onnx-adapter   for ONNX Runtime

What an export can't say in its files it says in its model card, and in the note that comes back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from zofx.artifact import layout
from zofx.errors import UsageError
from zofx.options import require_known
from zofx.runs.evaluate import Progress, no_progress
from zofx.runs.export.card import INTEGERS, card
from zofx.runs.export.subject import Subject

T = TypeVar("T")


@dataclass(frozen=True)
class ExportOptions:
    """How to write; what a format does not take has its default.

    Attributes:
        dtype: hf: float32, bfloat16 or float16; gguf: also q8_0 or q4_0.
        base: peft: the model that the adapter names; None for the one that was compiled.
        rank: peft: of a LoRA that approximates what is none; None refuses.
    """

    dtype: str = "float32"
    base: str | None = None
    rank: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From options by name.

        Raises:
            UsageError: there is no such option.
        """
        for name in given:
            require_known(name, vars(DEFAULTS), "option of export")
        return cls(**given)


Writer = Callable[[Subject, Path, ExportOptions, Progress], str | None]
DEFAULTS: Final = ExportOptions()
TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "hf": ("dtype",),
    "gguf": ("dtype",),
    "peft": ("base", "rank"),
    "onnx-adapter": (),
}
"""Format → the options it takes."""


def require_format(to: str, options: ExportOptions = DEFAULTS) -> None:
    """Check the name of a format and what is asked of it.

    Raises:
        UsageError: there is no such format, or it does not take an option.
    """
    require_known(to, TAKES, "export format")
    for name in vars(DEFAULTS):
        if name not in TAKES[to] and getattr(options, name) != getattr(DEFAULTS, name):
            takers = ", ".join(f for f, names in TAKES.items() if name in names)
            raise UsageError(f"--{name} is of --to {takers}, not of --to {to}; drop it")
    if options.rank is not None and options.rank < 1:
        raise UsageError(f"--rank {options.rank}: must be at least 1")


def export(
    subject: Subject,
    to: str,
    out: Path,
    options: ExportOptions = DEFAULTS,
    *,
    progress: Progress = no_progress,
) -> str | None:
    """Write one.

    Args:
        subject: an artifact at some θ.
        to: a format's name, of `TAKES`.
        out: the folder to make.
        options: of the format.
        progress: called after every tensor.

    Returns:
        What is to be known before it is used, if anything.

    Raises:
        UsageError: no such format or option, or the folder is taken.
        UnsupportedError: the format cannot hold what trained.
    """
    require_format(to, options)
    return WRITERS[to](subject, out, options, progress)


def _hf(subject: Subject, out: Path, options: ExportOptions, progress: Progress) -> str | None:
    from zofx.models.hf_export import export_hf

    text = card(subject, WHAT, library_name="transformers")
    return _merged(export_hf, text, subject, out, options, progress)


def _gguf(subject: Subject, out: Path, options: ExportOptions, progress: Progress) -> str | None:
    from zofx.models.gguf_export import export_gguf

    text = card(subject, WHAT_GGUF, library_name="gguf")
    return _merged(export_gguf, text, subject, out, options, progress)


def _merged(
    write: Callable[..., None],
    text: str,
    subject: Subject,
    out: Path,
    options: ExportOptions,
    progress: Progress,
) -> str | None:
    """Write the merged tensors in one of the forms of a whole model."""
    from zofx.artifact.merge import merged_tensors
    from zofx.models.hf_export import Beside
    from zofx.models.tokenizer import SpecialTokens

    manifest = subject.manifest
    model = manifest.model
    weights = len({row.origin or row.name for row in manifest.tensors})
    beside = Beside(
        chat_template=model.get("chat_template"),
        special_tokens=model.get("special_tokens", {}),
        generation=model.get("generation", {}),
        max_length=model["max_positions"],
        texts={"README.md": text},
    )
    write(
        manifest.config,
        (subject.folder / layout.TOKENIZER).read_bytes(),
        _counted(merged_tensors(subject.folder, subject.theta), weights, progress),
        out,
        SpecialTokens(**model["special"]),
        dtype=options.dtype,
        beside=beside,
    )
    return INTEGERS if subject.rounds_activations else None


WHAT: Final = (
    "A merged checkpoint for transformers: what was trained is added into the weights it was cut "
    "from, and what was quantized is written as what it stands for."
)
WHAT_GGUF: Final = WHAT.replace("checkpoint for transformers", "model for llama.cpp")


def _peft(subject: Subject, out: Path, options: ExportOptions, progress: Progress) -> str | None:
    from zofx.runs.export.peft import base_note, export_peft

    written = export_peft(subject, out, base=options.base, rank=options.rank)
    lost = (
        f"it leaves out a relative error of {written.error:.4f} of what {written.matrices} "
        f"matrices learnt (Frobenius, rank {written.rank})"
    )
    notes = [lost if written.error else None, base_note(subject)]
    return "\n".join(note for note in notes if note) or None


def _onnx_adapter(
    subject: Subject, out: Path, options: ExportOptions, progress: Progress
) -> str | None:
    from zofx.runs.export.onnx_adapter import export_onnx_adapter

    export_onnx_adapter(subject, out)
    return None


WRITERS: Final[Mapping[str, Writer]] = {
    "hf": _hf,
    "gguf": _gguf,
    "peft": _peft,
    "onnx-adapter": _onnx_adapter,
}


def _counted(items: Iterable[T], total: int, progress: Progress) -> Iterator[T]:
    """The items, counted as they are taken."""
    for done, item in enumerate(items, start=1):
        progress(done, total)
        yield item
