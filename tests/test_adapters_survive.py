"""What users' code does that a verifier must survive, and name."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify import Case, adapt
from gradverify.adapters import as_layer
from gradverify.core import evaluate
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.errors import DeclarationError
from gradverify.core.properties import accumulates, gradient, reusable


def check(layer, *properties, examples=4):
    return check_layer(layer, Settings(examples=examples, shrink=False, properties=properties or ("gradient",)))


class Dropout:
    """Makes its generator at the first forward."""

    def forward(self, x):
        if getattr(self, "_rng", None) is None:
            self._rng = np.random.default_rng(7)
        self.mask = 2.0 * (self._rng.random(x.shape) < 0.5)
        return x * self.mask

    def backward(self, d):
        return d * self.mask


class Block:
    def __init__(self, D, H):
        self.W, self.drop = np.zeros((D, H)), Dropout()

    def forward(self, x):
        self.x = self.drop.forward(x)
        return self.x @ self.W

    def backward(self, d):
        self.dW = self.x.T @ d
        return self.drop.backward(d @ self.W.T)


class Redrawn(Block):
    def backward(self, d):
        self.dW = self.x.T @ d
        self.drop.forward(self.x)
        return self.drop.backward(d @ self.W.T)


def drawn(layer, **shapes):
    rng = np.random.default_rng(5)
    return Case(layer.name, {n: rng.normal(size=s) for n, s in shapes.items()})


def test_a_generator_that_a_part_of_an_object_makes_late_gives_the_same_numbers_to_each_forward():
    layer = as_layer(Block, x="N D")
    case = drawn(layer, x=(3, 4), W=(4, 2))
    assert not gradient.holds(layer, case).findings
    assert not reusable.holds(layer, case).findings
    assert any("self.drop._rng" in line for line in layer.declared.lines())


class Biased(Block):
    """A second gradient on the object, which may be added to while the first is replaced."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.b, self.db = np.zeros(H), np.zeros(H)

    def forward(self, x):
        return super().forward(x) + self.b

    def backward(self, d):
        self.db = d.sum(0)
        return super().backward(d)


class Adding(Biased):
    def backward(self, d):
        before = self.db
        dx = super().backward(d)
        self.db = before + self.db
        return dx


@pytest.mark.parametrize(("kind", "wrong"), [(Biased, 0), (Adding, 1)])
def test_a_mask_that_is_drawn_in_each_round_on_one_object_is_not_taken_for_a_sum(kind, wrong):
    layer = as_layer(kind, x="N D")
    outcome = accumulates.holds(layer, drawn(layer, x=(3, 4), W=(4, 2), b=(2,)))
    assert outcome.skipped is None
    assert len(outcome.findings) == wrong, "which of two that differ is meant, nobody can tell"


def test_a_mask_that_backward_draws_anew_is_found():
    layer = as_layer(Redrawn, x="N D")
    assert gradient.holds(layer, drawn(layer, x=(3, 4), W=(4, 2))).findings


class Updating(Block):
    def backward(self, d):
        dx = super().backward(d)
        self.W -= 0.1 * self.dW
        return dx


def test_a_backward_that_updates_the_weights_is_named():
    lines = as_layer(Updating, x="N D").declared.lines()
    assert "backward changes W in place: each evaluation runs on an object of its own" in lines


class Normalise:
    """In float32, whatever it is given; at equal rows its slope is 1e4 within 1e-4 of the point, and 0 beyond."""

    def __init__(self):
        self.g, self.dg = np.ones(3, np.float32), np.zeros(3, np.float32)

    def forward(self, x):
        x = x.astype(np.float32)
        centred = x - x.mean(0)
        self.s = 1 / np.sqrt(x.var(0) + np.float32(1e-8))
        self.n = centred * self.s
        return self.n * self.g

    def backward(self, d):
        d = d.astype(np.float32)
        self.dg = (d * self.n).sum(0)
        d = d * self.g
        return self.s * (d - d.mean(0) - self.n * (d * self.n).mean(0))


class Halved(Normalise):
    def backward(self, d):
        return super().backward(d) / 2


EQUAL = {"x": np.array([[1.0, -1.0, -1.0], [0.0, -1.0, 1.0]]), "g": np.array([1.0, 100.0, -1.0])}
UPSTREAM = (np.array([[-0.6, 1.8, 1.8], [-1.8, -1.3, 0.9]], np.float32),)


def test_steps_that_a_float32_layer_would_round_away_count_for_nothing():
    layer = as_layer(Normalise, x="N 3", g="3")
    case = Case("Normalise", EQUAL, cotangents=UPSTREAM, step=1e-6)
    assert not gradient.holds(layer, case).findings


