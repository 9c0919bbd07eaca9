"""Tensors that are copies of arrays, watched for what the code writes into them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradverify.adapters._torch.arrays import Array, Tensor, array, import_torch, same

_GUARDED = 1 << 24  # elements up to which a copy is watched


class Watch:
    """Arrays, and their copies on a device or in another type, whose overwriting the arrays would not show.

    Parameters
    ----------
    pairs : arrays and tensors; a tensor that shares its array's memory need not be among them
    """

    def __init__(self, pairs: Iterable[tuple[Array, Tensor]]) -> None:
        kinds: dict[object, list[tuple[Array, Tensor]]] = {}
        for a, t in pairs:
            if 0 < t.numel() <= _GUARDED:
                kinds.setdefault(t.dtype, []).append((a, t))
        # as one tensor of each type: to compare them costs a device one wait
        self._watched = [(pairs, _joined(pairs)) for pairs in kinds.values()]

    def write_back(self) -> None:
        """Do to the arrays what was done to the tensors since."""
        for pairs, before in self._watched:
            if same(_joined(pairs), before):
                continue
            parts = before.split([t.numel() for _, t in pairs])
            for (a, t), part in zip(pairs, parts):
                if a.flags.writeable and not same(t.detach().reshape(-1), part):
                    np.copyto(a, array(t))


def _joined(pairs: list[tuple[Array, Tensor]]) -> Tensor:
    return import_torch().cat([t.detach().reshape(-1) for _, t in pairs])
