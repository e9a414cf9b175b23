"""Mistakes in starting, joining and leaving a cluster."""

from __future__ import annotations

from tests.mistakes.row import Mistake, Where

TITLE = "Starting and joining a cluster"

_TWICE = "Maybe you called cloudray.init twice by accident? "
_STORES = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"


def _init(what: str, code: str, error: str, message: str, instead: str, given: str = "") -> Mistake:
    return Mistake(
        what=what,
        given=given,
        code=f"ray.init({code})",
        error=error,
        message=message,
        instead=instead,
        where=Where.NOWHERE,
    )


def _joined(what: str, given: str, folder: str, message: str, instead: str) -> Mistake:
    return Mistake(
        what=what,
        given=given,
        code=f'ray.init(f"file://{{folder}}{folder}")',
        shown=f'ray.init("file:///shared{folder}")',
        error="ConnectionError",
        message=f"Could not join the cluster at file://…{folder}{message}",
        instead=instead,
        where=Where.NOWHERE,
    )


def _record(body: str) -> str:
    """A directory with a cluster's record in it, of which `body` is an expression."""
    return (
        "from cloudray.store import envelope\n"
        "record = bytearray(envelope.seal(envelope.Kind.CLUSTER, b'x'))\n"
        "(folder / 'dir/.tmp').mkdir(parents=True)\n"
        f"(folder / 'dir/cluster').write_bytes({body})\n"
    )


