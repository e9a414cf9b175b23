"""Where an embedded cluster lies: a folder in memory, and one on disk for what finds no room."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from cloudray import platform
from cloudray.folders import PrivateFolder
from cloudray.store.space import default_quota_bytes


class Storage:
    """The two folders, which go with the processes that use them.

    `object_store_memory` is how many bytes of values may lie in memory; None: 30 % of the
    machine's, as in Ray, and no more than fit. `spill_directory` is where the folder on disk is
    made; None: where the system keeps temporary files on disk.

    Raises ValueError when a directory that was named cannot be used; nothing has been made then.
    """

    def __init__(self, object_store_memory: int | None, spill_directory: str | None) -> None:
        if spill_directory is not None:
            _check(spill_directory)
        prefix = f"cloudray-{os.getuid()}-"
        self._memory = PrivateFolder(platform.memory_folder(), prefix)
        self._disk: PrivateFolder | None = None
        try:
            self._disk = _on_disk(spill_directory, prefix)
            (self.folder / "store").mkdir()
            if object_store_memory is None:
                object_store_memory = default_quota_bytes(self.folder, platform.memory_bytes())
        except BaseException:
            self.remove()
            raise
        #: bytes of values that may lie in memory
        self.object_store_memory = object_store_memory
        #: the URL of its store
        self.address = f"file://{self.folder}/store?durable=false&memory={object_store_memory}"
        if self._disk is not None:
            self.address += f"&spill={quote(str(self._disk.path))}/store"

    @property
    def folder(self) -> Path:
        """In memory: the store, sockets, the agent's log."""
        return self._memory.path

    @property
    def spill_directory(self) -> str | None:
        """Where the folder on disk is; None when there is none."""
        return None if self._disk is None else str(self._disk.path.parent)

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders that go with the cluster."""
        disk = () if self._disk is None else (str(self._disk.path),)
        return (str(self.folder), *disk)

    @property
    def locks(self) -> tuple[int, ...]:
        """Descriptors to pass on to children that use the folders."""
        return (self._memory.lock, *(() if self._disk is None else (self._disk.lock,)))

    def remove(self) -> None:
        """Remove the folders and all that is in them. Idempotent."""
        self._memory.remove()
        if self._disk is not None:
            self._disk.remove()

    def forget(self) -> None:
        """Let go of the folders, which others still use. Idempotent."""
        self._memory.forget()
        if self._disk is not None:
            self._disk.forget()


def _check(directory: str) -> None:
    """Make a directory that the user names, or say why it cannot be used."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"object_spilling_directory={directory!r} cannot be used: {error.strerror}. Name a "
            "directory on a disk with room for values that memory cannot hold."
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(
            f"object_spilling_directory={directory!r} cannot be used: this user may not write "
            "there. Name a directory that is writable."
        )


def _on_disk(directory: str | None, prefix: str) -> PrivateFolder | None:
    if directory is not None:
        return PrivateFolder(Path(directory), prefix)
    try:
        return PrivateFolder(platform.spill_folder(), prefix)
    except OSError:
        # A full disk, or none that may be written: the cluster does without.
        return None
