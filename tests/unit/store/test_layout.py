from __future__ import annotations

import re
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray import ids
from cloudray.store import layout
from cloudray.store.layout import QueueName

TEN = st.binary(min_size=10, max_size=10)
NUMBERS = st.integers(0, 2**32 - 1)
BATCHES = st.builds(
    ids.batch_id, st.builds(ids.batch_prefix, st.integers(1, 30), TEN, TEN), NUMBERS
)
CLASSES = st.sampled_from(["py311-cpu1-m0", "py312-cpu4-m16-gpu1", "py313-cpu0-m0-x0123abcd"])
NAMES = st.builds(
    QueueName,
    klass=CLASSES,
    priority=st.integers(0, 9),
    batch=BATCHES,
    size=st.integers(1, 1000),
    estimated_ms=st.integers(0, 10**9),
)
BATCH = ids.batch_id(ids.batch_prefix(7, b"job.......", b"submitter."), 258)
NAME = QueueName("py311-cpu1-m0", 5, BATCH, 3, 120)
#: every kind of key, of one batch, job and agent
KEYS = [
    layout.CLUSTER,
    layout.claim_of(NAME.stem, 0),
    layout.claim_of(NAME.stem, 12),
    layout.meta(BATCH),
    layout.blob(BATCH, "0" * 64),
    layout.journal(BATCH) + "0",
    layout.put_object(ids.object_id(BATCH, ids.PUT_INDEX)),
    layout.result_object(ids.object_id(BATCH, 1, 2), "ab12"),
    layout.log(7, ids.job_of(BATCH), "agent", 3),
    layout.agent("agent"),
]

# -- the queue -----------------------------------------------------------------------------


@given(NAMES, st.integers(0, 99_999))
def test_a_queue_key_says_all_that_its_name_does(name: QueueName, number: int) -> None:
    parsed = layout.parse_queue(layout.claim_of(name.stem, number))
    assert parsed == (name.stem, number)
    assert layout.parse_stem(name.stem) == name


@given(st.text())
def test_a_key_that_is_not_ours_has_no_claim_number_or_no_name(key: str) -> None:
    parsed = layout.parse_queue(key)
    assert parsed is None or layout.parse_stem(parsed[0]) is None


@pytest.mark.parametrize(
    "key", ["queue/py311-cpu1-m0/5/x", "queue/py311-cpu1-m0/5/x.", "queue/x.y", "queue/x.-1"]
)
def test_a_key_without_a_claim_number_is_not_one_of_the_queue(key: str) -> None:
    assert layout.parse_queue(key) is None


@pytest.mark.parametrize(
    "stem",
    [
        "queue/py311-cpu1-m0/5",
        "queue/py311-cpu1-m0/5/x",
        NAME.stem + "-9",
        NAME.stem.replace("/5/", "/five/"),
        NAME.stem.replace("-7-", "-700-"),
        NAME.stem.replace("00000102", "100000000"),
        NAME.stem.replace("queue/", "queue/z/"),
    ],
)
def test_a_stem_that_names_no_batch_is_none(stem: str) -> None:
    assert layout.parse_stem(stem) is None


@given(NAMES, st.integers(0, 9), st.integers(0, 9))
def test_a_class_is_scanned_by_priority_first(name: QueueName, one: int, other: int) -> None:
    stems = [
        QueueName(name.klass, priority, name.batch, name.size, name.estimated_ms).stem
        for priority in sorted({one, other})
    ]
    assert stems == sorted(stems)


@given(TEN, TEN, TEN, NUMBERS)
def test_a_priority_is_scanned_by_the_age_of_the_job(
    one: bytes, other: bytes, submitter: bytes, number: int
) -> None:
    stems = [
        QueueName(
            "py311-cpu1-m0", 5, ids.batch_id(ids.batch_prefix(7, job, submitter), number), 1, 0
        ).stem
        for job in sorted({one, other})
    ]
    assert stems == sorted(stems)


@given(NUMBERS, NUMBERS)
def test_the_batches_of_a_submitter_are_scanned_in_their_order(one: int, other: int) -> None:
    prefix = ids.batch_prefix(7, bytes(10), bytes(10))
    stems = [
        QueueName("py311-cpu1-m0", 5, ids.batch_id(prefix, number), 1, 0).stem
        for number in sorted({one, other})
    ]
    assert stems == sorted(stems)


def test_a_batch_is_scanned_beside_its_claims() -> None:
    names = [NAME, *(QueueName(NAME.klass, 5, BATCH, size, 120) for size in (2, 30, 31))]
    keys = [layout.claim_of(name.stem, number) for name in names for number in range(12)]
    stems = [key.rpartition(".")[0] for key in sorted(keys)]
    assert [stem for stem, _ in groupby(stems)] == sorted(name.stem for name in names)


# -- everything ----------------------------------------------------------------------------


def test_keys_are_spelled_as_the_layout_says() -> None:
    job, submitter = ids.to_text(b"job......."), ids.to_text(b"submitter.")
    folder = f"t7/jobs/{job}/"
    spelled = [
        "cluster",
        f"queue/py311-cpu1-m0/5/{job}-{submitter}-00000102-7-3-120.0",
        f"queue/py311-cpu1-m0/5/{job}-{submitter}-00000102-7-3-120.12",
        f"{folder}meta",
        f"{folder}blobs/{'0' * 64}",
        f"{folder}results/{submitter}/00000102.0",
        f"{folder}objects/{submitter}-p00000102",
        f"{folder}objects/{submitter}-0000010200010002-ab12",
        f"{folder}logs/agent/00000003",
        "agents/agent",
    ]
    assert spelled == KEYS


def test_keys_differ() -> None:
    assert len(set(KEYS)) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_lowercase_and_plain(key: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+", key)


def test_no_key_is_the_folder_of_another() -> None:
    assert not [(a, b) for a in KEYS for b in KEYS if b.startswith(a + "/")]


def test_everything_of_a_job_lies_in_its_folder() -> None:
    folder = layout.job_folder(7, ids.job_of(BATCH))
    assert sum(key.startswith(folder) for key in KEYS) == 6


@given(BATCHES, BATCHES)
def test_no_two_batches_share_a_journal(one: bytes, other: bytes) -> None:
    prefixes = layout.journal(one), layout.journal(other)
    assert (one == other) == prefixes[0].startswith(prefixes[1])


@given(BATCHES, st.tuples(st.integers(0, 50), st.integers(0, 50)), st.sampled_from(["a1", "b2"]))
def test_no_two_attempts_share_an_object(batch: bytes, index: tuple[int, int], nonce: str) -> None:
    key = layout.result_object(ids.object_id(batch, *index), nonce)
    assert key != layout.result_object(ids.object_id(batch, *index), nonce + "0")
    assert key != layout.put_object(ids.object_id(batch, ids.PUT_INDEX))
