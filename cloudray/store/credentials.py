"""Getting AWS credentials through botocore, and saying how to renew them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudray.store.base import CredentialsError, StoreError, TransientStoreError
from cloudray.store.profiles import Source, source_of

#: obstore asks again five minutes before credentials end. botocore renews its own ten minutes
#: ahead, so being asked every minute it never hands out any that are about to end.
_KNOWN_FOR = timedelta(minutes=6)
EXTRA = "pip install 'cloudray[aws]'"
#: Codes by which services say that credentials have ended.
EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException")
_RENEWABLE = {
    "CredentialRetrievalError",
    "LoginError",
    "LoginRefreshRequired",
    "LoginTokenLoadError",
    "SSOError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_WRONG = {"InvalidConfigError", "PartialCredentialsError", "ProfileNotFound", "ConfigParseError"}
#: Codes of a role that cannot be taken because what asks for it has ended.
_UNAUTHORIZED = ("UnauthorizedException", "InvalidGrantException", "InvalidClientTokenId")


def renewal(source: Source) -> str:  # noqa: PLR0911 - one for each source
    """Say what to do when credentials from there have ended.

    >>> renewal(Source("sso", "work"))
    'Run `aws sso login --profile work`.'
    """
    option = "" if source.profile in {None, "default"} else f" --profile {source.profile}"
    match source.kind:
        case "sso":
            return f"Run `aws sso login{option}`."
        case "login":
            return f"Run `aws login{option}`."
        case "file":
            return (
                f"Write new ones into the section [{source.profile}] of {source.detail}, "
                "which is read again."
            )
        case "process":
            return f"See why this does not return new ones: {source.detail}"
        case "keys":
            return (
                "They are in the environment of this process (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN): set them anew in os.environ, or start "
                "it again with new ones."
            )
        case "web identity":
            return f"The token in {source.detail} must be renewed by whoever writes that file."
        case "role":
            return f"See why the role of the profile {source.profile!r} cannot be taken."
        case _:
            return "See that this machine or container still has its role."


def expired(environ: Mapping[str, str], said: str = "") -> CredentialsError:
    """The error that says whose credentials have ended, and what to run."""
    source = source_of(environ)
    whose = "" if source.profile is None else f" of the profile {source.profile!r}"
    more = f" ({said})" if said else ""
    return CredentialsError(f"the AWS credentials{whose} have expired. {renewal(source)}{more}")


class BotocoreCredentials:
    """What obstore calls for credentials when a profile needs botocore to get them."""

    def __init__(self, name: str) -> None:
        """Nothing is asked for yet; `name` is a profile, or empty for what the environment says.

        Raises `StoreError` when botocore is not installed.
        """
        try:
            import botocore.session  # noqa: F401
        except ImportError as error:
            whose = f"the AWS profile {name!r} needs" if name else "credentials from a URL need"
            raise StoreError(f"{whose} the AWS SDK: {EXTRA}") from error
        self._name = name
        self._credentials: Any = None

    def __call__(self) -> dict[str, Any]:
        """Get credentials, which botocore keeps as long as they are good.

        Raises `CredentialsError` when somebody must renew them, `StoreError` when the profile
        is wrong, `TransientStoreError` when a service that is asked cannot be reached.
        """
        try:
            frozen = self._frozen()
        except Exception as error:
            raise judge(error, os.environ) from error
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _KNOWN_FOR,
        }

    def _frozen(self) -> Any:
        from botocore.session import Session

        if self._credentials is None:
            self._credentials = Session(profile=self._name or None).get_credentials()
            if self._credentials is None:
                whose = f"the AWS profile {self._name!r}" if self._name else "the environment"
                raise StoreError(f"{whose} gives no credentials")
        return self._credentials.get_frozen_credentials()


def judge(error: Exception, environ: Mapping[str, str]) -> StoreError:
    """What an error means that botocore raised while it was getting credentials."""
    if isinstance(error, StoreError):
        return error
    said = " ".join(str(error).split())[:300]
    kind = type(error).__name__
    code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
    if kind in _RENEWABLE or code in EXPIRED or code in _UNAUTHORIZED:
        return expired(environ, said)
    if kind in _WRONG or code:
        return StoreError(f"cannot get AWS credentials: {said}")
    return TransientStoreError(f"cannot get AWS credentials, perhaps for now: {said}")
