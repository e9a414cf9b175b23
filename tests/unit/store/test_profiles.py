from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cloudray.store import StoreError
from cloudray.store.credentials import BotocoreCredentials
from cloudray.store.profiles import Profile, Source, read_profile, source_of

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

[profile signed-in]
login_session = arn:aws:iam::1:user/ada

[profile program]
credential_process = get-keys

[profile empty]
output = json

[profile elsewhere]
endpoint_url = http://s3.example:9000

[profile several]
endpoint_url = http://all.services:9000
services = mine

[services mine]
sqs =
  endpoint_url = http://only.sqs:9000
s3 =
  endpoint_url = http://only.s3:9000
"""
CONTAINER = Source("container")
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
    assert read_profile(environ | {"AWS_PROFILE": name}).for_botocore == name


def test_without_the_sdk_such_a_profile_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(StoreError, match=r"'sso' needs the AWS SDK: pip install 'cloudray\[aws\]'"):
        BotocoreCredentials("sso")


def test_a_profile_that_is_named_must_exist(environ: dict[str, str]) -> None:
    with pytest.raises(StoreError, match="names the profile 'missing', which neither"):
        read_profile(environ | {"AWS_PROFILE": "missing"})


def test_a_file_that_cannot_be_read_is_named(environ: dict[str, str]) -> None:
    file = Path(environ["HOME"]) / ".aws/config"
    file.write_text("no section = here")
    with pytest.raises(StoreError, match=f"cannot read {file}"):
        read_profile(environ)


@pytest.mark.parametrize(
    ("environ_of", "source"),
    [
        ({"AWS_ACCESS_KEY_ID": "key"}, Source("keys")),
        ({"AWS_SKIP_SIGNATURE": "true"}, Source("unsigned")),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}, Source("web identity", detail="/t")),
        ({"AWS_PROFILE": "sso"}, Source("sso", "sso")),
        # The role is taken with the keys of another profile.
        ({"AWS_PROFILE": "role"}, Source("file", "work", "credentials")),
        ({"AWS_PROFILE": "signed-in"}, Source("login", "signed-in")),
        ({"AWS_PROFILE": "program"}, Source("process", "program", "get-keys")),
        ({"AWS_PROFILE": "empty", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}, CONTAINER),
        ({"AWS_PROFILE": "empty"}, Source("machine")),
    ],
)
def test_it_is_known_where_credentials_come_from(
    environ: dict[str, str], environ_of: dict[str, str], source: Source
) -> None:
    found = source_of(environ | environ_of)
    name = Path(found.detail).name if found.kind == "file" else found.detail
    assert Source(found.kind, found.profile, name) == source


def test_roles_that_lead_in_a_circle_end(environ: dict[str, str]) -> None:
    (Path(environ["HOME"]) / ".aws/config").write_text(
        "[profile a]\nrole_arn = r\nsource_profile = b\n"
        "[profile b]\nrole_arn = r\nsource_profile = a\n"
    )
    assert source_of(environ | {"AWS_PROFILE": "a"}).kind == "machine"


def test_a_profile_may_name_the_endpoint(environ: dict[str, str]) -> None:
    profile = environ | {"AWS_PROFILE": "elsewhere"}
    assert read_profile(profile).config["endpoint"] == "http://s3.example:9000"
    for more in ({"AWS_ENDPOINT_URL": "http://x"}, {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}):
        assert "endpoint" not in read_profile(profile | more).config


def test_the_endpoint_of_s3_comes_before_that_of_all_services(environ: dict[str, str]) -> None:
    found = read_profile(environ | {"AWS_PROFILE": "several"})
    assert found.config["endpoint"] == "http://only.s3:9000"


@pytest.mark.parametrize(
    ("token_file", "for_botocore"),
    [({}, ""), ({"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "t"}, None)],
)
def test_credentials_from_a_url_need_the_sdk_unless_there_is_a_token_file(
    tmp_path: Path, token_file: dict[str, str], for_botocore: str | None
) -> None:
    environ = {"HOME": str(tmp_path), "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/x"}
    assert read_profile(environ | token_file).for_botocore == for_botocore
