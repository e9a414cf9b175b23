"""Archives are the same for the same content, and none can write where it should not."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudray.code.archives import (
    UNPACKED_S,
    ArchiveTooLargeError,
    Item,
    UnsafeArchiveError,
    check_name,
    pack,
    unpack,
)

PLENTY = 1_000_000


def zip_of(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    """A ZIP file of somebody's making."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        warnings.catch_warnings(action="ignore"),
    ):
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def info(name: str, mode: int) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo("name")
    # Its constructor would mend what is wrong with it.
    found.filename = name
    found.create_system = 3
    found.external_attr = mode << 16
    return found


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- packing ---------------------------------------------------------------------------------


def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "cup.py"
    source.write_bytes(b"A = 1")
    archive = pack([Item("tea/cup.py", source), Item("b", b"\0" * 3_000_000)], ["empty"])
    target = tmp_path / "there"
    target.mkdir()
    assert unpack(archive.body, target, max_bytes=4_000_000) == 3_000_005
    assert content_of(target) == {"tea/cup.py": b"A = 1", "b": b"\0" * 3_000_000}
    assert (target / "empty").is_dir()


def test_neither_order_nor_times_change_an_archive(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    items = [Item(path.name, path) for path in paths]
    first = pack(items, ["x", "y"])
    os.utime(paths[0], (1, 1))
    assert pack(items[::-1], ["y", "x", "x"]) == first


@pytest.mark.parametrize(
    "other",
    [
        [Item("a", b"2")],
        [Item("b", b"1")],
        [Item("a", b"1", executable=True)],
        [Item("a", b"1"), Item("b", b"")],
    ],
)
def test_content_names_and_modes_do(other: list[Item]) -> None:
    assert pack(other).digest != pack([Item("a", b"1")]).digest


def test_what_may_be_run_may_be_run_there(tmp_path: Path) -> None:
    archive = pack([Item("run", b"#!/bin/sh", executable=True), Item("read", b"")])
    unpack(archive.body, tmp_path, max_bytes=PLENTY)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) & 0o100
    assert not stat.S_IMODE((tmp_path / "read").stat().st_mode) & 0o111


def test_all_that_is_unpacked_is_equally_old(tmp_path: Path) -> None:
    unpack(pack([Item("a", b"1")]).body, tmp_path, max_bytes=PLENTY)
    assert (tmp_path / "a").stat().st_mtime == UNPACKED_S


def test_a_file_that_has_gone_meanwhile_is_left_out(tmp_path: Path) -> None:
    archive = pack([Item("gone", tmp_path / "gone"), Item("a", b"1")])
    assert archive == pack([Item("a", b"1")])


def test_a_name_that_is_no_text_does_not_travel() -> None:
    with pytest.raises(UnsafeArchiveError, match="is no text"):
        pack([Item("\udcff.py", b"")])


def test_an_archive_says_how_much_room_its_files_take() -> None:
    sizes = pack([Item("large", os.urandom(10_000)), Item("small", bytes(10_000))]).sizes
    assert sizes["large"] > 10_000
    assert sizes["small"] < 500


# -- what is refused ---------------------------------------------------------------------------

TRICKS = [
    "../out",
    "a/../../out",
    "..",
    ".",
    "a/./b",
    "/etc/out",
    "//server/out",
    "a//b",
    "C:/out",
    "C:out",
    "a\\..\\..\\out",
    "\\\\server\\out",
    "",
    "/",
    "a\nb",
    "a\x7f",
    "a" * 300,
    "a/" * 3000 + "b",
]


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "in"
    target.mkdir()
    body = zip_of((info(name, stat.S_IFREG | 0o644), b"evil"))
    with pytest.raises(UnsafeArchiveError):
        unpack(body, target, max_bytes=PLENTY)
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


names = st.text(
    st.sampled_from("ab./\\:C\0 \u2025\uff0e~$%*é\ud800"), min_size=0, max_size=12
) | st.lists(st.sampled_from(["..", ".", "a", "b", "", "C:"]), max_size=6).map("/".join)


@given(st.lists(st.tuples(names, st.sampled_from([stat.S_IFREG, stat.S_IFLNK, 0])), max_size=4))
def test_no_name_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int]]
) -> None:
    base = tmp_path_factory.mktemp("base")
    target = base / "in"
    target.mkdir()
    try:
        body = zip_of(*((info(name, kind | 0o644), b"/etc") for name, kind in entries))
    except (ValueError, UnicodeEncodeError):
        return  # no ZIP file can have that
    with contextlib.suppress(UnsafeArchiveError):
        unpack(body, target, max_bytes=PLENTY)
    assert [path.name for path in base.iterdir()] == ["in"]
    for path in target.rglob("*"):
        assert not path.is_symlink()
        assert path.resolve().is_relative_to(target.resolve())


