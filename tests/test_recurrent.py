import re
from pathlib import Path

import numpy as np
import pytest

import gradverify
from gradverify.adapters import register
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.declare.registry import layers
from gradverify.core.errors import DeclarationError, TargetError
from gradverify.core.evaluate import LayerFailure, gradients, run
from gradverify.layers.recurrent import lstm_cell, rnn_cell, sigmoid_slope, tanh_slope
from gradverify.recurrent import as_cell, bidirectional, register_cell, unroll
from gradverify.unrolled import Cell

pytestmark = pytest.mark.usefixtures("as_drawn")

CELLS = ("rnn_cell", "lstm_cell", "gru_cell", "peephole_lstm_cell")
SEQUENCES = ("rnn", "lstm", "gru", "peephole_lstm", "bilstm", "recurrent_dropout_lstm")
DOCS = Path(__file__).parent.parent / "docs" / "cells.md"
ORIGIN = "tests/test_recurrent.py"


@pytest.fixture
def registry():
    """What is registered inside is forgotten afterwards."""
    with layers.source(ORIGIN):
        yield layers
    with layers.source(ORIGIN):
        pass


def point(layer, seed=0, dtype=float, **sizes):
    """Primals with fixed seed, and cotangents for every output."""
    rng = np.random.default_rng(seed)
    primals = {}
    for primal in layer.primals:
        raw = rng.random if primal.domain.discrete else rng.standard_normal
        primals[primal.name] = primal.domain.project(raw(primal.dims.shape(sizes)), sizes).astype(dtype)
    outputs = run(layer, primals, layer.default_options).outputs
    return primals, tuple(rng.standard_normal(y.shape) for y in outputs)


def outputs_of(layer, primals, options, at):
    surrogate = layer.declared.surrogate
    if surrogate is None:
        return run(layer, primals, options).outputs
    return surrogate(*(primals[p.name] for p in layer.primals), at=at, **options)


def complex_step(layer, primals, cotangents, options):
    """Gradients of sum_k <v_k, y_k> to rounding: Im f(x + ih) / h with h = 1e-30."""
    found = {}
    for primal in layer.differentiable:
        gradient = np.zeros(primals[primal.name].shape)
        for index in np.ndindex(gradient.shape):
            moved = {name: a.astype(complex) for name, a in primals.items()}
            moved[primal.name][index] += 1e-30j
            outputs = outputs_of(layer, moved, options, primals)
            gradient[index] = sum(np.sum(v * y.imag) for v, y in zip(cotangents, outputs)) / 1e-30
        found[primal.name] = gradient
    return found


def assert_right(layer, seed=0, options=None, **sizes):
    options = {**layer.default_options, **(options or {})}
    primals, cotangents = point(layer, seed, **sizes)
    analytic = gradients(layer, primals, options, cotangents)
    expected = complex_step(layer, primals, cotangents, options)
    assert set(analytic) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(analytic[name], value, rtol=1e-11, atol=1e-12, err_msg=f"{layer.name}: {name}")


