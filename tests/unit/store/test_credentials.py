"""Where credentials come from, by both clients, and what happens when they end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudray.store import (
    Create,
    Get,
    Head,
    Kind,
    List,
    Op,
    Reliable,
    Store,
    StoreError,
    TransientStoreError,
    open_store,
    seal,
)
from cloudray.store import clients as clients_module
from cloudray.store.base import CredentialsError
from cloudray.store.watch import Watch

from .http_service import Answer, Service, error, serve

OK = Answer(200)
EXPIRED = error(400, "ExpiredToken")
CREATE = Create("a/b", seal(Kind.PROBE, b"body"))
Open = Callable[[], Store]


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with serve() as service:
        yield service


@pytest.fixture
def service(server: Service) -> Service:
    server.will(OK)
    return server


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files that AWS's tools keep; and nothing of AWS in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    # Nobody is asked whether this is a machine of Amazon's.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(clients_module, "RETRIES", 0)
    return tmp_path


@pytest.fixture(params=["obstore", "aiobotocore"])
def open_it(request: pytest.FixtureRequest, service: Service) -> Iterator[Open]:
    """Open the store by one of the clients."""
    opened: list[Store] = []

    def open_it() -> Store:
        url = f"s3://bucket?endpoint={service.endpoint}&region=eu-west-1&client={request.param}"
        opened.append(open_store(url))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


def write_keys(files: Path, key: str, profile: str = "work") -> None:
    (files / "credentials").write_text(
        f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
        "aws_session_token = token\n"
    )


def keys_used(service: Service) -> list[str]:
    return [
        request.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for request in service.requests
    ]


def test_keys_of_the_environment_come_first(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(files, "theirs", "default")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    open_it().put("key", b"")
    assert keys_used(service) == ["mine"]


@pytest.mark.parametrize("variable", ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"])
def test_a_profile_is_used(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    write_keys(files, "work-key")
    monkeypatch.setenv(variable, "work")
    open_it().put("key", b"")
    assert keys_used(service) == ["work-key"]


def test_a_program_may_give_credentials(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"Version": 1, "AccessKeyId": "given", "SecretAccessKey": "secret"}
    (files / "given.json").write_text(json.dumps(given))
    (files / "config").write_text(f"[profile work]\ncredential_process = cat {files}/given.json\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    open_it().put("key", b"")
    assert keys_used(service) == ["given"]


def test_the_role_of_a_container_is_used(
    open_it: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.endpoint}/role")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token")
    service.will(Answer(200, json.dumps(role("container"))), OK)
    open_it().put("key", b"")
    asked, put = service.requests
    assert asked.path == "/role"
    assert "Credential=container/" in put.headers["authorization"]


def role(key: str) -> dict[str, str]:
    return {
        "AccessKeyId": key,
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": "2126-01-01T00:00:00Z",
    }


def test_the_role_of_a_machine_is_used(
    open_it: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", service.endpoint)  # obstore's name of it
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.endpoint)
    given = json.dumps({"Code": "Success", **role("machine")})
    service.will(Answer(200, "token"), Answer(200, "role"), Answer(200, given), OK)
    open_it().put("key", b"")
    assert "Credential=machine/" in service.requests[-1].headers["authorization"]


def test_a_token_file_is_exchanged_for_a_role(
    service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "token").write_text("who I am")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(files / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/work")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    given = (
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
        "<AccessKeyId>webby</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
        "<SessionToken>token</SessionToken><Expiration>2126-01-01T00:00:00Z</Expiration>"
        "</Credentials><AssumedRoleUser><AssumedRoleId>a</AssumedRoleId><Arn>b</Arn>"
        "</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
    service.will(Answer(200, given), OK)
    # By the other client too, but not over plain HTTP.
    store = open_store(f"s3://bucket?endpoint={service.endpoint}&client=aiobotocore")
    store.put("key", b"")
    store.close()
    assert "Credential=webby/" in service.requests[-1].headers["authorization"]


def test_without_any_credentials_it_says_how_to_give_some(open_it: Open) -> None:
    with pytest.raises(
        StoreError, match=r"there are no credentials for s3://bucket.*aws configure"
    ):
        open_it().get("key")


def test_a_profile_that_does_not_exist_is_named(
    open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(StoreError, match="missing") as raised:
        open_it().get("key")
    assert not isinstance(raised.value, TransientStoreError)


@pytest.mark.parametrize("op", [CREATE, List("a/b")])
def test_expired_credentials_say_what_to_do(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch, op: Op
) -> None:
    write_keys(files, "old")
    monkeypatch.setenv("AWS_PROFILE", "work")
    service.will(EXPIRED)
    with pytest.raises(CredentialsError, match=r"of the profile 'work' have expired. Write new"):
        open_it().perform(op)


def test_a_look_at_an_object_finds_out_what_was_refused(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(files, "old")
    monkeypatch.setenv("AWS_PROFILE", "work")
    service.will(EXPIRED)  # whose answer to HEAD has no body
    with pytest.raises(CredentialsError):
        open_it().perform(Head("a/b"))
    assert service.asked[-1] == "GET"


def test_an_expired_login_says_which_command_to_run(
    open_it: Open, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "config").write_text(
        "[profile work]\nsso_session = company\nsso_account_id = 123456789012\n"
        "sso_role_name = worker\n[sso-session company]\nsso_region = eu-west-1\n"
        "sso_start_url = https://company.invalid/start\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(CredentialsError, match=r"Run `aws sso login --profile work`\."):
        open_it().get("key")


@pytest.mark.parametrize("op", [CREATE, Get("a/b")])
def test_who_waits_goes_on_when_somebody_has_renewed_them(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch, op: Op
) -> None:
    write_keys(files, "old")
    monkeypatch.setenv("AWS_PROFILE", "work")
    service.will(EXPIRED)
    said: list[str] = []

    def sleep(_: float) -> None:
        # Somebody does what he was told to, after a while.
        if keys_used(service).count("old") >= 2:
            write_keys(files, "new")
            service.will(OK)

    store = Reliable(open_it(), sleep=sleep, watch=Watch("s3://bucket", said.append))
    store.perform(op)
    assert set(keys_used(service)) == {"new"}
    told, over = said
    assert "have expired. Write new ones" in told
    assert "answers again" in over


def test_who_waits_for_a_program_goes_on_when_it_gives_some_again(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "config").write_text(f"[profile work]\ncredential_process = cat {files}/given.json\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    pauses: list[float] = []

    def sleep(delay_s: float) -> None:
        pauses.append(delay_s)
        if len(pauses) == 2:
            given = {"Version": 1, "AccessKeyId": "given", "SecretAccessKey": "secret"}
            (files / "given.json").write_text(json.dumps(given))

    Reliable(open_it(), sleep=sleep).put("key", b"")
    assert keys_used(service) == ["given"]
    assert len(pauses) == 2


def test_a_token_file_that_is_gone_is_waited_for(
    open_it: Open, service: Service, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(files / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/work")
    with pytest.raises(CredentialsError, match=r"token in .*/token must be renewed"):
        open_it().get("key")
    assert service.asked == []


def test_credentials_that_have_worked_and_are_gone_may_come_back(
    open_it: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_it()
    store.put("key", b"")
    service.will(EXPIRED)
    with pytest.raises(CredentialsError, match=r"set them anew in os\.environ"):
        store.put("key", b"")
    # The next attempt reads the environment again, where there is nothing any more.
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError, match="still has its role"):
        store.put("key", b"")
