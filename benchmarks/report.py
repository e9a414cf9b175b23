"""From samples to a table: medians, ratios, and whether the goals of the design are reached."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

#: Samples by (peer, figure).
Samples = dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    #: The key under which a measurement reports it.
    key: str
    label: str
    unit: str
    #: True for a rate, False for a cost.
    more_is_better: bool
    #: With whom CloudRay is compared; None: with nobody.
    rival: str | None = "ray"
    #: How many times better than its rival CloudRay ought to be.
    goal: float | None = None
    #: The most it may cost, whatever it costs the rival.
    bound: float | None = None


FIGURES = (
    Figure("import", "import", "s", more_is_better=False),
    Figure("init", "init()", "s", more_is_better=False),
    Figure("first_result", "first result", "s", more_is_better=False),
    Figure("startup", "import + init + first result", "s", more_is_better=False, goal=20),
    Figure("tasks_sync", "tasks, one at a time", "1/s", more_is_better=True, goal=3),
    Figure("tasks_many", "tasks, 10,000 at once", "1/s", more_is_better=True, goal=25),
    Figure("tasks_1kb", "tasks, 10,000 at once, 1 KB each", "1/s", more_is_better=True),
    Figure("wait", "wait() on 1,000, one by one", "1/s", more_is_better=True),
    Figure("fan_in", "fan-out and fan-in of 10,000", "1/s", more_is_better=True),
    Figure("nested", "nested tasks, 100 x 100", "1/s", more_is_better=True),
    Figure("put_1kb", "put() of 1 KB", "s", more_is_better=False),
    Figure("put_1mb", "put() of 1 MB", "s", more_is_better=False),
    Figure("put_rate", "put() of 100 MB", "GB/s", more_is_better=True, goal=2),
    Figure("put_rate_warm", "put() of 100 MB, memory warm", "GB/s", more_is_better=True),
    Figure("get_1kb", "get() of 1 KB", "s", more_is_better=False),
    Figure("get_1mb", "get() of 1 MB", "s", more_is_better=False),
    Figure("get_100mb", "get() of 100 MB", "s", more_is_better=False),
    Figure("get_1gb", "get() of 1 GB", "s", more_is_better=False),
    Figure("get_ratio", "get() of 1 GB by get() of 1 MB", "", more_is_better=False, bound=2),
    Figure("argument_ref", "100 MB by ref to a task on every CPU", "s", more_is_better=False),
    Figure("argument_value", "100 MB by value to a task on every CPU", "s", more_is_better=False),
    Figure("results", "ten results of 50 MB", "s", more_is_better=False),
    Figure("primes", "eight sums of primes", "s", more_is_better=False),
    Figure(
        "primes",
        "eight sums of primes, against Pool",
        "s",
        more_is_better=False,
        rival="pool",
        goal=0.97,
    ),
    Figure("memory", "memory of the runtime", "MB", more_is_better=False, goal=10),
    Figure("memory_processes", "processes of the runtime", "", more_is_better=False),
    Figure("memory_files", "files in shared memory", "MB", more_is_better=False),
    Figure(
        "memory_shared",
        "all memory, 4 executors sharing 1 GB",
        "GB",
        more_is_better=False,
        bound=1.2,
    ),
    Figure(
        "requests",
        "storage requests per task",
        "",
        more_is_better=False,
        rival=None,
        bound=0.02,
    ),
)


@dataclass(frozen=True)
class Line:
    """A figure with what was measured; None where it was not."""

    figure: Figure
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def times_better(self) -> float | None:
        """How many times better CloudRay's median is than its rival's."""
        if not self.ours or not self.theirs:
            return None
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        better, worse = (ours, theirs) if self.figure.more_is_better else (theirs, ours)
        return better / worse if worse > 0 else None

    @property
    def verdict(self) -> str:
        """Whether the goal is reached: "hit" or "miss", or nothing where nobody can tell."""
        goal, bound = self.figure.goal, self.figure.bound
        if bound is not None and self.ours:
            return "hit" if statistics.median(self.ours) <= bound else "miss"
        if goal is None or self.times_better is None:
            return ""
        return "hit" if self.times_better >= goal else "miss"

    def cells(self) -> tuple[str, ...]:
        """The line as text: what, CloudRay, rival, how many times better, goal, verdict."""
        figure = self.figure
        goal = ""
        if figure.bound is not None:
            goal = f"at most {figure.bound:g}"
        elif figure.goal is not None:
            goal = f"{figure.goal:g} x"
        times = f"{self.times_better:.3g} x" if self.times_better is not None else ""
        unit = f", {figure.unit}" if figure.unit else ""
        return (
            figure.label + unit,
            shown(self.ours),
            shown(self.theirs),
            times,
            goal,
            self.verdict,
        )


HEADINGS = ("", "CloudRay", "rival", "better by", "goal", "")


def compare(samples: Mapping[tuple[str, str], Sequence[float]]) -> list[Line]:
    """The lines for which there is anything to show."""
    lines = [
        Line(
            figure,
            ours=samples.get(("cloudray", figure.key), ()),
            theirs=samples.get((figure.rival or "", figure.key), ()),
        )
        for figure in FIGURES
    ]
    return [line for line in lines if line.ours or line.theirs]


def shown(values: Sequence[float]) -> str:
    """The median, with the smallest and the largest where there are several."""
    if not values:
        return "-"
    median = number(statistics.median(values))
    if len(values) == 1:
        return median
    return f"{median} ({number(min(values))} to {number(max(values))})"


def number(value: float) -> str:
    """Three significant digits, or all those before the point: "1,234", "0.0123"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_table(lines: Sequence[Line], *, quick: bool = False) -> Table:
    """The lines for a terminal."""
    table = Table(title="a tenth of the work: no figures to quote" if quick else None)
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index in (1, 2, 3, 4) else "left")
    for line in lines:
        colour = {"hit": "green", "miss": "red"}.get(line.verdict)
        table.add_row(*line.cells(), style=colour)
    return table


