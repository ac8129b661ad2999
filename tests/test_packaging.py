"""What users install: the wheel, the sdist and the editable install are the same package."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import zofx
from tests.distribution import ROOT, Built, files_of_the_repository, install, run

FOLDERS = {"zofx": "zofx", "passes": "zofx/passes", "runtimes": "zofx/runtimes"}
"""Where a folder of the repository sits in the package."""
DATA = {"zofx/py.typed", "zofx/zo/random/normal.npy"}

PLACES = """
import json, zofx, zofx.artifact.manifest, zofx.passes, zofx.runtimes.ort, zofx.tasks, zofx.zo
from importlib.metadata import version
modules = (zofx, zofx.artifact.manifest, zofx.passes, zofx.runtimes.ort, zofx.tasks, zofx.zo)
print(json.dumps([version("zofx"), *(m.__file__ for m in modules)]))
"""


def contents(wheel: Path) -> dict[str, bytes]:
    """Name → bytes of a wheel's files, without its own record of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/RECORD")]
        return {name: archive.read(name) for name in names}


def expected_modules() -> set[str]:
    """Where the repository's modules belong in the package."""
    return {
        FOLDERS[top] + "/" + rest
        for top, _, rest in (name.partition("/") for name in files_of_the_repository())
        if top in FOLDERS and rest.endswith(".py")
    }


def environment(folder: Path) -> Path:
    """A virtual environment that borrows this one's libraries but not its zofx; its python."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # Last on the path, and without its .pth files: those would bring an editable zofx along.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def imported_from(python: Path, folder: Path) -> tuple[str, list[Path]]:
    """Version and module places that an environment imports, run in an unrelated folder."""
    version, *places = json.loads(run(python, "-c", PLACES, cwd=folder))
    return version, [Path(place) for place in places]


def test_the_wheel_holds_every_module_under_zofx(built: Built) -> None:
    """Each .py of the three folders, the data files, and nothing at the top but zofx."""
    files = contents(built.wheel)
    modules = {name for name in files if name.endswith(".py")}
    assert modules == expected_modules()
    assert files.keys() >= DATA
    tops = {name.partition("/")[0] for name in files}
    assert tops == {"zofx", f"zofx-{zofx.__version__}.dist-info"}
    (licence,) = (text for name, text in files.items() if name.endswith("/LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_the_sdist_builds_the_same_wheel(built: Built) -> None:
    """A distributor who starts from the sdist ships the same bytes."""
    assert contents(built.wheel_of_sdist) == contents(built.wheel)


def test_the_wheel_runs_where_the_repository_is_not(built: Built, tmp_path: Path) -> None:
    """Installed alone, every folder of the package imports from the installed copy."""
    python = environment(tmp_path / "env")
    install(python, built.wheel)
    version, places = imported_from(python, tmp_path)
    assert version == zofx.__version__
    assert all(place.is_relative_to(tmp_path / "env") for place in places)


def test_an_editable_install_runs_the_source(built: Built, tmp_path: Path) -> None:
    """Modules come from the source folder; passes and runtimes from the repository's top."""
    hook = "from setuptools import build_meta as b; import sys; b.build_editable(sys.argv[1])"
    run(sys.executable, "-c", hook, tmp_path, cwd=built.source)
    python = environment(tmp_path / "env")
    install(python, next(tmp_path.glob("*.whl")))
    version, places = imported_from(python, tmp_path)
    assert version == zofx.__version__
    assert all(place.resolve().is_relative_to(built.source) for place in places)
    assert places[2].resolve() == built.source / "passes" / "__init__.py"


@pytest.mark.parametrize("folder", ["passes", "runtimes"])
def test_the_folders_do_not_import_by_their_bare_name(folder: str) -> None:
    """From the repository's root `import passes` says what to write instead."""
    result = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr.endswith(f"ImportError: import zofx.{folder}, not {folder}\n")


def test_the_version_is_said_once() -> None:
    """pyproject.toml and `zofx.__version__` agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == zofx.__version__
