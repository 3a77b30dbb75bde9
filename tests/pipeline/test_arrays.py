"""Archives of numpy's that are not what they say."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from graphopt.errors import DataError
from graphopt.pipeline import arrays
from graphopt.pipeline.arrays import load_arrays

X = np.arange(40, dtype=np.float32).reshape(10, 4)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes(write, tmp_path):
    given = {"x": X, "y": np.arange(10), "flags": X > 3, "one": np.float16(2), "fortran": np.asfortranarray(X)}
    write(tmp_path / "d.npz", **given)
    found = load_arrays(tmp_path / "d.npz")
    assert list(found) == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros(1 << 24, np.uint8))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"take 0\.0 GiB once unpacked, more than .* put them into a folder of \.npy"):
        load_arrays(tmp_path / "d.npz")
    assert tracemalloc.get_traced_memory()[1] < 1 << 21
    tracemalloc.stop()


def test_what_a_file_holds_as_it_is_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 16)
    np.savez(tmp_path / "d.npz", x=X)
    assert load_arrays(tmp_path / "d.npz")["x"].shape == (10, 4)


def header(shape):
    """Of an array of float32, with two elements behind it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


@pytest.mark.parametrize("shape", ["(1 << 40,)", "(1099511627776,)", "(3,)", "(1,)", "(-1,)", "(2, 'a')"])
def test_headers_that_ask_for_something_else(shape, tmp_path):
    with pytest.raises(DataError, match=r"the file holds 8|cannot be read as numpy arrays"):
        load_arrays(archive(tmp_path / "d.npz", {"x.npy": header(shape)}))


def test_the_header_of_the_tests_is_good(tmp_path):
    assert load_arrays(archive(tmp_path / "d.npz", {"x.npy": header("(2,)")}))["x"].shape == (2,)


@pytest.mark.parametrize(
    ("members", "words"),
    [({"x.npy": npy(X)[:-8]}, "array 'x.npy' is of 160 bytes and the file holds 152"),
     ({"x.npy": npy(np.array([{}, None], dtype=object))}, "cannot be read .*Python objects"),
     ({"read.me": b"hello"}, "cannot be read as numpy arrays"), ({"x.npy": b""}, "cannot be read as numpy arrays")],
)  # fmt: skip
def test_members_that_are_no_arrays(members, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load_arrays(archive(tmp_path / "d.npz", members))


def test_a_single_array_is_not_read_to_be_refused(tmp_path):
    with (tmp_path / "d.npy").open("wb") as file:
        file.write(npy(X)[:128].replace(b"(10, 4)", b"(10, 4)"))
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(DataError, match="holds a single array"):
        load_arrays(tmp_path / "d.npy")


def test_a_folder_is_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    found = load_arrays(tmp_path)
    assert isinstance(found["x"], np.memmap)
    (tmp_path / "y.npy").write_bytes(header("(1099511627776,)"))
    with pytest.raises(DataError, match="cannot be read as numpy arrays"):
        load_arrays(tmp_path)
