"""Arrays that read as they were: what is written into them goes elsewhere, however it is written."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.core.diagnose.untouched import untouched

WRITES = {
    "by index": lambda a: a.__setitem__(0, 9.0),
    "by slice": lambda a: a.__setitem__(slice(None, 2), 9.0),
    "by a mask": lambda a: a.__setitem__(np.asarray(a) > 1, 9.0),
    "in place": lambda a: a.__imul__(2.0),
    "through a slice": lambda a: a[1:].__iadd__(1.0),
    "through a slice of a slice": lambda a: a[1:][:1].__setitem__(0, 9.0),
    "as out": lambda a: np.add(a, 1.0, out=a),
    "through a slice as out": lambda a: np.exp(a[::2], out=a[::2]),
    "at": lambda a: np.add.at(a, [0, 0, 2], 1.0),
    "one of two outs": lambda a: np.divmod(a, 2.0, out=(a, np.empty(3))),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_is_kept_beside_what_is_read(name):
    plain, array = np.array([1.0, 2.0, 3.0]), untouched(np.array([1.0, 2.0, 3.0]))
    WRITES[name](plain)
    WRITES[name](array)
    assert np.asarray(array).tolist() == [1, 2, 3]
    assert array.written.tolist() == plain.tolist() != [1, 2, 3]


def test_what_is_computed_from_it_is_of_what_it_was_and_is_an_array_like_any_other():
    array = untouched(np.array([1.0, 2.0, 3.0]))
    array *= 10.0
    assert type(array * 2) is np.ndarray and (array * 2).tolist() == [2, 4, 6]
    assert array.sum() == 6 and (array @ np.ones(3)) == 6
    copied = array[[0, 2]]
    assert type(copied) is np.ndarray and copied.tolist() == [1, 3]
    copied[0] = 5
    assert np.asarray(array).tolist() == [1, 2, 3]


def test_a_copy_of_it_is_written_into_itself():
    array = untouched(np.array([1.0, 2.0]))
    copied = array.copy()
    copied[0] = 7.0
    copied += 1.0
    np.add.at(copied, 1, 1.0)
    assert np.asarray(copied).tolist() == [8, 4] and np.asarray(array).tolist() == [1, 2]
    assert array.written.tolist() == [1, 2]


def test_one_of_two_outs_may_be_a_plain_array():
    array, rest = untouched(np.array([5.0, 7.0])), np.empty(2)
    whole, other = np.divmod(array, 2.0, out=(array, rest))
    assert whole is array and other is rest and rest.tolist() == [1, 1] and array.written.tolist() == [2, 3]
