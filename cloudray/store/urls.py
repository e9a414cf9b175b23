"""Opening a store by its URL."""

from __future__ import annotations

import re
import threading
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from cloudray import platform
from cloudray.store.base import Store, StoreError
from cloudray.store.keys import check_key
from cloudray.store.memory import MemoryStore

#: What may stand behind the question mark, by scheme.
_PARAMETERS = {
    "s3": {"endpoint", "region"},
    "gs": {"endpoint"},
    "az": {"endpoint", "account"},
    "file": {"durable", "memory", "spill"},
    "memory": set[str](),
}
_YES = {"1", "true", "yes"}
_NO = {"0", "false", "no"}
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+")
_memory_stores: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


def open_store(url: str) -> Store:
    """Open the raw backend at a URL.

    ``s3://bucket/prefix?endpoint=&region=``, ``gs://bucket/prefix``,
    ``az://container/prefix?account=``, ``file:///folder?durable=``, or ``memory://name``, which
    the process shares. Object storage takes credentials, and what the URL leaves out, from the
    environment (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) and ``~/.aws``. A folder in memory, which
    is not durable, may say how many bytes of it large values may take (``memory=``), and on which
    folder of a disk they lie otherwise (``spill=``).

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
    endpoint = query.get("endpoint")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ValueError(
            f"endpoint={endpoint} in {url!r} is no URL: write endpoint=http://{endpoint}"
        )
    place = Place(
        scheme,
        parts.netloc,
        prefix,
        endpoint=endpoint,
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


def _open_directory(url: str, parts: SplitResult, query: dict[str, str]) -> Store:
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ValueError(
            f"{url!r} does not name a directory from the root: write file:///folder, with three "
            f"slashes"
        )
    durable = query.get("durable", "true").lower()
    if durable not in _YES | _NO:
        raise ValueError(f"durable={durable} in {url!r} is neither true nor false")
    if not platform.capabilities.unix:
        raise StoreError(
            f"cannot use {url}: a cluster in a directory needs Linux, macOS or WSL. Use object "
            "storage (s3://bucket/prefix), or install WSL (`wsl --install`) and run this there."
        )
    root = Path(unquote(parts.path))
    if "memory" in query or "spill" in query:
        return _open_spilling(url, root, query, durable=durable in _YES)
    from cloudray.store.directory import DirectoryStore  # only what is asked for is loaded

    return DirectoryStore(root, durable=durable in _YES, url=url)


def _open_spilling(url: str, root: Path, query: dict[str, str], *, durable: bool) -> Store:
    if durable:
        raise ValueError(
            f"{url!r} says memory= or spill=, which is for folders in memory: add durable=false"
        )
    memory, spill = query.get("memory"), query.get("spill")
    if memory is not None and not memory.isdecimal():
        raise ValueError(f"memory={memory} in {url!r} is not a number of bytes")
    if spill is not None and not spill.startswith("/"):
        raise ValueError(f"spill={spill} in {url!r} does not name a folder from the root")
    from cloudray.store.spilling import SpillingStore

    return SpillingStore(
        root,
        None if spill is None else Path(spill),
        memory_bytes=None if memory is None else int(memory),
        url=url,
    )


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
    nearest = get_close_matches(scheme.lower(), _PARAMETERS, n=1)
    if scheme in {"http", "https"}:
        advice = f"for a service of your own write s3://bucket?endpoint={url}"
    elif scheme == "ray" or _HOST_AND_PORT.fullmatch(url):
        advice = f"there is no head node to connect to; clusters are places in storage: {known}"
    elif url.startswith("/"):
        advice = f"for this directory write file://{url}"
    elif nearest:
        advice = f"did you mean {nearest[0]}:// instead of {scheme}:?"
    else:
        advice = f"write {known}"
    return ValueError(f"{url!r} is no address of a cluster: {advice}")
