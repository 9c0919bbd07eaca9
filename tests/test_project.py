"""The faces around a check: a project's own table, a first test, shells, and the folder of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradverify import project
from gradverify.cli import run
from gradverify.cli._project import defaults
from gradverify.core.errors import UsageError

MINE = """
import gradverify as gv

def scale(x): return 2 * x, None
def right(dy, saved): return 2 * dy
def wrong(dy, saved): return 3 * dy

gv.register(gv.Layer(scale, right, name="right_scale", x="N"))
gv.register(gv.Layer(scale, wrong, name="wrong_scale", x="N"))
"""
TABLE = """
[tool.gradverify]
modules = ["mine.py:right_scale"]
profile = "quick"
properties = ["gradient"]
seed = 7
"""
FEW = ("--in-process", "--no-color")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "pyproject.toml").write_text(TABLE)
    return tmp_path


def test_check_without_targets_does_what_the_project_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", *FEW]) == 0
    out, err = capsys.readouterr()
    assert "checking what [tool.gradverify] names: mine.py:right_scale" in err
    assert out.splitlines()[1].split()[:2] == ["right_scale", "25"]
    assert "seed 7" in out


def test_options_and_targets_win_over_the_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "mine.py:wrong_scale", "--examples", "5", "--seed", "1", *FEW]) == 1
    out, err = capsys.readouterr()
    assert "names: mine.py" not in err
    assert "WRONG gradient of x" in out
    assert "seed 1" in out
    assert run(["check", "relu", "--profile", "quikc", *FEW]) == 2
    assert "--profile: there is no profile 'quikc'" in capsys.readouterr().err


def test_files_are_named_from_the_folder_of_the_table(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "deep").mkdir()
    monkeypatch.chdir(here / "deep")
    assert defaults().targets == ("../mine.py:right_scale",)
    assert project.root(Path.cwd()) == here


def test_the_table_of_another_project_further_up_is_not_meant(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = here / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[project]\nname = 'inner'\n")
    monkeypatch.chdir(inner)
    assert project.root(Path.cwd()) is None
    assert defaults() == defaults(None)
    assert defaults().targets == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("exmaples = 3", "did you mean examples?"),
        ("examples = 0", "[tool.gradverify] examples: 0 is not a whole number of at least 1"),
        ('profile = "slow"', "there is no profile 'slow'"),
        ("fail_under_coverage = 101", "not a number from 0 to 100"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_key(here: Path, line: str, said: str) -> None:
    (here / "pyproject.toml").write_text(f"[tool.gradverify]\n{line}\n")
    with pytest.raises(UsageError) as caught:
        defaults()
    assert said in str(caught.value)


def test_both_faces_read_it_by_the_same_code() -> None:
    from gradverify.pytest_plugin import settings

    assert issubclass(settings._Given, project.Given)
    assert (settings.LISTS, settings.WORDS) == (project.LISTS, project.WORDS)


def test_init_writes_a_test_that_passes_and_leaves_a_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init"]) == 0
    names: dict[str, object] = {}
    exec(Path("test_gradients.py").read_text(), names)
    names["test_dense"]()  # type: ignore[operator]
    assert run(["init"]) == 2
    assert "'test_gradients.py' exists" in capsys.readouterr().err


def test_init_for_a_target_fails_usefully(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "mine.py:wrong_scale", "gone.py", "--output", "test_mine.py"]) == 2
    assert not Path("test_mine.py").exists()
    assert run(["init", "mine.py:wrong_scale", "--output", "test_mine.py"]) == 0
    names: dict[str, object] = {}
    exec(Path("test_mine.py").read_text(), names)
    with pytest.raises(AssertionError, match="wrong_scale: the gradient of x is wrong") as caught:
        names["test_mine_wrong_scale"]()  # type: ignore[operator]
    assert "the right one times 3/2" in " ".join(str(caught.value).split())


def test_the_folder_of_cases_keeps_itself_out_of_git(here: Path) -> None:
    assert run(["check", "mine.py:wrong_scale", "--property", "gradient", *FEW]) == 1
    ignored = Path(".gradverify/.gitignore").read_text().splitlines()
    assert "/*" in ignored
    assert "!/corpus/" in ignored
    Path(".gradverify/.gitignore").write_text("mine\n")
    assert run(["check", "mine.py:wrong_scale", "--property", "gradient", *FEW]) == 1
    assert Path(".gradverify/.gitignore").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("words", "given"), [("ch", "check"), ("check lstm_c", "lstm_cell"), ("check --prof", "--profile")]
)
def test_a_shell_completes(words: str, given: str) -> None:
    about = {
        "COMP_WORDS": f"gradverify {words}",
        "COMP_CWORD": str(len(words.split())),
        "_GRADVERIFY_COMPLETE": "bash_complete",
    }
    done = subprocess.run(
        [sys.executable, "-m", "gradverify.cli"], env=about, capture_output=True, text=True, check=True, timeout=60
    )
    assert f"plain,{given}" in done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["-n", "2"]])
def test_pytest_writes_one_page_of_all_processes(here: Path, more: list[str]) -> None:
    (here / "pyproject.toml").write_text(
        '[tool.gradverify]\nmodules = ["mine.py"]\nproperties = ["gradient", "linear"]\nseed = 1\n'
    )
    command = [sys.executable, "-m", "pytest", "-q", "--gradverify-html", "page.html", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert "gradverify: 2 layers on the page" in done.stdout
    page = (here / "page.html").read_text(encoding="utf-8")
    assert page.count('class="finding"') == 1
    assert "right_scale" in page
    assert page.count("gradverify replay .gradverify/corpus/") == 1
