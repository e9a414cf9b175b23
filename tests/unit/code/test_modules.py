"""What counts as local code: everything imported that is neither installed nor Python's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cloudray.code import modules

ROOT = Path(__file__).parents[3]
LOOK = """
import json, os
from cloudray.code.modules import Scout
scout = Scout()
def look():
    return [
        [str(one.folder), one.package, sorted(one.modules), one.beside] for one in scout.look()
    ]
"""


def run(folder: Path, program: str, *command: str, path: str = "") -> list[list[object]]:
    """What a program prints as JSON, which is a script in `folder` unless a command is given."""
    script = folder / "main.py"
    script.write_text(LOOK + textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, *(command or (str(script),))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[object]] = json.loads(done.stdout)
    return found


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_scripts_folder_is_local_and_nothing_installed_is(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
        import json.tool, sqlite3, xml.dom, msgspec, cloudpickle, cloudray, pathspec
        print(json.dumps(look()))
        """,
    )
    assert found == [[str(tmp_path), "", [], True]]


def test_a_module_and_a_package_from_elsewhere_are_found(tmp_path: Path) -> None:
    lib, app = tmp_path / "lib", tmp_path / "app"
    write(lib / "helper.py")
    write(lib / "pack/__init__.py")
    write(lib / "pack/deep/__init__.py")
    write(lib / "unused.py")
    app.mkdir()
    program = "import helper, pack.deep\nprint(json.dumps(look()))"
    assert run(app, program, path=str(lib)) == [
        [str(app), "", [], True],
        [str(lib), "", ["helper.py"], False],
        [str(lib / "pack"), "pack", [], False],
    ]


def test_a_look_finds_only_what_is_new(tmp_path: Path) -> None:
    lib, app = tmp_path / "lib", tmp_path / "app"
    write(lib / "one.py")
    write(lib / "two.py")
    app.mkdir()
    program = """
    import one
    first = look()
    import two, one
    print(json.dumps([first, look(), look()]))
    """
    first, second, third = run(app, program, path=str(lib))
    assert first[1] == [str(lib), "", ["one.py"], False]
    assert second == [[str(lib), "", ["two.py"], False]]
    assert third == []


def test_every_local_part_of_a_namespace_package_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a/space/one.py")
    write(tmp_path / "b/space/two.py")
    app = tmp_path / "app"
    app.mkdir()
    path = os.pathsep.join(str(tmp_path / name) for name in "ab")
    found = run(app, "import space.one, space.two\nprint(json.dumps(look()))", path=path)
    assert [one[:2] for one in found if one[1]] == [
        [str(tmp_path / "a/space"), "space"],
        [str(tmp_path / "b/space"), "space"],
    ]


def test_a_module_travels_under_the_name_that_it_is_imported_by(tmp_path: Path) -> None:
    app = tmp_path / "app"
    write(tmp_path / "odd/plugin-7.py")
    app.mkdir()
    program = f"""
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("plugin", {str(tmp_path / "odd/plugin-7.py")!r})
    sys.modules["plugin"] = importlib.util.module_from_spec(spec)
    sys.modules["not-a-name"] = sys.modules["plugin"]
    print(json.dumps(look()))
    """
    assert [str(tmp_path / "odd"), "", ["plugin.py"], False] in run(app, program)


def test_a_module_run_by_name_has_its_packages_folder(tmp_path: Path) -> None:
    write(tmp_path / "pack/__init__.py")
    write(tmp_path / "pack/sub/__init__.py")
    write(tmp_path / "pack/sub/start.py", LOOK + "print(json.dumps(look()))")
    found = run(tmp_path, "", "-m", "pack.sub.start")
    assert found == [[str(tmp_path), "", [], True], [str(tmp_path / "pack"), "pack", [], False]]


def test_without_a_script_only_what_is_imported_is_local(tmp_path: Path) -> None:
    write(tmp_path / "helper.py")
    write(tmp_path / "unused.py")
    program = LOOK + "import helper\nprint(json.dumps(look()))"
    assert run(tmp_path, "", "-c", program) == [[str(tmp_path), "", ["helper.py"], False]]


@pytest.mark.parametrize("name", ["helper", "pack"])
def test_strange_modules_do_no_harm(name: str) -> None:
    class Strange:
        @property
        def __path__(self) -> object:
            raise RuntimeError("lazy")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, Strange())
        assert name not in [one.package for one in modules.Scout().look()]


def test_what_is_installed_is_not_local() -> None:
    import msgspec

    assert not modules.is_local(Path(msgspec.__file__))
    assert not modules.is_local(Path(json.__file__))
    assert not modules.is_local(Path(modules.__file__))
    assert not modules.is_local(Path("/opt/x/lib/python3/dist-packages/apt.py"))
    assert modules.is_local(Path("/home/me/app.py"))
