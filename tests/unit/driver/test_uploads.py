from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType

import msgspec
import pytest

from cloudray import ids
from cloudray.bells.base import Silent
from cloudray.driver.background import Background
from cloudray.driver.ringing import Ringing
from cloudray.driver.uploads import MAX_PENDING_BYTES, Uploads
from cloudray.interrupts import Bell
from cloudray.protocol.records import Batch, Code, Package, Task
from cloudray.store import Put, Reliable, StoreError
from cloudray.store.layout import QueueName, claim_of
from tests.unit.driver.gated import GatedStore, becomes
from tests.unit.protocol.builders import BATCH_ID, batch_of, name_of

FIRST = batch_of(1)
SECOND = msgspec.structs.replace(
    batch_of(1, number=1), tasks=(Task(0, depends_on=(ids.object_id(BATCH_ID, 0),)),)
)
FIRST_KEY = claim_of(name_of(FIRST).stem, 0)
SECOND_KEY = claim_of(name_of(SECOND).stem, 0)


@pytest.fixture
def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
def stored() -> list[bytes]:
    return []


@pytest.fixture
def failed() -> list[tuple[bytes, str]]:
    return []


@pytest.fixture
def background() -> Iterator[Background]:
    background = Background()
    yield background
    background.close()


@pytest.fixture
def uploads(
    store: GatedStore,
    background: Background,
    stored: list[bytes],
    failed: list[tuple[bytes, str]],
) -> Uploads:
    async def rung(name: QueueName, batch: Batch) -> None:
        assert (name.batch, batch.id) == (stored[-1], stored[-1])

    return Uploads(
        Reliable(store),
        background,
        Ringing(Silent(), rung),
        lambda unit, _: stored.append(unit),
        lambda unit, why: failed.append((unit, str(why))),
    )


