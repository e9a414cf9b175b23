"""Clients of object storage: where the objects are, and how to ask for them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from cloudray.store.profiles import ENDPOINTS, named_endpoint, read_profile

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

#: One request may take this long, in seconds: a part on a line of four megabits per second, where
#: four of them travel at once. A create is small, and soon tried again.
TIMEOUT_S = 70
CREATE_TIMEOUT_S = 20
CONNECT_TIMEOUT_S = 5
#: Retries of the steady client, for at most so many seconds. `Reliable` goes on where they end.
RETRIES = 6
RETRY_S = 60
#: Parts of one large body that travel at once.
UPLOADS = 4


class Place(msgspec.Struct, frozen=True):
    """Where objects are."""

    #: ``s3``, ``gs`` or ``az``
    scheme: str
    #: bucket, or container on Azure
    bucket: str
    #: what stands before every key, without slashes around it
    prefix: str = ""
    #: the URL of the service when it is not the provider's own, e.g. ``http://127.0.0.1:4566``
    endpoint: str | None = None
    #: of the bucket, on S3
    region: str | None = None
    #: the storage account, on Azure
    account: str | None = None

    @property
    def is_express(self) -> bool:
        """Whether this is an S3 Express bucket, which lists in no order; its name says so."""
        return self.scheme == "s3" and self.bucket.endswith("--x-s3")


def connect(place: Place, *, once: bool) -> Client:
    """Make a client, which sends nothing yet; one that tries `once`, or one that retries."""
    from obstore.store import AzureStore, GCSStore, S3Store

    options: dict[str, Any] = {
        "retry_config": {
            "max_retries": 0 if once else RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=2),
            },
        },
        "client_options": {
            "timeout": timedelta(seconds=CREATE_TIMEOUT_S if once else TIMEOUT_S),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        },
        "prefix": place.prefix or None,
    }
    config: dict[str, Any]
    if place.scheme == "gs":
        config = {"base_url": place.endpoint}
        store: Any = GCSStore
    elif place.scheme == "az":
        config = {"endpoint": place.endpoint, "account_name": place.account}
        store = AzureStore
    else:
        for name in ENDPOINTS:
            if os.environ.get(name) == "":
                # As good as none, but the client would take it for a URL, and panic.
                del os.environ[name]
        profile = read_profile(os.environ)
        if profile.for_botocore is not None:
            from cloudray.store.credentials import BotocoreCredentials

            options["credential_provider"] = BotocoreCredentials(profile.for_botocore)
        config = {
            **profile.config,
            "endpoint": place.endpoint or profile.config.get("endpoint"),
            # This variable would win over `endpoint`.
            "aws_endpoint_url_s3": "AWS_ENDPOINT_URL_S3" in os.environ and place.endpoint,
            "s3_express": place.is_express,
        }
        if place.region:
            config["region"] = place.region
        store = S3Store
    if (config.get("endpoint") or endpoint_of(place) or "").startswith("http://"):
        options["client_options"]["allow_http"] = True
    options["config"] = {key: value for key, value in config.items() if value}
    client: Client = store(place.bucket, **options)
    return client


def endpoint_of(place: Place) -> str | None:
    """The URL of the service that the place or the environment names; None: the provider's own."""
    return place.endpoint or (named_endpoint(os.environ) if place.scheme == "s3" else None)
