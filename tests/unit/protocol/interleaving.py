"""All orders in which the operations of a few procedures can reach one store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cloudray.store import Reliable
from cloudray.store.procedures import Procedure

#: What takes part, by name; made anew for every order.
Cast = dict[str, Procedure[Any]]


def all_orders(make: Callable[[], tuple[Reliable, Cast]]) -> Iterator[tuple[Reliable, str]]:
    """Let the procedures run in every order; yields the store afterwards, and the order.

    An order is told by the first letters of whose operation came next.
    """
    open_: list[tuple[str, ...]] = [()]
    while open_:
        prefix = open_.pop()
        store, cast = make()
        waiting: dict[str, Any] = {}
        for name, procedure in list(cast.items()):
            _go_on(waiting, name, procedure, None)
        order: list[str] = []
        while waiting:
            names = sorted(waiting)
            if len(order) < len(prefix):
                name = prefix[len(order)]
            else:
                name = names[0]
                open_ += [(*order, other) for other in names[1:]]
            order.append(name)
            _go_on(waiting, name, cast[name], store.perform(waiting.pop(name)))
        yield store, "".join(name[0] for name in order)


def _go_on(waiting: dict[str, Any], name: str, procedure: Procedure[Any], answer: Any) -> None:
    try:
        waiting[name] = procedure.send(answer)
    except StopIteration:
        return
