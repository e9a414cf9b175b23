from __future__ import annotations

import pytest

from cloudray.store import Kind, RecordError, new_nonce, nonce_of, open_sealed, seal
from cloudray.store.envelope import HEADER_BYTES, VERSION, header


def test_what_is_sealed_can_be_opened() -> None:
    record = seal(Kind.BATCH, b"payload")
    assert open_sealed(Kind.BATCH, record, "key") == b"payload"
    assert open_sealed(Kind.BATCH, memoryview(record), "key") == b"payload"
    assert open_sealed(Kind.CLAIM, seal(Kind.CLAIM, b""), "key") == b""


def test_a_header_keeps_the_payload_aligned() -> None:
    assert len(header(Kind.OBJECT, new_nonce())) == HEADER_BYTES == 64


def test_each_seal_has_a_nonce_of_its_own() -> None:
    nonces = {nonce_of(seal(Kind.BATCH, b"same")) for _ in range(100)}
    assert len(nonces) == 100
    assert {len(nonce) for nonce in nonces} == {16}


def test_the_nonce_is_the_one_given() -> None:
    nonce = new_nonce()
    record = header(Kind.JOURNAL, nonce) + b"payload"
    for view in (record, bytearray(record), memoryview(record)):
        assert nonce_of(view) == nonce


@pytest.mark.parametrize("size_bytes", [0, 4, HEADER_BYTES - 1])
def test_a_short_record_is_refused(size_bytes: int) -> None:
    with pytest.raises(RecordError, match=f"key is {size_bytes} bytes long"):
        open_sealed(Kind.BATCH, seal(Kind.BATCH, b"")[:size_bytes], "key")


def test_what_is_not_ours_is_refused() -> None:
    with pytest.raises(RecordError, match="not a CloudRay record: it begins with b'PK"):
        open_sealed(Kind.BATCH, b"PK\x03\x04" + bytes(100), "key")


def test_another_kind_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match=r"kind 3, not BATCH \(2\)"):
        open_sealed(Kind.BATCH, seal(Kind.CLAIM, b""), "key")


def with_version(version: int) -> bytes:
    record = bytearray(seal(Kind.BATCH, b"payload"))
    record[4] = version
    return bytes(record)


def test_this_version_and_the_one_before_are_read() -> None:
    for version in (VERSION, VERSION - 1):
        assert open_sealed(Kind.BATCH, with_version(version), "key") == b"payload"


def test_a_later_version_is_refused_with_advice() -> None:
    with pytest.raises(RecordError, match=f"protocol version {VERSION + 1}.*Upgrade"):
        open_sealed(Kind.BATCH, with_version(VERSION + 1), "key")