ROWS: tuple[Mistake, ...] = (
    Mistake(
        what="`init` twice",
        code="ray.init()",
        error="RuntimeError",
        message=f"{_TWICE}This error can be suppressed by passing in 'ignore_reinit_error=True' or "
        "by calling 'cloudray.shutdown()' prior to 'cloudray.init()'.",
        instead="Call it once, at the beginning.",
    ),
    Mistake(
        what="`init` in a task",
        code="@ray.remote\ndef f():\n    ray.init()\n\nray.get(f.remote())",
        error="RayTaskError(RuntimeError)",
        message=f"cloudray::f() (pid=…)\n…\nRuntimeError: {_TWICE}A task is in its driver's "
        "cluster already: leave the call out, or pass in 'ignore_reinit_error=True'.",
        instead="Leave it out. `shutdown` in a task does nothing.",
        stores=True,
    ),
    Mistake(
        what="CloudRay in a process that a task has forked",
        given="import os, pickle\n",
        code="@ray.remote\ndef f():\n    read, write = os.pipe()\n    if os.fork() == 0:\n"
        "        try:\n            ray.put(1)\n        except BaseException as error:\n"
        "            os.write(write, pickle.dumps(error))\n        os._exit(0)\n    os.wait()\n"
        "    raise pickle.loads(os.read(read, 10_000))\n\nray.get(f.remote())",
        shown="@ray.remote\ndef f():\n    if os.fork() == 0:\n        ray.put(1)",
        error="RayTaskError(RuntimeError)",
        message="cloudray::f() (pid=…)\n…\nRuntimeError: a process forked from a task has no "
        "connection to the cluster: use it in the task itself, or in a thread of it",
        instead="Submit tasks instead of forking.",
        stores=True,
    ),
    _init(
        "An argument that does not exist",
        "num_cpu=2",
        "RuntimeError",
        "Unknown keyword argument(s): num_cpu. Did you mean 'num_cpus'?",
        "[settings.md](settings.md) lists them.",
    ),
    _init(
        "An argument of a wrong type",
        'num_cpus="2"',
        "TypeError",
        "The type of keyword 'num_cpus' must be (float, int, NoneType), but received type str",
        "A number.",
    ),
    _init(
        "An offer of less than nothing",
        "num_gpus=-1",
        "ValueError",
        "The quantity of resource num_gpus cannot be negative",
        "0 offers none.",
    ),
    _init(
        "A size that is none",
        'object_store_memory="much"',
        "ValueError",
        "object_store_memory='much' is no size: write a number of bytes, or a number with a unit "
        "such as '500 MB', '2 GB' or '1.5 GiB'",
        '`object_store_memory="2 GB"`.',
    ),
    _init(
        "No room for a cluster on this machine",
        "num_cpus=1",
        "RaySystemError",
        "No cluster could be started here: no space left in … while creating cluster (No space "
        "left on device). Free some space there, or use a larger directory.",
        "Its records are in memory (`/dev/shm`), or where there is none, in the folder for "
        "temporary files.",
        "from cloudray import platform\nfill(platform.memory_folder())\n",
    ),
    _init(
        "A level of logging that does not exist",
        'logging_level="LOUD"',
        "ValueError",
        "logging_level='LOUD' is no level: it is one of CRITICAL, ERROR, WARNING, INFO, DEBUG",
        "One of these.",
    ),
    Mistake(
        what="A setting in the environment that is none",
        given="monkeypatch.setenv('CLOUDRAY_NUM_CPUS', 'many')\n",
        code="ray.init()",
        shown='os.environ["CLOUDRAY_NUM_CPUS"] = "many"\nray.init()',
        error="ValueError",
        message="The environment variable CLOUDRAY_NUM_CPUS=many is not allowed: it must be a "
        "number",
        instead="[settings.md](settings.md) says how values are written.",
        where=Where.NOWHERE,
    ),
    Mistake(
        what="A setting in the file that does not exist",
        given="(folder / 'cloudray.toml').write_text('num_cpu = 3')\n"
        "monkeypatch.setenv('CLOUDRAY_CONFIG', str(folder / 'cloudray.toml'))\n",
        code="ray.init()",
        shown="ray.init()  # where ~/.config/cloudray.toml says num_cpu = 3",
        error="ValueError",
        message="…/cloudray.toml: there is no setting 'num_cpu'. Did you mean 'num_cpus'?",
        instead="[settings.md](settings.md) lists them.",
        where=Where.NOWHERE,
    ),
    _init(
        "An address, and what a cluster on this machine should offer",
        '"s3://bucket", num_cpus=4, resources={"tpu": 1}',
        "ValueError",
        "When connecting to an existing cluster, num_cpus and resources must not be provided: the "
        "agents of s3://bucket say what they offer.",
        "Leave out one or the other.",
    ),
    _init(
        "An address that is no text",
        "3",
        "TypeError",
        "The type of keyword 'address' must be (str, NoneType), but received type int",
        "A URL.",
    ),
    _init(
        "A misspelt address",
        '"fil:///shared/folder"',
        "ValueError",
        "'fil:///shared/folder' is no address of a cluster: did you mean file:// instead of fil:?",
        "`file:///shared/folder`.",
    ),
    _init(
        "A path as an address",
        '"/shared/folder"',
        "ValueError",
        "'/shared/folder' is no address of a cluster: for this directory write "
        "file:///shared/folder",
        "`file:///shared/folder`.",
    ),
    _init(
        "A relative path as an address",
        '"file://shared/folder"',
        "ValueError",
        "'file://shared/folder' does not name a directory from the root: write file:///folder, "
        "with three slashes",
        "`file:///shared/folder`.",
    ),
    _init(
        "A web address",
        '"http://localhost:9000"',
        "ValueError",
        "'http://localhost:9000' is no address of a cluster: for a service of your own write "
        "s3://bucket?endpoint=http://localhost:9000",
        "`s3://bucket?endpoint=http://localhost:9000`.",
    ),
    _init(
        "The address of a head node",
        '"ray://head:10001"',
        "ValueError",
        "'ray://head:10001' is no address of a cluster: there is no head node to connect to; "
        f"clusters are places in storage: {_STORES}",
        "A place in storage.",
    ),
    _init(
        "Host and port",
        '"127.0.0.1:6379"',
        "ValueError",
        "'127.0.0.1:6379' is no address of a cluster: there is no head node to connect to; "
        f"clusters are places in storage: {_STORES}",
        "A place in storage.",
    ),
    _init(
        "No bucket",
        '"s3:/bucket"',
        "ValueError",
        "'s3:/bucket' names no bucket: write s3://bucket or s3://bucket/prefix",
        "`s3://bucket`.",
    ),
    _init(
        "A name that no bucket can have",
        '"s3://My_Bucket/prefix"',
        "ValueError",
        "'s3://My_Bucket/prefix' names no bucket that there can be: 3 to 63 lower-case letters, "
        "digits, hyphens and dots",
        '`"s3://my-bucket/prefix"`.',
    ),
    _init(
        "A secret in the address",
        '"s3://AKIAEXAMPLE:hunter2@bucket/prefix"',
        "ValueError",
        "'s3://...@bucket/prefix' has credentials in it, and addresses are shown, logged and "
        "stored. Leave them out: …",
        "Environment variables, a profile or a role.",
    ),
    _init(
        "A host in the place of the bucket",
        '"s3://127.0.0.1:9000/prefix"',
        "ValueError",
        "'s3://127.0.0.1:9000/prefix' names a host in the place of the bucket: write "
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9000",
        "`s3://bucket/prefix?endpoint=http://127.0.0.1:9000`.",
    ),
    _init(
        "An endpoint that is no URL",
        '"s3://bucket?endpoint=localhost:9000"',
        "ValueError",
        "endpoint=localhost:9000 in 's3://bucket?endpoint=localhost:9000' is no URL: write "
        "endpoint=http://localhost:9000",
        "`s3://bucket?endpoint=http://localhost:9000`.",
    ),
    _init(
        "A service that cannot be reached",
        '"s3://bucket?endpoint=http://127.0.0.1:9"',
        "ConnectionError",
        "Could not join the cluster at s3://bucket?endpoint=http://127.0.0.1:9: reading cluster at "
        "s3://bucket?endpoint=http://127.0.0.1:9 failed, perhaps for now: …",
        "Check the address, and whether the service runs.",
        "for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):\n"
        "    monkeypatch.setenv(name, 'none')\n"
        "monkeypatch.setattr('cloudray.driver.reaching.REACH_S', 0.01)\n",
    ),
    _init(
        "A name that the settings do not have",
        '"evening"',
        "ValueError",
        "There is no cluster 'evening' (from argument address): …. An address is a URL such as "
        "s3://bucket/prefix or file:///folder, or the name of such a section.",
        "A section `[clusters.evening]` in the file, or a URL.",
    ),
    _init(
        "A parameter of an address that does not exist",
        '"file:///shared?durabel=1"',
        "ValueError",
        "'file:///shared?durabel=...' says durabel, which means nothing here: a file:// URL takes "
        "durable…",
        "`?durable=1`.",
    ),
    _joined(
        "A directory in one that is missing",
        "",
        "/shraed/dir",
        ": there is no directory …/shraed: make it, or mend the address.",
        "Only the last part of a path is made.",
    ),
    _joined(
        "A file in the place of the directory",
        "(folder / 'notes.txt').touch()\n",
        "/notes.txt",
        ": …/notes.txt is no directory (Not a directory): name one, or a new one.",
        "A directory.",
    ),
    Mistake(
        what="A directory that cannot be written",
        code='ray.init("file:///proc/cloudray")',
        error="ConnectionError",
        message="Could not join the cluster at file:///proc/cloudray: /proc/cloudray cannot be "
        "used (…): name a directory that you may write.",
        instead="A directory that every machine of the cluster may write.",
        where=Where.NOWHERE,
    ),
    _joined(
        "A directory that is full",
        "(folder / 'dir').mkdir()\nfill(folder / 'dir')\n",
        "/dir",
        ": no space left in …/dir while … (No space left on device). Free some space there, or use "
        "a larger directory.",
        "Free some space, or use another.",
    ),
    _joined(
        "A directory that holds something else",
        "(folder / 'dir').mkdir()\n"
        "for name in ('thesis.tex', 'figures', 'notes.txt', 'old.tex'):\n"
        "    (folder / 'dir' / name).touch()\n",
        "/dir",
        ": …/dir holds something else: figures, notes.txt, old.tex and 1 more. Name an empty "
        "directory, or one that does not exist yet.",
        "A directory of the cluster's own.",
    ),
    _joined(
        "A cluster of a newer version",
        _record("record[:4] + bytes([9]) + record[5:]"),
        "/dir",
        ", whose record cannot be read: cluster was written with protocol version 9; this CloudRay "
        "reads 0 and 1. Upgrade the older side.",
        "Upgrade CloudRay here.",
    ),
    _joined(
        "A cluster whose record is damaged",
        _record("record"),
        "/dir",
        ", whose record cannot be read: cluster does not hold a Cluster: …. Restore that record, "
        "or name another place.",
        "Another directory.",
    ),
    _joined(
        "A record that is none",
        _record('b\'{"name": "my cluster"}\' * 9'),
        "/dir",
        ", whose record cannot be read: cluster is not a CloudRay record: it begins with b'{\"na'. "
        "Restore that record, or name another place.",
        "Another directory.",
    ),
    Mistake(
        what="Use without `init`, where that is not wanted",
        given="import os\nos.environ['CLOUDRAY_ENABLE_AUTO_CONNECT'] = '0'\n"
        "import cloudray as ray\n",
        code="ray.put(1)",
        error="RuntimeError",
        message="cloudray is not initialized, and CLOUDRAY_ENABLE_AUTO_CONNECT=0: call "
        "cloudray.init() first.",
        instead="Call `init` first.",
        where=Where.PROGRAM,
    ),
)
