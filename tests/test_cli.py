"""The command line: exit statuses, what goes to stdout, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gradverify.layers
from gradverify.casefile import load
from gradverify.cli import _progress, run
from gradverify.core.check.progress import DIAGNOSING, SMALLER, Progress

LAYERS = """
    import numpy as np
    import gradverify

    def forward(x, W, b):
        print("noise from the layer")
        return x @ W + b, (x, W)

    def backward(dy, saved):
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.sum(0)

    def averaged(dy, saved):
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.mean(0)

    def infinite(x, W, b):
        return np.full((len(x), W.shape[1]), np.nan), (x, W)

    shape = dict(x="N D", W="D H", b="H", returns="N H", batch="N")
    right = gradverify.Layer(forward, backward, name="right", **shape)
    wrong = gradverify.Layer(forward, averaged, name="wrong", **shape)
    nowhere = gradverify.Layer(infinite, backward, name="nowhere", **shape)
"""
SUPERVISED = ["--examples", "6", "--property", "gradient"]
FEW = [*SUPERVISED, "--in-process"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run one command in a folder of its own that holds mine.py; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS))

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_right_layer_gives_a_row_and_status_0(call: Call) -> None:
    status, out, _ = call("check", "mine.py:right", *FEW)
    assert status == 0
    header, row, _, summary = out.splitlines()
    assert header.split()[:3] == ["layer", "cases", "entries"]
    assert row.split()[:2] == ["right", "6"]
    assert row.endswith("ok")
    assert summary.startswith("1 of 1 layer ok")


def test_a_wrong_layer_gives_status_1_and_a_case_that_replays(call: Call) -> None:
    status, out, _ = call("check", "mine.py:wrong", *FEW)
    assert status == 1
    assert "wrong: the gradient of b is wrong" in out
    command = next(line for line in out.splitlines() if "replay it:" in line).split("gradverify ")[1].split()
    assert Path(command[1]).parent == Path(".gradverify/cases")
    assert load(command[1]).target == "mine.py:wrong"

    status, out, _ = call(*command)
    assert (status, "the gradient of b is wrong" in out) == (1, True)
    assert "looks like: the gradient of b is the right one times 1/N" in " ".join(out.split())

    Path("mine.py").write_text(Path("mine.py").read_text().replace("dy.mean(0)", "dy.sum(0)"))
    status, out, _ = call(*command)
    assert (status, "nothing is found any more" in out) == (0, True)


def test_the_reason_for_what_is_unresolved_is_told_below_the_table(call: Call) -> None:
    offset = "class Offset:\n    x = 'N D'\n    forward = lambda x: (((x + 1e6) - 1e6) ** 2, x)\n"
    Path("mine.py").write_text(f"import gradverify\n{offset}    backward = lambda dy, x: 2 * x * dy\n")
    _, out, _ = call("check", "mine.py:Offset", *FEW)
    assert "unresolved: the forward rounds its input before use" in out


def test_a_case_can_be_replayed_against_a_layer_elsewhere(call: Call) -> None:
    _, out, _ = call("check", "mine.py:wrong", *FEW)
    path = next(line for line in out.splitlines() if "replay it:" in line).split()[-1]
    assert call("replay", path, "--target", "dense", "--property", "gradient")[0] == 0
    status, _, err = call("replay", path, "--target", "mse")
    assert (status, "declares 'x', 'y'" in err) == (2, True)


def test_a_layer_of_which_nothing_can_be_verified_gives_status_3(call: Call) -> None:
    status, out, _ = call("check", "mine.py:nowhere", *FEW)
    assert (status, "nothing verified" in out) == (3, True)


def test_several_targets_are_checked_in_order_and_once(call: Call) -> None:
    _, out, _ = call("check", "mine.py:right", "dense", "mine.py:right", *FEW)
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["right", "dense"]


def test_a_layer_is_checked_under_a_loss(call: Call) -> None:
    status, out, _ = call("check", "dense", "--loss", "mse", *FEW)
    assert (status, out.splitlines()[1].split()[0]) == (0, "dense+mse")


def test_what_a_layer_prints_does_not_reach_json_on_stdout(call: Call) -> None:
    status, out, err = call("check", "mine.py:wrong", "--json", "-", *FEW)
    content = json.loads(out)
    assert (status, content["schema"], content["ok"]) == (1, "gradverify-report", False)
    assert Path(content["layers"][0]["findings"][0]["case"]["file"]).exists()
    assert "noise from the layer" in err
    assert "WRONG gradient of b" in err


def test_json_goes_to_a_file_beside_the_table(call: Call) -> None:
    status, out, _ = call("check", "mine.py:right", "--json", "report.json", *FEW)
    assert (status, json.loads(Path("report.json").read_text())["ok"]) == (0, True)
    assert out.startswith("layer")


def test_the_seed_makes_a_run_repeatable(call: Call) -> None:
    def entries(seed: str) -> int:
        call("check", "dense", "--json", "r.json", "--seed", seed, *FEW)
        count: int = json.loads(Path("r.json").read_text())["layers"][0]["properties"]["gradient"]["entries"]
        return count

    assert entries("1") == entries("1")
    assert len({entries(seed) for seed in "1234"}) > 1


def test_matrices_are_printed_in_full_also_where_the_gradients_agree(call: Call) -> None:
    _, out, _ = call("check", "mine.py:right", "--show-matrices", *FEW)
    assert all(f"right, gradient of {primal} " in out for primal in "xWb")
    assert "difference" in out
    _, out, _ = call("check", "mine.py:wrong", "--show-matrices", *FEW)
    assert "wrong, gradient of b" in out


def test_a_folder_that_cannot_be_written_is_told_and_the_report_is_still_printed(call: Call) -> None:
    Path(".gradverify").write_text("in the way")
    status, out, err = call("check", "mine.py:wrong", *FEW)
    assert (status, "cannot write case files" in err) == (1, True)
    assert "the gradient of b is wrong" in out
    assert "replay it" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "no_such_layer"], "neither a registered layer nor a module"),
        (["check", "gone.py"], "there is no file 'gone.py'"),
        (["check", "syntax.py"], "SyntaxError in syntax.py, line 1: def f(:"),
        (["check", "raises.py"], "raises.py, line 2: 1 / 0"),
        (["check", "dense", "--eps", "0"], "eps must be"),
        (["check", "dense", "--eps", "nan"], "eps must be"),
        (["check", "dense", "--eps", "-1e-4"], "eps must be"),
        (["check", "dense", "--examples", "0"], "examples must be"),
        (["check", "dense", "--examples", "many"], "not a valid integer"),
        (["check", "dense", "--dtype", "int8"], "dtype must be"),
        (["check", "dense", "--memory", "0"], "memory must be"),
        (["check", "dense", "--property", "gradeint"], "there is no property 'gradeint'; did you mean gradient"),
        (["check", "dense", "--loss", "msee"], "'msee'; did you mean mse"),
        (["check", "dense", "--loss", "relu"], "'relu' is a layer, not a loss"),
        (["check", "mse", "--loss", "mse"], "is a loss already"),
        (["check", "dense", "--json", "no/such/folder/r.json"], "there is no folder"),
        (["check", "dense", "--json", "."], "it is a folder"),
        (["check", "--no-such-option"], "No such option"),
        (["no-such-command"], "there is no command 'no-such-command'"),
        (["replay", "gone.npz"], "cannot read 'gone.npz'"),
        (["replay", "damaged.npz"], "'damaged.npz': the case file is damaged"),
        (["replay"], "Missing argument"),
    ],
)
def test_every_mistake_gives_status_2_and_one_clear_message(call: Call, arguments: list[str], says: str) -> None:
    Path("syntax.py").write_text("def f(:\n")
    Path("raises.py").write_text("\n1 / 0\n")
    Path("damaged.npz").write_bytes(b"PK nothing")
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_list_names_everything_and_where_it_came_from(call: Call) -> None:
    status, out, _ = call("list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if line.endswith(")") and not line.startswith(" ")] == [
        "layers",
        "losses",
        "properties",
        "adapters",
    ]
    content = json.loads(call("list", "--json")[1])
    assert (content["schema"], content["version"]) == ("gradverify-list", 1)
    dense = next(row for row in content["layers"] if row["name"] == "dense")
    assert (dense["says"], dense["primals"]) == ("y = x W + b.", ["x", "W", "b"])
    assert dense["from"].startswith("gradverify")
    assert "mse" in {row["name"] for row in content["losses"]}


def test_colour_is_for_those_who_ask(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert "\x1b[" not in call("check", "mine.py:wrong", *FEW)[1]
    assert "\x1b[" in call("check", "mine.py:wrong", "--color", *FEW)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in call("check", "mine.py:wrong", *FEW)[1]
    assert "\x1b[" not in call("check", "mine.py:wrong", "--no-color", *FEW)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in call("check", "mine.py:wrong", *FEW)[1]


def test_progress_off_a_terminal_is_a_line_for_each_layer_and_now_and_then_one_for_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with _progress.board(2, color=False) as board:
        for now in (1.0, 6.0, 7.0):
            board.heard(Progress("dense", int(now), 50, 1))
        now = 12.0
        board.heard(Progress("dense", 50, 50, 1, SMALLER))
        board.finished("dense", "dense: WRONG, 50 cases", True)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "dense: 6 of 50 cases, 1 finding",
        "dense: 50 of 50 cases, 1 finding, making it smaller",
        "[1/2] dense: WRONG, 50 cases",
    ]
    assert captured.out == ""


def test_progress_on_a_terminal_is_live_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with _progress.board(2, color=False) as board:
        board.heard(Progress("dense", 3, 50, 0))
        board.heard(Progress("lstm", 50, 50, 2, DIAGNOSING))
        board.finished("dense", "dense: ok", False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "lstm: 50 of 50 cases, 2 findings, diagnosing" in captured.err
    assert "[1/2] dense: ok" in captured.err
    assert "1 of 2 layers done" in captured.err


def test_an_error_of_our_own_is_not_taken_for_a_finding_and_hides_none(call: Call) -> None:
    broken = """
    from gradverify.core.properties import Property, add
    def holds(layer, case):
        if layer.name == "right":
            raise ZeroDivisionError("a bug")
        from gradverify.core.nouns import Outcome
        return Outcome("broken")
    add(Property("broken", "never", holds))
    """
    Path("mine.py").write_text(textwrap.dedent(LAYERS + broken))
    only = ["--examples", "3"]
    status, _, err = call("check", "mine.py:right", *only)
    assert status == 70
    assert "ZeroDivisionError: a bug" in err
    assert "please report it" in err
    status, out, err = call("check", "mine.py", *only)
    assert status == 1
    assert "the gradient of b is wrong" in out
    assert "right could not be checked" in err


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(gradverify.__file__).parents[1])}


def command(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradverify.cli", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_itself_says_its_version_and_what_it_can(tmp_path: Path) -> None:
    version = command("--version", cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f"gradverify {gradverify.__version__}\n")
    usage = command("--help", cwd=tmp_path)
    assert usage.returncode == 0
    assert all(name in usage.stdout for name in ("check", "replay", "list"))


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, gradverify.cli as c; c.run(['check', '--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "hypothesis", "rich", "pytest"} & set(done.stdout.splitlines()[-1].split())


def test_the_command_itself_gives_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS))
    done = command("check", "mine.py:wrong", *FEW, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "+-" in done.stdout
    assert "noise from the layer" not in done.stdout
    assert command("check", "gone.py", cwd=tmp_path).returncode == 2
    (case,) = (tmp_path / ".gradverify" / "cases").iterdir()
    assert command("replay", str(case), cwd=tmp_path).returncode == 1


SLOW = """
    def slow(x, W, b):
        open("begun", "a").write("x")
        import time; time.sleep({seconds})
        return forward(x, W, b)
    slow = gradverify.Layer(slow, averaged, name="slow", **shape)
