from __future__ import annotations

import pytest

from cloudray.agent.watched import Watched
from tests.unit.agent.bench import batch_of, name_of

ONE, TWO = name_of(batch_of(1)), name_of(batch_of(1, number=1))


@pytest.fixture
def watched() -> Watched:
    watched = Watched()
    watched.begin()
    watched.note("a", ONE, 1)
    watched.note("b", TWO, 3)
    watched.settle()
    return watched


def test_nobody_is_watched_at_first() -> None:
    assert not Watched()


def test_who_holds_something_is_watched(watched: Watched) -> None:
    assert watched.agents == {"a", "b"}


def test_what_an_agent_held_is_taken_once(watched: Watched) -> None:
    assert watched.take("b") == [(TWO, 3)]
    assert watched.take("b") == []
    assert watched.agents == {"a"}


def test_what_a_scan_does_not_show_is_forgotten(watched: Watched) -> None:
    watched.begin()
    watched.note("a", ONE, 2)
    watched.settle()
    assert watched.agents == {"a"}
    assert watched.take("a") == [(ONE, 2)]


def test_nothing_is_forgotten_before_a_scan_is_over(watched: Watched) -> None:
    watched.begin()
    assert watched.agents == {"a", "b"}
