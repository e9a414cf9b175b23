"""Mistakes with references: what is passed to `get`, `put`, `wait` and `cancel`."""

from __future__ import annotations

from tests.mistakes.row import Mistake, Where

TITLE = "References"

_REF = "ref = ray.put(1)\n"
_F = "@ray.remote\ndef f(x=0):\n    return x\n"
_GET = "'get' takes an ObjectRef or a list of ObjectRefs."
_SHUT_DOWN = "Object … is lost: its cluster was shut down. Run what made it again."
_AGAIN = "Values in an embedded cluster go with it. Take out what you need before `shutdown`."


def _got(what: str, given: str, refs: str, kind: str, advice: str, instead: str) -> Mistake:
    return Mistake(
        what=f"{what} in `get`",
        given=_REF + _F + given,
        code=f"ray.get({refs})",
        error="ValueError",
        message=f"Invalid type of object refs, <class '{kind}'>, is given. {_GET}{advice}",
        instead=instead,
        stores="log.remote" in refs,
    )


def _awaited(what: str, refs: str, kind: str, advice: str, instead: str) -> Mistake:
    return Mistake(
        what=f"{what} in `wait`",
        given=_REF + _F,
        code=f"ray.wait({refs})",
        error="TypeError",
        message=f"wait() expected a list of ObjectRef, got <class '{kind}'>.{advice}",
        instead=instead,
    )


def _departed(what: str, code: str) -> Mistake:
    return Mistake(
        what=f"A reference of a cluster that was shut down: {what}",
        given=_F + "import pickle",
        code=code,
        error="ObjectLostError",
        message=_SHUT_DOWN,
        instead=_AGAIN,
    )


def _timed(what: str, code: str, error: str, message: str, instead: str) -> Mistake:
    return Mistake(what=what, given=_REF, code=code, error=error, message=message, instead=instead)


