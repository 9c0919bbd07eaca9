"""scikit-learn: the loss and gradient of its multi-layer perceptron, its loss classes, its kernels."""

from __future__ import annotations

from functools import partial

import numpy as np
from entry import Entry
from sklearn._loss import loss as losses
from sklearn.gaussian_process import kernels
from sklearn.neural_network import MLPClassifier, MLPRegressor

from gradverify import adapt

SIZES = (3, 4)  # inputs, hidden units


def perceptron(outputs, activation, kind, alpha):
    """The objective that scikit-learn hands to L-BFGS: (flat parameters, X, y) -> (loss, gradient)."""
    units = [*SIZES, outputs]
    X, y = np.zeros((2, units[0])), np.eye(outputs)[[0, outputs - 1]]
    if kind is MLPClassifier:
        y = np.arange(2) if outputs == 1 else np.arange(outputs)
        X = np.zeros((len(y), units[0]))
    net = kind(hidden_layer_sizes=units[1:-1], activation=activation, alpha=alpha, max_iter=1)
    net._no_improvement_count = 0
    if kind is MLPClassifier:
        net.partial_fit(X, y, classes=np.unique(y))
    else:
        net.partial_fit(X, y if outputs > 1 else y[:, 0])
    shapes = [(w.shape, b.size) for w, b in zip(net.coefs_, net.intercepts_)]
    net._coef_indptr, net._intercept_indptr, start = [], [], 0
    for shape, _ in shapes:
        net._coef_indptr.append((start, start + shape[0] * shape[1], shape))
        start += shape[0] * shape[1]
    for _, size in shapes:
        net._intercept_indptr.append((start, start + size))
        start += size

    def objective(theta, X, y):
        deltas, grads = [None] * (len(units) - 1), [None] * (len(units) - 1)
        activations = [X, *([None] * (len(units) - 1))]
        return net._loss_grad_lbfgs(np.array(theta), X, y, None, activations, deltas, grads, list(grads))

    return objective, start


def mlp(outputs, activation="tanh", kind=MLPRegressor, alpha=0.5, y=None):
    objective, count = perceptron(outputs, activation, kind, alpha)
    return adapt.objective(objective, theta=str(count), X=f"N {SIZES[0]}", y=y or f"N {outputs}", name="mlp")


def dense(*arrays):
    """Arrays as the compiled losses ask for them: contiguous, and all of the first one's type."""
    return [np.ascontiguousarray(a, dtype=arrays[0].dtype) for a in arrays]


def loss(made, y, raw):
    """A loss for each row, and its gradient."""

    def value(raw_prediction, y_true):
        raw_prediction, y_true = dense(raw_prediction, y_true)
        return made.loss(y_true, raw_prediction)

    def gradient(raw_prediction, y_true):
        raw_prediction, y_true = dense(raw_prediction, y_true)
        return made.gradient(y_true, raw_prediction)

    name = type(made).__name__
    return adapt.loss(value, gradient, name=name, wrt="raw_prediction", raw_prediction=raw, y_true=y)


def elementwise_loss(cls, y, **options):
    return loss(cls(**options), y, "N: between -3 3")


def second(cls, y, **options):
    """Gradient against the diagonal Hessian."""
    made = cls(**options)
    return adapt.boosting(
        lambda raw, y_true: made.gradient_hessian(*reversed(dense(np.array(raw), np.array(y_true)))),
        raw="N: between -3 3",
        y_true=y,
    )


def multinomial():
    return loss(losses.HalfMultinomialLoss(n_classes=3), "N: labels 3", "N 3: between -3 3")


CLIPPED = "the log loss clips probabilities at eps; where they saturate, the gradient is that of the unclipped loss"
WRONG = "the loss averages over outputs, the gradient does not; the L2 term is right (scikit-learn#8349)"
LOSSES = (
    ("HalfSquaredError", "N", {}),
    ("AbsoluteError", "N", {}),
    ("PinballLoss", "N", {"quantile": 0.3}),
    ("HuberLoss", "N", {"delta": 0.7}),
    ("HalfPoissonLoss", "N: nonnegative", {}),
    ("HalfGammaLoss", "N: positive", {}),
    ("HalfTweedieLoss", "N: positive", {"power": 1.5}),
    ("HalfBinomialLoss", "N: unit", {}),
    ("ExponentialLoss", "N: mask", {}),
)
KERNELS = {
    "ConstantKernel": kernels.ConstantKernel(),
    "RBF": kernels.RBF(),
    "RBF anisotropic": kernels.RBF([1.0, 2.0]),
    "Matern 1.5": kernels.Matern(nu=1.5),
    "Matern 2.5": kernels.Matern(nu=2.5),
    "RationalQuadratic": kernels.RationalQuadratic(),
    "ExpSineSquared": kernels.ExpSineSquared(),
    "DotProduct": kernels.DotProduct(),
    "WhiteKernel": kernels.WhiteKernel(),
    "Sum and Product": kernels.RBF() * kernels.DotProduct() + kernels.WhiteKernel(),
}

ENTRIES = [
    Entry("MLPRegressor, 1 output", partial(mlp, 1)),
    Entry("MLPRegressor, 2 outputs", partial(mlp, 2), "bug", WRONG),
    Entry("MLPRegressor, 3 outputs, logistic", partial(mlp, 3, "logistic"), "bug", WRONG),
    Entry(
        "MLPRegressor, 2 outputs, alpha=0",
        partial(mlp, 2, alpha=0.0),
        "bug",
        "as above; without the penalty it is a clean factor 2",
    ),
    Entry("MLPRegressor, 1 output, relu", partial(mlp, 1, "relu")),
    Entry("MLPClassifier, binary", partial(mlp, 1, kind=MLPClassifier, y="N 1: mask"), "convention", CLIPPED),
    Entry(
        "MLPClassifier, 3 classes", partial(mlp, 3, kind=MLPClassifier, y="N 3: probabilities"), "convention", CLIPPED
    ),
    *(Entry(name, partial(elementwise_loss, getattr(losses, name), y, **options)) for name, y, options in LOSSES),
    Entry("HalfMultinomialLoss", multinomial),
    *(
        Entry(f"{name}, hessian", partial(second, getattr(losses, name), y, **options))
        for name, y, options in LOSSES
        if name
        in (
            "HalfSquaredError",
            "HalfPoissonLoss",
            "HalfGammaLoss",
            "HalfTweedieLoss",
            "HalfBinomialLoss",
            "ExponentialLoss",
        )
    ),
    *(Entry(f"kernel {name}", partial(adapt.kernel, made, X="N 2: between -3 3")) for name, made in KERNELS.items()),
]
