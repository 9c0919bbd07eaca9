"""Signatures of options: a mode, a mask, one part of several that is taken for all, groups in another order; and of
constants that backward leaves out, or takes for something else."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, verify
from gradverify.core.diagnose import diagnose

RNG = np.random.default_rng(0)


def told(layer, primals, **options):
    case = Case("given", primals, {**layer.default_options, **options}, seed=1)
    finding = next(f for f in verify(layer, case, "gradient").findings)
    return {d.name: (d.bug_class, d.text) for d in diagnose(layer, finding, 60.0)}


def scaled(x, **options):
    return x * x, x


def wrong_if(asked):
    return lambda dy, x, **options: dy * x * (3 if asked(options) else 2)


@pytest.mark.parametrize(
    ("name", "values", "bug_class", "said"),
    [
        ("training", [False, True], "MODE", "backward does not follow the mode of forward"),
        ("ignore_index", [-1, 0], "MASK", "places that do not count are counted"),
        ("power", ["even", "odd"], "OPTION", "backward does not follow forward there"),
    ],
)
def test_the_name_of_an_option_says_what_backward_missed(name, values, bug_class, said):
    backward = wrong_if(lambda options: options[name] == values[1])
    layer = Layer(scaled, backward, name="given", x="N", options={name: values})
    kind, text = told(layer, {"x": np.array([1.0, -2.0])}, **{name: values[1]})["options"]
    assert kind == bug_class and said in text
    assert f"{name}={values[1]!r}" in text and f"{name}={values[0]!r}" in text


def test_one_part_of_an_option_that_is_taken_for_all_is_right_where_they_are_equal():
    layer = Layer(
        lambda x, scale: (np.sin(x) * np.array(scale, float), (x, scale)),
        lambda dy, saved: dy * np.cos(saved[0]) * float(saved[1][0]),
        name="given",
        x="N 2",
        options={"scale": ([1, 2], [1, 2])},
    )
    _, text = told(layer, {"x": np.arange(6.0).reshape(3, 2)}, scale=(1, 2))["options"]
    assert "with equal parts of scale it is right: one part is taken for all" in text


def test_groups_whose_places_are_taken_in_the_other_order():
    def forward(x, w, groups):
        parts = x.reshape(len(x), groups, -1)
        return (parts * w[:, None]).reshape(x.shape), (x, w)

    def backward(dy, saved, groups):
        x, w = saved
        return dy * np.repeat(w, x.shape[1] // groups), (dy * x).reshape(len(x), -1, groups).sum((0, 1))

    layer = Layer(forward, backward, name="given", x="N groups*C", w="groups", options={"groups": [1, 2, 3]})
    kind, text = told(layer, {"x": RNG.standard_normal((2, 6)), "w": np.array([1.0, 2.0])}, groups=2)["options"]
    assert kind == "INDEX" and "place % groups for place // C" in text


@pytest.mark.parametrize(
    ("factor", "said"),
    [(np.ones_like, "backward leaves c out"), (np.square, "backward takes c into account in another way")],
)
def test_a_constant_that_is_left_out_is_told_from_one_that_is_taken_in_another_way(factor, said):
    layer = Layer(
        lambda x, c: (np.sin(x) * c, (x, c)),
        lambda dy, s: {"x": dy * np.cos(s[0]) * factor(s[1])},
        name="given",
        x="N",
        c="N",
        constants=("c",),
    )
    kind, text = told(layer, {"x": np.array([1.0, 2.0]), "c": np.array([0.5, 3.0])})["constant_left_out"]
    assert kind == "OPTION" and said in text and "right where c is all ones" in text
