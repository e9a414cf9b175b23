from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from cloudray.driver.printing import FOLD_S, Printer
from cloudray.protocol.messages import Line


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def printer(clock: Clock) -> Printer:
    return Printer(clock)


Shown = Callable[[], list[str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """The lines on standard output since the last time."""

    def shown() -> list[str]:
        return capsys.readouterr().out.splitlines()

    return shown


def line(text: str, pid: int = 1, *, is_error: bool = False) -> Line:
    return Line("f", pid, text, is_error)


def test_a_line_says_who_printed_it(printer: Printer, shown: Shown) -> None:
    printer.take((line("hello", 42),))
    assert shown() == ["(f pid=42) hello"]


def test_errors_go_to_standard_error(printer: Printer, capsys: pytest.CaptureFixture[str]) -> None:
    printer.take((line("out"), line("err", is_error=True)))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("(f pid=1) out\n", "(f pid=1) err\n")


def test_on_a_terminal_the_prefix_is_coloured(
    printer: Printer, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    printer.take((line("hello"),))
    assert terminal.getvalue() == "\x1b[36m(f pid=1)\x1b[0m hello\n"


# -- folding -------------------------------------------------------------------------------


def test_what_several_processes_print_is_printed_once(printer: Printer, shown: Shown) -> None:
    printer.take(tuple(line("loading", pid) for pid in (1, 2, 3)))
    assert shown() == ["(f pid=1) loading"]


def test_how_often_it_came_is_told_when_the_time_is_over(
    printer: Printer, shown: Shown, clock: Clock
) -> None:
    printer.take(tuple(line("loading", pid) for pid in (1, 2, 3)))
    clock.now_s += FOLD_S + 0.1
    printer.take(())
    assert shown() == ["(f pid=1) loading", "(f pid=3) loading [repeated 2x across cluster]"]


def test_nothing_is_told_before_the_time_is_over(
    printer: Printer, shown: Shown, clock: Clock
) -> None:
    printer.take(tuple(line("loading", pid) for pid in (1, 2, 3)))
    clock.now_s += FOLD_S - 0.1
    printer.take(())
    assert len(shown()) == 1


def test_a_single_repeat_is_printed_as_it_is(printer: Printer, shown: Shown, clock: Clock) -> None:
    printer.take((line("loading", 1), line("loading", 2)))
    clock.now_s += FOLD_S + 0.1
    printer.take(())
    assert shown() == ["(f pid=1) loading", "(f pid=2) loading"]


def test_what_one_process_repeats_is_never_folded(printer: Printer, shown: Shown) -> None:
    printer.take((line("again"), line("again"), line("again")))
    assert shown() == ["(f pid=1) again"] * 3


def test_words_with_numbers_make_no_difference(printer: Printer, shown: Shown) -> None:
    printer.take((line("step 1 of 0x3f", 1), line("step 27 of 0xff", 2)))
    assert shown() == ["(f pid=1) step 1 of 0x3f"]


def test_lines_of_numbers_alone_are_never_folded(printer: Printer, shown: Shown) -> None:
    printer.take((line("1 2", 1), line("3 4", 2), line("", 3), line("", 4)))
    assert len(shown()) == 4


def test_other_words_are_another_line(printer: Printer, shown: Shown) -> None:
    printer.take((line("loading", 1), line("saving", 2)))
    assert len(shown()) == 2


def test_output_and_errors_are_folded_apart(
    printer: Printer, capsys: pytest.CaptureFixture[str]
) -> None:
    printer.take((line("same", 1), line("same", 2, is_error=True)))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("(f pid=1) same\n", "(f pid=2) same\n")


def test_a_line_that_keeps_coming_stays_folded(
    printer: Printer, shown: Shown, clock: Clock
) -> None:
    for _ in range(3):
        printer.take(tuple(line("loading", pid) for pid in (1, 2, 3)))
        clock.now_s += FOLD_S + 0.1
    printer.take(())
    assert shown() == [
        "(f pid=1) loading",
        "(f pid=3) loading [repeated 2x across cluster]",
        "(f pid=3) loading [repeated 3x across cluster]",
        "(f pid=3) loading [repeated 3x across cluster]",
    ]


def test_a_line_that_stopped_coming_is_new_when_it_comes_again(
    printer: Printer, shown: Shown, clock: Clock
) -> None:
    printer.take((line("loading", 1),))
    clock.now_s += FOLD_S + 0.1
    printer.take((line("loading", 2),))
    assert shown() == ["(f pid=1) loading", "(f pid=2) loading"]


def test_what_is_folded_is_told_at_the_end(printer: Printer, shown: Shown) -> None:
    printer.take(tuple(line("loading", pid) for pid in (1, 2, 3)))
    printer.flush()
    assert shown()[-1] == "(f pid=3) loading [repeated 2x across cluster]"


def test_folding_can_be_turned_off(
    clock: Clock, shown: Shown, configure: Callable[..., None]
) -> None:
    configure(dedup_logs=False)
    Printer(clock).take(tuple(line("loading", pid) for pid in (1, 2, 3)))
    assert len(shown()) == 3
