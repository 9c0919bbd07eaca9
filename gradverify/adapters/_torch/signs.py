"""Signs by which operations are displaced: of a pool, by chance of each entry, or by value; and what decides by them.

At a tie or at a kink a kernel may decide the other way. Of what is equal, a relu at 0 or scores of which the largest
are wanted, no operation on the way moves any, and no sample would tell that there is another way. So what decides by
order or sign is displaced by a few roundings of float32 first, and 0 by the least there is. A mask or a threshold that
gets no gradient is told as it stands.
"""

from __future__ import annotations

import functools
import math
import random
from typing import Any

from gradverify.adapters._engines.lossy import FEW, TIED, TINY, UNIT
from gradverify.adapters._torch.arrays import Tensor, floats, import_torch

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


_SIGNS = {"gt", "ge", "lt", "le", "sgn", "sign", "relu", "leaky_relu", "elu", "hardtanh"}
_POOLS = {"max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d"}
_ORDERS = {
    "topk",
    "sort",
    "argsort",
    "max",
    "min",
    "argmax",
    "argmin",
    "kthvalue",
    "median",
    "cummax",
    "cummin",
} | _POOLS
_OF_SLOPE = {"leaky_relu_backward", "elu_backward", "hardtanh_backward"}  # whose second argument decides
_DECIDES = {**dict.fromkeys(_SIGNS | _ORDERS, 0), **dict.fromkeys(_OF_SLOPE, 1)}


def moved(signs: Signs, name: str, args: Any) -> Any:
    """Arguments of an operation, with what decides displaced: to either side in any two samples."""
    at = _DECIDES.get(name)
    if at is None or at >= len(args) or not _decides(args[at]):
        return args
    value = args[at]
    s = _lots(signs, value) * TIED if name in _ORDERS else signs.paired(value) * FEW
    return (*args[:at], (value * (1 + UNIT * s)).where(value != 0, TINY * s), *args[at + 1 :])


def alone(signs: Signs, name: str, args: Any, result: Tensor) -> Tensor:
    """Where something equals the largest of its row: of those that tie, one."""
    if name != "eq" or len(args) < 2 or not all(map(floats, args)):
        return result
    over = [axis for axis in range(result.ndim) if any(_spread(a, result.ndim, axis) for a in args)]
    if not over or result.sum(over).max() < 2:
        return result
    lots = _lots(signs, args[0].broadcast_to(result.shape)).masked_fill_(~result, -2.0)
    return result & (lots == lots.amax(over, keepdim=True))


def _lots(signs: Signs, like: Tensor) -> Tensor:
    """Numbers from -1 to 1 that decide who wins: in any four samples once the first, once the last, else by chance."""
    torch, size = import_torch(), like.shape
    if signs.seed % 4 > 1:
        drawn = torch.rand(size, generator=torch.Generator().manual_seed(signs.seed), dtype=like.dtype)
        return drawn.mul_(2).sub_(1).to(like.device)
    rising = torch.linspace(-1, 1, like.numel(), dtype=like.dtype, device=like.device).view(size)
    return rising if signs.seed % 2 else -rising


def _spread(factor: Tensor, axes: int, axis: int) -> bool:
    """Whether a factor has no entries of its own along an axis."""
    at = axis - (axes - factor.ndim)
    return bool(at < 0 or factor.shape[at] == 1 or factor.stride()[at] == 0)


def _decides(value: Any) -> bool:
    return floats(value) and (bool(value.requires_grad) or not import_torch().is_grad_enabled())
