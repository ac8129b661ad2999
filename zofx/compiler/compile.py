"""The verb: checkpoint ─capture─▶ Program ─passes─▶ Program ─write─▶ artifact.

Everything between reading and writing is lazy: no pass holds more than one weight, and the writer
makes one tensor at a time.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, is_only_an_artifact
from zofx.compiler.exact import rewrite, settings_for
from zofx.compiler.frontend import captured
from zofx.compiler.methods import Method
from zofx.compiler.options import Options, pipeline_for
from zofx.compiler.write import Progress, _rows, no_progress, write_program
from zofx.files.atomic import file_digest, new_folder
from zofx.ir.directions import noise_of
from zofx.ir.facts import CUT
from zofx.ir.pipeline import After, Pass, Remark
from zofx.ir.program import Loader, Program
from zofx.ir.requirements import products_of, result_of
from zofx.models.checkpoint import Checkpoint
from zofx.models.lengths import usable_tokens
from zofx.models.soft_prompts import adapter_for

Ranks: TypeAlias = Callable[[], Mapping[str, Loader]]
"""Makes the sensitivities of a model's weights."""

Beside: TypeAlias = Callable[[Path], None]
"""Writes into the folder of an artifact that is not there yet."""


def nothing_beside(folder: Path) -> None:
    """No other files."""


@dataclass
class Report:
    """Times and remarks of the passes, collected through the pipeline's callback."""

    seconds: dict[str, float] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    def after(self, also: After) -> After:
        """The callback, chained with another one."""

        def record(
            item: Pass, before: Program, now: Program, remarks: tuple[Remark, ...], seconds: float
        ) -> None:
            self.seconds[item.name] = round(seconds, 3)
            self.remarks[item.name] = [str(remark) for remark in remarks]
            also(item, before, now, remarks, seconds)

        return record


def compile_model(
    checkpoint: Checkpoint,
    method: Method,
    out: Path,
    *,
    scores: Mapping[str, Loader] | Ranks | None = None,
    options: Options | None = None,
    after: After = lambda *_: None,
    beside: Beside = nothing_beside,
    progress: Progress = no_progress,
) -> Manifest:
    """Compile a checkpoint into an artifact folder.

    Args:
        checkpoint: what to compile.
        method: the pipeline and the defaults of a run.
        out: the folder to make; it appears only when everything went well.
        scores: sensitivity by weight, where the pipeline asks for it; or what makes it, which is
            called when the model was traced: that fails in seconds, and ranking takes minutes.
        options: changes to the method's pipeline.
        after: called after every pass.
        beside: puts files that are no part of the artifact into its folder, before that appears.
        progress: called as work is done.

    Raises:
        ZofxError: see the passes; nothing is left behind.
    """
    options = options or Options()
    pipeline = pipeline_for(method, options)
    report = Report()
    with new_folder(out, is_only_an_artifact if options.force else None) as folder:
        start = time.perf_counter()
        progress("capture", 0, 1)
        program = captured(checkpoint, options)
        positions = usable_tokens(program, checkpoint.max_positions)
        report.seconds["capture"] = round(time.perf_counter() - start, 3)
        ranks = scores() if callable(scores) else scores
        program = program.choosing("scores", ranks or {})
        progress("passes", 0, len(pipeline.passes))
        program, joint = rewrite(pipeline, program, report.after(after))
        start = time.perf_counter()
        written = write_program(program, folder, progress, joint)
        (folder / layout.TOKENIZER).write_text(checkpoint.tokenizer.to_str(), encoding="utf-8")
        report.seconds["write"] = round(time.perf_counter() - start, 3)
        manifest = Manifest(
            method=method.name,
            pipeline=", ".join(program.history),
            recipe=asdict(settings_for(method.settings, options.exact_layers, options.train)),
            model=_model_description(checkpoint, options, positions),
            config=checkpoint.config.to_dict(),
            noise=noise_of(program),
            tensors=_rows(program),
            result=result_of(program),
            products=products_of(program.graph),
            cut=CUT.name in program.facts,
            ops=written.ops,
            files={n: file_digest(folder / n) for n in (*written.files, layout.TOKENIZER)},
            report={"seconds": report.seconds, "remarks": report.remarks},
        )
        (folder / layout.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        beside(folder)
    return manifest


def _model_description(
    checkpoint: Checkpoint, options: Options, positions: int | None
) -> dict[str, Any]:
    """The manifest's fields on the model; an adapter takes some of its positions."""
    before = adapter_for(options.adapter).tokens if options.adapter else 0
    return checkpoint.description | {"max_positions": positions and positions - before}
