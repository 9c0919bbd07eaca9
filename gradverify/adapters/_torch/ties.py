"""Operations that decide by order or sign: at a tie or at a kink a kernel may decide the other way.

Of what is equal, a relu at 0 or scores of which the largest are wanted, no operation on the way moves any, and no
sample would tell that there is another way. So what decides is displaced by a few roundings of float32 first, and 0 by
the least there is. A mask or a threshold that gets no gradient is told as it stands.
"""

from __future__ import annotations

from typing import Any

from gradverify.adapters._engines.lossy import FEW, TIED, TINY, UNIT
from gradverify.adapters._torch.arrays import Tensor, floats, import_torch
from gradverify.adapters._torch.signs import Signs

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
