"""All stores that an exploration has seen, each kept once under a number."""

from __future__ import annotations

from typing import Any

from cloudray import ids
from cloudray.protocol.records import Batch, Claim, Word, unseal
from cloudray.protocol.results import Results
from cloudray.store import layout
from cloudray.store.base import Get, GetMany
from cloudray.store.layout import QueueName
from tests.model.oracle import Reading, read, read_one
from tests.model.world import Target, named


class Shelf:
    """Stores, how they follow from one another, and what they say."""

    def __init__(self, root: Batch) -> None:
        self._root = root
        self.objects: list[dict[str, bytes]] = []
        self._numbers: dict[frozenset[tuple[str, bytes]], int] = {}
        self._puts: dict[tuple[int, str, bytes], int] = {}
        self._readings: dict[int, Reading] = {}
        self._targets: dict[int, list[Target]] = {}
        #: what journals were resolved before, whatever the queue beside them
        self._resolved: set[frozenset[tuple[str, bytes]]] = set()

    def keep(self, objects: dict[str, bytes]) -> int:
        """The number of the store with these objects."""
        key = frozenset(objects.items())
        if key not in self._numbers:
            self._numbers[key] = len(self.objects)
            self.objects.append(objects)
        return self._numbers[key]

    def put(self, store: int, key: str, body: bytes) -> int:
        """The store that also holds this object."""
        known = self._puts.get((store, key, body))
        if known is None:
            known = self._puts[store, key, body] = self.keep({**self.objects[store], key: body})
        return known

    def delete(self, store: int, keys: tuple[str, ...]) -> int:
        """The store without these objects."""
        objects = self.objects[store]
        return self.keep({key: objects[key] for key in objects.keys() - set(keys)})

    def answer(self, store: int, op: object) -> Any:
        """What a read says, as something hashable."""
        objects = self.objects[store]
        match op:
            case Get():
                return objects.get(op.key)
            case GetMany():
                return tuple(objects.get(key) for key in op.keys)
        message = f"the model has no answer to {op}"
        raise AssertionError(message)

    def reading(self, store: int) -> Reading:
        """What the journals say, to the oracle."""
        if store not in self._readings:
            self._readings[store] = read(self.objects[store], self._root.id)
        return self._readings[store]

    def decided(self, store: int, batch: bytes) -> dict[int, Word]:
        """The words that decide in one journal, to the oracle."""
        found = self.reading(store).decided.get(batch)
        return read_one(self.objects[store], batch) if found is None else found

    def misread(self, store: int) -> str | None:
        """What a process gets wrong that resolves all refs now for the first time."""
        written = frozenset(
            line for line in self.objects[store].items() if not line[0].startswith(layout.QUEUE)
        )
        if written in self._resolved:
            return None
        self._resolved.add(written)
        for index in range(len(self._root.tasks)):
            follow = Results().follow(ids.object_id(self._root.id, index))
            answer: Any = None
            try:
                while True:
                    answer = self.answer(store, follow.send(answer))
            except StopIteration as stop:
                truth = self.reading(store).verdict(self._root.id, index)
                if stop.value != truth:
                    return f"task {index} is {truth}, and a reader sees {stop.value}"
        return None

    def targets(self, store: int) -> list[Target]:
        """What an agent finds that lists the queue and reads the last claims there."""
        if store not in self._targets:
            objects = self.objects[store]
            found = self._targets[store] = []
            for stem, last in self._last_claims(store).items():
                if layout.claim_of(stem, 0) in objects:
                    claim = layout.claim_of(stem, last)
                    holder = unseal(Claim, objects[claim], claim).agent if last else ""
                    found.append(Target(named(stem), last + 1, holder))
        return self._targets[store]

    def strays(self, store: int) -> list[tuple[QueueName, int]]:
        """Claims that lie there without their entry: the batch, and their last number."""
        return [
            (named(stem), last)
            for stem, last in self._last_claims(store).items()
            if layout.claim_of(stem, 0) not in self.objects[store]
        ]

    def _last_claims(self, store: int) -> dict[str, int]:
        last: dict[str, int] = {}
        for key in sorted(self.objects[store]):
            split = layout.parse_queue(key) if key.startswith(layout.QUEUE) else None
            if split is not None:
                last[split[0]] = max(split[1], last.get(split[0], 0))
        return last
