"""Kernels put together from matrix products in the low type: each product rounds its result once, as a good one may."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gradverify as gv  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402


def attention(fault=""):
    """Scores and probabilities are stored in the type."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            s = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
            p = torch.softmax(s, -1).to(q.dtype)
            ctx.save_for_backward(q, k, v, p)
            return p @ v

        @staticmethod
        def backward(ctx, g):
            q, k, v, p = ctx.saved_tensors
            p32, dp = p.float(), g.float() @ v.float().transpose(-1, -2)
            ds = p32 * (dp - (0 if fault == "sum missing" else (dp * p32).sum(-1, keepdim=True)))
            ds = (ds * (1 if fault == "scale missing" else q.shape[-1] ** -0.5)).to(q.dtype)
            return ds @ k, ds.transpose(-1, -2) @ q, p.transpose(-1, -2) @ g

    return Attention


def plain_attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v


def normed(fault=""):
    """A norm and a product: what backward gets from the product is rounded before it goes through the norm."""

    class Normed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, g, w):
            x32 = x.float()
            r = torch.rsqrt((x32 * x32).mean(-1, keepdim=True) + 1e-6)
            ctx.save_for_backward(x, g, w, r)
            return (x32 * r * g.float()).to(x.dtype) @ w

        @staticmethod
        def backward(ctx, dy):
            x, g, w, r = ctx.saved_tensors
            h = x.float() * r
            dh = (dy @ w.T).float()
            t = dh * g.float()
            dx = r * (t - (0 if fault == "sum missing" else h * (t * h).mean(-1, keepdim=True)))
            return dx.to(x.dtype), (dh * h).sum(0).to(x.dtype), (h * g.float()).to(x.dtype).T @ dy

    return Normed


def plain_normed(x, g, w):
    return (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * g) @ w


def swiglu(fault=""):
    class SwiGLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, wg, wu, wd):
            a, b = x @ wg, x @ wu
            ctx.save_for_backward(x, wg, wu, wd, a, b)
            return (torch.nn.functional.silu(a.float()) * b.float()).to(x.dtype) @ wd

        @staticmethod
        def backward(ctx, dy):
            x, wg, wu, wd, a, b = ctx.saved_tensors
            a32, b32 = a.float(), b.float()
            s, dh = torch.sigmoid(a32), (dy @ wd.T).float()
            db = (dh * a32 * s).to(x.dtype)
            da = (dh * b32 * s * (1 + (0 if fault == "slope missing" else a32 * (1 - s)))).to(x.dtype)
            return da @ wg.T + db @ wu.T, x.T @ da, x.T @ db, (a32 * s * b32).to(x.dtype).T @ dy

    return SwiGLU


def plain_swiglu(x, wg, wu, wd):
    return (torch.nn.functional.silu(x @ wg) * (x @ wu)) @ wd


def absorbed(fault=""):
    """x (a b) as (x a) b, with x a in the type: of a b, which nobody makes, the terms may cancel."""

    class Absorbed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, a, b):
            h = (x.float() @ a.float()).to(x.dtype)
            ctx.save_for_backward(x, a, b, h)
            return (h.float() @ b.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, dy):
            x, a, b, h = (t.float() for t in ctx.saved_tensors)
            dh = (dy.float() @ b.T).to(dy.dtype).float()
            db = (h if fault == "" else h * 1.1).T @ dy.float()
            return tuple(t.to(dy.dtype) for t in (dh @ a.T, x.T @ dh, db))

    return Absorbed


def plain_absorbed(x, a, b):
    return x @ (a @ b)


KERNELS = {
    "absorbed": (absorbed, {"x": "N D", "a": "D R", "b": "R E", "reference": plain_absorbed}),
    "attention": (attention, {"q": "B T D", "k": "B S D", "v": "B S E", "reference": plain_attention}),
    "normed": (normed, {"x": "N D", "g": "D", "w": "D H", "reference": plain_normed}),
    "swiglu": (swiglu, {"x": "N D", "wg": "D H", "wu": "D H", "wd": "H O", "reference": plain_swiglu}),
}
WRONG = [
    ("attention", "sum missing"),
    ("attention", "scale missing"),
    ("normed", "sum missing"),
    ("swiglu", "slope missing"),
    ("absorbed", "factor"),
]
ASKED = {"properties": ["complete", "reference"], "raises": False}


@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", KERNELS)
def test_products_in_the_type_are_right(name, kernel):
    """In float16 some of them leave its range: what is not finite then is no finding."""
    make, declared = KERNELS[name]
    report = gv.check(make(), kernel=kernel, examples=40, seed=1, **declared, **ASKED)
    assert report.ok, report


@pytest.mark.parametrize(("name", "fault"), WRONG)
def test_a_wrong_one_is_found(name, fault):
    make, declared = KERNELS[name]
    report = gv.check(make(fault), kernel="bfloat16", examples=40, seed=1, **declared, **ASKED)
    assert {(f.property, f.kind) for f in report} == {("reference", "wrong")}


