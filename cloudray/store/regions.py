"""In which region a bucket is: a service tells it to whoever asks, without credentials."""

from __future__ import annotations

import re
from functools import lru_cache

from cloudray.store.clients import Place, endpoint_of

#: A service that does not answer within so many seconds is not waited for.
_TIMEOUT_S = 3.0
_AWS = "https://s3.amazonaws.com"
_TOLD = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'")


def region_in(refusal: str) -> str | None:
    """The region that a refusal of a service names.

    >>> region_in("the region 'us-east-1' is wrong; expecting 'eu-west-1'")
    'eu-west-1'
    """
    found = _TOLD.search(refusal)
    return None if found is None else found[1] or found[2]


@lru_cache(maxsize=16)
def region_of(place: Place) -> str | None:
    """Ask where a bucket is; None when the service does not say, or does not answer."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    url = f"{(endpoint_of(place) or _AWS).rstrip('/')}/{place.bucket}"
    if not url.startswith(("http://", "https://")):
        return None
    try:
        # The answer is mostly a refusal or a redirection without a place, which also tell.
        with urlopen(Request(url, method="HEAD"), timeout=_TIMEOUT_S) as answer:  # noqa: S310 - HTTP
            told: str | None = answer.headers.get("x-amz-bucket-region")
            return told
    except HTTPError as refusal:
        return refusal.headers.get("x-amz-bucket-region")
    except OSError:
        return None
