"""The pytest plugin, in projects of its own that live for one test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import gradverify.adapters
import gradverify.core.draw
import gradverify.core.shrink
import gradverify.decorator
import gradverify.pytest_plugin.collection
import gradverify.pytest_plugin.fixture
import gradverify.pytest_plugin.summary
import gradverify.pytest_plugin.xdist
import gradverify.targets
from gradverify.api import verify
from gradverify.casefile import load, save
from gradverify.core.declare.registry import layers
from gradverify.core.properties import properties

pytest_plugins = ["pytester"]

LAYERS = """
import gradverify
import numpy as np

@gradverify.register(name="right")
class right:
    x, W = "N D", "D H"
    def forward(x, W): return x @ W, (x, W)
    def backward(dy, saved): x, W = saved; return dy @ W.T, x.T @ dy

@gradverify.register(name="wrong")
class wrong:
    x, s, b = "N D", "D", "D"
    def forward(x, s, b): return x * s + b, (x, s)
    def backward(dy, saved): x, s = saved; return dy * s, (dy * x).{s}(0), dy.{b}(0)
"""
FIXED = LAYERS.format(s="sum", b="sum")
BROKEN = LAYERS.format(s="mean", b="sum")
TWO_BUGS = LAYERS.format(s="mean", b="mean")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Everything is imported before pytester takes its snapshot of the modules; the environment says nothing."""
    layers.names(), properties.names()
    for variable in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def project(pytester):
    """A project whose two layers become tests of the property `gradient`, with few cases."""

    def write(source=BROKEN, config="", table=""):
        pytester.makepyfile(mine=source)
        told = "" if "properties" in table else 'properties = ["gradient"]\n'
        told += "" if "examples" in table else "examples = 8\n"
        told += "" if "seed" in table else "seed = 1\n"
        told += "" if "jobs" in table else "jobs = 0\n"  # a process of their own: test_plugin_endings
        told += "" if "modules" in table or "layers" in table else 'modules = ["mine"]\n'
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{config}\n[tool.gradverify]\n{told}{table}")
        return pytester

    return write


def corpus(pytester) -> list[Path]:
    return sorted((pytester.path / ".gradverify" / "corpus").glob("*.npz"))


# Items


def test_every_layer_and_property_becomes_a_test_in_sorted_order(project):
    result = project(table="properties = ['pure', 'gradient']").runpytest("--co", "-q")
    listed = [line for line in result.outlines if "::" in line]
    assert listed == [f"gradverify::{layer}::{prop}" for layer in ("right", "wrong") for prop in ("gradient", "pure")]


def test_all_properties_are_tried_unless_told_otherwise(project):
    pytester = project(table="properties = []\nlayers = ['dense']\nexamples = 1")
    listed = [line for line in pytester.runpytest("--co", "-q").outlines if "::" in line]
    assert listed == [f"gradverify::dense::{name}" for name in properties.names() if properties.get(name).default]


@pytest.mark.parametrize(
    ("arguments", "passed", "failed"),
    [
        ([], 2, 1),
        (["."], 2, 1),
        (["gradverify::wrong"], 0, 1),
        (["gradverify::wrong::gradient"], 0, 1),
        (["gradverify::right", "test_plain.py"], 2, 0),
        (["test_plain.py"], 1, 0),
        (["-k", "right and gradient"], 1, 0),
        (["-k", "not gradverify"], 1, 0),
        (["-m", "gradverify"], 1, 1),
        (["--deselect", "gradverify::wrong"], 2, 0),
    ],
)
def test_items_are_selected_as_any_other(project, arguments, passed, failed):
    pytester = project(config='addopts = "--strict-markers"')
    pytester.makepyfile(test_plain="def test_plain(): pass")
    pytester.runpytest(*arguments).assert_outcomes(passed=passed, failed=failed, deselected=None)


def test_an_unknown_node_id_is_a_usage_error_with_the_nearest_ones(project):
    result = project().runpytest("gradverify::wrogn")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not found: gradverify::wrogn; did you mean gradverify::wrong*"])


