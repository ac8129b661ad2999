"""What an import costs, who may import whom, and that every import is a declared dependency."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from zofx.cli.explain import KINDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = {
    contract["name"].partition(":")[0]: contract
    for contract in PROJECT["tool"]["importlinter"]["contracts"]
}
LIGHT = CONTRACTS["Driving a run takes numpy"]["source_modules"]
HEAVY = {
    "bitsandbytes", "datasets", "onnx", "onnx_ir", "onnxruntime", "onnxscript",
    "tensorboardX", "torch", "transformers",
}  # fmt: skip

BASE = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
SHIPPED = {n: needs for n, needs in EXTRAS.items() if n not in ("bench", "dev", "ort-gpu")}
DISTRIBUTIONS = {"google": "protobuf"}
"""Packages whose distribution has another name."""
ON_DEMAND = ("ort", "hub", "tensorboard", "trackio", "wandb")
"""Extras that only the functions using them import."""


def modules_after(statement: str) -> set[str]:
    """Top-level packages, and zofx modules, that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def distribution(requirement: str) -> str:
    """The normalised name in a requirement, or of an import."""
    match = re.match(r"[\w.-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def declared(*lists: list[str]) -> set[str]:
    """What some lists of requirements name, zofx's own extras left out."""
    return {distribution(line) for needs in lists for line in needs} - {"zofx"}


def sources(*folders: str) -> list[Path]:
    """Every module of these folders; of the package, at its place in the repository, if of none."""
    inside = folders or ("zofx", "passes", "runtimes")
    return sorted(path for folder in inside for path in (ROOT / folder).rglob("*.py"))


def module(path: Path) -> str:
    """Its name in the package, wherever the folder is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    inside = parts if parts[0] == "zofx" else ("zofx", *parts)
    return ".".join(part for part in inside if part != "__init__")


def imported_by(node: ast.AST) -> list[str]:
    """The modules that a statement, or a call of import_module with a literal, imports."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(name)):
            return [name]
        case ast.Call(
            func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]
        ):
            return [name]
    return []


def third_party(path: Path) -> Iterator[tuple[str, bool]]:
    """Each import of another distribution, and whether it happens when the module loads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        for name in imported_by(node):
            top = ".".join(name.split(".")[: 2 if name.startswith("ruamel.") else 1])
            if top != "zofx" and top not in sys.stdlib_module_names:
                yield DISTRIBUTIONS.get(top, distribution(top)), id(node) not in inside


def test_import_zofx_imports_nothing_else() -> None:
    """DirectionSpec 12: the package alone, not even numpy; runtimes, passes, driver come when
    asked."""
    modules = modules_after("import zofx")
    assert {name for name in modules if name.startswith("zofx.")} == set()
    assert not modules & (HEAVY | {"numpy", "tokenizers", "safetensors", "typer", "rich"})


@pytest.mark.parametrize("module", [*LIGHT, "zofx.cli"])
def test_what_drives_a_run_imports_no_engine(module: str) -> None:
    """DirectionSpec 9: each can be the first import, and brings neither torch nor any other heavy
    library."""
    assert modules_after(f"import {module}") & HEAVY == set()


def test_who_names_an_op_imports_the_ops() -> None:
    """torch.ops.zofx is filled by importing zofx.ir.ops, or of it: none relies on another's
    import. A format names the ops that it defines itself."""
    graph = grimp.build_graph("zofx", cache_dir=None)
    users = [module(path) for path in sources() if "torch.ops.zofx" in path.read_text()]
    assert users
    own = {user for user in users if user.startswith("zofx.ir.formats.")}
    for user in set(users) - own - {"zofx.ir.ops"}:
        upstream = graph.find_upstream_modules(user)
        assert any(name == "zofx.ir.ops" or name.startswith("zofx.ir.ops.") for name in upstream), (
            user
        )


def test_listing_the_tables_loads_no_row() -> None:
    """A table's names are known without importing what they stand for."""
    modules = modules_after(
        "from zofx.passes import PASSES; from zofx.runtimes import RUNTIMES; "
        "from zofx.tasks import TASKS; from zofx.compiler.methods import METHODS; "
        "[list(table) for table in (PASSES, RUNTIMES, TASKS, METHODS)]"
    )
    # zofx.passes imports zofx.ir.pipeline for its types only
    rows = {n for n in modules if re.match(r"zofx\.(passes|runtimes)\.", n)}
    assert (rows, modules & HEAVY) == (set(), set())


@pytest.mark.parametrize("words", [["--help"], *(["list", kind] for kind in KINDS)], ids=" ".join)
def test_help_and_lists_start_at_once(words: list[str]) -> None:
    """They load the command line and the rows asked for: no engine, no numpy, no tokenizer."""
    modules = modules_after(
        "import contextlib, io, sys\n"
        "from zofx.cli import main\n"
        f"sys.argv = ['zofx', *{words}]\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()"
    )
    assert not modules & (HEAVY | {"numpy", "tokenizers", "safetensors", "rich"})
    assert {name for name in modules if name.startswith("zofx.zo.")} <= {"zofx.zo.settings"}


WRONG = [
    "tune nowhere --task trec",
    "eval nowhere --task trec",
    "check nowhere --task trec",
    "generate nowhere hello",
    "export nowhere -o out",
    "export nowhere --to pefd -o out",
    "merge nowhere --run nowhere -o out",
    "report nowhere",
    "inspect nowhere",
    "compile nowhere/at/all",
    "compile docs",
    "compile README.md -o out",
    "compile docs -o docs",
    "plan docs",
    "sensitivity docs -o scores.safetensors --calibration README.md",
    "coverage nowhere --sensitivity nowhere.safetensors",
]


@pytest.mark.parametrize("words", WRONG)
def test_what_needs_no_engine_to_be_wrong_loads_none(words: str) -> None:
    """A name that is not there is told in a second: torch alone takes five."""
    loaded = modules_after(
        "import contextlib, io, sys\n"
        "from zofx.cli import main\n"
        f"sys.argv = ['zofx', *{words.split()}]\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()"
    )
    assert "zofx.errors" in loaded
    assert not loaded & HEAVY


def test_imports_keep_their_direction() -> None:
    """The contracts in pyproject.toml hold: layers, passes apart, driver without graph."""
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_declared(path: Path) -> None:
    """A module imports the base and the compiler's libraries; engines on demand, in functions."""
    for name, on_load in third_party(path):
        assert name in declared(BASE, *SHIPPED.values())
        if on_load:  # the fleet's own modules are imported where a fleet is asked for
            own = [SHIPPED["fleet"]] if "fleet" in path.parts else []
            assert name in declared(BASE, SHIPPED["torch"], SHIPPED["compile"], *own)


def test_every_dependency_is_imported() -> None:
    """No requirement outlives its last use."""
    imported = {name for path in sources() for name, _ in third_party(path)}
    assert declared(BASE, *SHIPPED.values()) - imported == set()
    assert declared(BASE, *(SHIPPED[name] for name in ON_DEMAND)) <= imported
    measuring = {name for path in sources("benchmarks") for name, _ in third_party(path)}
    assert declared(EXTRAS["bench"]) <= measuring


def test_the_two_onnxruntimes_never_meet() -> None:
    """No extra, followed through the extras it names, asks for both."""

    def closure(name: str) -> set[str]:
        inner = re.findall(r"zofx\[([^]]*)\]", " ".join(EXTRAS[name]))
        return declared(EXTRAS[name]).union(*(closure(n) for i in inner for n in i.split(",")))

    for name in EXTRAS:
        assert not {"onnxruntime", "onnxruntime-gpu"} <= closure(name)
