from __future__ import annotations

import pytest

from cloudray.agent.held import NOBODY, Death, Held, Status
from cloudray.protocol.records import Duration, Entry, Verb, Word
from tests.unit.agent.bench import batch_of, held_of, shape_of
from tests.unit.protocol.builders import done, failed, started


@pytest.fixture
def held() -> Held:
    return held_of(batch_of(3))


def test_at_first_nothing_is_said_of_any_task(held: Held) -> None:
    assert held.status == [Status.WAITING] * 3
    assert held.unsaid == 3
    assert held.untouched


def test_a_task_has_one_final_word(held: Held) -> None:
    held.say(done(1))
    held.say(failed(1))
    assert held.outbox == [done(1)]
    assert held.unsaid == 2


def test_what_is_said_runs_no_longer(held: Held) -> None:
    held.running[1] = 5.0
    held.say(done(1))
    assert held.running == {}


def test_what_the_journal_decided_needs_no_word_of_ours(held: Held) -> None:
    held.running[1] = 5.0
    held.note([1, 1])
    held.say(done(1))
    assert (held.unsaid, held.running, held.outbox) == (2, {}, [])


def test_a_task_that_has_its_final_word_lacks_nothing(held: Held) -> None:
    held.missing = {0: 2, 1: 1, 2: 1}
    held.say(failed(0))
    held.note([1])
    assert held.missing == {2: 1}


# -- what is published ---------------------------------------------------------------------


def test_the_outbox_is_taken_once(held: Held) -> None:
    held.say(done(0))
    held.say(done(2))
    assert held.take_outbox(0.0, 1.0) == [done(0), done(2)]
    assert held.take_outbox(0.0, 1.0) == []


def test_a_task_that_runs_long_is_said_to_have_started(held: Held) -> None:
    held.running = {0: 10.0, 1: 10.5}
    held.attempts[0] = 2
    assert held.take_outbox(11.0, 1.0) == [started(0, attempt=2)]


def test_a_start_that_stands_in_the_journal_is_not_said_again(held: Held) -> None:
    held.running = {0: 10.0}
    held.journal.apply(Entry(1, (started(0),)))
    assert held.take_outbox(11.0, 1.0) == []


@pytest.mark.parametrize("earlier", [Entry(2, (started(0),)), Entry(1, (started(0, attempt=1),))])
def test_the_start_of_another_attempt_does_not_count(held: Held, earlier: Entry) -> None:
    held.running = {0: 10.0}
    held.journal.apply(earlier)
    assert held.take_outbox(11.0, 1.0) == [started(0)]


def test_measurements_are_added_up_by_function_and_taken_once(held: Held) -> None:
    held.measure("f", 1, 300)
    held.measure("g", 1, 50)
    held.measure("f", 2, 500)
    assert held.take_durations() == (Duration("f", 3, 800), Duration("g", 1, 50))
    assert held.take_durations() == ()


def test_final_words_that_could_not_be_published_are_the_first_next_time(held: Held) -> None:
    held.say(done(2))
    held.take_back([done(0), started(1)])
    assert held.outbox == [done(0), done(2)]


# -- what a task is ------------------------------------------------------------------------


def test_arguments_travel_in_the_batch_or_lie_in_a_file(held: Held) -> None:
    held.argument_files[1] = b"F/spool/arguments"
    assert held.arguments_of(0) == b"0"
    assert held.arguments_of(1) == b"F/spool/arguments"


def test_a_task_has_its_function(held: Held) -> None:
    assert held.known_of(2).shape == shape_of()


@pytest.mark.parametrize(("claim", "careful"), [(1, False), (2, True)])
def test_after_a_takeover_every_start_is_announced(claim: int, careful: bool) -> None:
    assert held_of(batch_of(1), claim=claim).careful(0) is careful


def test_after_a_death_the_next_start_is_announced(held: Held) -> None:
    held.deaths[1] = 1
    held.last_death[1] = Death(7, -9, ())
    assert (held.careful(0), held.careful(1)) == (False, True)


def test_a_task_that_may_run_once_is_announced() -> None:
    assert held_of(batch_of(1, shape_of(max_retries=0))).careful(0)


def test_a_task_with_a_history_is_not_fresh(held: Held) -> None:
    held.deaths[1] = 1
    held.journal.apply(Entry(1, (started(2),)))
    assert [held.is_fresh(index) for index in range(3)] == [True, False, False]


def test_a_task_that_leaves_does_not_wait_for_a_slot_here(held: Held) -> None:
    held.status[1] = Status.READY
    held.ready_since_s[1] = 5.0
    held.hold_back(1)
    assert held.status[1] is Status.WAITING
    assert held.ready_since_s == {}


# -- giving back ---------------------------------------------------------------------------


def test_a_batch_in_which_something_runs_is_not_untouched(held: Held) -> None:
    held.running[0] = 5.0
    assert not held.untouched


def test_a_batch_of_which_something_was_said_is_not_untouched(held: Held) -> None:
    held.say(Word(0, Verb.FAILED, (b"error",), NOBODY))
    assert not held.untouched


def test_a_batch_with_a_journal_is_not_untouched(held: Held) -> None:
    held.journal.apply(Entry(1, (started(0),)))
    assert not held.untouched