@pytest.mark.parametrize(
    ("arguments", "outcomes", "told"),
    [
        ([], {"passed": 3}, False),
        (["tests"], {"passed": 3}, False),
        (["tests/test_plain.py", "gradverify::"], {"passed": 3}, False),
        (["tests/test_plain.py"], {"passed": 1}, True),
    ],
)
def test_layers_are_tested_with_the_whole_suite_and_said_to_be_left_out_otherwise(project, arguments, outcomes, told):
    pytester = project(FIXED, config="testpaths = ['tests']")
    pytester.mkdir("tests").joinpath("test_plain.py").write_text("def test_plain(): pass")
    result = pytester.runpytest(*arguments)
    result.assert_outcomes(**outcomes)
    assert ("only part of the project was asked for" in result.stdout.str()) == told


def test_last_failed_and_stepwise_go_on_where_the_last_run_failed(project):
    pytester = project()
    pytester.runpytest("-x").assert_outcomes(passed=1, failed=1)
    pytester.runpytest("--lf").assert_outcomes(failed=1, deselected=1)
    pytester.runpytest("--sw").assert_outcomes(passed=1, failed=1)
    pytester.makepyfile(mine=FIXED)
    pytester.runpytest("--sw").assert_outcomes(passed=1, deselected=1)


def test_a_failing_item_shows_the_report_and_a_command_that_replays_it(project):
    pytester = project()
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "the gradient of s is wrong" in text
    assert "FAILED gradverify::wrong::gradient - the gradient of s is wrong" in text
    assert "Traceback" not in text
    assert "verification.py" not in text
    (path,) = corpus(pytester)
    assert f"gradverify replay {path.relative_to(pytester.path)}\n" in text
    case = load(path)
    assert case.target == "mine:wrong"
    (finding,) = verify(layers.get("wrong"), case, ["gradient"]).findings
    assert finding.primal == "s"


def test_two_bugs_are_two_findings(project):
    pytester = project(TWO_BUGS)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["wrong: 2 findings*", "*FAILED gradverify::wrong::gradient*"])
    assert len(corpus(pytester)) == 2
    assert re.search(r"WRONG \(wrong b, wrong s\)", result.stdout.str())


def test_a_property_that_does_not_apply_is_skipped_with_its_reason(project):
    result = project(FIXED, table='properties = ["second_order"]').runpytest("-rs", "-v")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        ["2 of 2 checks were skipped*", "SKIPPED [[]2] gradverify: no second backward is declared*"]
    )
    assert not re.search(r"\bok\b", result.stdout.str())


def test_a_check_that_verifies_nothing_fails(project):
    source = FIXED.replace('x, W = "N D", "D H"', 'x, W = "N D", "D H"\n    assume = lambda x: False')
    result = project(source).runpytest("-k", "right")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*nothing could be verified*", "right*nothing verified"])


def test_a_nondeterministic_layer_is_called_that(project):
    source = FIXED + (
        "\nimport random\n"
        "coin = random.Random(0)\n"
        "@gradverify.register(name='flaky')\n"
        "class flaky:\n"
        "    x = 'N D'\n"
        "    def forward(x): return 2.0 * x, None\n"
        "    def backward(dy, saved): return dy * coin.uniform(2.0, 2.5)\n"
    )
    pytester = project(source)
    # drawn, then replayed from the corpus, where it is asked fewer times
    for said in (
        r"nondeterministic \(\d of 5 runs of one case\)",
        "(nondeterministic|backward gives different gradients)",
    ):
        result = pytester.runpytest("-k", "flaky")
        result.assert_outcomes(failed=1, deselected=2)
        result.stdout.re_match_lines([f".*{said}", r".*WRONG \(random"])
        assert "Flaky" not in result.stdout.str()


