"""Code at a URL, read by the driver: whatever fsspec can open."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cloudray.code.archives import MAX_ENTRIES
from cloudray.code.wishes import is_archive
from cloudray.sizes import show_size

#: What each scheme needs beside fsspec.
_PACKAGES = {
    "s3": "s3fs (pip install 'cloudray[aws]')",
    "http": "aiohttp (pip install aiohttp)",
    "https": "aiohttp (pip install aiohttp)",
    "gs": "gcsfs (pip install gcsfs)",
    "az": "adlfs (pip install adlfs)",
    "abfs": "adlfs (pip install adlfs)",
}


def read(url: str, limit_bytes: int, cluster: str = "") -> bytes | dict[str, bytes]:
    """The file at a URL, if it names an archive, else the files under it by their names.

    `cluster` is the address of the cluster, whose endpoint and region are used for `s3://`.

    Raises ValueError when it cannot be read, is empty, or has more than `limit_bytes`.
    """
    import fsspec

    scheme = urlsplit(url).scheme
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **_options(scheme, cluster))
        if is_archive(url):
            return _file(filesystem, path, limit_bytes)
        return _folder(filesystem, path, limit_bytes)
    except ImportError as error:
        needed = _PACKAGES.get(scheme.partition("+")[0], "a package of fsspec's")
        raise ValueError(f"{url} cannot be read here without {needed}: {error}") from None
    except _Refused as refused:
        raise ValueError(f"{url} {refused}") from None
    except Exception as error:
        # Whatever filesystem it is, it has errors of its own.
        raise ValueError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


class _Refused(Exception):  # noqa: N818 - completes a sentence
    pass


def _file(filesystem: Any, path: str, limit_bytes: int) -> bytes:
    with filesystem.open(path, "rb") as file:
        # One more than allowed, whatever size it says it has.
        body: bytes = file.read(limit_bytes + 1)
        if len(body) > limit_bytes:
            raise _Refused(f"has more than the {show_size(limit_bytes)} that are allowed")
        return body


def _folder(filesystem: Any, path: str, limit_bytes: int) -> dict[str, bytes]:
    found: dict[str, Any] = filesystem.find(path, detail=True)
    if not found:
        raise _Refused("has no files: name a .zip file, or a folder with files in it")
    if len(found) > MAX_ENTRIES:
        raise _Refused(f"has more than {MAX_ENTRIES:,} files, which is more than code has")
    total = sum(facts.get("size") or 0 for facts in found.values())
    if total > limit_bytes:
        raise _Refused(f"has {show_size(total)}, and {show_size(limit_bytes)} are allowed")
    root = PurePosixPath(path)
    content: dict[str, bytes] = {}
    for name, body in filesystem.cat(list(found)).items():
        below = PurePosixPath(name)
        content[str(below.relative_to(root)) if below.is_relative_to(root) else below.name] = body
    return content


def _options(scheme: str, cluster: str) -> dict[str, Any]:
    address = urlsplit(cluster)
    if scheme != "s3" or address.scheme != "s3":
        return {}
    query = {name: values[-1] for name, values in parse_qs(address.query).items()}
    options: dict[str, Any] = {}
    if "endpoint" in query:
        options["endpoint_url"] = query["endpoint"]
    if "region" in query:
        options["client_kwargs"] = {"region_name": query["region"]}
    return options
