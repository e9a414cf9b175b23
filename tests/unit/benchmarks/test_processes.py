from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.processes import MARK, caused_by, resident_bytes

# Starts a grandchild in a session of its own, prints its id and waits to be told to end.
CHILD = """
import subprocess, sys
silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
print(subprocess.Popen(["sleep", "60"], start_new_session=True, **silent).pid, flush=True)
sys.stdin.read()
"""


def test_the_processes_a_program_causes_are_found_even_outside_its_tree() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, MARK: "planted"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        try:
            assert {child.pid, grandchild} <= caused_by(os.getpid(), "no such mark")
            assert resident_bytes(grandchild) > 0
            child.communicate()
            # An orphan now: only the mark tells whose it is.
            assert caused_by(child.pid, "planted") == {grandchild}
        finally:
            os.kill(grandchild, 9)