def test_pdb_opens_where_the_report_is_at_hand(project):
    pytester = project()
    done = pytester.run(
        sys.executable, "-m", "pytest", "--pdb", "-k", "wrong", stdin=b"p 'found', report.findings[0].primal\nq\n"
    )
    done.stdout.fnmatch_lines(["*('found', 's')*"])


# Parts of the run


def test_shards_draw_cases_of_their_own_and_are_one_row(project):
    pytester = project(FIXED, table="examples = 100\nshards = 3")
    result = pytester.runpytest("-k", "right", "--junitxml=out.xml", "-o", "junit_family=xunit1", "-v")
    result.assert_outcomes(passed=3, deselected=3)
    seeds = {
        node.get("value") for node in ET.parse("out.xml").iter("property") if node.get("name", "").endswith("seed")
    }
    assert len(seeds) == 3
    result.stdout.fnmatch_lines(["gradverify::right::gradient[[]2] PASSED*"])
    result.stdout.re_match_lines([r"right +gradient +10[0-2] .*ok"])


def test_shards_are_set_for_layers_by_pattern(project):
    pytester = project(FIXED, table="examples = 100\nshards = { 'r*' = 2, 'x*' = 9 }")
    listed = [line for line in pytester.runpytest("--co", "-q").outlines if "::" in line]
    assert listed == ["gradverify::right::gradient[0]", "gradverify::right::gradient[1]", "gradverify::wrong::gradient"]


def test_the_header_names_seed_and_profile_before_anything_runs(project):
    lines = project(FIXED).runpytest("--gradverify-profile=thorough", "--gradverify-examples=3").outlines
    (header,) = [k for k, line in enumerate(lines) if line.startswith("gradverify: profile thorough, seed 1 ")]
    assert header < next(k for k, line in enumerate(lines) if "collected" in line)


def table(result) -> list[str]:
    lines = result.outlines
    first = next(k for k, line in enumerate(lines) if re.match("layer +property", line))
    return [line for line in lines[first:] if not line.startswith("=")]


def test_the_same_seed_gives_the_same_table_and_another_seed_another(project):
    pytester = project(FIXED)
    one, again, other = (table(pytester.runpytest(f"--gradverify-seed={seed}")) for seed in (7, 7, 8))
    assert one == again != other


def test_the_quick_profile_draws_anew_and_ci_does_not(project, monkeypatch):
    pytester = project(FIXED, table="seed = 'random'")

    def seed(*arguments: str) -> str:
        return re.search(r"profile \w+, seed \d+", pytester.runpytest("--co", *arguments).stdout.str()).group()

    assert seed().startswith("profile quick")
    assert seed() != seed()
    (pytester.path / "pyproject.toml").write_text("[tool.gradverify]\nmodules = ['mine']")
    assert seed("--gradverify-profile=ci") == "profile ci, seed 0"
    monkeypatch.setenv("CI", "true")
    assert seed() == "profile ci, seed 0"


def test_the_seed_of_hypothesis_holds_unless_there_is_one_of_gradverifys(project):
    pytester = project(FIXED)
    (pytester.path / "pyproject.toml").write_text("[tool.gradverify]\nmodules = ['mine']")
    assert "seed 77 " in pytester.runpytest("--co", "--hypothesis-seed=77").stdout.str()
    assert "seed 5 " in pytester.runpytest("--co", "--hypothesis-seed=77", "--gradverify-seed=5").stdout.str()


def test_a_profile_of_hypothesis_holds_unless_there_is_one_of_gradverifys(project):
    pytester = project(FIXED)
    (pytester.path / "pyproject.toml").write_text("[tool.gradverify]\nmodules = ['mine']\nproperties = ['gradient']")
    pytester.makeconftest(
        "from hypothesis import settings\nsettings.register_profile('few', max_examples=3, derandomize=True)"
    )
    few = pytester.runpytest("--hypothesis-profile=few")
    few.stdout.fnmatch_lines(["gradverify: profile quick, seed 0 *", "right *gradient * 3 *ok"])
    more = pytester.runpytest("--hypothesis-profile=few", "--gradverify-examples=4", "--gradverify-seed=2")
    more.stdout.fnmatch_lines(["gradverify: profile quick, seed 2 *", "right *gradient * 4 *ok"])
    own = pytester.runpytest("--hypothesis-profile=few", "--gradverify-profile=ci", "--co")
    assert "profile ci, seed 0" in own.stdout.str()


