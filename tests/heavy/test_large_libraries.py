"""Values of pandas, Arrow, torch and PIL come back, from memory that is shared where it can be."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cloudray as ray
from cloudray.values.codec import dumps, loads, loads_from
from tests.integration.clusters import Embedded
from tests.mappings import mapping_at, mapping_of

# None of them has types that strict checking is content with.
torch: Any = import_module("torch")
pd: Any = import_module("pandas")
pa: Any = import_module("pyarrow")
image: Any = import_module("PIL.Image")

ROWS = 50_000
HEADER = bytes(64)


@ray.remote
def same(value: Any) -> Any:
    return value


# -- the table -----------------------------------------------------------------------------


def _frame() -> Any:
    return pd.DataFrame(
        {
            "number": np.arange(ROWS),
            "real": np.linspace(0, 1, ROWS),
            "text": [f"text {number}" for number in range(ROWS)],
            "date": pd.date_range("2020", periods=ROWS, freq="h"),
            "zone": pd.date_range("2020", periods=ROWS, freq="h", tz="Europe/Berlin"),
            "kind": pd.Categorical(["a", "b"] * (ROWS // 2)),
            "missing": pd.array([1, None] * (ROWS // 2), dtype="Int64"),
            "truth": [True, False] * (ROWS // 2),
            "object": [{"a": number} for number in range(ROWS)],
        }
    )


def _table() -> Any:
    return pa.table(
        {
            "number": np.arange(ROWS),
            "text": [f"text {number}" for number in range(ROWS)],
            "list": [[1, 2], None] * (ROWS // 2),
            "kind": pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode(),
        }
    )


def _model() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.ReLU(), torch.nn.Linear(40, 2))


def _trained() -> Any:
    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(30)).sum().backward()
    optimizer.step()
    return model, optimizer


def _painting(mode: str) -> Any:
    pixels = np.arange(60 * 40 * 3, dtype=np.uint8).reshape(40, 60, 3)
    return image.fromarray(pixels).convert(mode)


def _opened() -> Any:
    file = io.BytesIO()
    _painting("RGB").save(file, "PNG")
    return image.open(file)


def _frames_equal(before: Any, after: Any) -> bool:
    pd.testing.assert_frame_equal(before, after)
    return True


def _tensors_equal(before: Any, after: Any) -> bool:
    return (
        type(after) is type(before)
        and (after.dtype, after.shape, after.requires_grad)
        == (before.dtype, before.shape, before.requires_grad)
        and bool(torch.equal(after.detach(), before.detach()))
    )


def _models_equal(before: Any, after: Any) -> bool:
    return bool(torch.equal(before(torch.ones(30)), after(torch.ones(30))))


def _still_trains(_: Any, after: Any) -> bool:
    model, optimizer = after
    parameters = list(model.parameters())
    known = optimizer.param_groups[0]["params"]
    before = parameters[0].detach().clone()
    model(torch.ones(30)).sum().backward()
    optimizer.step()
    return all(map(lambda one, two: one is two, parameters, known)) and not torch.equal(
        before, parameters[0]
    )


def _images_equal(before: Any, after: Any) -> bool:
    return (after.mode, after.size, after.tobytes()) == (before.mode, before.size, before.tobytes())


def _equals(before: Any, after: Any) -> bool:
    return type(after) is type(before) and bool(after.equals(before))


VALUES: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], bool]]] = {
    "DataFrame": (_frame, _frames_equal),
    "DataFrame with an index of dates": (lambda: _frame().set_index("date"), _frames_equal),
    "DataFrame with two indexes": (
        lambda: _frame().set_index(["kind", "number"]),
        _frames_equal,
    ),
    "some rows of a DataFrame": (lambda: _frame().iloc[10:20], _frames_equal),
    "every other row": (lambda: _frame()[::2], _frames_equal),
    "empty DataFrame": (pd.DataFrame, _frames_equal),
    "Series": (lambda: _frame()["real"], _equals),
    "Series of texts": (lambda: _frame()["text"], _equals),
    "Index of periods": (lambda: pd.period_range("2020", periods=99, freq="D"), _equals),
    "Timestamp": (lambda: pd.Timestamp("2020-02-29", tz="UTC"), lambda one, two: one == two),
    "Arrow Table": (_table, _equals),
    "a slice of an Arrow Table": (lambda: _table().slice(10, 20), _equals),
    "RecordBatch": (lambda: _table().to_batches()[0], _equals),
    "a slice of a RecordBatch": (lambda: _table().to_batches()[0].slice(5, 5), _equals),
    "ChunkedArray": (lambda: _table()["text"], _equals),
    "a slice of an Arrow Array": (lambda: _table()["list"].chunk(0).slice(3, 4), _equals),
    "Arrow Schema": (lambda: _table().schema, _equals),
    "empty Arrow Table": (lambda: _table().slice(0, 0), _equals),
    "Tensor": (lambda: torch.arange(50_000.0).reshape(100, 500), _tensors_equal),
    "small Tensor": (lambda: torch.tensor(3.5), _tensors_equal),
    "empty Tensor": (lambda: torch.empty(0, 3), _tensors_equal),
    "transposed Tensor": (lambda: torch.ones(300, 400).t(), _tensors_equal),
    "bfloat16 Tensor": (lambda: torch.ones(99, dtype=torch.bfloat16), _tensors_equal),
    "complex Tensor": (lambda: torch.ones(9, dtype=torch.complex64).conj(), _tensors_equal),
    "boolean Tensor": (lambda: torch.tensor([True, False]), _tensors_equal),
    "Tensor with a gradient": (lambda: torch.ones(9, requires_grad=True), _tensors_equal),
    "Parameter": (lambda: torch.nn.Parameter(torch.ones(40_000)), _tensors_equal),
    "sparse Tensor": (
        lambda: torch.eye(30).to_sparse(),
        lambda one, two: bool(torch.equal(one.to_dense(), two.to_dense())),
    ),
    "Module": (_model, _models_equal),
    "Module with its optimizer": (_trained, _still_trains),
    "state of a Module": (
        lambda: _model().state_dict(),
        lambda one, two: (
            list(one) == list(two) and all(map(_tensors_equal, one.values(), two.values()))
        ),
    ),
    "torch Generator's state": (
        lambda: torch.Generator().manual_seed(3).get_state(),
        _tensors_equal,
    ),
    **{
        f"PIL Image {mode}": (partial(_painting, mode), _images_equal)
        for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "F")
    },
    "PIL Image of a file": (_opened, _images_equal),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back(name: str, tmp_path: Path) -> None:
    make, is_same = VALUES[name]
    assert is_same(make(), loads(dumps(make()).to_bytes()))
    assert is_same(make(), loads_from(written(make(), tmp_path), len(HEADER)))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_through_a_cluster(name: str) -> None:
    make, is_same = VALUES[name]
    ref = ray.put(make())
    for after in ray.get([ref, same.remote(ref), same.remote(make())]):
        assert is_same(make(), after)


# -- copies --------------------------------------------------------------------------------


def written(value: object, folder: Path) -> str:
    path = folder / "object"
    path.write_bytes(b"".join((HEADER, *dumps(value).parts)))
    return str(path)


def arrays_of(frame: Any) -> list[Any]:
    """The NumPy arrays that a frame consists of, where it does."""
    return [frame[name].to_numpy(copy=False) for name in frame.columns]


@ray.remote
def where_is(value: Any) -> list[tuple[str, str]]:
    """Permissions and file of the mappings in which a value lies."""
    if isinstance(value, torch.Tensor):
        found = [mapping_at(value.untyped_storage().data_ptr())]
    elif isinstance(value, pa.Table):
        buffers = [buffer for chunk in value["number"].chunks for buffer in chunk.buffers()]
        found = [mapping_at(buffer.address) for buffer in buffers if buffer is not None]
    else:
        found = [mapping_of(array) for array in arrays_of(value)]
    return [(mapping.permissions, mapping.file) for mapping in found]


@pytest.mark.parametrize(
    ("make", "permissions"),
    [
        (lambda: _frame()[["number", "real", "date", "truth"]], "r--s"),
        (_table, "r--s"),
        # A tensor can always be written to: each process has what it writes for itself.
        (lambda: torch.arange(50_000), "rw-p"),
    ],
    ids=["DataFrame", "Table", "Tensor"],
)
def test_a_value_lies_in_the_file_it_was_stored_in(
    cluster: Embedded, make: Callable[[], Any], permissions: str
) -> None:
    ref = ray.put(make())
    for found in ray.get([where_is.remote(ref), where_is.remote(make())]):
        assert {seen for seen, _ in found} == {permissions}
        assert all(file.startswith(str(cluster.folder)) for _, file in found)


@pytest.mark.usefixtures("cluster")
def test_what_is_written_into_a_tensor_stays_with_its_writer() -> None:
    @ray.remote
    def add_one(tensor: Any) -> Any:
        tensor += 1
        return tensor

    ref = ray.put(torch.zeros(50_000))
    ours = ray.get(ref)
    ours[0] = 7
    first, second = ray.get([add_one.remote(ref), add_one.remote(ref)])
    assert (first.sum().item(), second.sum().item()) == (50_000, 50_000)
    assert ray.get(ref).sum().item() == 0
    assert ours.sum().item() == 7


@pytest.mark.usefixtures("cluster")
def test_tensors_that_share_memory_still_do() -> None:
    whole = torch.zeros(50_000)
    first, second = ray.get(same.remote([whole, whole[10:20]]))
    first[10] = 5
    assert second[0].item() == 5


def test_a_slice_of_a_table_is_stored_without_the_rest() -> None:
    for value in (_table(), _table().to_batches()[0], _table()["text"], _frame()["text"]):
        whole, part = dumps(value).size_bytes, dumps(value[10:20]).size_bytes
        assert part < whole / 50


def test_a_tensor_is_not_copied_when_it_is_serialized() -> None:
    tensor = torch.zeros(50_000)
    addresses = [
        np.frombuffer(part, np.uint8).__array_interface__["data"][0]
        for part in dumps(tensor).parts
        if len(part) >= tensor.nbytes
    ]
    assert addresses == [tensor.data_ptr()]


@pytest.mark.usefixtures("cluster")
def test_a_tensor_in_a_functions_closure_comes_along() -> None:
    weights = torch.ones(1_000)

    @ray.remote
    def total() -> float:
        return float(weights.sum())

    assert ray.get(total.remote()) == 1_000
