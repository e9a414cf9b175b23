"""Opening a store by its URL."""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from cloudray.store.base import Store
from cloudray.store.directory import DirectoryStore
from cloudray.store.keys import check_key
from cloudray.store.memory import MemoryStore

#: What may stand behind the question mark, by scheme.
_PARAMETERS = {
    "s3": {"endpoint", "region"},
    "gs": {"endpoint"},
    "az": {"endpoint", "account"},
    "file": {"durable"},
    "memory": set[str](),
}
_YES = {"1", "true", "yes"}
_NO = {"0", "false", "no"}
_memory_stores: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


def open_store(url: str) -> Store:
    """Open the raw backend at a URL.

    ``s3://bucket/prefix?endpoint=&region=``, ``gs://bucket/prefix``,
    ``az://container/prefix?account=``, ``file:///folder?durable=``, or ``memory://name``, which
    the process shares. Object storage takes credentials, and what the URL leaves out, from the
    environment (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) and ``~/.aws``.

    Raises `ValueError` when the URL names no store, `StoreError` when the store cannot be used.

    >>> open_store("memory://shared") is open_store("memory://shared")
    True
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    if scheme not in _PARAMETERS:
        raise _unknown(url, scheme)
    query = _query_of(url, parts)
    if scheme == "memory":
        return _open_memory(parts)
    if scheme == "file":
        return _open_directory(url, parts, query)
    from cloudray.store.clients import Place
    from cloudray.store.objects import ObjectStore

    if not parts.netloc:
        raise ValueError(
            f"{url!r} names no bucket: write {scheme}://bucket or {scheme}://bucket/prefix"
        )
    prefix = unquote(parts.path).strip("/")
    if prefix:
        check_key(prefix)
    place = Place(
        scheme,
        parts.netloc,
        prefix,
        endpoint=query.get("endpoint"),
        region=query.get("region"),
        account=query.get("account"),
    )
    return ObjectStore(place, url)


def _open_memory(parts: SplitResult) -> MemoryStore:
    name = f"{parts.netloc}{parts.path}".rstrip("/")
    with _memory_lock:
        if name not in _memory_stores:
            _memory_stores[name] = MemoryStore(f"memory://{name}")
        return _memory_stores[name]


def _open_directory(url: str, parts: SplitResult, query: dict[str, str]) -> DirectoryStore:
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ValueError(
            f"{url!r} does not name a directory from the root: write file:///folder, with three "
            f"slashes"
        )
    durable = query.get("durable", "true").lower()
    if durable not in _YES | _NO:
        raise ValueError(f"durable={durable} in {url!r} is neither true nor false")
    return DirectoryStore(Path(unquote(parts.path)), durable=durable in _YES, url=url)


def _query_of(url: str, parts: SplitResult) -> dict[str, str]:
    query = parse_qs(parts.query, keep_blank_values=True)
    unknown = query.keys() - _PARAMETERS[parts.scheme]
    if unknown or parts.fragment:
        known = ", ".join(sorted(_PARAMETERS[parts.scheme])) or "nothing"
        raise ValueError(
            f"{url!r} says {', '.join(sorted(unknown)) or '#' + parts.fragment}, which means "
            f"nothing here: a {parts.scheme}:// URL takes {known}"
        )
    return {name: values[-1] for name, values in query.items() if values[-1]}


def _unknown(url: str, scheme: str) -> ValueError:
    known = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"
    if scheme in {"http", "https"}:
        advice = f"for a service of your own write s3://bucket?endpoint={url}"
    elif not scheme and url.startswith("/"):
        advice = f"for this directory write file://{url}"
    else:
        advice = f"write {known}"
    return ValueError(f"{url!r} is no address of a store: {advice}")
