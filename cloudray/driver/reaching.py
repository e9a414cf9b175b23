"""Reaching a cluster for the first time."""

from __future__ import annotations

from collections.abc import Callable

from cloudray.driver.screen import somebody_looks_on
from cloudray.keyring import ClusterKey
from cloudray.protocol.joining import look
from cloudray.protocol.records import Cluster
from cloudray.store import Reliable, Store, TransientStoreError, drive
from cloudray.store.watch import Watch

#: A cluster that cannot be reached for so long is not joined: its address may be wrong.
REACH_S = 15.0


def reach(
    store: Store,
    address: str,
    key: ClusterKey | None,
    watch: Watch,
    *,
    attended: Callable[[], bool] = somebody_looks_on,
) -> Cluster | None:
    """Read a cluster's record from a raw store, if there is one.

    What only passes when somebody acts (expired credentials, say) is waited for while somebody
    looks on, who is told by `watch`; all else for `REACH_S` seconds.

    Raises what `look` raises, and `TransientStoreError` when it took too long.
    """
    while True:
        try:
            return drive(Reliable(store, give_up_s=REACH_S, watch=watch), look(address, key))
        except TransientStoreError as error:
            if not (error.needs_somebody and attended()):
                raise
