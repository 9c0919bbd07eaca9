"""What a layer's code hands over or raises, whatever it is, is a finding of that layer and of no other."""

import builtins
import ctypes
import signal
import sys
import unittest
from types import SimpleNamespace
from unittest import mock

import hypothesis
import numpy as np
import pytest

import gradverify as gv
from gradverify import targets
from gradverify.core import evaluate, texts
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.errors import DeclarationError, TargetError
from gradverify.core.evaluate import foreign
from gradverify.core.evaluate.failures import LayerFailure, error_line, guarded, unpatched
from gradverify.core.nouns import Case

pytestmark = pytest.mark.usefixtures("as_drawn")


def square(x):
    return x * x, x


def square_backward(dy, x):
    return 2 * x * dy


def checked(forward=square, backward=square_backward, **declaration):
    declaration.setdefault("x", "N")
    layer = gv.Layer(forward, backward, name="odd", **declaration)
    return check_layer(layer, Settings(examples=12, shrink=False))


def kinds(report):
    return {(finding.property, finding.kind) for finding in report.findings}


# -- objects --------------------------------------------------------------------------------------


class Refuses:
    """Raises wherever it is looked at."""

    def refuse(self, *_, **__):
        raise RuntimeError("do not touch")

    __array__ = __len__ = __iter__ = __eq__ = __str__ = __repr__ = __bool__ = __float__ = refuse
    __hash__ = None


class Nameless:
    @property
    def __class__(self):
        raise RuntimeError("no class of mine")


class Lies(np.ndarray):
    """Every difference is 0, everything is equal."""

    def __array_ufunc__(self, function, method, *arguments, **keywords):
        return np.zeros(self.shape)

    def __eq__(self, other):
        return np.ones(self.shape, bool)

    __hash__ = None


def masked(a):
    return np.ma.masked_array(a, mask=np.arange(a.size).reshape(a.shape) == 0)


