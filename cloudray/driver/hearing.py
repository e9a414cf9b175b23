"""What a driver hears: from agents, and from its background where the store is far away.

Hints may be lost, so it looks for itself when none comes.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from cloudray.driver import far as away
from cloudray.driver.far import Far, Looked, Seen, Stored, Unstored
from cloudray.driver.following import Following
from cloudray.driver.lifetimes import Lifetimes
from cloudray.driver.looking import Found
from cloudray.driver.misfits import Misfits
from cloudray.driver.peers import Peer, Peers
from cloudray.driver.printing import Printer
from cloudray.driver.promises import Promises
from cloudray.driver.serving import Serving
from cloudray.protocol import messages as m
from cloudray.store.envelope import RecordError

#: How often journals are looked at although agents that would hint are connected.
_RARE_LOOK_S = 1.0


class Hearing:
    """Takes in what is said, and looks around.

    `heard` may be added to by any thread; what is there is handled under the client's lock.
    """

    def __init__(
        self,
        lock: threading.RLock,
        commit_s: float,
        peers: Peers,
        serving: Serving,
        following: Following,
        lifetimes: Lifetimes | None,
        promises: Promises,
        printer: Printer,
        misfits: Misfits,
    ) -> None:
        self._lock = lock
        self._commit_s = commit_s
        self._peers = peers
        self._serving = serving
        self._following = following
        self._lifetimes = lifetimes
        self._promises = promises
        self._printer = printer
        self._misfits = misfits
        #: set by the client; None where the store answers at once
        self.far: Far | None = None
        #: messages that have come and are not handled yet
        self.heard: deque[tuple[Peer, m.Message] | away.Message] = deque()
        #: what agents answered to the last question
        self.answers: list[bytes] = []
        self._looked_s = 0.0

    def hear(self, message: away.Message) -> None:
        """Take in what the background has found out, on its thread."""
        self.heard.append(message)
        self._peers.wake()

    def lost(self) -> None:
        """An agent hung up: what it held will be taken over; look around soon."""
        self._looked_s = 0.0

    # -- taking turns --------------------------------------------------------------------------

    def turn(self, timeout_s: float, *, awaited: bool) -> None:
        """Wait for hints and act on them; look for oneself when none comes.

        `awaited`: somebody waits, for a value or a future.
        """
        if self.far is not None:
            self._turn_far(self.far, timeout_s, awaited=awaited)
            return
        look_s = _RARE_LOOK_S if len(self._peers) else self._commit_s / 2
        if self._following.restless:
            # Something is waited for that may have ended before anybody listened for hints.
            self.look_around()
            timeout_s = 0.0
        # What Ctrl-C has kept from being handled comes first: much is said only once.
        self._peers.listen(0.0 if self.heard else min(timeout_s, look_s), self.heard.append)
        if self.heard:
            with self._lock:
                self.handle_all()
        if time.monotonic() - self._looked_s > look_s:
            self.look_around()

    def _turn_far(self, far: Far, timeout_s: float, *, awaited: bool) -> None:
        """Do so where looking takes long: in the background, and only if somebody waits.

        Nor does who waits for nothing but values that are being stored.
        """
        if awaited and self._following.looks_for_any:
            now_s = time.monotonic()
            due_s = 0.0 if self._following.restless else far.due_s(now_s)
            if due_s <= 0.0:
                with self._lock:
                    far.look(self._following.open_now(), now_s)
                due_s = self._commit_s
            far.watch(now_s)
            timeout_s = min(timeout_s, due_s)
        self._peers.listen(0.0 if self.heard else timeout_s, self.heard.append)
        if self.heard:
            with self._lock:
                self.handle_all()

    def look_around(self) -> None:
        """Hints may be lost: see for oneself."""
        with self._lock:
            self._looked_s = time.monotonic()
            if self._following.look_around() and self._promises:
                self._promises.settle()
        self._serving.look()

    # -- what is said --------------------------------------------------------------------------

    def handle_all(self) -> None:
        """Act on what has come."""
        heard = self.heard
        while heard:
            first = heard[0]
            try:
                if isinstance(first, tuple):
                    self._handle(*first)
                else:
                    self._handle_far(first)
            except KeyboardInterrupt:
                raise
            except BaseException:
                heard.popleft()
                raise
            # Unless a signal handler that waits has done so.
            if heard and heard[0] is first:
                heard.popleft()

    def _handle(self, peer: Peer, message: m.Message) -> None:
        if isinstance(message, m.Published):
            news = self._following.published(message.batch, message.next, message.entry)
            if news and self._promises:
                self._promises.settle()
            if self._lifetimes is not None:
                self._lifetimes.published(message)
        elif isinstance(message, m.Printed):
            self._printer.take(message.lines)
        elif isinstance(message, m.Greeting):
            peer.greeting = message
            if self.far is None:
                self._serving.count(message)
        elif isinstance(message, m.Answer):
            self.answers.append(message.payload)
        elif isinstance(message, m.Unschedulable):
            self._misfits.take(message)
        elif self._lifetimes is not None:
            self._lifetimes.hear(message)

    def _handle_far(self, message: away.Message) -> None:
        following = self._following
        if isinstance(message, Found):
            if isinstance(message.entry, RecordError):
                following.lose(message.batch, f"its journal cannot be read: {message.entry}")
            elif not following.published(message.batch, message.number + 1, message.entry):
                return
        elif isinstance(message, (Stored, Unstored)):
            self._landed(message)
        elif isinstance(message, Looked):
            if self.far is not None:
                news = following.looked(news=message.news)
                self.far.looked(time.monotonic(), news=news)
        elif isinstance(message, Seen):
            self._serving.see(message.beats)
        if self._promises:
            self._promises.settle()

    def _landed(self, message: Stored | Unstored) -> None:
        following = self._following
        if isinstance(message, Unstored):
            following.lose(message.unit, f"it could not be stored: {message.error}")
            if self.far is not None and following.existing_anchor(message.unit):
                self.far.uploads.told(message.unit)
        elif self.far is not None and message.unit not in following.arriving:
            self.far.stored(time.monotonic(), message.took_s)
        # Last: until then it is waited for.
        following.arriving.pop(message.unit, None)
