"""Case files: one zip archive with `case.json` and one .npy member for each array.

Data only: arrays are read with ``allow_pickle=False``, floats in the JSON survive exactly
(Python writes the shortest digits that round-trip; NaN and infinities are written as strings).
The archive is written beside its destination and renamed, so a reader never sees half a file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradverify.errors import CaseFileError
from gradverify.types import Case

VERSION = 1


def save(case: Case, path: str | os.PathLike[str]) -> Path:
    """Write `case` to `path` (any suffix; ".npz" is usual) and return the path.

    Raises
    ------
    OSError
        If the folder cannot be written; no half-written file is left under `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(dumps(case))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str]) -> Case:
    """Read a Case file.

    Raises
    ------
    CaseFileError
        If the file is missing, damaged or of an unknown version.
    """
    try:
        return loads(Path(path).read_bytes())
    except OSError as error:
        raise CaseFileError(f"cannot read the case file {str(path)!r}: {error.strerror or error}") from None
    except CaseFileError as error:
        raise CaseFileError(f"{str(path)!r}: {error}") from None


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
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            header = json.loads(archive.read("case.json"))
            _check(header)
            primals = {name: _array(archive, f"primals/{name}", spec) for name, spec in header["primals"].items()}
            cotangents = header["cotangents"]
            return Case(
                layer=header["layer"],
                primals=primals,
                options={name: _decode(value) for name, value in header["options"].items()},
                cotangents=None
                if cotangents is None
                else tuple(_array(archive, f"cotangents/{k}", spec) for k, spec in enumerate(cotangents)),
                step=_decode(header["step"]),
                seed=int(header["seed"]),
                target=header["target"],
            )
    except CaseFileError:
        raise
    except Exception as error:  # noqa: BLE001  damage shows as whatever zipfile, json and numpy make of it
        raise CaseFileError(f"the case file is damaged ({type(error).__name__}: {error})") from None


def _check(header: Any) -> None:
    """Format, version and the types of the plain fields; Cases are made of what is left."""
    if not isinstance(header, dict) or header.get("format") != "gradverify-case":
        raise CaseFileError("this is no case file of gradverify")
    if header.get("version") != VERSION:
        raise CaseFileError(
            f"the case file has version {header.get('version')!r}; this gradverify reads version {VERSION}"
        )
    for name, kinds in (
        ("layer", str),
        ("target", (str, type(None))),
        ("seed", int),
        ("step", (float, int, type(None))),
    ):
        if not isinstance(header[name], kinds):
            raise CaseFileError(f"the case file is damaged ({name} is {header[name]!r})")


def digest(case: Case) -> str:
    """Eight hexadecimal digits that identify the contents of a Case."""
    return hashlib.sha256(dumps(case)).hexdigest()[:8]


def _header(case: Case) -> dict[str, Any]:
    return {
        "format": "gradverify-case",
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


def _array(archive: zipfile.ZipFile, name: str, dtype: str) -> Any:
    array = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    if str(array.dtype) == dtype:
        return array
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise CaseFileError(
            f"array {name!r} has dtype {dtype}, which NumPy does not know (bfloat16 and the like need ml_dtypes)"
        ) from None
    if array.dtype.kind != "u" or array.dtype.itemsize != wanted.itemsize or wanted.kind == "O":
        raise CaseFileError(f"the case file is damaged (array {name!r} is {array.dtype}, not {dtype})")
    return array.view(wanted)


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