def test_a_flag_wins_over_the_ini_file_and_that_over_the_table(project):
    pytester = project(FIXED, config="gradverify_seed = 3", table="seed = 4")
    assert "seed 3 " in pytester.runpytest("--co").stdout.str()
    assert "seed 2 " in pytester.runpytest("--co", "--gradverify-seed=2").stdout.str()


def test_ini_keys_say_the_same_as_the_table(pytester):
    pytester.makepyfile(mine=FIXED)
    pytester.makeini(
        "[pytest]\ngradverify_modules = mine\ngradverify_layers = dense\n  relu\n"
        "gradverify_properties = gradient\ngradverify_examples = 3\ngradverify_shards = 1\n"
    )
    pytester.runpytest("--strict-config").assert_outcomes(passed=4)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest reads [tool.pytest] since 9.0")
def test_keys_of_native_toml_may_have_its_types(pytester):
    pytester.makepyfile(mine=FIXED)
    pytester.makepyprojecttoml(
        "[tool.pytest]\ngradverify_modules = ['mine']\ngradverify_properties = ['gradient']\n"
        "gradverify_examples = 50\ngradverify_shards = 2\ngradverify_prune = false\n"
    )
    pytester.runpytest("--strict-config", "--co").stdout.fnmatch_lines(["*4 tests collected*"])


# Corpus


def test_a_failing_case_is_replayed_first_and_removed_when_it_is_fixed(project):
    pytester = project()
    pytester.runpytest()
    (path,) = corpus(pytester)
    result = pytester.runpytest("--gradverify-seed=9")
    result.stdout.fnmatch_lines(["still fails on *wrong-gradient-wrong-s-*", "corpus: 1 replayed, 1 still failing"])
    assert len(corpus(pytester)) == 1
    pytester.makepyfile(mine=FIXED)
    result = pytester.runpytest()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"corpus: {path.relative_to(pytester.path)} fails no more, removed"])
    assert list(path.parent.iterdir()) == []


def test_the_ci_profile_and_a_pin_keep_a_case_that_is_fixed(project):
    pytester = project()
    pytester.runpytest()
    (path,) = corpus(pytester)
    pytester.makepyfile(mine=FIXED)
    result = pytester.runpytest("--gradverify-profile=ci")
    result.stdout.fnmatch_lines([f"corpus: {path.relative_to(pytester.path)} fails no more"])
    assert path.exists()
    about = path.with_suffix(".json")
    about.write_text(about.read_text().replace('"pinned": false', '"pinned": true'))
    pytester.runpytest().stdout.fnmatch_lines(["corpus: 1 replayed, 0 still failing"])
    assert path.exists()


def test_a_case_that_only_the_corpus_knows_is_found(project):
    source = FIXED.replace(
        "return dy @ W.T, x.T @ dy", "return dy @ W.T, x.T @ dy + (1.0 if x[0, 0] == 123.456 else 0.0)"
    )
    pytester = project(source)
    pytester.runpytest().assert_outcomes(passed=2)
    case = gradverify.Case("right", {"x": np.full((2, 2), 123.456), "W": np.eye(2)})
    save(case, pytester.path / ".gradverify" / "corpus" / "from a colleague.npz")
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the gradient of W is wrong*", "corpus: 1 replayed, 1 still failing"])