SIZES = [dict(N=2, D=3, H=4), dict(N=3, D=2, H=2), dict(N=1, D=1, H=1)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_every_gradient_of_a_cell_is_that_of_the_complex_step(name, sizes):
    assert_right(layers.get(name), **sizes)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", SEQUENCES)
def test_every_gradient_of_a_sequence_is_that_of_the_complex_step(name, steps):
    for seed, sizes in enumerate((dict(N=2, D=3, H=2), dict(N=1, D=2, H=2))):
        assert_right(layers.get(name), seed, T=steps, **sizes)


def test_recurrent_dropout_is_right_with_a_rate():
    assert_right(layers.get("recurrent_dropout_lstm"), options={"rate": 0.4}, T=3, N=2, D=3, H=2)


@pytest.mark.parametrize("truncate", [1, 2, 3, 7])
@pytest.mark.parametrize("name", CELLS)
def test_truncated_gradients_are_those_of_the_declared_surrogate(name, truncate):
    assert_right(unroll(name, truncate=truncate), T=5, N=2, D=2, H=2)


def test_truncated_gradients_are_those_of_the_chunks_taken_alone():
    whole, chunk = unroll("lstm_cell", truncate=2), unroll("lstm_cell")
    primals, (dh, dh_T, dc_T) = point(whole, T=4, N=2, D=3, H=2)
    first = {**primals, "x": primals["x"][:2]}
    _, h, c = run(chunk, first, {}).outputs
    second = {**primals, "x": primals["x"][2:], "h0": h, "c0": c}
    found = gradients(whole, primals, {}, (dh, dh_T, dc_T))
    a = gradients(chunk, first, {}, (dh[:2], 0 * dh_T, 0 * dc_T))
    b = gradients(chunk, second, {}, (dh[2:], dh_T, dc_T))
    np.testing.assert_allclose(found["x"], np.concatenate([a["x"], b["x"]]), rtol=1e-13)
    np.testing.assert_allclose(found["W"], a["W"] + b["W"], rtol=1e-13)
    np.testing.assert_allclose(found["h0"], a["h0"], rtol=1e-13)
    full = gradients(chunk, primals, {}, (dh, dh_T, dc_T))
    assert np.abs(found["x"][:2] - full["x"][:2]).max() > 1e-3
    assert "truncated every 2 step(s)" in whole.declared.lines()[0]


def test_a_mask_at_each_step_as_an_input_of_a_cell_is_the_layer_written_by_hand():
    def forward(x, h, c, m, W, U, b):
        outputs, saved = lstm_cell.forward(x, h * m, c, W, U, b)
        return outputs, (saved, m)

    def backward(cotangents, saved):
        dx, dh, dc, dW, dU, db = lstm_cell.backward(cotangents, saved[0])
        return dx, dh * saved[1], dc, dW, dU, db

    primals = dict(x="N D", h="N H", c="N H", m="N H: mask", W="D 4*H", U="H 4*H", b="4*H")
    derived = unroll(as_cell((forward, backward), name="masked", primals=primals, batch="N", states=("h", "c")))
    written = layers.get("recurrent_dropout_lstm")
    assert derived.primal("m").dims.text == "T N H"
    values, cotangents = point(written, T=4, N=3, D=2, H=3)
    masked = {("m" if name == "mask" else name): a for name, a in values.items()}
    for a, b in zip(run(written, values, {}).outputs, run(derived, masked, {}).outputs):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    expected = gradients(derived, masked, {}, cotangents)
    for name, value in gradients(written, values, {}, cotangents).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-13)


TORCH_NAMES = {"W": "weight_ih_l0", "U": "weight_hh_l0", "b": "bias_ih_l0", "d": "bias_hh_l0"}


def assert_as_torch(module, layer, suffixes=("",)):
    """Outputs and all gradients of a layer are those of a torch module with the same weights."""
    torch = pytest.importorskip("torch")
    primals, cotangents = point(layer, T=5, N=3, D=4, H=2)
    leaves = {n: torch.tensor(a, requires_grad=True) for n, a in primals.items()}
    weights = {n: torch.zeros_like(value) for n, value in module.named_parameters()}
    for name, value in leaves.items():
        stem, _, reverse = name.partition("_")
        if stem in TORCH_NAMES:
            weights[TORCH_NAMES[stem] + (f"_{reverse}" if reverse else "")] = value.mT if value.ndim > 1 else value
    start = [torch.stack([leaves[s + suffix] for suffix in suffixes]) for s in ("h0", "c0") if s in leaves]
    h, last = torch.func.functional_call(module, weights, (leaves["x"], tuple(start) if len(start) > 1 else start[0]))
    last = last if len(start) > 1 else (last,)
    theirs = [h, *(state[k] for k in range(len(suffixes)) for state in last)]
    for ours, value in zip(run(layer, primals, {}).outputs, theirs):
        np.testing.assert_allclose(ours, value.detach().numpy(), rtol=1e-12, atol=1e-14)
    sum((torch.tensor(v) * y).sum() for v, y in zip(cotangents, theirs)).backward()
    found = gradients(layer, primals, {}, cotangents)
    assert set(found) == set(leaves)
    for name, value in found.items():
        np.testing.assert_allclose(value, leaves[name].grad.numpy(), rtol=1e-10, atol=1e-13, err_msg=name)


