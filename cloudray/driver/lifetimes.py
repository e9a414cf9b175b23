"""What is still named, in a cluster that ends with its driver; what nothing names is freed.

The unit is a batch, with its journal and the objects that its tasks return, or one value stored
by `put`; both are named by 25 bytes. A unit stays while something pins it:

- a ref in the driver (its anchor) or in an executor (which tells its agent, which tells us);
- an unfinished batch whose tasks name it, as an argument or inside one;
- a stored value with a ref to it inside, for as long as that value stays.

Why nothing is freed too early: every pin is taken while another one still holds. A driver's own
pins are taken within its calls. An executor's come over one ordered stream, through its agent,
in which the taking of a ref stands before the end of what it was taken from: the end of a task
before which its arguments' refs were taken, the dropping of a container after its content was.
So a unit is freed only when that stream has brought its beginning and its end. When an agent
dies, the rest of its stream is lost: what executors may have known is then kept for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from cloudray import ids
from cloudray.protocol import journal as journals
from cloudray.protocol import messages as m
from cloudray.protocol.journal import Journal
from cloudray.protocol.records import Verb, Word
from cloudray.store import layout
from cloudray.values import codec


class Unit:
    """What is known of one batch or stored value."""

    __slots__ = (
        "born",
        "chained",
        "contains",
        "entries",
        "finished",
        "held",
        "names",
        "objects",
        "own",
        "pins",
        "shared",
        "tangled",
    )

    def __init__(self, *, own: bool) -> None:
        #: how many others keep it
        self.pins = 0
        #: refs to it live in this process; that is one pin
        self.held = False
        #: submitted or stored by this process
        self.own = own
        #: its beginning is known, so that its end may be believed
        self.born = own
        #: it has no tasks, or all of them have ended
        self.finished = False
        #: entries in its journal
        self.entries = 0
        #: units that its tasks name, pinned until it is finished
        self.names: set[bytes] = set()
        #: some of its tasks name others of them
        self.chained = False
        #: some of its values contain refs to others of them
        self.tangled = False
        #: units that its values contain refs to, pinned until it is freed
        self.contains: set[bytes] = set()
        #: keys of its large values, with the id that each is the value of
        self.objects: dict[str, bytes] = {}
        #: an executor may have, or have had, a ref to it
        self.shared = False


class Lifetimes:
    """Counts what pins each unit, and collects what may be removed.

    Not thread-safe: its client holds a lock.
    """

    def __init__(self) -> None:
        self._units: dict[bytes, Unit] = {}
        #: units that executors hold refs to
        self._borrowed: dict[str, set[bytes]] = {}
        #: batches with large values, of which some may go before the others
        self._with_objects: set[bytes] = set()
        #: by batch and task, the large arguments that only this task names
        self._arguments: dict[bytes, dict[int, bytes]] = {}
        self._agent_was_lost = False
        #: keys of objects to be removed
        self._free_objects: list[str] = []
        #: batches that nothing names any more, with the numbers of their journals' entries
        self._ended: list[tuple[bytes, int]] = []
        #: ... and since when
        self._free_journals: deque[tuple[float, bytes, int]] = deque()

    def __len__(self) -> int:
        """How many units are alive."""
        return len(self._units)

    def __contains__(self, unit: bytes) -> bool:
        """Whether a unit is alive."""
        return unit in self._units

    def is_born(self, unit: bytes) -> bool:
        """Whether a unit is alive, and not merely named by a ref that is older than its end."""
        known = self._units.get(unit)
        return known is not None and known.born

    # -- what the driver does -----------------------------------------------------------------

    def hold(self, unit: bytes) -> None:
        """There are refs to a unit in this process from now on."""
        known = self._unit(unit)
        if not known.held:
            known.held = True
            known.pins += 1

    def let_go(self, unit: bytes) -> None:
        """There are no refs to a unit in this process any more."""
        known = self._units.get(unit)
        if known is not None and known.held:
            known.held = False
            self._unpin(unit, known)

    def stored(self, unit: bytes, key: str, contains: Iterable[bytes]) -> None:
        """The driver has stored a value, with refs to these inside."""
        known = self.own(unit)
        known.finished = True
        known.objects[key] = unit
        self._contain(known, unit, contains)

    def submitted(self, unit: bytes, names: Iterable[bytes], shared: Iterable[bytes]) -> None:
        """The driver submits a task of this batch, which names these; `shared` inside arguments."""
        known = self.own(unit)
        self._name(known, unit, names)
        for identifier in shared:
            self._units[ids.unit_of(identifier)].shared = True

    def passed(self, unit: bytes, index: int, arguments: bytes) -> None:
        """A task has large arguments that were stored for it alone: they go when it has ended."""
        self.submitted(unit, (arguments,), ())
        self._arguments.setdefault(unit, {})[index] = ids.unit_of(arguments)

    def pin(self, unit: bytes) -> None:
        """A ref has got out of sight: keep its unit for good."""
        self._unit(unit).pins += 1

    def own(self, unit: bytes) -> Unit:
        """A unit that the driver stores."""
        known = self._unit(unit)
        known.own = known.born = True
        return known

    def disown(self, unit: bytes) -> None:
        """A batch could not be stored, and nobody has a ref to it; it may be tried again."""
        known = self._units.get(unit)
        if known is not None and not (known.pins or known.names or known.finished):
            del self._units[unit]

    # -- what the agent tells ------------------------------------------------------------------

    def hear(self, message: m.Message) -> None:
        """Take in what the agent says of its executors' refs; anything else is not for us."""
        if isinstance(message, m.Begun):
            self.begun(message.unit, message.worker, held=message.held, names=message.names)
        elif isinstance(message, m.Kept):
            self.kept(message.unit, message.worker, held=message.held, contains=message.contains)
        elif isinstance(message, m.Valued):
            self.valued(message.unit, message.contains, {key: one for one, key in message.objects})
        elif isinstance(message, m.Handled):
            self.handled(message.worker, message.taken, message.dropped, message.pinned)
        elif isinstance(message, m.Left):
            self.left(message.worker)

    def begun(self, unit: bytes, worker: str, *, held: bool, names: Collection[bytes]) -> None:
        """An executor has submitted a batch."""
        known = self._born(unit, worker, held=held)
        self._name(known, unit, names)
        for identifier in names:
            self._units[ids.unit_of(identifier)].shared = True

    def kept(self, unit: bytes, worker: str, *, held: bool, contains: Iterable[bytes]) -> None:
        """An executor has stored a value."""
        known = self._born(unit, worker, held=held)
        known.finished = True
        known.objects[layout.put_object(ids.object_id(unit, ids.PUT_INDEX))] = unit
        self._contain(known, unit, contains)
        self._consider(unit, known)

    def valued(self, unit: bytes, contains: Iterable[bytes], objects: dict[str, bytes]) -> None:
        """A task of a batch has ended: what its values contain, and where the large ones are."""
        known = self._units.get(unit)
        if known is None:
            return
        self._contain(known, unit, contains)
        if objects:
            known.objects.update(objects)
            self._with_objects.add(unit)

    def published(self, message: m.Published) -> None:
        """A batch's journal has grown."""
        if message.entry is not None and message.batch in self._arguments:
            self.ended(message.batch, message.entry.words)
        if message.complete:
            self.finished(message.batch, message.next)

    def ended(self, unit: bytes, words: Iterable[Word]) -> None:
        """What an entry of a batch's journal says of its tasks."""
        arguments = self._arguments.get(unit)
        if arguments is None:
            return
        known = self._units[unit]
        for word in words:
            # What was said in place of an attempt may leave that running: the batch's end counts.
            if word.verb is Verb.DONE or (word.verb is Verb.FAILED and word.attempt >= 0):
                name = arguments.pop(word.index, None)
                if name in known.names:
                    known.names.remove(name)
                    self._unpin(name, self._units[name])

    def finished(self, unit: bytes, entries: int) -> None:
        """All tasks of a batch have ended; its journal has so many entries."""
        known = self._units.get(unit)
        if known is None or known.finished:
            return
        known.finished = True
        known.entries = entries
        self._arguments.pop(unit, None)
        names, known.names = known.names, set()
        for name in names:
            self._unpin(name, self._units[name])
        self._consider(unit, known)

    def handled(
        self, worker: str, taken: Iterable[bytes], dropped: Iterable[bytes], pinned: Iterable[bytes]
    ) -> None:
        """An executor has got its first ref to some units, or lost its last one."""
        for unit in pinned:
            self._unit(unit).shared = True
            self.pin(unit)
        for unit in taken:
            self._borrow(worker, unit, self._unit(unit))
        mine = self._borrowed.get(worker, set())
        for unit in dropped:
            if unit in mine:
                mine.remove(unit)
                self._unpin(unit, self._units[unit])

    def left(self, worker: str) -> None:
        """An executor has ended, and its refs with it."""
        for unit in self._borrowed.pop(worker, ()):
            self._unpin(unit, self._units[unit])

    def agent_lost(self) -> None:
        """The rest of an agent's stream is lost: keep what its executors may have known."""
        for known in self._units.values():
            if known.shared or not known.own:
                known.pins += 1
        for worker in list(self._borrowed):
            self.left(worker)
        self._agent_was_lost = True

    def read(self, journal: Journal) -> None:
        """The driver has read a complete journal: the word of that may have died with an agent."""
        known = self._units.get(journal.batch)
        if not self._agent_was_lost or known is None or known.shared or not journal.is_over:
            return
        for index, word in journal.decided.items():
            for number, value in enumerate(word.values):
                key = codec.stored_key(value)
                if key is not None:
                    known.objects[key] = ids.object_id(journal.batch, index, number)
        if known.objects:
            self._with_objects.add(journal.batch)
        self.finished(journal.batch, journal.next)

    # -- freeing -------------------------------------------------------------------------------

    def free_values(self, unit: bytes, gone: Collection[bytes]) -> None:
        """Refs to these values of a batch are gone, though not to all of them."""
        known = self._units.get(unit)
        if known is None or known.pins > 1 or known.tangled:
            return
        if known.chained and not known.finished:
            # Somebody else may still need some value of the batch; it is not known which.
            return
        for key in [key for key, identifier in known.objects.items() if identifier in gone]:
            del known.objects[key]
            self._free_objects.append(key)
        if not known.objects:
            self._with_objects.discard(unit)

    def take_free(self, now_s: float, patience_s: float) -> tuple[str, ...]:
        """The keys to be removed now: objects at once, journals `patience_s` after their end."""
        objects, self._free_objects = self._free_objects, []
        while self._free_journals and self._free_journals[0][0] <= now_s - patience_s:
            _, batch, entries = self._free_journals.popleft()
            objects += [journals.key(batch, number) for number in range(entries)]
        for batch, entries in self._ended:
            self._free_journals.append((now_s, batch, entries))
        self._ended.clear()
        return tuple(objects)

    @property
    def restless(self) -> bool:
        """Whether there is, or may soon be, something to remove."""
        return bool(self._with_objects or self._free_objects or self._ended or self._free_journals)

    @property
    def may_shrink(self) -> bool:
        """Whether anything is alive that others than the driver's own refs keep so."""
        return any(not known.finished or known.pins > known.held for known in self._units.values())

    @property
    def with_objects(self) -> list[bytes]:
        """Batches that have large values."""
        return list(self._with_objects)

    def _consider(self, unit: bytes, known: Unit) -> None:
        waiting = [(unit, known)]
        while waiting:
            unit, known = waiting.pop()
            if known.pins or unit not in self._units:
                continue
            if not known.born:
                if not known.contains:
                    # Nothing but a ref told of it; should its beginning come yet, it comes again.
                    del self._units[unit]
                continue
            if not known.finished:
                continue
            del self._units[unit]
            self._with_objects.discard(unit)
            self._free_objects += known.objects
            if known.entries:
                self._ended.append((unit, known.entries))
            for inner in known.contains:
                content = self._units[inner]
                content.pins -= 1
                waiting.append((inner, content))

    def _unpin(self, unit: bytes, known: Unit) -> None:
        known.pins -= 1
        if not known.pins:
            self._consider(unit, known)

    # -- inside --------------------------------------------------------------------------------

    def _unit(self, unit: bytes) -> Unit:
        known = self._units.get(unit)
        if known is None:
            known = self._units[unit] = Unit(own=False)
        return known

    def _born(self, unit: bytes, worker: str, *, held: bool) -> Unit:
        known = self._unit(unit)
        known.born = known.shared = True
        if held:
            self._borrow(worker, unit, known)
        return known

    def _borrow(self, worker: str, unit: bytes, known: Unit) -> None:
        known.shared = True
        mine = self._borrowed.setdefault(worker, set())
        if unit not in mine:
            mine.add(unit)
            known.pins += 1

    def _name(self, known: Unit, unit: bytes, names: Iterable[bytes]) -> None:
        if known.finished:
            return
        for identifier in names:
            name = ids.unit_of(identifier)
            if name == unit:
                known.chained = True
            elif name not in known.names:
                known.names.add(name)
                self._unit(name).pins += 1

    def _contain(self, known: Unit, unit: bytes, contains: Iterable[bytes]) -> None:
        for identifier in contains:
            content = ids.unit_of(identifier)
            self._unit(content).shared = True
            if content == unit:
                known.tangled = True
            elif content not in known.contains:
                known.contains.add(content)
                self._unit(content).pins += 1
