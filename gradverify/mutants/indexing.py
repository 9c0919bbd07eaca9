"""Mutants of embedding and gather: repeated indices, the padding row, the precision of the sum."""

from gradverify.mutants import catalogue, diffs

EMBEDDING = """
74 REPEAT-IDX: dW[idx] = dy | repeats | pytorch#1631
    - return add_at(shape, ids[keep], dy[keep])
    + dW = np.zeros(shape, dy.dtype)
    + dW[ids[keep]] = dy[keep]
    + return dW
76 MASK: the padding row gets a gradient | padding drawn | pytorch#3842
    - add_at(shape, ids[keep], dy[keep])
    + add_at(shape, ids, dy)
77 PRECISION: the sum kept in float16 | many repeats, float16 | mxnet#17703
    - return add_at(shape, ids[keep], dy[keep])
    + total = np.zeros(shape, np.float16)
    + np.add.at(total, ids[keep], dy[keep].astype(np.float16))
    + return total.astype(dy.dtype)
"""
diffs("embedding", catalogue("embedding"), EMBEDDING)

GATHER = """
78 REPEAT-IDX: backward uses gather | sizes that differ | AiDotNet.Tensors#894
    - rows, columns = np.arange(shape[0])[:, None, None], np.arange(shape[2])
    - return add_at(shape, (rows, index, columns), dy)
    + reach = np.minimum(np.resize(index, shape), dy.shape[1] - 1)
    + return np.take_along_axis(dy, reach, axis=1)
"""
diffs("gather", catalogue("gather"), GATHER)
