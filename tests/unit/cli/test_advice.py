from __future__ import annotations

import pytest

from cloudray.cli.advice import advise
from cloudray.protocol.joining import WrongKeyError
from cloudray.store import RecordError, StoreError, TransientStoreError
from cloudray.store.base import ClockError, CredentialsError, MissingBucketError, RefusedError

OURS = "s3://bucket/prefix?endpoint=http://here:9000"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("s3://bucket/prefix", "aws s3 mb s3://bucket"),
        (OURS, "aws s3 mb s3://bucket --endpoint-url http://here:9000"),
        ("gs://bucket/prefix", "gcloud storage buckets create gs://bucket"),
        ("az://box/prefix?account=me", "az storage container create --name box"),
    ],
)
def test_a_bucket_that_is_missing_is_made_by_a_command(address: str, command: str) -> None:
    assert advise(MissingBucketError("gone"), address) == f"Make it: {command}"


@pytest.mark.parametrize(
    ("error", "typed"),
    [
        (WrongKeyError("another"), "CLOUDRAY_KEY_FILE=FILE cloudray doctor s3://bucket"),
        (CredentialsError("over"), "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…"),
        (ClockError("late"), "timedatectl set-ntp true"),
        (RecordError("newer"), "pip install --upgrade cloudray"),
        (RefusedError("no"), "When that is mended: cloudray doctor s3://bucket"),
        (StoreError("odd"), "When that is mended: cloudray doctor s3://bucket"),
        (TransientStoreError("away"), "When that is mended: cloudray doctor s3://bucket"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_error_has_something_to_type(error: Exception, typed: str) -> None:
    assert typed in advise(error, "s3://bucket")


def test_a_service_that_does_not_answer_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TransientStoreError("away")
    assert advise(error, OURS).endswith("curl -sS http://here:9000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://there")
    assert advise(error, "s3://bucket").endswith("curl -sS http://there")


def test_addresses_are_quoted_for_the_shell() -> None:
    address = "s3://bucket/prefix?region=here&endpoint=http://h"
    assert advise(StoreError("odd"), address).endswith(f"cloudray doctor '{address}'")
