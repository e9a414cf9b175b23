"""`cloudray jobs`: what drivers have submitted, whether they still run or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudray.cli.clusters import Address, address_of, opened
from cloudray.cli.errors import FAILED, CommandError, told
from cloudray.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from cloudray.api.jobs import Job

app = typer.Typer(
    no_args_is_help=True,
    help="List jobs, look at them, cancel and delete them.",
    add_completion=False,
)

#: So many refs are shown of a job, unless all are asked for.
_SHOWN = 20

_Job = Annotated[str, typer.Argument(help="The job's id, or its name if no other has the same.")]


@app.command("list")
def list_(
    address: Address = None,
    *,
    counts: Annotated[
        bool, typer.Option("--counts", help="Count each job's tasks, which takes some requests.")
    ] = False,
    json: Json = False,
) -> None:
    """List all jobs, oldest first."""
    from cloudray.api.jobs import Job
    from cloudray.protocol.jobs import list_jobs
    from cloudray.store import drive

    with opened(address_of(address)) as (store, _):
        found = [Job(store, listed) for listed in drive(store, list_jobs())]
        rows = [_row(job, counted=counts) for job in found]
    if json:
        print_json(rows)
        return
    header = ["job", "name", "started", "host", "days"]
    cells = [
        [
            row["job"],
            row["name"],
            _moment(row["started_at"]),
            row["host"],
            str(row["retention_days"]),
        ]
        + ([row["status"], _progress(row)] if counts else [row["ended"] or ""])
        for row in rows
    ]
    print_table([*header, *(["status", "tasks"] if counts else ["ended"])], cells, right=(4,))


@app.command()
def show(
    job: _Job,
    address: Address = None,
    *,
    all_refs: Annotated[bool, typer.Option("--all", help="Show all refs.")] = False,
    json: Json = False,
) -> None:
    """Show how far a job is, and the refs to its values."""
    with _opened(address, job) as found:
        row = _row(found, counted=True)
        refs = [one.id.hex() for one in found.refs()]
        where = address_of(address)
    if json:
        print_json({**row, "refs": refs})
        return
    for name in ("job", "name", "namespace", "host", "status", "ended"):
        if row[name]:
            typer.echo(f"{name:10} {row[name]}")
    typer.echo(f"{'started':10} {_moment(row['started_at'])}")
    typer.echo(f"{'tasks':10} {_progress(row)}")
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
    from cloudray.api.jobs import find, iterate_logs

    with opened(address_of(address)) as (store, _), told(FAILED):
        pieces = iterate_logs(store, find(store, job))
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
    with _opened(address, job) as found:
        cancelled = found.cancel(force=force)
    if json:
        print_json({"job": found.id, "cancelled": cancelled})
    else:
        typer.echo(f"{_tasks(cancelled)} of {_called(found)} cancelled")


@app.command()
def delete(
    job: _Job,
    address: Address = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Stop a job, and remove everything that it has stored."""
    with _opened(address, job) as found:
        if not yes and (json or not sys.stdin.isatty()):
            raise CommandError("this removes all values of the job: say --yes")
        if not yes:
            typer.confirm(f"Remove all values of {_called(found)}?", abort=True)
        found.delete()
    if json:
        print_json({"job": found.id, "ended": found.ended})
    else:
        typer.echo(f"{_called(found)}: {found.ended}")


@contextmanager
def _opened(address: str | None, job: str) -> Iterator[Job]:
    """The job that the user means, with its cluster's store open."""
    from cloudray.api.jobs import Job, find

    with opened(address_of(address)) as (store, _), told(FAILED):
        yield Job(store, find(store, job))


def _row(job: Job, *, counted: bool) -> dict[str, Any]:
    """What there is to know of a job, as JSON has it."""
    row: dict[str, Any] = {
        "job": job.id,
        "name": job.name,
        "namespace": job.namespace,
        "host": job.host,
        "started_at": job.started_at,
        "retention_days": job.retention_days,
        "ended": job.ended,
    }
    if counted:
        from cloudray.api.jobs import status_of

        counts = job.counts()
        row["status"] = status_of(counts, ended=job.ended is not None)
        row["tasks"] = counts
    return row


def _progress(row: dict[str, Any]) -> str:
    counts = row["tasks"]
    names = ("done", "failed", "cancelled", "running", "pending")
    parts = [f"{number} {name}" for name in names if (number := getattr(counts, name))]
    if counts.nested:
        batches = "batch" if counts.nested == 1 else "batches"
        parts.append(f"{counts.nested} {batches} of nested tasks left")
    return ", ".join(parts) or "none"


def _moment(when: datetime | None) -> str:
    return "" if when is None else f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def _called(job: Job) -> str:
    return f"job {job.id} ({job.name})" if job.name else f"job {job.id}"


def _tasks(number: int) -> str:
    return f"{number} task{'' if number == 1 else 's'}"
