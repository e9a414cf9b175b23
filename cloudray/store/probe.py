"""Whether a store can be trusted with put-if-absent, tried before a cluster is joined."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from cloudray.store.base import Create, Delete, Store, StoreError
from cloudray.store.conditional import is_ours
from cloudray.store.envelope import Kind, new_nonce, seal
from cloudray.store.procedures import Procedure, drive, drive_async
from cloudray.store.reliable import Reliable

#: How many create one key at once.
RIVALS = 8
#: Where the probe writes; nothing else does.
FOLDER = "probe/"


def probe(store: Store) -> None:
    """Check that a store honours put-if-absent, and clean up.

    Creates a key, creates it again, which must fail, and creates another key from eight threads
    at once, of which exactly one must win. Takes a raw backend or a `Reliable` one.

    Raises `StoreError` when the store ignores the condition, or cannot be used at all.

    >>> from cloudray.store import MemoryStore
    >>> probe(MemoryStore())
    """
    reliable = store if isinstance(store, Reliable) else Reliable(store)
    stem = FOLDER + new_nonce().hex()
    twice, raced = f"{stem}.twice", f"{stem}.raced"
    try:
        drive(reliable, _create_twice(reliable, twice))
        _race(reliable, raced)
    except StoreError:
        with suppress(StoreError):  # the first trouble says more
            reliable.delete([twice, raced])
        raise
    reliable.delete([twice, raced])


async def probe_async(store: Reliable) -> None:
    """Do what `probe` does on the event loop, where it can be cancelled."""
    import asyncio  # which drivers do without

    stem = FOLDER + new_nonce().hex()
    twice, raced = f"{stem}.twice", f"{stem}.raced"
    bodies = _rivals()
    try:
        await drive_async(store, _create_twice(store, twice))
        creates = (store.perform_async(Create(raced, body)) for body in bodies)
        _judge(store, bodies, await asyncio.gather(*creates, return_exceptions=True))
    except StoreError:
        with suppress(StoreError):  # as above
            await store.perform_async(Delete((twice, raced)))
        raise
    await store.perform_async(Delete((twice, raced)))


def _create_twice(store: Store, key: str) -> Procedure[None]:
    first = seal(Kind.PROBE, b"first")
    if (yield Create(key, first)) is not None:
        raise _refusal(store, "said that a new key was taken")
    holder = yield Create(key, seal(Kind.PROBE, b"second"))
    # A signature may have been put into it: the nonce tells.
    if holder is None or not is_ours(first, holder):
        raise _refusal(store, "let a second create replace the first")


def _rivals() -> list[bytes]:
    return [seal(Kind.PROBE, b"rival %d" % number) for number in range(RIVALS)]


def _race(store: Reliable, key: str) -> None:
    bodies = _rivals()
    #: what each rival was told: None, another's body, or why it failed
    told: list[bytes | StoreError | None] = [b""] * RIVALS

    def create(number: int) -> None:
        try:
            told[number] = store.perform(Create(key, bodies[number]))
        except StoreError as error:
            told[number] = error

    rivals = [Thread(target=create, args=(number,)) for number in range(RIVALS)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    _judge(store, bodies, told)


def _judge(
    store: Store, bodies: Sequence[bytes], told: Sequence[bytes | BaseException | None]
) -> None:
    for answer in told:
        if isinstance(answer, BaseException):
            raise answer
    winners = [number for number, answer in enumerate(told) if answer is None]
    if len(winners) != 1:
        raise _refusal(store, f"let {len(winners)} of {RIVALS} concurrent creates win")
    others = [answer for answer in told if isinstance(answer, bytes)]
    if not all(is_ours(bodies[winners[0]], answer) for answer in others):
        raise _refusal(store, "showed several bodies under a key that was created once")


def _refusal(store: Store, what: str) -> StoreError:
    return StoreError(
        f"{store.url} ignores put-if-absent: it {what}. CloudRay would lose or repeat work on "
        f"it. Use a store that honours 'If-None-Match: *' (AWS S3, Cloudflare R2, a current "
        f"MinIO or Ceph), Google Cloud Storage by gs://, Azure by az://, or a directory on a "
        f"filesystem with hard links."
    )