def summed(blocks):
    """A product in blocks whose sum is kept in the type, or in float32."""

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            y = torch.zeros(len(x), w.shape[1], dtype=x.dtype if blocks == "low" else torch.float32)
            for k in range(0, x.shape[1], 2):
                y = y + (x[:, k : k + 2].to(y.dtype) @ w[k : k + 2].to(y.dtype))
            return y.to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g @ w.T, x.T @ g

    return Summed


@pytest.mark.parametrize("blocks", ["low", "float32"])
def test_a_sum_of_products_in_the_type_is_no_product(blocks):
    rng, kinds = np.random.default_rng(0), set()
    layer = as_layer(summed(blocks), x="N D", w="D H", kernel="bfloat16", reference=torch.matmul)
    for seed in range(3):
        primals = {"x": rng.standard_normal((6, 400)), "w": rng.standard_normal((400, 5))}
        kinds |= {f.kind for f in gv.verify(layer, Case("summed", primals, seed=seed), "reference").findings}
    assert kinds == ({"forward"} if blocks == "low" else set())


def test_a_norm_that_squares_in_float16_is_wrong_where_the_square_leaves_its_range():
    """A square is neither operand nor result of a matrix product: what is not finite for it is the kernel's mistake."""

    class Squares(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            r = torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3)
            ctx.save_for_backward(x, r)
            return x * r

        @staticmethod
        def backward(ctx, g):
            x, r = (t.float() for t in ctx.saved_tensors)
            h = x * r
            return ((g.float() - h * (g.float() * h).mean(-1, keepdim=True)) * r).to(g.dtype)

    def plain(x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3)

    layer = as_layer(Squares, x="N D", kernel="float16", reference=plain)
    case = Case("squares", {"x": np.array([[300.0, 1.0, -2.0]])}, seed=1)
    assert {f.kind for f in gv.verify(layer, case, "reference").findings} == {"forward"}


def test_a_compiled_kernel_is_watched_too():
    body = torch.compile(lambda x, w: x @ w, backend="eager")

    class Compiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return torch.exp(body(x, w).float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            d = (g.float() * torch.exp(body(x, w).float())).to(x.dtype)
            return d @ w.T, x.T @ d

    layer = as_layer(Compiled, x="N D", w="D H", kernel="bfloat16", reference=lambda x, w: torch.exp(x @ w))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        primals = {"x": 2 * rng.standard_normal((4, 6)), "w": rng.standard_normal((6, 5))}
        assert not gv.verify(layer, Case("compiled", primals, seed=seed), "reference").findings


def test_a_mistake_of_the_formula_is_told_as_that_and_one_of_precision_is_not():
    """In float64 a kernel that forgets its scale still does, and one that adds up in its type is right."""
    make, declared = KERNELS["attention"]
    report = gv.check(make("scale missing"), kernel="bfloat16", examples=40, seed=1, **declared, **ASKED)
    for finding in report:
        assert finding.primal in ("q", "k")
        assert finding.diagnoses[0].name == "factor"
        assert "times sqrt(D)" in finding.diagnoses[0].text and "so it is in float64" in finding.diagnoses[0].text

    class Sums(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x.float() * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            total = torch.zeros_like(w)
            for row in (g.float() * x.float()).to(w.dtype):
                total = total + row
            return (g.float() * w.float()).to(x.dtype), total

    (finding,) = gv.check(Sums, x="N D", w="D", kernel="bfloat16", reference=torch.mul, seed=1, **ASKED)
    assert finding.diagnoses[0].name == "accumulated"
    assert not any("float64" in diagnosis.text for diagnosis in finding.diagnoses)


@pytest.mark.parametrize("fault", ["", "bias of one row"])
def test_a_convolution_is_a_reference_as_any_other(fault):
    conv = torch.nn.functional.conv1d

    class Conv(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            ctx.save_for_backward(x, w)
            return conv(x.float(), w.float(), b.float()).to(x.dtype)  # that of bfloat16 adds up in it on some machines

        @staticmethod
        def backward(ctx, g):
            x, w = (t.float() for t in ctx.saved_tensors)
            dx = torch.nn.grad.conv1d_input(x.shape, w, g.float()).to(g.dtype)
            dw = torch.nn.grad.conv1d_weight(x, w.shape, g.float()).to(g.dtype)
            return dx, dw, (g[:1] if fault else g).float().sum((0, 2)).to(g.dtype)

    def plain(x, w, b):
        return conv(x, w, b)

    layer = as_layer(Conv, x="N C L", w="O C K", b="O", kernel="bfloat16", reference=plain)
    found = set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        shapes = {"x": (2, 3, 8), "w": (4, 3, 3), "b": (4,)}
        primals = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        found |= {(f.kind, f.primal) for f in gv.verify(layer, Case("conv", primals, seed=seed), "reference").findings}
    assert found == ({("wrong", "b")} if fault else set())
