"""The spine: dimension strings, domains, declarations, the registry, case files, layers under a loss."""

from __future__ import annotations

import json
import time
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest

import gradverify as gv
from gradverify import casefile
from gradverify.compose import under_loss
from gradverify.core.declare import dims, domains
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.declare.registry import Registry, layers
from gradverify.core.errors import CaseFileError, DeclarationError, TargetError, UsageError
from gradverify.core.evaluate import LayerFailure, gradients, guarded
from gradverify.core.evaluate.limits import time_limit


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


@pytest.mark.parametrize("word", sorted(domains.words()))
def test_a_domain_contains_what_it_projects(word):
    arguments = {
        "between": " -1 2",
        "above": " 1",
        "below": " -1",
        "integers": " -1 2",
        "labels": " 3",
        "indices": " 3",
    }.get(word, "")
    domain = domains.parse(word + arguments)
    raw = np.random.default_rng(0).random((4, 5)) if domain.discrete else np.random.default_rng(0).normal(0, 9, (4, 5))
    assert domain.contains(domain.project(raw, {}), {})


@pytest.mark.parametrize(
    ("word", "match"), [("posit", "unknown domain"), ("labels", "takes 1 argument"), ("between 1", "takes 2")]
)
def test_a_domain_that_cannot_be_read_says_what_is_known(word, match):
    with pytest.raises(DeclarationError, match=match):
        domains.parse(word)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({}, "declares no primals"),
        ({"x": "N D)"}, "layer 'f', primal 'x'"),
        ({"x": 3}, "expected a dimension string"),
        ({"x": "N: labels Q"}, "'Q'"),
        ({"x": "N", "zero": "w"}, "no primal 'w'"),
        ({"x": "N", "batch": "B"}, "no primal has an axis 'B'"),
        ({"x": "N", "kinks": "up"}, "'up'"),
        ({"x": "N", "options": {"x": [1]}}, "both as a primal and as an option"),
    ],
)
def test_a_declaration_that_cannot_be_used_names_the_layer_and_the_argument(keywords, match):
    with pytest.raises(DeclarationError, match=match) as caught:
        Layer(lambda x: (x, None), lambda dy, s: dy, name="f", **keywords)
    assert "'f'" in str(caught.value)


def test_a_name_registered_twice_says_where_both_came_from():
    registry: Registry[object] = Registry("thing", "gradverify.no_such_group")
    with registry.source("first.py"):
        registry.add("a", object())
    with pytest.raises(DeclarationError, match=r"'a' is registered twice: first from first\.py, now from second\.py"):  # noqa: SIM117
        with registry.source("second.py"):
            registry.add("a", object())
    with registry.source("first.py"):
        registry.add("a", object())  # the same file, loaded again


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(TargetError, match="did you mean"):
        layers.get("lstm_sell")


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


def test_a_layer_under_a_loss_has_the_gradient_of_the_tutorial():
    composed = under_loss(layers.get("sigmoid_mlp"), "mse")
    assert isinstance(composed, Loss) and composed.primal_names == ("i", "W1", "b1", "W2", "b2", "y")
    rng = np.random.default_rng(0)
    shapes = {"i": (3, 2), "W1": (2, 4), "b1": (4,), "W2": (4, 5), "b2": (5,), "y": (3, 5)}
    primals = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    got = gradients(composed, primals, {}, (np.array(1.0),))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    a = sigmoid(primals["i"] @ primals["W1"] + primals["b1"])
    x = sigmoid(a @ primals["W2"] + primals["b2"])
    dz2 = -2 / 3 * (primals["y"] - x) * x * (1 - x)
    np.testing.assert_allclose(got["b2"], dz2.sum(0))
    np.testing.assert_allclose(got["W1"], primals["i"].T @ (dz2 @ primals["W2"].T * a * (1 - a)))
    np.testing.assert_allclose(got["y"], 2 / 3 * (primals["y"] - x))