def test_a_case_whose_test_has_another_name_now_is_told(project):
    pytester = project()
    pytester.makepyfile(test_old="def test_wrong(gradverify): gradverify('wrong', properties='gradient')")
    pytester.runpytest().assert_outcomes(passed=1, failed=2)
    (pytester.path / "test_old.py").rename(pytester.path / "test_new.py")
    pytester.makepyfile(mine=BROKEN.replace("wrong", "renamed"))
    (pytester.path / "test_new.py").write_text("def test_right(gradverify): gradverify('right', properties='gradient')")
    part, whole = pytester.runpytest("test_new.py"), pytester.runpytest()
    (old,) = re.findall(r"corpus: \S+ is replayed by no test: there is no (.*) any more", part.stdout.str())
    assert old == "test_old.py::test_wrong"
    both = re.findall(r"corpus: \S+ is replayed by no test: there is no (.*) any more", whole.stdout.str())
    assert sorted(both) == ["gradverify::wrong::gradient", "test_old.py::test_wrong"]


def test_damaged_and_useless_files_of_the_corpus_are_told_and_stop_nothing(project):
    pytester = project(FIXED)
    folder = pytester.mkdir("kept")
    (folder / "broken.npz").write_bytes(b"\0")
    save(gradverify.Case("right", {"x": np.ones((2, 3)), "W": np.ones((4, 5))}), folder / "old.npz")
    result = pytester.runpytest("--gradverify-corpus=kept")
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([r"corpus: kept.old.npz is of no use: .*", r"corpus: kept.broken.npz is damaged: .*"])


def test_a_corpus_that_cannot_be_written_is_told(project):
    pytester = project()
    (pytester.path / "kept").write_text("a file where a folder should be")
    result = pytester.runpytest("--gradverify-corpus=kept")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["corpus: 1 failing cases could not be written"])


def test_the_next_run_tells_of_one_that_was_killed(project):
    killer = "import ctypes\n" + FIXED.replace(
        "def forward(x, W): return",
        "def forward(x, W):\n        if x.shape[0] > 1: ctypes.CDLL(None)['raise'](9)\n        return",
    )
    pytester = project(killer)
    called = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"  # by a program, so that it has no parent
    assert pytester.run(sys.executable, "-c", called, "-k", "right", "--gradverify-jobs=0").ret == -9
    again = pytester.runpytest_subprocess("--gradverify-seed=5")  # replayed in a process of its own
    again.assert_outcomes(passed=1, failed=1)
    again.stdout.fnmatch_lines(
        [
            "right: the process was killed (SIGKILL), as the system does when memory is",
            "*replay it: gradverify replay *right-gradient-killed-*.npz",
            "right: 1 finding*",
            "an earlier run ended inside gradverify::right::gradient",
            "right: the process ended while it ran the layer*",
            "right *WRONG (killed)",
            "corpus: 1 replayed, 1 still failing",
        ]
    )
    pytester.makepyfile(mine=FIXED)
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["corpus: *right-gradient-killed-*.npz fails no more, removed"])
    assert "an earlier run" not in result.stdout.str()


# The fixture and the decorator


def test_the_fixture_checks_with_the_settings_of_the_run(pytester):
    pytester.makepyfile(
        """
        import gradverify as gv

        def test_dense(gradverify):
            report = gradverify("dense", properties="gradient")
            assert (report.examples, report.cases) == (6, 6)

        def test_own_numbers(gradverify):
            assert gradverify("dense", properties=["gradient"], examples=3, seed=4).seed == 4

        def test_wrong(gradverify):
            gradverify(lambda x: (x * x, x), lambda dy, x: dy * x, x="N", name="square", properties="gradient")

        def test_quiet(gradverify):
            assert gradverify(lambda x: (x, x), lambda dy, x: -dy, x="N", raises=False, properties="gradient").findings
        """
    )
    result = pytester.runpytest("--gradverify-examples=6", "-m", "gradverify")
    result.assert_outcomes(passed=3, failed=1)
    text = result.stdout.str()
    assert "gradverify(lambda x: (x * x, x)" in text  # the author's line, and none of ours
    assert "fixture.py" not in text
    assert "replay it: gradverify replay .gradverify" in text
    result.stdout.fnmatch_lines(
        [
            "*GradientMismatch: square: the gradient of x is wrong*",
            "dense *gradient * 9 *ok",
            "square *gradient *WRONG (wrong x)",
        ]
    )
    owners = {json.loads(path.with_suffix(".json").read_text())["owner"] for path in corpus(pytester)}
    assert owners == {
        f"{test}"
        for test in (
            "test_the_fixture_checks_with_the_settings_of_the_run.py::test_wrong",
            "test_the_fixture_checks_with_the_settings_of_the_run.py::test_quiet",
        )
    }


