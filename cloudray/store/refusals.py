"""What an error of object storage means: an answer, a passing trouble, or a refusal."""

from __future__ import annotations

import re
from typing import Any

from cloudray.store.base import (
    Create,
    Delete,
    Get,
    Head,
    Op,
    StoreError,
    TransientStoreError,
)
from cloudray.store.wording import doing

_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
#: Signs of a request that will fail the same way every time, and what to do about it.
_HINTS = {
    "AuthorizationHeaderMalformed": "If the bucket is in another region, name it: ?region=...",
    "ExpiredToken": "The credentials have expired: renew them.",
    "InvalidBucketName": "No bucket can have this name.",
    "RequestTimeTooSkewed": "The clock of this machine is wrong: set it.",
    "incorrectly configured region": "The bucket is in another region: name it, ?region=...",
    "InvalidAccessKeyId": "The service does not know this access key.",
    "SignatureDoesNotMatch": "The secret access key is wrong.",
}
_CREDENTIALS = (
    "Check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the "
    "machine's role; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_*) and that they may list the "
    "bucket and get, put and delete objects in it."
)
_REFUSED = {401, 403}
#: Statuses by which a service says that it does not do such a thing.
_UNABLE = {400, 405, 411, 413, 501}
#: 400s that are troubles of the connection.
_BROKEN_UPLOAD = re.compile(r"RequestTimeout|IncompleteBody|BadDigest")
_OUT_OF_RANGE = 416


def interpret(op: Op, error: Exception, url: str) -> Any:
    """Return the answer that an error of obstore is.

    Raises `StoreError` when the store will never do this, `TransientStoreError` when it may.
    """
    from obstore import exceptions

    text = brief(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if isinstance(error, exceptions.AlreadyExistsError) and isinstance(op, Create):
        return False  # 412; or 409, although nobody may hold the key
    absent = isinstance(error, FileNotFoundError)
    if _NO_BUCKET.search(text) or (absent and not isinstance(op, Get | Head | Delete)):
        raise StoreError(
            f"{doing(op)} failed: there is no bucket at {url}. Make it, or mend the URL."
        ) from error
    if absent:
        return None
    if status == _OUT_OF_RANGE and isinstance(op, Get):
        return b""
    hint = next((hint for sign, hint in _HINTS.items() if sign in text), "")
    if status in _REFUSED or "AccessDenied" in text:
        raise StoreError(
            f"{doing(op)} at {url} was refused. {hint or _CREDENTIALS} ({text})"
        ) from error
    if (
        hint
        or isinstance(error, exceptions.NotSupportedError | ValueError)
        or (status in _UNABLE and not _BROKEN_UPLOAD.search(text))
    ):
        hint = hint and f"{hint} "
        raise StoreError(f"{doing(op)} at {url} failed. {hint}({text})") from error
    raise TransientStoreError(f"{doing(op)} at {url} failed, perhaps for now: {text}") from error


def brief(error: Exception) -> str:
    """Cut from an error of obstore the dump of its sources."""
    text, _, _ = str(error).partition("\n\nDebug source")
    return " ".join(text.split())[:500]
