"""Building what users install, from the files git knows, without a network."""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 has it from 3.11.4."""


@dataclass(frozen=True)
class Built:
    """What the build made.

    Attributes:
        source: a copy of the repository without anything git ignores.
        wheel: built from the source folder.
        sdist: the archive of the source.
        wheel_of_sdist: built from the unpacked sdist.
    """

    source: Path
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def files_of_the_repository() -> list[str]:
    """Tracked files, and new ones that git does not ignore; links are one entry."""
    known = ("--cached", "--others", "--exclude-standard", "--deduplicate")
    listed = run("git", "ls-files", *known, cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


def build_all(folder: Path) -> Built:
    """Wheel and sdist of the repository, and the wheel of the sdist."""
    source = folder / "source"
    for name in files_of_the_repository():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    _build(source, folder / "dist", "--wheel", "--sdist")
    (wheel,), (sdist,) = folder.glob("dist/*.whl"), folder.glob("dist/*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", **SAFELY)
    (unpacked,) = (folder / "unpacked").iterdir()
    _build(unpacked, folder / "again", "--wheel")
    (again,) = folder.glob("again/*.whl")
    return Built(source, wheel, sdist, again)


def _build(source: Path, out: Path, *kinds: str) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", out, source)


def install(python: Path, wheel: Path, *options: str | Path) -> None:
    """Install a wheel, and nothing else, into another environment."""
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", *options, wheel)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints, or fails with; it finds no checkout through PYTHONPATH."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=alone, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
