from __future__ import annotations

import pytest

from cloudray.agent.resources import Resources

FOUR = {"CPU": 40_000, "GPU": 10_000}


@pytest.fixture
def resources() -> Resources:
    return Resources(FOUR)


def test_at_first_everything_is_free(resources: Resources) -> None:
    assert resources.free == FOUR


def test_what_fits_is_taken(resources: Resources) -> None:
    assert resources.take({"CPU": 30_000})
    assert resources.free == {"CPU": 10_000, "GPU": 10_000}


def test_what_does_not_fit_is_not_taken_in_part(resources: Resources) -> None:
    assert not resources.take({"GPU": 10_000, "CPU": 50_000})
    assert not resources.take({"CPU": 10_000, "tag": 1})
    assert resources.free == FOUR


def test_what_was_taken_can_be_given_back(resources: Resources) -> None:
    resources.take({"CPU": 30_000})
    resources.give({"CPU": 30_000})
    assert resources.free == FOUR


def test_a_task_that_comes_back_oversubscribes(resources: Resources) -> None:
    resources.take({"CPU": 40_000})
    resources.take_anyway({"CPU": 10_000})
    assert resources.free["CPU"] == -10_000
    assert resources.room_for({"CPU": 5000}) == 0
    resources.give({"CPU": 40_000})
    assert resources.free["CPU"] == 30_000


@pytest.mark.parametrize(
    ("demand", "room"),
    [
        ({"CPU": 10_000}, 4),
        ({"CPU": 5000}, 8),
        ({"CPU": 15_000}, 2),
        ({"CPU": 10_000, "GPU": 10_000}, 1),
        ({"CPU": 10_000, "GPU": 0}, 4),
        ({"tag": 10_000}, 0),
        ({"CPU": 50_000}, 0),
    ],
)
def test_room_is_how_many_more_fit(resources: Resources, demand: dict[str, int], room: int) -> None:
    assert resources.room_for(demand) == room


@pytest.mark.parametrize("demand", [{}, {"CPU": 0}])
def test_what_takes_nothing_has_as_much_room_as_there_are_slots(
    resources: Resources, demand: dict[str, int]
) -> None:
    assert resources.room_for(demand) == 4


@pytest.mark.parametrize(("cpus", "slots"), [(40_000, 4), (25_000, 2), (5000, 1), (0, 1)])
def test_there_is_always_a_slot(cpus: int, slots: int) -> None:
    assert Resources({"CPU": cpus}).slots == slots


def test_the_totals_are_nobodys_to_change(resources: Resources) -> None:
    resources.take(FOUR)
    assert FOUR == {"CPU": 40_000, "GPU": 10_000}
    assert resources.total == FOUR
