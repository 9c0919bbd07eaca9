"""A product that a kernel makes piece by piece in its type, or rounds to it, is rounded in its reference, too."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.adapters._engines.lossy import Sought  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from gradverify.core.properties import reference  # noqa: E402

ROWS = 16


def losses(fault="", cast=False):
    """Cross-entropy of x W', with gradients that forward makes for some rows at a time; logits are rounded."""

    class Losses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, labels):
            dx, dw, loss = torch.empty_like(x), torch.zeros(w.shape), torch.zeros(())
            for first in range(0, len(x), ROWS):
                part, ids = x[first : first + ROWS], labels[first : first + ROWS, None]
                low = (part.float() @ w.float().T).to(x.dtype) if cast else part @ w.T
                logits = low.float()
                lse = torch.logsumexp(logits, 1)
                loss += (lse - logits.gather(1, ids)[:, 0]).sum()
                d = torch.exp(logits - lse[:, None]).scatter_add_(1, ids, -torch.ones(ids.shape))
                d = (d / (len(part) if fault == "mean" else len(x))).to(x.dtype)
                dx[first : first + ROWS] = d @ w
                dw = (d.T @ part).float() + (0 if fault == "sum" else dw)
            ctx.save_for_backward(dx, dw.to(w.dtype))
            return (loss / len(x)).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            dx, dw = ctx.saved_tensors
            return dx * g, dw * g, None

    return Losses


def plain(x, w, labels):
    return torch.nn.functional.cross_entropy(x @ w.T, labels)


def wrong(fault="", cast=False, scale=9.0):
    layer, found = as_layer(losses(fault, cast), **DECLARED), set()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, w, labels = scale * rng.normal(size=(40, 3)), scale * rng.normal(size=(7, 3)), rng.integers(0, 7, 40)
        case = Case("losses", {"x": x, "w": w, "labels": labels}, cotangents=(np.array(1.0),), seed=seed)
        found |= {f.primal or f.kind for f in reference.holds(layer, case).findings}
    return found


DECLARED = {"x": "N D", "w": "V D", "labels": "N: labels V", "kernel": "bfloat16", "reference": plain}


@pytest.mark.parametrize("cast", [False, True])
def test_logits_that_are_rounded_piece_by_piece_are_right(cast):
    assert wrong(cast=cast) == set()


@pytest.mark.parametrize(("fault", "expected"), [("mean", {"x", "w"}), ("sum", {"w"})])
def test_what_is_wrong_in_pieces_is_found(fault, expected):
    assert wrong(fault, scale=1.0) == expected


def test_pieces_are_found_along_any_axis_and_only_if_they_are_all():
    whole = np.random.default_rng(0).normal(size=(2, 12, 8))
    rows, columns = [whole[k, j : j + 5] for k in (1, 0) for j in (0, 5, 10)], [whole[..., :3], whole[..., 3:]]
    for pieces, there in ((rows[3:] + rows[:3], True), (columns, True), (columns[::-1], True), (rows[:4], False)):
        assert Sought.of(pieces, 2.0**-8).found(lambda: whole, whole.shape) is there
