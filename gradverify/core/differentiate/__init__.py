"""Numerical derivatives along entries or directions, each with its bound.

`forward`, `entries`, `host` and `point` build on one another: the forward at perturbed primals, here or where it
computes. `noise` measures its rounding, `inner_precision` the type that it computes in. `central` is the tutorial's
procedure at one step, `ladder` extrapolates over many, `chain` climbs it only as far as it must, `sides` looks to one
side at a time, `complexstep` needs a forward that takes complex numbers, and `screen` covers all primals with a
handful of forwards. `kinks` says whether there is a kink at all.
"""
