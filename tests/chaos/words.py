"""What the journals of a cluster say in the end, read without any client."""

from __future__ import annotations

from cloudray.protocol.records import Entry, Verb, unseal
from cloudray.store import Store


def final_words(store: Store, after: str = "t") -> dict[tuple[str, int], int]:
    """How many final words each task has that count: the first, by the order of the entries."""
    words: dict[tuple[str, int], int] = {}
    decided: set[tuple[str, int]] = set()
    entries: dict[str, list[tuple[int, str]]] = {}
    while page := store.list("t7/", after):
        for entry in page:
            if "/results/" in entry.key:
                stem, _, number = entry.key.rpartition(".")
                entries.setdefault(stem, []).append((int(number), entry.key))
        after = page[-1].key
    for stem, numbered in entries.items():
        assert [number for number, _ in sorted(numbered)] == list(range(len(numbered)))
        for _, key in sorted(numbered):
            body = store.get(key)
            assert body is not None
            for word in unseal(Entry, body, key).words:
                task = (stem, word.index)
                if word.verb not in (Verb.STARTED, Verb.MOVED) and task not in decided:
                    decided.add(task)
                    words[task] = words.get(task, 0) + 1
    return words