def as_markdown(
    lines: Sequence[Line], failures: Sequence[str], *, started: time.struct_time, ray_python: Path
) -> str:
    """The document: where and how it was measured, the table, and what failed."""
    machine = (
        f"{cpu_model()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
    rows = [HEADINGS, ("---", "--:", "--:", "--:", "--:", "---"), *(line.cells() for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failed = "".join(f"\nFailed: {failure}.\n" for failure in failures)
    return f"""# Benchmarks

Written by `make bench`; do not edit.

- date: {time.strftime("%Y-%m-%d %H:%M UTC", started)}
- machine: {machine}
- versions: CloudRay {importlib.metadata.version("cloudray")}, Ray {version_of_ray(ray_python)}
- command: `{" ".join(["python", "-m", "benchmarks.run", *sys.argv[1:]])}`

Both were measured in the same run, each measurement in a process of its own, by turns. A figure is
the median, with the smallest and the largest sample in parentheses. Both start with a plain
`init()`. The rival is Ray, except where the line names `multiprocessing.Pool`; a goal of "3 x"
means three times better, "at most" an absolute bound. Rates of tasks are taken after 500 tasks of
warm-up. `put` and `get` are medians of many rounds, and what was got is dropped before the next;
`put` of the first 12, and where its memory is warm, of the last 12 of 48.
Memory is the proportional set size of all processes but the driver; files in shared memory that no
process maps are on a line of their own. Where executors share an array, every page of the driver,
the executors and the files counts once.

{table}

Where memory is warm, Ray's `put` is faster because its store stays mapped: copying into pages that
a process has mapped already is two to three times as fast as `write` into pages that exist (those
of a file that was let go, as CloudRay does it), which is twice as fast as into fresh ones. CloudRay
writes nevertheless: `write` tells when shared memory is full, where touching a mapped page would
kill the process, and a file that nobody maps cannot change under a reader. Mapping a file anew for
each `put`, or two threads, are no faster than `write`.
{failed}"""


def version_of_ray(python: Path) -> str:
    """Which Ray was measured."""
    code = "import importlib.metadata; print(importlib.metadata.version('ray'))"
    return subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def cpu_model() -> str:
    """The processor's name, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
