"""Every key of a cluster, spelled here and nowhere else.

    cluster                                          protocol version, settings
    queue/<class>/<priority>/<batch>.0               a pending or running batch
    queue/<class>/<priority>/<batch>.<n>             its n-th claim
    t<days>/jobs/<job>/meta                          who, what, when
    t<days>/jobs/<job>/meta.deleted                  that it was deleted, or has ended
    t<days>/jobs/<job>/blobs/<sha256>                functions
    t<days>/jobs/<job>/results/<submitter>/<number>.<n>   a batch's journal
    t<days>/jobs/<job>/objects/<name>                large values
    t<days>/jobs/<job>/logs/<agent>/<n>              captured output
    agents/<agent>                                   heartbeat
    bell                                             names of the newest batches

Keys are lowercase, no key is another's folder, and keys sort as they are scanned: the queue by
class, priority, then the age of the job.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from cloudray import ids

CLUSTER = "cluster"
QUEUE = "queue/"
#: How the keys of all jobs begin, whatever their retention class.
JOBS = "t"
AGENTS = "agents/"
BELL = "bell"


#: Where objects lie in a directory, as a pattern.
OBJECT_FOLDERS = "t*/jobs/*/objects"
_OBJECTS = "/objects/"
_BLOBS = "/blobs/"
_JOURNALS = "/results/"
_LOGS = "/logs/"
#: More claims than any batch ever has, and few enough to delete all that lie below the last.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_AGENT = re.compile(r"[0-9A-Za-z._-]{1,64}")
#: Bytes that no claim, no record without values, no batch or entry, no code ever has.
_CLAIM_BYTES = 4 << 10
_SMALL_BYTES = 1 << 20
_LARGE_BYTES = 256 << 20
_BLOB_BYTES = 2 << 30
#: Characters of an id as text.
_ID_CHARACTERS = 16
#: ... and of a batch's number.
_NUMBER_CHARACTERS = 8


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
    """Split a key under `queue/` into stem and claim number; None if it is not one of ours.

    Only as we spell them: `.01`, or digits of another script, would name a claim that is another
    key, and so hide the one that is there.
    """
    stem, dot, number = key.rpartition(".")
    if not dot or not _NUMBER.fullmatch(number):
        return None
    return stem, int(number)


def parse_stem(stem: str) -> QueueName | None:
    """The inverse of `QueueName.stem`; None if it is not one of ours."""
    try:
        _, klass, priority, name = stem.split("/")
        job, submitter, number, days, size, estimated_ms = name.split("-")
        prefix = ids.batch_prefix(int(days), ids.from_text(job), ids.from_text(submitter))
        batch = ids.batch_id(prefix, int(number, 16))
        found = QueueName(klass, int(priority), batch, int(size), int(estimated_ms))
    except (ValueError, OverflowError):
        return None
    # Spelled otherwise (capitals, `+7`), its claims would lie at other keys than its entry.
    return found if found.stem == stem else None


def job_folder(days: int, job: bytes) -> str:
    """Everything a job owns lies under this prefix."""
    return f"t{days}/jobs/{ids.to_text(job)}/"


def parse_job(key: str) -> tuple[int, bytes, str] | None:
    """Days, id, and what follows the job's folder; None if a key is not one of a job's.

    >>> parse_job("t7/jobs/0v1c0000000000ab/meta")[2]
    'meta'
    """
    try:
        days, jobs, job, name = key.split("/", 3)
        if jobs != "jobs" or days[:1] != "t" or len(job) != _ID_CHARACTERS:
            return None
        return int(days[1:]), ids.from_text(job), name
    except ValueError:
        return None


def beyond_job(days: int, job: bytes) -> str:
    """What sorts after all keys of a job, and before those of the next."""
    return f"t{days}/jobs/{ids.to_text(job)}0"


def queue_folder(key: str) -> str:
    """The folder of a key of the queue: one class and priority."""
    return key.rpartition("/")[0] + "/"


def queued_by(folder: str, job: bytes, submitter: bytes | None = None) -> str:
    """How the keys begin that a job (or one submitter of it) has in a folder of the queue."""
    which = "" if submitter is None else f"{ids.to_text(submitter)}-"
    return f"{folder}{ids.to_text(job)}-{which}"


def _job_folder_of(identifier: bytes) -> str:
    return job_folder(ids.days_of(identifier), ids.job_of(identifier))


def meta(identifier: bytes) -> str:
    """The record of the job that a batch or object belongs to."""
    return _job_folder_of(identifier) + "meta"


def ending(identifier: bytes) -> str:
    """That the job of a batch or object was deleted, or has ended."""
    return _job_folder_of(identifier) + "meta.deleted"


def blob(identifier: bytes, digest: str) -> str:
    """A pickled function of the job that a batch belongs to."""
    return f"{_job_folder_of(identifier)}blobs/{digest}"


@lru_cache(maxsize=4096)
def journal(batch: bytes) -> str:
    """The prefix of a batch's journal entries."""
    submitter = ids.to_text(ids.submitter_of(batch))
    return f"{_job_folder_of(batch)}results/{submitter}/{ids.number_of(batch):08x}."


