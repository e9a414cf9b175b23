from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.processes import MARK, caused_by, own_bytes_of, resident_bytes

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


def test_a_process_has_memory_of_its_own() -> None:
    assert own_bytes_of(os.getpid()) > 0


def test_pages_of_shared_files_are_not_a_processes_own() -> None:
    code = """
import mmap, os, sys, tempfile
with tempfile.TemporaryFile(dir="/dev/shm") as file:
    file.write(bytes(50_000_000))
    file.flush()
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sum(view[::4096])
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        assert resident_bytes(reader.pid) - own_bytes_of(reader.pid) >= 50_000_000
        reader.communicate()


def test_a_process_that_has_ended_holds_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert (resident_bytes(ended.pid), own_bytes_of(ended.pid)) == (0, 0)
