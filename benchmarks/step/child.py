"""A contestant's process: python -m benchmarks.step.child, spoken to by `match.Child`."""

import sys
import traceback
from collections.abc import Callable

from benchmarks.step.job import Job
from benchmarks.step.turns import Turns


def main(contest: Callable[[Job, Turns], None] | None = None) -> int:
    """Take turns until there are no more; what goes wrong is one line, and in the log.

    Args:
        contest: what takes them; None stands for that of the job's contestant.
    """
    turns = Turns.claim()
    try:
        job = Job.from_json(turns.job())
        if contest is None:
            from benchmarks.step.contestants import CONTESTS

            contest = CONTESTS[job.contestant.kind]
        contest(job, turns)
    except Exception as error:
        traceback.print_exc()
        turns.fail(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
