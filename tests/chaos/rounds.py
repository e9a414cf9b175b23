"""Many rounds of chaos, on one server.

    python -m tests.chaos.rounds --store localstack --rounds 50
    python -m tests.chaos.rounds --store radosgw --seed 17

Prints a line for each round, and what everybody had to say in those that went wrong.
"""

from __future__ import annotations

import argparse
import sys

from tests import servers
from tests.chaos.storm import play


def main() -> int:
    """Play them; returns 1 if one went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", choices=["localstack", "radosgw"], default="localstack")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first; default: %(default)s")
    arguments = parser.parse_args()
    wrong, tasks, kills = 0, 0, 0
    with servers.START[arguments.store]() as server:
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            report = play(server, seed)
            sys.stdout.write(report.line() + "\n")
            sys.stdout.flush()
            tasks += report.tasks
            kills += sum(count for what, count in report.blows.items() if "kill" in what)
            if report.faults:
                wrong += 1
                sys.stdout.write(report.said + "\n")
    sys.stdout.write(
        f"{arguments.rounds} rounds on {arguments.store}: {tasks} tasks, {kills} kills, "
        f"{wrong} rounds went wrong\n"
    )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
