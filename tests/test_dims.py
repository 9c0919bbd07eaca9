"""Dimension strings: examples, and the laws that hold of all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradverify.core.declare import dims
from gradverify.core.errors import DeclarationError


@pytest.mark.parametrize(
    ("text", "sizes", "shape"),
    [
        ("N D", {"N": 2, "D": 3}, (2, 3)),
        ("", {}, ()),
        ("D 4*H", {"D": 1, "H": 2}, (1, 8)),
        ("T+1 3 C//2", {"T": 2, "C": 5}, (3, 3, 2)),
        ("*batch D", {"*batch": (4, 1), "D": 2}, (4, 1, 2)),
        ("N?", {"N": 5}, (5,)),
    ],
)
def test_a_dimension_string_gives_a_shape_and_takes_it_back(text, sizes, shape):
    parsed = dims.parse(text)
    assert parsed.shape(sizes) == shape
    assert parsed.bind(shape, {}).items() <= sizes.items()
    assert parsed.bind(shape, sizes) == sizes


@pytest.mark.parametrize("text", ["N D)", "*a *b", "N**2", "f(N)", "1.5", "N,D"])
def test_a_dimension_string_that_cannot_be_read_is_quoted(text):
    with pytest.raises(DeclarationError, match="dimension string"):
        dims.parse(text)


def test_a_shape_that_contradicts_its_sizes_is_refused():
    with pytest.raises(DeclarationError, match="should be 3"):
        dims.parse("N D").bind((2, 4), {"D": 3})
    assert dims.parse("4*H").bind((12,), {}) == {"H": 3}


NAMES = ("N", "D", "H")
TOKENS = ("N", "D", "H", "1", "3", "N?", "4*H", "D+1", "N*D", "H//2", "*batch", "*batch?")


@st.composite
def strings(draw, tokens=TOKENS):
    """A dimension string with one starred group at most, and sizes of all its names."""
    chosen = draw(st.lists(st.sampled_from(tokens), max_size=5))
    starred = [k for k, token in enumerate(chosen) if token.startswith("*")]
    text = " ".join(token for k, token in enumerate(chosen) if k not in starred[1:])
    sizes = {name: draw(st.integers(0, 6)) for name in NAMES}
    return dims.parse(text), {**sizes, "*batch": tuple(draw(st.lists(st.integers(0, 4), max_size=3)))}


@given(strings())
def test_a_shape_fits_the_sizes_that_it_was_made_of(drawn):
    parsed, sizes = drawn
    assert parsed.bind(parsed.shape(sizes), sizes) == sizes


@given(strings())
def test_what_a_shape_tells_of_its_sizes_is_true_and_gives_the_shape_again(drawn):
    parsed, sizes = drawn
    if any(axis.optional for axis in parsed.axes):
        return  # of these a shape does not tell which it is
    shape = parsed.shape(sizes)
    found = parsed.bind(shape, {})
    assert found.items() <= sizes.items()
    assert parsed.shape({**sizes, **found}) == shape


@given(strings(), strings())
def test_two_arrays_tell_the_same_in_either_order(one, other):
    sizes = one[1]
    (first, _), (second, _) = one, other
    shapes = first.shape(sizes), second.shape(sizes)
    forth = second.bind(shapes[1], first.bind(shapes[0], {}))
    back = first.bind(shapes[0], second.bind(shapes[1], {}))
    shared = forth.keys() & back.keys()
    assert {name: forth[name] for name in shared} == {name: back[name] for name in shared}


@given(strings(("N", "D", "H", "3", "4*H", "*batch")), st.data())
def test_an_axis_of_another_length_is_refused(drawn, data):
    parsed, sizes = drawn
    shape = parsed.shape(sizes)
    if not shape:
        return
    place = data.draw(st.integers(0, len(shape) - 1))
    longer = (*shape[:place], shape[place] + 1, *shape[place + 1 :])
    with pytest.raises(DeclarationError, match="does not fit"):
        parsed.bind(longer, sizes)


@given(strings())
def test_each_axis_has_a_label(drawn):
    parsed, sizes = drawn
    shape = parsed.shape(sizes)
    labels = parsed.labels(len(shape))
    assert len(labels) == len(shape)
    assert all(labels)