@given(names)
def test_a_name_is_refused_or_stays_inside(name: str) -> None:
    try:
        parts = check_name(name)
    except UnsafeArchiveError:
        return
    joined = os.path.normpath("/".join(["/root", *parts]))
    assert joined == "/root/" + "/".join(parts)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (stat.S_IFLNK, "a link"),
        (stat.S_IFCHR, "neither"),
        (stat.S_IFIFO, "neither"),
        (stat.S_IFSOCK, "neither"),
        (stat.S_IFDIR, "neither"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: int, what: str) -> None:
    body = zip_of((info("evil", kind | 0o644), b"/etc/passwd"))
    with pytest.raises(UnsafeArchiveError, match=f"'evil' is {what}"):
        unpack(body, tmp_path, max_bytes=PLENTY)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_all_names_were_looked_at(tmp_path: Path) -> None:
    body = zip_of(("good", b"1"), (info("../bad", stat.S_IFREG), b"2"))
    with pytest.raises(UnsafeArchiveError, match="bad"):
        unpack(body, tmp_path, max_bytes=PLENTY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entries", [["a", "a"], ["a", "a/b"], ["a/b", "a"]])
def test_a_name_stands_for_one_thing(tmp_path: Path, entries: list[str]) -> None:
    with pytest.raises(UnsafeArchiveError, match=r"'a' (stands there twice|is both)"):
        unpack(zip_of(*((name, b"") for name in entries)), tmp_path, max_bytes=PLENTY)


def test_what_grows_too_large_is_stopped_on_the_way(tmp_path: Path) -> None:
    body = zip_of(("bomb", bytes(50_000_000)))
    assert len(body) < 100_000
    with pytest.raises(ArchiveTooLargeError, match=r"more than 1.0 MB"):
        unpack(body, tmp_path, max_bytes=1_000_000)
    assert (tmp_path / "bomb").stat().st_size <= 1_000_000


def test_what_an_entry_says_of_its_size_counts_for_nothing(tmp_path: Path) -> None:
    body = bytearray(zip_of(("bomb", bytes(5_000_000))))
    # Both headers say that it is one byte.
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = body.index(signature) + offset
        body[at : at + 4] = (1).to_bytes(4, "little")
    with pytest.raises(UnsafeArchiveError):
        unpack(bytes(body), tmp_path, max_bytes=PLENTY)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= PLENTY


def test_unusual_compression_is_refused(tmp_path: Path) -> None:
    odd = info("a", stat.S_IFREG | 0o644)
    odd.compress_type = zipfile.ZIP_LZMA
    with pytest.raises(UnsafeArchiveError, match="'a' is compressed in an unusual way"):
        unpack(zip_of((odd, b"1")), tmp_path, max_bytes=PLENTY)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    body = bytearray(zip_of(("a", b"1")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(signature) + offset] |= 1
    with pytest.raises(UnsafeArchiveError, match="'a' is encrypted"):
        unpack(bytes(body), tmp_path, max_bytes=PLENTY)


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    body = zip_of(*((str(number), b"") for number in range(11)))
    with pytest.raises(ArchiveTooLargeError, match="11 entries, more than 10"):
        unpack(body, tmp_path, max_bytes=PLENTY, max_entries=10)


@pytest.mark.parametrize("body", [b"", b"PK", b"no archive", pack([]).body[:-1]])
def test_what_is_no_archive_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(UnsafeArchiveError, match="no ZIP file"):
        unpack(body, tmp_path, max_bytes=PLENTY)


def test_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    body = bytearray(pack([Item("a.py", os.urandom(1000))]).body)
    body[200] ^= 1
    with pytest.raises(UnsafeArchiveError, match=r"'a.py' cannot be read"):
        unpack(bytes(body), tmp_path, max_bytes=PLENTY)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_whatever_is_damaged_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    body = bytearray(pack([Item("a.py", b"A = 1\n" * 9), Item("b/c.py", b"")]).body)
    body[at : at + len(noise)] = noise
    target = tmp_path_factory.mktemp("in")
    with contextlib.suppress(UnsafeArchiveError):
        unpack(bytes(body), target, max_bytes=PLENTY)
    assert all(path.resolve().is_relative_to(target.resolve()) for path in target.rglob("*"))


def test_nothing_is_written_through_a_link_that_is_there(tmp_path: Path) -> None:
    target = tmp_path / "in"
    target.mkdir()
    (tmp_path / "out").write_text("mine")
    (target / "a").symlink_to(tmp_path / "out")
    with pytest.raises(FileExistsError):
        unpack(pack([Item("a", b"theirs")]).body, target, max_bytes=PLENTY)
    assert (tmp_path / "out").read_text() == "mine"
