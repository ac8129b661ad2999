"""Sensitivity scores: the squared gradient of every linear weight.

    Scores ⇄ one safetensors file    f32, by parameter name; where they come from in its metadata

Scores have the names and layout of the checkpoint. GPT-2 stores [in, out] where a program reads
`NAME.T`: [out, in]; so `NAME.T` is answered with the transposed scores of `NAME`.
torch is imported when tensors are read or written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from zofx.errors import ArtifactError, UsageError
from zofx.files.atomic import new_file
from zofx.ir.schema import checkpoint_name

if TYPE_CHECKING:
    from torch import Tensor

    from zofx.ir.program import Loader
    from zofx.models.checkpoint import Checkpoint

FORMAT = "zofx-sensitivity-1"


@dataclass(frozen=True)
class Provenance:
    """Where scores come from.

    Attributes:
        model: the checkpoint as its user named it.
        model_hash: `Checkpoint.hash`.
        text: what was read: the name of a text, or which examples of which task.
        tokens: how many tokens were read.
        batches: how many gradients were squared and added.
        zofx: the version that made them.
    """

    model: str
    model_hash: str
    text: str
    tokens: int
    batches: int
    zofx: str


@dataclass(frozen=True)
class Scores(Mapping[str, "Loader"]):
    """Parameter name → recipe of its squared gradients, f32 in the parameter's shape.

    `NAME.T` is answered with the transpose of `NAME`; iteration gives the stored names only.

    Attributes:
        recipes: by the names of the transformers model.
        about: where they come from.
    """

    recipes: "Mapping[str, Loader]"
    about: Provenance

    def __getitem__(self, name: str) -> "Loader":
        stored = checkpoint_name(name)
        if name in self.recipes or stored == name:
            return self.recipes[name]
        recipe = self.recipes[stored]
        return lambda: recipe().t().contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self.recipes)

    def __len__(self) -> int:
        return len(self.recipes)

    def check_model(self, checkpoint: "Checkpoint") -> None:
        """Check that they were made for this checkpoint.

        Raises:
            UsageError: they were made for another one.
        """
        self.check_hash(checkpoint.source, checkpoint.hash)

    def check_hash(self, model: str, model_hash: str) -> None:
        """Check that they were made for the model of this name, which has this hash.

        Raises:
            UsageError: they were made for another one.
        """
        if self.about.model_hash != model_hash:
            raise UsageError(
                f"these sensitivity scores were made for {self.about.model} (hash "
                f"{self.about.model_hash[:12]}), and {model} has other weights (hash "
                f"{model_hash[:12]}); run `zofx sensitivity` on it"
            )

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write one safetensors file; it is complete or not there.

        Args:
            path: the file.
            replace: whether it takes the place of a file of such scores.

        Raises:
            UsageError: the name is taken.
            WriteError: the disk is full.
        """
        from safetensors.torch import save_file

        metadata = {key: str(value) for key, value in asdict(self.about).items()}
        with new_file(path, is_scores if replace else None) as partial:
            save_file(
                {name: recipe().contiguous() for name, recipe in self.recipes.items()},
                partial,
                metadata={"format": FORMAT, **metadata},
            )


def is_scores(path: Path) -> bool:
    """Whether this is a file that `Scores.save` wrote."""
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_scores(path: Path) -> Scores:
    """Open a file that `Scores.save` wrote; a tensor is read when its recipe runs.

    Raises:
        UsageError: there is no such file, or it holds something else.
        ArtifactError: it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; `zofx sensitivity` makes one")
    try:
        with safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); make it again with `zofx sensitivity`"
        ) from error
    if metadata.pop("format", None) != FORMAT:
        raise UsageError(
            f"{path} holds no sensitivity scores of the form {FORMAT}; "
            "make a file with `zofx sensitivity`"
        )
    return Scores({name: _stored(path, name) for name in names}, _about(path, metadata))


def _about(path: Path, metadata: Mapping[str, str]) -> Provenance:
    counts = ("tokens", "batches")
    try:
        return Provenance(**{k: int(v) if k in counts else v for k, v in metadata.items()})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged: its metadata are incomplete ({error}); "
            "make it again with `zofx sensitivity`"
        ) from error


def _stored(path: Path, name: str) -> "Loader":
    def read() -> "Tensor":
        import torch

        # PyTorch would map the file privately, and Linux promises no more of that than it has
        # memory: scores of a model of 7 billion weights are 26 GB.
        with safe_open(path, framework="np") as file:
            return torch.from_numpy(file.get_tensor(name))

    return read
