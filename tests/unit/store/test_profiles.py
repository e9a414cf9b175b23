from __future__ import annotations

from pathlib import Path

import pytest

from cloudray.store import StoreError
from cloudray.store.profiles import Profile, boto3_credentials, read_profile

CONFIG = """
[default]
region = eu-west-1

[profile work]
region = us-west-2

[profile sso]
sso_session = company

[profile role]
role_arn = arn:aws:iam::1:role/name
source_profile = work
"""
CREDENTIALS = """
[default]
aws_access_key_id = default-key
aws_secret_access_key = default-secret

[work]
aws_access_key_id = work-key
aws_secret_access_key = work-secret
aws_session_token = work-token
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(CONFIG)
    (tmp_path / ".aws/credentials").write_text(CREDENTIALS)
    return {"HOME": str(tmp_path)}


def test_without_files_a_profile_adds_nothing(tmp_path: Path) -> None:
    assert read_profile({"HOME": str(tmp_path)}) == Profile()


def test_the_default_profile_is_read(environ: dict[str, str]) -> None:
    assert read_profile(environ).config == {
        "region": "eu-west-1",
        "access_key_id": "default-key",
        "secret_access_key": "default-secret",
    }


def test_a_named_profile_is_read(environ: dict[str, str]) -> None:
    assert read_profile(environ | {"AWS_PROFILE": "work"}).config == {
        "region": "us-west-2",
        "access_key_id": "work-key",
        "secret_access_key": "work-secret",
        "session_token": "work-token",
    }


def test_the_environment_comes_first(environ: dict[str, str]) -> None:
    environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_REGION": "eu-north-1"}
    assert read_profile(environ) == Profile()


def test_the_files_may_be_elsewhere(tmp_path: Path, environ: dict[str, str]) -> None:
    elsewhere = {
        "HOME": "/nowhere",
        "AWS_CONFIG_FILE": str(tmp_path / ".aws/config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / ".aws/credentials"),
    }
    assert read_profile(elsewhere) == read_profile(environ)


@pytest.mark.parametrize("name", ["sso", "role"])
def test_some_profiles_need_the_sdk(environ: dict[str, str], name: str) -> None:
    assert read_profile(environ | {"AWS_PROFILE": name}).for_boto3 == name


def test_without_the_sdk_such_a_profile_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(StoreError, match="'sso' needs the AWS SDK: pip install boto3"):
        boto3_credentials("sso")


def test_a_profile_that_is_named_must_exist(environ: dict[str, str]) -> None:
    with pytest.raises(StoreError, match="names the profile 'missing', which neither"):
        read_profile(environ | {"AWS_PROFILE": "missing"})


def test_a_file_that_cannot_be_read_is_named(environ: dict[str, str]) -> None:
    file = Path(environ["HOME"]) / ".aws/config"
    file.write_text("no section = here")
    with pytest.raises(StoreError, match=f"cannot read {file}"):
        read_profile(environ)
