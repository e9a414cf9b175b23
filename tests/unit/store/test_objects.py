from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socket import socket
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
import pytest

from cloudray.store import (
    Adopt,
    Create,
    Delete,
    Get,
    Head,
    Kind,
    List,
    Op,
    Put,
    Reliable,
    Store,
    StoreError,
    TransientStoreError,
    botocore_clients,
    objects,
    open_store,
    seal,
)
from cloudray.store import clients as clients_module
from cloudray.store.base import ClockError
from cloudray.store.clients import Place
from cloudray.store.objects import _LAST_REFERENCES, ObjectStore, _Page
from cloudray.store.regions import region_of

from .http_service import DROP, Answer, Service, error, serve

OURS = seal(Kind.PROBE, b"ours")
THEIRS = "CRAY" + "\0" * 4 + "theirs, and long" + "\0" * 40
OK = Answer(200)
#: A key of a service without accounts, as emulators of Google's are.
GOOGLE_KEY = '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}'
Perform = Callable[[Store, Op], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with serve() as service:
        yield service


@pytest.fixture(scope="module", autouse=True)
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An environment with keys and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def service(server: Service) -> Service:
    region_of.cache_clear()
    server.will(OK)
    return server


@pytest.fixture(scope="module", params=["obstore", "aiobotocore"])
def client(request: pytest.FixtureRequest) -> str:
    """What is asked for behind `client=`."""
    return str(request.param)


@pytest.fixture(scope="module")
def store(server: Service, client: str, environ: None) -> Iterator[Store]:  # noqa: ARG001 - it reads it
    """A store at the service; making one takes longer than most tests."""
    place = f"endpoint={server.endpoint}&region=eu-west-1&client={client}"
    store = open_store(f"s3://bucket/pre/fix?{place}")
    yield store
    store.close()


@pytest.fixture(scope="module")
def obstores(server: Service, environ: None) -> Iterator[Store]:  # noqa: ARG001 - it reads it
    """A store by the client that takes a prefix only as whole parts of a key."""
    store = open_store(f"s3://bucket/pre/fix?endpoint={server.endpoint}")
    yield store
    store.close()


def blocking(store: Store, op: Op) -> Any:
    return store.perform(op)


def on_event_loop(store: Store, op: Op) -> Any:
    return asyncio.run(store.perform_async(op))


@pytest.fixture(params=[blocking, on_event_loop])
def perform(request: pytest.FixtureRequest) -> Perform:
    chosen: Perform = request.param
    return chosen


CREATE = Create("a/b", OURS)


def test_a_create_is_a_put_on_condition(store: Store, service: Service, perform: Perform) -> None:
    assert perform(store, CREATE) is True
    [request] = service.requests
    assert (request.method, request.path) == ("PUT", "/bucket/pre/fix/a/b")
    assert request.headers["if-none-match"] == "*"
    assert request.body == OURS


@pytest.mark.parametrize(
    "no",
    [
        error(412, "PreconditionFailed"),
        error(409, "ConditionalRequestConflict"),
        error(409, "OperationAborted"),
    ],
)
def test_412_and_409_say_no(store: Store, service: Service, perform: Perform, no: Answer) -> None:
    service.will(no)
    assert perform(store, CREATE) is False
    assert service.asked == ["PUT"]


@pytest.mark.parametrize(
    "trouble",
    [
        error(500, "InternalError"),
        error(503, "SlowDown"),
        error(429, "TooManyRequests"),
        error(400, "RequestTimeout"),
        DROP,
    ],
)
def test_a_create_that_fails_is_sent_once(
    store: Store, service: Service, perform: Perform, trouble: Answer | None
) -> None:
    service.will(trouble)
    with pytest.raises(TransientStoreError, match=r"creating a/b at s3://bucket.* for now"):
        perform(store, CREATE)
    assert service.asked == ["PUT"]


REFUSALS = [
    (error(403, "AccessDenied"), "was refused. Check the credentials"),
    (error(403, "InvalidAccessKeyId"), "was refused. The service does not know this access key"),
    (error(403, "SignatureDoesNotMatch"), "was refused. The secret access key is wrong"),
    (error(401, "Unauthorized"), "was refused. Check the credentials"),
    (error(404, "NoSuchBucket"), "failed: there is no bucket at s3://bucket"),
    (
        Answer(301, "", {"x-amz-bucket-region": "eu-west-3"}),
        r"failed. The bucket is in eu-west-3: write s3://bucket/pre/fix\?endpoint=.*region=eu-west-3",
    ),
    (error(400, "AuthorizationHeaderMalformed"), "failed. The bucket is in another region"),
]


@pytest.mark.parametrize(("refusal", "advice"), REFUSALS)
@pytest.mark.parametrize("op", [CREATE, Put("a/b", b""), Get("a/b"), List("a/b")])
def test_a_refusal_is_final_and_says_what_to_do(
    store: Store, service: Service, op: Op, refusal: Answer, advice: str
) -> None:
    service.will(refusal)
    with pytest.raises(StoreError, match=advice) as raised:
        store.perform(op)
    assert not isinstance(raised.value, TransientStoreError)
    assert "Debug source" not in str(raised.value)


@pytest.mark.parametrize("op", [CREATE, Get("a/b"), Head("a/b")])
def test_a_wrong_clock_is_told_by_how_much_and_waited_for(
    store: Store, service: Service, op: Op
) -> None:
    times = (
        "<RequestTime>20260102T030405Z</RequestTime><ServerTime>2026-01-02T03:24:05Z</ServerTime>"
    )
    service.will(Answer(403, f"<Error><Code>RequestTimeTooSkewed</Code>{times}</Error>"))
    with pytest.raises(ClockError, match=r"20 min behind that of the store\. Set it"):
        store.perform(op)


def test_a_service_that_is_not_there_is_named(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "RETRIES", 0)
    monkeypatch.setattr(botocore_clients, "ATTEMPTS", 1)
    with closing(socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = open_store(f"s3://bucket?endpoint={endpoint}&client={client}")
        with pytest.raises(TransientStoreError) as raised:
            store.get("a/b")
        store.close()
    assert f"{endpoint} cannot be reached (connection refused). Check" in str(raised.value)


def test_a_host_that_does_not_exist_is_named(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients_module, "RETRIES", 0)
    monkeypatch.setattr(botocore_clients, "ATTEMPTS", 1)
    store = open_store(f"s3://bucket?endpoint=http://nobody.invalid&client={client}")
    with pytest.raises(TransientStoreError, match=r"nobody\.invalid cannot be reached \("):
        store.get("a/b")
    store.close()


def test_a_create_is_sent_once_on_a_connection_that_was_kept(
    store: Store, service: Service
) -> None:
    service.will(OK, DROP)
    assert store.perform(CREATE) is True
    with pytest.raises(TransientStoreError):
        store.perform(CREATE)
    assert service.asked == ["PUT", "PUT"]


@pytest.mark.parametrize("status", [405, 501])
def test_a_service_that_cannot_create_on_condition_says_so(
    store: Store, service: Service, perform: Perform, status: int
) -> None:
    service.will(error(status, "NotImplemented"))
    with pytest.raises(StoreError, match=f"creating a/b at s3://bucket.* failed. .*{status}"):
        perform(store, CREATE)


@pytest.mark.parametrize(
    ("op", "answer"),
    [(Get("a/b"), b"body"), (Put("a/b", b"body"), None)],
)
def test_all_else_is_sent_again(
    store: Store, service: Service, perform: Perform, op: Op, answer: Any
) -> None:
    service.will(error(503, "SlowDown"), DROP, Answer(200, "body" if answer else ""))
    assert perform(store, op) == answer
    assert len(service.requests) == 3


def test_what_keeps_failing_is_a_passing_trouble(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients_module, "RETRIES", 1)
    store = open_store(f"s3://bucket?endpoint={service.endpoint}")
    service.will(error(503, "SlowDown"))
    with pytest.raises(TransientStoreError, match="listing everything at s3://bucket"):
        store.list("")
    assert service.asked == ["GET", "GET"]


@pytest.mark.parametrize("op", [Get("a/b"), Get("a/b", 2, 3), Head("a/b"), Delete(("a/b",))])
def test_an_absent_object_is_none(store: Store, service: Service, perform: Perform, op: Op) -> None:
    service.will(error(404, "NoSuchKey"))
    assert perform(store, op) is None


def test_a_range_beyond_the_end_is_empty(store: Store, service: Service, perform: Perform) -> None:
    service.will(error(416, "InvalidRange"))
    assert perform(store, Get("a/b", 100, 200)) == b""
    assert service.requests[0].headers["range"] == "bytes=100-199"


def page(*keys: str, more: bool = False) -> Answer:
    contents = "".join(
        f"<Contents><Key>pre/fix/{key}</Key><LastModified>2015-10-21T07:28:00.000Z</LastModified>"
        f"<ETag>&quot;{key}&quot;</ETag><Size>5</Size></Contents>"
        for key in keys
    )
    token = "<NextContinuationToken>next</NextContinuationToken>" * more
    return Answer(
        200,
        f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}"
        f"</ListBucketResult>",
    )


def keys(entries: list[Any]) -> list[str]:
    return [entry.key for entry in entries]


def test_a_page_that_is_full_asks_for_no_more(
    store: Store, service: Service, perform: Perform
) -> None:
    service.will(page("a/1", "a/2", more=True))
    assert keys(perform(store, List("a/", limit=2))) == ["a/1", "a/2"]
    assert service.asked == ["GET"]


def test_a_listing_goes_on_while_there_is_more(
    store: Store, service: Service, perform: Perform
) -> None:
    service.will(page("a/1", "a/2", more=True), page("a/3"))
    assert keys(perform(store, List("a/"))) == ["a/1", "a/2", "a/3"]
    assert service.asked == ["GET", "GET"]


def test_a_listing_ends_where_its_prefix_does(
    obstores: Store, service: Service, perform: Perform
) -> None:
    service.will(page("a/11", "a/12", "a/2", more=True))
    assert keys(perform(obstores, List("a/1", limit=3))) == ["a/11", "a/12"]
    assert service.asked == ["GET"]


@pytest.mark.parametrize(
    ("op", "prefix", "start_after"),
    [
        (List("a/b/"), "pre/fix/a/b/", None),
        (List("a/b/", after="a/b/c"), "pre/fix/a/b/", "pre/fix/a/b/c"),
        (List("a/b"), "pre/fix/a/", "pre/fix/a/a~"),
        (List("a/0"), "pre/fix/a/", "pre/fix/a/.~"),
        (List("a/b", after="a/b/c"), "pre/fix/a/", "pre/fix/a/b/c"),
        (List("b"), "pre/fix/", "pre/fix/a~"),
        (List(""), "pre/fix/", None),
    ],
)
def test_a_listing_begins_as_near_as_it_can(
    obstores: Store, service: Service, op: List, prefix: str, start_after: str | None
) -> None:
    service.will(page())
    assert obstores.perform(op) == []
    query = parse_qs(urlsplit(service.requests[0].path).query)
    assert query["prefix"] == [prefix]
    assert query.get("start-after") == (start_after and [start_after])


def test_a_bucket_that_lists_in_no_order_is_sorted_here(obstores: Store, service: Service) -> None:
    assert isinstance(obstores, ObjectStore)
    service.will(page("a/3", "b", "a/1", more=True), page("a/2"))
    unordered = _Page(List("a/", after="a/1", limit=2), ordered=False)
    for chunk in unordered.stream(obstores._steady):
        assert not unordered.is_full_with(chunk)
    assert keys(unordered.entries()) == ["a/2", "a/3"]


def test_express_buckets_are_known_by_their_name() -> None:
    assert Place("s3", "bucket--use1-az4--x-s3").is_express
    assert not Place("s3", "bucket").is_express
    assert not Place("gs", "bucket--x-s3").is_express


def test_many_deletions_are_one_request(store: Store, service: Service, perform: Perform) -> None:
    deleted = "".join(f"<Deleted><Key>pre/fix/{key}</Key></Deleted>" for key in "abc")
    service.will(Answer(200, f"<DeleteResult>{deleted}</DeleteResult>"))
    assert perform(store, Delete(("a", "b", "c"))) is None
    assert service.asked == ["POST"]


def test_a_refusal_within_many_deletions_is_final(store: Store, service: Service) -> None:
    refused = "<Key>pre/fix/a</Key><Code>AccessDenied</Code><Message>no</Message>"
    service.will(Answer(200, f"<DeleteResult><Error>{refused}</Error></DeleteResult>"))
    with pytest.raises(StoreError, match=r"deleting a and 1 more .* was refused"):
        store.delete(["a", "b"])


def test_nothing_to_delete_is_no_request(store: Store, service: Service, perform: Perform) -> None:
    perform(store, Delete(()))
    assert service.asked == []


def test_where_deletions_are_single_an_absent_key_does_not_end_them(
    service: Service, perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DISABLE_BULK_DELETE", "true")
    store = open_store(f"s3://bucket?endpoint={service.endpoint}")
    service.will(error(404, "NoSuchKey"))
    perform(store, Delete(("a", "b", "c", "d")))
    assert {request.path for request in service.requests} == {f"/bucket/{key}" for key in "abcd"}
    store.close()


def test_a_file_whose_upload_failed_is_still_there(
    store: Store, service: Service, perform: Perform, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"body")
    service.will(error(403, "AccessDenied"))
    with pytest.raises(StoreError, match=r"adopting .*file as a/b"):
        perform(store, Adopt("a/b", file))
    assert file.exists()


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_be_in_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, service.endpoint)
    assert open_store("s3://bucket").perform(CREATE) is True


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_in_the_url_comes_first(
    service: Service, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert open_store(f"s3://bucket?endpoint={service.endpoint}").perform(CREATE) is True


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_empty_variable_names_no_endpoint(
    service: Service, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    other = {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} - {variable}
    monkeypatch.setenv(other.pop(), service.endpoint)
    monkeypatch.setenv(variable, "")
    assert open_store("s3://bucket").perform(CREATE) is True


def test_the_region_is_that_of_the_url(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    open_store(f"s3://bucket?endpoint={service.endpoint}&region=eu-west-1").perform(CREATE)
    assert "/eu-west-1/s3/" in service.requests[0].headers["authorization"]


def test_the_credentials_may_be_those_of_a_profile(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        "[work]\naws_access_key_id = work-key\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "work")
    open_store(f"s3://bucket?endpoint={service.endpoint}").perform(CREATE)
    assert "Credential=work-key/" in service.requests[0].headers["authorization"]


def test_google_and_azure_create_on_condition_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", GOOGLE_KEY)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    open_store(f"gs://bucket/pre?endpoint={service.endpoint}").perform(CREATE)
    open_store(f"az://box/pre?account=name&endpoint={service.endpoint}").perform(CREATE)
    google, azure = service.requests
    assert google.headers["x-goog-if-generation-match"] == "0"
    assert unquote(google.path) == "/bucket/pre/a/b"
    assert azure.headers["if-none-match"] == "*"
    assert azure.path == "/box/pre/a/b"


# The whole stack, against what was seen on the wire of real services.


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([error(503, "SlowDown"), Answer(200, OURS.decode("latin1"))], None),
        ([error(503, "SlowDown"), Answer(200, THEIRS)], THEIRS.encode()),
        ([DROP, error(404, "NoSuchKey"), error(412, "x"), Answer(200, THEIRS)], THEIRS.encode()),
        ([error(409, "ConditionalRequestConflict"), error(404, "NoSuchKey"), OK], None),
        ([error(412, "PreconditionFailed"), Answer(200, THEIRS)], THEIRS.encode()),
    ],
    ids=["503-ours", "503-theirs", "dropped-412-theirs", "409-nobodys", "412-theirs"],
)
def test_a_reliable_create_finds_out_who_holds_the_key(
    store: Store, service: Service, answers: list[Answer | None], told: bytes | None
) -> None:
    ours = bytes(letter if letter < 0x80 else letter - 0x80 for letter in OURS)
    answers = [
        Answer(200, ours.decode()) if answer and answer.body == OURS.decode("latin1") else answer
        for answer in answers
    ]
    service.will(*answers)
    reliable = Reliable(store, sleep=lambda _: None)
    assert reliable.perform(Create("a/b", ours)) == told
    assert len(service.requests) == len(answers)
    bodies = [request.body for request in service.requests if request.method == "PUT"]
    assert set(bodies) == {ours}


def test_closing_waits_for_threads_that_have_brought_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Such a thread is still in the interpreter when its answer is here.
    may_leave = threading.Event()
    left: list[int] = []
    sleep = time.sleep

    def wait(duration_s: float) -> None:
        may_leave.set()
        sleep(duration_s)

    async def ask(store: Store) -> None:
        loop: Any = asyncio.get_running_loop()
        call_soon = loop.call_soon_threadsafe

        def bring(*args: Any, **options: Any) -> Any:
            handle = call_soon(*args, **options)
            if threading.current_thread() is not threading.main_thread():
                may_leave.wait(60)
                left.append(threading.get_ident())
            return handle

        monkeypatch.setattr(loop, "call_soon_threadsafe", bring)
        with pytest.raises(TransientStoreError):
            await store.perform_async(Create("key", b""))

    monkeypatch.setattr(objects, "LETTING_GO_S", 60.0)
    with socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        store = open_store(f"s3://bucket?endpoint={endpoint}&region=us-east-1")
        try:
            asyncio.run(ask(store))
            monkeypatch.setattr(time, "sleep", wait)
            store.close()
            assert len(left) == 1
        finally:
            may_leave.set()


def test_threads_of_the_client_library_have_let_go_of_what_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those that come back as the interpreter ends abort it.
    futures: list[weakref.ref[asyncio.Future[Any]]] = []
    get_async = obstore.get_async

    def get(*args: Any, **options: Any) -> Any:
        future: Any = get_async(*args, **options)
        futures.append(weakref.ref(future))
        return future

    monkeypatch.setattr(obstore, "get_async", get)

    async def begin_and_cancel(store: Store) -> None:
        tasks = [asyncio.create_task(store.perform_async(Get(f"key{n}"))) for n in range(20)]
        while len(futures) < len(tasks):  # noqa: ASYNC110 - they begin by themselves
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del task, tasks
        for weak in futures:
            future = weak()
            # One reference may wait to be taken off; with more, a thread is still to come.
            assert future is None or sys.getrefcount(future) <= _LAST_REFERENCES

    with socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(open_store(f"s3://bucket?endpoint={endpoint}&region=us-east-1")) as store:
            asyncio.run(begin_and_cancel(store))
