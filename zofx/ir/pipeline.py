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
from typing import Any, ClassVar, Literal, Self, TypeAlias

from zofx.errors import InvariantError, PipelineError
from zofx.ir.facts import Conflict, Fact
from zofx.ir.pass_options import read_options, show_value
from zofx.ir.pipeline_syntax import passes_of, read_pass
from zofx.ir.program import Program
from zofx.ir.schema import Stage
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
        stage: where it belongs.
        serves: options of a compilation → the field that each of them sets; "" where the option
            brings and drops the pass as it is.
        exact: whether the meaning stays up to rounding; if not, the docstring states the bound.
    """

    name: ClassVar[str]
    stage: ClassVar[Stage] = Stage.NORMALIZE
    serves: ClassVar[Mapping[str, str]] = {}
    exact: ClassVar[bool] = True

    @property
    def requires(self) -> tuple[Fact, ...]:
        """Facts that must hold before."""
        return ()

    @property
    def establishes(self) -> tuple[Fact, ...]:
        """Facts that hold afterwards."""
        return ()

    @property
    def destroys(self) -> tuple[Fact, ...]:
        """Facts that may not hold afterwards."""
        return ()

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Facts that must not hold before."""
        return ()

    @abstractmethod
    def run(self, program: Program, remark: Remarker) -> Program:
        """The rewritten program; the argument is left as it was."""

    @property
    def needs_scores(self) -> bool:
        """Whether it reads the program's sensitivity scores, which cost backward passes to make."""
        return False

    def served(self, option: str) -> Any:
        """The value of the field that an option of a compilation sets."""
        return getattr(self, self.serves[option])

    def __str__(self) -> str:
        """The pass as pipeline text; options that have their default value are left out."""
        options = [
            f"{f.name.replace('_', '-')}={show_value(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{' '.join(options)}}}" if options else "")


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

    def serving(self, option: str) -> tuple[Pass, ...]:
        """The passes that an option of a compilation is for."""
        return tuple(item for item in self.passes if option in item.serves)

    def without(self, *items: Pass) -> Self:
        """The others."""
        return type(self)(tuple(item for item in self.passes if item not in items))

    def with_pass(self, item: Pass) -> Self:
        """With one more, behind those of its stage and of earlier ones."""
        later = (i for i, other in enumerate(self.passes) if other.stage > item.stage)
        place = next(later, len(self.passes))
        return type(self)((*self.passes[:place], item, *self.passes[place:]))

    def with_served(self, option: str, value: object) -> Self:
        """With the value of an option in every pass that serves it.

        Raises:
            PipelineError: a value that its pass refuses.
        """
        pipeline = self
        for item in self.serving(option):
            field = item.serves[option].replace("_", "-")
            pipeline = pipeline.with_option(f"{item.name}.{field}={value}")
        return pipeline

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
                replace(p, **read_options(type(p), {option: value})) if p.name == name else p
                for p in self.passes
            )
        )

    def check_order(self, given: Iterable[str] = ()) -> None:
        """Check that every pass gets the facts it requires and none that it conflicts with.

        Args:
            given: facts that hold before the first pass.

        Raises:
            PipelineError: names the pass, the fact, and who would establish it or did.
        """
        made: dict[str, tuple[str, Fact | None]] = dict.fromkeys(given, ("the model", None))
        for place, item in enumerate(self.passes):
            for fact in item.requires:
                if fact.name not in made:
                    later = [p.name for p in self.passes if fact in p.establishes]
                    cure = f"move {later[0]} before it" if later else fact.cure
                    raise PipelineError(
                        f"pass {place} ({item.name}) needs a program that is '{fact}', "
                        f"and nothing before it makes it so; {cure}"
                    )
            for conflict in item.conflicts:
                if conflict.fact.name in made:
                    maker, fact_made = made[conflict.fact.name]
                    undo = f", or {fact_made.undo}" if fact_made and fact_made.undo else ""
                    raise PipelineError(
                        f"pass {place} ({item.name}) does not go with {maker}: {conflict.why}{undo}"
                    )
            for fact in item.destroys:
                made.pop(fact.name, None)
            made |= {fact.name: (item.name, fact) for fact in item.establishes}

    def run(self, program: Program, after: After = _nothing) -> Program:
        """Run all passes, verifying after each.

        Raises:
            PipelineError: the order is wrong; nothing has run.
            InvariantError: a pass produced a program that breaks a rule or a fact.
        """
        self.check_order(program.facts)
        known = {f.name: f for p in self.passes for f in (*p.requires, *p.establishes)}
        for item in self.passes:
            remarks: list[Remark] = []
            start = time.perf_counter()
            now = run_pass(item, program, remarks)
            _check_facts(item, now, known)
            after(item, program, now, tuple(remarks), time.perf_counter() - start)
            program = now
        return program


def run_pass(item: Pass, program: Program, remarks: list[Remark]) -> Program:
    """Run one pass and verify its result; remarks are appended."""
    now = item.run(program, lambda *words: remarks.append(Remark(*words)))
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
    return kind(**read_options(kind, options))