ROWS: tuple[Mistake, ...] = (
    _got(
        "A set",
        "",
        "{ref}",
        "set",
        " Pass list(refs).",
        "A set has no order, so nobody could tell whose values come back.",
    ),
    _got(
        "A generator",
        "",
        "f.remote(i) for i in range(3)",
        "generator",
        " Pass list(refs).",
        "`[f.remote(i) for i in range(3)]`.",
    ),
    _got(
        "A dictionary",
        "",
        '{"a": ref}',
        "dict",
        " Pass list(refs.values()).",
        "`dict(zip(refs, ray.get(list(refs.values()))))`.",
    ),
    _got(
        "A text",
        "",
        "ref.hex()",
        "str",
        " From the text of a ref, ObjectRef.from_hex() makes it again.",
        "`ray.get(ray.ObjectRef.from_hex(text))`.",
    ),
    _got(
        "None",
        "@ray.remote(num_returns=0)\ndef log(text):\n    pass\n",
        'log.remote("done")',
        "NoneType",
        " A function with num_returns=0 returns None: there is nothing to wait for.",
        "Leave `num_returns` out to wait for its end.",
    ),
    _got(
        "A remote function",
        "",
        "f",
        "cloudray.api.functions.RemoteFunction",
        " Call it first: .remote() returns an ObjectRef.",
        "`ray.get(f.remote())`.",
    ),
    _got("A value", "", "3", "int", "", "It is a value already."),
    Mistake(
        what="A value among references in `get`",
        given=_REF,
        code="ray.get([ref, 3])",
        error="TypeError",
        message="Attempting to call `get` on the value 3, which is not an ObjectRef: item 1 of the "
        "list is of type int.",
        instead="`get` takes references alone.",
    ),
    Mistake(
        what="Lists in a list in `get`",
        given=_REF,
        code="ray.get([[ref], [ref]])",
        error="TypeError",
        message="Attempting to call `get` on the value [ObjectRef(…)], which is not an ObjectRef: "
        "item 0 of the list is of type list. Pass one flat list.",
        instead="`[ray.get(refs) for refs in lists]`.",
    ),
    _awaited(
        "A set",
        "{ref}",
        "set",
        " Pass list(refs).",
        "`wait` returns lists, so `list(refs)` once will do.",
    ),
    _awaited(
        "A generator",
        "f.remote(i) for i in range(3)",
        "generator",
        " Pass list(refs).",
        "`[f.remote(i) for i in range(3)]`.",
    ),
    _awaited("A dictionary", '{"a": ref}', "dict", " Pass list(refs.values()).", "Pass a list."),
    _awaited(
        "None",
        "None",
        "NoneType",
        " A function with num_returns=0 returns None: there is nothing to wait for.",
        "Leave `num_returns` out to wait for its end.",
    ),
    Mistake(
        what="A single reference in `wait`",
        given=_REF,
        code="ray.wait(ref)",
        error="TypeError",
        message="wait() expected a list of ObjectRef, got a single ObjectRef ObjectRef(…). Pass "
        "[ref].",
        instead="`ray.wait([ref])`.",
    ),
    Mistake(
        what="A value among references in `wait`",
        given=_REF,
        code="ray.wait([ref, None])",
        error="TypeError",
        message="wait() expected a list of ObjectRef, got list containing <class 'NoneType'>: item "
        "1 is None. A function with num_returns=0 returns None: there is nothing to wait for.",
        instead="`wait` takes references alone.",
    ),
    Mistake(
        what="A reference twice in `wait`",
        given=_REF + "other = ray.put(2)",
        code="ray.wait([ref, other, ref])",
        error="ValueError",
        message="Wait requires a list of unique object refs: items 0 and 2 are the same. Pass "
        "list(dict.fromkeys(refs)).",
        instead="Each reference once.",
    ),
    _timed(
        "None of the references in `wait`",
        "ray.wait([ref], num_returns=0)",
        "ValueError",
        "Invalid number of objects to return 0. Ask for 1 or more.",
        "`num_returns` is 1 when it is left out; `timeout=0` waits for nothing.",
    ),
    _timed(
        "More than there are in `wait`",
        "ray.wait([ref], num_returns=2)",
        "ValueError",
        "num_returns cannot be greater than the number of objects provided to wait: 2 were asked "
        "for, of 1.",
        "`num_returns=len(refs)` waits for all.",
    ),
    _timed(
        "A part of a reference in `wait`",
        "ray.wait([ref], num_returns=0.5)",
        "TypeError",
        "wait() expected an int as num_returns, got <class 'float'>.",
        "A whole number.",
    ),
    _timed(
        "A negative timeout",
        "ray.get(ref, timeout=-1)",
        "ValueError",
        "The 'timeout' argument must be nonnegative. Received -1. To wait without a limit, leave "
        "it out.",
        "0 looks once.",
    ),
    _timed(
        "A timeout that is not a number",
        'ray.wait([ref], timeout=float("nan"))',
        "ValueError",
        "The 'timeout' argument must be a number of seconds or None, not NaN.",
        'Seconds; `float("inf")` is no limit.',
    ),
    _timed(
        "A timeout of a wrong type",
        'ray.get(ref, timeout="1 s")',
        "TypeError",
        "The 'timeout' argument must be a number of seconds or None, but received type str.",
        "Seconds, as a number.",
    ),
    _timed(
        "A reference in `put`",
        "ray.put(ref)",
        "TypeError",
        "Calling 'put' on an ObjectRef is not allowed. Pass the ref itself; to store a ref as a "
        "value, wrap it in a list.",
        "Its value is stored already.",
    ),
    _timed(
        "Something else in `cancel`",
        'ray.cancel("training")',
        "TypeError",
        "cancel() only supported for object refs. Got: <class 'str'>.",
        "The reference that `.remote()` returned.",
    ),
    _timed(
        "Several references in `cancel`",
        "ray.cancel([ref])",
        "TypeError",
        "cancel() only supported for object refs. Got: <class 'list'>. Cancel them one by one: for "
        "ref in refs: cloudray.cancel(ref).",
        "One by one.",
    ),
    _timed(
        "A text that is no reference",
        'ray.ObjectRef.from_hex("my-result")',
        "ValueError",
        "an ObjectRef is made from 58 hexadecimal digits, as ObjectRef.hex() returns them, and not "
        "from 'my-result'",
        "Keep what `ref.hex()` returned.",
    ),
    _timed(
        "A part of a reference's text",
        "ray.ObjectRef.from_hex(ref.hex()[:16])",
        "ValueError",
        "an ObjectRef is 29 bytes long, but this is 8: use what ObjectRef.hex() or "
        "ObjectRef.binary() returned",
        "All of its 58 digits.",
    ),
    _timed(
        "Bytes that are none",
        "ray.ObjectRef.from_binary(ref.hex())",
        "TypeError",
        "an ObjectRef is made from bytes, not from a str",
        "`from_hex` takes texts.",
    ),
    Mistake(
        what="The text of a reference from somewhere else",
        code='ray.get(ray.ObjectRef.from_hex("07" + "5a" * 28))',
        error="ObjectLostError",
        message="Object … is lost: this cluster has no such job: it belongs to another cluster, or "
        "its job was deleted, or its retention is over. Run what made it again.",
        instead="Join the cluster that it comes from.",
    ),
    Mistake(
        what="The text of a reference from somewhere else, as an argument",
        given=_F,
        code='ray.get(f.remote(ray.ObjectRef.from_hex("07" + "5a" * 28)))',
        error="ObjectLostError",
        message="Object … is lost: this cluster has no such job: it belongs to another cluster, or "
        "its job was deleted, or its retention is over. Run what made it again.",
        instead="Join the cluster that it comes from.",
        stores=True,
    ),
    Mistake(
        what="The text of a reference from somewhere else, to cancel",
        code='ray.cancel(ray.ObjectRef.from_hex("07" + "5a" * 24 + "00" * 4))',
        error="ObjectLostError",
        message="Object … is lost: this cluster has no such job: it belongs to another cluster. "
        "Run what made it again.",
        instead="Join the cluster that it comes from.",
    ),
    _departed("`get`", "ray.get(old_ref)"),
    _departed("`get` of what was put", "ray.get(old_put)"),
    _departed("`wait`", "ray.wait([old_ref], timeout=60)"),
    _departed("as an argument", "f.remote(old_ref)"),
    _departed("inside an argument", 'f.remote({"result": old_ref})'),
    _departed("inside a value", "ray.put([old_ref])"),
    _departed("`cancel`", "ray.cancel(old_ref)"),
    _departed("`future`", "old_ref.future()"),
    _departed("pickled", "pickle.dumps(old_ref)"),
    Mistake(
        what="A reference of a cluster that was shut down, with no other",
        given="",
        code="ray.get(old_ref)",
        error="ObjectLostError",
        message=_SHUT_DOWN,
        instead=_AGAIN,
        where=Where.NOWHERE,
    ),
    Mistake(
        what="A reference in a process that was forked",
        given="import cloudray as ray, os, sys\nray.init(num_cpus=1)\nref = ray.put(1)\n",
        code="child = os.fork()\nif child:\n    os.waitpid(child, 0)\n    os._exit(1)\n"
        "ray.get(ref)",
        shown="if os.fork() == 0:\n    ray.get(ref)",
        error="ObjectLostError",
        message="Object … is lost: its cluster is that of the process from which this one was "
        "forked. Run what made it again.",
        instead="Use it in the process that called `init`, or in a thread of it.",
        where=Where.PROGRAM,
    ),
)
