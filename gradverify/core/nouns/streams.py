"""What the randomness of a Case is drawn for: streams of numbers that know nothing of each other."""

from __future__ import annotations

import enum


@enum.unique
class Stream(enum.IntEnum):
    """Names of streams, for `Case.rng`; the numbers seed them, so none may change or be used twice.

    Extensions of other packages take numbers from 1000 on.
    """

    COTANGENT = 1
    SCREENED_SAMPLE = 2
    BACKWARD_ROUNDING = 3
    EXACT_ROUNDING = 4
    OTHER_CASE = 5
    BATCH_ORDER = 6
    SAVED_ROUNDING = 7
    WIDE_ROUNDING = 8
    TANGENT = 9
    SECOND_WEIGHTS = 10
    TANGENT_ROUNDING = 11
    SECOND_NEIGHBOURS = 12
    MEMORY_ORDER = 13
    SPARSE_COTANGENT = 14
    TERMS = 15
    WIDE_SAVED_ROUNDING = 16
    SECOND_ROUNDING = 17
    KERNEL_ROUNDING = 18
    UPSTREAM = 21
    REFERENCE_CONFIRMED = 22
    REFERENCE_DIRECTION = 23
    KERNEL_SAMPLE = 24
    LAW_OF_A_SUM = 25
    NEIGHBOURS = 26
    NEAR_NEIGHBOURS = 27
    RANKED_NEIGHBOURS = 28
    CANCELLING = 29
    PLAIN_CASE = 31
    JITTERED = 33
    UNTIED = 34
    REPEATED = 35
    SIZES_OF_NO_OTHER = 36
    UNFINISHED = 37
    STOPPED = 38
    REFILLED = 41
    DETACHED = 42
    LIFTED = 43
    GROWN = 44
    FORWARD_ROUNDING = 45
    BESIDE = 46
    MIXED = 47
    SECOND_UPSTREAM = 48
    SCREEN = 0x5C
    LOST_DIGITS = 49
