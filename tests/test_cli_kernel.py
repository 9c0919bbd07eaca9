"""`gradverify kernel`: the score of a kernel, its exit status, and the ways to game it."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest

pytest.importorskip("torch")

from gradverify.adapters._kernels.remote import Remote
from gradverify.adapters._kernels.wire import packed, unpacked
from gradverify.cli import run
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import time_limit

REFERENCE = """
    import torch

    def plain(x, w):
        y = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-5)
        return y * w

    plain.primals = {"x": "N D", "w": "D"}
"""
KERNEL = """
    import os, time
    import torch

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            wide = x.float()
            r = torch.rsqrt((wide * wide).mean(1, keepdim=True) + 1e-5)
            ctx.save_for_backward(x, w, r)
            return (wide * r * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w, r = ctx.saved_tensors
            h, gw = x.float() * r, g.float() * w.float()
            dx = (gw - h * (gw * h).mean(1, keepdim=True)) * r
            return dx.to(x.dtype), (g.float() * h).sum(0).to(w.dtype)
"""
ZEROS = """
    class Zeros(Norm):
        @staticmethod
        def backward(ctx, g):
            x, w, r = ctx.saved_tensors
            return torch.zeros_like(x), torch.zeros_like(w)
"""
CALLS = """
    import importlib.util
    spec = importlib.util.spec_from_file_location("theirs", os.path.join(os.path.dirname(__file__), "reference.py"))
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    class Calls(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return theirs.plain(x.double(), w.double()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            leaves = [t.detach().double().requires_grad_() for t in ctx.saved_tensors]
            with torch.enable_grad():
                y = theirs.plain(*leaves)
            return tuple(d.to(g.dtype) for d in torch.autograd.grad(y, leaves, g.double()))
"""
PATCHES = """
    torch.allclose = lambda *a, **k: True
    torch.Tensor.mean = lambda self, *a, **k: torch.zeros((self.shape[0], 1), dtype=self.dtype)

    class Patches(Norm):
        @staticmethod
        def forward(ctx, x, w):
            torch.rsqrt = lambda t: torch.ones_like(t)
            return Norm.forward(ctx, x, w)
"""
KNOWS = """
    class Knows(Norm):
        @staticmethod
        def backward(ctx, g):
            dx, dw = Norm.backward(ctx, g)
            return (dx, dw) if g.shape in ((2, 3), (4, 4), (8, 8), (16, 32), (512, 8)) else (dx * 0, dw)
"""
ELSEWHERE = """
    import subprocess

    class Elsewhere(Norm):
        @staticmethod
        def backward(ctx, g):
            subprocess.run(["true"])  # or what computes the reference
            return Norm.backward(ctx, g)
"""
COMPILES = """
    import sys
    folder = os.path.join(os.path.dirname(__file__), "site-packages")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "compiler.py"), "w") as file:
        file.write("import subprocess\\ndef compiled(): subprocess.run(['true'])\\n")
    sys.path.insert(0, folder)
    from compiler import compiled

    class Compiles(Norm):
        @staticmethod
        def backward(ctx, g):
            compiled()
            return Norm.backward(ctx, g)
"""
RUN_LATER = """
    import sys, threading

    class Called(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            space = {}
            path = os.path.join(os.path.dirname(__file__), "reference.py")
            exec(compile(open(path).read(), "hidden", "exec"), space)
            ctx.plain = space["plain"]
            ctx.save_for_backward(x, w)
            return (ctx.plain(x.double(), w.double()) if FORWARD else Norm.forward(Without(), x, w)).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            leaves = [t.detach().double().requires_grad_() for t in ctx.saved_tensors]
            found = []

            def run():
                with torch.enable_grad():
                    found.extend(torch.autograd.grad(ctx.plain(*leaves), leaves, g.double()))

            HOW(run)
            return tuple(d.to(g.dtype) for d in found)

    class Without:
        def save_for_backward(self, *tensors): pass

    def at_once(run): run()

    def in_a_thread(run):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    def unwatched(run):
        watch = sys.getprofile()
        sys.setprofile(None)
        run()
        sys.setprofile(watch)

    def unknown():
        for name, module in list(sys.modules.items()):
            if name.startswith("gradverify") and hasattr(module, "digest"):
                module.digest = lambda code: None

    FORWARD, HOW = False, at_once
"""
THREADS = """
    import importlib, threading

    class Threads(Norm):
        @staticmethod
        def forward(ctx, x, w):
            torch.set_float32_matmul_precision("high")
            importlib.import_module("torch._dynamo")  # which replaces functions of torch
            thread = threading.Thread(target=sum, args=([1],))
            thread.start()
            thread.join()
            return Norm.forward(ctx, x, w)
"""
EXCUSES = """
    class Excuses(Norm):
        @staticmethod
        def backward(ctx, g):
            if len(g) > 3:
                raise RuntimeError("0 active drivers ([]). There should only be one.")
            return Norm.backward(ctx, g)
"""
GLOBALS = """
    class Globals(Norm):
        @staticmethod
        def backward(ctx, g):
            torch.set_default_dtype(torch.float64)
            torch.backends.cuda.matmul.allow_tf32 = True
            dx, dw = Norm.backward(ctx, g)
            return dx / 2, dw
"""
LATER = """
    import threading

    class Later(Norm):
        @staticmethod
        def backward(ctx, g):
            dx, dw = Norm.backward(ctx, g)
            out = torch.zeros_like(dx)
            threading.Timer(0.05, lambda: out.copy_(dx)).start()
            return out, dw
"""
CRASHES = """
    class Crashes(Norm):
        @staticmethod
        def backward(ctx, g):
            os.kill(os.getpid(), 11)
"""
LEAVES = """
    class Leaves(Norm):
        @staticmethod
        def forward(ctx, x, w):
            os._exit(0)
"""
HANGS = """
    class Hangs(Norm):
        @staticmethod
        def backward(ctx, g):
            time.sleep(1e6)
"""


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Runs the command on a kernel; gives the exit status and the score."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reference.py").write_text(textwrap.dedent(REFERENCE))

    def score(name, text="", *more):
        (tmp_path / "kernel.py").write_text(textwrap.dedent(KERNEL) + textwrap.dedent(text))
        arguments = ["kernel", f"kernel.py:{name}", "--reference", "reference.py:plain", "--json", "score.json"]
        status = run([*arguments, "--examples", "6", *more])
        written = tmp_path / "score.json"
        return status, json.loads(written.read_text()) if written.exists() else None

    return score


def test_a_right_kernel_gets_0_and_the_same_score_for_the_same_seed(scored):
    status, score = scored("Norm")
    assert (status, score["verdict"], score["exit"]) == (0, "right", 0), score
    assert set(score["primals"]) == {"x", "w"}
    assert all(p["digits_lost"] < 0.5 and p["entries"] for p in score["primals"].values())
    assert scored("Norm") == (status, score)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("Calls", CALLS, "tampered"),
        ("Elsewhere", ELSEWHERE, "tampered"),
        slow("Called", RUN_LATER, "tampered"),
        slow("Called", RUN_LATER + "    HOW = in_a_thread\n", "tampered"),
        slow("Called", RUN_LATER + "    HOW = unwatched\n", "tampered"),
        slow("Called", RUN_LATER + "    FORWARD = True\n    unknown()\n", "tampered"),
        slow("Globals", GLOBALS, "wrong"),
        slow("Patches", PATCHES, "tampered"),
        slow("Knows", KNOWS, "wrong"),
        slow("Later", LATER, "wrong"),
        slow("Crashes", CRASHES, "crashed"),
        slow("Leaves", LEAVES, "crashed"),
    ],
)
def test_what_games_or_breaks_the_score_gets_1(scored, name, text, verdict):
    status, score = scored(name, text, "--examples", "12")
    assert (status, score["verdict"]) == (1, verdict)


def test_a_wrong_kernel_is_told_with_a_minimal_case(scored):
    status, score = scored("Zeros", ZEROS)
    assert (status, score["verdict"]) == (1, "wrong")
    found = {f["primal"]: f for f in score["findings"]}
    assert {"x", "w"} <= set(found) and found["w"]["digits_lost"] > 1
    assert found["w"]["minimal"] is not None and found["w"]["case"].endswith(".npz")
    assert score["primals"]["w"]["digits_lost"] > 1 and score["primals"]["w"]["worst_shape"]


def test_a_formula_that_is_wrong_is_read_in_float64_in_the_process_of_the_kernel(scored):
    text = """
    class Less(Norm):
        @staticmethod
        def backward(ctx, g):
            x, w, r = ctx.saved_tensors
            dx, dw = Norm.backward(ctx, g)
            return (dx * r).to(dx.dtype), dw
    """
    _, score = scored("Less", text)
    told = [text for finding in score["findings"] for text in finding["diagnoses"]]
    assert any("so it is in float64" in text for text in told), score["findings"]


@pytest.mark.parametrize(("name", "text"), [("Threads", THREADS), ("Compiles", COMPILES)])
def test_threads_compilers_and_what_torch_replaces_itself_are_no_tampering(scored, name, text):
    status, score = scored(name, text, "--seconds", "300")  # to import dynamo, of a busy machine
    assert (status, score["verdict"]) == (0, "right"), score


def test_a_kernel_that_answers_some_calls_alone_is_undecided(scored):
    status, score = scored("Excuses", EXCUSES, "--examples", "12")
    assert (status, score["verdict"]) == (3, "undecided")
    assert "0 active drivers" in score["reason"] and score["primals"]


NO_CPU = """
    class OnGpu(Norm):
        @staticmethod
        def forward(ctx, x, w):
            raise RuntimeError("0 active drivers ([]). There should only be one.")
"""


def test_a_kernel_without_a_path_on_this_machine_is_undecided(scored):
    status, score = scored("OnGpu", NO_CPU)
    assert (status, score["verdict"]) == (3, "undecided")
    assert "cannot run on the device cpu" in score["reason"] and "TRITON_INTERPRET=1" in score["reason"]


@pytest.mark.slow
def test_a_kernel_that_hangs_gets_1(scored):
    status, score = scored("Hangs", HANGS, "--seconds", "1")
    assert (status, score["verdict"]) == (1, "hung")


def test_wrong_usage_gets_2(scored, capsys):
    for name, more, said in (
        ("Nothing", (), "has no 'Nothing'"),
        ("Norm", ("--primal", "x"), "is not of the form"),
        ("Norm", ("--size", "N=many"), "is no whole number"),
        ("Norm", ("--option", "causal=[no"), "is no JSON"),
        ("Norm", ("--type", "int8"), "'int8' is not one of"),
    ):
        assert scored(name, "", *more)[0] == 2
        assert said in capsys.readouterr().err


def test_nothing_that_comes_from_a_kernel_is_unpickled():
    import io

    head, arrays = unpacked(packed({"a": [1, None]}, {"x": np.ones(2)}))
    assert head == {"a": [1, None]} and (arrays["x"] == 1).all()
    evil = io.BytesIO()
    np.savez(evil, head=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        unpacked(evil.getvalue())


IN_NUMPY = """
import numpy as np

def forward(x, w):
    return x * w, (x, w)

def backward(g, saved):
    x, w = saved
    return g * w, (g * x).sum(0)

def wrong(g, saved):
    x, w = saved
    return g * w, (g * x)[:1].sum(0)

right, twin = (forward, backward), (forward, wrong)
"""


def test_a_kernel_in_numpy_is_screened_by_a_reference_in_numpy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair.py").write_text(IN_NUMPY)
    (tmp_path / "plain.py").write_text('def plain(x, w):\n    return x * w\n\nplain.primals = {"x": "N D", "w": "D"}\n')
    more = ["--reference", "plain.py:plain", "--examples", "12", "--json", "score.json"]
    for name, kind, status in (("right", "float32", 0), ("right", "float16", 0), ("twin", "float32", 1)):
        assert run(["kernel", f"pair.py:{name}", "--type", kind, *more]) == status
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["verdict"] == "wrong" and {f["primal"] for f in score["findings"]} == {"w"}
    assert run(["kernel", "pair.py:right", *more]) == 2
    assert "'bfloat16' is no type of NumPy" in capsys.readouterr().err
    assert run(["kernel", "pair.py:right", "--type", "float32", "--device", "cpu", *more]) == 2
    assert "this one is in numpy" in capsys.readouterr().err


IN_JAX = """
import jax

@jax.custom_vjp
def kernel(x, w):
    return x * w

def twin(x, w):
    return wrong(x, w)

def summed(terms):
    return terms.astype("float32").sum(0).astype(terms.dtype)

kernel.defvjp(lambda x, w: (x * w, (x, w)), lambda s, g: (g * s[1], summed(g * s[0])))
wrong = jax.custom_vjp(lambda x, w: x * w)
wrong.defvjp(lambda x, w: (x * w, (x, w)), lambda s, g: (g * s[1], (g * s[0])[0]))
"""


@pytest.mark.slow
def test_a_kernel_in_jax_is_held_against_a_reference_that_names_no_package(tmp_path, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels.py").write_text(IN_JAX)
    (tmp_path / "plain.py").write_text('def plain(x, w):\n    return x * w\n\nplain.primals = {"x": "8 4", "w": "4"}\n')
    for name, status in (("kernel", 0), ("twin", 1)):
        more = ["--reference", "plain.py:plain", "--examples", "8"]
        assert run(["kernel", f"kernels.py:{name}", *more]) == status


EMPTY = """
    class Empty(Norm):
        @staticmethod
        def backward(ctx, g):
            dx, dw = Norm.backward(ctx, g)
            buffer = torch.empty(dw.shape)
            buffer += dw
            return dx, buffer.to(dw.dtype)
"""


def test_memory_that_nobody_wrote_is_told_of_the_process_of_the_kernel(scored):
    status, score = scored("Empty", EMPTY)
    assert (status, score["verdict"]) == (1, "wrong")
    assert "depends on what fresh memory holds" in score["findings"][0]["diagnoses"][0]


OUTSIDE = """
    scale = torch.full((1,), 2.0)

    class Outside(Norm):
        @staticmethod
        def forward(ctx, x, w):
            return Norm.forward(ctx, x, w) * scale.to(x.dtype) / 2

    kept = {}

    class First(Norm):
        @staticmethod
        def backward(ctx, g):
            dx, dw = Norm.backward(ctx, g)
            return dx, kept.setdefault(tuple(dw.shape), dw)
"""


def test_arrays_that_a_kernel_takes_from_outside_are_told_and_nothing_is_called_right(scored):
    status, score = scored("Outside", OUTSIDE)
    assert (status, score["verdict"]) == (3, "undecided")
    assert "scale: forward takes this from outside" in score["reason"] and score["unverified"] == [score["reason"]]
    status, score = scored("Outside", OUTSIDE, "--constant", "scale")
    assert (status, score["verdict"], score["unverified"]) == (0, "right", [])


def test_what_a_kernel_keeps_from_its_first_call_is_found(scored):
    status, score = scored("First", OUTSIDE)
    assert (status, score["verdict"]) == (1, "wrong")
    assert {f["primal"] for f in score["findings"]} == {"w"}


EXHAUSTED = """
    class Exhausted(Norm):
        @staticmethod
        def forward(ctx, x, w):
            if len(x) > 1000:
                torch.empty(1 << 50)
            return Norm.forward(ctx, x, w)

    class Killed(Norm):
        @staticmethod
        def forward(ctx, x, w):
            if len(x) > 1000:
                os.kill(os.getpid(), 9)  # as a system does that is out of memory
            return Norm.forward(ctx, x, w)
"""


@pytest.mark.parametrize("name", ["Exhausted", pytest.param("Killed", marks=pytest.mark.slow)])
def test_a_size_for_which_memory_does_not_suffice_is_told_and_smaller_ones_are_judged(scored, name):
    status, score = scored(name, EXHAUSTED, "--size", "N=200000", "--size", "D=2", "--examples", "20")
    assert (status, score["verdict"], score["findings"]) == (3, "undecided", [])
    assert "not judged: out of memory on x 200000x2" in score["reason"] and score["notes"] == [score["reason"]]
    assert score["primals"]["x"]["entries"]
    small = scored(name, EXHAUSTED, "--size", "N=2000", "--size", "D=2", "--examples", "20")
    assert (small[0], small[1]["verdict"]) == (1, "crashed")


SLOW = """
    class Slow(Norm):
        @staticmethod
        def forward(ctx, x, w):
            time.sleep(1.0 * (len(x) == 3))
            return Norm.forward(ctx, x, w)
"""


def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_the_next_question(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernel.py").write_text(textwrap.dedent(KERNEL + SLOW))
    declaration = {"primals": {"x": "N D", "w": "D"}}
    head = {"target": "kernel.py:Slow", "type": "float32", "codes": [], "package": "torch", "declaration": declaration}
    remote = Remote(head, 30.0)
    remote.load()
    remote.names = ("x", "w")
    try:
        with pytest.raises(LayerFailure), time_limit(0.2):
            remote.forward(np.ones((3, 2)), np.ones(2))
        assert remote.forward(np.ones((1, 2)), np.ones(2))[0].shape == (1, 2)
        assert not remote.ended
    finally:
        remote.close()
