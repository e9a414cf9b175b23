"""`cloudray jobs`: what drivers have submitted, whether they still run or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudray.cli.clusters import Address, address_of, opened
from cloudray.cli.errors import FAILED, MISUSED, CommandError, told
from cloudray.cli.groups import Group
from cloudray.cli.output import Json, print_json, print_table, print_text

if TYPE_CHECKING:
    from cloudray.api.jobs import Job
    from cloudray.protocol.jobs import Listed
    from cloudray.protocol.progress import Counts
    from cloudray.store.base import Store


class _Jobs(Group):
    about_clusters = "list"


app = typer.Typer(
    cls=_Jobs,
    help="List jobs, look at them, cancel and delete them.",
    add_completion=False,
)

#: So many refs are shown of a job, unless all are asked for.
_SHOWN = 20
#: Jobs whose tasks are counted at once.
_AT_ONCE = 8

_Job = Annotated[
    str,
    typer.Argument(metavar="JOB", help="The job's id, or its name if no other has the same."),
]


@app.command("list")
def list_(
    address: Address = None,
    *,
    counts: Annotated[
        bool,
        typer.Option(
            help="Say how far each job is. Reading that takes some requests for each of them."
        ),
    ] = True,
    json: Json = False,
) -> None:
    """List all jobs, oldest first, and how far each is."""
    from cloudray.api.jobs import Job
    from cloudray.protocol.jobs import list_jobs
    from cloudray.store import drive

    where = address_of(address)
    with opened(where) as (store, _), ThreadPoolExecutor(_AT_ONCE) as pool:
        found = [Job(store, listed) for listed in drive(store, list_jobs())]
        rows = list(pool.map(partial(_row, counted=counts), found))
    if json:
        print_json(rows)
    elif not rows:
        print_text(f'no jobs yet: each program that calls cloudray.init("{where}") is one')
    else:
        print_table(
            ["job", "name", "status", "done", "", "started", "host"],
            [_cells(row) for row in rows],
            right=(3,),
        )


@app.command()
def show(
    job: _Job,
    address: Address = None,
    *,
    all_refs: Annotated[bool, typer.Option("--all", help="Show all refs.")] = False,
    json: Json = False,
) -> None:
    """Show how far a job is, and the refs to its values."""
    with _opened(job, address) as found:
        row = _row(found, counted=True)
        refs = [one.id.hex() for one in found.refs()]
        where = address_of(address)
    if json:
        print_json({**row, "refs": refs})
        return
    for name in ("job", "name", "namespace", "host", "status"):
        if row[name]:
            typer.echo(f"{name:10} {row[name]}")
    typer.echo(f"{'started':10} {_moment(row['started_at'])}")
    if found.ended:
        typer.echo(f"{'ended':10} {found.ended}")
    else:
        typer.echo(f"{'kept':10} for {_several(found.retention_days, 'day')}")
    if row["tasks"]:
        typer.echo(f"{'tasks':10} {_progress(row['tasks'])}")
    shown = refs if all_refs else refs[:_SHOWN]
    if shown:
        typer.echo(f'\nrefs, for cloudray.ref("…") after cloudray.init("{where}"):')
    for text in shown:
        typer.echo(f"  {text}")
    if len(refs) > len(shown):
        typer.echo(f"  and {len(refs) - len(shown)} more: --all shows them")


@app.command()
def logs(job: _Job, address: Address = None, *, json: Json = False) -> None:
    """Print what a job's tasks have printed."""
    from cloudray.api.jobs import iterate_logs

    with _found(job, address) as (store, listed):
        pieces = iterate_logs(store, listed)
        if json:
            print_json({"logs": "".join(pieces)})
            return
        for piece in pieces:
            sys.stdout.write(piece)


