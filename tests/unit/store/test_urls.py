from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloudray.store import DirectoryStore, MemoryStore, StoreError, open_store
from cloudray.store.objects import ObjectStore


def test_a_memory_store_is_shared_by_name() -> None:
    store = open_store("memory://test-urls/one")
    assert isinstance(store, MemoryStore)
    assert store.url == "memory://test-urls/one"
    assert open_store("memory://test-urls/one/") is store
    assert open_store("memory://test-urls/other") is not store
    assert open_store("memory://") is open_store("memory:///")


def test_a_file_url_is_a_durable_directory(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/a%20cluster")
    assert isinstance(store, DirectoryStore)
    assert store.url == f"file://{tmp_path}/a%20cluster"
    assert not store.inline
    store.put("key", b"body")
    assert (tmp_path / "a cluster" / "key").read_bytes() == b"body"


@pytest.mark.parametrize(("durable", "inline"), [("false", True), ("0", True), ("TRUE", False)])
def test_a_directory_is_durable_unless_told_otherwise(
    tmp_path: Path, durable: str, *, inline: bool
) -> None:
    assert open_store(f"file://{tmp_path}?durable={durable}").inline is inline


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/a/prefix/",
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-west-1",
        "gs://bucket/prefix",
        "az://container/prefix?account=name",
    ],
)
def test_object_storage_is_opened_without_a_request(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store = open_store(url)
    assert isinstance(store, ObjectStore)
    assert store.url == url
    assert not store.inline
    store.close()


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "write s3://bucket/prefix, gs://bucket/prefix"),
        ("ftp://host/folder", "write s3://bucket/prefix, gs://bucket/prefix"),
        ("bucket/prefix", "write s3://bucket/prefix"),
        ("/folder", "write file:///folder"),
        ("https://s3.example.com", "write s3://bucket?endpoint=https://s3.example.com"),
        ("s3://", "names no bucket: write s3://bucket"),
        ("gs:///prefix", "names no bucket: write gs://bucket"),
        ("s3://bucket/a/../b", "'a/../b' is not a key"),
        ("file://folder", "write file:///folder, with three slashes"),
        ("file:folder", "write file:///folder, with three slashes"),
        ("file:///folder?durable=perhaps", "durable=perhaps in .* is neither true nor false"),
        ("file:///folder?region=eu", "says region, .* a file:// URL takes durable"),
        ("s3://bucket?durable=1", "says durable, .* a s3:// URL takes client, endpoint, region"),
        ("s3://bucket#1", "says #1, which means nothing here"),
        ("s3://bucket?client=boto3", "client=boto3 in .* is neither obstore nor aiobotocore"),
        ("s3://My_Bucket/a", "names no bucket that there can be: 3 to 63 lower-case letters"),
        ("s3://127.0.0.1:9000/a", "write s3://bucket/prefix.endpoint=http://127.0.0.1:9000"),
        ("az://my_box", "names no bucket that there can be: a container has"),
        ("gs://Box", "names no bucket that there can be: 3 to 222"),
        ("s3://[bucket", "is no address of a cluster"),
        ("memory://name?a=b", "a memory:// URL takes nothing"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_advice(url: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice.replace("?endpoint", r"\?endpoint")):
        open_store(url)


def test_a_configuration_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(StoreError, match=r"cannot use az://container: .*[Aa]ccount"):
        open_store("az://container")


def test_opening_files_and_memory_loads_no_client_of_object_storage(tmp_path: Path) -> None:
    program = f"""
import sys
from cloudray.store import open_store
open_store("memory://").put("key", b"")
open_store("file://{tmp_path}").put("key", b"")
print(*(sys.modules.keys() & {{"obstore", "boto3", "botocore", "numpy"}}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert ran.stdout == "\n"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:hunter2@bucket/prefix",
        "s3://bucket?endpoint=https://admin:hunter2@s3.example.com",
        "s3://bucket?secret_access_key=hunter2",
        "az://box?sig=hunter2",
        "ftp://me:hunter2@host",
    ],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"\.\.\.") as raised:
        open_store(url)
    assert "hunter2" not in str(raised.value)


def test_a_service_of_ones_own_may_name_its_buckets_as_it_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    open_store("s3://My_Bucket").close()


def test_the_second_client_is_loaded_only_when_asked_for() -> None:
    program = """
import sys
from cloudray.store import open_store
open_store("s3://bucket").close()
assert not sys.modules.keys() & {"aiobotocore", "botocore", "boto3", "aiohttp"}
open_store("s3://bucket?client=aiobotocore").close()
print("aiobotocore" in sys.modules)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
    )
    assert ran.stdout == "True\n"


def test_without_the_second_client_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
    with pytest.raises(StoreError, match=r"pip install 'cloudray\[aws\]'"):
        open_store("s3://bucket?client=aiobotocore")
