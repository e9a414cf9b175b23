"""Jobs: what drivers have submitted, for whoever comes later, from wherever."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cloudray import context, ids
from cloudray.api import session
from cloudray.api.asked import shown, timeout_s
from cloudray.api.tracebacks import shorten
from cloudray.protocol import endings, joblogs
from cloudray.protocol import jobs as protocol
from cloudray.protocol.claims import retire
from cloudray.protocol.jobs import Listed
from cloudray.protocol.progress import Counts, Progress
from cloudray.protocol.records import Ending
from cloudray.refs import ObjectRef
from cloudray.store import Store, drive

_HEX = re.compile(rf"[0-9a-fA-F]{{{2 * ids.ID_BYTES}}}")
_TEXT = re.compile(r"[0-9a-v]{16}")
#: Pauses (s) between looks at a job that somebody waits for.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 5.0
_ELSEWHERE = (
    "jobs are read from the store, and a task has no way there: call this where the driver runs"
)


class Job:
    """A driver's run, whether the driver still runs or not: what it submitted, and what of it.

    `id` is its id as `get_runtime_context().get_job_id()` returns it, `name` what its driver
    called it by `init(job=…)`, `host` where that ran, `started_at` when (by that machine's clock).

    >>> import cloudray
    >>> job = cloudray.get_job(cloudray.get_runtime_context().get_job_id())
    >>> job.wait()
    True
    """

    def __init__(self, store: Store, listed: Listed) -> None:
        self._store = store
        self._listed = listed
        record = listed.job
        submitter = b"" if record is None else record.submitter
        self._progress = Progress(listed, submitter or bytes(ids.ID_BYTES))
        self.id = listed.id.hex()
        self.name = listed.name
        self.namespace = "" if record is None else record.namespace
        self.host = "" if record is None else record.host
        self.started_at = datetime.fromtimestamp(
            ids.made_at_s(listed.id) if record is None else record.started_at, UTC
        )
        self.retention_days = listed.days

    def __repr__(self) -> str:
        name = f", {self.name!r}" if self.name else ""
        return f"Job({self.id}{name})"

    @property
    def ended(self) -> str | None:
        """When and why it was deleted or its time was up; None while it lasts."""
        when = self.ended_at
        return None if when is None else f"{self.ended_reason} on {when:%Y-%m-%d %H:%M} UTC"

    @property
    def ended_at(self) -> datetime | None:
        """When it was deleted or its time was up; None while it lasts."""
        ending = self._listed.ending
        return None if ending is None else datetime.fromtimestamp(ending.at_s, UTC)

    @property
    def ended_reason(self) -> str | None:
        """Why it is over, e.g. `its job was deleted`; None while it lasts."""
        ending = self._listed.ending
        return None if ending is None else ending.reason

    def refs(self) -> list[ObjectRef[Any]]:
        """Refs to the values of all tasks that the driver submitted so far, in its order.

        Not of those that tasks submitted, nor of what was `put`. A task that failed has one,
        which raises its error.

        >>> import cloudray
        >>> ref = cloudray.remote(abs).remote(-1)
        >>> text = ref.hex()
        >>> job = cloudray.get_job(cloudray.get_runtime_context().get_job_id())
        >>> ref in job.refs()
        True
        """
        with _shortened():
            self._look()
            found = drive(self._store, self._progress.refs())
            return [ObjectRef(identifier, context.anchor(identifier)) for identifier in found]

    def counts(self) -> Counts:
        """How far the driver's tasks are: `done`, `failed`, `cancelled`, `running`, `pending`."""
        with _shortened():
            self._look()
            return self._progress.counts()

    def status(self) -> str:
        """In one word, as Ray's jobs have it, how far the driver's tasks are.

        `PENDING` (none has begun), `RUNNING`, `SUCCEEDED`, `FAILED` (one or more), `STOPPED` (one
        or more were cancelled, and none failed), or `DELETED`. A job whose driver may yet submit
        more is `SUCCEEDED` as soon as what it submitted so far is done.
        """
        with _shortened():
            self._look()
            return status_of(self._progress.counts(), ended=self._listed.ending is not None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task that the driver submitted so far has ended, in whatever way.

        Returns whether they have; False when `timeout` seconds were not enough.
        """
        with _shortened():
            limit_s = timeout_s(timeout)
            deadline_s = None if limit_s is None else time.monotonic() + limit_s
            pause_s = _FIRST_LOOK_S
            while True:
                self._look()
                if self._progress.is_over or self._listed.ending is not None:
                    return True
                left_s = pause_s if deadline_s is None else deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, _LAST_LOOK_S)

    def cancel(self, *, force: bool = False) -> int:
        """Cancel what has not ended, also what tasks submitted; returns how many tasks that was.

        A running task gets a KeyboardInterrupt, or with `force` its process is killed. What the
        driver submits later is not cancelled.
        """
        with _shortened():
            _flush()
            return drive(
                self._store, protocol.cancel_all(self._listed.id, force=force, retire=retire)
            )

    def delete(self) -> None:
        """Stop what runs, by force, and remove everything that the job has stored.

        Who asks for one of its values, now or later, gets an `ObjectLostError` that says when it
        was deleted. Its own driver may still run: what it submits will not.
        """
        with _shortened():
            now_s = drive(self._store, endings.store_time(time.time()))
            ending = Ending(now_s, endings.DELETED, self.name)
            ending, _ = drive(self._store, endings.end(self._listed, ending))
            self._listed = drive(self._store, protocol.read_job(self._listed.root))

    def logs(self) -> str:
        """What its tasks printed: each agent's lines in their order, one agent after the other."""
        with _shortened():
            return "".join(iterate_logs(self._store, self._listed))

    def _look(self) -> None:
        _flush()
        self._listed = drive(self._store, protocol.read_job(self._listed.root))
        drive(self._store, self._progress.refresh())


def status_of(counts: Counts, *, ended: bool) -> str:
    """How far a job is, in one word; `ended`: it was deleted, or its time was up."""
    if ended:
        return "DELETED"
    if counts.running or (counts.pending and counts.over):
        return "RUNNING"
    if counts.pending:
        return "PENDING"
    if counts.failed:
        return "FAILED"
    return "STOPPED" if counts.cancelled else "SUCCEEDED"


def ref(text: str) -> ObjectRef[Any]:
    """The ref that `ref.hex()` returned as text, in this or any other process.

    Its value can be had wherever the cluster is joined, also when the process is gone that made
    it. Raises ValueError for a text that is no ref's.

    >>> import cloudray
    >>> cloudray.get(cloudray.ref(cloudray.put(5).hex()))
    5
    """
    if not isinstance(text, str):
        msg = f"ref() takes the text that ObjectRef.hex() returned, not {shown(text)}"
        raise TypeError(msg)
    return ObjectRef.from_hex(text.strip())


def get_job(job: str) -> Job:
    """A job of this cluster, by its id or by its name if no other has the same.

    Raises ValueError when there is none, or several have the name.

    >>> import cloudray
    >>> cloudray.get_job("nightly")
    Traceback (most recent call last):
        ...
    ValueError: this cluster has no job 'nightly': cloudray.jobs() lists those it has
    """
    with _shortened():
        if not isinstance(job, str):
            msg = f"get_job() takes the id or name of a job, not {shown(job)}"
            raise TypeError(msg)
        store = _store()
        return Job(store, find(store, job))


def jobs() -> list[Job]:
    """All jobs of this cluster, oldest first.

    >>> import cloudray
    >>> len(cloudray.jobs()) >= 1
    True
    """
    with _shortened():
        store = _store()
        return [Job(store, listed) for listed in drive(store, protocol.list_jobs())]


def find(store: Store, job: str, *, lists: str = "cloudray.jobs()") -> Listed:
    """A job by its id, as hexadecimal digits or as keys spell it, or by its name.

    Raises ValueError when there is none, and says that `lists` shows those there are; also when
    several have the name.
    """
    job = job.strip()
    identifier = _identifier_of(job)
    if identifier is not None:
        found = drive(store, protocol.find_job(identifier))
        if found is not None:
            return found
    named = [one for one in drive(store, protocol.list_jobs()) if job and one.name == job]
    lasting = [one for one in named if one.ending is None] or named
    if not lasting:
        raise ValueError(f"this cluster has no job {job!r:.200}: {lists} lists those it has")
    if len(lasting) > 1:
        which = ", ".join(one.id.hex() for one in lasting)
        raise ValueError(
            f"{len(lasting)} jobs are called {job!r:.200}: name one by its id: {which}"
        )
    return lasting[0]


def iterate_logs(store: Store, listed: Listed) -> Iterator[str]:
    """What a job's tasks printed, piece by piece."""
    for key in drive(store, joblogs.list_logs(listed)):
        yield drive(store, joblogs.read_log(key))


def _identifier_of(text: str) -> bytes | None:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    return ids.from_text(text) if _TEXT.fullmatch(text) else None


def _store() -> Store:
    context.client()
    joined = session.joined()
    if joined is None:
        raise RuntimeError(_ELSEWHERE)
    return joined.client.store


def _flush() -> None:
    """What this process's own driver has buffered is part of its job too."""
    joined = session.joined()
    if joined is not None:
        joined.client.flush()


@contextmanager
def _shortened() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        shorten(error)
        raise
