"""What a run is, described once: run.json, written when the run starts.

    RunConfig ──┬─ artifact, folder      what trains
                ├─ task, objective       on which examples, to minimise what
                ├─ settings              by which steps                  ──▶ Recipe
                ├─ evaluation            judged when, on how much of dev
                ├─ engine                computed where
                └─ drawn, examples, versions: recorded, so that a change shows
    RunConfig ──▶ Header of the journal
    options_of(RunConfig) ──▶ the options of `zofx tune`, keys of its configuration file, arguments
                              of `Artifact.tune`

Everything that decides the numbers of a run is here or in the artifact it names, so a run can be
resumed, evaluated and exported with nothing but the two folders. Reading this module's dataclasses
takes neither numpy nor an engine.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from zofx.errors import ArtifactError
from zofx.files.strict_json import parse_json
from zofx.options import Option, option, options_of, values_of
from zofx.tasks.catalog.jsonl_task import ROWS
from zofx.tasks.selection import TaskChoice
from zofx.zo.settings import Settings

if TYPE_CHECKING:
    from zofx.zo.journal.format import Header

FORMAT: Final = "zofx-run"
VERSION: Final = 2
PACKAGES: Final = ("zofx", "numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "torch")

MOST_THREADS: Final = 1024
"""An engine makes as many as are asked for, until there is no memory left for another."""


@dataclass(frozen=True)
class Engine:
    """Where a run computes. θ does not depend on it, so a run may go on with another.

    Attributes:
        runtime: by name.
        device: of the runtime.
        threads: of the runtime; None lets it choose.
        fleet: which workers share the forwards, see `zofx.runtimes.fleet.spec`; None for none.
        fleet_split: what they share, see `zofx.runtimes.fleet.cells`.
    """

    runtime: str = option(help="torch or ort; ort where onnxruntime is installed.", metavar="NAME")
    device: str = option("cpu", help="cpu (the default) or cuda.", metavar="NAME")
    threads: int | None = option(
        None,
        help="Threads of the runtime; its own choice if absent.",
        metavar="N",
        minimum=1,
        maximum=MOST_THREADS,
    )
    fleet: str | None = option(
        None,
        help="Share the forwards among workers: 4 on this machine, ray://HEAD:10001 on a Ray "
        "cluster, ort=2,torch=1 for engines of both kinds; none for none.",
        metavar="FLEET",
    )
    fleet_split: str = option(
        "auto", help="What they share: rows, probes, both, or auto.", metavar="WHAT"
    )


@dataclass(frozen=True)
class DevEvaluation:
    """When a run is evaluated on dev, and on how much of it.

    Attributes:
        eval_every: steps between evaluations.
        eval_size: how many dev examples they use.
        select_by: what "best on dev" means, see `Evaluation.rank`; None in runs of an older zofx.
    """

    eval_every: int = option(
        help="Steps between evaluations on dev; a fifth of all if absent.", metavar="N", minimum=1
    )
    eval_size: int = option(
        help="Dev examples per evaluation; all if absent.", metavar="N", minimum=0
    )
    select_by: str | None = option(
        None,
        help="What the best on dev is: macro-f1 (default for classes), accuracy, loss or f1.",
        metavar="METRIC",
    )


@dataclass(frozen=True)
class StartingPoint:
    """The θ that a run starts from.

    Attributes:
        run: the other run, where it was.
        step: of it.
        values: hash of θ.
    """

    run: str
    step: int
    values: str


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the numbers of a run, and what it ran on.

    Attributes:
        artifact: hash of the artifact.
        folder: where the artifact was.
        task: its examples, as asked.
        settings: of the steps.
        evaluation: on dev.
        engine: where it computes.
        drawn: how many examples each split got.
        examples: hash of train and dev.
        versions: of the packages the run was started with.
        objective: what is minimised, by name.
        reward: hash of the file of a reward; None for other objectives, and runs of an older zofx.
        start: the θ it starts from; None for that of the artifact.
    """

    artifact: str
    folder: str
    task: TaskChoice
    settings: Settings
    evaluation: DevEvaluation
    engine: Engine
    drawn: Mapping[str, int]
    examples: str
    versions: Mapping[str, str]
    objective: str = option(
        help="cross-entropy, likelihood, error-rate or f1; "
        "reward:FILE.py:FUNCTION runs your file FILE.py.",
        metavar="NAME",
    )
    reward: str | None = None
    start: StartingPoint | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Name → value of every option."""
        return values_of(self)

    @property
    def header(self) -> "Header":
        """The header of the run's journal."""
        return self.settings.recipe().header(
            self.artifact,
            self.task.seed,
            task=self.task.name,
            examples=self.examples,
            objective=self.objective,
            batch_size=str(self.settings.batch_size),
            **self._not_plain,
        )

    @property
    def _not_plain(self) -> dict[str, str]:
        """What θ depends on beside the rest of the header, where it is not as in most runs."""
        return {
            **({"balance": "classes"} if self.task.balance else {}),
            **({"hold": str(self.settings.hold)} if self.settings.hold != 1 else {}),
            **({"truncate": "left"} if self.task.truncate else {}),
            **({"max_length": str(self.task.max_length)} if self.task.max_length else {}),
            **({"reward": self.reward} if self.reward else {}),
            **({"start": self.start.values} if self.start else {}),
        }

    def began(self, header: "Header") -> bool:
        """Whether a journal with this header is one of this run's.

        An older zofx wrote no `hold`, `truncate` and `max_length` there: what is absent is not
        compared.
        """
        mine = self.header
        older = {"hold", "truncate", "max_length"} - header.settings.keys()
        settings = {name: value for name, value in mine.settings.items() if name not in older}
        return header == replace(mine, settings=settings)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> Self:
        """Read it back.

        Raises:
            ArtifactError: damaged, or of another version.
        """
        try:
            fields = parse_json(text, paths=True)
            form, version = fields.pop("format"), fields.pop("version")
            if (form, version) == (FORMAT, 1):
                fields, version = _nested(**fields), VERSION
            # Another version may have any other fields: nothing more is read of it.
            config = cls._of(**fields) if (form, version) == (FORMAT, VERSION) else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{where} does not describe a run of this zofx ({type(error).__name__}: {error}); "
                "restore it from a copy, or use the zofx that wrote it"
            ) from error
        if config is None:
            raise ArtifactError(
                f"{where} is a {form} of version {version}, this zofx reads version {VERSION} of "
                f"{FORMAT}; use the zofx that wrote it, or start the run again with `zofx tune`"
            )
        return config

    @classmethod
    def _of(
        cls,
        task: Mapping[str, Any],
        settings: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        engine: Mapping[str, Any],
        start: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Self:
        return cls(
            start=None if start is None else StartingPoint(**start),
            task=TaskChoice(**_with_limit(task)),
            settings=Settings(**settings),
            evaluation=DevEvaluation(**evaluation),
            engine=Engine(**engine),
            **fields,
        )


OLD_LIMIT: Final = 2048
"""Tokens that rows of a file kept before `max_length` was an option."""


def _with_limit(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The choice of an older run, whose rows go on as they were."""
    own = task["name"] == ROWS or task["name"].endswith(".jsonl")
    return task if "max_length" in task or not own else {**task, "max_length": OLD_LIMIT}


def _nested(
    choice: Mapping[str, Any],
    eval_every: int,
    eval_size: int,
    runtime: str,
    device: str,
    threads: int | None,
    select_by: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The fields of version 1, which was flat, as they are now."""
    return {
        **fields,
        "task": choice,
        "evaluation": {"eval_every": eval_every, "eval_size": eval_size, "select_by": select_by},
        "engine": {"runtime": runtime, "device": device, "threads": threads},
    }


OPTIONS: Final[Mapping[str, Option]] = options_of(RunConfig)
"""The options of a run by name."""


def packages() -> dict[str, str]:
    """Versions of what the numbers of a run may depend on, as installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
