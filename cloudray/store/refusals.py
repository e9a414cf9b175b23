"""What an error of object storage means: an answer, a passing trouble, or a refusal."""

from __future__ import annotations

import os
import re
from typing import Any, TypeGuard
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from cloudray.store.base import (
    UNCHANGED,
    ClockError,
    Create,
    CredentialsError,
    Delete,
    Get,
    GetIfChanged,
    Head,
    MissingBucketError,
    Op,
    RefusedError,
    StoreError,
    Tagged,
    TransientStoreError,
)
from cloudray.store.clients import Place, endpoint_of
from cloudray.store.clocks import describe_skew, skew_in
from cloudray.store.credentials import EXPIRED, expired, renewal
from cloudray.store.profiles import Source, source_of
from cloudray.store.regions import region_in, region_of
from cloudray.store.wording import doing

_STATUS = re.compile(r"status code: (\d{3})")
_ASKED = re.compile(r"Error performing \w+ (\S+) in ")
_PROVIDER = re.compile(r"External AWS credential provider: (\w+): (.*)")
_TOKEN_FILE = re.compile(r"Failed to read (?:EKS )?token file '([^']*)'")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_EXPIRED = re.compile(
    "|".join(EXPIRED) + r"|token (?:is|has) expired|Lifetime validation failed", re.IGNORECASE
)
_ELSEWHERE = re.compile(
    r"incorrectly configured region|AuthorizationHeaderMalformed|PermanentRedirect"
)
#: Signs of a request that will fail the same way every time, and what to do about it.
_HINTS = {
    "InvalidBucketName": "No bucket can have this name.",
    "InvalidAccessKeyId": "The service does not know this access key.",
    "SignatureDoesNotMatch": "The secret access key is wrong.",
}
_CREDENTIALS = (
    "Check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the "
    "machine's role; GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_*) and that they may list the "
    "bucket and get, put and delete objects in it."
)
_REFUSED = {401, 403}
_MOVED = {301, 307, 308}
#: Statuses by which a service says that it does not do such a thing.
_UNABLE = {400, 405, 411, 413, 501}
#: 400s that are troubles of the connection.
_BROKEN_UPLOAD = re.compile(r"RequestTimeout|IncompleteBody|BadDigest")
_OUT_OF_RANGE = 416
#: Who hands out the credentials of machines and containers.
_CREDENTIAL_HOSTS = re.compile(
    r"169\.254\.\d+\.\d+|\[?fd00:ec2::\w+\]?|sts\..*|metadata\.google\.internal"
)
#: Why a connection was not made, as obstore's dump of sources has it.
_REASONS = {
    "Connection refused": "connection refused",
    "failed to lookup address": "there is no such host",
    "InvalidContentType": "it does not speak TLS: write http:// in the endpoint",
    "UnknownIssuer": "its certificate is not signed by anybody known here",
    "CertNotValidForName": "its certificate is for another name",
    "Network is unreachable": "there is no network",
    "TimedOut": "it does not answer in time",
    "operation timed out": "it does not answer in time",
}
_SIGN_IN = {
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY (or another of AZURE_STORAGE_*)",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws configure`",
}


class Said(msgspec.Struct, frozen=True):
    """What a client library said of a request that failed."""

    #: in one line
    text: str
    #: of HTTP; 0 when nobody answered
    status: int = 0
    #: the object, or the bucket, is not there
    absent: bool = False
    #: nothing of the kind will ever succeed
    hopeless: bool = False
    #: why nobody could be reached; empty when somebody answered, or it is not known
    unreached: str = ""
    #: who was asked, when it was not the store but one who hands out credentials
    asked: str = ""
    #: there are no credentials at all
    nameless: bool = False


def interpret(op: Op, error: Exception, url: str, place: Place, *, proven: bool = False) -> Any:
    """Return the answer that an error of obstore is.

    `proven`: credentials have worked before, so that there being none is a passing trouble.

    Raises `StoreError` when the store will never do this, `TransientStoreError` when it may, and
    its kinds `CredentialsError` and `ClockError` when it will as soon as somebody has acted.
    """
    from obstore import exceptions

    text = brief(error)
    if isinstance(error, exceptions.AlreadyExistsError) and isinstance(op, Create):
        return False  # 412; or 409, although nobody may hold the key
    if isinstance(error, exceptions.NotModifiedError):
        return UNCHANGED
    if provided := _PROVIDER.search(text):
        raise _of_provider(*provided.groups()) from error
    asked = found[1] if (found := _ASKED.search(text)) else ""
    said = Said(
        text,
        status=int(found[1]) if (found := _STATUS.search(text)) else 0,
        absent=isinstance(error, FileNotFoundError),
        hopeless=isinstance(error, exceptions.NotSupportedError | ValueError),
        unreached=_why_unreached(str(error)),
        asked=asked if _gives_credentials(asked) else "",
        nameless=_TOKEN_FILE.search(text) is not None,
    )
    return judge(op, said, error, url, place, proven=proven)