def test_a_float32_layer_that_is_wrong_by_a_factor_is_found():
    layer = as_layer(Halved, x="N 3", g="3")
    assert gradient.holds(layer, drawn(layer, x=(4, 3), g=(3,))).findings


def test_a_forward_that_raises_at_a_large_step_only_is_no_crash():
    def inverse(A):
        y = np.linalg.inv(A)
        return y, y

    layer = gv.Layer(inverse, lambda d, y: -(y.T @ d @ y.T), A="2 2")
    case = Case("inverse", {"A": np.diag([2.0, 2.0])})  # a step as large as an entry makes it singular
    outcome = gradient.holds(layer, case)
    assert not outcome.findings
    assert outcome.entries == 4


def test_a_forward_that_raises_at_every_neighbour_is_told():
    def picky(x):
        if abs(x.sum() - 1) > 1e-12:
            raise ValueError("probabilities do not add up to 1")
        return x**2, x

    layer = gv.Layer(picky, lambda d, x: 2 * x * d, x="2")
    with pytest.raises(evaluate.LayerFailure, match="do not add up"):
        gradient.holds(layer, Case("picky", {"x": np.array([0.25, 0.75])}))


class Packed:
    def __init__(self, D, H):
        self.W = np.zeros((D + H, 4 * H))

    def forward(self, x, h):
        self.z = np.hstack([x, h])
        return self.z @ self.W

    def backward(self, d):
        self.dW = self.z.T @ d
        dz = d @ self.W.T
        return dz[:, : dz.shape[1] - self.W.shape[1] // 4], dz[:, dz.shape[1] - self.W.shape[1] // 4 :]


def test_dimensions_that_are_sums_are_found():
    assert 'W "D+H 4*H"' in "\n".join(as_layer(Packed, x="N D", h="N H").declared.lines())


class Unpaired:
    def __init__(self, D, H):
        self.mixing = np.zeros((D, H))

    def forward(self, x):
        self.x = x
        return x @ self.mixing

    def backward(self, d):
        self.other = self.x.T @ d
        return d @ self.mixing.T


class Ungiven(Unpaired):
    def backward(self, d):
        return d @ self.mixing.T


def test_a_gradient_with_a_name_of_its_own_is_found_by_trying():
    found = as_layer(Unpaired, x="N D")
    assert "pairs: mixing<->other" in found.declared.lines() and check(found).ok


def test_a_size_that_no_primal_has_is_told_with_the_lines_that_declare_it():
    with pytest.raises(DeclarationError, match=r'built with the size H.* mixing.* pairs=\{"mixing": "dmixing"\}'):
        as_layer(Ungiven, x="N D")


@pytest.mark.parametrize(("sign", "ok"), [(1, True), (-1, False)])
def test_labels_that_come_first_are_told_by_their_name(sign, ok):
    def objective(y_true, y_pred):
        return sign * (y_pred - y_true), np.ones_like(y_pred)

    layer = adapt.boosting(objective, lambda p, y: 0.5 * (p - y) ** 2, y_true="N", y_pred="N")
    assert "labels first: y_true" in layer.declared.lines()
    assert check(layer).ok is ok


def test_an_error_of_a_billionth_does_not_look_like_none():
    layer = gv.Layer(lambda x: (x**2, x), lambda d, x: 2 * (1 + 1e-9) * x * d, x="2")
    outcome = gradient.holds(layer, Case("square", {"x": np.array([1.25, 1.5])}, cotangents=(np.ones(2),)))
    text = outcome.findings[0].message
    analytic, numerical = text.split("analytic ")[1].split(" ±")[0].split(", numerical ")
    assert analytic != numerical


def squared(pred, target):
    return ((pred - target) ** 2).sum(), (pred, target)


def squared_back(dy, saved):
    pred, target = saved
    return 2 * dy * (pred - target), -2 * dy * (pred - target)


class Squared:
    def loss(self, pred, target):
        return ((pred - target) ** 2).mean()

    def grad(self, pred, target):
        return 2 * (pred - target) / pred.size


@pytest.mark.parametrize(
    "target",
    [
        (squared, squared_back),
        (Squared(),),
        (lambda pred, target: (((pred - target) ** 2).sum(), 2 * (pred - target)),),
        (gv.Layer(squared, squared_back, pred="N D", target="N D"),),
    ],
    ids=["pair", "class", "value and gradient", "layer"],
)
def test_a_primal_may_be_called_target(target):
    declared = {} if isinstance(target[0], gv.Layer) else {"pred": "N D", "target": "N D"}
    assert gv.check(*target, examples=5, raises=False, **declared).ok
