from __future__ import annotations

from collections.abc import Callable

import pytest

from cloudray.protocol import claims
from cloudray.protocol import journal as journals
from cloudray.protocol.claims import Early, Finished, Lost, Refused, Won
from cloudray.protocol.records import Batch, Claim, Entry, seal, unseal
from cloudray.protocol.sharing import part_of
from cloudray.store import Create, Delete, Get, Ledger, Store, drive
from cloudray.store.layout import claim_of
from cloudray.store.procedures import Procedure, Together
from tests.unit.protocol.builders import BATCH_ID, OTHER_ID, batch_of, done, name_of, started, write

BATCH = batch_of(2)
NAME = name_of(BATCH)


@pytest.fixture
def submitted(store: Store, ledger: Ledger) -> Store:
    drive(store, claims.submit(NAME, BATCH))
    assert ledger == Ledger(put=1)
    return store


def holder(store: Store, number: int) -> str | None:
    key = claim_of(NAME.stem, number)
    body = store.get(key)
    return None if body is None else unseal(Claim, body, key).agent


def test_submitting_puts_the_batch_into_the_queue(submitted: Store) -> None:
    key = claim_of(NAME.stem, 0)
    body = submitted.get(key)
    assert body is not None
    assert unseal(Batch, body, key) == BATCH


def test_the_first_to_claim_wins_the_batch(submitted: Store) -> None:
    outcome = drive(submitted, claims.claim(NAME, 1, "a"))
    assert isinstance(outcome, Won)
    assert (outcome.batch, outcome.claim) == (BATCH, 1)
    assert holder(submitted, 1) == "a"


def test_winning_a_fresh_batch_costs_three_requests(submitted: Store, ledger: Ledger) -> None:
    before = ledger.as_dict()
    drive(submitted, claims.claim(NAME, 1, "a"))
    assert ledger.subtract(before) == Ledger(put=1, get=2)