def test_whoever_submits_does_not_wait(store: GatedStore, uploads: Uploads) -> None:
    store.hold(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    store.await_asked(FIRST_KEY)
    assert store.get(FIRST_KEY) is None
    store.release(FIRST_KEY)
    uploads.wait()
    assert store.get(FIRST_KEY) is not None


def test_what_names_something_starts_after_that_is_stored(
    store: GatedStore, uploads: Uploads, stored: list[bytes]
) -> None:
    store.hold(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    uploads.batch(name_of(SECOND), SECOND)
    uploads.put("other", Put("unrelated", b"value"))
    uploads.wait(["other"])
    assert SECOND_KEY not in {getattr(op, "key", "") for op in store.asked}
    store.release(FIRST_KEY)
    uploads.wait()
    assert stored == [FIRST.id, SECOND.id]


def test_what_names_nothing_travels_side_by_side(store: GatedStore, uploads: Uploads) -> None:
    other = batch_of(1, number=1)
    for batch in (FIRST, other):
        store.hold(claim_of(name_of(batch).stem, 0))
        uploads.batch(name_of(batch), batch)
    for batch in (FIRST, other):
        store.await_asked(claim_of(name_of(batch).stem, 0))
    for batch in (FIRST, other):
        store.release(claim_of(name_of(batch).stem, 0))


def test_a_batch_starts_after_its_function_is_stored(store: GatedStore, uploads: Uploads) -> None:
    store.hold("function")
    uploads.put(FIRST.shapes[0].function, Put("function", b"pickled"))
    uploads.batch(name_of(FIRST), FIRST)
    store.await_asked("function")
    assert [getattr(op, "key", "") for op in store.asked] == ["function"]
    store.release("function")
    uploads.wait()
    assert store.get(FIRST_KEY) is not None


def test_a_batch_starts_after_its_code_is_stored(store: GatedStore, uploads: Uploads) -> None:
    packages = [Package(name * 64, name, 1) for name in "abc"]
    code = Code(packages[0], (packages[1],), (packages[2],))
    shape = msgspec.structs.replace(FIRST.shapes[0], code=code)
    batch = msgspec.structs.replace(FIRST, shapes=(shape,))
    for package in packages:
        store.hold(package.source)
        uploads.put(package.digest, Put(package.source, b"archive"))
    uploads.batch(name_of(batch), batch)
    for package in packages:
        store.await_asked(package.source)
        assert FIRST_KEY not in [getattr(op, "key", "") for op in store.asked]
        store.release(package.source)
    uploads.wait()
    assert store.get(FIRST_KEY) is not None


def test_what_names_something_that_failed_is_not_stored_either(
    store: GatedStore, uploads: Uploads, failed: list[tuple[bytes, str]]
) -> None:
    store.break_key(FIRST_KEY)
    store.hold(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    uploads.batch(name_of(SECOND), SECOND)
    store.release(FIRST_KEY)
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait([FIRST.id])
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait([SECOND.id])
    assert [unit for unit, _ in failed] == [FIRST.id, SECOND.id]
    assert store.get(SECOND_KEY) is None


def test_what_names_something_that_failed_long_ago_is_not_stored_either(
    store: GatedStore, uploads: Uploads
) -> None:
    store.break_key(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait([FIRST.id])
    uploads.batch(name_of(SECOND), SECOND)
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait([SECOND.id])
    assert store.get(SECOND_KEY) is None


def test_a_function_that_was_refused_is_tried_again_with_the_next_call(
    store: GatedStore, uploads: Uploads
) -> None:
    function = FIRST.shapes[0].function
    store.break_key("function")
    uploads.put(function, Put("function", b"pickled"))
    uploads.batch(name_of(FIRST), FIRST)
    with pytest.raises(StoreError, match="function is refused"):
        uploads.wait([FIRST.id])
    store.mend_key("function")
    again = batch_of(1, number=1)
    uploads.batch(name_of(again), again)
    uploads.wait([again.id])
    assert store.get("function") == b"pickled"
    assert store.get(claim_of(name_of(again).stem, 0)) is not None


def test_a_function_that_is_refused_again_is_tried_again_all_the_same(
    store: GatedStore, uploads: Uploads
) -> None:
    store.break_key("function")
    function = FIRST.shapes[0].function
    uploads.put(function, Put("function", b"pickled"))
    assert becomes(lambda: function in uploads._failed)
    for number in range(3):
        batch = batch_of(1, number=number)
        uploads.batch(name_of(batch), batch)
        with pytest.raises(StoreError, match="function is refused"):
            uploads.wait([batch.id])
    assert [getattr(op, "key", "") for op in store.asked] == ["function"] * 4


def test_code_that_was_refused_is_tried_again_by_who_waits_for_it(
    store: GatedStore, uploads: Uploads
) -> None:
    store.break_key("code")
    uploads.put("digest", Put("code", b"archive"))
    with pytest.raises(StoreError, match="code is refused"):
        uploads.wait(["digest"])
    store.mend_key("code")
    uploads.wait(["digest"])
    assert store.get("code") == b"archive"


def test_who_waits_for_all_is_told_once_of_what_could_not_be_stored(
    store: GatedStore, uploads: Uploads
) -> None:
    store.break_key(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    # Also when it failed long before.
    assert becomes(lambda: FIRST.id in uploads._failed)
    other = batch_of(1, number=1)
    uploads.batch(name_of(other), other)
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait()
    assert store.get(claim_of(name_of(other).stem, 0)) is not None
    uploads.wait()


def test_who_waits_for_all_is_not_told_of_what_whoever_waits_for_it_was_told(
    store: GatedStore, uploads: Uploads
) -> None:
    store.break_key(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    with pytest.raises(StoreError, match="is refused"):
        uploads.wait([FIRST.id])
    uploads.told(FIRST.id)
    uploads.wait()


def test_what_comes_after_the_end_is_said_to_be_not_stored(
    store: GatedStore, uploads: Uploads, background: Background, failed: list[tuple[bytes, str]]
) -> None:
    background.close()
    uploads.batch(name_of(FIRST), FIRST)
    with pytest.raises(StoreError, match="the driver left"):
        uploads.wait([FIRST.id])
    assert failed == [(FIRST.id, "it was not stored: the driver left")]
    assert store.asked == []


def test_values_are_said_to_be_stored_and_functions_are_not(
    uploads: Uploads, stored: list[bytes]
) -> None:
    uploads.put(b"value", Put("value", b"value"))
    uploads.put("function", Put("function", b"pickled"))
    uploads.wait()
    assert becomes(lambda: stored == [b"value"])


def test_no_lock_is_used_that_ctrl_c_may_leave_taken(store: GatedStore, uploads: Uploads) -> None:
    uploads.put("first", Put("first", b""))  # which starts a thread
    uploads.wait()
    entered = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == threading.__file__:
            entered.append(frame.f_code.co_qualname)

    store.hold("second")
    releasing = threading.Timer(0.05, store.release, ("second",))
    releasing.start()
    sys.setprofile(note)
    try:
        uploads.put("second", Put("second", b""))
        uploads.batch(name_of(FIRST), FIRST)
        uploads.await_room()
        uploads.wait(["second"])
        uploads.wait()
        uploads.told(FIRST.id)
    finally:
        sys.setprofile(None)
    releasing.join()
    assert entered == []


def test_a_ctrl_c_while_room_is_awaited_leaves_everything_usable(
    store: GatedStore, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.hold("large")
    uploads.put("large", Put("large", bytes(MAX_PENDING_BYTES)))

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bell, "listen", interrupted)
        with pytest.raises(KeyboardInterrupt):
            uploads.await_room()
    store.release("large")
    uploads.await_room()
    uploads.wait()
    assert uploads._bells == {}


def test_whoever_submits_waits_while_too_much_is_on_its_way(
    store: GatedStore, uploads: Uploads
) -> None:
    store.hold("large")
    uploads.put("large", Put("large", bytes(MAX_PENDING_BYTES)))
    store.await_asked("large")

    def submit() -> None:
        uploads.await_room()
        uploads.put("small", Put("small", b"value"))

    submitter = threading.Thread(target=submit)
    submitter.start()
    store.release("large")
    submitter.join(60)
    uploads.wait()
    order = [getattr(op, "key", "") for op in store.asked]
    assert order == ["large", "small"]


def test_whoever_waits_is_told_when_the_driver_leaves(
    store: GatedStore, uploads: Uploads, background: Background
) -> None:
    store.hold(FIRST_KEY)
    uploads.batch(name_of(FIRST), FIRST)
    store.await_asked(FIRST_KEY)
    threading.Timer(0.0, background.close).start()
    with pytest.raises(StoreError, match="the driver left"):
        uploads.wait([FIRST.id])
    store.release(FIRST_KEY)
