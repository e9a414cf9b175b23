from __future__ import annotations

import asyncio
import errno
import logging
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.keyring import ClusterKey, new_key
from cloudray.store import (
    Adopt,
    Counting,
    Create,
    DamagedError,
    DirectoryStore,
    FaultPlan,
    Faulty,
    Get,
    GetIfChanged,
    GetMany,
    Kind,
    Ledger,
    MemoryStore,
    Op,
    Put,
    RecordError,
    Reliable,
    Signed,
    Store,
    StoreError,
    TamperedError,
    bodies,
    nonce_of,
    open_sealed,
    parts,
    seal,
    signing,
)
from cloudray.store.bodies import PART_BYTES, join
from cloudray.store.parts import read_in_parts
from cloudray.store.signing import SIGNATURE, Signature, Signer, parts_of

KEY = new_key("a test")
OBJECT = "t7/jobs/0v1c/objects/0v2d-p00000000"
CLAIM = "queue/py311-cpu1-m0/5/a-b-0-7-1-0.1"
ENTRY = "t7/jobs/0v1c/results/0v2d/00000000.0"
Perform = Callable[[Store, Op], Any]


def blocking(store: Store, op: Op) -> Any:
    return store.perform(op)


def on_a_loop(store: Store, op: Op) -> Any:
    return asyncio.run(store.perform_async(op))


@pytest.fixture(params=[blocking, on_a_loop])
def perform(request: pytest.FixtureRequest) -> Perform:
    chosen: Perform = request.param
    return chosen


