"""What tasks do to the process that runs them, and how long they do it."""

from __future__ import annotations

from tests.mistakes.row import Mistake

TITLE = "Tasks that end or damage their process, or do not end"

_PLACE = "cloudray::f() (pid=…)\nTraceback (most recent call last):\n…\n"
_ENDED = "A task should return or raise; something in it ended the process."
_OPTIONS = "(max_retries=0)"


def _task(what: str, body: str, error: str, message: str, instead: str) -> Mistake:
    return Mistake(
        what=what,
        given="import os, signal, sys\n",
        code=f"@ray.remote{_OPTIONS}\ndef f():\n    {body}\n\nray.get(f.remote())",
        shown=f"@ray.remote\ndef f():\n    {body}\n\nray.get(f.remote())",
        error=error,
        message=message,
        instead=instead,
        stores=True,
    )


def _died(how: str, printed: str, advice: str) -> str:
    return f"The worker process that ran f died: {how}.\n…\n{printed}  its log: …\n{advice}"


ROWS: tuple[Mistake, ...] = (
    _task(
        "`sys.exit` in a task",
        "sys.exit(3)",
        "WorkerCrashedError",
        _died("it left with exit code 3", "    SystemExit: 3\n", _ENDED),
        "`return`. With `max_retries` above 0 the task is tried again.",
    ),
    _task(
        "`SystemExit` in a task",
        'raise SystemExit("no data")',
        "WorkerCrashedError",
        _died("it left with exit code 1", "    SystemExit: no data\n", _ENDED),
        "Raise an `Exception`: then the caller gets it.",
    ),
    _task(
        "`KeyboardInterrupt` in a task",
        "raise KeyboardInterrupt",
        "RayTaskError",
        f"{_PLACE}KeyboardInterrupt",
        "It does not interrupt the program that asks for the value.",
    ),
    _task(
        "The end of the process",
        "os._exit(3)",
        "WorkerCrashedError",
        f"The worker process that ran f died: it left with exit code 3.\n…\n  its log: …\n{_ENDED}",
        "`return`. With `max_retries` above 0 the task is tried again.",
    ),
    _task(
        "A process that is killed",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "WorkerCrashedError",
        "The worker process that ran f died: killed by SIGKILL.\n…\n  its log: …\nSIGKILL often "
        "comes from the kernel when memory runs out: give the task more (memory=...).",
        "`@ray.remote(memory=...)` lets fewer tasks run at once.",
    ),
    _task(
        "A process that gives up",
        "os.abort()",
        "WorkerCrashedError",
        _died(
            "killed by SIGABRT",
            "",
            "SIGABRT is a crash in native code: look at the libraries that the task uses.",
        ),
        "Find the library. With `max_retries` above 0 the task is tried again.",
    ),
    _task(
        "Printing after closing standard output",
        'sys.stdout.close(); print("done")',
        "RayTaskError(ValueError)",
        f"{_PLACE}ValueError: I/O operation on closed file.",
        "The next task in that process finds its output open again.",
    ),
    _task(
        "Printing after closing descriptor 1",
        'os.close(1); print("done")',
        "RayTaskError(OSError)",
        f"{_PLACE}OSError: [Errno 9] Bad file descriptor",
        "The next task in that process finds its output open again.",
    ),
    _task(
        "`GeneratorExit` in a task",
        "raise GeneratorExit",
        "RayTaskError",
        f"{_PLACE}GeneratorExit",
        "Raise an `Exception`: then `except` clauses of its class find it.",
    ),
    Mistake(
        what="A task that takes longer than it may",
        given="import time\n",
        code="@ray.remote(timeout_s=0.1)\ndef f():\n    time.sleep(60)\n\nray.get(f.remote())",
        error="TaskTimeoutError",
        message="Task f (…) was stopped after 0.1 s (timeout_s=0.1, attempt 1).\nIt was "
        "interrupted here:\n…\nKeyboardInterrupt\nGive it more time with timeout_s=..., or None "
        "for as long as it takes.",
        instead="More time, or smaller tasks.",
        stores=True,
    ),
    _task(
        "Closing what belongs to the process",
        "os.closerange(3, 1000)",
        "WorkerCrashedError",
        _died(
            "it left with exit code 1",
            "    (the process closed file descriptors that it had not opened, among them its "
            "connection to its agent)\n",
            _ENDED,
        ),
        "Close what you have opened.",
    ),
)