def journals(batch: bytes) -> str:
    """The folder of the journals of all batches of a batch's submitter."""
    return f"{_job_folder_of(batch)}results/{ids.to_text(ids.submitter_of(batch))}/"


def all_journals(identifier: bytes) -> str:
    """The folder of all journals of the job that a batch or object belongs to."""
    return _job_folder_of(identifier) + "results/"


def batch_of(identifier: bytes, key: str) -> bytes | None:
    """The batch that a journal's key is of, in the job of `identifier`; None if it is none."""
    folder = all_journals(identifier)
    parsed = parse_journal(key)
    submitter = key.removeprefix(folder).partition("/")[0]
    if parsed is None or not key.startswith(folder) or len(submitter) != _ID_CHARACTERS:
        return None
    try:
        prefix = identifier[:11] + ids.from_text(submitter)
    except ValueError:
        return None
    return ids.batch_id(prefix, parsed[0])


def objects(identifier: bytes) -> str:
    """The folder of large values of the job that a batch or object belongs to."""
    return _job_folder_of(identifier) + "objects/"


def maker_of(identifier: bytes, key: str) -> bytes | None:
    """The batch whose task made a large value, in the job of `identifier`.

    None for a value that was stored by `put`, and for a key that is none of these.
    """
    submitter, _, rest = key.removeprefix(objects(identifier)).partition("-")
    number = rest[:_NUMBER_CHARACTERS]
    try:
        prefix = identifier[:11] + ids.from_text(submitter)
        return ids.batch_id(prefix, int(number, 16)) if "-" in rest else None
    except (ValueError, OverflowError):
        return None


def logs(identifier: bytes) -> str:
    """The folder of what the tasks of a job printed."""
    return _job_folder_of(identifier) + "logs/"


def parse_journal(key: str) -> tuple[int, int] | None:
    """A batch's number under its submitter, and an entry's number; None if it is not one of ours.

    >>> parse_journal("t7/jobs/0v1c/results/0v2d/0000000a.3")
    (10, 3)
    """
    number, _, position = key.rpartition("/")[2].partition(".")
    try:
        return int(number, 16), int(position)
    except ValueError:
        return None


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


def parse_agent(key: str) -> str | None:
    """The agent whose heartbeat has this key; None if it is not one of ours.

    >>> parse_agent("agents/0v1c"), parse_agent("agents/a/b")
    ('0v1c', None)
    """
    name = key.removeprefix(AGENTS)
    return name if key.startswith(AGENTS) and _AGENT.fullmatch(name) else None


def agent(agent_id: str) -> str:
    """An agent's heartbeat."""
    return AGENTS + agent_id


def limit_of(key: str) -> int | None:
    """How many bytes the record at a key may have, far more than any has; None: any number.

    Who reads a record takes no more than that into memory, whatever somebody has put there.

    >>> limit_of("queue/py311-cpu1-m0/5/a-b-0-7-1-0.1"), limit_of("agents/0v1c")
    (4096, 1048576)
    """
    if key.startswith(QUEUE):
        return _LARGE_BYTES if key.endswith(".0") else _CLAIM_BYTES
    if _OBJECTS in key:
        return None
    if _BLOBS in key:
        return _BLOB_BYTES
    if key.startswith(JOBS):
        return _LARGE_BYTES if _JOURNALS in key or _LOGS in key else _SMALL_BYTES
    return _SMALL_BYTES
