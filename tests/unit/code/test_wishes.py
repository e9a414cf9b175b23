"""What a runtime environment may ask for, and what is made of it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cloudray.api.runtime_env import wishes_of
from cloudray.code.packer import Packer, inherit
from cloudray.code.packing import Packing
from cloudray.code.wishes import Wishes
from cloudray.protocol.records import Code, Package

LIMIT_BYTES = 100_000


class Uploads:
    """What has been stored."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.packer = Packer(Packing(LIMIT_BYTES), self.upload, "", LIMIT_BYTES)

    def upload(self, digest: str, body: bytes) -> None:
        assert len(digest) == 64
        self.bodies.append(body)

    def names(self) -> list[list[str]]:
        return [zipfile.ZipFile(io.BytesIO(body)).namelist() for body in self.bodies]


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a package `tea` and a module `cup`."""
    (tmp_path / "tea").mkdir()
    (tmp_path / "tea/__init__.py").write_text("")
    (tmp_path / "cup.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pot.py", "")
        archive.writestr("pot-1.dist-info/WHEEL", "")
    return path


# -- checks --------------------------------------------------------------------------------


def test_paths_become_absolute(folder: Path) -> None:
    wishes = wishes_of({"working_dir": ".", "py_modules": ["tea", Path("cup.py")]})
    assert wishes.working_dir == str(folder)
    assert wishes.py_modules == (str(folder / "tea"), str(folder / "cup.py"))


def test_an_imported_module_stands_for_its_files(folder: Path) -> None:
    package = ModuleType("tea")
    package.__path__ = [str(folder / "tea")]
    module = ModuleType("cup")
    module.__file__ = str(folder / "cup.py")
    wishes = wishes_of({"py_modules": [package, module]})
    assert wishes.py_modules == (str(folder / "tea"), str(folder / "cup.py"))


def test_urls_are_left_as_they_are() -> None:
    wishes = wishes_of({"working_dir": "s3://b/x.zip", "py_modules": ["https://x/y.whl"]})
    assert (wishes.working_dir, wishes.py_modules) == ("s3://b/x.zip", ("https://x/y.whl",))


def test_none_is_nothing() -> None:
    assert not wishes_of({"working_dir": None, "py_modules": None, "excludes": None})


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        ({"working_dir": "nowhere"}, ValueError, "['working_dir']: there is no 'nowhere'"),
        ({"working_dir": ""}, ValueError, "['working_dir']: there is no ''"),
        ({"working_dir": "cup.py"}, ValueError, "must be a folder, a .zip file, or a URL"),
        ({"working_dir": 3}, TypeError, "['working_dir'] must be of type str"),
        ({"py_modules": "tea"}, TypeError, "['py_modules'] must be of type List[str]"),
        ({"py_modules": [3]}, TypeError, "must have paths, URLs or modules, but it has 3"),
        ({"py_modules": ["nowhere"]}, ValueError, "['py_modules']: there is no 'nowhere'"),
        ({"py_modules": [".gitignore"]}, ValueError, "must have packages (folders), modules"),
        ({"py_modules": [dict]}, TypeError, "must have paths, URLs or modules, but it has <class"),
        ({"py_modules": [ModuleType("dream")]}, ValueError, "the module dream has no file"),
        ({"excludes": "*.csv"}, TypeError, "['excludes'] must be of type List[str]"),
        ({"excludes": [3]}, TypeError, "['excludes'] must be of type List[str]"),
        ({"excludes": ["!"]}, ValueError, "['excludes'] has a pattern that is none"),
        ({"conda": "x"}, ValueError, "'conda'] is not supported. Install the packages where"),
        ({"uv": []}, ValueError, "send wheels along: runtime_env={'py_modules'"),
        ({"image_uri": "x"}, ValueError, "['image_uri'] is not supported yet"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    folder: Path, env: dict[str, Any], error: type[Exception], message: str
) -> None:
    (folder / ".gitignore").touch()
    with pytest.raises(error) as info:
        wishes_of(env)
    assert message in str(info.value)


def test_what_a_function_asks_for_comes_before_what_its_job_does() -> None:
    job = Wishes("/job", ("/a",), ("x",))
    assert Wishes(py_modules=("/b",)).over(job) == Wishes("/job", ("/b",), ("x",))
    assert Wishes().over(job) == job
    assert job.over(Wishes()) == job
    assert Wishes(py_modules=()).over(job).py_modules == ()


def test_a_called_function_has_the_code_of_its_caller() -> None:
    first, second, third = (Package(name, name, 1) for name in "abc")
    caller = Code(first, (second,), (third,))
    assert inherit(Code(), caller) == Code(first, (second,))
    assert inherit(Code(), Code(None, (), (third,))) == Code(None, (), (third,))
    assert inherit(Code(second), Code(None, (), (third,))) == Code(second)
    assert inherit(Code(None, (third,)), caller) == Code(first, (third,))


# -- packing -------------------------------------------------------------------------------


def test_each_wish_becomes_a_package(folder: Path, uploads: Uploads) -> None:
    (folder / "data.csv").touch()
    wishes = wishes_of(
        {
            "working_dir": str(folder),
            "py_modules": ["tea", "cup.py", wheel(folder / "pot.whl")],
            "excludes": ["*.csv"],
        }
    )
    code = uploads.packer.pack(wishes)
    assert uploads.names() == [
        ["cup.py", "pot.whl", "tea/__init__.py"],
        ["tea/", "tea/__init__.py"],
        ["cup.py"],
        ["pot-1.dist-info/WHEEL", "pot.py"],
    ]
    assert code.working_dir is not None
    assert code.working_dir.source == str(folder)
    assert len({package.digest for package in code.py_modules}) == 3


def test_a_job_reads_and_stores_what_it_sends_once(folder: Path, uploads: Uploads) -> None:
    wishes = wishes_of({"working_dir": ".", "py_modules": ["cup.py"]})
    first = uploads.packer.pack(wishes)
    (folder / "cup.py").write_text("CHANGED = True")
    assert uploads.packer.pack(wishes) == first
    assert len(uploads.bodies) == 2
    again = Uploads()
    assert again.packer.pack(wishes) != first


def test_the_same_content_is_stored_once(folder: Path, uploads: Uploads) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "cup.py").touch()
    code = uploads.packer.pack(wishes_of({"py_modules": ["cup.py", "other/cup.py"]}))
    assert code.py_modules[0].digest == code.py_modules[1].digest
    assert len(uploads.bodies) == 1


def test_a_local_zip_file_is_a_working_directory(folder: Path, uploads: Uploads) -> None:
    with zipfile.ZipFile(folder / "code.zip", "w") as archive:
        archive.writestr("top/a.py", "")
    uploads.packer.pack(wishes_of({"working_dir": "code.zip"}))
    assert uploads.names() == [["top/a.py"]]


def test_a_file_far_too_large_is_not_even_read(folder: Path, uploads: Uploads) -> None:
    with (folder / "huge.zip").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"huge\.zip is too large to be sent: it has 1\.1 TB"):
        uploads.packer.pack(wishes_of({"working_dir": "huge.zip"}))


@pytest.mark.usefixtures("folder")
def test_what_could_not_be_stored_is_not_taken_for_stored() -> None:
    def refuse(_digest: str, _body: bytes) -> None:
        raise OSError("away")

    packer = Packer(Packing(LIMIT_BYTES), refuse, "", LIMIT_BYTES)
    wishes = wishes_of({"working_dir": "."})
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            packer.pack(wishes)


# -- URLs ----------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Any:
    """A filesystem of fsspec's that is empty before and after."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_a_zip_file_at_a_url_is_read_and_its_only_folder_stripped(
    memory: Any, uploads: Uploads
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("repo-main/a.py", "")
    memory.pipe("/code/main.zip", file.getvalue())
    code = uploads.packer.pack(wishes_of({"working_dir": "memory://code/main.zip"}))
    assert uploads.names() == [["a.py"]]
    assert code.working_dir is not None
    assert code.working_dir.source == "memory://code/main.zip"


