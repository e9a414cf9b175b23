"""Mistakes with values: arguments, results and exceptions that cannot travel."""

from __future__ import annotations

from tests.mistakes.row import Mistake

TITLE = "Values, results and exceptions"

_F = "@ray.remote\ndef f(x=0):\n    return x\n"
_LOCK = "import threading\nlock = threading.Lock()\n"
_MAKE_INSIDE = (
    "Make it inside the task, pass what it is made from, or keep it out of the function's closure."
)
_DEEP = "deep = None\nfor _ in range(100_000):\n    deep = [deep]\n"
_TOO_DEEP = (
    "it is nested too deeply. Make it flatter, for example a list of nodes that name each other by "
    "number, or raise sys.setrecursionlimit()."
)
_STUBBORN = "class Stubborn:\n    def __reduce__(self):\n        raise ValueError('not this one')\n"
_LATE = (
    "class Late:\n    def __init__(self):\n        self.a = 1\n\n"
    "    def __setstate__(self, state):\n        raise ValueError('too late')\n"
)
_ONLY_HERE = (
    "import sys, types\n"
    "tools = sys.modules['only_here'] = types.ModuleType('only_here')\n"
    "exec('class Tool:\\n    pass', tools.__dict__)\n"
)
#: In this process nothing more can be written to a folder of CloudRay's.
_FULL = (
    "import errno, os\n"
    "def refusing(write):\n    def refuse(descriptor, *args):\n"
    "        if 'cloudray-' in os.readlink(f'/proc/self/fd/{descriptor}'):\n"
    "            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
    "        return write(descriptor, *args)\n    return refuse\n"
    "def fill():\n    os.write, os.writev = refusing(os.write), refusing(os.writev)\n"
)
#: The executor makes a class that this process cannot import.
_ONLY_THERE = (
    "def make(base):\n    import sys, types\n"
    "    there = sys.modules['only_there'] = types.ModuleType('only_there')\n"
    "    made = there.Made = type('Made', (base,), {'__module__': 'only_there'})\n"
    "    return made\n"
)
_PLACE = "cloudray::f() (pid=…)\n"


def _failed(
    what: str, body: str, error: str, message: str, instead: str, options: str = ""
) -> Mistake:
    """A function that fails when its result is asked for."""
    given, _, code = body.rpartition("---\n")
    return Mistake(
        what=what,
        given=given,
        code=f"@ray.remote{options}\n{code}\n\nray.get(f.remote())",
        error=error,
        message=message,
        instead=instead,
        stores=True,
    )


