"""A bucket for those who join from elsewhere."""

from __future__ import annotations

from tests.contract.conftest import bucket_url

__all__ = ["bucket_url"]
