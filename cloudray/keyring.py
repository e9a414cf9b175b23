"""A cluster's key: where it comes from, and what may be known of it.

With it every stored record is signed, so that nobody who can only write to the bucket can make a
driver, an agent or an executor load anything. It never lies in the bucket, on no command line, and
in no message; its `id` may be shown to anybody.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

#: The key itself, and the file that holds it.
VARIABLE, FILE_VARIABLE = "CLOUDRAY_KEY", "CLOUDRAY_KEY_FILE"
#: How keys begin, so that whoever looks for secrets in texts recognises them.
PREFIX = "crk_"
KEY_BYTES = 32
#: Where a key is looked for, for messages.
PLACES = (
    f"the variable {VARIABLE}, the file that {FILE_VARIABLE} names, key_file under "
    "[clusters.NAME] in ~/.config/cloudray.toml, and a program's init(key=..., key_file=...)"
)
_TEXT = re.compile(rf"{PREFIX}([A-Za-z0-9_-]{{43}})")
#: More than a key's file holds, in bytes.
_FILE_BYTES = 4096
#: What executors and other children must not inherit.
_HIDDEN = frozenset((VARIABLE, FILE_VARIABLE))
#: A pipe that holds a key takes so much at once, whatever the system.
_PIPE_BYTES = 512


class ClusterKey:
    """A key. Shown, it tells its id and whence it comes, and it does not travel.

    >>> key = ClusterKey("crk_" + 43 * "A", "a test")
    >>> key
    ClusterKey(id='6858fa7de0c1c1d4', source='a test')
    """

    __slots__ = ("_secret", "id", "source")

    def __init__(self, text: str, source: str = "") -> None:
        """Take the text that `cloudray key new` printed; `source` says where it was found.

        Raises ValueError, which does not repeat it, when it is no key.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"what stands in {source or 'it'} is no key: a key is {PREFIX} and 43 letters, "
                "digits, - or _, as `cloudray key new` makes it"
            )
        self._secret = base64.urlsafe_b64decode(match[1] + "=")
        #: by which people and clusters tell keys apart; tells nothing of the key
        self.id = hmac.digest(self._secret, b"cloudray key id", "sha256")[:8].hex()
        #: where it was found, for messages
        self.source = source

    @property
    def secret(self) -> bytes:
        """The 32 bytes, for who signs."""
        return self._secret

    @property
    def text(self) -> str:
        """The key as text, for files and pipes that only its user can read."""
        return PREFIX + base64.urlsafe_b64encode(self._secret).decode().rstrip("=")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterKey) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"ClusterKey(id={self.id!r}, source={self.source!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a cluster's key is not pickled: it would lie where others can read it")


def new_key(source: str = "") -> ClusterKey:
    """Draw a key from the system's randomness.

    >>> new_key().id == new_key().id
    False
    """
    drawn = base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode().rstrip("=")
    return ClusterKey(PREFIX + drawn, source)


def read_file(path: str | os.PathLike[str], source: str = "") -> ClusterKey:
    """Read a key's file.

    Raises ValueError when it cannot be read, holds no key, or is its user's and others may read
    it too; of a file that is somebody else's, as mounted secrets are, that is only warned of.
    """
    file = Path(path).expanduser()
    name = f"the key file {file}" + (f" ({source})" if source else "")
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{name} is no file")
            text = os.read(descriptor, _FILE_BYTES).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    _check_mode(file, name, status)
    return ClusterKey(text, f"{file} ({source})" if source else str(file))


def _check_mode(file: Path, name: str, status: os.stat_result) -> None:
    others = stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if not others or os.name == "nt":
        return
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid == os.getuid():
        raise ValueError(f"{name} may be read by others (its mode is {mode}): chmod 600 {file}")
    warnings.warn(
        f"{name} belongs to another user and may be read by others (its mode is {mode}).",
        stacklevel=3,
    )


def write_file(path: str | os.PathLike[str], key: ClusterKey) -> Path:
    """Write a key into a new file that only this user can read; returns its path.

    Makes the folder too: a new user has no ~/.config.

    Raises ValueError when there is a file already: a key that is overwritten is lost, and so is
    every cluster that has it.
    """
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError(
            f"{file} exists, and is not overwritten: whoever loses a cluster's key cannot use that "
            "cluster any more. Name another file."
        ) from None
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{key.text}\n")
    return file


def find(
    environ: Mapping[str, str], filed: str | None = None, source: str = ""
) -> ClusterKey | None:
    """The key that the environment has or names, else the one in the file `filed`, if any.

    Raises ValueError, naming the place, for what is no key.
    """
    if environ.get(VARIABLE):
        return ClusterKey(environ[VARIABLE], VARIABLE)
    if environ.get(FILE_VARIABLE):
        return read_file(environ[FILE_VARIABLE], FILE_VARIABLE)
    return None if filed is None else read_file(filed, source)


# -- from process to process -----------------------------------------------------------------


def pipe_of(key: ClusterKey) -> int:
    """A descriptor from which a process that inherits it can read the key, once.

    Neither a command line nor an environment would do: other processes can read those, and what
    a process starts inherits the latter.
    """
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, f"{key.text} {key.source}".encode()[:_PIPE_BYTES])
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return read_end


def read_pipe(descriptor: int) -> ClusterKey:
    """The key in such a descriptor, which is closed."""
    try:
        text, _, source = os.read(descriptor, _PIPE_BYTES).decode(errors="replace").partition(" ")
    finally:
        os.close(descriptor)
    return ClusterKey(text, source or "a pipe")


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that must not know of the key."""
    return {name: text for name, text in environ.items() if name not in _HIDDEN}
