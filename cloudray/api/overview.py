"""`settings`: what holds, and who said so."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cloudray import configuration, context
from cloudray.api import session, userfile
from cloudray.api.settings import NEW_CLUSTER, SETTINGS
from cloudray.api.sources import resolve, usual_timing

if TYPE_CHECKING:
    from cloudray.driver.session import Session

#: The settings that say what a cluster offers, by the name of the resource.
_OFFERS = {
    "CPU": "num_cpus",
    "memory": "memory",
}


#: Cells of a table that are longer (characters) push only their own row out of line.
_WIDEST = 30


class Settings(Mapping[str, Any]):
    """The value of each setting by name; shown, a table with where each comes from."""

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self._values = values
        self._sources = sources

    def source(self, name: str) -> str:
        """Where a value comes from: an argument, a variable, a file, the cluster, or default."""
        return self._sources[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        rows = [("setting", "value", "from"), *self._rows()]
        widths = [min(max(len(row[column]) for row in rows), _WIDEST) for column in range(2)]
        lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
        return "\n".join([*lines, _about_file()])

    def _repr_html_(self) -> str:
        from html import escape  # notebooks only

        def row(cells: tuple[str, ...], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        head = row(("setting", "value", "from"), "th")
        body = "".join(row(cells, "td") for cells in self._rows())
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        return f"{table}<p>{escape(_about_file())}</p>"

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        for name, value in self._values.items():
            yield name, SETTINGS[name].show(value), self._sources[name]


def settings() -> Settings:
    """The value of every setting, and where it comes from.

    In a driver that has joined a cluster: what holds. Before: what would hold if `init()` were
    called now without arguments; None is what only the cluster decides.

    Raises ValueError for a variable or file that `init` would refuse too.

    >>> import cloudray
    >>> cloudray.settings()["traceback"], cloudray.settings().source("traceback")
    ('short', 'default')
    """
    sources = configuration.sources()
    if sources is None:
        resolved = resolve({}, os.environ)
        chosen, sources = resolved.configuration, resolved.sources
    else:
        chosen = configuration.current()
    values = msgspec.structs.asdict(chosen)
    times = chosen.timing(usual_timing(chosen.address))
    # By its id alone, for whoever shows the table may not be alone.
    values["key"] = None if chosen.key is None else f"id {chosen.key.id}"
    found = dict(sources)
    values |= msgspec.structs.asdict(times)
    joined = session.joined()
    if joined is not None:
        _put_in_what_is(joined, values, found)
    return Settings({name: values[name] for name in SETTINGS}, found)


def _put_in_what_is(joined: Session, values: dict[str, Any], found: dict[str, str]) -> None:
    if joined.cluster is None:
        record = f"cluster {joined.address}"
        for name, setting in SETTINGS.items():
            if setting.applies == NEW_CLUSTER:
                values[name] = getattr(joined.client.settings, name)
                found[name] = record
        return
    storage = joined.cluster.storage
    values |= {
        "address": joined.address,
        "object_store_memory": storage.object_store_memory,
        "object_spilling_directory": storage.spill_directory,
    }
    for node in context.client().nodes():
        offered = node["Resources"]
        values |= {
            name: offered[resource] if resource == "CPU" else int(offered[resource])
            for resource, name in _OFFERS.items()
            if values[name] is None and resource in offered
        }


def _about_file() -> str:
    path = userfile.path_of(os.environ)
    if path is None:
        return "There is no file of settings, because this user has no home folder."
    return f"The file of settings is {path}{'' if path.exists() else ', which does not exist'}."
