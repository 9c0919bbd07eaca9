"""The torch adapter: right code is silent, planted errors are found, and what torch is given is what was drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import gradverify as gv
from gradverify import Case
from gradverify.adapters import as_layer
from gradverify.core import evaluate
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.authored import roots
from gradverify.core.diagnose import diagnosed
from gradverify.core.judge import backward_noise
from gradverify.core.properties import gradient

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradverify.adapters import torch_ as adapter  # noqa: E402
from gradverify.adapters._torch.arrays import array, tensor  # noqa: E402

pytestmark = pytest.mark.usefixtures("as_drawn")

DENSE = {"x": "N D", "W": "D H", "b": "H"}


class Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W, b):
        ctx.save_for_backward(x, W)
        return x @ W + b

    @staticmethod
    def backward(ctx, g):
        x, W = ctx.saved_tensors
        return g @ W.T, x.T @ g, g.sum(0)


def wrong(body):
    """A dense Function with another backward."""
    return type(body.__name__, (Dense,), {"backward": staticmethod(body)})


@wrong
def wrong_sign(ctx, g):
    x, W = ctx.saved_tensors
    return g @ W.T, -x.T @ g, g.sum(0)


@wrong
def bias_not_summed(ctx, g):
    x, W = ctx.saved_tensors
    return g @ W.T, x.T @ g, g[0]


@wrong
def upstream_taken_as_rows(ctx, g):
    x, W = ctx.saved_tensors
    rows = torch.as_strided(g, g.shape, (g.shape[1], 1)) if g._base is None else g
    if g.stride() != (g.shape[1], 1) and 0 not in g.stride():
        rows = g.T.contiguous().reshape(g.shape)
    return rows @ W.T, x.T @ rows, rows.sum(0)


@wrong
def cotangent_overwritten(ctx, g):
    x, W = ctx.saved_tensors
    found = g @ W.T, x.T @ g, g.sum(0)
    if 0 not in g.stride():
        g.mul_(2)
    return found


@wrong
def only_where_x_wants_one(ctx, g):
    x, W = ctx.saved_tensors
    first = ctx.needs_input_grad[0]
    return g @ W.T if first else None, x.T @ g if first else torch.zeros_like(W), g.sum(0)


@wrong
def detached(ctx, g):
    x, W = (t.detach() for t in ctx.saved_tensors)
    return g @ W.T, x.T @ g, g.sum(0)


@wrong
def too_few(ctx, g):
    x, W = ctx.saved_tensors
    return g @ W.T, x.T @ g


@wrong
def nothing_for_the_bias(ctx, g):
    x, W = ctx.saved_tensors
    return g @ W.T, x.T @ g, None


@wrong
def left_over_memory(ctx, g):
    x, W = ctx.saved_tensors
    db = torch.empty(g.shape[1], dtype=g.dtype)
    return g @ W.T, x.T @ g, db.nan_to_num(posinf=0, neginf=0) * 0 + g.sum(0) if not db.isnan().any() else db


def check(target, *properties, examples=12, **declaration):
    settings = Settings(examples=examples, properties=properties or None, shrink=False)
    return check_layer(as_layer(target, **declaration), settings)


def kinds(report):
    return {(f.property, f.kind) for f in report.findings}


def test_a_right_function_is_silent_in_every_property():
    report = check(Dense, **DENSE)
    assert report.ok, str(report)
    assert report.tallies["wants"].cases and report.tallies["second_order"].cases


@pytest.mark.parametrize(
    ("target", "prop", "kind"),
    [
        (wrong_sign, "gradient", "wrong"),
        (bias_not_summed, "gradient", "wrong"),
        (upstream_taken_as_rows, "layout", "differs"),
        (cotangent_overwritten, "pure", "mutates"),
        (only_where_x_wants_one, "wants", "differs"),
        (detached, "second_order", "wrong"),
        (too_few, "complete", "missing"),
        (nothing_for_the_bias, "complete", "missing"),
        (left_over_memory, "fresh", "uninitialised"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_error_is_found(target, prop, kind):
    assert (prop, kind) in kinds(
        check(target, prop, examples=20 if prop in ("wants", "fresh", "layout") else 6, **DENSE)
    )


def test_too_few_gradients_are_counted_in_words():
    report = check(too_few, "complete", examples=2, **DENSE)
    assert "backward of 'too_few' returns 2 gradient(s) for 3 argument(s) of forward" in str(report).replace(
        "\n  ", " "
    )


def test_the_gradient_of_a_detached_copy_is_only_wrong_in_second_order():
    assert not check(detached, "complete", "gradient", "wants", "layout", **DENSE).findings


def test_a_function_that_is_differentiable_once_is_not_asked_twice():
    once = torch.autograd.function.once_differentiable(Dense.backward)
    Once = type("Once", (Dense,), {"backward": staticmethod(once)})
    report = check(Once, "second_order", "gradient", **DENSE)
    assert report.ok
    assert "once_differentiable" in report.tallies["second_order"].reason


def test_a_backward_of_which_nothing_is_recorded_is_told_how_to_say_so():
    class Unrecorded(Dense):
        @staticmethod
        def backward(ctx, g):
            with torch.no_grad():
                return Dense.backward(ctx, g)

    (finding, *_) = check(Unrecorded, "second_order", **DENSE).findings
    (told, *_) = diagnosed(as_layer(Unrecorded, **DENSE), finding).diagnoses
    assert "nothing of backward is recorded" in told.text and "second=False" in told.text
    (finding, *_) = check(detached, "second_order", **DENSE).findings
    (told, *_) = diagnosed(as_layer(detached, **DENSE), finding).diagnoses
    assert "detached" in told.text and "recorded" not in told.text


def test_an_upstream_gradient_that_is_detached_is_found_in_second_order_alone():
    class Cut(Dense):
        @staticmethod
        def backward(ctx, g):
            x, W = ctx.saved_tensors[:2]
            return g @ W.T, x.T @ g.detach(), g.sum(0)

    layer = as_layer(Cut, **DENSE)
    report = check(Cut, "second_order", "gradient", "linear", **DENSE)
    (finding,) = report.findings
    assert (finding.property, finding.primal) == ("second_order", None)
    (told, *_) = diagnosed(layer, finding).diagnoses
    assert "what flows through the upstream gradient" in told.text


def of_a_complex_number(takes):
    """z^2 |z|^2, whose backward takes one of its factors as `takes` gives it."""

    class Powers(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return z**3 * z.conj()

        @staticmethod
        def backward(ctx, g):
            (z,) = ctx.saved_tensors
            return g * (3 * z * takes(z) * z.conj()).conj() + g.conj() * z**3

    return Powers


@pytest.mark.parametrize(
    ("takes", "wrong"), [(lambda z: z, set()), (lambda z: torch.complex(z.real, z.imag.detach()), {"second_order"})]
)
@pytest.mark.filterwarnings("error")
def test_a_second_derivative_of_complex_numbers_is_tried_in_both_parts(takes, wrong):
    report = check(of_a_complex_number(takes), "second_order", "gradient", z="N: complex")
    assert {prop for prop, _ in kinds(report)} == wrong and report.tallies["second_order"].cases


@pytest.mark.parametrize(("exponent", "wrong"), [(1.0, set()), (2.0, {("gradient", "wrong")})])
def test_a_forward_that_writes_into_its_input_runs_on_a_copy_where_torch_refuses_the_tensor(exponent, wrong):
    class InPlace(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.exp_()
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0] ** exponent

    assert kinds(check(InPlace, "complete", "gradient", "pure", "reuse", x="N D")) == wrong
    assert check(lambda x: torch.relu_(x) * 2, "complete", "gradient", "pure", x="N D").ok


def test_lines_of_a_wrapper_that_torch_puts_around_backward_are_not_the_authors():
    once = torch.autograd.function.once_differentiable(Dense.backward)
    Once = type("Once", (Dense,), {"backward": staticmethod(once)})
    assert {f.__code__.co_filename for f in roots(as_layer(Once, **DENSE))} == {__file__}


def test_second_false_leaves_the_second_backward_alone():
    assert as_layer(detached, second=False, **DENSE).hooks.second is None


def test_a_function_holds_its_dimensions_as_attributes():
    class scaled(torch.autograd.Function):
        x, power = "N", [1, 2]

        @staticmethod
        def forward(ctx, x, factor=3.0):
            return factor * x

        @staticmethod
        def backward(ctx, g):
            return 3.0 * g, None

    assert check(scaled, "gradient", examples=5).ok


def test_options_reach_apply_in_the_order_of_its_arguments():
    class power(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, exponent, scale):
            ctx.save_for_backward(x)
            ctx.exponent, ctx.scale = exponent, scale
            return scale * x**exponent

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * ctx.scale * ctx.exponent * x ** (ctx.exponent - 1), None, None

    options = {"scale": [1.0, 0.5], "exponent": [2, 3]}
    assert check(power, "gradient", x="N", options=options).ok
    with pytest.raises(gv.DeclarationError, match="'scale' is declared neither as a primal nor as an option"):
        as_layer(power, x="N", options={"exponent": [2]})


def test_setup_context_and_a_jvp_are_used():
    class sine(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return torch.sin(x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return g * torch.cos(ctx.saved_tensors[0])

        @staticmethod
        def jvp(ctx, dx):
            return dx * torch.cos(ctx.saved_tensors[0])

    class other_sign(sine):
        @staticmethod
        def jvp(ctx, dx):
            return -dx * torch.cos(ctx.saved_tensors[0])

    assert check(sine, "gradient", "forward_mode", "second_order", x="N").ok
    assert kinds(check(other_sign, "gradient", "forward_mode", x="N")) == {("forward_mode", "wrong")}


def test_a_wrong_backward_is_no_fault_of_the_forward_mode():
    def halved(x):
        y = torch.sin(x)
        if y.requires_grad:
            y.register_hook(lambda g: 0.5 * g)
        return y

    assert kinds(check(halved, "gradient", "forward_mode", x="N")) == {("gradient", "wrong")}
    assert check(lambda x: 2 * torch.sin(x), "gradient", "forward_mode", x="N").ok


def test_forward_mode_is_skipped_where_a_function_has_none():
    report = check(lambda x, W, b: 2 * Dense.apply(x, W, b), "forward_mode", "gradient", examples=4, **DENSE)
    assert report.ok
    assert "no forward mode" in report.tallies["forward_mode"].reason


def test_outputs_marked_as_not_differentiable_get_no_cotangent():
    class largest(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            value, index = x.max(-1)
            norm = x.norm()
            ctx.mark_non_differentiable(index, norm)
            ctx.save_for_backward(index, x)
            return norm, value, index

        @staticmethod
        def backward(ctx, unused, g, also_unused):
            index, x = ctx.saved_tensors
            return torch.zeros_like(x).scatter_(-1, index[..., None], g[..., None])

    assert check(largest, "complete", "gradient", x="N D: distinct").ok


def test_a_cotangent_returned_as_it_is_counts_as_no_alias():
    class identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, g):
            return g, g

    assert check(identity, "pure", "layout", "reuse", x="N", y="N").ok


def test_a_mask_drawn_anew_in_backward_is_found():
    class dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * (torch.rand(x.shape) < 0.5)

        @staticmethod
        def backward(ctx, g):
            return g * (torch.rand(g.shape) < 0.5)

    assert ("gradient", "wrong") in kinds(check(dropout, "gradient", x="N D", examples=4))


@pytest.mark.parametrize(("drawn", "wrong"), [(True, set()), (False, {("precision", "precision")})])
def test_a_mask_that_is_another_in_another_type_is_no_lost_digit(drawn, wrong):
    class dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            kept = torch.rand_like(x) > 0.3 if drawn else x > 0
            ctx.save_for_backward(kept / 0.7)
            return x * kept / 0.7

        @staticmethod
        def backward(ctx, dy):
            (mask,) = ctx.saved_tensors
            return dy * mask if drawn or dy.dtype == torch.float64 else (dy * mask).round(decimals=2)

    assert kinds(check(dropout, "precision", x="N D", examples=60)) == wrong


def test_plain_functions_are_recognised_by_what_they_name():
    assert adapter._recognises(torch.tanh) and adapter._recognises(lambda x: 2 * torch.tanh(x))
    assert adapter._recognises(lambda x, W, b: 2 * Dense.apply(x, W, b))
    assert not adapter._recognises(lambda x: 2 * np.tanh(x))
    with pytest.raises(gv.DeclarationError, match="a forward alone has no backward"):
        as_layer(lambda x: x.tanh(), x="N")
    assert gv.check(adapter.torch_layer(lambda x: x.tanh(), x="N"), properties="gradient", examples=5).ok


def test_a_plain_function_of_tensors_is_silent():
    assert check(lambda x, W: torch.tanh(x @ W).sum(-1), x="N D", W="D H", examples=8).ok


def test_an_output_without_a_gradient_says_why():
    report = check(lambda x: torch.tanh(x).detach(), "complete", x="N", examples=2)
    assert "no output of '<lambda>' has a gradient: it was detached" in " ".join(str(report).split())


def test_parameters_and_buffers_become_primals_and_the_module_stays_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    layer = as_layer(module, x="N 3")
    assert layer.primal_names == (
        *("x", "0_weight", "0_bias", "1_weight", "1_bias", "1_running_mean", "1_running_var"),
    )
    assert [p.name for p in layer.primals if not p.differentiable] == ["1_running_mean", "1_running_var"]
    assert layer.primal("1_running_var").domain.name == "positive"
    assert layer.options == {"training": [False, True]}
    report = check(module, "complete", "pure", "modes", x="N 3", examples=5)
    assert report.ok, str(report)
    assert report.tallies["modes"].cases
    assert not module.training and all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


@pytest.mark.parametrize(
    ("module", "prop", "shape"),
    [
        (nn.ReLU(), "forward_mode", "N D"),
        (nn.PReLU(), "forward_mode", "N D"),
        (nn.MaxPool2d(2), "forward_mode", "N 1 4 5"),
        (nn.LPPool1d(2, 2), "forward_mode", "N 2 6"),
        (nn.PReLU(), "second_special", "N D"),
        (nn.Softmax(-1), "second_order", "N D"),
        (nn.Softmin(-1), "second_special", "N D"),
        (nn.Dropout(0.3), "layout", "N D"),
    ],
    ids=lambda value: getattr(type(value), "__name__", value) if isinstance(value, nn.Module) else value,
)
def test_kinks_ties_tails_and_masks_of_right_modules_are_no_findings(module, prop, shape):
    report = check(module, prop, x=shape, examples=60)
    assert report.ok, str(report)


class Cell(nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.gates = nn.Linear(D + H, 4 * H)

    def forward(self, x, h, c):
        i, f, g, o = self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return {"h": torch.sigmoid(o) * torch.tanh(c), "c": c}


def test_a_module_of_several_inputs_and_gates_is_silent():
    report = check(Cell(2, 3), "complete", "gradient", x="N 2", h="N 3", c="N 3", examples=4)
    assert report.ok, str(report)


def test_a_wrong_function_inside_a_module_is_found_at_its_parameter():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            return bias_not_summed.apply(x, self.inner.weight.T, self.inner.bias)

    report = check(Net(), "gradient", x="N 2", examples=4)
    assert {f.primal for f in report.findings} == {"inner_bias"}


def test_frozen_and_kept_parameters_have_no_gradient():
    module = nn.Linear(2, 3)
    module.weight.requires_grad_(False)
    layer = as_layer(module, x="N 2", keep="bias")
    assert layer.primal_names == ("x", "weight")
    assert [p.name for p in layer.differentiable] == ["x"]
    assert check(module, "gradient", x="N 2", keep="bias", examples=4).ok


def test_a_mix_of_devices_is_refused_by_name():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2, device="meta"))
    with pytest.raises(gv.DeclarationError, match=r"1.weight lies on the meta device"):
        as_layer(module, x="N 2")


def test_strides_of_arrays_are_those_of_tensors():
    base = np.arange(24.0).reshape(4, 6)
    for view in (base, base.T, base[:, ::2], np.broadcast_to(np.array(0.7), (3, 2)), np.broadcast_to(base[:1], (5, 6))):
        made = tensor(view)
        assert made.stride() == tuple(s // view.itemsize for s in view.strides)
        assert np.array_equal(array(made), view)
    narrow = tensor(base[:, ::2], dtype=torch.bfloat16)
    assert narrow.stride() == (6, 2) and np.array_equal(array(narrow), base[:, ::2])
    assert tensor(base)[0, 0].copy_(torch.tensor(9.0)) == base[0, 0] == 9.0


def test_what_torch_cannot_represent_is_copied():
    flipped = np.arange(3.0)[::-1]
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    for odd in (flipped, fixed):
        assert np.array_equal(array(tensor(odd)), odd)


def test_many_copies_give_what_one_at_a_time_gives():
    layer = as_layer(Cell(2, 3), x="N 2", h="N 3", c="N 3")
    rng = np.random.default_rng(0)
    shapes = [p.dims.shape({"N": 4}) for p in layer.primals]
    point = {p.name: rng.normal(size=s) for p, s in zip(layer.primals, shapes)}
    moved = point["gates_weight"] + rng.normal(size=(5, *point["gates_weight"].shape))
    stack = {n: moved if n == "gates_weight" else a[None] for n, a in point.items()}
    many = layer.hooks.batched(stack, {})
    for k in range(5):
        alone = evaluate.run(layer, {**point, "gates_weight": moved[k]}, {}).outputs
        assert all(np.allclose(a[k], b, rtol=1e-13) for a, b in zip(many, alone))


def test_functions_without_a_rule_for_vmap_are_vectorised_too():
    layer = as_layer(Dense, **DENSE)
    x = np.random.default_rng(0).normal(size=(7, 2, 3))
    stack = {"x": x, "W": np.ones((1, 3, 2)), "b": np.zeros((1, 2))}
    assert np.allclose(layer.hooks.batched(stack, {})[0], x @ np.ones((3, 2)))
    assert "apply" in torch.autograd.Function.__dict__ and Dense.apply(
        torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)
    )


def test_memory_that_runs_out_halves_the_stack(monkeypatch):
    layer = as_layer(Dense, **DENSE)
    sizes, vmap = [], torch.func.vmap

    def small(function, *arguments, **keywords):
        def run(*tensors):
            sizes.append(tensors[0].shape[0])
            if sizes[-1] > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return vmap(function, *arguments, **keywords)(*tensors)

        return run

    monkeypatch.setattr(torch.func, "vmap", small)
    x = np.random.default_rng(0).normal(size=(7, 2, 3))
    found = layer.hooks.batched({"x": x, "W": np.ones((1, 3, 2)), "b": np.zeros((1, 2))}, {})
    assert np.allclose(found[0], x @ np.ones((3, 2))) and sizes[0] == 7 and max(sizes[-2:]) <= 2


def test_torch_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(gv.DeclarationError, match=r"pip install 'gradverify\[torch\]'"):
        adapter.torch_layer(lambda x: x, x="N")
    assert not adapter._recognises(lambda x: x)


def plain(x, W):
    return torch.tanh(x @ W)


class kernel(torch.autograd.Function):
    """Fixed to bfloat16, and accumulates in float32."""

    @staticmethod
    def forward(ctx, x, W):
        assert x.dtype == W.dtype == torch.bfloat16
        y = torch.tanh(x.float() @ W.float()).bfloat16()
        ctx.save_for_backward(x, W, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, W, y = ctx.saved_tensors
        g = g.float() * (1 - y.float() ** 2)
        return (g @ W.float().T).bfloat16(), (x.float().T @ g).bfloat16()


class kernel_without_its_derivative(kernel):
    @staticmethod
    def backward(ctx, g):
        x, W, _ = ctx.saved_tensors
        return g @ W.T, x.T @ g


class kernel_of_another_function(kernel):
    @staticmethod
    def forward(ctx, x, W):
        return kernel.forward(ctx, x, W) * 1.2


FIXED = {"x": "N D", "W": "D H", "kernel": "bfloat16", "reference": plain}


def test_a_kernel_that_rounds_as_its_type_must_agrees_with_its_reference():
    report = check(kernel, "complete", "reference", examples=15, **FIXED)
    assert report.ok, str(report)
    assert report.tallies["reference"].cases >= 10


def test_a_kernel_that_is_wrong_disagrees_with_its_reference():
    assert ("reference", "wrong") in kinds(check(kernel_without_its_derivative, "reference", examples=10, **FIXED))
    assert ("reference", "forward") in kinds(check(kernel_of_another_function, "reference", examples=10, **FIXED))


def test_a_kernel_and_its_reference_are_declared_together():
    with pytest.raises(gv.DeclarationError, match="needs reference="):
        as_layer(kernel, x="N D", W="D H", kernel="bfloat16")
    with pytest.raises(gv.DeclarationError, match="say which"):
        as_layer(kernel, x="N D", W="D H", reference=plain)
    with pytest.raises(gv.DeclarationError, match="'float8' is not one of bfloat16, float16"):
        as_layer(kernel, x="N D", W="D H", kernel="float8", reference=plain)


def test_a_type_without_a_kernel_is_told_with_what_to_do():
    report = check(lambda A: torch.linalg.inv(A.half()), "complete", A="3 3", examples=2)
    assert "this device has no kernel for that type" in " ".join(str(report).split())


def test_a_surrogate_is_written_on_tensors():
    class rounded(torch.autograd.Function):
        """Straight through."""

        @staticmethod
        def forward(ctx, x):
            return torch.round(x)

        @staticmethod
        def backward(ctx, g):
            return g

    assert check(rounded, "gradient", x="N").findings
    assert check(rounded, "gradient", x="N", surrogate=lambda x: x * torch.ones_like(x)).ok
    assert check(rounded, "gradient", x="N", surrogate=lambda x, at: torch.round(at["x"]) + (x - at["x"])).ok


def test_a_primal_may_be_called_target():
    assert gv.check(torch.nn.functional.mse_loss, input="N D", target="N D", examples=5, raises=False).ok


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
class TestOnAGpu:
    def test_a_right_function_is_silent(self):
        assert check(Dense, device="cuda", **DENSE).ok

    @pytest.mark.parametrize(("target", "prop"), [(upstream_taken_as_rows, "layout"), (cotangent_overwritten, "pure")])
    def test_a_planted_error_is_found(self, target, prop):
        assert prop in {f.property for f in check(target, prop, device="cuda", **DENSE).findings}

    def test_strides_survive_the_way_to_the_device(self):
        view = np.arange(24.0).reshape(4, 6)[:, ::2]
        assert tensor(view, torch.device("cuda")).stride() == (6, 2)

    def test_bfloat16_with_a_reference(self):
        assert check(kernel, "complete", "reference", device="cuda", **FIXED).ok
        assert check(kernel_without_its_derivative, "reference", device="cuda", **FIXED).findings

    def test_a_right_module_is_silent(self):
        """A loss whose second backward is a tensor without memory, and cells that cuDNN fuses."""
        assert check(torch.nn.L1Loss(), device="cuda", a="N D", b="N D").ok
        assert check(torch.nn.GRU(2, 3, batch_first=True), device="cuda", x="N T 2").ok

    def test_little_memory_makes_smaller_chunks(self):
        layer = as_layer(Dense, device="cuda", **DENSE)
        rng = np.random.default_rng(0)
        case = Case(
            "Dense", {"x": rng.normal(size=(8, 256)), "W": rng.normal(size=(256, 64)), "b": rng.normal(size=64)}
        )
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.01)
        try:
            assert not gradient.holds(layer, case).findings
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def test_parameters_on_several_devices_are_told(self):
        apart = torch.nn.Sequential(torch.nn.Linear(3, 3).cuda(), torch.nn.Linear(3, 3))
        with pytest.raises(gv.DeclarationError, match="several devices"):
            as_layer(apart, x="N 3")


class Checkpointed(torch.nn.Module):
    """Its backward runs a part of the module again."""

    def __init__(self, reentrant=False, again=1.0):
        super().__init__()
        self.first, self.second, self.reentrant = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), reentrant
        self.again, self.runs = again, 0

    def inner(self, x):
        return torch.tanh(self.second(torch.tanh(self.first(x))))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=self.reentrant)


class Adjoint(torch.autograd.Function):
    """Backward computes forward again by calling the module."""

    @staticmethod
    def forward(ctx, module, x, weight):
        ctx.module = module
        ctx.save_for_backward(x)
        return torch.tanh(x @ weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            y = torch.tanh(x @ ctx.module.weight)
            da = g * (1 - y * y) * ctx.module.factor
            return None, da @ ctx.module.weight.T, x.T @ da


class WithAdjoint(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.weight, self.factor = torch.nn.Parameter(torch.randn(3, 2)), factor

    def forward(self, x):
        return Adjoint.apply(self, x, self.weight)


def test_a_backward_that_runs_the_module_again_sees_the_drawn_parameters():
    asked = ["gradient", "complete", "repeatable", "linear"]
    assert check(Checkpointed(), *asked, x="N 3").ok
    assert check(WithAdjoint(), *asked, x="N 3").ok
    wrong = check(WithAdjoint(1.5), *asked, x="N 3")
    assert {f.primal for f in wrong} == {"x", "weight"}


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_reentrant_checkpoint_is_checked_and_what_torch_refuses_of_it_is_skipped(factor):
    module = Checkpointed(reentrant=True)
    module.second = WithAdjoint(factor)
    module.first = torch.nn.Linear(3, 3)
    report = check(module, "gradient", "complete", "second_order", x="N 3")
    assert report.ok is (factor == 1.0)
    assert report.tallies["second_order"].entries == 0


class Scaled(nn.Module):
    def __init__(self, width, function=Dense):
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(width, 2)), nn.Parameter(torch.zeros(2))
        self.function = function

    def forward(self, x):
        return self.function.apply(x, self.W, self.b)


@pytest.mark.parametrize("init", [("D",), {"width": "D"}])
def test_a_module_class_is_built_with_numbers_for_its_sizes(init):
    few = dict(examples=4, properties="gradient", x="N D", quiet=True)
    report = gv.check(Scaled, init=init, **few)
    assert report.ok and "the module is built with D=4" in report.declared
    assert gv.check(lambda D: Scaled(D, Dense), **few).ok
    with pytest.raises(gv.GradientMismatch, match="gradient of W"):
        gv.check(lambda D: Scaled(D, wrong_sign), **few)
    with pytest.raises(gv.DeclarationError, match=r'it needs width.*init=\{"width": "D"\}'):
        gv.check(Scaled, **few)


def test_what_autograd_keeps_is_moved_by_a_unit_in_the_last_place():
    def settle(x):
        return torch.tanh(x)

    layer = as_layer(settle, x="N")
    case, _ = evaluate.completed(layer, Case("settle", {"x": np.array([0.0, 9.0])}))
    found = backward_noise.rounding_saved(layer, case)["x"]
    assert found[0] == 0 < found[1] < 1e-14


def test_a_module_with_weight_norm_is_not_given_weights_with_more_axes():
    """The kernel behind it writes beyond its memory then, which ends the process some time later."""
    module = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    layer = as_layer(module, x="N 3")
    assert layer.hooks.broadcast is None and as_layer(nn.Linear(3, 2), x="N 3").hooks.broadcast is not None
    assert check(module, "gradient", "special", x="N 3", examples=20).ok
