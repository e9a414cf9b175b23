"""Every mistake that has an answer: the tests make them, and `docs/errors.md` shows them."""

from tests.mistakes import calls, clusters, options, refs, tasks, values
from tests.mistakes.row import Mistake, Where

#: By the heading under which the page has them.
MISTAKES: dict[str, tuple[Mistake, ...]] = {
    part.TITLE: part.ROWS for part in (options, calls, refs, values, tasks, clusters)
}

__all__ = ["MISTAKES", "Mistake", "Where"]
