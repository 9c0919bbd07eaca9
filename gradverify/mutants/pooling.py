"""Mutants of pooling and resampling: overlapping windows, ties, overhang, the scale."""

from gradverify.mutants import catalogue, diffs

MAX = """
43 OVERWRITE: dx[idx] = dy in place of += | stride < kernel | Flux.jl#1197
    - parts = np.zeros((*dy.shape, kernel[0] * kernel[1]), dy.dtype)
    - np.put_along_axis(parts, winner, dy[..., None], -1)
    - return _paste(parts.reshape(*dy.shape, *kernel), sizes, stride, padding)
    + at = np.indices(dy.shape)
    + row = at[-2] * stride[0] - padding[0] + winner[..., 0] // kernel[1]
    + column = at[-1] * stride[1] - padding[1] + winner[..., 0] % kernel[1]
    + dx = np.zeros((*dy.shape[:-2], *sizes), dy.dtype)
    + dx[at[0], at[1], row, column] = dy
    + return dx
44 TIE: all tied maxima get the full dy | ties | Liger#1373
    - (winner, x.shape[-2:])
    + (cut, x.shape[-2:])
    - parts = np.zeros((*dy.shape, kernel[0] * kernel[1]), dy.dtype)
    - np.put_along_axis(parts, winner, dy[..., None], -1)
    + parts = np.where(winner == winner.max((-2, -1), keepdims=True), dy[..., None, None], 0)
46 OPTION: the tail window of ceil_mode skipped | an overhang
    - winner, sizes = saved
    + winner, sizes = saved
    + rows, columns = (_count(n, k, s, p, False) for n, k, s, p in zip(sizes, kernel, stride, padding))
    + dy, given = np.zeros_like(dy), dy
    + dy[..., :rows, :columns] = given[..., :rows, :columns]
"""
diffs("maxpool", catalogue("max_pool2d"), MAX)

AVG = """
49 FACTOR: 1/k^2 forgotten
    - (dy / area)[..., None, None]
    + dy[..., None, None]
"""
diffs("avgpool", catalogue("avg_pool2d"), AVG)

UPSAMPLE = """
115 OPTION: a scale that is no integer uses the inverse map | scale 1.25 | pytorch#97135
    - def backward(dy, saved):
    + def backward(dy, saved, scale):
    - source, shape = saved
    + _, shape = saved
    + starts = (np.arange(shape[-1] + 1) * scale).astype(int)  # the first copy of x_j is at ceil(j scale), not floor
    + starts[-1] = dy.shape[-1]
    + source = np.searchsorted(starts, np.arange(dy.shape[-1]), side="right") - 1
"""
diffs("upsample", catalogue("upsample_nearest"), UPSAMPLE)
