from __future__ import annotations

import pytest

from cloudray.agent.functions import Kind, Lane
from cloudray.agent.held import Held, Status
from cloudray.agent.queues import Line, Queues
from tests.unit.agent.bench import JOB, batch_of, held_of

KIND = Kind(JOB.id, 7, ())
LANE = Lane(KIND, (("CPU", 10_000),))
WIDE = Lane(KIND, (("CPU", 20_000),))


def ready(size: int = 3, *, number: int = 0, depth: int = 0) -> Held:
    """A held batch whose tasks could start now."""
    held = held_of(batch_of(size, number=number, depth=depth))
    held.status = [Status.READY] * size
    return held


@pytest.fixture
def line() -> Line:
    return Line(LANE)


def fill(line: Line, *batches: Held) -> None:
    for held in batches:
        for index in range(len(held.status)):
            line.add(held, index)


def drain(line: Line) -> list[tuple[Held, int]]:
    found = []
    while (task := line.pop()) is not None:
        found.append(task)
    return found


def test_tasks_come_in_the_order_in_which_they_became_ready(line: Line) -> None:
    one, two = ready(2), ready(1, number=1)
    fill(line, one, two)
    assert drain(line) == [(one, 0), (one, 1), (two, 0)]


def test_children_go_before_their_parents_siblings(line: Line) -> None:
    parents, children = ready(2), ready(2, number=1, depth=1)
    grandchildren = ready(1, number=2, depth=2)
    fill(line, parents, grandchildren, children)
    assert [held for held, _ in drain(line)] == [
        grandchildren,
        children,
        children,
        parents,
        parents,
    ]


def test_a_task_that_is_put_back_is_the_next_again(line: Line) -> None:
    held = ready(2)
    fill(line, held)
    line.pop()
    line.push_back(held, 0)
    assert (line.count, line.pop()) == (2, (held, 0))


def test_a_task_that_was_decided_meanwhile_is_passed_over(line: Line) -> None:
    held = ready(3)
    fill(line, held)
    held.status[0] = Status.SAID
    assert drain(line) == [(held, 1), (held, 2)]


def test_a_batch_that_was_let_go_is_passed_over(line: Line) -> None:
    gone, held = ready(2), ready(1, number=1)
    fill(line, gone, held)
    gone.dropped = True
    assert drain(line) == [(held, 0)]


def test_an_empty_line_has_no_depth_and_no_tasks(line: Line) -> None:
    held = ready(1)
    fill(line, held)
    held.dropped = True
    assert line.pop() is None
    assert (len(line), line.depth, list(line)) == (0, -1, [])


def test_asking_for_a_ready_task_leaves_it_where_it_is(line: Line) -> None:
    held = ready(3)
    fill(line, held)
    held.status[0] = Status.SAID
    assert line.has_ready()
    assert (line.count, drain(line)) == (2, [(held, 1), (held, 2)])
    assert not line.has_ready()


def test_looking_at_a_line_leaves_it_as_it_is(line: Line) -> None:
    held = ready(3)
    fill(line, held)
    held.status[1] = Status.RUNNING
    assert list(line) == [(held, 0), (held, 2)]
    assert drain(line) == [(held, 0), (held, 2)]


def test_lines_are_served_the_deepest_first() -> None:
    queues = Queues()
    parents, children = ready(1), ready(1, number=1, depth=1)
    queues.add(LANE, parents, 0)
    queues.add(WIDE, children, 0)
    assert [line.lane for line in queues.in_order()] == [WIDE, LANE]


def test_tasks_that_need_the_same_stand_in_one_line() -> None:
    queues = Queues()
    held = ready(3)
    for index, lane in enumerate((LANE, WIDE, LANE)):
        queues.add(lane, held, index)
    assert [line.count for line in queues.in_order()] == [2, 1]
    assert len(queues) == 3


def test_a_line_without_tasks_is_not_served() -> None:
    queues = Queues()
    queues.add(LANE, ready(1), 0)
    queues.in_order()[0].pop()
    assert queues.in_order() == []
