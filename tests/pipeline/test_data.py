import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from graphopt.errors import DataError
from graphopt.ir import DType, Graph, TensorType
from graphopt.pipeline import Data
from tests.pipeline.passes import small_graph

X = np.arange(40, dtype=np.float32).reshape(10, 4)


def two_inputs(default=False):
    """Inputs ids: int64[batch, 3], mask: float32[batch], and (optionally) scale: float32[] with a default."""
    graph = Graph()
    graph.add_input("ids", TensorType.make(DType.INT64, ("batch", 3)))
    if default:
        graph.add_input("scale", TensorType.make(DType.FLOAT32, ()), default=torch.tensor(2.0))
    graph.add_input("mask", TensorType.make(DType.FLOAT32, ("batch",)))
    return graph


IDS, MASK, Y = torch.zeros(5, 3, dtype=torch.int64), torch.ones(5), torch.arange(5)


@pytest.mark.parametrize(
    ("source", "labels"),
    [([torch.from_numpy(X)], False), ([X], False), (torch.from_numpy(X), False), (X, False), ([(X,)], False),
     ([[X, np.arange(10)]], True), ([(X, torch.arange(10))], True), ([{"x": X}], False), ({"x": X}, False),
     ({"x": X, "labels": np.arange(10)}, True), ([{"x": X, "y": np.arange(10)}], True), (iter([X]), False),
     (((each,) for each in [X]), False), (X.tolist, None), ([X.tolist()], None)],
)  # fmt: skip
def test_forms_of_data(source, labels):
    if labels is None:  # neither a callable nor a nested list is a batch
        with pytest.raises(DataError):
            Data(source, small_graph()).first()
        return
    data = Data(source, small_graph())
    for _ in range(2):  # also what can be read only once
        (batch,) = data
        assert torch.equal(batch.inputs[0], torch.from_numpy(X))
        assert (batch.labels is not None) == labels
        if labels:
            assert torch.equal(batch.labels, torch.arange(10))


def test_data_loader():
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.arange(10)), batch_size=4)
    state = torch.get_rng_state()
    data = Data(loader, small_graph())
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it yet
    assert [len(batch.labels) for batch in data] == [4, 4, 2]


def test_several_inputs_in_order_and_by_name():
    for source in ([(IDS, MASK)], [(IDS, MASK, Y)], [{"mask": MASK, "ids": IDS, "target": Y}]):
        batch = Data(source, two_inputs()).first()
        assert batch.inputs == (IDS, MASK)


def test_inputs_with_a_default_may_be_left_out():
    for source, scale in (([(IDS, MASK)], 2.0), ([{"ids": IDS, "mask": MASK, "scale": torch.tensor(3.0)}], 3.0)):
        ids, second, mask = Data(source, two_inputs(default=True)).first().inputs
        assert ids is IDS
        assert mask is MASK
        assert float(second) == scale


def test_npz_and_folder(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, label=np.arange(10))
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", X)
    np.save(tmp_path / "d" / "label.npy", np.arange(10))
    for path in (tmp_path / "d.npz", str(tmp_path / "d")):
        assert [len(batch.inputs[0]) for batch in Data(path, small_graph(), batch_size=4)] == [4, 4, 2]
        assert [len(batch.inputs[0]) for batch in Data(path, small_graph(batch=4))] == [4, 4]  # takes nothing else
        batches = list(Data(path, small_graph(batch=2)))
        assert torch.equal(torch.cat([batch.inputs[0] for batch in batches]), torch.from_numpy(X))
        assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.arange(10))


def without(array, value):
    changed = array.copy()
    changed[3, 1] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "words"),
    [({"input": X}, r"array 'input' names no input of the model \(at batch 0\); the inputs are: x"),
     ({"X": X}, "array 'X' names no input .*did you mean 'x'"),
     ({"x": X, "foo": X}, "array 'foo' names no input"),
     ({"y": X}, r"no array for input 'x' .*add an array 'x'"),
     ({"x": X[:, :3]}, r"array 'x' has shape \[10, 3\], the input wants float32\[batch, 4\]"),
     ({"x": X[0]}, r"array 'x' has shape \[4\]"),
     ({"x": X.astype(np.float64)}, "array 'x' has element type float64, the input wants float32.*convert it"),
     ({"x": X.astype(np.uint8)}, "array 'x' has element type uint8"),
     ({"x": without(X, np.nan)}, "array 'x' holds NaN or infinity.*remove the samples"),
     ({"x": without(X, np.inf)}, "array 'x' holds NaN or infinity"),
     ({"x": X, "labels": np.full(10, np.nan)}, "array 'labels' holds NaN"),
     ({"x": X.astype(str)}, "array 'x' is not numeric")],
)  # fmt: skip
def test_arrays_that_do_not_fit(arrays, words, tmp_path):
    with pytest.raises(DataError, match=words):
        list(Data([arrays], small_graph()))
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=words):
        list(Data(tmp_path / "d.npz", small_graph()))


@pytest.mark.parametrize(
    ("source", "words"),
    [([], "no samples"), (iter(()), "no samples"), (3, "int is no data"),
     ([(X, X, X)], "a batch of 3 arrays for 1 inputs.*give x and, at most, the labels"),
     ([(X, np.arange(9))], "9 labels for 10 samples"),
     ([X, without(X, np.nan)], r"holds NaN or infinity \(at batch 1\)"),
     ([object()], "not numeric")],
)  # fmt: skip
def test_batches_that_do_not_fit(source, words):
    with pytest.raises(DataError, match=words):
        list(Data(source, small_graph()))


def test_batch_dimension_is_the_same_in_all_inputs():
    with pytest.raises(DataError, match="dimension 'batch' is 5 in array 'ids' and 4 in array 'mask'"):
        Data([(IDS, MASK[:4])], two_inputs()).first()


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda p: None, "no such file"),
     (lambda p: p.write_text("hello"), "cannot be read as numpy arrays"),
     (lambda p: p.write_bytes(b""), "cannot be read as numpy arrays"),
     (lambda p: (np.save(p.with_suffix(".npy"), X), p.with_suffix(".npy").rename(p)), "holds a single array"),
     (lambda p: p.mkdir(), "holds no samples"),
     (lambda p: np.savez(p, x=X[:0]), "holds no samples"),
     (lambda p: np.savez(p, x=np.float32(1)), "holds no samples"),
     (lambda p: np.savez(p, x=X, labels=np.arange(9)), "differ in length: x: 10, labels: 9"),
     (lambda p: np.savez(p, x=np.array([{}], dtype=object)), "cannot be read as numpy arrays")],
)  # fmt: skip
def test_files_that_cannot_be_read(make, words, tmp_path):
    make(tmp_path / "d.npz")
    with pytest.raises(DataError, match=words):
        list(Data(tmp_path / "d.npz", small_graph()))


def test_truncated_file(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as numpy arrays"):
        Data(tmp_path / "d.npz", small_graph())


def test_a_dataset_is_no_loader():
    with pytest.raises(DataError, match=r"has shape \[4\].*it is a single sample: give batches, such as .*DataLoader"):
        Data(TensorDataset(torch.from_numpy(X)), small_graph()).first()