"""


def interrupted(folder: Path, *arguments: str, after: Callable[[], bool], times: int = 1) -> tuple[int, str, float]:
    """Status, stdout, and seconds since the first interrupt of a check that is interrupted when something is so."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gradverify.cli", "check", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not after() and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic()
    for _ in range(times):
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    assert "gradverify: interrupted" in err
    living = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in living
    return child.returncode, out, time.monotonic() - begun


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_ctrl_c_gives_status_130_and_the_layers_that_were_done(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS + SLOW.format(seconds=30)))
    named = ["mine.py:right", "mine.py:slow", "-j", "1", *SUPERVISED]
    status, out, _ = interrupted(tmp_path, *named, after=(tmp_path / "begun").exists)
    assert status == 130
    assert out.splitlines()[1].split()[0] == "right"
    assert out.splitlines()[-1] == "interrupted, 1 of 2 layers done, 0 findings"


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_ctrl_c_keeps_what_was_found_in_a_layer_that_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS + SLOW.format(seconds=0.02)))
    begun = tmp_path / "begun"
    named = ["mine.py:slow", "--examples", "1000", "--property", "gradient"]
    status, out, spent = interrupted(tmp_path, *named, after=lambda: begun.exists() and begun.stat().st_size > 150)
    assert status == 130
    assert "the gradient of b is wrong" in out
    assert "replay it: gradverify replay" in out
    assert out.splitlines()[-1] == "interrupted, 0 of 1 layer done, 1 finding"
    assert spent < 10