def test_a_folder_at_a_url_is_read(memory: Any, uploads: Uploads) -> None:
    memory.pipe({"/code/tea/__init__.py": b"", "/code/tea/cup.py": b"1", "/code/tea/x.csv": b""})
    env = {"working_dir": "memory://code/tea", "py_modules": ["memory://code/tea"]}
    uploads.packer.pack(wishes_of({**env, "excludes": ["*.csv"]}))
    assert uploads.names() == [
        ["__init__.py", "cup.py"],
        ["tea/__init__.py", "tea/cup.py"],
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", "memory://nowhere has no files"),
        ("memory://nowhere.zip", "memory://nowhere.zip cannot be read: FileNotFoundError"),
        ("memory://large.zip", "has more than the 100.0 KB that are allowed"),
        ("memory://large", "has 100.0 KB, and 100.0 KB are allowed"),
        ("tea://x/y.zip", "tea://x/y.zip cannot be read: ValueError"),
    ],
)
def test_a_url_that_cannot_be_read_is_told(
    memory: Any, uploads: Uploads, url: str, message: str
) -> None:
    memory.pipe({"/large.zip": bytes(LIMIT_BYTES + 1), "/large/x": bytes(LIMIT_BYTES + 1)})
    with pytest.raises(ValueError, match=r".") as info:
        uploads.packer.pack(wishes_of({"working_dir": url}))
    assert message in str(info.value)


def test_what_is_needed_to_read_a_url_is_told(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def fail(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(ValueError, match=r"without s3fs \(pip install 'cloudray\[aws\]'\)"):
        uploads.packer.pack(wishes_of({"working_dir": "s3://bucket/x.zip"}))


def test_s3_is_read_where_the_cluster_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    asked: list[dict[str, Any]] = []

    def note(_url: str, **options: Any) -> None:
        asked.append(options)
        raise FileNotFoundError

    monkeypatch.setattr(fsspec.core, "url_to_fs", note)
    cluster = "s3://bucket/c?endpoint=http://localhost:9000&region=eu-west-1"
    for address, url in (
        (cluster, "s3://b/x.zip"),
        (cluster, "gs://b/x.zip"),
        ("", "s3://b/x.zip"),
    ):
        packer = Packer(Packing(LIMIT_BYTES), lambda *_: None, address, LIMIT_BYTES)
        with pytest.raises(ValueError, match="cannot be read"):
            packer.pack(Wishes(working_dir=url))
    here = {
        "endpoint_url": "http://localhost:9000",
        "client_kwargs": {"region_name": "eu-west-1"},
    }
    assert asked == [here, {}, {}]
