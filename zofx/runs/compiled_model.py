"""A compiled model: its manifest, how it reads text, and a session of it.

    folder ──manifest──▶ Model    tokenizer, special ids, positions: how text becomes rows
    Model ──runtime──▶ Session    scores of rows, on an engine

This module needs numpy and tokenizers only; an engine is imported when a session is opened.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from zofx.artifact import layout
from zofx.artifact.manifest import Manifest, read_manifest
from zofx.errors import ArtifactError, UnsupportedError, UsageError
from zofx.files.atomic import file_digest
from zofx.runs.run_config import Engine
from zofx.runtimes import RUNTIMES
from zofx.runtimes.fleet.cells import SPLITS
from zofx.runtimes.fleet.spec import parse_fleet
from zofx.session import Runtime, Session
from zofx.tasks.conventions import encoder_for, is_masked, markup_of
from zofx.tasks.decode import NEW_TOKENS, Decoder
from zofx.tasks.encode import Encoder
from zofx.tasks.types import Markup, Task


@dataclass(frozen=True)
class Model:
    """A compiled model as a source of scores.

    Attributes:
        folder: the artifact.
        manifest: its description.
        tokenizer: text to ids.
    """

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def masked(self) -> bool:
        """Whether it predicts masked tokens."""
        return is_masked(self.manifest.model)

    @property
    def markup(self) -> Markup:
        """What it has written around its texts."""
        return markup_of(self.tokenizer, self.manifest.model)

    def encoder(self, task: Task | None, truncate: bool, max_length: int | None = None) -> Encoder:
        """How this task's examples, or anyone's, become rows; see `encoder_for`."""
        about = self.manifest.model
        return encoder_for(self.tokenizer, about, task, truncate, self._rows, max_length)

    def decoder(
        self, encoder: Encoder, stop: str | None = None, max_new_tokens: int = NEW_TOKENS
    ) -> Decoder:
        """How this model writes texts.

        Args:
            encoder: of its prompts.
            stop: what a text ends before, besides the end of sequence.
            max_new_tokens: the most tokens of a text.

        Raises:
            UsageError: it is a masked model.
            UnsupportedError: its configuration does not say how many tokens there are.
        """
        if self.masked:
            raise UsageError(
                f"{self.folder} is a masked language model: it fills gaps in a text and continues "
                "none; compile a causal model to generate"
            )
        return Decoder(encoder, self.vocabulary, self.end_ids, stop, max_new_tokens)

    @property
    def vocabulary(self) -> int:
        """How many tokens have a probability: the tokenizer may know fewer.

        Raises:
            UnsupportedError: the configuration does not say.
        """
        if self._rows is None:
            raise UnsupportedError(
                f"{self.folder} cannot generate", ["its configuration has no vocab_size"]
            )
        return self._rows

    @property
    def _rows(self) -> int | None:
        """Of the embedding; None where the configuration does not say."""
        config = self.manifest.config
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        return int(size) if size else None

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text: the tokenizer's, and all that the configurations name."""
        named = self.manifest.config.get("eos_token_id")
        ends = named if isinstance(named, list) else [named]
        special = self.manifest.model["special"]
        every = (*ends, special["eos_id"], *special.get("end_ids", ()))
        return frozenset(index for index in every if index is not None)


def open_model(folder: Path) -> Model:
    """An artifact's description and tokenizer; its weights are checked when a session opens.

    Raises:
        UsageError: there is no artifact.
        ArtifactError: it is damaged.
    """
    manifest = read_manifest(folder, check=False)
    path = folder / layout.TOKENIZER
    if file_digest(path) != manifest.files[layout.TOKENIZER]:
        raise ArtifactError(
            f"{path} is damaged: its SHA-256 is not the recorded one; "
            "copy the artifact again or compile the model again"
        )
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises no type of its own
        raise ArtifactError(
            f"{path} is no tokenizer ({error}); copy the artifact again or compile the model again"
        ) from error
    return Model(folder, manifest, tokenizer)


def default_runtime() -> str:
    """ONNX Runtime where it is installed, else torch."""
    return "ort" if find_spec("onnxruntime") else "torch"


def open_session(model: Model, engine: Engine, rows: int = 1) -> Session:
    """Load the artifact where a run computes, for batches of so many rows; every file is checked.

    Raises:
        UsageError: no such runtime, or no such fleet.
        UnsupportedError: it cannot run here; with every reason.
        ArtifactError: the artifact is damaged.
    """
    try:
        runtime = RUNTIMES[engine.runtime] if engine.fleet in (None, "none") else _fleet(engine)
    except ImportError as error:
        name = "ray" if engine.fleet not in (None, "none") else engine.runtime
        extra = "fleet" if name == "ray" else name
        raise UnsupportedError(
            f"{name} is not installed" if name == "ray" else f"the {name} runtime is not installed",
            [f"{error}; run pip install 'zofx[{extra}]'"],
        ) from error
    return runtime.load(model.folder, device=engine.device, threads=engine.threads, rows=rows)


def _fleet(engine: Engine) -> Runtime:
    """The runtime that is made of workers.

    Raises:
        UsageError: it is none.
        ImportError: Ray is not installed.
    """
    spec = parse_fleet(str(engine.fleet), engine.runtime, engine.device)
    if engine.fleet_split not in SPLITS:
        raise UsageError(f"--fleet-split {engine.fleet_split}: there are {', '.join(SPLITS)}")
    from zofx.runtimes.fleet.runtime import FleetRuntime

    return FleetRuntime(spec, engine.fleet_split)
