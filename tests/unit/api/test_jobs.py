"""What people give to `ref` and `get_job`, and what jobs are said to be."""

from __future__ import annotations

from typing import Any

import pytest

import cloudray as ray
from cloudray import ids
from cloudray.api.jobs import find, status_of
from cloudray.protocol.endings import end
from cloudray.protocol.jobs import Listed
from cloudray.protocol.progress import Counts
from cloudray.protocol.records import Ending, Job, seal
from cloudray.store import MemoryStore, Reliable, drive, layout

FIRST, SECOND = b"aaaaaaaaaa", b"bbbbbbbbbb"


def store_job(store: MemoryStore, job: bytes, name: str) -> None:
    root = ids.batch_prefix(7, job, bytes(10))
    store.put(layout.meta(root), seal(Job(job, "3.11.7", "host", 1, 0.0, (), "/", name=name)))


def test_the_text_of_a_ref_may_have_space_around_it() -> None:
    text = "07" + "0a" * 28
    assert ray.ref(f" {text}\n").id == bytes.fromhex(text)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("no ref", ValueError, "58 hexadecimal digits.*'no ref'"),
        ("07", ValueError, "29 bytes long, but this is 1"),
        (b"07", TypeError, "takes the text that ObjectRef.hex.. returned, not b'07'"),
        (None, TypeError, "takes the text .* not None"),
    ],
)
def test_what_is_no_ref_is_refused_in_a_sentence(
    text: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        _ = ray.ref(text)


def test_what_names_no_job_is_refused_before_anything_is_started() -> None:
    nothing: Any = 5
    with pytest.raises(TypeError, match="takes the id or name of a job, not 5"):
        ray.get_job(nothing)
    assert not ray.is_initialized()


@pytest.mark.parametrize("spell", [bytes.hex, ids.to_text])
def test_a_job_is_found_however_its_id_is_spelled(spell: Any) -> None:
    store = MemoryStore()
    store_job(store, FIRST, "nightly")
    assert find(store, spell(FIRST)).id == FIRST


def test_a_job_may_be_called_like_an_id() -> None:
    store = MemoryStore()
    store_job(store, FIRST, "ab" * 10)
    assert find(store, "ab" * 10).id == FIRST


def test_jobs_without_a_name_are_not_found_by_none() -> None:
    store = MemoryStore()
    store_job(store, FIRST, "")
    with pytest.raises(ValueError, match="no job ''"):
        find(store, "")


def test_of_those_with_a_name_the_one_that_lasts_is_meant() -> None:
    store = MemoryStore()
    store_job(store, FIRST, "nightly")
    store_job(store, SECOND, "nightly")
    drive(Reliable(store), end(Listed(7, FIRST), Ending(1.0, "it was deleted", "nightly")))
    assert find(store, "nightly").id == SECOND


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        (Counts(), "SUCCEEDED"),
        (Counts(pending=2), "PENDING"),
        (Counts(running=1), "RUNNING"),
        (Counts(done=1, pending=1), "RUNNING"),
        (Counts(done=2), "SUCCEEDED"),
        (Counts(done=2, failed=1, cancelled=1), "FAILED"),
        (Counts(done=2, cancelled=1), "STOPPED"),
    ],
)
def test_a_status_says_how_far_a_job_is(counts: Counts, status: str) -> None:
    assert status_of(counts, ended=False) == status
    assert status_of(counts, ended=True) == "DELETED"
