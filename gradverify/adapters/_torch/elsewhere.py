"""Torch code that cannot run on the device it is given: that is told, and is no fault of the code."""

from __future__ import annotations

import re
from typing import Any

from gradverify.adapters._torch.arrays import import_torch
from gradverify.core.evaluate.failures import authors_line, error_line

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
