"""Backward passes of the catalogue with one place of their source written otherwise."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from tests.heldout import put

# layer, what stands there, what stands there instead, class, what a good reading says
EDITS = """
prelu | np.sum(dy * np.minimum(x, 0), | np.sum(dy * x, | TERM | alpha's gradient takes the positive x along
elu | (alpha * np.exp(np.minimum(x, 0))) | np.exp(np.minimum(x, 0)) | OPTION | alpha is not used in backward
selu | np.where(x > 0, dy, | np.where(x > 0, dy / selu.scale, | TERM | the scale is missing where x > 0
softplus | logistic(beta * x) | logistic(x) | OPTION | beta is not used in backward
silu | (1 + x * logistic(-x)) | 1 | TERM | the slope of the second factor is missing
mish | (1 - t) * (1 + t) * logistic(x) | (1 - t) * (1 + t) | TERM | the inner slope sigmoid(x) is missing
hardswish | dy * (x / 3 + 0.5) | dy * (x / 6 + 0.5) | TERM | x * slope is missing
clip | ((x >= low) & (x <= high)) | np.ones_like(x) | TERM | passes the gradient where forward is flat
clip | & (x <= high) | & (x < np.inf) | TERM | passes the gradient above high, where forward is flat
logaddexp | logistic(gap), sum_to(dz * logistic(-gap) | logistic(-gap), sum_to(dz * logistic(gap) \
| INDEX | the gradients of x and y stand in each other's place
mul | return dz * y, | return dz * x, | INDEX | the gradient of x is taken with x instead of y
maximum | sum_to(dz - dx, | sum_to(dz * (y >= x), | TIE | y takes the whole gradient at ties
log | return dy / x | return -dy / x | SIGN | negated
sqrt | dy * 0.5 / y | dy / y | FACTOR | twice the right one
dropout | dy / (1 - p) | dy / (1 - p) ** 2 | FACTOR OPTION | 1/(1-p) times the right one
linear | dy.sum(every) | dy.mean(every) | FACTOR UNBROADCAST | b's gradient is a mean instead of a sum
linear | tensordot(dy, x, (every, every)) | tensordot(dy, x, (every, every))[::-1] \
| INDEX | W's gradient is flipped along its rows
bilinear | @ transpose(A)).sum(0) | @ transpose(A))[0] | OVERWRITE UNBROADCAST | dx takes the first of J only
bilinear | transpose(weighted * x) @ z | transpose(weighted * z) @ x | INDEX | x and z are exchanged where I = K
matvec | A.T @ dy | (A if len(A) == A.shape[1] else A.T) @ dy | INDEX | A is not transposed where it is square
residual | dy + dz @ W1.T | dz @ W1.T | TERM | the way round the block is missing: dy
residual | , dz.sum(0), | , (dy @ W2.T).sum(0), | TERM | b1's gradient lacks the slope of the activation
rnn_cell | h.T @ da | h.T @ dh | TERM | U's gradient lacks tanh'
lstm_cell | dc * f, x.T | dc, x.T | GATE TERM | c's gradient lacks the forget gate
lstm_cell | tanh_slope(g) | sigmoid_slope(g) | GATE TERM | the candidate's slope is a sigmoid's
lstm_cell | [di, df, dg, do] | [di, df, do, dg] | GATE | candidate and output gate are exchanged
lstm_cell | * tanh_slope(c_next) | * 1 | GATE TERM | the way through h to c lacks tanh'
gru_cell | dh * z + dv | dv | GATE TERM | h's gradient lacks the direct way dh z
gru_cell | * tanh_slope(a) | * 1 | GATE TERM | the candidate's gradient lacks tanh'
gru_cell | dz = dh * (h - np.tanh(a)) | dz = dh * (np.tanh(a) - h) | GATE SIGN | the update gate's gradient is negated
peephole_lstm_cell | + do * Po | | GATE TERM | the way from the output gate to c is missing
peephole_lstm_cell | do * c_next | do * c | GATE INDEX | the output gate's peephole is taken with c, not c'
recurrent_dropout_lstm | (da[t] @ U.T) * kept[t] | da[t] @ U.T | RNG MASK | the mask is not applied on the way back
recurrent_dropout_lstm | np.concatenate(h[:-1]) | np.concatenate(h[1:]) | INDEX GATE | U's gradient takes the next state
conv1d | padded.shape[-1:], (stride,), (dilation,)) | padded.shape[-1:], (stride,), (1,)) \
| OPTION | dilation is ignored in dx
conv1d | columns = split(windows(padded | columns = split(windows(padded[..., ::-1] \
| INDEX | W's gradient is taken of a reversed x
conv2d | dy.sum((0, -2, -1)) | dy.mean((0, -2, -1)) | FACTOR | b's gradient is divided by N H W
conv2d | padded.shape[-2:], stride, dilation), padding) | padded.shape[-2:], stride, dilation), padding[::-1]) \
| OPTION | the paddings of the two axes are exchanged in dx
conv_transpose2d | merge(dW, -5) | merge(dW, -5)[..., ::-1] | INDEX | W's gradient is flipped along kw
avg_pool2d | dy / area | dy / (kernel[0] * kernel[1]) | OPTION | divided by the whole kernel everywhere
upsample_linear | dy * (1 - weight)) + | dy * weight) + | TERM INDEX | left gets right's weight
batch_norm | if mode == "train" else d * scale | | MODE OPTION | in eval the gradient of train
batch_norm | np.sum(dy * xhat, axis=-2) | np.sum(dy * gamma * xhat, axis=-2) | TERM | a gamma too many in its gradient
batch_norm_2d | dy * channels(gamma) | dy | TERM | gamma is missing in dx
layer_norm | np.sum(dy * xhat, | np.sum(dy * xhat * scale, | TERM | gamma's gradient has a scale too many
group_norm | np.sum(dy, axis=(-4, -2, -1)) | np.sum(dy, axis=(-4, -2, -1)) / dy.shape[0] \
| FACTOR | beta's gradient is divided by N
instance_norm | xhat, scale, (-2, -1)) | xhat, scale, (-1,)) | TERM INDEX | the means run over W only
rms_norm | scale * (d - | (d - | TERM | the factor 1/rms is missing
l2_normalise | - y * along | + y * along | TERM SIGN | the length's term is added instead of subtracted
softmax | np.sum(d * y, axis=axis | np.sum(d * y, axis=-1 | OPTION | axis is ignored in backward
log_softmax | dy * q - p * (np.sum(dy, axis=axis, keepdims=True) - dy) | dy * q | TERM | the sum over dy is missing
bce_with_logits | share * (weight * yes - no) | share * (yes - no) | TERM OPTION | weight is missing in t's gradient
softmax_cross_entropy | dE / norm | dE / 1 | FACTOR OPTION | the mean's divisor is missing
focal | (gamma * own_p * ratio - 1) | -1 | TERM | the slope of the factor (1-p)^gamma is missing
mae | return dx, -dx | return dx, dx | SIGN | y's gradient is negated
huber | np.clip(d, -delta, delta) | np.clip(d, -1, 1) | OPTION | delta is not used in backward
hinge | np.where(gap > 0, -y, 0) | -y | TERM | passes the gradient where forward is flat
kl_divergence | share * (gap + 1) | share * gap | TERM | t's gradient lacks the slope of t log t: 1
cosine_similarity | return da, db | return db, da | INDEX | gradients of a and b stand in each other's place
cumsum | np.cumsum(dy[..., ::-1], axis=-1)[..., ::-1] | np.cumsum(dy, axis=-1) | INDEX | sums run forward, not backward
cumprod | later = x[..., i] * total | later = total | TERM | a factor x is missing in what flows back
sort | np.put_along_axis(dx, order, dy, axis=-1) | dx[...] = np.take_along_axis(dy, order, -1) \
| INDEX | the permutation is applied instead of undone
topk | np.put_along_axis(dx, order, dy, axis=-1) | np.put_along_axis(dx, order[..., ::-1], dy, axis=-1) \
| INDEX | flipped along k
scatter_add | return dy.copy(), | return np.zeros_like(dy), | DROPPED | base gets no gradient
segment_sum | return dy[segments] | return dy[segments] / np.bincount(segments)[segments][:, None] \
| FACTOR REPEAT-IDX | divided by the rows of the segment
scaled_dot_product_attention | * max(q.shape[-1], 1) ** -0.5 | | FACTOR | sqrt(E) times the right one
scaled_dot_product_attention | _per_group(_t(p) @ dy, groups) | _per_group(_t(p) @ dy, groups) / groups \
| FACTOR OPTION | v's gradient is a mean over the heads of a group
multi_head_attention | dq @ Wq.T + dk @ Wk.T + dv | dq @ Wq.T + dv | TERM | the way through the keys is missing in dx
blockwise_attention | dv[..., part, :] = | dv[..., slice(0, part.stop - part.start), :] = \
| OVERWRITE OPTION SHAPE | blocks overwrite one another in dv
gelu | x * density(x) | density(x) | TERM | x is missing in front of the density
gelu_tanh | (1 + 3 * | (1 + | TERM | the slope of the cube lacks its 3
sigmoid_mlp | dx * x * (1.0 - x) | dx | TERM | the slope of the last sigmoid is missing
sigmoid_mlp | dz1 @ W1.T | dx @ W2.T @ W1.T | TERM | the slopes are missing in i's gradient
"""


def edited(name: str, old: str, new: str) -> Layer:
    """The registered layer, with `old` in the source of its backward written as `new`."""
    right = layers.get(name)
    source = textwrap.dedent(inspect.getsource(right.backward)).replace("@staticmethod\n", "")
    if source.count(old) != 1:
        raise ValueError(f"{old!r} stands {source.count(old)} times in the backward of {name}")
    names: dict[str, Any] = {}
    exec(source.replace(old, new), inspect.unwrap(right.backward).__globals__, names)
    return right.derive(backward=names["backward"], origin=None)


def _rows() -> None:
    counts: dict[str, int] = {}
    for line in EDITS.replace("\\\n", "").strip().splitlines():
        layer, old, new, classes, sentence = (part.strip() for part in re.split(r"\s\|(?=\s)", line))
        counts[layer] = counts.get(layer, 0) + 1
        put(f"{layer}_{counts[layer]}", classes, sentence, lambda a=(layer, old, new): edited(*a))  # type: ignore[misc]


_rows()
