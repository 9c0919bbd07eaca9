"""Domains: examples, and the laws that hold of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradverify.core.declare import domains
from gradverify.core.errors import DeclarationError

ARGUMENTS = {
    "between": " -1 2",
    "above": " 1",
    "below": " -1",
    "at-least": " 1",
    "at-most": " -1",
    "inside": " -1 2",
    "integers": " -1 2",
    "labels": " 3",
    "indices": " 3",
    "lengths": " 3",
    "offsets": " 7",
}
WORDS = sorted(domains.words())


@pytest.mark.parametrize("word", WORDS)
def test_a_domain_contains_what_it_projects(word):
    domain = domains.parse(word + ARGUMENTS.get(word, ""))
    raw = np.random.default_rng(0).random((4, 5)) if domain.discrete else np.random.default_rng(0).normal(0, 9, (4, 5))
    assert domain.contains(domain.project(raw, {}), {})


@pytest.mark.parametrize(
    ("word", "match"), [("posit", "unknown domain"), ("labels", "takes 1 or 2 argument"), ("between 1", "takes 2")]
)
def test_a_domain_that_cannot_be_read_says_what_is_known(word, match):
    with pytest.raises(DeclarationError, match=match):
        domains.parse(word)


REALS = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=3)
UNIFORMS = st.lists(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), min_size=1, max_size=3)


def projected(word, data):
    domain = domains.parse(word + ARGUMENTS.get(word, ""))
    raw = np.array(data.draw(UNIFORMS if domain.discrete else REALS))
    return domain, domain.project(raw, {})


@pytest.mark.parametrize("word", WORDS)
@given(data=st.data())
def test_whatever_is_drawn_is_projected_into_the_domain(word, data):
    domain, array = projected(word, data)
    assert domain.contains(array, {})
    assert domain.contains(array[:0], {})  # an empty array has no element that is not legal


@pytest.mark.parametrize(
    "word", [w for w in WORDS if w != "distinct" and not domains.parse(w + ARGUMENTS.get(w, "")).discrete]
)
@given(data=st.data())
def test_what_is_in_a_continuous_domain_stays_as_it_is(word, data):
    domain, array = projected(word, data)
    np.testing.assert_allclose(domain.project(array, {}), array, rtol=1e-12 if word == "probabilities" else 0)


@given(data=st.data())
def test_distinct_numbers_keep_their_order(data):
    raw = np.array(data.draw(REALS))
    array = domains.parse("distinct").project(raw, {})
    assert np.array_equal(np.argsort(array, axis=None, kind="stable"), np.argsort(raw, axis=None, kind="stable"))


@pytest.mark.parametrize("word", ["above 1", "below 1", "above -1e16", "below 3"])
def test_a_number_right_beside_an_open_border_is_inside(word):
    domain = domains.parse(word)
    low = float(word.split()[1])
    for raw in (low, np.nextafter(low, -np.inf), np.nextafter(low, np.inf)):
        assert domain.contains(domain.project(np.array([raw]), {}), {}), raw


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("> 1", "above 1"),
        (">1", "above 1"),
        ("greater than low", "above low"),
        (">= -1e-3", "at-least -1e-3"),
        ("at least 1", "at-least 1"),
        ("< 2.5", "below 2.5"),
        ("at most N", "at-most N"),
        ("in (0, 1)", "inside 0 1"),
        ("[-1, 1]", "between -1 1"),
        ("between 0 and 3", "between 0 3"),
        ("open unit", "inside 0 1"),
        ("positive if not log_target", "positive unless log_target"),
        ("> 1 if strict", "above 1 if strict"),
        ("labels K or -100", "labels K -100"),
        ("labels K, ignore ignore_index", "labels K ignore_index"),
    ],
)
def test_other_ways_to_write_a_domain(written, words):
    assert domains.parse(written).text == domains.parse(words).text == words


def test_borders_are_inside_where_they_are_closed_and_outside_where_they_are_open():
    for word, inside, outside in (("at least 1", 1.0, 0.9), ("at most 1", 1.0, 1.1), ("in (0, 1)", 0.5, 1.0)):
        domain = domains.parse(word)
        assert domain.contains(np.array([inside]), {}) and not domain.contains(np.array([outside]), {})
    assert domains.parse("in (0, 1)").project(np.array([0.0, 1.0, 0.25]), {}).tolist() == [0.5, 0.5, 0.25]


def test_labels_may_have_one_that_is_ignored():
    domain = domains.parse("labels K or skip")
    labels = domain.project(np.linspace(0, 0.999, 200), {"K": 3, "skip": -100})
    assert set(labels.tolist()) == {0, 1, 2, -100} and domain.contains(labels, {"K": 3, "skip": -100})
    assert not domain.contains(labels, {"K": 3, "skip": -1})
