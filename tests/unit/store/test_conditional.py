from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from cloudray.store import (
    Buffer,
    Create,
    Get,
    Kind,
    Pause,
    StoreError,
    TransientStoreError,
    conditional,
    seal,
)
from cloudray.store.procedures import run

OURS = seal(Kind.PROBE, b"ours")
THEIRS = seal(Kind.PROBE, b"theirs")
CREATE = Create("key", OURS)
READ = Get("key")
LOST = TransientStoreError("connection lost")
REFUSED = StoreError("403")


def play(
    *answers: Any, create: Create = CREATE, give_up_s: float | None = None, clock_s: float = 1.0
) -> tuple[Any, list[Any]]:
    """Answer the loop; return its outcome (an error too) and what it asked.

    The clock advances by `clock_s` each time it is read.
    """
    script = list(answers)
    asked: list[Any] = []
    ticks = count(0.0, clock_s)

    def perform(op: Any) -> Any:
        asked.append(op)
        if isinstance(op, Pause):
            return None
        answer = script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    procedure = conditional.create(create, give_up_s=give_up_s, clock=lambda: next(ticks))
    outcome: Any
    try:
        outcome = run(perform, procedure)
    except (StoreError, ValueError) as error:
        outcome = error
    assert not script, "the loop ended before its script did"
    return outcome, asked


def test_a_yes_is_ours_without_reading() -> None:
    assert play(True) == (None, [CREATE])


def test_a_no_is_read_back_even_the_first() -> None:
    outcome, asked = play(False, THEIRS)
    assert outcome == THEIRS
    assert asked == [CREATE, READ]


def test_a_no_by_our_own_earlier_write_is_ours() -> None:
    assert play(False, OURS) == (None, [CREATE, READ])


def test_a_no_while_nobody_holds_the_key_is_tried_again_with_the_same_body() -> None:
    assert play(False, None, True) == (None, [CREATE, READ, Pause(0), CREATE])


@pytest.mark.parametrize(
    ("holder", "outcome"), [(OURS, None), (THEIRS, THEIRS)], ids=["ours", "theirs"]
)
def test_an_error_is_decided_by_reading(holder: bytes, outcome: bytes | None) -> None:
    assert play(LOST, holder) == (outcome, [CREATE, READ])


def test_an_error_that_wrote_nothing_is_tried_again_with_the_same_body() -> None:
    assert play(LOST, None, True) == (None, [CREATE, READ, Pause(0), CREATE])


def test_a_write_that_arrives_late_is_ours() -> None:
    assert play(LOST, None, False, OURS)[0] is None


def test_an_error_while_reading_back_is_tried_again() -> None:
    outcome, asked = play(LOST, LOST, False, LOST, False, THEIRS)
    assert outcome == THEIRS
    assert asked == [CREATE, READ, Pause(0), CREATE, READ, Pause(1), CREATE, READ]


def test_it_goes_on_as_long_as_its_driver_does() -> None:
    outcome, asked = play(*[LOST, None] * 200, True)
    assert outcome is None
    assert [op.attempt for op in asked if isinstance(op, Pause)] == list(range(200))


@pytest.mark.parametrize(
    ("first", "why"), [(LOST, "connection lost"), (False, "nobody holds the key")]
)
def test_it_gives_up_only_when_told_to(first: Any, why: str) -> None:
    outcome, asked = play(*[first, None] * 3, give_up_s=3.0)
    assert isinstance(outcome, TransientStoreError)
    assert str(outcome).startswith("after 3 s it is still unknown whether key was written")
    assert why in str(outcome)
    assert asked == [CREATE, READ, Pause(0), CREATE, READ, Pause(1), CREATE, READ]


def test_a_refusal_of_the_first_attempt_is_final() -> None:
    assert play(REFUSED) == (REFUSED, [CREATE])


def test_a_refusal_after_an_undecided_attempt_decides_nothing() -> None:
    assert play(LOST, None, REFUSED, OURS)[0] is None
    assert play(LOST, REFUSED, REFUSED, REFUSED, REFUSED, THEIRS)[0] == THEIRS
    assert play(False, REFUSED, False, THEIRS)[0] == THEIRS


def test_a_store_that_keeps_refusing_ends_it() -> None:
    patience = conditional.PATIENCE
    outcome, asked = play(LOST, *[REFUSED] * (2 * patience - 1))
    assert type(outcome) is StoreError
    assert str(outcome) == "cannot learn whether key was written: 403"
    assert asked.count(CREATE) == patience


def test_refusals_must_follow_one_another_to_end_it() -> None:
    almost = [REFUSED, REFUSED] * (conditional.PATIENCE - 1)
    assert play(LOST, None, *almost, LOST, None, *almost, False, OURS)[0] is None


def test_a_body_in_several_buffers_is_known_by_its_nonce() -> None:
    parts: list[Buffer] = [OURS[:3], bytearray(OURS[3:20]), memoryview(OURS)[20:]]
    assert play(False, OURS, create=Create("key", parts))[0] is None
    assert play(False, THEIRS, create=Create("key", parts))[0] == THEIRS


def test_a_holder_too_short_for_a_nonce_is_not_ours() -> None:
    assert play(False, OURS[:20])[0] == OURS[:20]
    assert play(False, b"")[0] == b""


def test_a_body_without_a_nonce_is_an_error_and_not_a_loss() -> None:
    outcome, _ = play(False, b"", create=Create("key", b"short"))
    assert isinstance(outcome, ValueError)
    assert "record's header" in str(outcome)


@pytest.mark.parametrize("answer", [True, False])
def test_who_holds_the_key_is_asked_of_is_ours_alone(
    monkeypatch: pytest.MonkeyPatch, *, answer: bool
) -> None:
    monkeypatch.setattr(conditional, "is_ours", lambda body, holder: answer)  # noqa: ARG005
    assert play(False, OURS)[0] == (None if answer else OURS)
