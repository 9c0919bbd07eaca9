"""Layout: the same values in another memory layout give the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, add, reference

NAME = "layout"
Change = Callable[[Array], Array]


def transposed(array: Array) -> Array:
    """Column-major."""
    return np.asfortranarray(array) if array.ndim > 1 else sliced(array)


def sliced(array: Array) -> Array:
    """Every second element of a larger buffer."""
    buffer = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan if array.dtype.kind in "fc" else 1, array.dtype)
    buffer[..., ::2] = array
    return buffer[..., ::2]


def gapped(array: Array) -> Array:
    """Rows of a wider buffer: each row is contiguous, the array is not."""
    if array.ndim < 2:
        return sliced(array)
    filler = np.nan if array.dtype.kind in "fc" else 1
    buffer = np.full((*array.shape[:-1], array.shape[-1] + 3), filler, array.dtype)
    buffer[..., :-3] = array
    return buffer[..., :-3]


def permuted(array: Array, rng: np.random.Generator) -> Array:
    """The axes in some other order in memory, as after a transposition of heads; in half of the cases channels last."""
    if array.ndim < 3:
        return gapped(array)
    order = rng.permutation(array.ndim)
    if rng.random() < 0.5:
        order = np.array([*order[order != 1], 1])
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


def reversed_(array: Array) -> Array:
    """Negative strides along every axis."""
    flipped = np.ascontiguousarray(np.flip(array))
    return np.flip(flipped)


def read_only(array: Array) -> Array:
    """Not writeable, as arrays from other libraries often are."""
    fixed = array.copy()
    fixed.flags.writeable = False
    return fixed


LAYOUTS: dict[str, Change] = {
    "a slice of a larger array": sliced,
    "the rows of a wider array": gapped,
    "stored backwards (negative strides)": reversed_,
    "transposed in memory": transposed,
    "read-only": read_only,
}


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case, writable: bool = False) -> Outcome:
    """Primals and cotangents in six layouts; cotangents expanded from one value, or along one axis (stride 0).

    Both at once first, since a right layer minds neither, and never in the same one: that hides code which reads one
    array by the strides of another. (So a read-only array, dense as it is, stands between two that are transposed.)
    What then differs is asked of each alone.
    With `writable`, arrays that cannot be written into are copied first, for code that writes into what it is given.
    """
    expected = exact.expected(layer, case)
    plain = exact.copied(case.cotangents or ())
    layouts: dict[str, Change] = {
        **LAYOUTS,
        "with its axes in another order in memory": lambda a: permuted(a, case.rng(Stream.MEMORY_ORDER)),
    }
    laid = _Laid(layer, case, plain, layouts, writable)

    def told(
        what: str,
        got: dict[str, Array] | LayerFailure,
        wanted: dict[str, Array] = expected,
        cotangents: tuple[Array, ...] = plain,
    ) -> Outcome:
        if isinstance(got, LayerFailure):
            crash = Finding(NAME, "crash", got.primal, f"{what}: {got}", case, facts={"what": what})
            return Outcome(NAME, (crash,))
        outcome = exact.outcome(layer, case, NAME, [(what, got, wanted)])
        if outcome.findings and reference.good(layer, case.but(cotangents=cotangents), got):
            return replace(outcome, findings=())  # at a tie of rounded scores a layout may decide what is largest
        return outcome

    outcomes: list[Outcome] = []
    for cotangent, primals in zip(layouts, [*list(layouts)[-1:], *layouts]):
        both = told(*laid.gradients(cotangent=cotangent, primals=primals))
        sides = (dict(cotangent=cotangent), dict(primals=primals)) if both.findings else ()
        alone = [told(*laid.gradients(**side)) for side in sides]
        outcomes += [one for one in alone if one.findings] or [both]
    for what, expand in _expansions(plain).items():
        try:
            expanded = tuple(expand(v) for v in plain)
            outcomes.append(told(what, *_expanded(layer, case, expanded, writable), expanded))
        except LayerFailure as failure:
            outcomes.append(told(what, failure))
    found = [finding for outcome in outcomes for finding in outcome.findings]
    differs: dict[str | None, Finding] = {}
    for finding in (f for f in found if f.kind != "crash"):
        differs.setdefault(finding.primal, finding)
    crashes = [f for f in found if f.kind == "crash"]
    entries = sum(outcome.entries for outcome in outcomes)
    return Outcome(NAME, (*differs.values(), *crashes[:1]), entries=entries)


@dataclass(frozen=True, slots=True)
class _Laid:
    """A case whose arrays are laid out in some other way in memory."""

    layer: Layer
    case: Case
    cotangents: tuple[Array, ...]
    layouts: Mapping[str, Change]
    writable: bool

    def gradients(self, **sides: str) -> tuple[str, dict[str, Array] | LayerFailure]:
        """How it reads, and usable gradients where the cotangent, the primals or both are laid out so, on copies."""
        cotangents = exact.copied(self.cotangents)  # a backward that changes its cotangent is another matter
        primals = evaluate.copies(self.case.primals)
        if "cotangent" in sides:
            cotangents = tuple(_apply(self.layouts[sides["cotangent"]], v) for v in cotangents)
        if "primals" in sides:
            primals = {n: _apply(self.layouts[sides["primals"]], a) for n, a in primals.items()}
        if self.writable:
            cotangents, primals = tuple(map(_own, cotangents)), {n: _own(a) for n, a in primals.items()}
        what = "with " + " and ".join(f"the {side} {how}" for side, how in sides.items())
        try:
            return what, _pull(self.layer, self.case, primals, cotangents)
        except LayerFailure as failure:
            return what, failure


def _apply(change: Change, array: Array) -> Array:
    return change(array) if array.ndim and array.size else array


def _own(array: Array) -> Array:
    """The array, or a copy where it cannot be written into."""
    return array if array.flags.writeable and 0 not in array.strides else np.array(array)


def _pull(layer: Layer, case: Case, primals: dict[str, Array], cotangents: tuple[Array, ...]) -> dict[str, Array]:
    evaluation = evaluate.run(layer, primals, case.options)
    return exact.usable(layer, case, evaluation.pull(cotangents))


def _expansions(plain: tuple[Array, ...]) -> dict[str, Change]:
    """One value for all entries, as the gradient of a sum arrives; then one slice along each axis in turn."""

    def constant(v: Array) -> Array:
        return np.broadcast_to(np.asarray(0.7, v.dtype), v.shape)

    def along(axis: int) -> Callable[[Array], Array]:
        def expand(v: Array) -> Array:
            first = v[(slice(None),) * axis + (slice(0, 1),)] if axis < v.ndim and v.size else v
            return np.broadcast_to(first, v.shape)

        return expand

    rank = min(3, max((v.ndim for v in plain), default=0))
    found: dict[str, Change] = {"with the cotangent expanded from one value (stride 0)": constant}
    if rank > 1:
        found |= {f"with the cotangent expanded along axis {k} (stride 0)": along(k) for k in range(rank)}
    return found


def _expanded(
    layer: Layer, case: Case, expanded: tuple[Array, ...], writable: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Gradients for an expanded cotangent, and for a copy of it."""
    given = tuple(map(_own, expanded)) if writable else expanded
    got = _pull(layer, case, evaluate.copies(case.primals), given)
    return got, exact.gradients(layer, case, tuple(np.array(v, order="C") for v in expanded))


add(Property(NAME, "memory layout makes no difference", holds, share=0.3))
