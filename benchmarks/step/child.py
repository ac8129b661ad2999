"""A contestant's process: python -m benchmarks.step.child, spoken to by `match.Child`."""

import sys
import traceback

from benchmarks.step.job import Job
from benchmarks.step.turns import Turns


def main() -> int:
    """Take turns until there are no more; what goes wrong is said in one line, and in the log."""
    turns = Turns.claim()
    try:
        job = Job.from_json(turns.job())
        from benchmarks.step.contestants import CONTESTS

        CONTESTS[job.contestant.kind](job, turns)
    except Exception as error:
        traceback.print_exc()
        turns.fail(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
