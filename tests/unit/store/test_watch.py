from __future__ import annotations

import pytest

from cloudray.store import Get, MemoryStore, Reliable, TransientStoreError
from cloudray.store.base import CredentialsError, Op
from cloudray.store.watch import WORTH_A_LINE_S, Watch


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(clock: Clock, said: list[str]) -> Watch:
    return Watch("s3://bucket", said.append, clock=clock)


SLOW = TransientStoreError("503 Slow Down")
EXPIRED = CredentialsError("the AWS credentials have expired. Run `aws sso login`.")


def test_a_trouble_that_passes_soon_is_not_told(
    watch: Watch, clock: Clock, said: list[str]
) -> None:
    watch.failed(SLOW)
    clock.now_s += WORTH_A_LINE_S / 2
    watch.failed(SLOW)
    watch.answered()
    assert said == []


def test_a_trouble_that_stays_is_told_once_and_its_end_too(
    watch: Watch, clock: Clock, said: list[str]
) -> None:
    for _ in range(5):
        watch.failed(SLOW)
        clock.now_s += WORTH_A_LINE_S
    watch.answered()
    watch.answered()
    told, over = said
    assert told == "s3://bucket has not answered for 10 s; trying on (503 Slow Down)"
    assert over == "s3://bucket answers again, after 50 s"


def test_what_somebody_must_do_is_told_at_once(watch: Watch, clock: Clock, said: list[str]) -> None:
    for _ in range(3):
        watch.failed(EXPIRED)
        clock.now_s += 1
    assert said == [f"{EXPIRED} Waiting until it is done."]


def test_a_trouble_long_after_another_is_not_the_same(
    watch: Watch, clock: Clock, said: list[str]
) -> None:
    watch.failed(SLOW)
    clock.now_s += 3600
    watch.failed(SLOW)
    assert said == []


def test_each_outage_is_told(watch: Watch, said: list[str]) -> None:
    for _ in range(2):
        watch.failed(EXPIRED)
        watch.answered()
    assert len(said) == 4


class Failing(MemoryStore):
    """Fails some times, then answers."""

    left = 3

    def perform(self, op: Op) -> object:
        self.left -= 1
        if self.left >= 0:
            raise EXPIRED
        return super().perform(op)


def test_a_reliable_store_tells_its_watch(watch: Watch, said: list[str]) -> None:
    store = Reliable(Failing(), sleep=lambda _: None, watch=watch)
    assert store.perform(Get("key")) is None
    assert [line.partition(" ")[0] for line in said] == ["the", "s3://bucket"]