@pytest.mark.skipif(os.name == "nt", reason="signals differ")
def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS + SLOW.format(seconds=300)))
    status, _, spent = interrupted(tmp_path, "mine.py:slow", *SUPERVISED, after=(tmp_path / "begun").exists, times=2)
    assert status == 130
    assert spent < 2.5


@pytest.mark.skipif(os.name == "nt", reason="shells differ")
@pytest.mark.parametrize("streams", ["| true", ">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_nobody_reads_changes_no_status(tmp_path: Path, streams: str) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(LAYERS))
    checked = f"{sys.executable} -m gradverify.cli check mine.py:wrong {' '.join(SUPERVISED)}"
    line = f"{checked} {streams}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gradverify.cli", "list"],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "cannot write the output" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("import os\nos._exit(0)\n", 2, "SystemExit: os._exit(0)"),
        (
            "import os\nimport gradverify as gv\ndef forward(x):\n    os._exit(0)\n"
            "gv.register(gv.Layer(forward, lambda g, s: g, x='N', name='ends'))\n",
            1,
            "line 4 of ends.py: os._exit(0)",
        ),
    ],
    ids=["import", "forward"],
)
def test_code_that_ends_the_process_does_not_read_as_passed(tmp_path: Path, code: str, status: int, told: str) -> None:
    (tmp_path / "ends.py").write_text(code)
    command = [sys.executable, "-m", "gradverify.cli", "check", "ends.py", "--examples", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status
    assert told in " ".join((done.stdout + done.stderr).split())


FORGETFUL = """
    import numpy as np

    class Layer:
        def __init__(self): self.w = np.ones(3)
        def forward(self, x): return x * self.w
        def backward(self, dy): return dy * self.w

    import gradverify
    f = gradverify.register(Layer(), name="f", x="N 3")
"""
OTHER = """
    import gradverify
    f = gradverify.Layer(lambda x: (2 * x, None), lambda dy, _: 2 * dy, x="N", name="f")
"""


def test_a_layer_with_weights_that_nobody_checked_gives_status_3_and_says_how_to_declare_them(call: Call) -> None:
    Path("object.py").write_text(textwrap.dedent(FORGETFUL))
    status, out, _ = call("check", "object.py", *SUPERVISED, "--json", "out.json")
    assert (status, "not verified: w" in out, 'pairs={"w": "dw"}' in out) == (3, True, True)
    (layer,) = json.loads(Path("out.json").read_text())["layers"]
    assert (layer["ok"], layer["verified"]) == (False, False)
    (left,) = layer["verified_by"]["missing"]
    assert (left["name"], left["blocks"], left["declare"]) == ("w", True, 'pairs={"w": "dw"}')
    assert [(share["name"], share["kind"]) for share in layer["verified_by"]["verified"]] == [
        ("x", "primal"),
        ("y", "output"),
    ]


def test_two_layers_of_one_name_have_rows_of_their_own(call: Call) -> None:
    for name in ("a.py", "b.py"):
        Path(name).write_text(textwrap.dedent(OTHER))
    status, out, _ = call("check", "a.py", "b.py", *SUPERVISED)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["a.py:f", "b.py:f"]
