"""Arrays from files of numpy's, whose sizes are checked before anything is unpacked."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from graphopt.errors import DataError

#: What an archive may unpack to where it is itself no larger: a few kilobytes can hold gigabytes of zeros.
MAX_UNPACKED_BYTES = 4 << 30
_HINT = "save it with numpy.savez(path, input_name=array)"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or of the .npy files in a folder, by name; those of a folder are mapped, not read.

    Raises:
        DataError: there is no such file, it holds no arrays of numbers, or they are not of the size that it says, or
            take more than `MAX_UNPACKED_BYTES` and than the file.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}", hint="give an .npz file or a folder of .npy files")
    try:
        return _from_folder(path) if path.is_dir() else _from_archive(path)
    except DataError:
        raise
    except Exception as error:  # numpy raises whatever zipfile, pickle or the header parser raise
        raise DataError(
            f"{path} cannot be read as numpy arrays ({type(error).__name__}: {error})", hint=_HINT
        ) from error


def _from_folder(path: Path) -> dict[str, np.ndarray]:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise DataError(
            f"'{path}' holds no samples: no .npy file is in it", hint="save an array as INPUT_NAME.npy for each input"
        )
    return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}


def _from_archive(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"{path} is no file", hint="give an .npz file or a folder of .npy files")
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DataError(f"{path} holds a single array", hint=_HINT)
        with zipfile.ZipFile(file) as archive:
            _check_sizes(archive, path)
            return {each.filename.removesuffix(".npy"): _array(archive, each) for each in archive.infolist()}


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Compares what each array's header asks for with what the archive says that it has, before room is made for it."""
    total = 0
    for member in archive.infolist():
        with archive.open(member) as file:
            wanted = _bytes_of(file)
            held = member.file_size - file.tell()
        if wanted != held:
            raise DataError(f"array '{member.filename}' is of {wanted} bytes and the file holds {held}",
                            where=str(path), hint=f"the file is damaged; {_HINT}")  # fmt: skip
        total += held
    if total > max(MAX_UNPACKED_BYTES, path.stat().st_size):
        raise DataError(
            f"the arrays take {total / 2**30:.1f} GiB once unpacked, more than the {MAX_UNPACKED_BYTES / 2**30:g} GiB "
            "that are unpacked unasked", where=str(path),
            hint="put them into a folder of .npy files, which are read as they are needed",
        )  # fmt: skip


def _bytes_of(file: IO[bytes]) -> int:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format holds no plain numbers")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("Python objects, which would have to be unpickled")
    return math.prod(shape) * dtype.itemsize


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


__all__ = ["MAX_UNPACKED_BYTES", "load_arrays"]