def test_the_fixture_works_inside_a_test_of_hypothesis(pytester):
    pytester.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        @settings(max_examples=5, deadline=None, database=None)
        @given(k=st.integers(1, 3))
        def test_scaled(gradverify, k):
            gradverify(lambda x: (k * x, None), lambda dy, _: k * dy, x="N", name="scaled", properties="gradient")
        """
    )
    result = pytester.runpytest(
        "--gradverify-examples=2", "--junitxml=out.xml", "-o", "gradverify_junit=true", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=1)
    names = [node.get("name") for node in ET.parse("out.xml").iter("property")]
    own = [name for name in names if name.startswith("gradverify.")]
    assert len(own) == len(set(own)) == 4


def test_the_decorator_draws_cases_beside_strategies_of_ones_own(pytester):
    pytester.makepyfile(
        """
        import gradverify as gv
        from hypothesis import given, settings, strategies as st
        import pytest

        seen = []

        @settings(max_examples=7, deadline=None, database=None)
        @gv.given("dense", k=st.sampled_from([2, 3]))
        def test_linear(case, k, tmp_path_factory):
            assert case.layer == "dense" and case.target and k in (2, 3)
            assert set(case.primals) == {"x", "W", "b"}
            seen.append(case)

        def test_count():
            assert len(seen) == 7

        @gv.given("dense", small=True)
        @settings(max_examples=20, database=None)
        def test_shrinks(case):
            assert max(case.primals["x"].shape, default=0) <= 3
            assert case.primals["x"].size < 2

        def test_refused():
            with pytest.raises(gv.UsageError, match="takes no argument 'case'"):
                gv.given("dense")(lambda x: None)
            with pytest.raises(gv.UsageError, match="the argument 'case'"):
                gv.given("dense", case=st.none())
            with pytest.raises(gv.TargetError, match="did you mean dense"):
                gv.given("dens")
        """
    )
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*test_shrinks(*", "*case=Case(layer='dense'*"])


# Results for other programs


def test_junit_properties_name_layer_property_ratio_and_replay_command_unless_switched_off(project):
    pytester = project()
    pytester.runpytest("--junitxml=out.xml", "-o", "junit_family=xunit1")
    found = {node.get("name"): node.get("value") for node in ET.parse("out.xml").iter("property")}
    assert found["gradverify.right.gradient"] == "ok"
    assert float(found["gradverify.right.gradient.ratio"]) <= 1 < float(found["gradverify.wrong.gradient.ratio"])
    assert found["gradverify.wrong.gradient.replay"].startswith("gradverify replay .gradverify")
    assert {"gradverify.right.gradient.cases", "gradverify.right.gradient.seed"} <= set(found)
    for family in ("xunit1", "xunit2"):
        pytester.runpytest("--junitxml=out.xml", "-o", "gradverify_junit=false", "-o", f"junit_family={family}")
        assert {node.tag for node in ET.parse("out.xml").iter()} <= STRICT


STRICT = {"testsuites", "testsuite", "testcase", "failure", "skipped", "system-out"}  # of a run without errors


def test_junit_xml_of_the_strict_family_says_the_same_where_its_schema_allows(project):
    project().runpytest("--junitxml=out.xml")
    tree = ET.parse("out.xml")
    assert {node.tag for node in tree.iter()} <= STRICT
    right, wrong = (node.findtext("system-out") for node in tree.iter("testcase"))
    assert re.match(r"gradverify.right.gradient: ok\ngradverify.right.gradient.ratio: 0.\d+\n", right)
    assert re.search(r"gradverify.wrong.gradient.replay: gradverify replay .gradverify\S+.npz$", wrong)


def test_results_are_written_as_strict_json(project):
    pytester = project(TWO_BUGS)
    pytester.runpytest("--gradverify-json=out.json")
    told = json.loads((pytester.path / "out.json").read_text(), parse_constant=pytest.fail)
    assert (told["schema"], told["version"], told["ok"], told["seed"]) == ("gradverify-pytest", 1, False, 1)
    right, wrong = told["checks"]
    assert (right["layer"], right["property"], right["verdict"], right["cases"]) == ("right", "gradient", "ok", 8)
    assert wrong["verdict"] == "WRONG"
    assert [finding["primal"] for finding in wrong["findings"]] == ["b", "s"]
    assert wrong["file"] == "mine.py"
    pytester.makepyfile(mine=FIXED)
    pytester.runpytest("--gradverify-json=out.json")
    assert json.loads((pytester.path / "out.json").read_text())["ok"] is True


def test_findings_are_annotations_in_a_workflow_of_github(project, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = project().runpytest().outlines
    (said,) = [line for line in lines if line.startswith("::error ")]
    assert re.fullmatch(
        r"::error file=mine.py,line=\d+,title=gradverify wrong gradient::the gradient of s .*%0Areplay it: .*", said
    )


def test_many_checks_that_pass_are_one_row_for_each_layer(project):
    names = "['conv1d', 'dense', 'relu', 'tanh', 'sigmoid']"
    pytester = project(table=f"properties = []\nlayers = {names}\nmodules = []\nexamples = 1")
    result = pytester.runpytest()
    folded = [line for line in table(result) if re.match(r"\w+ +\(\d+ properties\) .*ok", line)]
    assert len(folded) == 5


# Usage errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--gradverify-profile=slow"],
            "--gradverify-profile: there is no profile 'slow'; there are quick, thorough, ci",
        ),
        (["--gradverify-examples=0"], "--gradverify-examples: '0' is not a whole number of at least 1"),
        (["--gradverify-examples=many"], "--gradverify-examples: 'many' is not"),
        (["--gradverify-seed=1.5"], "--gradverify-seed: '1.5' is not"),
        (
            ["--gradverify-property=gradiant"],
            "--gradverify-property: there is no property 'gradiant'; did you mean grad",
        ),
        (["--gradverify-json=no/such/folder.json"], "--gradverify-json: cannot write"),
        (["--gradverify-json=."], "--gradverify-json: '.' is a folder"),
        (["-o", "gradverify_examples=-1"], "gradverify_examples: '-1' is not"),
        (["-o", "gradverify_prune=maybe"], "gradverify_prune: 'maybe' is neither true nor false"),
        (["-o", "gradverify_shards=conv* = 0"], "gradverify_shards: conv* = 0"),
        (["-o", "gradverify_modules=no_such_module"], "gradverify_modules: 'no_such_module' is neither"),
        (["-o", "gradverify_modules=raises"], "gradverify_modules: cannot import 'raises': raises.py, line 1"),
        (["-o", "gradverify_modules=empty"], "gradverify_modules: 'empty' holds no layer"),
        (
            ["-o", "gradverify_modules=twins"],
            "gradverify_modules: two layers have the name 'twin': twins:a and twins:b",
        ),
        (["-o", "gradverify_modules=taken"], "gradverify_modules: cannot import 'taken'"),
        (["-o", "gradverify_layers=dens"], "gradverify_layers: there is no layer 'dens'; did you mean dense"),
        (["-o", "gradverify_layers=no_such_*"], "gradverify_layers: there is no layer 'no_such_*'"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_its_key(project, arguments, said):
    pytester = project(FIXED)
    pair = "gv.Layer(lambda x: (x, None), lambda dy, _: dy, x='N', name='twin')"
    pytester.makepyfile(
        raises="1 / 0",
        empty="",
        twins=f"import gradverify as gv\na = {pair}\nb = {pair}",
        taken="import gradverify as gv\n" + f"gv.register({pair.replace('twin', 'dense')})",
    )
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("exampels = 3", "[tool.gradverify] exampels: there is no such key"),
        ("examples = true", "[tool.gradverify] examples: True is not a whole number"),
        ("shards = 'conv* = x'", "[tool.gradverify] shards: conv* = x"),
        ("profile = 'x'", "[tool.gradverify] profile: there is no profile 'x'"),
        ("examples = ", "pyproject.toml"),
    ],
)
def test_a_wrong_table_is_a_usage_error_that_names_its_key(pytester, written, said):
    pytester.makeini("[pytest]")
    (pytester.path / "pyproject.toml").write_text(f"[tool.gradverify]\n{written}\n")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()


# Where it is not used


def test_a_project_that_does_not_use_it_sees_and_loads_nothing(pytester):
    pytester.makepyfile(
        """
        import sys
        def test_modules():
            assert "gradverify.pytest_plugin" in sys.modules
            assert not {"numpy", "gradverify.core.declare.layer", "gradverify.pytest_plugin.run"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-v")
    result.assert_outcomes(passed=1)
    assert "gradverify" not in re.sub("(plugins|rootdir): .*", "", result.stdout.str())
    assert not (pytester.path / ".gradverify").exists()


def test_the_table_of_pyproject_is_left_alone_where_the_plugin_is_off(project):
    pytester = project(config='addopts = "--strict-config"')
    pytester.makepyfile(test_plain="def test_plain(): pass")
    pytester.runpytest_subprocess("-p", "no:gradverify").assert_outcomes(passed=1)


@pytest.mark.slow
def test_the_sample_project_runs_in_a_fresh_environment(tmp_path):
    script = Path(__file__).parent / "sample_project" / "run"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode == 77:
        pytest.skip("packages cannot be installed here")
    assert done.returncode == 0, done.stdout + done.stderr


FORGETFUL = """
import gradverify
import numpy as np

class Forgetful:
    def __init__(self): self.w = np.ones(3)
    def forward(self, x): return x * self.w
    def backward(self, dy): return dy * self.w

gradverify.register(Forgetful(), name="forgetful", x="N 3")
"""


def test_weights_without_a_gradient_fail_and_what_declares_them_is_printed(project):
    result = project(FORGETFUL, table='properties = ["gradient", "pure"]').runpytest()
    result.assert_outcomes(failed=1, passed=1)  # nothing is wrong with what `pure` says
    result.stdout.fnmatch_lines(["*forgetful  gradient*not verified", '*pairs={"w": "dw"}*'])


ONE_OF_TWO = """
def test_it(gradverify):
    gradverify(lambda x: (2 * x, None), lambda dy, _: {} * dy, x="N", examples=5, name="f")
"""


def test_layers_of_one_name_that_two_files_check_are_told_apart(pytester):
    pytester.makepyfile(test_one=ONE_OF_TWO.format("2"), test_two=ONE_OF_TWO.format("3"))
    result = pytester.runpytest("--gradverify-property", "gradient", "--gradverify-json", "out.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_one.py:f  gradient*ok", "test_two.py:f  gradient*WRONG*"])
    rows = json.loads((pytester.path / "out.json").read_text())["checks"]
    assert [(row["layer"], row["label"]) for row in rows] == [("f", "test_one.py:f"), ("f", "test_two.py:f")]
    assert [share["name"] for share in rows[0]["verified"]] == ["x", "y"]


def test_a_property_that_another_finding_explains_is_not_called_ok(pytester):
    pytester.makepyfile(ONE_OF_TWO.format("None"))  # forward runs, backward raises
    result = pytester.runpytest("--gradverify-property", "complete", "--gradverify-property", "gradient")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["f * complete *WRONG (crash)", "f * gradient *explained by complete"])
