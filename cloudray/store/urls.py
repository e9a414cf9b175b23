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
from cloudray.store.wording import public

#: What may stand behind the question mark, by scheme.
_PARAMETERS = {
    "s3": {"client", "endpoint", "region", "sqs"},
    "gs": {"endpoint", "sqs"},
    "az": {"endpoint", "account", "sqs"},
    "file": {"durable", "memory", "spill", "sqs"},
    "memory": set[str](),
}
_YES = {"1", "true", "yes"}
_NO = {"0", "false", "no"}
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+")
#: What buckets can be called, by scheme.
_RULES = {
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    "az": re.compile(r"[a-z0-9$][a-z0-9-]{1,61}[a-z0-9]"),
}
_NAMING = {
    "s3": "3 to 63 lower-case letters, digits, hyphens and dots",
    "gs": "3 to 222 lower-case letters, digits, hyphens, underscores and dots",
    "az": "a container has 3 to 63 lower-case letters, digits and hyphens",
}
_memory_stores: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


def open_store(url: str) -> Store:
    """Open the raw backend at a URL.

    ``s3://bucket/prefix?endpoint=&region=&client=``, ``gs://bucket/prefix``,
    ``az://container/prefix?account=``, ``file:///folder?durable=``, or ``memory://name``, which
    the process shares. Object storage takes credentials, and what the URL leaves out, from the
    environment (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) and ``~/.aws``. A folder in memory, which
    is not durable, may say how many bytes of it large values may take (``memory=``), and on which
    folder of a disk they lie otherwise (``spill=``). ``client=aiobotocore`` asks S3 by the AWS
    SDK, which knows more ways to credentials and through proxies, and is slower. ``sqs=`` names
    the queue by which a new cluster rings its agents, which is no matter of the store.

    Raises `ValueError` when the URL names no store, `StoreError` when the store cannot be used.

    >>> open_store("memory://shared") is open_store("memory://shared")
    True
    """
    parts = _split(url)
    scheme = parts.scheme
    if scheme not in _PARAMETERS:
        raise _unknown(url, scheme)
    query = _query_of(url, parts)
    if scheme == "memory":
        return _open_memory(parts)
    if scheme == "file":
        return _open_directory(url, parts, query)
    return _open_objects(url, parts, query)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{public(url)!r} is no address of a cluster: {error}") from None
    secret = "@" in parts.netloc or "@" in urlsplit(endpoint_in(parts)).netloc
    if secret:
        raise ValueError(
            f"{_shown(url, parts)!r} has credentials in it, and addresses are shown, logged and "
            "stored. Leave them out: CloudRay takes them from the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), from a profile (AWS_PROFILE), or from "
            "the role of the machine."
        )
    return parts


def endpoint_in(parts: SplitResult) -> str:
    """The endpoint that a URL names; empty when it names none."""
    return parse_qs(parts.query).get("endpoint", [""])[-1]


def _shown(url: str, parts: SplitResult) -> str:
    return public(url, _PARAMETERS.get(parts.scheme, set()))


def _open_objects(url: str, parts: SplitResult, query: dict[str, str]) -> Store:
    from cloudray.store.clients import Place, endpoint_of

    scheme, bucket = parts.scheme, parts.netloc
    if not bucket:
        raise ValueError(
            f"{url!r} names no bucket: write {scheme}://bucket or {scheme}://bucket/prefix"
        )
    if ":" in bucket:
        raise ValueError(
            f"{url!r} names a host in the place of the bucket: write "
            f"{scheme}://bucket/prefix?endpoint=http://{bucket}"
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
        bucket,
        prefix,
        endpoint=endpoint,
        region=query.get("region"),
        account=query.get("account"),
    )
    # Services of one's own may have other rules.
    rule = _RULES.get(scheme)
    if rule is not None and endpoint_of(place) is None and not rule.fullmatch(bucket):
        raise ValueError(f"{url!r} names no bucket that there can be: {_NAMING[scheme]}")
    client = query.get("client", "obstore")
    if client == "aiobotocore":
        from cloudray.store.botocore_objects import BotocoreStore

        return BotocoreStore(place, url)
    if client != "obstore":
        raise ValueError(f"client={client} in {url!r} is neither obstore nor aiobotocore")
    from cloudray.store.objects import ObjectStore

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
            f"{_shown(url, parts)!r} says {', '.join(sorted(unknown)) or '#' + parts.fragment}, "
            "which means "
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
