"""Numerical derivatives along entries or directions, each with its bound.

`point` evaluates the forward at perturbed primals, `noise` measures its rounding, `central` is the
tutorial's procedure at one step, `ladder` extrapolates over many, `complexstep` needs a forward
that takes complex numbers, and `screen` covers all primals with a handful of forwards.
"""
