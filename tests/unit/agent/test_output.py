from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator

import pytest

from cloudray.agent.output import Output, kept_lines
from cloudray.executor.output import mark_of
from cloudray.protocol.messages import Line

F = mark_of(7, "f")
G = mark_of(8, "g")


class Pipe:
    """A pipe with an `Output` at its end."""

    def __init__(self, *, is_error: bool = False) -> None:
        self.lines: list[Line] = []
        self.kept = kept_lines()
        read, self.write_end = os.pipe()
        self.output = Output(read, is_error=is_error, kept=self.kept, on_lines=self.lines.extend)
        self.output.pid = 42

    def write(self, *pieces: bytes) -> None:
        """Write pieces, each of which is read before the next."""
        for piece in pieces:
            os.write(self.write_end, piece)
            self.output.drain()

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    @property
    def said(self) -> list[tuple[str, str]]:
        """Who said what."""
        return [(line.name, line.text) for line in self.lines]

    def hang_up(self) -> None:
        """End the process at the other end."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1


Make = Callable[..., Pipe]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Pipe] = []

    def make(*, is_error: bool = False) -> Pipe:
        made.append(Pipe(is_error=is_error))
        return made[-1]

    yield make
    for pipe in made:
        pipe.hang_up()
        if pipe.output._descriptor >= 0:
            os.close(pipe.output._descriptor)


async def test_output_is_cut_into_lines(make: Make) -> None:
    pipe = make()
    pipe.write(b"one\ntwo\n\nthree\n")
    assert pipe.texts == ["one", "two", "", "three"]


@pytest.mark.parametrize("is_error", [False, True])
async def test_a_line_says_which_process_printed_it_and_where(make: Make, is_error: bool) -> None:
    pipe = make(is_error=is_error)
    pipe.write(F + b"text\n")
    assert pipe.lines == [Line("f", 42, "text", is_error)]


async def test_a_line_that_comes_in_pieces_is_one_line(make: Make) -> None:
    pipe = make()
    pipe.write(b"o", b"n", b"e\ntw", b"o\n")
    assert pipe.texts == ["one", "two"]


async def test_windows_line_ends_are_line_ends(make: Make) -> None:
    pipe = make()
    pipe.write(b"one\r\ntwo\r\n")
    assert pipe.texts == ["one", "two"]


async def test_marks_say_whose_the_lines_are(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"one\ntwo\n" + G + b"three\n")
    assert pipe.said == [("f", "one"), ("f", "two"), ("g", "three")]


async def test_a_mark_ends_the_line_that_the_task_before_left_open(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"no end" + G + b"next\n")
    assert pipe.said == [("f", "no end"), ("g", "next")]


async def test_a_mark_after_a_whole_line_adds_none(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"one\n" + G + F + b"two\n")
    assert pipe.said == [("f", "one"), ("f", "two")]


STREAM = F + b"one\ntwo" + G + b"three\n" + mark_of(9, "a name with ä") + b"four\n"
SAID = [("f", "one"), ("f", "two"), ("g", "three"), ("a name with ä", "four")]


@pytest.mark.parametrize("at", range(1, len(STREAM)))
async def test_marks_may_be_cut_anywhere(make: Make, at: int) -> None:
    pipe = make()
    pipe.write(STREAM[:at], STREAM[at:])
    assert pipe.said == SAID


async def test_marks_may_come_byte_by_byte(make: Make) -> None:
    pipe = make()
    pipe.write(*(bytes((byte,)) for byte in STREAM))
    assert pipe.said == SAID


async def test_a_line_is_passed_on_although_a_mark_behind_it_is_cut(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"one\ntwo" + G[:3])
    assert pipe.said == [("f", "one")]


@pytest.mark.parametrize("line", [b"\x00", b"a\x00b", b"\x00\x01", b"\x00\x01x"])
async def test_bytes_that_look_like_a_mark_are_text(make: Make, line: bytes) -> None:
    pipe = make()
    pipe.write(F + line + b"\nnext\n")
    assert pipe.said == [("f", line.decode()), ("f", "next")]


async def test_a_line_with_zeros_is_passed_on_at_once(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"a\x00b\n")
    assert pipe.texts == ["a\x00b"]


async def test_bytes_that_are_no_text_are_shown_as_escapes(make: Make) -> None:
    pipe = make()
    pipe.write(b"\xff\xfe\n")
    assert pipe.texts == ["\\xff\\xfe"]


async def test_a_long_line_is_passed_on_in_pieces(make: Make) -> None:
    pipe = make()
    text = b"x" * 200_000
    for start in range(0, len(text), 16_384):
        pipe.write(text[start : start + 16_384])
    pipe.write(b"\n")
    assert "".join(pipe.texts).encode() == text
    assert len(pipe.lines) > 1
    assert max(len(line) for line in pipe.texts) <= 1 << 17


async def test_what_is_left_when_the_process_ends_is_a_line(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"one\nno end")
    assert pipe.texts == ["one"]
    pipe.hang_up()
    pipe.output.drain()
    assert pipe.said == [("f", "one"), ("f", "no end")]


async def test_half_a_mark_at_the_end_is_not_lost(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"one\n" + G[:4])
    pipe.hang_up()
    pipe.output.drain()
    assert pipe.texts == ["one", G[:4].decode()]


async def test_it_can_be_closed_twice(make: Make) -> None:
    pipe = make()
    pipe.write(b"no end")
    pipe.output.close()
    pipe.output.close()
    pipe.output.drain()
    assert pipe.texts == ["no end"]


async def test_a_lot_of_output_is_read_in_one_go(make: Make) -> None:
    pipe = make()
    os.write(pipe.write_end, b"line\n" * 13_000)
    pipe.output.drain()
    assert len(pipe.lines) == 13_000


async def test_who_prints_without_end_leaves_others_their_turn(make: Make) -> None:
    """The loop's reader takes a part; what is left is still there at the next turn."""
    pipe, other = make(), make()
    fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(pipe.write_end, b"line\n" * 200_000)
    os.write(other.write_end, b"other\n")
    turns = 0
    while len(pipe.lines) < 200_000:
        before = len(pipe.lines)
        await asyncio.sleep(0)
        turns += len(pipe.lines) > before
        assert not pipe.lines or other.texts == ["other"]
    assert turns > 3


async def test_the_last_lines_are_kept_with_their_tickets(make: Make) -> None:
    pipe = make()
    pipe.write(F + b"".join(b"%d\n" % number for number in range(30)) + G + b"last\n")
    assert list(pipe.kept)[-2:] == [(7, "29"), (8, "last")]
    assert len(pipe.kept) == 20
