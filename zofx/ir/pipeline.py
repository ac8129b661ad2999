"""Passes and pipelines.

    Pass       a frozen dataclass: kebab-case `name`, options as fields, run: Program → Program pure
    Pipeline   a tuple of passes; text ⇄ object:
               "canonicalize, select-sensitive{fraction=0.001 scope=global}"

A pipeline checks its order against the facts before it runs, and verifies the program after every
pass. The one callback `after(pass, before, now, remarks, seconds)` is all that printing, timing and
saving stages are made of.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args, get_origin

from zofx.errors import InvariantError, PipelineError
from zofx.ir.facts import Fact
from zofx.ir.pipeline_syntax import passes_of, read_pass, written
from zofx.ir.program import Program
from zofx.ir.verify import verify
from zofx.registry import Table

Verdict: TypeAlias = Literal["applied", "skipped"]


@dataclass(frozen=True)
class Remark:
    """What a pass did, or did not do, to one tensor or node, and why."""

    subject: str
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        return f"{self.verdict}  {self.subject}   {self.why}"


Remarker: TypeAlias = Callable[[str, Verdict, str], None]


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite.

    Attributes:
        name: kebab-case; the module that holds it has the same name with underscores.
        requires: facts that must hold before.
        establishes: facts that hold afterwards.
        destroys: facts that may not hold afterwards.
        exact: whether the meaning stays up to rounding; if not, the docstring states the bound.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = ()
    destroys: ClassVar[tuple[Fact, ...]] = ()
    exact: ClassVar[bool] = True

    @abstractmethod
    def run(self, program: Program, remark: Remarker) -> Program:
        """The rewritten program; the argument is left as it was."""

    @property
    def needs_scores(self) -> bool:
        """Whether it reads the program's sensitivity scores, which cost backward passes to make."""
        return False

    def __str__(self) -> str:
        """The pass as pipeline text; options that have their default value are left out."""
        said = [
            f"{f.name.replace('_', '-')}={_show(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{' '.join(said)}}}" if said else "")


After: TypeAlias = Callable[[Pass, Program, Program, tuple[Remark, ...], float], None]


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order they run."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str, table: Table[type[Pass]]) -> Self:
        """Read pipeline text.

        Args:
            text: "name, name{option=value option=value}, …" (`zofx.ir.pipeline_syntax`).
            table: where the names are looked up.

        Raises:
            UsageError: an unknown pass, an option it does not have, or a value of the wrong type.
        """
        return cls(tuple(_parse_pass(part, table) for part in passes_of(text)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.passes))

    @property
    def needs_scores(self) -> bool:
        """Whether any of the passes does."""
        return any(item.needs_scores for item in self.passes)

    def with_option(self, setting: str) -> Self:
        """Apply `PASS.OPTION=VALUE`.

        Raises:
            PipelineError: no such pass in this pipeline, or no such option.
        """
        match = re.fullmatch(r"([\w-]+)\.([\w-]+)=(.*)", setting, re.DOTALL)
        if not match:
            raise PipelineError(f"--set {setting}: write it as PASS.OPTION=VALUE")
        name, option, value = match.groups()
        if name not in {p.name for p in self.passes}:
            there = ", ".join(p.name for p in self.passes)
            raise PipelineError(
                f"--set {setting}: the pipeline has no pass '{name}'; it has {there}"
            )
        return type(self)(
            tuple(
                replace(p, **_options(type(p), {option: value})) if p.name == name else p
                for p in self.passes
            )
        )

    def check_order(self, given: Iterable[str] = ()) -> None:
        """Check that every pass gets the facts it requires, before anything runs.

        Raises:
            PipelineError: names the pass, the fact, and who would establish it.
        """
        held = set(given)
        for place, item in enumerate(self.passes):
            for fact in item.requires:
                if fact.name not in held:
                    makers = [p.name for p in self.passes if fact in p.establishes]
                    cure = (
                        f"move {makers[0]} before it" if makers else "add a pass that makes it so"
                    )
                    raise PipelineError(
                        f"pass {place} ({item.name}) needs a program that is '{fact}', "
                        f"and nothing before it makes it so; {cure}"
                    )
            held -= {fact.name for fact in item.destroys}
            held |= {fact.name for fact in item.establishes}

    def run(self, program: Program, after: After = _nothing) -> Program:
        """Run all passes, verifying after each.

        Raises:
            PipelineError: the order is wrong; nothing has run.
            InvariantError: a pass produced a program that breaks a rule or a fact.
        """
        self.check_order(program.facts)
        held = {f.name: f for p in self.passes for f in (*p.requires, *p.establishes)}
        for item in self.passes:
            remarks: list[Remark] = []
            start = time.perf_counter()
            now = run_pass(item, program, remarks)
            _check_facts(item, now, held)
            after(item, program, now, tuple(remarks), time.perf_counter() - start)
            program = now
        return program


def run_pass(item: Pass, program: Program, remarks: list[Remark]) -> Program:
    """Run one pass and verify its result; remarks are appended."""
    now = item.run(program, lambda *said: remarks.append(Remark(*said)))
    facts = program.facts - {f.name for f in item.destroys} | {f.name for f in item.establishes}
    now = now.with_(facts=facts, history=(*program.history, str(item)))
    verify(now, item.name)
    return now


def _check_facts(item: Pass, now: Program, known: Mapping[str, Fact]) -> None:
    for name in sorted(now.facts & known.keys()):
        why = known[name].check(now)
        if why:
            raise InvariantError(
                f"after {item.name}: the program is not '{name}' any more: {why}\n"
                f"This is a bug in {item.name}, not in your input."
            )


def _parse_pass(text: str, table: Table[type[Pass]]) -> Pass:
    name, options = read_pass(text)
    kind = table[name]
    return kind(**_options(kind, options))


def _options(kind: type[Pass], given: Mapping[str, str]) -> dict[str, Any]:
    known = {f.name.replace("_", "-"): f for f in fields(kind)}
    for option in given:
        if option not in known:
            raise PipelineError(f"{kind.name} has no option '{option}'; it has {sorted(known)}")
    return {
        known[option].name: _read(kind, option, known[option].type, value)
        for option, value in given.items()
    }


def _read(kind: type[Pass], option: str, want: Any, text: str) -> Any:
    """A value from text; options are int, float, bool, str, or one of some words."""
    if words := words_of(want):
        if text in words:
            return text
        raise PipelineError(f"{kind.name}{{{option}={text}}}: must be one of {', '.join(words)}")
    if want is bool and text in ("true", "false"):
        return text == "true"
    try:
        return want(text) if want is not bool else _fail()
    except ValueError:
        raise PipelineError(
            f"{kind.name}{{{option}={text}}}: must be of type {want.__name__}"
        ) from None


def words_of(want: Any) -> tuple[str, ...]:
    """The words an option's type allows: of a Literal, or the names of a table."""
    if get_origin(want) is Literal:
        return get_args(want)
    return tuple(get_args(want)[1]) if get_origin(want) is Annotated else ()


def require_regex(option: str, text: str) -> None:
    """Refuse a regular expression that is none, when the option is given.

    Raises:
        PipelineError: names the option and what is wrong with the text.
    """
    try:
        re.compile(text)
    except re.error as error:
        raise PipelineError(f"{option}={text}: not a regular expression ({error})") from error


def _fail() -> bool:
    raise ValueError


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else written(str(value))
