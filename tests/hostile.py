"""Layers that end, stall or fill their process: each must cost a campaign one unit, and be found."""

from __future__ import annotations

import ctypes
import os
import signal

import numpy as np

from gradverify import Layer, register


def fine(x):
    return x * x, x


def backward(dy, x):
    return 2 * x * dy


def segfault(x):
    if x.size > 3:
        ctypes.string_at(0)
    return fine(x)


def leaves(x):
    if (np.abs(x) > 20).any():
        os._exit(3)
    return fine(x)


def hangs(x):
    while x.size == 3:
        pass
    return fine(x)


def hangs_for_good(x):
    """Not even the interval timer gets through."""
    if x.size == 3:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        while True:
            pass
    return fine(x)


def memory_hog(x):
    if x.size > 3:
        np.ones(10**12)
    return fine(x)


for forward in (fine, segfault, leaves, hangs, hangs_for_good, memory_hog):
    register(Layer(forward, backward, name=forward.__name__, x="N"))
