from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with our conftest.py, run as CI runs it."""
    monkeypatch.setenv("CI", "true")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.path.joinpath("allowed_skips.txt").write_text("# a comment\nneeds a bell tower\n")
    return pytester


def skipping(reason: str) -> str:
    return f"""
        import pytest

        @pytest.mark.skip(reason={reason!r})
        def test_marked():
            raise AssertionError

        def test_that_skips_itself():
            pytest.skip({reason!r})
    """


def test_an_unlisted_skip_fails_in_ci(project: pytest.Pytester) -> None:
    project.makepyfile(skipping("no time"))
    result = project.runpytest("-rf")
    # One skipped in its setup, which pytest counts as an error, the other in its call.
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(["*skipped in CI: 'no time'*allowed_skips.txt*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_listed_skip_stays_a_skip_in_ci(project: pytest.Pytester) -> None:
    project.makepyfile(skipping("needs a bell tower"))
    project.runpytest().assert_outcomes(skipped=2)


def test_a_comment_in_the_list_allows_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(skipping("# a comment"))
    project.runpytest().assert_outcomes(errors=1, failed=1)


def test_any_skip_stays_a_skip_outside_ci(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI")
    project.makepyfile(skipping("no time"))
    project.runpytest().assert_outcomes(skipped=2)


def test_a_module_that_skips_itself_fails_in_ci(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest; pytest.importorskip('no_such_module')")
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*skipped in CI: *no_such_module*"])


def test_an_expected_failure_is_no_skip(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.xfail(reason="known", strict=True)
        def test_known():
            raise AssertionError
        """
    )
    project.runpytest().assert_outcomes(xfailed=1)


def test_a_skipped_doctest_fails_in_ci(project: pytest.Pytester) -> None:
    project.makepyfile(module='"""\n>>> 1 + 1  # doctest: +SKIP\n3\n"""')
    project.runpytest("--doctest-modules", "module.py").assert_outcomes(failed=1)
