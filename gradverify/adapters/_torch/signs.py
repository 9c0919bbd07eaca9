"""Signs by which operations are displaced: of a pool, by chance of each entry, or by value."""

from __future__ import annotations

import functools
import math
import random
from typing import Any

from gradverify.adapters._torch.arrays import Tensor, import_torch

_POOL = (1 << 17) + 29  # a prime
_pools: dict[tuple[Any, str, float], Tensor] = {}


class Signs:
    """What draws them.

    Attributes
    ----------
    seed : of a sample
    count : of operations so far
    """

    seed: int
    count: int

    def __init__(self, seed: int) -> None:
        self.seed, self.count, self.at = seed, 0, seed * 7919

    def paired(self, like: Tensor) -> Tensor:
        """Signs that are the other way round in the other of two samples: what is all or nothing is heard in any four
        samples; where signs are drawn, twelve samples miss it in one entry of 4096.
        """
        at, self.at = self.at, (self.seed // 2 + self.count) * 7919 % _POOL
        signs, self.at = self.signs(like), at
        return signs if self.seed % 2 else -signs

    def signs(self, like: Tensor, share: float = 0.0) -> Tensor:
        """Plus and minus ones, or factors off by a share to either side; the length of their pool is a prime."""
        count = like.numel()
        at = self.at = (self.at + 7919 + count) % _POOL
        size = (at + count - 1) // _POOL + 1
        return _pool(like.dtype, like.device, size, share)[at : at + count].view(like.shape)

    def alike(self, value: Tensor, unit: float) -> Tensor:
        """Signs by value, to an eighth of a last place: rounding moves what is equal one way, as all of a constant row.

        Parameters
        ----------
        unit : unit roundoff of the type that is rounded to
        """
        torch = import_torch()
        places = round(-math.log2(unit)) + 2  # of the significand, that tell values apart
        short = value.dtype == torch.float32 and places < 23  # half the memory to go through
        wide, whole, digits = (torch.float32, torch.int32, 23) if short else (torch.float64, torch.int64, 52)
        keys = value.to(wide).view(whole) >> (digits - places)
        factor = random.Random(self.seed).getrandbits(whole.itemsize * 8 - 1) | 1  # its first bit is as good as drawn
        return (keys.mul_(factor) < 0).to(value.dtype).mul_(2).sub_(1)


def _pool(dtype: Any, device: Any, size: int, share: float) -> Tensor:
    """Signs, or factors, `size` times _POOL of them and maybe more: one drawing again and again."""
    key = dtype, str(device), share
    known = _pools.get(key)
    if known is None or known.numel() < size * _POOL:
        drawn = _drawn() * share + 1 if share else _drawn()
        known = _pools[key] = drawn.to(device, dtype).repeat(size)
    return known


@functools.lru_cache(maxsize=1)
def _drawn() -> Tensor:
    torch = import_torch()
    generator = torch.Generator().manual_seed(20240229)
    return torch.randint(0, 2, (_POOL,), generator=generator, dtype=torch.float64) * 2 - 1
