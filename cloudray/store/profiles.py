"""What `~/.aws` and the environment say about AWS: which credentials, region and endpoint.

The chain is that of the AWS SDKs: keys in the environment, then the profile, then the role of the
container or the machine. obstore knows the first and the last; what a profile needs beyond plain
keys (SSO, other roles, a command) botocore gets (`cloudray.store.credentials`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cloudray.store.base import StoreError

#: The variables that name an endpoint of S3; the first that is set counts.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
#: With any of these set, obstore finds credentials by itself, and no profile counts.
_OWN_WAYS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
#: The variables that name a profile, in botocore's order.
_NAMES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")
_STATIC = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
#: Settings of a profile whose credentials only botocore can get, in its order.
_FOR_BOTOCORE = (
    "role_arn",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "login_session",
    "credential_process",
)
_CONTAINER = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"}
_ENDPOINT_OF_S3 = re.compile(r"^\s*endpoint_url\s*=\s*(\S+)", re.MULTILINE)


class Profile(msgspec.Struct, frozen=True):
    """What a profile adds to the environment."""

    #: settings of obstore's S3 store
    config: dict[str, str] = {}
    #: the profile's name when botocore must get its credentials; empty when it must get those that
    #: the environment tells of; None when obstore can get them itself
    for_botocore: str | None = None


class Source(msgspec.Struct, frozen=True):
    """Where this process has its AWS credentials from, so that messages can say how to renew."""

    #: ``keys``, ``web identity``, ``unsigned``: the environment; ``sso``, ``login``, ``process``,
    #: ``role``, ``file``: a profile; ``container``, ``machine``
    kind: str
    #: the profile; None when there is none
    profile: str | None = None
    #: the command or file, where one counts
    detail: str = ""


def read_profile(environ: Mapping[str, str]) -> Profile:
    """Read the profile that `AWS_PROFILE` names, else ``default``.

    Raises `StoreError` when a profile that is named does not exist.

    >>> read_profile({"AWS_ACCESS_KEY_ID": "key", "HOME": "/nowhere"}).config
    {}
    """
    name, settings = _chosen(environ)
    config: dict[str, str] = {}
    if "region" in settings and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environ.keys():
        config["region"] = settings["region"]
    endpoint = _endpoint_of(settings, environ)
    if endpoint:
        config["endpoint"] = endpoint
    if any(environ.get(way) for way in _OWN_WAYS):
        return Profile(config)
    if any(key in settings for key in _FOR_BOTOCORE):
        return Profile(config, name)
    if "aws_access_key_id" in settings:
        config |= {ours: settings[theirs] for theirs, ours in _STATIC.items() if theirs in settings}
        return Profile(config)
    return Profile(config, "" if _names_a_server(environ) else None)


def source_of(environ: Mapping[str, str]) -> Source:
    """Say where credentials come from, without getting them.

    Raises `StoreError` when a profile that is named does not exist.

    >>> source_of({"AWS_ACCESS_KEY_ID": "key", "HOME": "/nowhere"}).kind
    'keys'
    """
    name, settings = _chosen(environ)
    if environ.get("AWS_SKIP_SIGNATURE"):
        return Source("unsigned")
    if environ.get("AWS_ACCESS_KEY_ID"):
        return Source("keys")
    if token_file := environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return Source("web identity", detail=token_file)
    if found := _source_in(name, settings, environ):
        return found
    return Source("container" if _CONTAINER & environ.keys() else "machine")


def _source_in(  # noqa: PLR0911 - one for each kind
    name: str, settings: Mapping[str, str], environ: Mapping[str, str]
) -> Source | None:
    seen: set[str] = set()
    while "role_arn" in settings and name not in seen:
        # A role is taken with the credentials of another profile, which may be what has expired.
        seen.add(name)
        if token_file := settings.get("web_identity_token_file"):
            return Source("web identity", name, token_file)
        base = settings.get("source_profile", "")
        found = _settings_of(base, environ) if base else None
        if found is None:
            return Source("role", name, settings.get("credential_source", ""))
        name, settings = base, found
    if {"sso_session", "sso_start_url"} & settings.keys():
        return Source("sso", name)
    if "login_session" in settings:
        return Source("login", name)
    if "aws_access_key_id" in settings:
        return Source("file", name, str(_files(environ)[1]))
    if "credential_process" in settings:
        return Source("process", name, settings["credential_process"])
    return None


def _names_a_server(environ: Mapping[str, str]) -> bool:
    """Whether credentials come from a URL, but without the token file that obstore wants."""
    return bool(environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) and not environ.get(
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
    )


def _chosen(environ: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the name of the profile that counts, and its settings."""
    variable = next((name for name in _NAMES if environ.get(name)), None)
    name = "default" if variable is None else environ[variable]
    settings = _settings_of(name, environ)
    if settings is None and variable is not None:
        raise StoreError(
            f"{variable} names the profile {name!r}, which neither ~/.aws/config nor "
            f"~/.aws/credentials has. Make it with 'aws configure --profile {name}'."
        )
    return name, settings or {}


def named_endpoint(environ: Mapping[str, str]) -> str | None:
    """The endpoint of S3 that variables name."""
    return next((environ[name] for name in ENDPOINTS if environ.get(name)), None)


def _endpoint_of(settings: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """The endpoint of S3 that a profile configures, where nothing else says one."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    if named_endpoint(environ):
        return None
    if "services" in settings:
        services = _section(_files(environ)[0], f"services {settings['services']}") or {}
        # Nested settings are one text of several lines.
        if found := _ENDPOINT_OF_S3.search(services.get("s3", "")):
            return found[1]
    return settings.get("endpoint_url")


def _files(environ: Mapping[str, str]) -> tuple[Path, Path]:
    home = Path(environ["HOME"] if "HOME" in environ else Path.home()) / ".aws"
    config = environ.get("AWS_CONFIG_FILE") or home / "config"
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"
    return Path(config).expanduser(), Path(credentials).expanduser()


def _settings_of(name: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    config, credentials = _files(environ)
    found = [_section(config, f"profile {name}"), _section(credentials, name)]
    if found[0] is None and name == "default":
        found[0] = _section(config, name)
    if found == [None, None]:
        return None
    return {key: value for settings in found if settings for key, value in settings.items()}


def _section(path: Path, name: str) -> dict[str, str] | None:
    if not path.is_file():
        return None
    from configparser import Error, RawConfigParser

    parser = RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    return dict(parser.items(name)) if parser.has_section(name) else None
