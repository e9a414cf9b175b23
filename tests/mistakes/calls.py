"""Mistakes in what is made remote, and in calls."""

from __future__ import annotations

from tests.mistakes.row import Mistake

TITLE = "Remote functions and their calls"

_F = "@ray.remote\ndef f(x=0):\n    return x\n"

ROWS: tuple[Mistake, ...] = (
    Mistake(
        what="A class",
        code="@ray.remote\nclass Counter:\n    pass",
        error="TypeError",
        message="Remote classes (actors) are not supported yet, and Counter is a class. Only "
        "functions can be remote in this version.",
        instead="Make its methods functions, and pass what they share.",
    ),
    Mistake(
        what="Something that cannot be called",
        code="ray.remote(num_cpus=1)(3)",
        error="TypeError",
        message="The @cloudray.remote decorator must be applied to a function, and 3 is of type "
        "int.",
        instead="Decorate a function.",
    ),
    Mistake(
        what="A function that is remote already",
        given=_F,
        code="ray.remote(f)",
        error="TypeError",
        message="<remote function f> is a remote function already: use .options() to change its "
        "options.",
        instead="`f.options(num_cpus=2)`.",
    ),
    Mistake(
        what="A call without `.remote`",
        given=_F,
        code="f(1)",
        error="TypeError",
        message="Remote functions cannot be called directly. Instead of running 'f()', try "
        "'f.remote()'.",
        instead="`f.remote(1)`.",
    ),
    Mistake(
        what="Too many arguments",
        given=_F,
        code="f.remote(1, 2)",
        error="TypeError",
        message="f() takes from 0 to 1 positional arguments but 2 were given",
        instead="The call fits no signature of `f`, so it is not made.",
    ),
    Mistake(
        what="An argument that the function does not have",
        given=_F,
        code="f.remote(y=2)",
        error="TypeError",
        message="f() got an unexpected keyword argument 'y'",
        instead="The call fits no signature of `f`, so it is not made.",
    ),
    Mistake(
        what="An argument that is missing",
        code="@ray.remote\ndef area(width, height):\n    return width * height\n\narea.remote(2)",
        error="TypeError",
        message="area() missing 1 required positional argument: 'height'",
        instead="The call fits no signature of `area`, so it is not made.",
    ),
    Mistake(
        what="A function that carries too much with it",
        given="table = bytes(101 << 20)",
        code="@ray.remote\ndef look_up(key):\n    return table[key]\n\nlook_up.remote(7)",
        error="ValueError",
        message="The remote function look_up is too large (101 MiB > "
        "FUNCTION_SIZE_ERROR_THRESHOLD=100 MiB). Check that its definition is not implicitly "
        "capturing a large array or other object in scope. Tip: use cloudray.put() to put large "
        "objects in the object store.",
        instead="`table = ray.put(table)`, and pass it as an argument.",
    ),
    Mistake(
        what="A function that uses what cannot be pickled",
        given="import threading",
        code="lock = threading.Lock()\n\n@ray.remote\ndef f():\n    return lock.locked()\n\n"
        "f.remote()",
        error="TypeError",
        message="cannot pickle the function f: its global variable 'lock' is a _thread.lock. Make "
        "it inside the task, pass what it is made from, or keep it out of the function's closure.",
        instead="A lock of this process is none in another.",
    ),
    Mistake(
        what="A function whose closure cannot be pickled",
        given="import threading",
        code="def guarded():\n    lock = threading.Lock()\n    return lambda: lock.locked()\n\n"
        "ray.remote(guarded()).remote()",
        error="TypeError",
        message="cannot pickle the function guarded.<locals>.<lambda>: its closure variable 'lock' "
        "is a _thread.lock. Make it inside the task, pass what it is made from, or keep it out of "
        "the function's closure.",
        instead="A lock of this process is none in another.",
    ),
    Mistake(
        what="A function that the worker cannot import",
        given="import sys, types\n"
        "tools = sys.modules['only_here'] = types.ModuleType('only_here')\n"
        "exec('def f(): return 1', tools.__dict__)\n",
        code="ray.get(ray.remote(tools.f).remote())",
        shown="import tools  # which only this machine has\n\n"
        "ray.get(ray.remote(tools.f).remote())",
        error="RayTaskError(RuntimeError)",
        message="cloudray::f() (pid=…)\nRuntimeError: The remote function f failed to import on "
        "the worker (ModuleNotFoundError: No module named 'only_here'). There is "
        "no module 'only_here' on …: install it where the workers run, or send it along with "
        "runtime_env={'py_modules': ['path/of/only_here']} (a package's folder, a module's file, "
        "or a wheel).",
        instead="Install the module where the agents run, send it along, or define the function in "
        "the program.",
        stores=True,
    ),
)
