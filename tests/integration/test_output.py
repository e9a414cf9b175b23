"""What tasks print and log, as it appears on the driver."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.drivers import Ended, run_driver

LINE = re.compile(r"\((?P<name>.+?) pid=(?P<pid>\d+)\) (?P<text>.*)")
START = """
        import logging, os, subprocess, sys, threading, time
        import cloudray as ray
        ray.init(num_cpus=2)
"""


#: Says when the driver has printed a question.
LISTEN = """
        class Listener:
            def __init__(self, stream):
                self.stream = stream
                self.heard = threading.Event()

            def write(self, text):
                if "are you there?" in text:
                    self.heard.set()
                return self.stream.write(text)

            def flush(self):
                self.stream.flush()

            def isatty(self):
                return False

        sys.stdout = Listener(sys.stdout)
"""


def said(printed: str) -> list[tuple[str, str]]:
    """Who said what: the lines of tasks, in order."""
    found = [LINE.fullmatch(line) for line in printed.splitlines()]
    return [(match["name"], match["text"]) for match in found if match is not None]


def run(body: str, folder: Path, **env: str) -> Ended:
    return run_driver(START + body, folder, env=env)


def test_a_line_appears_with_the_name_and_the_process_of_its_task(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk():
            print("hello")
            print("to stderr", file=sys.stderr)
            return os.getpid()

        pid = ray.get(talk.remote())
        ray.shutdown()
        print(pid)
        """,
        tmp_path,
    )
    line, pid = ended.lines()
    assert line == f"(talk pid={pid}) hello"
    assert said(ended.err) == [("talk", "to stderr")]


def test_a_task_with_a_name_speaks_under_it(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote(name="kettle")
        def talk(text):
            print(text)

        ray.get([talk.remote("a"), talk.options(name="pot").remote("b")])
        """,
        tmp_path,
    )
    assert sorted(said(ended.out)) == [("kettle", "a"), ("pot", "b")]


def test_the_lines_of_a_task_keep_their_order_and_are_never_mixed(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk(name):
            for part in "abcdefghijklmnopqrstuvwxyz":
                # Written in pieces, so that there is something to mix up.
                print(name, part, end="")
                sys.stdout.flush()
                print(name * 50, sep="-")

        names = ["tic", "tac", "toe", "tum"]
        ray.get([talk.options(name=name).remote(name) for name in names])
        """,
        tmp_path,
        RAY_DEDUP_LOGS="0",
    )
    lines = said(ended.out)
    for name in ("tic", "tac", "toe", "tum"):
        mine = [text for speaker, text in lines if speaker == name]
        assert mine == [f"{name} {part}{name * 50}" for part in "abcdefghijklmnopqrstuvwxyz"]
    assert len(ended.lines()) == 4 * 26


def test_what_is_logged_appears(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk():
            logging.getLogger("tea").warning("water is cold")
            logging.getLogger("tea").info("not shown: nobody asked for it")
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
            logging.getLogger("tea").info("water boils")

        ray.get(talk.remote())
        """,
        tmp_path,
    )
    assert said(ended.err) == [("talk", "water is cold"), ("talk", "INFO water boils")]


def test_what_native_code_and_child_processes_print_appears(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk():
            os.write(1, b"native\\n")
            subprocess.run(["echo", "child"])
            sys.stdout.buffer.write(b"buffered\\n")

        ray.get(talk.remote())
        """,
        tmp_path,
    )
    assert said(ended.out) == [("talk", "native"), ("talk", "child"), ("talk", "buffered")]


def test_a_line_without_an_end_appears_when_its_task_ends(tmp_path: Path) -> None:
    ended = run(
        LISTEN
        + """
        @ray.remote
        def ask():
            print("are you there?", end="")

        ray.get(ask.remote())
        print(sys.stdout.heard.wait(30))
        """,
        tmp_path,
    )
    assert said(ended.out) == [("ask", "are you there?")]
    assert ended.lines()[-1] == "True"


