from __future__ import annotations

from cloudray.protocol.listing import Listing
from cloudray.store import Entry
from cloudray.store.layout import claim_of
from tests.unit.agent.bench import batch_of, name_of

NAMES = sorted((name_of(batch_of(1, number=number)) for number in range(3)), key=lambda n: n.stem)
FIRST, SECOND, THIRD = NAMES


def page(*keys: str) -> list[Entry]:
    return [Entry(key, 1, "") for key in keys]


def test_batches_and_claims_are_seen_side_by_side() -> None:
    listing = Listing()
    keys = claim_of(FIRST.stem, 0), claim_of(FIRST.stem, 1), claim_of(SECOND.stem, 0)
    assert listing.take(page(*keys), 1000) == [SECOND]
    assert listing.names() == [(FIRST, 1), (SECOND, 0)]
    assert listing.complete


def test_the_highest_claim_counts_wherever_it_is_listed() -> None:
    listing = Listing()
    keys = [claim_of(FIRST.stem, number) for number in (0, 1, 10, 2)]
    listing.take(page(*keys), 1000)
    assert listing.names() == [(FIRST, 10)]


def test_claims_whose_entry_has_gone_are_no_batches() -> None:
    listing = Listing()
    assert listing.take(page(claim_of(FIRST.stem, 2)), 1000) == []
    assert (listing.names(), listing.last_claims) == ([], {FIRST.stem: 2})


def test_the_last_batch_of_a_full_page_may_be_claimed_on_the_next() -> None:
    listing = Listing()
    keys = claim_of(FIRST.stem, 0), claim_of(SECOND.stem, 0)
    assert listing.take(page(*keys), 2) == [FIRST]
    assert listing.names() == [(FIRST, 0)]
    assert listing.after == keys[-1]
    listing.take(page(claim_of(SECOND.stem, 1), claim_of(THIRD.stem, 0)), 3)
    assert listing.names() == [(FIRST, 0), (SECOND, 1), (THIRD, 0)]


def test_what_is_none_of_ours_is_passed_over() -> None:
    listing = Listing()
    assert listing.take(page("queue/notes.txt", "queue/a/b/c.0"), 1000) == []
    assert listing.names() == []