OUTPUTS = {
    "raises": lambda y: Refuses(),
    "no class": lambda y: Nameless(),
    "among others": lambda y: (y, Refuses()),
    "objects": lambda y: y.astype(object),
    "text": lambda y: "hello",
    "none": lambda y: None,
    "dict": lambda y: {"y": y},
    "ragged": lambda y: [[1.0], [1.0, 2.0]],
    "masked": masked,
    "a view of 1e12": lambda y: np.broadcast_to(y.sum(), (10**6, 10**6)),
    "a view behind a window": lambda y: np.lib.stride_tricks.as_strided(y, (y.size, 10**9), (8, 0)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_is_no_plain_array_is_a_finding(name):
    report = checked(lambda x: (OUTPUTS[name](x * x), x))
    assert {property for property, _ in kinds(report)} == {"complete"}
    assert {kind for _, kind in kinds(report)} <= {"outputs", "crash"}
    assert str(report).isprintable() or "\n" in str(report)


PAIRS = {
    "none": lambda: None,
    "no class": Nameless,
    "raises": Refuses,
    "one": lambda: (1.0,),
    "three": lambda: (1.0, 2.0, 3.0),
    "a tuple that raises": lambda: type("T", (tuple,), {"__len__": Refuses.refuse})((1.0, 2.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_forward_that_returns_no_pair_is_a_finding(name):
    assert {property for property, _ in kinds(checked(lambda x: PAIRS[name]()))} == {"complete"}


GRADIENTS = {
    "raises": (lambda g: Refuses(), {"dtype"}),
    "no class": (lambda g: Nameless(), {"crash"}),
    "objects": (lambda g: g.astype(object), {"dtype"}),
    "text": (lambda g: "hello", {"dtype"}),
    "masked": (masked, {"dtype"}),
    "a dict that raises": (lambda g: type("D", (dict,), {"items": Refuses.refuse})(x=g), {"crash"}),
    "a key that raises": (lambda g: {Refuses: g}, {"surplus"}),
    "a view of 1e12": (lambda g: np.broadcast_to(g.sum(), (10**6, 10**6)), {"dtype"}),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_that_is_no_plain_array_is_a_finding(name):
    change, expected = GRADIENTS[name]
    report = checked(backward=lambda dy, x: change(2 * x * dy))
    assert ("complete", *expected) in kinds(report)


def test_one_gradient_that_cannot_be_read_does_not_hide_another_that_is_wrong():
    report = checked(lambda x, w: (x * w, (x, w)), lambda dy, saved: (Refuses(), 3 * saved[0] * dy), x="N", w="N")
    assert {("complete", "dtype", "x"), ("gradient", "wrong", "w")} <= {f.fingerprint for f in report.findings}


def test_torch_tensors_that_require_grad_are_findings():
    torch = pytest.importorskip("torch")
    forgotten = checked(lambda x: (torch.tensor(x * x, requires_grad=True), x))
    assert kinds(forgotten) == {("complete", "outputs")} and "detach" in str(forgotten)
    forgotten = checked(backward=lambda dy, x: torch.tensor(2 * x * dy, requires_grad=True))
    assert kinds(forgotten) == {("complete", "dtype")} and "detach" in str(forgotten)


RIGHT = {
    "matrix": (lambda x: (np.matrix(x * x), x), lambda dy, x: np.matrix(2 * x * np.asarray(dy)), "N M"),
    "a mask of nothing": (lambda x: (np.ma.masked_array(x * x), x), square_backward, "N"),
    "read only": (lambda x: (np.broadcast_to((x * x).sum(), (4,)), x), lambda dy, x: 2 * x * dy.sum(), "N"),
    "a number": (lambda x: (float((x * x).sum()), x), square_backward, "N"),
    "saved in a circle": (lambda x: (x * x, _circle(x)), lambda dy, saved: 2 * saved["x"] * dy, "N"),
    "saved what raises": (lambda x: (x * x, (Refuses(), x)), lambda dy, saved: 2 * saved[1] * dy, "N"),
    "an unhashable function": (
        square,
        type("B", (), {"__call__": lambda s, dy, x: 2 * x * dy, "__hash__": None})(),
        "N",
    ),
}


def _circle(x):
    saved = {"x": x}
    saved["self"] = saved
    return saved


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("name", RIGHT)
def test_what_can_be_read_is_right(name):
    forward, backward, dims = RIGHT[name]
    report = checked(forward, backward, x=dims)
    assert report.ok, report


def test_a_subclass_that_says_it_is_equal_is_found_out():
    assert ("gradient", "wrong") in kinds(checked(backward=lambda dy, x: (3 * x * dy).view(Lies)))


def test_a_plain_array_is_not_copied_and_an_enormous_one_not_read():
    a = np.arange(3.0)
    assert foreign.array(a, "it", "forward", "outputs") is a
    assert np.shares_memory(foreign.array(a.view(Lies), "it", "forward", "outputs"), a)
    with pytest.raises(LayerFailure, match="1,000,000,000,000 numbers"):
        foreign.array(np.broadcast_to(1.0, (10**6, 10**6)), "it", "forward", "outputs")


# -- exceptions -----------------------------------------------------------------------------------


class Own(BaseException):
    pass


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


def raising(error):
    def forward(x):
        if x.size > 1:
            raise error  # here
        return square(x)

    return forward


class Closed(Exception):
    """None of its attributes can be read."""

    @property
    def __traceback__(self):
        raise RuntimeError("no traceback")

    args = __cause__ = __context__ = __traceback__


RAISED = [
    Own("own"),
    Wordless(),
    type("E", (Exception,), {"__str__": lambda self: None})(),
    ValueError(),
    ValueError("A" * 5_000_000),
    ValueError("\udcff\x00\x1b[31m]\n::error::x"),
    StopIteration(),
    GeneratorExit(),
    SystemExit(0),
    KeyboardInterrupt(),
    unittest.SkipTest("skip me"),
    pytest.skip.Exception("skip me"),
    pytest.exit.Exception("leave me"),
    hypothesis.errors.UnsatisfiedAssumption(),
    MemoryError(),
    RecursionError("too deep"),
]


@pytest.mark.parametrize("error", [*RAISED, Closed("shut")], ids=lambda error: type(error).__name__)
def test_whatever_a_layer_raises_is_a_crash_at_the_authors_line(error):
    report = checked(raising(error))
    assert kinds(report) == {("complete", "memory" if isinstance(error, MemoryError) else "crash")}
    (finding,) = report.findings
    assert "raise error" in finding.message and "test_objects.py" in finding.message
    assert type(error).__name__ in finding.message
    assert finding.message.isprintable() and len(finding.message) < 1000


@pytest.mark.parametrize("leave", [lambda: pytest.skip("x"), lambda: hypothesis.assume(False)], ids=["skip", "assume"])
def test_what_a_tool_raises_names_the_line_that_called_the_tool(leave):
    def forward(x):
        leave()  # here
        return square(x)

    assert all("test_objects.py" in finding.message for finding in checked(forward).findings)
    assert not checked(forward).ok


def test_backward_too():
    def backward(dy, x):
        pytest.skip("not today")

    assert ("complete", "crash") in kinds(checked(backward=backward))


def test_ctrl_c_is_no_finding():
    def pressed():
        ctypes.CDLL(None)["raise"](signal.SIGINT)  # as from outside: what Python code sends itself is a finding
        for _ in range(1000):
            pass

    # A shell that runs a command behind its back has it ignore Ctrl-C; this test is about a process that does not.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            guarded("forward", pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
    with pytest.raises(LayerFailure, match="raised KeyboardInterrupt"):
        guarded("forward", _raise, KeyboardInterrupt())


def _raise(error):
    raise error


def test_what_the_handler_of_a_signal_raises_is_no_finding():
    def handler(signum, frame):
        pytest.fail("out of time")

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(pytest.fail.Exception):
            guarded("forward", signal.raise_signal, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_file_raises_while_it_is_imported_is_an_error_of_that_target(tmp_path, error):
    path = tmp_path / "odd.py"
    path.write_text("import builtins\nraise builtins.odd_error  # here\n")
    builtins.odd_error = error
    try:
        with pytest.raises(TargetError, match="cannot import") as caught:
            targets.load(str(path))
    finally:
        del builtins.odd_error
    assert "raise builtins.odd_error" in str(caught.value)
    assert len(str(caught.value)) < 6000
    assert not set("\x1b\x00\udcff") & set(str(caught.value))


# -- what is left behind --------------------------------------------------------------------------


def test_a_changed_recursion_limit_is_put_back():
    before = sys.getrecursionlimit()

    def forward(x):
        sys.setrecursionlimit(len_of_stack() + 30)
        return square(x)

    assert checked(forward).ok
    assert sys.getrecursionlimit() == before


def len_of_stack():
    frame, depth = sys._getframe(), 0
    while frame:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_numpy_is_put_back_and_a_layer_that_replaces_its_functions_is_wrong():
    functions = np.abs, np.asarray

    def forward(x):
        np.abs = lambda a, *_, **__: np.zeros(np.shape(a))
        np.asarray = lambda *_, **__: np.zeros(3)
        return square(x)

    report = checked(forward, lambda dy, x: x * dy)
    assert kinds(report) == {("complete", "crash")} and "replaces numpy.abs" in str(report)
    assert functions == (np.abs, np.asarray)
    assert checked().ok


def test_what_goes_wrong_with_a_replaced_numpy_is_told_as_that():
    def patches():
        with unpatched():
            np.sin = None
            raise ZeroDivisionError

    with pytest.raises(LayerFailure, match=r"replaces numpy\.sin"):
        patches()
    assert np.sin(0.0) == 0.0


def test_a_function_of_numpy_that_somebody_else_replaced_is_not_the_layers():
    with mock.patch("numpy.tanh", Refuses()):
        assert checked().ok

    def forward(x):
        np.tanh = Refuses()
        return square(x)

    assert "replaces numpy.tanh" in str(checked(forward))
    assert np.tanh(0.0) == 0.0


def test_a_popped_numpy_is_put_back():
    assert checked(lambda x: (sys.modules.pop("numpy", None) and x * x, x)).ok
    assert sys.modules["numpy"] is np


# -- a buffer that is returned again --------------------------------------------------------------


def buffered(by):
    kept = {}

    def forward(x):
        if kept.get(by(x), np.empty(0)).size < x.size:
            kept[by(x)] = np.empty(x.size)
        y = kept[by(x)][: x.size].reshape(x.shape)
        np.multiply(x, x, out=y)
        return y, x

    return forward


@pytest.mark.parametrize("by", [lambda x: x.shape, lambda x: None], ids=["by shape", "one"])
def test_a_forward_that_returns_its_own_buffer_again_is_found(by):
    layer = gv.Layer(buffered(by), square_backward, name="odd", x="N")
    report = check_layer(layer, Settings(examples=12))
    assert kinds(report) == {("reusable", "overwrites")}
    assert "writes into" in report.findings[0].message
    assert "gradient of x" not in str(report)


def test_a_backward_that_returns_its_own_buffer_again_is_found_and_nothing_is_said_of_what_it_reads():
    kept = {}

    def backward(dy, x):
        return np.multiply(2 * x, dy, out=kept.setdefault(x.shape, np.empty(x.shape)))

    report = check_layer(gv.Layer(lambda x: (x * x, x), backward, name="odd", x="N"), Settings(examples=12))
    assert kinds(report) == {("reusable", "overwrites")}
    assert "backward keeps the array" in report.findings[0].message


@pytest.mark.parametrize("copied", [True, False])
def test_an_object_may_keep_its_output_until_the_next_forward_and_that_is_told(copied):
    class Squares:
        def forward(self, x):
            self.x = x
            self.y = getattr(self, "y", None) if getattr(self, "y", np.empty(0)).shape == x.shape else np.empty(x.shape)
            np.multiply(x, x, out=self.y)
            return self.y.copy() if copied else self.y

        def backward(self, dy):
            return 2 * self.x * dy

    report = gv.check(Squares, x="N", examples=12, raises=False)
    assert report.ok
    assert ("writes into the array that it returned" in " ".join(str(report).split())) is not copied


# -- texts ----------------------------------------------------------------------------------------


def test_a_line_holds_nothing_that_a_terminal_or_a_build_server_obeys():
    assert texts.line("a\x1b[31mb\r\nc\x00\udcff\u202e") == "a?[31mb c???"
    assert texts.line("x\n::error file=a::b std::vector") == "x : :error file=a::b std::vector"
    assert texts.line("##[error]no ##vso[task.x] ## a") == "# #[error]no # #vso[task.x] ## a"
    assert len(texts.line("A" * 10**7)) == texts.LINE
    assert texts.line("dW is wrong at W[0, 1] \u00b1 3") == "dW is wrong at W[0, 1] \u00b1 3"


def test_a_block_keeps_its_lines():
    assert texts.block("a\n  b\x07\n\n::error::c") == "a\n  b?\n\n: :error::c"
    assert texts.block("a\n" * 10**6).endswith("\n…")


def test_told_of_an_exception_whose_type_is_odd():
    assert error_line(type("A\x1b\nB" * 100, (Exception,), {})("x\ny")).isprintable()


def test_a_name_is_one_line():
    layer = gv.Layer(square, square_backward, name="a\x1b[31m\n::error::b", x="N")
    assert layer.name == "a?[31m : :error::b"


def test_what_an_adapter_says_is_cleaned_as_well():
    failure = LayerFailure("crash", "forward", "of a library: \x1b[31m\n::error::x " + "A" * 10**6)
    assert "\x1b" not in str(failure) and "\n:: error" not in str(failure) and len(str(failure)) < 5000


@pytest.mark.parametrize("declared", [{"primals": {"x\x1b": "N"}}, {"x": "N", "options": {"a\nb": [1, 2]}}])
def test_a_name_with_control_characters_is_refused(declared):
    with pytest.raises(DeclarationError, match="control characters"):
        gv.Layer(lambda x, **options: (x, None), lambda dy, _: dy, **declared)


def test_reading_is_inside_the_guard():
    layer = gv.Layer(square, square_backward, x="N")
    with pytest.raises(LayerFailure, match="do not touch"):
        evaluate.outputs_of(layer, Refuses())
    (failure,) = evaluate.usable(layer, Case("square", {"x": np.ones(2)}), {"x": Refuses()})[1]
    assert failure.primal == "x" and "do not touch" in str(failure)
    (failure,) = evaluate.usable(layer, Case("square", {"x": np.ones(2)}), evaluate.by_name(layer, SimpleNamespace()))[
        1
    ]
    assert failure.kind == "dtype"
