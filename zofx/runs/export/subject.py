"""What is exported: an artifact at the θ of one of its runs.

artifact, run?, step ──▶ Subject ──▶ hf | peft | artifact …
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zofx.artifact.manifest import Manifest, read_manifest, read_trainables
from zofx.ir.schema import Form, Products
from zofx.runs.run_folder import RunFolder, StepSelector
from zofx.zo.types import FloatArray


@dataclass(frozen=True)
class Subject:
    """An artifact at some θ.

    Attributes:
        folder: the artifact.
        manifest: of it.
        theta: everything that training moves, as it is there.
        run: whose θ it is; None for the artifact's own.
        step: of the run.
    """

    folder: Path
    manifest: Manifest
    theta: Mapping[str, FloatArray]
    run: RunFolder | None = None
    step: int | None = None

    @classmethod
    def of(cls, folder: Path, run: RunFolder | None = None, step: StepSelector = "best") -> Self:
        """Read it; every file of the artifact is checked.

        Raises:
            UsageError: there is no artifact, the run is of another or has not come that far.
            ArtifactError: one of them is damaged.
        """
        manifest = read_manifest(folder)
        if run is None:
            return cls(folder, manifest, read_trainables(folder))
        taken, theta = run.theta(folder, manifest, step)
        return cls(folder, manifest, theta, run, taken)

    @property
    def journal_hash(self) -> str | None:
        """SHA-256 of the journal up to the step: with the artifact's hash it names these weights.

        None without a run.
        """
        if self.run is None or self.step is None:
            return None
        return self.run.journal().digest(self.step)

    @property
    def stored_as(self) -> tuple[str, ...]:
        """The formats that frozen matrices are stored in, where not as the checkpoint has them."""
        forms = {row.form for row in self.manifest.tensors} - set(Form)
        return tuple(sorted(forms))

    @property
    def rounds_activations(self) -> bool:
        """Whether the artifact multiplies 8-bit integers: what is exported multiplies floats."""
        return self.manifest.products == Products.INTEGERS

    def to_dict(self) -> dict[str, Any]:
        """What it is, for `--json`."""
        return {
            "artifact": self.manifest.hash,
            "run": None if self.run is None else str(self.run.path),
            "step": self.step,
            "journal": self.journal_hash,
        }

    def __str__(self) -> str:
        if self.run is None:
            return "the model as compiled"
        return f"step {self.step} of {self.run.path}"
