from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cloudray import configuration
from cloudray.configuration import Configuration
from cloudray.driver.progress import Report
from cloudray.driver.screen import Cell, Drawing, Line, open_display, somebody_looks_on, words_of
from tests.screens import Screen

REPORT = Report(total=40, done=10, failed=2, running=4, elapsed_s=20.0, per_second=0.5, eta_s=60.0)


class Terminal(io.TextIOWrapper):
    """A text stream to a screen, written to as a terminal is."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        # As the terminal driver does it.
        self.screen.feed(text.replace("\n", "\r\n"))
        return len(text)


Stage = Callable[[], tuple[Screen, Line]]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Make both streams a terminal's: within the test, where pytest does not replace them."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def stage() -> tuple[Screen, Line]:
        screen = Screen(100)
        monkeypatch.setattr(sys, "stdout", Terminal(screen))
        monkeypatch.setattr(sys, "stderr", Terminal(screen))
        return screen, Line(sys.stderr, lambda report: f"{report.done} of {report.total}")

    return stage


def report(done: int) -> Report:
    return Report(total=9, done=done, failed=0, running=0, elapsed_s=1.0)


# -- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "10/40 done, 4 running, 26 queued, 2 failed, 0.5/s, ETA 1:00"),
        ({"failed": 0, "running": 0}, "10/40 done, 30 queued, 0.5/s, ETA 1:00"),
        ({"running": 30}, "10/40 done, 30 running, 2 failed, 0.5/s, ETA 1:00"),
        ({"per_second": 0.0, "eta_s": None}, "10/40 done, 4 running, 26 queued, 2 failed, 0:20"),
        ({"eta_s": 3725.2}, "10/40 done, 4 running, 26 queued, 2 failed, 0.5/s, ETA 1:02:05"),
        ({"per_second": 0.01}, "10/40 done, 4 running, 26 queued, 2 failed, 0.6/min, ETA 1:00"),
        ({"per_second": 3.25}, "10/40 done, 4 running, 26 queued, 2 failed, 3.2/s, ETA 1:00"),
        ({"per_second": 12345.6}, "10/40 done, 4 running, 26 queued, 2 failed, 12,346/s, ETA 1:00"),
    ],
)
def test_a_report_in_words(changes: dict[str, Any], text: str) -> None:
    fields = {name: getattr(REPORT, name) for name in Report.__struct_fields__}
    assert ", ".join(words for words, _ in words_of(Report(**{**fields, **changes}))) == text


# -- a line on a terminal --------------------------------------------------------------------


def test_a_report_takes_the_place_of_the_last_one(stage: Stage) -> None:
    screen, line = stage()
    line.show(report(1))
    assert screen.rows() == ["1 of 9"]
    line.show(report(2))
    assert screen.rows() == ["2 of 9"]


def test_a_cleared_line_leaves_no_trace(stage: Stage) -> None:
    screen, line = stage()
    line.show(report(1))
    line.clear()
    assert screen.rows() == []
    sys.stdout.write("after\n")
    assert screen.rows() == ["after"]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_is_printed_meanwhile_stands_above_it(name: str, stage: Stage) -> None:
    screen, line = stage()
    line.show(report(1))
    print("first", 1, file=getattr(sys, name))
    print("second", 2, file=getattr(sys, name))
    line.show(report(2))
    assert screen.rows() == ["first 1", "second 2", "2 of 9"]


def test_a_handler_that_got_the_stream_before_stands_above_it_too(stage: Stage) -> None:
    screen, line = stage()
    kept = sys.stderr
    line.show(report(1))
    kept.write("a warning\n")
    line.show(report(2))
    assert screen.rows() == ["a warning", "2 of 9"]


def test_a_text_that_has_not_ended_its_line_is_not_written_over(stage: Stage) -> None:
    screen, line = stage()
    line.show(report(1))
    sys.stdout.write("your name? ")
    line.show(report(2))
    assert screen.rows() == ["your name?"]
    sys.stdout.write("Ada\n")
    line.show(report(3))
    assert screen.rows() == ["your name? Ada", "3 of 9"]


def test_streams_are_as_before_when_nothing_is_shown(stage: Stage) -> None:
    _, line = stage()
    line.show(report(1))
    assert "write" in vars(sys.stdout)
    line.clear()
    assert "write" not in vars(sys.stdout)
    assert "write" not in vars(sys.stderr)


def test_one_stream_under_two_names_is_enough(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    screen, line = stage()
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    line.show(report(1))
    sys.stdout.write("above\n")
    line.show(report(2))
    line.clear()
    assert screen.rows() == ["above"]
    assert "write" not in vars(sys.stderr)


def test_what_goes_to_a_file_does_not_move_the_line(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    screen, line = stage()
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    line.show(report(1))
    sys.stdout.write("into the file\n")
    assert screen.rows() == ["1 of 9"]
    assert file.getvalue() == "into the file\n"


def test_a_terminal_that_went_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    screen, line = stage()

    def hang_up(_: str) -> None:
        raise OSError(5, "Input/output error")

    line.show(report(1))
    monkeypatch.setattr(screen, "feed", hang_up)
    line.show(report(2))
    line.clear()


def test_many_threads_print_whole_lines_above_it(stage: Stage) -> None:
    screen, line = stage()

    def talk(name: str) -> None:
        for number in range(50):
            sys.stdout.write(f"{name} {number}\n")
            line.show(report(number))

    threads = [threading.Thread(target=talk, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    line.clear()
    assert sorted(screen.rows()) == sorted(f"{name} {n}" for name in "abc" for n in range(50))


def test_a_forked_child_prints_without_it(stage: Stage) -> None:
    _, line = stage()
    line.show(report(1))
    line._pid = os.getpid() + 1
    with line._lock:
        # Held by a thread that does not exist in the child.
        thread = threading.Thread(target=sys.stdout.write, args=("child",))
        thread.start()
        thread.join(60)
        assert not thread.is_alive()


# -- drawing ---------------------------------------------------------------------------------


def test_a_line_has_a_bar_where_there_is_room(stage: Stage) -> None:
    screen, _ = stage()
    screen.feed(Drawing(sys.stderr)(REPORT))
    assert screen.rows() == [
        "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 16
        + " 10/40 done, 4 running, 26 queued, 2 failed, 0.5/s, ETA 1:00"
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 79])
def test_a_line_never_fills_the_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int, stage: Stage
) -> None:
    screen, _ = stage()
    monkeypatch.setenv("COLUMNS", str(width))
    screen.feed(Drawing(sys.stderr)(REPORT))
    (row,) = screen.rows()
    assert row.lstrip("\N{BOX DRAWINGS HEAVY HORIZONTAL} ").startswith("10/40 done")
    assert len(row) <= width - 3


# -- where ------------------------------------------------------------------------------------


def test_on_a_terminal_there_is_a_line(stage: Stage) -> None:
    stage()
    assert isinstance(open_display(), Line)
    assert somebody_looks_on()


def test_in_a_pipe_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert open_display() is None
    assert not somebody_looks_on()


@pytest.mark.parametrize("stream", [None, "closed"])
def test_where_standard_error_is_no_more_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", stream and closed)
    assert open_display() is None


def test_a_terminal_without_control_codes_gets_no_line(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    stage()
    monkeypatch.setenv("TERM", "dumb")
    assert open_display() is None


def test_progress_can_be_turned_off(stage: Stage) -> None:
    stage()
    configuration.use(Configuration(progress=False))
    try:
        assert open_display() is None
    finally:
        configuration.use(None)


# -- in a notebook ----------------------------------------------------------------------------


class Handle:
    def __init__(self, shown: list[dict[str, str]], bundle: dict[str, str]) -> None:
        self._shown = shown
        self._position = len(shown)
        shown.append(bundle)

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self._shown[self._position] = bundle


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook shows under a cell."""
    shown: list[dict[str, str]] = []

    def display(bundle: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        return Handle(shown, bundle)

    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


def test_a_notebook_shows_reports_in_one_place(cell: list[dict[str, str]]) -> None:
    display = open_display()
    assert isinstance(display, Cell)
    display.show(report(1))
    display.show(report(2))
    (shown,) = cell
    assert "<progress value='2' max='9'>" in shown["text/html"]
    assert shown["text/plain"] == "2/9 done, 7 queued, 0:01"


def test_a_notebook_keeps_nothing_of_them(cell: list[dict[str, str]]) -> None:
    display = open_display()
    assert display is not None
    display.show(report(1))
    display.clear()
    assert cell == [{"text/html": "", "text/plain": ""}]


def test_ipython_on_a_terminal_is_no_notebook(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    stage()
    shell = SimpleNamespace(get_ipython=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert isinstance(open_display(), Line)