def test_the_second_to_claim_learns_who_holds_it(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    assert drive(submitted, claims.claim(NAME, 1, "b")) == Lost("a")


def test_a_later_claim_takes_the_batch_over_with_its_journal(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    write(submitted, BATCH_ID, Entry(1, (done(0), started(1))))
    outcome = drive(submitted, claims.claim(NAME, 2, "b"))
    assert isinstance(outcome, Won)
    assert outcome.journal.decided == {0: done(0)}
    assert outcome.journal.started == {1: [(1, 0)]}


def test_a_batch_that_is_complete_leaves_the_queue_with_its_next_claim(submitted: Store) -> None:
    write(submitted, BATCH_ID, Entry(1, (done(0), done(1))))
    assert isinstance(drive(submitted, claims.claim(NAME, 2, "b")), Finished)
    assert submitted.get(claim_of(NAME.stem, 0)) is None


def test_a_claim_on_an_old_hint_finds_that_the_batch_is_complete(store: Store) -> None:
    write(store, BATCH_ID, Entry(1, (done(0), done(1))))
    assert isinstance(drive(store, claims.claim(NAME, 1, "b")), Finished)


def test_a_claim_that_outran_the_put_is_given_back(store: Store) -> None:
    assert drive(store, claims.claim(NAME, 1, "a")) == Early()
    assert holder(store, 2) == ""


def test_a_claim_that_outran_the_put_runs_what_the_bell_brought(store: Store) -> None:
    outcome = drive(store, claims.claim(NAME, 1, "a", BATCH))
    assert isinstance(outcome, Won)
    assert outcome.batch == BATCH


def test_a_batch_that_was_given_away_does_not_run_before_it_is_there(store: Store) -> None:
    part = part_of(BATCH, [1], OTHER_ID)
    outcome = drive(store, claims.claim(name_of(part), 1, "a", part))
    assert outcome == Early()


def test_a_batch_of_a_task_without_retries_is_read_as_such(store: Store) -> None:
    once = batch_of(1, max_retries=0)
    drive(store, claims.submit(name_of(once), once))
    write(store, once.id, Entry(1, (started(0),)))
    outcome = drive(store, claims.claim(name_of(once), 2, "b"))
    assert isinstance(outcome, Won)
    assert outcome.journal.sift([started(0)]) == ()


def test_giving_back_names_nobody_in_the_next_claim(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    assert drive(submitted, claims.give_back(NAME, 1))
    assert holder(submitted, 2) == ""


def test_giving_back_too_late_changes_nothing(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    drive(submitted, claims.claim(NAME, 2, "b"))
    assert not drive(submitted, claims.give_back(NAME, 1))
    assert holder(submitted, 2) == "b"


def test_a_claim_is_the_last_until_there_is_a_later_one(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    assert drive(submitted, claims.still_last(NAME, 1, "a"))
    drive(submitted, claims.claim(NAME, 2, "b"))
    assert not drive(submitted, claims.still_last(NAME, 1, "a"))
    assert drive(submitted, claims.still_last(NAME, 2, "b"))


def test_a_claim_that_was_swept_holds_no_more(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    drive(submitted, claims.claim(NAME, 2, "b"))
    write(submitted, BATCH_ID, Entry(2, (done(0), done(1))))
    drive(submitted, claims.retire(NAME))
    drive(submitted, claims.sweep(NAME, 2))
    assert not drive(submitted, claims.still_last(NAME, 1, "a"))


def test_a_claim_whose_number_another_has_won_since_holds_no_more(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    submitted.perform(claims.forget(NAME, 1))
    drive(submitted, claims.claim(NAME, 1, "late"))
    assert not drive(submitted, claims.still_last(NAME, 1, "a"))


def test_a_batch_whose_journal_is_damaged_is_given_back(submitted: Store) -> None:
    submitted.put(journals.key(BATCH_ID, 0), b"x" * 100)
    assert isinstance(drive(submitted, claims.claim(NAME, 1, "a")), Refused)
    assert holder(submitted, 2) == ""


def test_retiring_leaves_the_claims(submitted: Store) -> None:
    drive(submitted, claims.claim(NAME, 1, "a"))
    drive(submitted, claims.retire(NAME))
    assert submitted.get(claim_of(NAME.stem, 0)) is None
    assert drive(submitted, claims.claim(NAME, 1, "b")) == Lost("a")


def test_forgetting_removes_every_claim_and_not_the_entry() -> None:
    assert claims.forget(NAME, 2) == Delete((claim_of(NAME.stem, 1), claim_of(NAME.stem, 2)))


def test_sweeping_removes_the_claims_of_a_complete_batch(store: Store) -> None:
    store.put(claim_of(NAME.stem, 1), seal(Claim("a")))
    write(store, BATCH_ID, Entry(1, (done(0), done(1))))
    assert drive(store, claims.sweep(NAME, 1))
    assert holder(store, 1) is None


def test_sweeping_spares_the_claims_of_a_batch_that_may_yet_arrive(store: Store) -> None:
    store.put(claim_of(NAME.stem, 1), seal(Claim("a")))
    write(store, BATCH_ID, Entry(1, (done(0),)))
    assert not drive(store, claims.sweep(NAME, 1))
    assert holder(store, 1) == "a"


def test_where_journals_are_freed_one_that_is_not_there_was_complete(store: Store) -> None:
    store.put(claim_of(NAME.stem, 1), seal(Claim("a")))
    assert drive(store, claims.sweep(NAME, 1, freed=True))
    assert holder(store, 1) is None


def test_but_one_that_is_there_and_not_complete_is_spared(store: Store) -> None:
    store.put(claim_of(NAME.stem, 1), seal(Claim("a")))
    write(store, BATCH_ID, Entry(1, (done(0),)))
    assert not drive(store, claims.sweep(NAME, 1, freed=True))


def test_of_many_claims_it_is_known_which_are_still_the_last(submitted: Store) -> None:
    for number in (1, 2):
        submitted.put(claim_of(NAME.stem, number), seal(Claim("a")))
    held = [(NAME, 1)] * 100 + [(NAME, 2)]
    assert drive(submitted, claims.which_are_last(held, "a")) == [False] * 100 + [True]


def test_a_journal_is_read_after_its_claim_is_won() -> None:
    procedure = claims.claim(NAME, 1, "a")
    assert next(procedure).key == claim_of(NAME.stem, 1)  # type: ignore[union-attr]
    assert procedure.send(None).key == claim_of(NAME.stem, 0)  # type: ignore[union-attr]
    last = procedure.send(seal(BATCH))
    assert last.key == journals.key(BATCH_ID, 0)  # type: ignore[union-attr]


# -- reading beside the claim ------------------------------------------------------------------


def punctual() -> bool:
    return True


def late() -> bool:
    return False


def asked_by(procedure: Procedure[object], *answers: object) -> list[object]:
    """What a procedure asks for, if it is answered so."""
    asked: list[object] = [next(procedure)]
    for answer in answers:
        try:
            asked.append(procedure.send(answer))
        except StopIteration as stop:
            asked.append(stop.value)
    return asked


def test_where_requests_take_long_a_first_claim_is_one_step(submitted: Store) -> None:
    body = submitted.get(claim_of(NAME.stem, 0))
    asked, outcome = asked_by(claims.claim(NAME, 1, "a", None, punctual), [None, body, None])
    assert isinstance(asked, Together)
    assert [type(op).__name__ for op in asked.ops] == ["Create", "Get", "Get"]
    assert isinstance(outcome, Won)
    assert outcome.batch == BATCH


def test_the_outcome_is_the_same_whichever_way_it_is_read(submitted: Store) -> None:
    outcome = drive(submitted, claims.claim(NAME, 1, "a", None, punctual))
    assert isinstance(outcome, Won)
    assert drive(submitted, claims.claim(NAME, 1, "b", None, punctual)) == Lost("a")


@pytest.mark.parametrize("prompt", [punctual, late])
def test_a_journal_that_was_begun_is_read_to_its_end(
    submitted: Store, prompt: Callable[[], bool]
) -> None:
    write(submitted, BATCH_ID, Entry(0, (done(0),)), Entry(0, (done(1),)))
    assert isinstance(drive(submitted, claims.claim(NAME, 1, "a", None, prompt)), Finished)


def test_what_was_read_too_long_ago_is_read_again(submitted: Store) -> None:
    body = submitted.get(claim_of(NAME.stem, 0))
    _, entry, journal = asked_by(claims.claim(NAME, 1, "a", None, late), [None, body, None], body)
    assert entry == Get(claim_of(NAME.stem, 0))
    assert journal == Get(journals.key(BATCH_ID, 0))


def test_before_what_must_not_run_twice_the_journal_is_read_again() -> None:
    once = batch_of(1, max_retries=0)
    procedure = claims.claim(name_of(once), 1, "a", None, punctual)
    _, again = asked_by(procedure, [None, seal(once), None])
    assert again == Get(journals.key(once.id, 0))


def test_a_later_claim_reads_what_was_said_until_it_was_won() -> None:
    asked, *_ = asked_by(claims.claim(NAME, 2, "b", None, punctual))
    assert isinstance(asked, Create)


def test_a_batch_that_a_message_brought_runs_without_its_entry(store: Store) -> None:
    outcome = drive(store, claims.claim(NAME, 1, "a", BATCH, punctual))
    assert isinstance(outcome, Won)
    assert outcome.batch == BATCH


def test_an_entry_that_is_not_there_yet_is_looked_for_again(store: Store) -> None:
    body = seal(BATCH)
    _, entry, *_ = asked_by(claims.claim(NAME, 1, "a", None, punctual), [None, None, None], body)
    assert entry == Get(claim_of(NAME.stem, 0))
    assert drive(store, claims.claim(NAME, 1, "a", None, punctual)) == Early()
