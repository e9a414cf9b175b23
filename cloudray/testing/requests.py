"""How many storage requests a program costs."""

from __future__ import annotations

from cloudray import context
from cloudray.driver.client import DriverClient
from cloudray.store import Ledger


def request_counts() -> Ledger:
    """Storage requests so far: this driver's, and those of the agents on this machine.

    Take it before and after, and subtract. Agents ask now and then even if nobody wants anything
    of them (heartbeats, scans), so count over many tasks. Raises RuntimeError in a task: only a
    driver knows.

    >>> import cloudray
    >>> before = request_counts()
    >>> cloudray.get(cloudray.remote(abs).remote(-7))
    7
    >>> request_counts().subtract(before).priced_requests > 0
    True
    """
    client = context.client()
    if not isinstance(client, DriverClient):
        msg = "storage requests are counted by drivers: call request_counts() outside of tasks"
        raise RuntimeError(msg)  # noqa: TRY004 - the place of the call is wrong, not its argument
    return client.requests()
