from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from cloudray import departed, ids
from cloudray.exceptions import ObjectLostError
from cloudray.refs import ObjectRef

JOB, OTHER = b"job.......", b"other....."


def ref_of(job: bytes) -> ObjectRef[Any]:
    batch = ids.batch_id(ids.batch_prefix(7, job, b"submitter."), 3)
    return ObjectRef(ids.object_id(batch, 1))


@pytest.fixture(autouse=True)
def _gone() -> Iterator[None]:
    departed.leave(JOB, departed.SHUT_DOWN)
    yield
    del departed.jobs[JOB]


def test_a_value_of_a_job_that_was_left_is_lost_and_says_why() -> None:
    ref = ref_of(JOB)
    with pytest.raises(ObjectLostError) as raised:
        departed.refuse([ref_of(OTHER).id, ref.id])
    assert str(raised.value) == (
        f"Object {ref.id.hex()} is lost: its cluster was shut down. Run what made it again."
    )


def test_values_of_other_jobs_are_not() -> None:
    departed.refuse([ref_of(OTHER).id])


def test_a_ref_that_is_lost_cannot_be_pickled() -> None:
    with pytest.raises(ObjectLostError):
        pickle.dumps(ref_of(JOB))
    assert pickle.loads(pickle.dumps(ref_of(OTHER))) == ref_of(OTHER)


def test_a_ref_that_is_lost_still_has_a_name() -> None:
    ref = ref_of(JOB)
    assert ref.hex() == ref.id.hex()
    assert ref.job_id() == JOB.hex()


def test_a_ref_that_is_lost_has_no_future() -> None:
    with pytest.raises(ObjectLostError):
        ref_of(JOB).future()
