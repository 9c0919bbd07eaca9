"""The shelf of mutants: each is caught, no right original is, and the usual check is what it is said to be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradverify import Layer
from gradverify.cli import run as command
from gradverify.core import evaluate
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.registry import layers
from gradverify.mutants import baseline, generic, runner, shelf

SHELF = {m.number: m for m in shelf()}
ESCAPES = {94}  # the textbook derivative of the sigmoid; see docs/mutants.md

# one or two of each way to be wrong: by numbers, shape, ties, state, memory, order, subset, mask
HANDFUL = {
    2: "gradient", 8: "gradient", 14: "gradient", 16: "wants", 20: "gradient", 42: "fresh", 43: "gradient",
    54: "reusable", 61: "gradient", 74: "gradient", 86: "complete", 91: "gradient", 103: "complete", 112: "gradient",
    117: "second_order",
}  # fmt: skip


def rights():
    """One mutant for each right layer."""
    return list({m.right().name: m for m in SHELF.values()}.values())


def test_the_shelf_holds_the_77_public_mutants_in_23_classes():
    assert len(SHELF) == 77
    assert len({m.bug_class for m in SHELF.values()}) == 23


@pytest.mark.parametrize("number", HANDFUL)
def test_a_default_check_catches_the_mutant_within_200_cases(number):
    trial = runner.trial(SHELF[number], seed=1, usual=False)
    assert trial.property == HANDFUL[number]
    assert trial.cases <= 200


@pytest.mark.parametrize("number", SHELF)
def test_a_mutant_has_the_forward_of_the_right_layer(number):
    """What is planted is a wrong backward: anything else would make it too easy to catch."""
    wrong, right = SHELF[number].build(), SHELF[number].right()
    case = baseline.typical(right)
    ours, theirs = (evaluate.run(x, evaluate.copies(case.primals), case.options).outputs for x in (wrong, right))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))
    assert wrong.primals == right.primals


@pytest.mark.parametrize("number", [1, 14, 54, 103, 104, 117])
def test_the_right_original_has_no_finding(number):
    report = check_layer(SHELF[number].right(), Settings(examples=40, seed=5, shrink=False))
    assert report.findings == ()


def test_nan_at_a_special_point_is_a_finding_of_the_special_property():
    """The comparison leaves such entries open, and `complete` sees ordinary cases only."""
    report = check_layer(SHELF[106].build(), Settings(examples=60, properties=("special",), shrink=False))
    assert {f.kind for f in report.findings} >= {"nan"}


class TestTheUsualCheck:
    def test_it_passes_every_right_layer_of_the_shelf(self):
        for mutant in rights():
            right = mutant.right()
            assert baseline.usual_check(right, baseline.typical(right)), right.name

    @pytest.mark.parametrize("number", [1, 11, 18, 50, 74])
    def test_it_catches_what_one_call_shows(self, number):
        right = SHELF[number].right()
        assert not baseline.usual_check(SHELF[number].build(), baseline.typical(right))

    @pytest.mark.parametrize("number", [7, 16, 35, 44, 54, 69, 91, 94, 103, 117])
    def test_it_lets_through_what_needs_another_call_shape_or_value(self, number):
        right = SHELF[number].right()
        assert baseline.usual_check(SHELF[number].build(), baseline.typical(right))

    def test_its_kernel_is_no_point_and_its_sizes_differ(self):
        case = baseline.typical(layers.get("conv2d"))
        assert case.primals["W"].shape[-2:] == (3, 3)
        assert len(set(case.primals["x"].shape)) == 4


class TestGradcheck:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    @pytest.mark.parametrize("fast", [False, True])
    def test_it_passes_a_right_layer_and_catches_a_factor(self, fast):
        right = SHELF[1].right()
        case = baseline.typical(right)
        assert baseline.gradcheck(right, case, fast=fast)
        assert not baseline.gradcheck(SHELF[1].build(), case, fast=fast)


class TestGenericMutants:
    def test_all_of_a_dense_layer_are_caught_and_the_usual_check_lets_some_through(self):
        trials = list(runner.run(generic.mutants(layers.get("dense"))))
        assert [t.text for t in trials if not t.caught] == []
        through = {t.text for t in trials if not t.usual}
        assert through >= {"W: transposed where square", "backward takes what the forward before saved"}

    def test_options_and_several_cotangents_reach_the_right_backward(self):
        for name in ("conv2d", "lstm_cell", "batch_norm"):
            layer = layers.get(name)
            case = baseline.typical(layer)
            right = evaluate.gradients(layer, case.primals, case.options, case.cotangents)
            doubled = generic.mutants(layer)[0].build()
            wrong = evaluate.gradients(doubled, case.primals, case.options, case.cotangents)
            first = layer.differentiable[0].name
            for key in right:
                assert np.allclose(wrong[key], (2 if key == first else 1) * right[key]), (name, key)

    def test_a_weight_that_can_never_be_square_is_not_transposed(self):
        texts = [m.text for m in generic.mutants(layers.get("lstm_cell"))]
        assert "U: transposed where square" not in texts
        assert "W: transposed where square" in texts

    def test_a_layer_without_a_batch_axis_has_no_mutant_of_its_sum(self):
        layer = Layer(lambda x: (2 * x, None), lambda dy, saved: 2 * dy, x="N")
        assert "UNBROADCAST" not in {m.bug_class for m in generic.mutants(layer)}


class TestTheCommand:
    def test_its_last_line_counts_and_an_escape_is_status_1(self, capsys):
        assert command(["mutants", "--number", "8", "--number", "94", "--no-usual"]) == 1
        out, err = capsys.readouterr()
        assert out.splitlines()[-1] == "caught 1 of 2"
        assert any(": NOT CAUGHT" in line for line in err.splitlines() if " 94 sigmoid" in line)

    def test_its_json_has_plain_values(self, tmp_path, capsys):
        path = tmp_path / "m.json"
        assert command(["mutants", "--class", "gate", "--no-usual", "--json", str(path)]) == 0
        rows = json.loads(path.read_text())["mutants"]
        assert [row["number"] for row in rows] == [17, 18, 20, 22]
        for row in rows:
            assert row["caught"] is True
            assert row["class"] == "GATE"
            assert row["property"] == "gradient"
            assert 1 <= row["cases"] <= 200
            assert row["seconds"] > 0
        assert capsys.readouterr().out.splitlines()[-1] == "caught 4 of 4"

    def test_workers_give_the_same_rows_in_the_same_order(self, tmp_path, capsys):
        rows = []
        for where in (["--in-process"], ["-j", "2"]):
            file = tmp_path / "rows.json"
            numbers = ["--number", "8", "--number", "1", "--no-usual"]
            assert command(["mutants", *numbers, "--seed", "2", "--json", str(file), *where]) == 0
            rows.append([{**row, "seconds": 0} for row in json.loads(file.read_text())["mutants"]])
        assert rows[0] == rows[1]
        assert [row["number"] for row in rows[0]] == [1, 8]

    def test_a_layer_of_ones_own_gets_one_line_for_each_mutant(self, capsys):
        assert command(["mutants", "matvec", "--no-usual"]) == 0
        lines = capsys.readouterr().out.splitlines()
        count = len(generic.mutants(layers.get("matvec")))
        assert lines[-1] == f"caught {count} of {count}"
        assert sum(line.startswith(tuple("123456789")) for line in lines) == count

    def test_a_layer_that_is_wrong_itself_is_refused(self, tmp_path, capsys):
        file = tmp_path / "wrong.py"
        file.write_text(
            "import gradverify\n"
            "wrong = gradverify.Layer(lambda x: (x * x, x), lambda dy, x: dy * x, x='N', name='wrong')\n"
        )
        assert command(["mutants", str(file)]) == 2
        assert "findings of its own" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["--number", "4"], ["--class", "NONE"], ["--json", "/nowhere/m.json"]])
    def test_what_does_not_exist_is_named(self, arguments, capsys):
        assert command(["mutants", *arguments]) == 2
        assert arguments[1] in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_at_least_75_are_caught_with_every_seed(seed):
    trials = list(runner.run(shelf(), seed=seed, usual=False))
    assert {t.number for t in trials if not t.caught} <= ESCAPES
    assert max(t.cases for t in trials if t.caught) <= 200


@pytest.mark.slow
@pytest.mark.parametrize("mutant", rights(), ids=lambda m: m.right().name)
def test_no_right_original_has_a_finding(mutant):
    assert check_layer(mutant.right(), Settings(examples=200, seed=7, shrink=False)).findings == ()