ROWS: tuple[Mistake, ...] = (
    Mistake(
        what="An argument that cannot be pickled",
        given=_F + _LOCK,
        code="f.remote(lock)",
        error="TypeError",
        message=f"cannot pickle argument 'x' of f: it is a _thread.lock. {_MAKE_INSIDE}",
        instead="A lock of this process is none in another.",
    ),
    Mistake(
        what="Something inside an argument that cannot be pickled",
        given=_F + _LOCK,
        code='f.remote(x={"jobs": [1, {"lock": lock}]})',
        error="TypeError",
        message="cannot pickle argument 'x' of f: its member ['jobs'][1]['lock'] is a "
        f"_thread.lock. {_MAKE_INSIDE}",
        instead="The message says where it is.",
    ),
    Mistake(
        what="A file",
        given=_F + "import tempfile\n",
        code='with tempfile.TemporaryFile("wb") as file:\n    f.remote(file)',
        shown='f.remote(open("data.bin", "wb"))',
        error="TypeError",
        message="cannot pickle argument 'x' of f: it is a _io.BufferedWriter. Pass its path, and "
        "open it inside the task.",
        instead="The path, if the worker has the file too.",
    ),
    Mistake(
        what="A generator as an argument",
        given=_F,
        code="f.remote(i for i in range(3))",
        error="TypeError",
        message="cannot pickle argument 'x' of f: it is a generator. Pass what it yields, as a "
        "list.",
        instead="`f.remote(list(range(3)))`.",
    ),
    Mistake(
        what="An argument whose class refuses to be pickled",
        given=_F + _STUBBORN,
        code="f.remote([Stubborn()])",
        error="TypeError",
        message="cannot pickle argument 'x' of f: its member [0] is a __main__.Stubborn "
        f"(ValueError: not this one). {_MAKE_INSIDE}",
        instead="Its `__reduce__` raised what stands in parentheses.",
    ),
    Mistake(
        what="A remote function that uses what cannot be pickled, as an argument",
        given=_F + _LOCK + "@ray.remote\ndef g():\n    return lock\n",
        code="f.remote(g)",
        error="TypeError",
        message="cannot pickle argument 'x' of f: its function's global variable 'lock' is a "
        f"_thread.lock. {_MAKE_INSIDE}",
        instead="A lock of this process is none in another.",
    ),
    Mistake(
        what="An argument that is nested too deeply",
        given=_F + _DEEP,
        code="f.remote(deep)",
        shown="deep = None\nfor _ in range(100_000):\n    deep = [deep]\nf.remote(deep)",
        error="PicklingError",
        message=f"cannot pickle argument 'x' of f: {_TOO_DEEP}",
        instead="pickle follows a value as deep as Python calls functions.",
    ),
    Mistake(
        what="A value that cannot be pickled in `put`",
        given=_LOCK,
        code='ray.put({"lock": lock})',
        error="TypeError",
        message=f"cannot pickle the value: its member ['lock'] is a _thread.lock. {_MAKE_INSIDE}",
        instead="A lock of this process is none in another.",
    ),
    Mistake(
        what="An argument that the worker cannot unpickle",
        given=_F + _LATE,
        code="ray.get(f.remote(Late()))",
        error="RayTaskError(RaySystemError)",
        message=f"{_PLACE}…\nValueError: too late\n\nThe above exception was the direct cause of "
        "the following exception:\n\ncloudray.exceptions.RaySystemError: an argument of f could "
        "not be unpickled on the worker (ValueError: too late). Its class has a __setstate__, "
        "__reduce__ or constructor that failed.",
        instead="Mend the class; `pickle.loads(pickle.dumps(value))` shows it at home.",
        stores=True,
    ),
    Mistake(
        what="An argument whose module the worker does not have",
        given=_F + _ONLY_HERE,
        code="ray.get(f.remote(tools.Tool()))",
        shown="import tools  # which only this machine has\n\nray.get(f.remote(tools.Tool()))",
        error="RayTaskError(RaySystemError)",
        message=f"{_PLACE}cloudray.exceptions.RaySystemError: an argument of f could not be "
        "unpickled on the worker (ModuleNotFoundError: No module named 'only_here'). There is "
        "no module 'only_here' on …: install it where the workers run, or send it along with "
        "runtime_env={'py_modules': ['path/of/only_here']} (a package's folder, a module's file, "
        "or a wheel).",
        instead="Install the module where the agents run, or send it along.",
        stores=True,
    ),
    _failed(
        "A result that cannot be pickled",
        f'{_LOCK}---\ndef f():\n    return {{"lock": threading.Lock()}}',
        "RayTaskError(TypeError)",
        f"{_PLACE}TypeError: cannot pickle the result of f: its member ['lock'] is a _thread.lock. "
        f"{_MAKE_INSIDE}",
        "Return what it is made from.",
    ),
    Mistake(
        what="A value for which there is no room in `put`",
        given=_FULL + "value = bytes(200_000)\nbefore = os.write, os.writev\n",
        code="fill()\ntry:\n    ray.put(value)\nfinally:\n    os.write, os.writev = before",
        shown="ray.put(value)",
        error="ObjectStoreFullError",
        message="There is no room for a value of 200.1 KB. In memory there are … Let go of refs "
        "that are no longer needed (del ref), give values more memory with "
        "init(object_store_memory=...), or name a folder on a larger disk with "
        "init(object_spilling_directory=...).",
        instead="`del` references to what is no longer needed.",
        stores=True,
    ),
    Mistake(
        what="A result for which there is no room",
        given=_FULL + "from cloudray.store import patience\n",
        code="@ray.remote(max_calls=1)\ndef f():\n    fill()\n    patience.ROOM_S = 0.01\n"
        "    return bytes(200_000)\n\n"
        "ray.get(f.remote())",
        shown="@ray.remote\ndef f():\n    return bytes(200_000)\n\nray.get(f.remote())",
        error="RayTaskError(ObjectStoreFullError)",
        message=f"{_PLACE}cloudray.exceptions.ObjectStoreFullError: There is no room "
        "for the result of f (200.0 KB). …",
        instead="`del` references to what is no longer needed.",
        stores=True,
    ),
    _failed(
        "A generator as a result",
        "def f():\n    yield 1",
        "RayTaskError(TypeError)",
        f"{_PLACE}TypeError: cannot pickle the result of f: it is a generator. Pass what it "
        "yields, as a list.",
        "Return a list.",
    ),
    _failed(
        "An asynchronous generator",
        "async def f():\n    yield 1",
        "RayTaskError(TypeError)",
        f"{_PLACE}TypeError: cannot pickle the result of f: it is an async_generator. Pass what it "
        "yields, as a list.",
        "Return a list.",
    ),
    _failed(
        "A coroutine as a result",
        "async def late():\n    return 1\n---\ndef f():\n    return [late()]",
        "RayTaskError(TypeError)",
        f"{_PLACE}TypeError: cannot pickle the result of f: its member [0] is a coroutine. Await "
        "it, and pass what it returns.",
        "`async def f()` may await it.",
    ),
    _failed(
        "A result that is nested too deeply",
        "def f():\n    deep = None\n    for _ in range(100_000):\n        deep = [deep]\n"
        "    return deep",
        "RayTaskError(PicklingError)",
        f"{_PLACE}_pickle.PicklingError: cannot pickle the result of f: {_TOO_DEEP}",
        "pickle follows a value as deep as Python calls functions.",
    ),
    _failed(
        "A result that this process cannot unpickle",
        f"{_LATE}---\ndef f():\n    return Late()",
        "RaySystemError",
        "the value of ObjectRef(…) could not be unpickled in this process (ValueError: too late). "
        "Its class has a __setstate__, __reduce__ or constructor that failed.",
        "Mend the class; `pickle.loads(pickle.dumps(value))` shows it at home.",
    ),
    _failed(
        "A result whose module is not here",
        f"{_ONLY_THERE}---\ndef f():\n    return make(object)()",
        "RaySystemError",
        "the value of ObjectRef(…) could not be unpickled in this process (ModuleNotFoundError: No "
        "module named 'only_there'). What its class is imported from must be there too, in the "
        "same version.",
        "Install here what the workers have, or return something plainer.",
    ),
    _failed(
        "Fewer results than promised",
        "def f():\n    return 1, 2",
        "RayTaskError(ValueError)",
        f"{_PLACE}ValueError: f has num_returns=3 but returned 2 values",
        "As many as `num_returns` says.",
        "(num_returns=3)",
    ),
    _failed(
        "More results than promised",
        "def f():\n    return 1, 2, 3",
        "RayTaskError(ValueError)",
        f"{_PLACE}ValueError: f has num_returns=2 but returned 3 values",
        "As many as `num_returns` says.",
        "(num_returns=2)",
    ),
    _failed(
        "Results without an end",
        "def f():\n    while True:\n        yield 1",
        "RayTaskError(ValueError)",
        f"{_PLACE}ValueError: f has num_returns=2 but returned more than 2 values",
        "As many as `num_returns` says.",
        "(num_returns=2)",
    ),
    _failed(
        "A single result where several were promised",
        "def f():\n    return 1",
        "RayTaskError(TypeError)",
        f"{_PLACE}TypeError: f has num_returns=2 but returned a value of type int, which "
        "is not a sequence of 2 values",
        "A tuple or a list.",
        "(num_returns=2)",
    ),
    _failed(
        "Recursion without an end",
        "def deeper(n):\n    return deeper(n + 1)\n---\ndef f():\n    return deeper(0)",
        "RayTaskError(RecursionError)",
        f"{_PLACE}Traceback (most recent call last):\n…\nRecursionError: maximum recursion depth "
        "exceeded…",
        "The worker goes on.",
    ),
    _failed(
        "A crash in native code",
        "import ctypes\n---\ndef f():\n    return ctypes.string_at(0)",
        "WorkerCrashedError",
        "The worker process that ran f died: killed by SIGSEGV.\n…\nSIGSEGV is a crash in native "
        "code: look at the libraries that the task uses.",
        "Find the library. With `max_retries` above 0 the task is tried again.",
        "(max_retries=0)",
    ),
    _failed(
        "An exception whose constructor takes something else",
        "class Broken(Exception):\n    def __init__(self, part, *, since):\n"
        "        super().__init__(f'{part} is broken since {since}')\n"
        "---\ndef f():\n    raise Broken('the kettle', since='Monday')",
        "RayTaskError(Broken)",
        f"{_PLACE}Traceback (most recent call last):\n…\nBroken: the kettle is broken since Monday",
        "Nothing: it arrives as it was raised.",
    ),
    _failed(
        "An exception that cannot be pickled",
        f"{_LOCK}---\ndef f():\n    raise ValueError(threading.Lock())",
        "RayTaskError(UnserializableException)",
        f"{_PLACE}Traceback (most recent call last):\n…\nValueError: <unlocked _thread.lock object "
        "at …>\n(The exception itself could not be sent: pickling it raised TypeError: cannot "
        "pickle '_thread.lock' object)",
        "Its text and traceback arrive, and `except RayTaskError` finds it.",
    ),
    _failed(
        "An exception that refuses to be pickled",
        "class Secret(Exception):\n    def __reduce__(self):\n        raise RuntimeError('no')\n"
        "---\ndef f():\n    raise Secret('key')",
        "RayTaskError(Secret)",
        f"{_PLACE}Traceback (most recent call last):\n…\nSecret: key",
        "Nothing: it is taken apart and put together again without `__reduce__`.",
    ),
    _failed(
        "An exception without a text",
        "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError('no')\n"
        "---\ndef f():\n    raise Mute('key')",
        "RayTaskError(Mute)",
        f"{_PLACE}Traceback (most recent call last):\n…\nMute: <exception str() failed>",
        "Nothing: it arrives as it was raised.",
    ),
    _failed(
        "An exception whose module is not here",
        f"{_ONLY_THERE}---\ndef f():\n    raise make(Exception)('far away')",
        "RayTaskError(UnserializableException)",
        f"{_PLACE}Traceback (most recent call last):\n…\nonly_there.Made: far away\n(The exception "
        "itself could not be sent: unpickling it raised ModuleNotFoundError: No module named "
        "'only_there')",
        "Its text and traceback arrive, and `except RayTaskError` finds it.",
    ),
)
