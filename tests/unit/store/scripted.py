"""A store whose answers are written down beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cloudray.store import Op, Store


class Scripted(Store):
    """Answers operations from a script, raising the exceptions in it, and remembers them."""

    url = "scripted://"
    inline = True

    def __init__(self, answers: Iterable[Any] = ()) -> None:
        self.answers = list(answers)
        self.asked: list[Op] = []

    def perform(self, op: Op) -> Any:
        self.asked.append(op)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
