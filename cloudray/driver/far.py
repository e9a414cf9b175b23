"""What a driver does with a store that is far away, while its threads do something else.

It stores what was submitted, looks into the journals that somebody waits for, and now and then
at the agents. What it finds it says with the messages below, which the driver handles when it
handles what agents say.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from cloudray.bells.base import Doorbell, Silent
from cloudray.driver.background import Background, Errand
from cloudray.driver.looking import Found, Looking, Open
from cloudray.driver.ringing import Ringing
from cloudray.driver.uploads import Uploads
from cloudray.protocol.nodes import list_agents, read_heartbeats
from cloudray.protocol.records import Batch, Heartbeat
from cloudray.store import layout
from cloudray.store.base import Store, StoreError
from cloudray.store.envelope import RecordError
from cloudray.store.layout import QueueName
from cloudray.store.procedures import drive_async

_log = logging.getLogger(__name__)

#: How soon journals are looked at again after there was news, in seconds; from look to look
#: without any, longer.
FIRST_LOOK_S = 0.05
#: After a batch was stored, the first look comes no sooner.
SOONEST_LOOK_S = 0.005
_GROWTH = 1.5
#: How often the agents are looked at while somebody waits: at first, and in the long run.
AGENTS_S, RARE_AGENTS_S = 0.5, 15.0


class Stored(msgspec.Struct, frozen=True):
    """A batch or value is stored."""

    unit: bytes
    #: how long that took, in seconds
    took_s: float


class Unstored(msgspec.Struct, frozen=True):
    """A batch or value cannot be stored."""

    unit: bytes
    error: StoreError


class Looked(msgspec.Struct, frozen=True):
    """A look into the journals is over."""

    news: bool


class Seen(msgspec.Struct, frozen=True):
    """The heartbeats of all agents."""

    beats: list[Heartbeat]


Message = Found | Stored | Unstored | Looked | Seen


class Far:
    """The background of one driver."""

    def __init__(
        self,
        store: Store,
        longest_look_s: float,
        tell: Callable[[Message], None],
        on_stored: Callable[[QueueName, Batch], Awaitable[None]],
        bell: Doorbell | None = None,
    ) -> None:
        """`tell` and `on_stored` are called in the background's thread, without the driver's lock.

        `bell` rings for each batch; None where nobody need be rung.
        """
        self._store = store
        self._tell = tell
        self._longest_look_s = longest_look_s
        self._background = Background()
        self._ringing = Ringing(bell or Silent(), on_stored)
        self.uploads = Uploads(
            store,
            self._background,
            self._ringing,
            lambda unit, took_s: tell(Stored(unit, took_s)),
            lambda unit, error: tell(Unstored(unit, error)),
        )
        self._looking = Looking(store, self._background, tell, lambda news: tell(Looked(news)))
        self._delay_s = FIRST_LOOK_S
        self._due_s = 0.0
        #: what somebody waits for is all on its way into the store
        self._idle = False
        self._agents_s = 0.0
        self._agents_delay_s = AGENTS_S
        self._watching = Errand(self._background)
        #: the agents that were there at the last look, by the keys of their heartbeats
        self._beats: dict[str, Heartbeat] = {}

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way."""
        return self._looking.busy

    def due_s(self, now_s: float) -> float:
        """In how many seconds the next look is due; a long time while one is under way."""
        if self._looking.busy:
            return self._longest_look_s
        return max(0.0, self._due_s - now_s)

    def look(self, wanted: list[Open], now_s: float) -> None:
        """Begin to look at these journals, unless a look is under way.

        Those of batches that are on their way are not looked at: nothing can have come of them.
        """
        if self._looking.busy:
            return
        carries = self.uploads.carries
        wanted = [one for one in wanted if not carries(one.batch)]
        self._idle = not wanted
        self._due_s = now_s + self._longest_look_s
        if wanted:
            self._looking.look(wanted)

    def looked(self, now_s: float, *, news: bool) -> None:
        """A look is over: the next one soon if there was news, later if not."""
        longer_s = min(self._delay_s * _GROWTH, self._longest_look_s)
        self._delay_s = FIRST_LOOK_S if news else longer_s
        self._due_s = now_s + self._delay_s

    def stored(self, now_s: float, took_s: float) -> None:
        """A batch is stored, which took so long.

        An agent claims it and publishes what came of it, in as long each at least; so that is when
        the first look may find something. One that comes earlier is for nothing, and with the next
        one after it the result would be late.
        """
        first_s = min(max(2 * took_s, SOONEST_LOOK_S), self._longest_look_s)
        self._delay_s = min(self._delay_s, max(first_s, FIRST_LOOK_S))
        if self._idle:
            self._idle = False
            self._delay_s = first_s
            self._due_s = now_s + first_s

    def watch(self, now_s: float) -> None:
        """Look at the agents, if that is due."""
        if not self._watching.busy and now_s - self._agents_s > self._agents_delay_s:
            self._agents_s = now_s
            self._agents_delay_s = min(self._agents_delay_s * _GROWTH, RARE_AGENTS_S)
            self._watching.begin(self._watch)

    def close(self) -> None:
        """End; what is not stored yet never will be."""
        self._ringing.end(self._background)
        self._background.close()

    def forget(self) -> None:
        """In a forked child, where the thread does not run: let go of it."""
        self._background.forget()

    async def _watch(self) -> None:
        try:
            self._tell(Seen(await self._read_agents()))
        except (StoreError, RecordError) as error:
            # It is asked again; and whoever waits for values meets what does not pass.
            _log.debug("the agents cannot be looked at: %s", error)

    async def _read_agents(self) -> list[Heartbeat]:
        """The agents there are. What an agent offers stays as it is, so each is read once."""
        keys = [entry.key for entry in await drive_async(self._store, list_agents())]
        fresh = tuple(key for key in keys if key not in self._beats)
        if fresh:
            beats = await drive_async(self._store, read_heartbeats(fresh))
            self._beats |= {layout.agent(beat.agent): beat for beat in beats}
        self._beats = {key: self._beats[key] for key in keys if key in self._beats}
        return list(self._beats.values())
