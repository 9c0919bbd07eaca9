"""torch's own modules and functions, whose backwards are formulas in derivatives.yaml and kernels in C++."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from entry import Entry
from torch import nn

from gradverify.adapters.torch_ import torch_layer

torch.manual_seed(0)
PLAIN = (
    "ReLU LeakyReLU ELU SELU CELU GELU SiLU Mish Hardtanh Hardswish Hardsigmoid ReLU6 Sigmoid Tanh Softplus Softsign"
)
PLAIN += " Softshrink Tanhshrink LogSigmoid PReLU Dropout AlphaDropout"
MODULES = {name: (getattr(nn, name)(), {"x": "N D"}) for name in PLAIN.split()} | {
    "Hardshrink": (nn.Hardshrink(), {"x": "N D", "jumps": True}),
    "Linear": (nn.Linear(3, 4), {"x": "N 3"}),
    "Bilinear": (nn.Bilinear(3, 2, 4), {"a": "N 3", "b": "N 2"}),
    "Conv1d, groups": (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), {"x": "N 2 7"}),
    "Conv2d": (nn.Conv2d(2, 3, 3, stride=2, padding=1), {"x": "N 2 5 6"}),
    "ConvTranspose2d": (nn.ConvTranspose2d(2, 3, 3, stride=2), {"x": "N 2 3 3"}),
    "BatchNorm1d": (nn.BatchNorm1d(3), {"x": "N 3"}),
    "BatchNorm2d": (nn.BatchNorm2d(2), {"x": "N 2 3 3"}),
    "LayerNorm": (nn.LayerNorm(4), {"x": "N 4"}),
    "GroupNorm": (nn.GroupNorm(2, 4), {"x": "N 4 3"}),
    "InstanceNorm2d": (nn.InstanceNorm2d(2, affine=True), {"x": "N 2 3 3"}),
    "RMSNorm": (nn.RMSNorm(4), {"x": "N 4"}),
    "LocalResponseNorm": (nn.LocalResponseNorm(3), {"x": "N 4 3"}),
    "Softmax": (nn.Softmax(-1), {"x": "N D"}),
    "LogSoftmax": (nn.LogSoftmax(-1), {"x": "N D"}),
    "GLU": (nn.GLU(), {"x": "N 4"}),
    "MaxPool2d, overlapping": (nn.MaxPool2d(3, 1, 1), {"x": "N 2 4 4"}),
    "AvgPool2d, ceil_mode": (nn.AvgPool2d(2, ceil_mode=True), {"x": "N 2 5 5"}),
    "AdaptiveMaxPool1d": (nn.AdaptiveMaxPool1d(2), {"x": "N 2 5"}),
    "LPPool1d": (nn.LPPool1d(2, 2), {"x": "N 2 6"}),
    "FractionalMaxPool2d": (nn.FractionalMaxPool2d(2, output_size=2), {"x": "N 2 5 5"}),
    "LSTMCell": (nn.LSTMCell(2, 3), {"x": "N 2"}),
    "GRUCell": (nn.GRUCell(2, 3), {"x": "N 2"}),
    "LSTM": (nn.LSTM(2, 3, batch_first=True), {"x": "N T 2"}),
    "GRU": (nn.GRU(2, 3, batch_first=True), {"x": "N T 2"}),
    "RNN, relu": (nn.RNN(2, 3, nonlinearity="relu", batch_first=True), {"x": "N T 2"}),
    "MultiheadAttention": (
        nn.MultiheadAttention(4, 2, batch_first=True),
        {"query": "N T 4", "key": "N S 4", "value": "N S 4"},
    ),
    "Embedding": (nn.Embedding(5, 3), {"ids": "N T: indices 5"}),
    "Embedding, padding_idx": (nn.Embedding(5, 3, padding_idx=0), {"ids": "N T: indices 5"}),
    "Embedding, max_norm": (nn.Embedding(5, 3, max_norm=1.0), {"ids": "N T: indices 5"}),
    "EmbeddingBag, max": (nn.EmbeddingBag(5, 3, mode="max"), {"ids": "N 4: indices 5"}),
    "CosineSimilarity": (nn.CosineSimilarity(), {"a": "N D", "b": "N D"}),
    "PairwiseDistance": (nn.PairwiseDistance(), {"a": "N D", "b": "N D"}),
    "MSELoss": (nn.MSELoss(), {"a": "N D", "b": "N D"}),
    "L1Loss": (nn.L1Loss(), {"a": "N D", "b": "N D"}),
    "HuberLoss": (nn.HuberLoss(), {"a": "N D", "b": "N D"}),
    "CrossEntropyLoss, smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), {"x": "N K", "t": "N: labels K"}),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), {"x": "N D", "t": "N D: between 0 1"}),
    "KLDivLoss": (nn.KLDivLoss(reduction="batchmean"), {"x": "N D", "t": "N D: positive"}),
    "TripletMarginLoss": (nn.TripletMarginLoss(), {"a": "N D", "p": "N D", "n": "N D"}),
    "GaussianNLLLoss": (nn.GaussianNLLLoss(), {"x": "N D", "t": "N D", "v": "N D: positive"}),
    "PoissonNLLLoss": (nn.PoissonNLLLoss(), {"x": "N D", "t": "N D: positive"}),
    "Upsample, bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), {"x": "N 2 3 3"}),
    "Upsample, bicubic": (nn.Upsample(size=(4, 5), mode="bicubic"), {"x": "N 1 3 3"}),
    "ReflectionPad2d": (nn.ReflectionPad2d(1), {"x": "N 1 3 3"}),
    "Unfold": (nn.Unfold(2), {"x": "N 2 3 3"}),
    "weight_norm": (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), {"x": "N 3"}),
    "scaled_dot_product_attention": (F.scaled_dot_product_attention, {"q": "N T D", "k": "N S D", "v": "N S E"}),
    "grid_sample": (
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        {"x": "N 2 4 4", "g": "N 3 3 2: between -0.9 0.9"},
    ),
    "normalize": (F.normalize, {"x": "N D", "jumps": True}),  # of one column, it is the sign
    "logsumexp": (lambda x: torch.logsumexp(x, -1), {"x": "N D"}),
    "cdist": (torch.cdist, {"a": "N D", "b": "M D"}),
    "svdvals": (torch.linalg.svdvals, {"x": "3 4"}),
    "det": (torch.linalg.det, {"x": "3 3"}),
    "matrix_exp": (torch.linalg.matrix_exp, {"A": "N 3 3"}),
    "orthogonal": (nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), {"x": "N 3"}),
    "cholesky": (lambda A: torch.linalg.cholesky(A @ A.T + torch.eye(3, dtype=A.dtype)), {"A": "3 3"}),
    "topk": (lambda x: torch.topk(x, 2).values, {"x": "N 5"}),
    "median": (lambda x: torch.median(x, -1).values, {"x": "N D"}),
    "cummax": (lambda x: torch.cummax(x, -1).values, {"x": "N D"}),
    "prod": (lambda x: x.prod(-1), {"x": "N D"}),
    "amax": (lambda x: x.amax(-1), {"x": "N D"}),
    "quantile": (lambda x: torch.quantile(x, 0.3, -1), {"x": "N D"}),
    "rfft, abs": (lambda x: torch.fft.rfft(x).abs(), {"x": "N 6"}),
    "sinc": (torch.sinc, {"x": "N"}),
    "digamma": (torch.special.digamma, {"x": "N: positive"}),
    "hypot": (torch.hypot, {"a": "N", "b": "N"}),
    "float_power": (torch.float_power, {"a": "N: positive", "b": "N"}),
    "logaddexp": (torch.logaddexp, {"a": "N D", "b": "N D"}),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, -1), {"x": "N D"}),
    "clamp, bounds as tensors": (torch.clamp, {"input": "N D", "min": "D", "max": "D"}),
    "cdist, p = inf": (partial(torch.cdist, p=float("inf")), {"x1": "N D", "x2": "M D"}),
    "lstsq": (lambda A, b: torch.linalg.lstsq(A, b).solution, {"A": "4 2", "b": "4 1"}),
    "binary_cross_entropy": (F.binary_cross_entropy, {"input": "N D: between 0.05 0.95", "target": "N D: between 0 1"}),
    "xlogy": (torch.xlogy, {"x": "N: positive", "y": "N: positive"}),
}
JUDGED = {
    "Hardsigmoid": ("precision", "the kernel of backward holds 1/6 in float32, for double too"),
    "BatchNorm2d": (
        "bug",
        "in eval mode, one row, a gradient in channels-last memory with odd strides of its first axis: other numbers",
    ),
    "InstanceNorm2d": (
        "bug",
        "a gradient in memory of the order height, width, rows, channels: other numbers, as where it calls batch norm",
    ),
    "LPPool1d": ("bug", "the second backward is NaN where a window is all zeros"),
    "weight_norm": ("bug", "the second backward claims a slope along v, in which the weight has none"),
    "Mish": ("bug", "the second backward is NaN from 710 on, where exp overflows"),
    "sinc": ("bug", "the second backward is NaN at 0"),
    "CosineSimilarity": (
        "bug",
        "norms below eps are clamped outside of the graph: another gradient; "
        "the second backward is NaN where both vectors are zero",
    ),
    "digamma": ("precision", "the trigamma function of the backward is right to 1e-9"),
    "hypot": ("bug", "NaN where both are 0"),
    "float_power": ("bug", "at exponent 0 the second backward takes the first for a constant"),
    "logaddexp": ("bug", "the second backward is NaN from 710 on, where exp overflows"),
    "logcumsumexp": ("precision", "the forward-mode rule loses digits where terms differ much"),
    "clamp, bounds as tensors": ("bug", "where both bounds are equal neither gets the gradient"),
    "cdist, p = inf": ("bug", "at a tie each coordinate gets the whole gradient"),
    "det": ("bug", "at a matrix of rank 2 the gradient is the adjugate, not zero"),
    "Embedding, padding_idx": ("convention", "the row of the padding gets no gradient, on purpose"),
    "Embedding, max_norm": ("convention", "rows are rescaled in place, outside of the graph"),
    "GaussianNLLLoss": ("convention", "the variance is clamped outside of the graph, as its documentation says"),
}
RARE = {"BatchNorm2d": 100, "Mish": 50}  # cases, where a bug shows in few
ENTRIES = [
    Entry(
        name,
        partial(torch_layer, code, name=name.split(",")[0], **dims),
        *JUDGED.get(name, ()),
        examples=RARE.get(name, 40),
    )
    for name, (code, dims) in MODULES.items()
]
