"""NumPy arrays as torch tensors and back: one memory where that is possible, the same strides in any case.

A backward that mutates its cotangent is found because the tensor shares the array's memory, or is watched where it is
a copy; one that takes its cotangent to be row-major is found because the tensor has the array's strides, 0 included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate.failures import authors_line, error_line

Array = Any  # numpy.ndarray
Tensor = Any  # torch.Tensor


def import_torch() -> Any:
    """The module torch; raises DeclarationError if it is not installed, with the extra that brings it."""
    try:
        import torch
    except ImportError as error:
        raise DeclarationError(f"torch cannot be imported ({error}): pip install 'gradverify[torch]'") from None
    return torch


def floats(value: Any) -> bool:
    """Whether it is a tensor of a floating type."""
    return isinstance(value, import_torch().Tensor) and bool(value.is_floating_point())


def tensor(array: Array, device: Any = None, dtype: Any = None) -> Tensor:
    """A tensor with the values and the strides of an array.

    On the CPU and in the array's own type it shares the array's memory. Torch knows no negative strides
    and no read-only memory, so such arrays are copied; stride 0 becomes an expanded tensor.

    Parameters
    ----------
    device, dtype : where the tensor lives, and the type of floating values; None keeps them
    """
    torch = import_torch()
    array = np.asarray(array)
    repeated = tuple(k for k, s in enumerate(array.strides) if s == 0 and array.shape[k] > 1)
    compact = array[tuple(slice(0, 1) if k in repeated else slice(None) for k in range(array.ndim))]
    odd = any(s < 0 or s % array.itemsize for s in compact.strides)
    if odd or not compact.flags.writeable or not compact.dtype.isnative:
        compact = np.array(compact, dtype=compact.dtype.newbyteorder("="), order="K")
    made = torch.from_numpy(compact)
    made = made.expand(array.shape) if repeated else made
    return moved(made, device, dtype if made.is_floating_point() else None)


def moved(source: Tensor, device: Any, dtype: Any) -> Tensor:
    """On another device or in another type, with the same strides: `to` alone would make slices contiguous."""
    device, dtype = device or source.device, dtype or source.dtype
    if (source.device.type, source.dtype) == (getattr(device, "type", device), dtype):
        return source
    if source.numel() == 0 or source.is_contiguous():
        return source.to(device, dtype)
    span = 1 + sum((n - 1) * s for n, s in zip(source.shape, source.stride()))
    buffer = source.as_strided((span,), (1,), source.storage_offset())
    return buffer.to(device, dtype).as_strided(source.shape, source.stride())


def array(value: Tensor) -> Array:
    """A tensor as an array, in its memory where it lies on the CPU in a type that NumPy has.

    bfloat16 and the 8-bit floating types become float32, which holds their values exactly.
    """
    torch = import_torch()
    value = value.detach()
    value = value.to_dense() if value.layout != torch.strided else value
    value = (torch.zeros_like(value) if value._is_zerotensor() else value.resolve_conj().resolve_neg()).cpu()
    if value.is_floating_point() and value.dtype not in (torch.float64, torch.float32, torch.float16):
        value = value.float()
    return value.numpy()


def place(value: Tensor) -> int:
    """What two tensors that share memory have in common."""
    return int(value.untyped_storage().data_ptr()) if value.layout is import_torch().strided else id(value)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN where the other has NaN."""
    torch = import_torch()
    exact: bool = torch.equal(a, b)
    if exact or not (a.is_floating_point() or a.is_complex()):
        return exact
    return bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def tensors_in(value: Any) -> tuple[Tensor, ...]:
    """The tensors inside nested tuples, lists, dicts and data classes, in order."""
    torch = import_torch()
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, dict) or hasattr(value, "items"):
        return tuple(t for part in dict(value).values() for t in tensors_in(part))
    if isinstance(value, (tuple, list)):
        return tuple(t for part in value for t in tensors_in(part))
    if hasattr(value, "__dataclass_fields__"):
        return tuple(t for name in value.__dataclass_fields__ for t in tensors_in(getattr(value, name)))
    return ()


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


_TRITON = re.compile(r"active drivers|cannot be accessed from Triton", re.IGNORECASE)
_GPU = re.compile(r"\bcuda|is_cuda|\bGPUs?\b|\bNVIDIA\b", re.IGNORECASE)


def elsewhere(error: BaseException, device: Any) -> str | None:
    """What to do about an error that says that the code needs a GPU; None for any other error.

    Parameters
    ----------
    device : where the code's tensors are
    """
    if getattr(device, "type", "cpu") != "cpu":
        return None
    text = f"{error_line(error)}{authors_line(error)}"  # the line too: assert x.is_cuda
    if _TRITON.search(text):
        return 'give device="cuda" where there is a GPU, or set TRITON_INTERPRET=1 before triton is imported'
    if _GPU.search(text) and not import_torch().cuda.is_available():
        return "the code asks for a GPU, and torch sees none here"
    return None
