"""The loop that makes put-if-absent certain, whatever the store and the network do.

Right, because keys are never reused and each body has a nonce of its own: once a key holds a
body it holds it for good, so one read that finds it decides; until then every attempt puts the
same body, so whichever of them arrives, however late, the key says whose it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from itertools import count
from typing import Any

from cloudray.store.backoff import Pause
from cloudray.store.base import Body, Create, Get, StoreError, TransientStoreError
from cloudray.store.bodies import beginning_of
from cloudray.store.envelope import HEADER_BYTES, nonce_of

#: Attempts that a store may refuse for good (say, by 403) once one of ours may have arrived:
#: with the usual backoff, about half a minute.
PATIENCE = 12
_NONCE_BYTES = 16


def is_ours(body: Body, holder: bytes) -> bool:
    """Whether the record that holds a key is the one that `body` tried to put there.

    Raises `ValueError` when `body` has no nonce: its writer could never tell.
    """
    nonce = nonce_of(beginning_of(body, HEADER_BYTES))
    if len(nonce) != _NONCE_BYTES:
        raise ValueError("a conditional put needs a body that begins with a record's header")
    return nonce_of(holder) == nonce


def create(  # noqa: C901 - split, its argument would be harder to follow
    op: Create,
    *,
    give_up_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Create | Get | Pause, Any, bytes | None]:
    """Put if absent, until it is known who holds the key.

    Yields raw operations and `Pause`s; the driver sends the answers, or throws the store's
    error. Returns None when this body holds the key, else the body that does.

    Raises `TransientStoreError` when it is still undecided after `give_up_s` seconds (None:
    goes on as long as its driver), `StoreError` when the store refuses for good. Either way the
    write may have happened, unless the very first answer was such a refusal.
    """
    deadline_s = None if give_up_s is None else clock() + give_up_s
    read_back = Get(op.key)
    trouble: StoreError | None = None
    undecided = False
    refusals = 0
    for attempt in count():
        refused = False
        try:
            if (yield op):
                return None
        except TransientStoreError as error:
            trouble = error
        except StoreError as error:
            if not undecided:
                raise
            trouble, refused = error, True
        # A no is as uncertain as an error: a transport may have retried, and been refused by
        # our own write; and 409 is a no although nobody may hold the key.
        undecided = True
        try:
            holder = yield read_back
        except TransientStoreError as error:
            trouble = error
        except StoreError as error:
            trouble, refused = error, True
        else:
            if holder is not None:
                return None if is_ours(op.body, holder) else bytes(holder)
        refusals = refusals + 1 if refused else 0
        if refusals == PATIENCE:
            raise StoreError(f"cannot learn whether {op.key} was written: {trouble}") from trouble
        if deadline_s is not None and clock() >= deadline_s:
            raise TransientStoreError(
                f"after {give_up_s:g} s it is still unknown whether {op.key} was written: "
                f"{trouble or 'the store says no, but nobody holds the key'}"
            ) from trouble
        yield Pause(attempt)
    raise AssertionError  # count() does not end
