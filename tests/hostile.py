"""Layers that end, stall or fill their process: each must cost a campaign one unit, and be found."""

from __future__ import annotations

import ctypes
import os
import posix
import signal
import threading
import time

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


leave = os._exit


def exits_in_c(x):
    if x.size == 3:
        ctypes.CDLL(None)._exit(0)
    return fine(x)


def becomes_another(x):
    if x.size == 3:
        posix.execv("/bin/true", ["/bin/true"])
    return fine(x)


def terminates(x):
    if x.size == 3:
        ctypes.CDLL(None)["raise"](signal.SIGTERM)
    return fine(x)


def presses_ctrl_c(x):
    if x.size == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return fine(x)


def dies_with_a_child(x):
    """The child holds whatever its parent has held open."""
    if x.size == 3:
        if os.fork() == 0:
            time.sleep(300)
            leave(0)
        ctypes.string_at(0)
    return fine(x)


def runs_on_twice(x):
    if x.size == 3 and not FORKED:
        FORKED.append(os.fork())
    return fine(x)


FORKED: list[int] = []


def leaves_things_behind(x):
    if threading.active_count() < 4:
        threading.Thread(target=time.sleep, args=(300,)).start()
    os.chdir("/")
    np.seterr(all="raise")
    np.random.seed(0)
    return fine(x)


def closes_files(x):
    os.closerange(3, 256)
    return fine(x)


def stalls_when_tried_again(x):
    """Ends the worker, and holds up the trial that is to confirm it."""
    if x.size == 3:
        if os.getpgrp() == os.getpid():
            ctypes.string_at(0)
        time.sleep(300)
    return fine(x)


def off_by_one(dy, x):
    return 2 * x * dy + (x.size == 5)


HOSTILE = (
    *(fine, segfault, leaves, hangs, hangs_for_good, memory_hog, exits_in_c, becomes_another, terminates),
    *(presses_ctrl_c, dies_with_a_child, runs_on_twice, leaves_things_behind, closes_files, stalls_when_tried_again),
)
for forward in HOSTILE:
    register(Layer(forward, backward, name=forward.__name__, x="N"))
register(Layer(fine, off_by_one, name="planted", x="N"))
