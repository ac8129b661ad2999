"""The plan of a run: run.json, written once when the run starts.

Everything that decides the numbers of a run is here or in the artifact it names, so a run can be
resumed, judged and exported with nothing but the two folders.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Self

from zofx.errors import ArtifactError
from zofx.tasks.selection import TaskChoice
from zofx.zo.journal.format import Header
from zofx.zo.settings import Settings

FORMAT: Final = "zofx-run"
VERSION: Final = 1
PACKAGES: Final = ("zofx", "numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of a run, and what it ran on.

    Attributes:
        artifact: hash of the artifact.
        folder: where the artifact was.
        choice: its examples, as asked.
        drawn: how many examples each split got.
        examples: hash of train and dev.
        objective: by name.
        settings: of the method, as given.
        eval_every: steps between evaluations on dev.
        eval_size: how many dev examples they use.
        runtime: by name.
        device: of the runtime.
        threads: of the runtime; None lets it choose.
        versions: of the packages the run was started with.
        select_by: what "best on dev" means, see `Evaluation.rank`; None in runs of an older zofx.
    """

    artifact: str
    folder: str
    choice: TaskChoice
    drawn: Mapping[str, int]
    examples: str
    objective: str
    settings: Settings
    eval_every: int
    eval_size: int
    runtime: str
    device: str
    threads: int | None
    versions: Mapping[str, str]
    select_by: str | None = None

    @property
    def header(self) -> Header:
        """The header of the run's journal."""
        balanced = {"balance": "classes"} if self.choice.balance else {}
        return self.settings.recipe().header(
            self.artifact,
            self.choice.seed,
            task=self.choice.name,
            examples=self.examples,
            objective=self.objective,
            batch_size=str(self.settings.batch_size),
            **balanced,
        )

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
            said = json.loads(text)
            found = said.pop("format"), said.pop("version")
            choice = TaskChoice(**said.pop("choice"))
            settings = Settings.from_mapping(said.pop("settings"))
            plan = cls(choice=choice, settings=settings, **said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{where} does not describe a run of this zofx ({type(error).__name__}: {error}); "
                "restore it from a copy, or use the zofx that wrote it"
            ) from error
        if found != (FORMAT, VERSION):
            raise ArtifactError(
                f"{where} is a {found[0]} of version {found[1]}, this zofx reads version {VERSION} "
                f"of {FORMAT}; use the zofx that wrote it"
            )
        return plan


def packages() -> dict[str, str]:
    """Versions of what the numbers of a run may depend on, as installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