@pytest.mark.parametrize(
    ("layer", "loss", "match"), [("lstm_cell", "mse", "one output"), ("mse", "mse", "loss already")]
)
def test_a_layer_that_does_not_fit_under_a_loss_says_why(layer, loss, match):
    with pytest.raises(DeclarationError, match=match):
        under_loss(layers.get(layer), loss)


def test_verify_takes_one_concrete_case_and_names_what_does_not_fit():
    dense = layers.get("dense")
    primals = {"x": np.ones((2, 3)), "W": np.ones((3, 1)), "b": np.zeros(1)}
    assert gv.verify(dense, gv.Case("dense", primals)).ok
    with pytest.raises(UsageError, match="no array for the primal 'b'"):
        gv.verify(dense, gv.Case("dense", {"x": primals["x"], "W": primals["W"]}))
    with pytest.raises(UsageError, match="primal 'W'"):
        gv.verify(dense, gv.Case("dense", {**primals, "W": np.ones((2, 1))}))


def backward_by_name(dy, saved):
    x, W = saved
    return {"db": dy.sum(0), "dW": x.T @ dy, "x": dy @ W.T}


def test_gradients_may_come_by_name_and_cotangents_one_by_one():
    gv.check(lambda x, W, b: (x @ W + b, (x, W)), backward_by_name, x="N D", W="D H", b="H", examples=10)
    gv.check(
        lambda x: ((np.sin(x), np.cos(x)), x),
        lambda ds, dc, x: ds * np.cos(x) - dc * np.sin(x),
        x="N: between -3 3",
        examples=10,
    )


@pytest.mark.parametrize(
    ("backward", "kind"),
    [
        (lambda dy, s: None, "missing"),
        (lambda dy, s: (dy * 1.0, dy), "surplus"),
        (lambda dy, s: {"x": dy * 1.0, "q": dy}, "surplus"),
        (lambda dy, s: dy.sum(0), "shape"),
        (lambda dy, s: dy * np.nan, "nan"),
        (lambda dy, s: np.array(["a"]), "dtype"),
        (lambda dy, s: 1 / 0, "crash"),
    ],
)
def test_a_backward_that_fails_outright_is_a_finding_of_its_own_kind(backward, kind):
    report = gv.check(lambda x: (x * 1.0, None), backward, x="N D", examples=8, raises=False)
    assert {(f.property, f.kind) for f in report.findings} == {("complete", kind)}


@pytest.mark.parametrize(
    "keywords",
    [{"eps": 0}, {"eps": float("nan")}, {"examples": 0}, {"dtype": "int8"}, {"seed": "a"}, {"method": "guess"}],
)
def test_an_argument_that_makes_no_sense_is_named(keywords):
    with pytest.raises(UsageError, match=next(iter(keywords))):
        gv.check("dense", **keywords)


def test_the_same_seed_draws_the_same_cases():
    def run(seed):
        tallies = gv.check("dense", examples=20, seed=seed).tallies
        return [(t.cases, t.entries, t.worst_ratio) for t in tallies.values()]

    assert run(3) == run(3) != run(4)


def test_a_layer_that_never_returns_is_found_once(monkeypatch):
    def forward(x):
        while x.size > 2:
            pass
        return x * 1.0, None

    monkeypatch.setattr("gradverify.core.verify.SECONDS", 0.2)
    monkeypatch.setattr("gradverify.core.verify.examine.__defaults__", (0.2,))
    report = gv.check(forward, lambda dy, s: dy * 1.0, x="N D", examples=10, raises=False)
    assert [(f.property, f.kind) for f in report.findings] == [("complete", "timeout")]


@pytest.mark.parametrize(("share", "ends"), [(1.0, True), (0.1, False), (0.0, True)])
def test_the_time_limit_counts_computing_where_others_use_the_processor_too(monkeypatch, share, ends):
    monkeypatch.setattr(time, "process_time", lambda: share * time.perf_counter())
    finish = time.perf_counter() + 0.5

    def busy():
        while time.perf_counter() < finish:
            pass

    with pytest.raises(LayerFailure, match=r"not return within 0.2 s") if ends else nullcontext(), time_limit(0.2):
        guarded("forward", busy)
    assert ends == (time.perf_counter() < finish)
