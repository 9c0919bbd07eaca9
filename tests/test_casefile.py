"""Case files: every bit comes back, and damage is a clear error."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradverify as gv
from gradverify import casefile
from gradverify.core.errors import CaseFileError


def a_case(**changes):
    primals = {
        "x": np.array([[0.1, np.nan], [-0.0, 1e308]]),
        "n": np.arange(3),
        "z": np.array(1 + 2j),
        "e": np.zeros((0, 2)),
    }
    options = {"stride": (1, 2), "eps": 1e-5, "mode": "train", "none": None, "flag": True, "big": float("inf")}
    return gv.Case("layer", primals, options, (np.float32([1.5]),), 1e-4, 7, "file.py:layer").but(**changes)


def test_a_case_survives_its_file_bit_by_bit(tmp_path):
    case = a_case()
    case.save(tmp_path / "case.npz")
    again = gv.Case.load(tmp_path / "case.npz")
    assert casefile.dumps(again) == casefile.dumps(case)
    assert again.options == case.options and again.step == case.step and again.target == case.target
    for name, array in case.primals.items():
        assert again.primals[name].tobytes() == array.tobytes() and again.primals[name].dtype == array.dtype
    assert not [p for p in tmp_path.iterdir() if p.name != "case.npz"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "version", "member", "pickle"])
def test_a_damaged_case_file_is_a_clear_error(tmp_path, damage):
    path = tmp_path / "case.npz"
    a_case().save(path)
    data = path.read_bytes()
    if damage in ("version", "member", "pickle"):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        if damage == "version":
            members["case.json"] = json.dumps({**json.loads(members["case.json"]), "version": 99}).encode()
        elif damage == "member":
            del members["primals/x.npy"]
        else:
            np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
            members["primals/x.npy"] = (tmp_path / "object.npy").read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CaseFileError, match=r"case\.npz"):
        gv.Case.load(path)


def test_a_missing_case_file_and_an_option_that_is_no_data_are_clear_errors(tmp_path):
    with pytest.raises(CaseFileError, match="cannot read"):
        gv.Case.load(tmp_path / "nothing.npz")
    with pytest.raises(CaseFileError, match="an option has the value"):
        a_case(options={"f": print}).save(tmp_path / "case.npz")


ARRAYS = st.one_of(
    hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    for dtype in ("f8", "f4", "f2", "c16", "c8", "i8", "u1", "?", ">f8")
)
PLAIN = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.none())
OPTIONS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,8}", fullmatch=True)
CASES = st.builds(
    gv.Case,
    NAMES,
    st.dictionaries(NAMES, ARRAYS, max_size=3),
    st.dictionaries(NAMES, OPTIONS, max_size=3),
    st.none() | st.lists(ARRAYS, max_size=2).map(tuple),
    st.none() | st.floats(1e-300, 1.0),
    st.integers(0, 2**63),
    st.none() | st.text(max_size=10),
)


@given(CASES)
def test_whatever_a_case_holds_comes_back(case):
    again = casefile.loads(casefile.dumps(case))
    assert (again.layer, again.step, again.seed, again.target) == (case.layer, case.step, case.seed, case.target)
    assert repr(again.options) == repr(dict(case.options))  # NaN is not equal to itself
    assert [same(a, b) for a, b in zip(again.cotangents or (), case.cotangents or (), strict=True)] == [True] * len(
        case.cotangents or ()
    )
    assert (again.cotangents is None) == (case.cotangents is None)
    assert list(again.primals) == list(case.primals)
    assert all(same(again.primals[name], case.primals[name]) for name in case.primals)


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(CASES)
def test_the_same_case_gives_the_same_bytes_and_the_same_name(case):
    again = casefile.loads(casefile.dumps(case))
    assert casefile.dumps(again) == casefile.dumps(case)
    assert casefile.digest(again) == casefile.digest(case)
