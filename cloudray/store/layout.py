"""Every key of a cluster, spelled here and nowhere else.

    cluster                                          protocol version, settings
    queue/<class>/<priority>/<batch>.0               a pending or running batch
    queue/<class>/<priority>/<batch>.<n>             its n-th claim
    t<days>/jobs/<job>/meta                          who, what, when
    t<days>/jobs/<job>/blobs/<sha256>                functions
    t<days>/jobs/<job>/results/<submitter>/<number>.<n>   a batch's journal
    t<days>/jobs/<job>/objects/<name>                large values
    t<days>/jobs/<job>/logs/<agent>/<n>              captured output
    agents/<agent>                                   heartbeat

Keys are lowercase, no key is another's folder, and keys sort as they are scanned: the queue by
class, priority, then the age of the job.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from cloudray import ids

CLUSTER = "cluster"
QUEUE = "queue/"
AGENTS = "agents/"


#: Where objects lie in a directory, as a pattern.
OBJECT_FOLDERS = "t*/jobs/*/objects"
_OBJECTS = "/objects/"


class QueueName(msgspec.Struct, frozen=True, array_like=True):
    """A batch as its queue entry names it: enough to decide without reading it."""

    #: Python minor, CPUs and memory, e.g. ``py311-cpu1-m0``
    klass: str
    #: ``0`` (first) to ``9``
    priority: int
    #: 25 bytes
    batch: bytes
    #: tasks in the batch
    size: int
    #: estimated duration of the whole batch on one slot; 0 when unknown
    estimated_ms: int

    @property
    def stem(self) -> str:
        """The key without the claim number."""
        return _stem(self)


@lru_cache(maxsize=4096)
def _stem(name: QueueName) -> str:
    batch = name.batch
    return (
        f"{QUEUE}{name.klass}/{name.priority}/{ids.to_text(ids.job_of(batch))}"
        f"-{ids.to_text(ids.submitter_of(batch))}-{ids.number_of(batch):08x}"
        f"-{ids.days_of(batch)}-{name.size}-{name.estimated_ms}"
    )


def claim_of(stem: str, number: int) -> str:
    """The queue entry (number 0) or its n-th claim."""
    return f"{stem}.{number}"


def parse_queue(key: str) -> tuple[str, int] | None:
    """Split a key under `queue/` into stem and claim number; None if it is not one of ours."""
    stem, dot, number = key.rpartition(".")
    if not dot or not number.isdecimal():
        return None
    return stem, int(number)


def parse_stem(stem: str) -> QueueName | None:
    """The inverse of `QueueName.stem`; None if it is not one of ours."""
    try:
        _, klass, priority, name = stem.split("/")
        job, submitter, number, days, size, estimated_ms = name.split("-")
        prefix = ids.batch_prefix(int(days), ids.from_text(job), ids.from_text(submitter))
        batch = ids.batch_id(prefix, int(number, 16))
        return QueueName(klass, int(priority), batch, int(size), int(estimated_ms))
    except (ValueError, OverflowError):
        return None


def job_folder(days: int, job: bytes) -> str:
    """Everything a job owns lies under this prefix."""
    return f"t{days}/jobs/{ids.to_text(job)}/"


def _job_folder_of(identifier: bytes) -> str:
    return job_folder(ids.days_of(identifier), ids.job_of(identifier))


def meta(identifier: bytes) -> str:
    """The record of the job that a batch or object belongs to."""
    return _job_folder_of(identifier) + "meta"


def blob(identifier: bytes, digest: str) -> str:
    """A pickled function of the job that a batch belongs to."""
    return f"{_job_folder_of(identifier)}blobs/{digest}"


@lru_cache(maxsize=4096)
def journal(batch: bytes) -> str:
    """The prefix of a batch's journal entries."""
    submitter = ids.to_text(ids.submitter_of(batch))
    return f"{_job_folder_of(batch)}results/{submitter}/{ids.number_of(batch):08x}."


def put_object(identifier: bytes) -> str:
    """A value stored by `put`."""
    submitter = ids.to_text(ids.submitter_of(identifier))
    return f"{_job_folder_of(identifier)}objects/{submitter}-p{ids.number_of(identifier):08x}"


def result_object(identifier: bytes, nonce: str) -> str:
    """A large result: attempts differ in their nonce, so they never share a key."""
    submitter = ids.to_text(ids.submitter_of(identifier))
    name = f"{submitter}-{identifier[21:].hex()}-{nonce}"
    return f"{_job_folder_of(identifier)}objects/{name}"


def is_object(key: str) -> bool:
    """Whether a key is that of a large value.

    >>> is_object("t7/jobs/0v1c/objects/0v2d-p00000000"), is_object("agents/0v1c")
    (True, False)
    """
    return _OBJECTS in key


def may_lead_to_objects(prefix: str) -> bool:
    """Whether keys of large values may begin so."""
    return not prefix or prefix[0] == "t"


def log(days: int, job: bytes, agent: str, number: int) -> str:
    """Output that an agent captured for a job."""
    return f"{job_folder(days, job)}logs/{agent}/{number:08x}"


def agent(agent_id: str) -> str:
    """An agent's heartbeat."""
    return AGENTS + agent_id
