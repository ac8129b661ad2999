"""What a run or an evaluation works on: a task's examples, as a model reads them.

    Model, TaskChoice ──▶ Workload   task, encoder, and the examples of train, dev and test

Everything that can be wrong with the input is found here, before anything is computed or written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial

from zofx.errors import UsageError
from zofx.runs.compiled_model import Model
from zofx.tasks import reward as rewards
from zofx.tasks.data.pool import Pool
from zofx.tasks.data_report import DataReport, data_report
from zofx.tasks.decode import NEW_TOKENS, Decoder, gold_texts, stop_of
from zofx.tasks.encode import Encoder
from zofx.tasks.metrics import f1
from zofx.tasks.objectives import OBJECTIVES, Objective, TextObjective, objective_for
from zofx.tasks.reward import Reward
from zofx.tasks.selection import SPLITS, Split, TaskChoice, open_task
from zofx.tasks.types import Example, Record, Splits, Task

F1 = "f1"


@dataclass(frozen=True)
class Workload:
    """A task as this model reads it.

    Attributes:
        model: that reads it.
        task: what is asked.
        encoder: examples → rows.
        splits: its examples.
    """

    model: Model
    task: Task
    encoder: Encoder
    splits: Splits

    def examples(self, split: Split) -> tuple[Example, ...]:
        """The examples of a split.

        Raises:
            UsageError: it has none.
        """
        if split not in SPLITS:
            raise UsageError(f"there is no split '{split}'; there are: {', '.join(SPLITS)}")
        drawn: tuple[Example, ...] = getattr(self.splits, split)
        if not drawn:
            cure = (
                "put FILE.test.jsonl beside FILE.jsonl, or name another with --split"
                if split == "test"
                else "draw some with --train N and --dev N"
            )
            raise UsageError(f"task '{self.task.name}' has no {split} examples here; {cure}")
        return drawn

    def report(self, *splits: Split, limit: int | None = None) -> DataReport:
        """Encode every example of these splits once, so that one that cannot be is found now.

        Args:
            splits: which.
            limit: at most so many examples of each.

        Raises:
            UsageError: names the example.
        """
        chosen: dict[str, tuple[Example, ...]] = {
            split: getattr(self.splits, split)[:limit] for split in splits
        }
        return data_report(self.encoder, chosen)

    @property
    def generates(self) -> bool:
        """Whether greedy text is compared with references; a masked model can write none."""
        return self.task.kind == "generation" and not self.model.masked

    def rows(self, batch_size: int) -> int:
        """How many rows an engine is given at a time: answers are written one by one."""
        return 1 if self.generates else batch_size

    @cached_property
    def decoder(self) -> Decoder:
        """How answers are written.

        They end as the gold ones do, and may have as many tokens as the longest of these, or the
        usual number.

        Raises:
            UsageError: the model is a masked one.
        """
        splits = self.splits
        every = (*splits.train, *splits.dev, *splits.test)
        golds = gold_texts(
            self.encoder, self.model.end_ids, [e.candidates[e.answer] for e in every]
        )
        encodings = self.encoder.tokenizer.encode_batch(golds, add_special_tokens=False)
        longest = max(map(len, encodings), default=0)
        return self.model.decoder(self.encoder, stop_of(golds), max(NEW_TOKENS, longest))

    def objective(self, name: str | None) -> Objective:
        """What training minimises: the task's own objective, or the named one.

        Args:
            name: of a table's row, "f1", or "reward:FILE.py:FUNCTION", whose file is run, once.

        Raises:
            UsageError: there is no such objective, or it has no meaning for this task and model.
        """
        asked = objective_for(self.task.kind).name if name is None else name
        if asked not in self._objectives:
            self._objectives[asked] = self._objective(asked)
        return self._objectives[asked]

    @cached_property
    def _objectives(self) -> dict[str, Objective]:
        """Those made so far."""
        return {}

    def _objective(self, name: str) -> Objective:
        if name in OBJECTIVES:
            return OBJECTIVES[name]
        if name.startswith(rewards.PREFIX):
            decoder, reward = self.decoder, Reward.load(name)
            return TextObjective(reward.identity, decoder, partial(_negative, reward))
        if name != F1:
            known = ", ".join((*OBJECTIVES, F1, rewards.FORM))
            raise UsageError(f"there is no objective '{name}'; there are: {known}")
        if self.task.kind != "generation":
            raise UsageError(
                f"objective 'f1' compares texts with references, and task '{self.task.name}' has "
                "candidates to choose from; use error-rate"
            )
        return TextObjective(F1, self.decoder, partial(_missing_f1, self.decoder))

    @property
    def drawn(self) -> dict[str, int]:
        """How many examples each split has."""
        return {split: len(getattr(self.splits, split)) for split in SPLITS}

    @property
    def digest(self) -> str:
        """Identity of what a run learns from and is selected by: SHA-256 of train and dev."""
        return digest((*self.splits.train, *self.splits.dev))


def _negative(reward: Reward, text: str, example: Example) -> float:
    return -reward(text, example)


def _missing_f1(decoder: Decoder, text: str, example: Example) -> float:
    return 1 - f1(text, decoder.judged(example).references)


def digest(examples: Sequence[Example]) -> str:
    """SHA-256 of some examples, in hex; where they were stored has no part in it."""
    hashed = hashlib.sha256()
    for example in examples:
        *content, _, turns = astuple(example)
        content += [turns] if turns else []  # as an older zofx had it, where there are none
        hashed.update(repr(tuple(content)).encode())
    return hashed.hexdigest()


def open_workload(model: Model, choice: TaskChoice, own: Pool[Record] | None = None) -> Workload:
    """Read and draw a task's examples for a model; `own` are rows, where these are the task.

    Raises:
        UsageError: no such task or file, a bad record, or no examples left.
    """
    task, splits = open_task(choice, masked=model.masked, own=own, markup=model.markup)
    encoder = model.encoder(task, choice.truncate, choice.max_length)
    return Workload(model, task, encoder, splits)