def test_lstm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    assert_as_torch(torch.nn.LSTM(4, 2, dtype=torch.float64), layers.get("lstm"))


def test_rnn_is_that_of_torch():
    torch = pytest.importorskip("torch")
    assert_as_torch(torch.nn.RNN(4, 2, dtype=torch.float64), layers.get("rnn"))


def test_gru_is_that_of_torch():
    torch = pytest.importorskip("torch")
    assert_as_torch(torch.nn.GRU(4, 2, dtype=torch.float64), layers.get("gru"))


def test_bilstm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(4, 2, dtype=torch.float64, bidirectional=True)
    assert_as_torch(module, layers.get("bilstm"), ("", "_reverse"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("name", [*CELLS, *SEQUENCES])
def test_every_layer_keeps_its_dtype(name, dtype):
    layer = layers.get(name)
    primals, cotangents = point(layer, dtype=dtype, T=3, N=2, D=3, H=2)
    evaluation = run(layer, primals, {})
    assert {y.dtype for y in evaluation.outputs} == {np.dtype(dtype)}
    found = evaluation.pull(tuple(v.astype(dtype) for v in cotangents))
    assert {g.dtype for g in found.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("which", ["all", "x", "h0", "W", "b"])
@pytest.mark.parametrize("name", [*SEQUENCES, "lstm_truncated_2"])
def test_stacked_copies_go_through_one_forward(name, which):
    layer = unroll("lstm_cell", truncate=2) if name == "lstm_truncated_2" else layers.get(name)
    primals, _ = point(layer, T=3, N=2, D=3, H=4)
    moved = [p.name for p in layer.differentiable if which in ("all", p.name)]
    copies = [{n: (a + 0.1 * k if n in moved else a) for n, a in primals.items()} for k in range(5)]
    rank = max(a.ndim for a in primals.values())
    stack = {n: np.stack([c[n] for c in copies]) for n in moved}
    padded = {n: a.reshape((5,) + (1,) * (rank - a.ndim + 1) + a.shape[1:]) for n, a in stack.items()}
    together = outputs_of(layer, {**primals, **padded}, {}, primals)
    for k, copy in enumerate(copies):
        for y, expected in zip(together, outputs_of(layer, copy, {}, primals)):
            still = y.shape == expected.shape  # an output that none of the moved primals reaches
            np.testing.assert_allclose(y if still else y[k].reshape(expected.shape), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [*CELLS, *SEQUENCES])
def test_any_layout_will_do_and_nothing_that_was_given_is_changed_or_returned(name):
    layer = layers.get(name)
    primals, cotangents = point(layer, T=2, N=2, D=3, H=3)
    expected = gradients(layer, primals, {}, cotangents)

    def odd(array):
        wide = np.full((*array.shape[::-1], 2), np.nan)
        view = wide[..., 0].T
        view[...] = array
        view.flags.writeable = False
        return view

    given, upstream = {n: odd(a) for n, a in primals.items()}, tuple(odd(v) for v in cotangents)
    found = run(layer, given, {}).pull(upstream)
    for primal, value in found.items():
        np.testing.assert_allclose(value, expected[primal], rtol=1e-12, atol=1e-14)
        assert not any(np.shares_memory(value, a) for a in (*given.values(), *upstream)), primal
    assert all(np.array_equal(given[n], a) for n, a in primals.items())


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "peephole_lstm", "bilstm"])
def test_no_step_at_all_returns_the_initial_states(name):
    layer = layers.get(name)
    primals, cotangents = point(layer, T=0, N=2, D=3, H=2)
    h, h_T, *_ = run(layer, primals, {}).outputs
    assert h.shape == (0, 2, 4 if name == "bilstm" else 2)
    assert np.array_equal(h_T, primals["h0"])
    found = gradients(layer, primals, {}, cotangents)
    assert np.array_equal(found["h0"], cotangents[1])
    assert found["x"].shape == (0, 2, 3)
    assert not found["W"].any()


def test_slopes_keep_their_digits_in_both_tails():
    mpmath = pytest.importorskip("mpmath")
    for z in (-300.0, -40.0, -1.0, 0.0, 0.3, 30.0, 300.0):
        assert float(sigmoid_slope(np.float64(z))) == pytest.approx(float(mpmath.sech(z / 2) ** 2 / 4), rel=1e-14)
        assert float(tanh_slope(np.float64(z))) == pytest.approx(float(mpmath.sech(z) ** 2), rel=1e-13)


# -- wrong cells are told what is wrong, and wrong gradients show ---------------------------------


class counter_cell:
    """h' = h + x w."""

    x, h, w = "N H", "N H", "H"
    states = "h"
    batch = "N"

    @staticmethod
    def forward(x, h, w):
        return h + x * w, (x, w)

    @staticmethod
    def backward(dh, saved):
        x, w = saved
        return dh * w, dh.copy(), (dh * x).sum(0)


def changed(**changes):
    return type("counter_cell", (), {**vars(counter_cell), **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(states=()), ["does not say", "states"]),
        (dict(states=("h", "c")), ["'c'", "x, h, w"]),
        (dict(states=("h",), constants="h"), ["'h'", "not differentiable"]),
        (dict(batch=None), ["batch", "inputs"]),
        (dict(inputs=("v",)), ["'v'", "x, w"]),
        (dict(inputs=("h",)), ["'h'", "x, w"]),
        (dict(returns={"h": "N H", "c": "N H"}), ["returns h, c", "states are h"]),
        (dict(surrogate=lambda x, h, w: h), ["declares a surrogate", "sequence=False"]),
        (dict(factor=2.0), ["declares a factor"]),
        (dict(zero="h"), ["declares the gradient of a state as zero"]),
        (dict(stateful=True), ["keeps state on itself"]),
        (dict(x="N T", h="N T", w="T"), ["axis T"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_declaration_is_named(registry, changes, words):
    with pytest.raises(DeclarationError) as caught:
        register_cell(changed(**changes))
    for word in ("counter_cell", *words):
        assert word in str(caught.value)
    assert "counter_cell" not in registry


def test_a_cell_without_inputs_has_no_number_of_steps():
    pair = (lambda h: (h * h, h), lambda dh, h: 2 * dh * h)
    with pytest.raises(DeclarationError, match=r"'square'.*no input"):
        as_cell(pair, name="square", h="N H", batch="N", states="h")


def test_a_primal_with_the_name_of_an_initial_state_is_refused():
    pair = (lambda x, h, h0: (x + h * h0, (h, h0)), lambda dh, s: (dh, dh * s[1], dh * s[0]))
    with pytest.raises(DeclarationError, match="'h0'"):
        unroll(as_cell(pair, name="clash", primals=dict(x="N", h="N", h0="N"), batch="N", states="h", inputs="x"))


@pytest.mark.parametrize("truncate", [0, -1, 1.5])
def test_chunks_have_at_least_one_step(truncate):
    with pytest.raises(DeclarationError, match="truncate"):
        unroll("lstm_cell", truncate=truncate)


def test_only_a_cell_can_be_repeated():
    with pytest.raises(DeclarationError, match=r"'dense'.*states"):
        unroll("dense")
    with pytest.raises(TargetError, match="no_such_cell"):
        unroll("no_such_cell")


@pytest.mark.parametrize("layer", [as_cell(lstm_cell), unroll(lstm_cell)], ids=["cell", "sequence"])
def test_a_forward_that_forgets_a_state_is_told_so_by_the_name_of_its_cell(layer):
    one = as_cell(lstm_cell).derive(forward=lambda *primals: (lstm_cell.forward(*primals)[0][0], None))
    wrong = one if isinstance(layer, Cell) else unroll(one)
    primals, _ = point(layer, T=2, N=2, D=3, H=2)
    with pytest.raises(LayerFailure, match=r"'lstm_cell' returned 1 output.*declared are 2: h, c"):
        run(wrong, primals, {})


def wrong_gradients(backward):
    wrong = unroll(as_cell(lstm_cell).derive(backward=backward))
    primals, cotangents = point(wrong, T=2, N=2, D=3, H=2)
    return gradients(wrong, primals, {}, cotangents), gradients(unroll(lstm_cell), primals, {}, cotangents)


def test_a_backward_without_a_state_gradient_is_told_so_by_the_name_of_its_cell():
    def backward(cotangents, saved):
        dx, _, dc, dW, dU, db = lstm_cell.backward(cotangents, saved)
        return {"x": dx, "h": None, "c": dc, "W": dW, "U": dU, "b": db}

    with pytest.raises(LayerFailure, match="'lstm_cell' gives no gradient for h"):
        wrong_gradients(backward)


def test_a_state_gradient_of_the_wrong_shape_does_not_go_on_to_the_step_before():
    def backward(cotangents, saved):
        dx, dh, dc, dW, dU, db = lstm_cell.backward(cotangents, saved)
        return dx, dh[:1], dc, dW, dU, db

    with pytest.raises(LayerFailure, match=r"'lstm_cell' gives for h at step 1 has shape \(1, 2\), h has \(2, 2\)"):
        wrong_gradients(backward)


def test_a_state_gradient_that_is_not_passed_back_shows_in_the_sequence():
    def backward(cotangents, saved):
        dx, dh, dc, dW, dU, db = lstm_cell.backward(cotangents, saved)
        return dx, 0 * dh, dc, dW, dU, db

    wrong, right = wrong_gradients(backward)
    assert np.array_equal(wrong["x"][1], right["x"][1])
    assert np.abs(wrong["x"][0] - right["x"][0]).max() > 1e-3


# -- the extension point ---------------------------------------------------------------------------


def blocks():
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_the_cell_of_the_docs_gives_a_cell_and_a_sequence_that_are_right(registry):
    exec(compile(blocks()[0], str(DOCS), "exec"), {})
    assert_right(registry.get("peephole_cell"), N=2, D=3, H=2)
    assert_right(registry.get("peephole"), T=3, N=2, D=3, H=2)
    primals, _ = point(registry.get("peephole"), T=3, N=2, D=3, H=2)
    for a, b in zip(*(run(registry.get(n), primals, {}).outputs for n in ("peephole", "peephole_lstm"))):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_every_example_of_the_docs_runs(registry, monkeypatch):
    checked = []
    monkeypatch.setattr(gradverify, "check", checked.append, raising=False)
    scope = {}
    for block in blocks():
        exec(compile(block, str(DOCS), "exec"), scope)
    assert checked == ["peephole_cell", "peephole"]
    assert {"peephole_truncated_2", "bi_peephole"} <= set(registry.names())


def test_the_cell_of_the_docs_passes_the_check(registry):
    exec(compile(blocks()[0], str(DOCS), "exec"), {})
    for name in ("peephole_cell", "peephole"):
        assert gradverify.check(name, examples=10, seed=0).ok


def test_the_sequence_is_named_after_the_cell(registry):
    register_cell(changed())
    register_cell(changed(sequence="total"), name="adder")
    register_cell(changed(), name="summer")
    register_cell(changed(), name="lonely_cell", sequence=False)
    expected = {"counter_cell", "counter", "adder", "total", "summer", "summer_sequence", "lonely_cell"}
    assert expected <= set(registry.names())
    assert "lonely" not in registry
    assert_right(registry.get("total"), T=3, N=2, H=2)


def test_register_cell_returns_the_class_with_and_without_arguments(registry):
    cls = changed()
    assert register_cell(cls) is cls
    assert register_cell(sequence="other", name="other_cell")(cls) is cls
    assert isinstance(registry.get("other_cell"), Cell)
    assert registry.get("other_cell").kind == "cell"
    assert type(registry.get("other")) is Layer


def test_a_pair_of_functions_is_a_cell_when_its_states_are_given(registry):
    primals = dict(x="N D", h="N H", W="D H", U="H H", b="H")
    pair = (rnn_cell.forward, rnn_cell.backward)
    register_cell(pair, name="plain_cell", states="h", inputs="x", primals=primals)
    assert registry.get("plain").primal("x").dims.text == "T N D"
    assert_right(registry.get("plain"), T=2, N=2, D=3, H=2)


def test_cotangents_one_by_one_and_gradients_by_name_are_understood():
    def backward(dh, dc, saved):
        return dict(zip(("x", "h", "c", "W", "U", "b"), lstm_cell.backward((dh, dc), saved)))

    found, expected = wrong_gradients(backward)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_options_domains_constants_and_assumptions_of_the_cell_hold_for_the_sequence():
    def forward(x, h, gate, w, power=1):
        return gate * np.tanh(h + w * x**power), (x, h, gate, w)

    def backward(dh, saved, power=1):
        x, h, gate, w = saved
        da = dh * gate / np.cosh(h + w * x**power) ** 2
        return {"x": da * w * power * x ** (power - 1), "h": da, "w": (da * x**power).sum(0)}

    cell = as_cell(
        (forward, backward),
        name="gated_cell",
        primals=dict(x="N H: positive", h="N H", gate="N H: between 1 2", w="H"),
        constants="gate",
        options={"power": [1, 2]},
        batch="N",
        states="h",
        assume=lambda x, power: x.max() < 2 * power,
    )
    for layer in (unroll(cell), unroll(cell, truncate=2), bidirectional(cell)):
        assert layer.primal("x").domain.name == "positive"
        assert layer.primal("gate").domain.arguments == ("1", "2")
        assert not layer.primal("gate").differentiable
        assert layer.options == {"power": [1, 2]}
        assert_right(layer, options={"power": 2}, T=3, N=2, H=2)
        primals, _ = point(layer, T=3, N=2, H=2)
        calm = {**primals, "x": np.ones((3, 2, 2))}
        late = {**primals, "x": np.array([1.0, 1.0, 3.0])[:, None, None] * np.ones((3, 2, 2))}
        assert layer.assume(**calm, power=1)
        assert not layer.assume(**late, power=1)
        assert layer.assume(**late, power=2)


def test_states_of_different_shapes_and_a_third_axis_are_carried():
    """A memory matrix per sample beside a vector: M' = M + x outer k, h' = tanh(M' k)."""

    def forward(x, h, M, k):
        M = M + x[..., :, None] * k
        y = np.tanh((M * k).sum(-1) + h)
        return (y, M), (x, M, k, y)

    def backward(dh, dM, saved):
        x, M, k, y = saved
        da = dh * (1 - y * y)
        dM = dM + da[..., None] * k
        dk = (da[..., None] * M).sum((0, 1)) + (dM * x[..., None]).sum((0, 1))
        return (dM * k).sum(-1), da, dM, dk

    primals = dict(x="N H", h="N H", M="N H K", k="K")
    cell = as_cell((forward, backward), name="memory_cell", primals=primals, batch="N", states=("h", "M"))
    assert cell.inputs == ("x",)
    for layer in (cell, unroll(cell), unroll(cell, truncate=2), bidirectional(cell)):
        assert_right(layer, T=3, N=2, H=3, K=2)


def test_a_cell_is_no_loss_and_its_derived_copies_stay_cells():
    cell = as_cell(lstm_cell)
    assert not isinstance(cell, Loss)
    copy = cell.derive(name="copy_cell")
    assert (copy.states, copy.inputs, unroll(copy).name) == (("h", "c"), ("x",), "copy")


def test_registering_a_combination_twice_under_one_name_is_refused(registry):
    register(bidirectional("rnn_cell", name="birnn"))
    with pytest.raises(DeclarationError, match="registered twice"):
        register(bidirectional("rnn_cell", name="birnn"))
