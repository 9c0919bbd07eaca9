"""Mutants of the convolution: its options, its windows, its kernel."""

from gradverify.mutants import catalogue, diffs

CONV = """
34 OPTION: backward ignores stride | stride 2 | deep-learning-coursera#34
    - padded.shape[-2:], stride, dilation), padding)
    + padded.shape[-2:], (1, 1), dilation), padding)
35 OPTION: dilation[0] on both axes | unequal dilation | burn#4466
    - dx = crop(overlap_add(merge(dcolumns, -6), padded.shape[-2:], stride, dilation), padding)
    + size = [n + 8 for n in padded.shape[-2:]]  # room for what reaches too far
    + dx = overlap_add(merge(dcolumns, -6), size, stride, dilation[:1] * 2)
    + dx = crop(dx[..., : size[0] - 8, : size[1] - 8], padding)
36 OPTION: dW without slicing into groups | groups > 1 | pytorch#51430
    - np.einsum("ngfpq,ngcpqij->gfcij", dy, columns)
    + np.einsum("ngfpq,ncpqij->gfcij", dy, columns[:, 0])
37 OPTION: dx keeps phase (0, 0) only | stride 2 | rocm-libraries#7732
    - dx = crop(overlap_add(merge(dcolumns, -6), padded.shape[-2:], stride, dilation), padding)
    + whole = overlap_add(merge(dcolumns, -6), padded.shape[-2:], stride, dilation)
    + dx = np.zeros_like(whole)
    + dx[..., :: stride[0], :: stride[1]] = whole[..., :: stride[0], :: stride[1]]
    + dx = crop(dx, padding)
39 INDEX: dx by the kernel not flipped | a kernel that is not symmetric
    - split(W, -4, groups)
    + split(W[..., ::-1, ::-1], -4, groups)
41 FACTOR: dW divided by N H W | | cTensor#3
    - np.einsum("ngfpq,ngcpqij->gfcij", dy, columns)
    + np.einsum("ngfpq,ngcpqij->gfcij", dy, columns) / max(1, len(dy) * dy.shape[-2] * dy.shape[-1])
42 OVERWRITE: dx's buffer from np.empty | memory that does not hold zeros | Paddle#18728
    - x = np.zeros(
    + x = np.empty(
"""
diffs("conv2d", catalogue("conv2d"), CONV, within=["overlap_add"])