@app.command()
def cancel(
    job: _Job,
    address: Address = None,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Kill the processes of running tasks.")
    ] = False,
    json: Json = False,
) -> None:
    """Cancel what has not ended of a job; what is done stays."""
    with _opened(job, address) as found:
        cancelled = found.cancel(force=force)
    if json:
        print_json({"job": found.id, "cancelled": cancelled})
    elif cancelled:
        typer.echo(f"{_several(cancelled, 'task')} of {_called(found)} cancelled")
    else:
        typer.echo(f"{_called(found)} has nothing left to cancel")


@app.command()
def delete(
    job: _Job,
    address: Address = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Stop a job, and remove everything that it has stored."""
    with _opened(job, address) as found:
        if not yes and (json or not sys.stdin.isatty()):
            raise CommandError(
                f"this stops {_called(found)} and removes all its values: say --yes if that is "
                "meant"
            )
        if not yes:
            typer.confirm(f"Stop {_called(found)} and remove all its values?", abort=True)
        found.delete()
    if json:
        print_json(
            {"job": found.id, "ended_at": found.ended_at, "ended_reason": found.ended_reason}
        )
    else:
        typer.echo(f"{_called(found)}: {found.ended}")


@contextmanager
def _found(job: str, address: str | None) -> Iterator[tuple[Store, Listed]]:
    """The job that the user means, and its cluster's store."""
    from cloudray.api.jobs import find

    if "://" in job:
        raise CommandError(f"{job} is no job: name the job first, and then the cluster", MISUSED)
    where = address_of(address)
    with opened(where) as (store, _), told(FAILED):
        yield store, find(store, job, lists=f"`{_lists(where)}`")


@contextmanager
def _opened(job: str, address: str | None) -> Iterator[Job]:
    """The job that the user means, with its cluster's store open."""
    from cloudray.api.jobs import Job

    with _found(job, address) as (store, listed):
        yield Job(store, listed)


def _lists(where: str) -> str:
    import shlex

    return f"cloudray jobs list {shlex.quote(where)}"


def _row(job: Job, *, counted: bool) -> dict[str, Any]:
    """What there is to know of a job, as JSON has it."""
    from cloudray.api.jobs import status_of
    from cloudray.protocol.progress import Counts

    ended = job.ended_at is not None
    # Nothing is left to count of one that is over.
    counts = job.counts() if counted and not ended else None
    known = counts is not None or ended
    return {
        "job": job.id,
        "name": job.name,
        "namespace": job.namespace,
        "host": job.host,
        "started_at": job.started_at,
        "retention_days": job.retention_days,
        "status": status_of(counts or Counts(), ended=ended) if known else None,
        "tasks": None if counts is None else _table(counts),
        "ended_at": job.ended_at,
        "ended_reason": job.ended_reason,
    }


def _table(counts: Counts) -> dict[str, int]:
    import msgspec

    return {"total": counts.total, **msgspec.structs.asdict(counts)}


def _cells(row: dict[str, Any]) -> list[str]:
    tasks = row["tasks"]
    return [
        row["job"],
        row["name"],
        row["status"] or "",
        f"{tasks['done']:,}/{tasks['total']:,}" if tasks else "",
        _others(tasks) if tasks else "",
        _moment(row["started_at"]),
        row["host"],
    ]


def _progress(tasks: dict[str, int]) -> str:
    others = _others(tasks)
    return f"{tasks['done']:,} of {tasks['total']:,} done" + (f", {others}" if others else "")


def _others(tasks: dict[str, int]) -> str:
    """How many tasks are how far that are not done."""
    names = ("failed", "cancelled", "running", "pending")
    parts = [f"{tasks[name]:,} {name}" for name in names if tasks[name]]
    if tasks["nested"]:
        batches = "batch" if tasks["nested"] == 1 else "batches"
        parts.append(f"{tasks['nested']:,} {batches} of nested tasks left")
    return ", ".join(parts)


def _moment(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def _called(job: Job) -> str:
    return f"job {job.id} ({job.name})" if job.name else f"job {job.id}"


def _several(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