def test_lines_appear_before_the_result_does(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk(number):
            print(f"line-of-{number}")

        for number in range(20):
            ray.get(talk.remote(number))
            print(f"got {number}", flush=True)
        """,
        tmp_path,
        RAY_DEDUP_LOGS="0",
    )
    texts = [text.rpartition(") ")[2] for text in ended.lines()]
    expected = []
    for number in range(20):
        expected += [f"line-of-{number}", f"got {number}"]
    assert texts == expected


def test_lines_appear_while_the_task_runs(tmp_path: Path) -> None:
    ended = run(
        LISTEN
        + """
        @ray.remote
        def ask():
            print("are you there?")
            while not os.path.exists("answer"):
                time.sleep(0.001)
            return "yes"

        ref = ask.remote()
        sys.stdout.heard.wait(30)
        open("answer", "w").close()
        print(ray.get(ref))
        """,
        tmp_path,
    )
    assert said(ended.out) == [("ask", "are you there?")]
    assert ended.lines()[-1] == "yes"


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    ended = run(
        r"""
        @ray.remote
        def talk():
            sys.stdout.buffer.write(b"caf\xe9 \x00 ole\n")
            sys.stdout.flush()
            print("à bientôt \N{TEAPOT WITHOUT HANDLE}")

        ray.get(talk.remote())
        """.replace("TEAPOT WITHOUT HANDLE", "HOT BEVERAGE"),
        tmp_path,
        PYTHONIOENCODING="utf-8",
    )
    assert [text for _, text in said(ended.out)] == [
        "caf\\xe9 \x00 ole",
        "à bientôt \N{HOT BEVERAGE}",
    ]


def test_a_task_may_close_or_replace_its_streams(tmp_path: Path) -> None:
    ended = run(
        """
        import io

        @ray.remote
        def spoil(how):
            if how == "close":
                sys.stdout.close()
            elif how == "replace":
                sys.stdout = io.StringIO()
                print("nobody hears this")

        @ray.remote
        def talk():
            print("hello")

        for how in ("close", "replace"):
            ray.get(spoil.remote(how))
            ray.get(talk.remote())
        """,
        tmp_path,
        RAY_DEDUP_LOGS="0",
    )
    assert said(ended.out) == [("talk", "hello")] * 2


def test_a_very_long_line_arrives_in_full(tmp_path: Path) -> None:
    ended = run(
        """
        @ray.remote
        def talk():
            print("x" * 200_000 + "end")

        ray.get(talk.remote())
        """,
        tmp_path,
        RAY_DEDUP_LOGS="0",
    )
    assert "".join(text for _, text in said(ended.out)) == "x" * 200_000 + "end"


MANY = """
        @ray.remote
        def talk(number):
            {say}
            # Both executors take part.
            open(f"in-{{number}}", "w").close()
            while not (os.path.exists("in-0") and os.path.exists("in-1")):
                time.sleep(0.001)

        ray.get([talk.remote(number) for number in range(2)])
        ray.get([talk.remote(number) for number in range(2, 8)])
"""


def test_repeats_from_several_processes_are_folded(tmp_path: Path) -> None:
    ended = run(MANY.format(say='print(f"cup {number} is ready")'), tmp_path)
    first, *others = [text for _, text in said(ended.out)]
    assert re.fullmatch(r"cup \d is ready", first)
    shown = [text for text in others if "repeated" not in text]
    folded = [int(count) for text in others for count in re.findall(r"\[repeated (\d)x", text)]
    # From one process they are not folded, from the second one on they are.
    assert len(folded) == 1
    assert 1 + len(shown) + folded[0] == 8
    assert re.fullmatch(r"cup \d is ready \[repeated \dx across cluster\].*", others[-1])


def test_lines_of_numbers_alone_are_not_folded(tmp_path: Path) -> None:
    ended = run(MANY.format(say="print(number)"), tmp_path)
    assert sorted(text for _, text in said(ended.out)) == [str(number) for number in range(8)]


def test_folding_can_be_turned_off(tmp_path: Path) -> None:
    ended = run(MANY.format(say='print("same")'), tmp_path, RAY_DEDUP_LOGS="0")
    assert said(ended.out) == [("talk", "same")] * 8


def test_the_driver_may_have_its_peace(tmp_path: Path) -> None:
    ended = run_driver(
        """
        import cloudray as ray
        ray.init(num_cpus=1, log_to_driver=False)

        @ray.remote
        def talk():
            print("hello")
            return "quiet"

        print(ray.get(talk.remote()))
        """,
        tmp_path,
    )
    assert (ended.out, ended.err) == ("quiet\n", "")


@pytest.mark.parametrize(("level", "shown"), [("logging.INFO", True), ("'ERROR'", False)])
def test_logging_level_is_that_of_the_librarys_logger(
    tmp_path: Path, level: str, shown: bool
) -> None:
    ended = run_driver(
        f"""
        import logging
        import cloudray as ray
        logging.basicConfig(level=logging.INFO)
        ray.init(num_cpus=1, logging_level={level})
        logging.getLogger("cloudray").warning("tea is ready")
        """,
        tmp_path,
    )
    assert ("tea is ready" in ended.err) == shown


def test_a_driver_prints_nothing_of_its_own(tmp_path: Path) -> None:
    ended = run(
        """
        ray.get(ray.remote(len).remote("abc"))
        """,
        tmp_path,
    )
    assert (ended.out, ended.err) == ("", "")
