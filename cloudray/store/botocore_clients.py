"""Clients of S3 by aiobotocore, and what their errors mean."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from cloudray.store.base import UNCHANGED, Adopt, Create, Op, StoreError
from cloudray.store.clients import (
    CONNECT_TIMEOUT_S,
    CREATE_TIMEOUT_S,
    TIMEOUT_S,
    Place,
    endpoint_of,
)
from cloudray.store.credentials import EXTRA
from cloudray.store.credentials import judge as judge_credentials
from cloudray.store.refusals import Said, judge

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

#: Attempts of the steady client. `Reliable` goes on where they end.
ATTEMPTS = 4
#: Connections of each client.
CONNECTIONS = 64
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_TAKEN = {409, 412}
_NOT_MODIFIED = 304
_REFUSED_CONNECTION = re.compile(r"\[([^\[\]]+)\]\s*$")


def check_installed() -> None:
    """Raise `StoreError` when aiobotocore is not installed."""
    try:
        import aiobotocore.session  # noqa: F401
    except ImportError as error:
        raise StoreError(f"?client=aiobotocore needs a package that is missing: {EXTRA}") from error


def make_session() -> Any:
    """Make a session, from which clients have their credentials; it reads the files of `~/.aws`."""
    from aiobotocore.session import AioSession

    session = AioSession()
    session.register_component("data_loader", _descriptions())
    return session


@cache
def _descriptions() -> Any:
    """The descriptions of AWS's services: reading them takes longer than all else of a client."""
    from botocore.loaders import create_loader

    return create_loader()


def make_client(session: Any, place: Place, *, once: bool) -> AbstractAsyncContextManager[Any]:
    """Make a client, which sends nothing yet; one that tries `once`, or one that retries.

    Raises what botocore raises for a configuration that is none.
    """
    from aiobotocore.config import AioConfig

    endpoint = endpoint_of(place)
    region = (
        place.region
        or os.environ.get("AWS_REGION")  # which botocore does not know
        or session.get_config_variable("region")
        or "us-east-1"
    )
    config = AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=CREATE_TIMEOUT_S if once else TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1 if once else ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # Services that only speak S3's protocol refuse what they do not know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint else None,
        signature_version=_unsigned() if os.environ.get("AWS_SKIP_SIGNATURE") else None,
        http_session_cls=_once_class() if once else _session_class(),
    )
    client: AbstractAsyncContextManager[Any] = session.create_client(
        "s3", region_name=region, endpoint_url=endpoint, config=config
    )
    return client


def send_at_once(client: Any) -> None:
    """Let bodies follow their headers, without asking first whether they may: a round trip less."""
    from botocore.handlers import add_expect_header

    client.meta.events.unregister("before-call.s3", add_expect_header)


def _unsigned() -> Any:
    from botocore import UNSIGNED

    return UNSIGNED


def _session_class() -> Any:
    from aiobotocore.httpsession import AIOHTTPSession

    return AIOHTTPSession


def _once_class() -> Any:
    from aiobotocore.httpsession import AIOHTTPSession

    class Once(AIOHTTPSession):  # type: ignore[misc,unused-ignore] # it may lack types
        """Sends a request once: aiohttp would send it again where a kept connection was cut.

        What comes of that is a refusal by our own write, of which botocore knows nothing: its
        `RetryAttempts` is 0. `Reliable` takes every refusal for uncertain, so this is one
        question saved, not what makes a create right.
        """

        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False  # noqa: SLF001 - it has no public name
            return session

    return Once


def errors() -> tuple[type[Exception], ...]:
    """What requests may raise."""
    from aiohttp import ClientError as NetworkError
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (
        BotoCoreError,
        ClientError,
        ResponseParserError,
        NetworkError,
        OSError,
        ValueError,
        RecursionError,
    )


def interpret(  # noqa: C901 - a case for each kind
    op: Op, error: Exception, url: str, place: Place, *, proven: bool
) -> Any:
    """Return the answer that an error of aiobotocore is.

    Raises what `cloudray.store.refusals.interpret` does.
    """
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            response = error.response
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if isinstance(op, Create) and status in _TAKEN:
                return False
            if status == _NOT_MODIFIED:
                return UNCHANGED
            said = _said(error, status)
        case exceptions.NoCredentialsError():
            said = Said(str(error), nameless=True)
        case FileNotFoundError() if not isinstance(op, Adopt):
            # The file with a token that is to be exchanged for credentials.
            said = Said(str(error), nameless=True)
        case exceptions.EndpointConnectionError() | exceptions.ConnectTimeoutError():
            said = Said(_words(error), unreached=_why(error))
        case (
            exceptions.HTTPClientError()
            | exceptions.ConnectionError()
            | exceptions.IncompleteReadError()
        ):
            said = Said(_words(error))
        case exceptions.BotoCoreError() if _concerns_credentials(error):
            raise judge_credentials(error, os.environ) from error
        case exceptions.BotoCoreError() | ValueError():
            said = Said(_words(error), hopeless=True)
        case RecursionError():
            # botocore asks where a bucket is, which is redirected too.
            said = Said("PermanentRedirect: the service redirects for ever", hopeless=True)
        case _:
            # aiohttp's, for a body that broke off, and those of sockets
            said = Said(_words(error))
    return judge(op, said, error, url, place, proven=proven)


def _said(error: Any, status: int) -> Said:
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    # Region, and the two times of a clock that is wrong, stand beside code and message.
    more = " ".join(
        f"<{name}>{value}</{name}>"
        for name, value in details.items()
        if name in {"Region", "RequestTime", "ServerTime"}
    )
    text = f"{status or ''} {code}: {details.get('Message', '')} {more}".strip()
    return Said(" ".join(text.split())[:500], status, absent=code in _ABSENT)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _why(error: Exception) -> str:
    text = str(error.__context__ or error)
    if "Connect call failed" in text or "Connection refused" in text:
        return "connection refused"
    if "Name or service not known" in text or "nodename nor servname" in text:
        return "there is no such host"
    if "certificate" in text.lower():
        return "its certificate is not accepted"
    found = _REFUSED_CONNECTION.search(text)
    return found[1] if found else "no connection"


def _concerns_credentials(error: Exception) -> bool:
    names = ("Credential", "SSO", "Login", "Token", "Profile", "InvalidConfig", "Metadata")
    return any(name in type(error).__name__ for name in names)
