from __future__ import annotations

import pickle

from cloudray.values.pickling import pickle_whole


def test_code_keeps_the_name_of_its_file() -> None:
    def outer() -> object:
        def inner() -> None: ...

        return inner

    found = pickle.loads(pickle_whole(outer))
    assert found.__code__.co_filename == __file__
    assert found().__code__.co_filename == __file__