@pytest.fixture
def raw() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def signed(raw: MemoryStore) -> Signed:
    return Signed(raw, KEY)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Parts of 1,000 bytes, so that small records are large ones."""
    for module in (signing, bodies, parts):
        monkeypatch.setattr(module, "PART_BYTES", 1000)
    return 1000


def flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1
    return bytes(changed)


# -- without a key -----------------------------------------------------------------------------


@given(st.binary(max_size=300), st.data())
def test_no_bit_of_a_record_is_damaged_unnoticed(payload: bytes, data: st.DataObject) -> None:
    raw = MemoryStore()
    checked = Signed(raw)
    checked.put("key", seal(Kind.CLAIM, payload))
    body = raw.get("key")
    assert body is not None
    at = data.draw(st.integers(0, len(body) - 1))
    raw.put("key", flipped(body, at))
    with pytest.raises(DamagedError):
        checked.get("key")


@pytest.mark.parametrize("missing", [1, 500, 2500])
def test_a_value_that_was_cut_off_is_damaged(
    raw: MemoryStore, small_parts: int, missing: int
) -> None:
    checked = Signed(raw)
    checked.put(OBJECT, seal(Kind.OBJECT, bytes(3 * small_parts)))
    body = raw.get(OBJECT)
    assert body is not None
    raw.put(OBJECT, body[:-missing])
    with pytest.raises(DamagedError):
        read_in_parts(checked, OBJECT)


def test_damage_is_told_once_with_its_place_and_what_to_do(
    raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    checked = Signed(raw)
    raw.put(OBJECT, b"half")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(DamagedError, match=rf"{OBJECT} .*damaged.*read it again.*delete"):
                checked.get(OBJECT)
    assert len(caplog.records) == 1
    assert list(checked.refusals()) == [OBJECT]


def test_a_record_without_a_signature_passes_where_there_is_no_key(raw: MemoryStore) -> None:
    record = seal(Kind.CLAIM, b"payload")
    raw.put("key", record)
    assert Signed(raw).get("key") == record


def test_what_everybody_can_sign_does_not_pass_where_there_is_a_key(
    raw: MemoryStore, signed: Signed
) -> None:
    Signed(raw).put("key", seal(Kind.CLAIM, b"payload"))
    with pytest.raises(TamperedError, match="without the cluster's key"):
        signed.get("key")


def test_without_a_key_the_values_of_a_directory_are_mapped(tmp_path: Path) -> None:
    checked = Signed(DirectoryStore(tmp_path))
    record = seal(Kind.OBJECT, b"value")
    checked.put(OBJECT, record)
    path = checked.path(OBJECT)
    assert path is not None
    assert path.read_bytes() == record
    assert checked.signature(OBJECT) is None


# -- what is written and read ------------------------------------------------------------------


def test_what_was_signed_is_read_as_it_was_written(signed: Signed, perform: Perform) -> None:
    record = seal(Kind.CLAIM, b"payload")
    perform(signed, Put("put", record))
    assert perform(signed, Create("created", record)) is True
    for found in (*perform(signed, GetMany(("put", "created"))), perform(signed, Get("put"))):
        assert open_sealed(Kind.CLAIM, found, "key") == b"payload"
        assert nonce_of(found) == nonce_of(record)
    assert perform(signed, Get("absent")) is None
    assert perform(signed, GetIfChanged("put")).body[64:] == b"payload"


def test_the_same_body_is_signed_the_same_way_again(signed: Signed, raw: MemoryStore) -> None:
    record = seal(Kind.CLAIM, b"payload")
    signed.put("key", record)
    first = raw.get("key")
    signed.put("key", record)
    assert raw.get("key") == first


@given(st.binary(max_size=300), st.data())
def test_no_bit_of_a_record_can_be_changed(payload: bytes, data: st.DataObject) -> None:
    raw = MemoryStore()
    signed = Signed(raw, KEY)
    signed.put("key", seal(Kind.CLAIM, payload))
    body = raw.get("key")
    assert body is not None
    at = data.draw(st.integers(0, len(body) - 1))
    raw.put("key", flipped(body, at))
    with pytest.raises(TamperedError):
        signed.get("key")


@pytest.mark.parametrize("length", [0, 1, 4, 63, 64, 65])
def test_a_record_that_was_cut_off_is_refused(
    signed: Signed, raw: MemoryStore, length: int, perform: Perform
) -> None:
    signed.put("key", seal(Kind.CLAIM, b"payload"))
    body = raw.get("key")
    assert body is not None
    raw.put("key", body[:length])
    with pytest.raises(TamperedError):
        perform(signed, Get("key"))


def test_what_is_not_signed_is_refused(signed: Signed, raw: MemoryStore, perform: Perform) -> None:
    raw.put("key", seal(Kind.CLAIM, b"payload"))
    with pytest.raises(TamperedError, match="key in memory:// is not signed, so it was not loaded"):
        perform(signed, Get("key"))
    with pytest.raises(TamperedError):
        perform(signed, GetIfChanged("key"))


def test_what_another_key_has_signed_is_refused(signed: Signed, raw: MemoryStore) -> None:
    Signed(raw, new_key()).put("key", seal(Kind.CLAIM, b"payload"))
    with pytest.raises(TamperedError, match="not that of this record at this place"):
        signed.get("key")


def test_a_record_is_refused_anywhere_but_at_its_place(signed: Signed, raw: MemoryStore) -> None:
    signed.put(CLAIM, seal(Kind.CLAIM, b"payload"))
    body = raw.get(CLAIM)
    assert body is not None
    for place in (CLAIM[:-1] + "2", CLAIM.replace("/5/", "/6/"), "elsewhere"):
        raw.put(place, body)
        with pytest.raises(TamperedError):
            signed.get(place)


def test_the_end_of_a_place_cannot_become_the_beginning_of_its_record() -> None:
    signer = Signer(KEY)
    record = join(signer.signed("ab", seal(Kind.CLAIM, b"payload")))
    assert not signer.is_valid("a", b"b" + record)


def test_who_loses_a_create_to_what_is_not_signed_is_told(
    signed: Signed, raw: MemoryStore, perform: Perform
) -> None:
    raw.put("key", seal(Kind.CLAIM, b"theirs"))
    with pytest.raises(TamperedError):
        perform(Reliable(signed), Create("key", seal(Kind.CLAIM, b"ours")))


def test_creates_stay_certain_whatever_the_store_does(raw: MemoryStore, perform: Perform) -> None:
    faulty = Faulty(raw, Random(1), FaultPlan.even(0.5))
    store = Reliable(Signed(faulty, KEY), sleep=lambda _: None, sleep_async=_at_once)
    for number in range(50):
        ours = seal(Kind.CLAIM, b"ours")
        assert perform(store, Create(f"{number}", ours)) is None
        theirs = perform(store, Create(f"{number}", seal(Kind.CLAIM, b"theirs")))
        assert nonce_of(theirs) == nonce_of(ours)
    assert sum(faulty.struck.values()) > 20


async def _at_once(delay_s: float) -> None:
    del delay_s


def test_one_record_that_is_refused_keeps_no_other_from_being_read(
    signed: Signed, raw: MemoryStore, perform: Perform
) -> None:
    signed.put("good", seal(Kind.CLAIM, b"payload"))
    raw.put("bad", seal(Kind.CLAIM, b"payload"))
    good, bad, absent = perform(signed, GetMany(("good", "bad", "absent")))
    assert open_sealed(Kind.CLAIM, good, "good") == b"payload"
    assert absent is None
    with pytest.raises(TamperedError, match="bad"):
        open_sealed(Kind.CLAIM, bad, "bad")


def test_each_record_that_is_refused_is_reported_once_and_counted(
    signed: Signed, raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    raw.put("one", seal(Kind.CLAIM, b"payload"))
    raw.put("two", b"")
    with caplog.at_level(logging.WARNING):
        for key in ("one", "one", "two", "one"):
            with pytest.raises(TamperedError):
                signed.get(key)
    assert [record.message.split()[0] for record in caplog.records] == ["one", "two"]
    assert Reliable(signed).refusals() == {
        "one": "is not signed",
        "two": "has 0 bytes, less than a record's header",
    }


def test_what_is_no_record_is_not_written(signed: Signed, raw: MemoryStore) -> None:
    for body in (b"", b"text", [b"te", b"xt"], bytes(PART_BYTES + 1)):
        with pytest.raises(StoreError, match="does not begin with a record's header"):
            signed.put("key", body)
    assert raw.get("key") is None


def test_signing_takes_no_more_requests(raw: MemoryStore) -> None:
    ledger = Ledger()
    signed = Signed(Counting(raw, ledger), KEY)
    signed.put("key", seal(Kind.CLAIM, b"payload"))
    signed.get("key")
    assert ledger == Ledger(put=1, get=1)


def test_neither_records_nor_errors_hold_the_key(
    signed: Signed, raw: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    signed.put("key", seal(Kind.CLAIM, b"payload"))
    raw.put("bad", seal(Kind.CLAIM, b"payload"))
    with pytest.raises(TamperedError) as refused:
        signed.get("bad")
    said = f"{refused.value}{caplog.text}{signed!r}{signed.signer!r}{KEY!r}"
    body = raw.get("key")
    assert body is not None
    assert KEY.text not in said
    assert KEY.secret not in body


def test_a_refusal_travels_to_another_process_as_an_error(signed: Signed) -> None:
    error = pickle.loads(pickle.dumps(signed.refuse("key", "is not signed")))
    assert isinstance(error, RecordError)
    assert "key" in str(error)


# -- sizes -------------------------------------------------------------------------------------


class Endless(MemoryStore):
    """Has something huge at every key, of which it makes only what it is asked for."""

    made_bytes = 0

    def perform(self, op: Op) -> Any:
        if isinstance(op, Get):
            assert op.end is not None, "all of it was asked for"
            self.made_bytes = op.end - (op.start or 0)
            return seal(Kind.CLAIM, b"")[: self.made_bytes] + bytes(max(0, self.made_bytes - 64))
        return super().perform(op)


@pytest.mark.parametrize(
    ("key", "limit_bytes"), [(CLAIM, 4 << 10), ("agents/0v1c", 1 << 20), ("cluster", 1 << 20)]
)
def test_of_a_huge_record_only_what_it_may_have_is_read(key: str, limit_bytes: int) -> None:
    store = Endless()
    with pytest.raises(TamperedError, match=r"has more than the .* that a record may have there"):
        Signed(store, KEY).get(key)
    assert store.made_bytes == limit_bytes + 1


def test_many_huge_records_are_cut_off_too(signed: Signed, raw: MemoryStore) -> None:
    raw.put("agents/0v1c", seal(Kind.HEARTBEAT, bytes(2 << 20)))
    (found,) = signed.get_many(["agents/0v1c"])
    assert isinstance(found, TamperedError)


# -- large records -----------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [-1, 0, 1, 999, 1000, 1001, 2500])
def test_a_large_record_is_read_as_it_was_written(
    signed: Signed, small_parts: int, extra: int, perform: Perform
) -> None:
    payload = Random(1).randbytes(small_parts - 64 + extra)
    record = seal(Kind.OBJECT, payload)
    perform(signed, Put(OBJECT, record))
    assert perform(signed, Get(OBJECT))[64:] == payload
    assert bytes(read_in_parts(signed, OBJECT) or b"")[64:] == payload


@pytest.mark.parametrize("cut", [1, 63, 64, 65, 999, 1000, 2000, 2499])
def test_it_does_not_matter_into_which_buffers_a_record_is_cut(
    signed: Signed, raw: MemoryStore, small_parts: int, cut: int
) -> None:
    del small_parts
    record = seal(Kind.OBJECT, Random(1).randbytes(2500))
    signed.put(OBJECT, record)
    whole = raw.get(OBJECT)
    signed.put(OBJECT, [record[:cut], bytearray(record[cut:]), b""])
    assert raw.get(OBJECT) == whole


@given(st.integers(0, 3563))
def test_no_byte_of_a_large_record_can_be_changed(at: int) -> None:
    signer = Signer(KEY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "PART_BYTES", 1000)
        record = join(signer.signed("key", seal(Kind.OBJECT, bytes(3500))))
        assert signer.is_valid("key", record)
        assert not signer.is_valid("key", flipped(record, at))
        assert not signer.is_valid("key", record[: max(64, at)])


def test_parts_cannot_be_exchanged_or_left_out(small_parts: int) -> None:
    signer = Signer(KEY)
    record = join(signer.signed("key", seal(Kind.OBJECT, Random(1).randbytes(4000))))
    cut = [record[at : at + small_parts] for at in range(0, len(record), small_parts)]
    assert not signer.is_valid("key", b"".join([cut[0], cut[2], cut[1], *cut[3:]]))
    assert not signer.is_valid("key", b"".join(cut[:-1]))
    assert not signer.is_valid("key", b"".join([*cut, b"\0"]))


def test_the_digests_of_a_large_record_are_no_small_one(small_parts: int) -> None:
    import hashlib

    signer = Signer(KEY)
    record = join(signer.signed("key", seal(Kind.OBJECT, bytes(3000))))
    cut = [record[at : at + small_parts] for at in range(0, len(record), small_parts)]
    cut[0] = cut[0][64:]
    forged = record[:64] + b"".join(hashlib.sha256(part).digest() for part in cut)
    assert not signer.is_valid("key", forged)


def test_parts_may_come_in_any_order_twice_and_by_many_threads(small_parts: int) -> None:
    signer = Signer(KEY)
    record = join(signer.signed("key", seal(Kind.OBJECT, Random(1).randbytes(20_000))))
    cut = list(enumerate(record[at : at + small_parts] for at in range(0, 20_064, small_parts)))
    signature = Signature(signer, "key")
    shuffled = cut * 2
    Random(2).shuffle(shuffled)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda numbered: signature.add(*numbered), shuffled))
    signature.check()
    signature.add(3, bytes(1000))
    with pytest.raises(TamperedError):
        signature.check()
    signature.add(*cut[3])
    assert signature.is_valid()


def test_a_signature_that_lacks_parts_says_so(small_parts: int) -> None:
    signature = Signature(Signer(KEY), "key")
    with pytest.raises(ValueError, match="have not been added"):
        signature.is_valid()
    signature.add(0, seal(Kind.OBJECT, bytes(small_parts - 64)))
    signature.add(2, b"last")
    with pytest.raises(ValueError, match="some parts of key have not been added"):
        signature.is_valid()


def test_who_sends_parts_makes_the_same_record(signed: Signed, raw: MemoryStore) -> None:
    record = seal(Kind.OBJECT, Random(1).randbytes(PART_BYTES + 100))
    signature = signed.signature(OBJECT)
    assert signature is not None
    for number, part in enumerate(parts_of(record)):
        signature.add(number, part)
    raw.put(OBJECT, signature.signed(record) + record[64:])
    signed.put("t7/jobs/0v1c/objects/other", record)
    assert signed.get(OBJECT, 0, 10) == record[:10]
    assert (signed.get(OBJECT) or b"")[64:] == record[64:]
    assert (raw.get(OBJECT) or b"")[SIGNATURE] != (raw.get("t7/jobs/0v1c/objects/other") or b"")[
        SIGNATURE
    ]


def test_a_large_value_that_was_changed_is_not_read_in_parts(
    signed: Signed, raw: MemoryStore, small_parts: int
) -> None:
    signed.put(OBJECT, seal(Kind.OBJECT, bytes(5 * small_parts)))
    body = raw.get(OBJECT)
    assert body is not None
    for at in (0, 30, 100, 1500, len(body) - 1):
        raw.put(OBJECT, flipped(body, at))
        with pytest.raises(TamperedError):
            read_in_parts(signed, OBJECT)
    raw.put(OBJECT, body[:-1])
    with pytest.raises(TamperedError):
        read_in_parts(signed, OBJECT)


# -- files, and folders that nobody else can enter -----------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 100, 936, 937, 5000])
def test_a_file_is_signed_before_it_is_adopted(
    signed: Signed, small_parts: int, tmp_path: Path, perform: Perform, size_bytes: int
) -> None:
    del small_parts
    payload = Random(1).randbytes(size_bytes)
    path = tmp_path / "value"
    path.write_bytes(seal(Kind.OBJECT, payload))
    perform(signed, Adopt(OBJECT, path))
    assert (signed.get(OBJECT) or b"")[64:] == payload
    assert not path.exists()


def test_a_file_that_is_no_record_is_not_adopted(signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"text")
    with pytest.raises(StoreError, match="does not begin with a record's header"):
        signed.perform(Adopt(OBJECT, path))
    assert path.read_bytes() == b"text"


def test_a_file_that_cannot_be_signed_is_named(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value"
    path.write_bytes(seal(Kind.OBJECT, b"payload"))

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(StoreError, match=f"cannot sign {path}.*Input/output error"):
        signed.perform(Adopt(OBJECT, path))


def test_a_file_that_others_can_change_is_not_mapped(tmp_path: Path) -> None:
    raw = DirectoryStore(tmp_path / "store", durable=False)
    signed = Signed(raw, KEY)
    signed.put(OBJECT, seal(Kind.OBJECT, b"value"))
    assert raw.path(OBJECT) is not None
    assert signed.path(OBJECT) is None


def test_in_a_private_folder_values_are_mapped_and_not_hashed(tmp_path: Path) -> None:
    raw = DirectoryStore(tmp_path / "store", durable=False)
    signed = Signed(raw, KEY, private=True)
    record = seal(Kind.OBJECT, b"value")
    signed.put(OBJECT, record)
    assert raw.get(OBJECT) == record
    assert signed.path(OBJECT) == raw.path(OBJECT)
    assert signed.get(OBJECT) == record
    assert signed.signature(OBJECT) is None


def test_everything_else_there_is_signed(tmp_path: Path) -> None:
    raw = DirectoryStore(tmp_path / "store", durable=False)
    signed = Signed(raw, KEY, private=True)
    raw.put(ENTRY, seal(Kind.JOURNAL, b"forged"))
    with pytest.raises(TamperedError):
        signed.get(ENTRY)
    signed.put(CLAIM, seal(Kind.CLAIM, b"claim"))
    assert (raw.get(CLAIM) or b"")[SIGNATURE] != bytes(32)


def test_signatures_are_those_of_any_other_program_with_the_key() -> None:
    import hmac

    record = seal(Kind.CLAIM, b"payload")
    signed = join(Signer(KEY).signed("a/place", record))
    unsigned = record[:24] + bytes(32) + record[56:]
    expected = hmac.digest(KEY.secret, b"a/place\0" + unsigned, "sha256")
    assert signed[SIGNATURE] == expected
    assert ClusterKey(KEY.text) == KEY
