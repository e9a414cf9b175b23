"""AWS credentials and region from `~/.aws`, which obstore does not read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cloudray.store.base import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: With any of these set, obstore finds credentials by itself.
_OWN_WAYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_STATIC = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
#: Settings of a profile whose credentials only the AWS SDK can get.
_FOR_THE_SDK = ("role_arn", "sso_session", "sso_start_url", "credential_process")


class Profile(msgspec.Struct, frozen=True):
    """What a profile adds to the environment."""

    #: settings of obstore's S3 store
    config: dict[str, str] = {}
    #: the profile's name when boto3 must get its credentials
    for_boto3: str | None = None


def read_profile(environ: Mapping[str, str]) -> Profile:
    """Read the profile that `AWS_PROFILE` names, else ``default``.

    Raises `StoreError` when a profile that is named does not exist.

    >>> read_profile({"AWS_ACCESS_KEY_ID": "key"}).config
    {}
    """
    name = environ.get("AWS_PROFILE", "default")
    settings = _settings_of(name, environ)
    if settings is None:
        if "AWS_PROFILE" not in environ:
            return Profile()
        raise StoreError(
            f"AWS_PROFILE names the profile {name!r}, which neither ~/.aws/config nor "
            f"~/.aws/credentials has. Make it with 'aws configure --profile {name}'."
        )
    config: dict[str, str] = {}
    if "region" in settings and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environ.keys():
        config["region"] = settings["region"]
    if any(way in environ for way in _OWN_WAYS):
        return Profile(config)
    if "aws_access_key_id" in settings:
        config |= {ours: settings[theirs] for theirs, ours in _STATIC.items() if theirs in settings}
        return Profile(config)
    return Profile(config, name if any(key in settings for key in _FOR_THE_SDK) else None)


def _settings_of(name: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    home = Path(environ["HOME"] if "HOME" in environ else Path.home()) / ".aws"
    config = environ.get("AWS_CONFIG_FILE", home / "config")
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")
    section = name if name == "default" else f"profile {name}"
    found = [_section(config, section), _section(credentials, name)]
    if found == [None, None]:
        return None
    return {key: value for settings in found if settings for key, value in settings.items()}


def _section(path: str | Path, name: str) -> dict[str, str] | None:
    if not Path(path).is_file():
        return None
    from configparser import Error, RawConfigParser

    parser = RawConfigParser()
    try:
        parser.read(path)
    except Error as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    return dict(parser.items(name)) if parser.has_section(name) else None


def boto3_credentials(name: str) -> Any:
    """Make obstore's credential provider for a profile that needs the AWS SDK.

    Raises `StoreError` when boto3 is not installed.
    """
    try:
        from boto3 import Session  # type: ignore[import-untyped]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise StoreError(
            f"the AWS profile {name!r} needs the AWS SDK: pip install boto3"
        ) from error
    return Boto3CredentialProvider(Session(profile_name=name))
