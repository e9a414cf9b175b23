"""What to type next when `cloudray doctor` finds that something does not work."""

from __future__ import annotations

import os
import shlex
from urllib.parse import urlsplit

from cloudray.protocol.joining import WrongKeyError
from cloudray.store import RecordError
from cloudray.store.base import (
    ClockError,
    CredentialsError,
    MissingBucketError,
    TransientStoreError,
)
from cloudray.store.credentials import renewal
from cloudray.store.profiles import named_endpoint, source_of
from cloudray.store.urls import endpoint_in


def advise(error: Exception, address: str) -> str:
    """What to do about an error that the cluster at `address` gave."""
    again = f"cloudray doctor {shlex.quote(address)}"
    endpoint = endpoint_of(address)
    advice = f"When that is mended: {again}"
    match error:
        case MissingBucketError():
            advice = _make_bucket(address)
        case WrongKeyError():
            advice = f"With the right key: CLOUDRAY_KEY_FILE=FILE {again}"
        case CredentialsError() if urlsplit(address).scheme == "s3":
            advice = how_to_renew()
        case ClockError():
            advice = "Set the clock: timedatectl set-ntp true"
        case RecordError():
            advice = "Use the version of the others: pip install --upgrade cloudray"
        case TransientStoreError() if endpoint:
            advice = f"See whether anything answers there: curl -sS {shlex.quote(endpoint)}"
    return advice


def how_to_renew() -> str:
    """How whoever types commands gets new credentials for S3."""
    source = source_of(os.environ)
    if source.kind == "keys":
        names = "AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… AWS_SESSION_TOKEN=…"
        return f"Set new ones: export {names}"
    return renewal(source)


def endpoint_of(address: str) -> str:
    """The service that speaks S3's protocol, if it is not AWS; empty if it is, or another."""
    parts = urlsplit(address)
    if parts.scheme != "s3":
        return ""
    return endpoint_in(parts) or named_endpoint(os.environ) or ""


def _make_bucket(address: str) -> str:
    """The command that makes the bucket of an address.

    >>> _make_bucket("gs://bucket/prefix")
    'Make it: gcloud storage buckets create gs://bucket'
    """
    parts = urlsplit(address)
    if parts.scheme == "gs":
        return f"Make it: gcloud storage buckets create gs://{parts.netloc}"
    if parts.scheme == "az":
        return f"Make it: az storage container create --name {parts.netloc}"
    endpoint = endpoint_of(address)
    option = f" --endpoint-url {shlex.quote(endpoint)}" if endpoint else ""
    return f"Make it: aws s3 mb s3://{parts.netloc}{option}"
