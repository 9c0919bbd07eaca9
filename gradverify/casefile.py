"""Case files: one zip archive with `case.json` and one .npy member for each array.

Data only: arrays are numbers and nothing else, floats in the JSON survive exactly (Python writes the
shortest digits that round-trip; NaN and infinities are written as strings). The archive is not
compressed, so a reader needs no more memory than the file has bytes; one that somebody has compressed
is read as well, up to a limit.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradverify import files
from gradverify.core import texts
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case
from gradverify.files import Fields

FORMAT, VERSION = "gradverify-case", 1
_DIRECTORY = 1 << 20  # bytes of an archive's list of members: some ten thousand arrays
_LARGEST = 1 << 31  # bytes of an archive


def save(case: Case, path: str | os.PathLike[str]) -> Path:
    """Write `case` to `path` (any suffix; ".npz" is usual) and return the path.

    Raises OSError if the folder cannot be written; no half-written file is left under `path`.
    """
    path = Path(path)
    files.write(path, dumps(case))
    return path


def load(path: str | os.PathLike[str]) -> Case:
    """Read a Case file; raises CaseFileError if the file is missing, damaged or of an unknown version."""
    data = files.read(Path(path), _LARGEST)
    try:
        return loads(data)
    except CaseFileError as error:
        raise CaseFileError(f"{os.fspath(path)!r}: {error}") from None


def dumps(case: Case) -> bytes:
    """The bytes of a Case file; equal Cases give equal bytes."""
    arrays = {f"primals/{name}": np.asarray(a) for name, a in case.primals.items()}
    arrays |= {f"cotangents/{k}": np.asarray(v) for k, v in enumerate(case.cotangents or ())}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member("case.json"), json.dumps(_header(case), indent=1, allow_nan=False))
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, _plain(array), allow_pickle=False)
            archive.writestr(_member(f"{name}.npy"), content.getvalue())
    return buffer.getvalue()


def loads(data: bytes) -> Case:
    """Read the bytes of a Case file; see `load`."""
    try:
        return _case(_Archive(data))
    except CaseFileError:
        raise
    except Exception as error:  # noqa: BLE001  damage shows as whatever zipfile and numpy make of it
        said = texts.line(f"{type(error).__name__}: {error}", 200)
        raise CaseFileError(f"the case file is damaged ({said})") from None


class _Archive:
    """Members of a zip archive, with what they may hold bounded before they are read."""

    def __init__(self, data: bytes) -> None:
        end = data.rfind(b"PK\x05\x06")
        if int.from_bytes(data[end + 12 : end + 16], "little") > _DIRECTORY:
            raise CaseFileError("the case file is damaged (its list of members is too long)")
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        # bytes that members may still have: such as are stored cannot be larger than the archive, all of them together
        self._left = {zipfile.ZIP_STORED: len(data), zipfile.ZIP_DEFLATED: files.MOST}

    def read(self, name: str, most: int | None = None) -> bytes:
        """A member; raises CaseFileError if it is larger than it can be."""
        info = self._zip.getinfo(name)
        if info.compress_type not in self._left:
            raise CaseFileError(f"member {name!r} is compressed in a way that is not read")
        left = self._left[info.compress_type]
        most = left if most is None else min(most, left)
        if info.file_size > most:
            raise CaseFileError(
                f"member {name!r} has {info.file_size:,} bytes, more than the {most:,} that it may have"
            )
        self._left[info.compress_type] = left - info.file_size
        return self._zip.read(info)


def _case(archive: _Archive) -> Case:
    header = Fields.parse(archive.read("case.json", files.TEXT))
    if header.content.get("format") != FORMAT:
        raise CaseFileError("this is no case file of gradverify")
    if header.content.get("version") != VERSION:
        version = texts.line(repr(header.content.get("version")), 40)
        raise CaseFileError(f"the case file has version {version}; this gradverify reads version {VERSION}")
    try:
        dtypes, cotangents = header.inner("primals").content, None
        if header.content["cotangents"] is not None:
            given = header.listed("cotangents", str)
            cotangents = tuple(_array(archive, f"cotangents/{k}", dtype) for k, dtype in enumerate(given))
        return Case(
            layer=header.line("layer", 200),
            primals={name: _array(archive, f"primals/{name}", dtype) for name, dtype in dtypes.items()},
            options={name: _decode(value) for name, value in header.inner("options").content.items()},
            cotangents=cotangents,
            step=None if header.content["step"] is None else header.number("step"),
            seed=header.whole("seed"),
            target=None if header.content["target"] is None else header.text("target"),
        )
    except CaseFileError as error:
        raise CaseFileError(f"the case file is damaged ({error})") from None


def digest(case: Case) -> str:
    """Eight hexadecimal digits that identify the contents of a Case."""
    return hashlib.sha256(dumps(case)).hexdigest()[:8]


def _header(case: Case) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "layer": case.layer,
        "target": case.target,
        "options": {name: _encode(value) for name, value in case.options.items()},
        "step": _encode(case.step),
        "seed": int(case.seed),
        "primals": {name: str(np.asarray(a).dtype) for name, a in case.primals.items()},
        "cotangents": None if case.cotangents is None else [str(np.asarray(v).dtype) for v in case.cotangents],
    }


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Types that the .npy format does not know (bfloat16, float8) travel as unsigned integers."""
    if array.dtype.kind == "V" or array.dtype.name not in np.sctypeDict:
        return array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return array


def _array(archive: _Archive, name: str, dtype: Any) -> Any:
    array = _stored(archive.read(f"{name}.npy"), name)
    if str(array.dtype) == dtype:
        return array
    try:
        wanted = np.dtype(str(dtype))
    except (TypeError, ValueError, SyntaxError):
        raise CaseFileError(
            f"array {name!r} has dtype {texts.line(str(dtype), 80)}, which NumPy does not know "
            "(bfloat16 and the like need ml_dtypes)"
        ) from None
    plain = wanted.type is not np.void and wanted.kind not in "OSUMm"
    if not plain or array.dtype.kind != "u" or array.dtype.itemsize != wanted.itemsize:
        raise CaseFileError(f"array {name!r} is {array.dtype}, not {texts.line(str(dtype), 80)}")
    return array.view(wanted)


def _stored(data: bytes, name: str) -> Any:
    """The array in the bytes of an .npy file, which are neither too few nor too many for it."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    start = file.tell()
    if dtype.kind not in "fciub" or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise CaseFileError(f"array {name!r} is not what it says")
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="K")


def _encode(value: Any) -> Any:
    if isinstance(value, (np.generic,)):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(part) for part in value]}
    if isinstance(value, list):
        return [_encode(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CaseFileError(
        f"an option has the value {value!r} of type {type(value).__name__}; "
        "a case file holds numbers, strings, booleans, None, and tuples or lists of these"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return float(value["float"]) if "float" in value else tuple(_decode(part) for part in value["tuple"])
    return [_decode(part) for part in value] if isinstance(value, list) else value