def judge(  # noqa: C901 - one line for each thing that can be wrong
    op: Op, said: Said, error: Exception, url: str, place: Place, *, proven: bool
) -> Any:
    """Return the answer that an error is. Raises what `interpret` does."""
    text = said.text
    if said.asked or said.nameless:
        raise _without_credentials(said, url, place, proven=proven) from error
    if _NO_BUCKET.search(text) or (
        said.absent and not isinstance(op, Get | GetIfChanged | Head | Delete)
    ):
        raise MissingBucketError(
            f"{doing(op)} failed: there is no bucket at {url}. Make it, or mend the URL."
        ) from error
    if said.absent:
        return None
    if said.status == _OUT_OF_RANGE and isinstance(op, Get):
        return b""
    if said.status == _OUT_OF_RANGE and isinstance(op, GetIfChanged):
        return Tagged(b"", "")
    if _EXPIRED.search(text):
        raise _expired(place) from error
    if "RequestTimeTooSkewed" in text:
        raise ClockError(
            f"{doing(op)} at {url} was refused: {describe_skew(skew_in(text))}"
        ) from error
    if _ELSEWHERE.search(text) or said.status in _MOVED:
        raise StoreError(
            f"{doing(op)} at {url} failed. {_where(text, url, place)} ({text})"
        ) from error
    hint = next((hint for sign, hint in _HINTS.items() if sign in text), "")
    if said.status in _REFUSED or "AccessDenied" in text:
        raise RefusedError(
            f"{doing(op)} at {url} was refused. {hint or _CREDENTIALS} ({text})"
        ) from error
    if hint or said.hopeless or (said.status in _UNABLE and not _BROKEN_UPLOAD.search(text)):
        hint = hint and f"{hint} "
        raise StoreError(f"{doing(op)} at {url} failed. {hint}({text})") from error
    if said.unreached:
        raise TransientStoreError(
            f"{doing(op)} at {url} failed, perhaps for now: {_service(place)} cannot be reached "
            f"({said.unreached}). Check the network and the endpoint."
        ) from error
    raise TransientStoreError(f"{doing(op)} at {url} failed, perhaps for now: {text}") from error


def tells_nothing(op: Op, error: StoreError) -> TypeGuard[Head]:
    """Whether to ask in another way: an answer to HEAD has no body that would say what is wrong."""
    return isinstance(op, Head) and not isinstance(error, TransientStoreError)


def brief(error: Exception) -> str:
    """Cut from an error of obstore the dump of its sources."""
    text, _, _ = str(error).partition("\n\nDebug source")
    return " ".join(text.split())[:500]


def _why_unreached(dump: str) -> str:
    if "kind: Connect" not in dump:
        return ""
    return next((reason for sign, reason in _REASONS.items() if sign in dump), "no connection")


def _gives_credentials(asked: str) -> bool:
    """Whether a URL is not the store's, but of one who hands out credentials."""
    if asked in {"", "REDACTED"}:
        # What is asked of STS has a token in it, which obstore does not show.
        return bool(asked)
    given = [os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")]
    given.append(os.environ.get("AWS_METADATA_ENDPOINT", ""))
    if any(uri and asked.startswith(uri) for uri in given):
        return True
    return _CREDENTIAL_HOSTS.fullmatch(urlsplit(asked).hostname or "") is not None


def _of_provider(kind: str, text: str) -> StoreError:
    """The error that our own provider of credentials raised, which obstore has put into words."""
    kinds = {"CredentialsError": CredentialsError, "StoreError": StoreError}
    return kinds.get(kind, TransientStoreError)(text)


def _without_credentials(said: Said, url: str, place: Place, *, proven: bool) -> StoreError:
    source = source_of(os.environ) if place.scheme == "s3" else Source("machine")
    if source.kind == "machine" and not proven:
        return StoreError(
            f"there are no credentials for {url}: none in the environment, no profile, and no "
            f"role of this machine. To give some, {_SIGN_IN[place.scheme]}."
        )
    return CredentialsError(
        f"cannot get credentials for {url} from the {source.kind}. {renewal(source)} ({said.text})"
    )


def _expired(place: Place) -> CredentialsError:
    if place.scheme == "s3":
        return expired(os.environ)
    return CredentialsError(
        f"the credentials have expired. To renew them, {_SIGN_IN[place.scheme]}."
    )


def _where(text: str, url: str, place: Place) -> str:
    region = region_in(text) or region_of(place)
    if region is None:
        return "The bucket is in another region: name it, ?region=..."
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | {"region": region}
    right = parts._replace(query=urlencode(query, safe=":/")).geturl()
    return f"The bucket is in {region}: write {right}"


def _service(place: Place) -> str:
    known = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Storage"}
    return endpoint_of(place) or known[place.scheme]
