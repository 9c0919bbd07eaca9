"""What signatures may ask about a finding: the same layer on plain cases, and under which conditions it fails.

The case of a finding has been made small, which hides causes: all sizes are 1, all values round. So the
layer is first tried on plain cases (sizes that differ, values of order one) with default options, then
with the options of the finding, then at its sizes. The first of these that fails is the situation, and
its cases are what a signature must explain, every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice, permutations
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import simplest
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import variants
from gradverify.core.diagnose.probe import Probe
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Case, Diagnosis, Finding
from gradverify.core.properties import properties
from gradverify.core.verify import examine

DRAWS = 3  # upstream gradients for each case: a law that holds by chance under one is refuted by another
_SOME = 1e-6  # below it, a gradient at values of order one is nothing
_TRIED = 5  # cases on which sizes must be the same; on few, an axis of L - K + 1 places is as long as K
PLAIN = ("nothing", "options", "sizes")  # what a failure needs beside plain cases, if not its own values
ANYWHERE = (*PLAIN, "values")
ABOUT_GRADIENTS = ("gradient", "special", "complete", "modes")
ABOUT_OTHERS = ("random", "outputs", "dtype", "tie", "differs")


@dataclass(frozen=True, eq=False)
class Situation:
    """Where a gradient is wrong.

    Attributes
    ----------
    needs : what it takes beside a plain case: "nothing", "options", "sizes" or "values"
    options : options that are not at their default and without which it does not fail
    failing : plain cases of that kind; for "values" the finding's own case, under several cotangents
    equal : two axes that must have one size, if that is what it takes
    some : whether other cases of that kind are right
    """

    needs: str
    options: Mapping[str, Any]
    failing: tuple[Probe, ...]
    equal: tuple[str, str] | None = None
    some: bool = False


class Evidence:
    """A finding, and everything that can be found out about it; all of it is computed on demand and kept.

    Attributes
    ----------
    layer, finding, case : as found; the case is the minimal one
    """

    def __init__(self, layer: Layer, finding: Finding) -> None:
        self.layer = layer
        self.finding = finding
        self.case = finding.case.but(options={**layer.default_options, **finding.case.options})
        self._plain: dict[str, Case | None] = {}
        self._probes: dict[int, Probe | None] = {}  # of plain cases, which several signatures ask for
        self.answers: dict[str, Diagnosis | None] = {}  # of signatures that were asked, by name

    @cached_property
    def primal(self) -> str:
        """The primal of the finding; where it names none, the first that is wrong on its case."""
        if self.finding.primal is not None:
            return self.finding.primal
        names = [p.name for p in self.layer.differentiable]
        own = self.own
        wrong = [n for n in names if own is not None and own.failure is None and own.fails(n)]
        return (wrong or names or [""])[0]

    @property
    def about_gradient(self) -> bool:
        """Whether the finding is about a gradient being wrong, rather than two that should be the same."""
        return self.finding.property in ABOUT_GRADIENTS and self.finding.kind not in ABOUT_OTHERS

    def concerns(self, needs: Sequence[str], probes: bool) -> bool:
        """Whether a gradient is wrong in one of these situations, and, if so wanted, has probes."""
        if not self.about_gradient or (needs is not ANYWHERE and self.situation.needs not in needs):
            return False
        return bool(self.probes) if probes else True

    @cached_property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.layer.differentiable)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The simplest value of each option; those that only Hypothesis can tell are the case's own."""
        own = self.case.options
        return {
            n: simplest(spec) if isinstance(spec, (list, range, tuple)) else own.get(n)
            for n, spec in self.layer.options.items()
        }

    # -- probes -----------------------------------------------------------------------------

    def probe(self, case: Case | None) -> Probe | None:
        """Both gradients at a case; None where there is no case, or forward fails on it."""
        if id(case) in self._probes:
            return self._probes[id(case)]
        try:
            found = None if case is None else Probe(self.layer, case)
        except LayerFailure:
            found = None
        if any(case is plain for plain in self._plain.values()):
            self._probes[id(case)] = found
        return found

    @cached_property
    def own(self) -> Probe | None:
        """The case of the finding itself, with the numerical gradient that was found for it."""
        apart = self.finding.property == "modes"  # which compares at cotangents of its own
        case = self.case.but(cotangents=None) if apart else self.case
        numerical = self.finding.property in ("gradient", "special")
        try:
            return Probe(self.layer, case, self.finding.comparison if numerical else None)
        except LayerFailure:
            return None

    def wrong(self, probe: Probe | None) -> bool:
        """Whether the gradient of the finding's primal is wrong on a probe.

        For a finding of wrong values, a backward that breaks down there, or gives none, is neither wrong nor right; for
        code that breaks down, nothing else is: values that are wrong besides are another finding.
        """
        if probe is None or not self._usable(probe):
            return False
        if self.finding.kind == "crash":
            return probe.failure is not None
        if self.finding.kind == "nan" and probe.failure is None:  # numbers that are wrong besides are another finding
            got = probe.analytic.get(self.primal)
            return got is not None and not bool(np.isfinite(got).all())
        try:
            with np.errstate(all="ignore"):
                return probe.fails(self.finding.primal)
        except LayerFailure:
            return False

    def failing_at(self, sizes: Iterable[Mapping[str, Any]]) -> tuple[Probe, ...]:
        """Plain cases of such sizes, one draw for each, on which backward gives a gradient and it is wrong."""
        made = (self.probe(self.plain(draw, sizes=chosen)) for draw, chosen in enumerate(sizes))
        return tuple(p for p in made if p is not None and self.wrong(p) and self.primal in p.analytic)

    def fails(self, case: Case | None) -> bool:
        """Whether the gradient of the finding's primal is wrong on a case; False where there is none."""
        return self.wrong(self.probe(case))

    def holds(self, *cases: Case | None) -> bool:
        """Whether there are such cases, and the gradient of the finding's primal is right on each, and not 0 on all.

        Nothing is right to a yardstick that the finding itself is too small for.
        """
        if self._faint:
            return False
        probes = [self.probe(case) for case in cases]
        right = [p for p in probes if p is not None and self._usable(p) and not self.wrong(p)]
        return len(right) == len(cases) > 0 and any(map(self._matters, right))

    @cached_property
    def _faint(self) -> bool:
        """Whether the gradient is wrong by so little that a probe of another case would not tell."""
        own = self.own
        if self.finding.kind != "wrong" or own is None or self.primal not in own.analytic:
            return False
        seen = bool((own.times(self.primal) > 1).any())
        return not seen and not any(self.wrong(p) for p in self.probes if p is not own)

    def _matters(self, probe: Probe) -> bool:
        """Whether there is a gradient to be right about: 0 is right by itself."""
        if self.finding.kind != "wrong":
            return True
        return float(np.abs(probe.numerical(self.primal)).max(initial=0.0)) > _SOME

    def _usable(self, probe: Probe) -> bool:
        if self.finding.kind != "wrong":
            return True
        return probe.failure is None and self.finding.primal in probe.analytic

    def plain(
        self, draw: int = 0, options: Mapping[str, Any] | None = None, sizes: Mapping[str, Any] | None = None
    ) -> Case | None:
        """A plain case with the situation's options (or others), some sizes fixed."""
        chosen = self.options if options is None else options
        key = repr((draw, sorted(chosen.items()), sorted((sizes or {}).items())))
        if key not in self._plain:
            self._plain[key] = variants.plain(self.layer, self.case, chosen, draw, sizes)
        return self._plain[key]

    def _like(self, draw: int, options: Mapping[str, Any], like: Case | None) -> Case | None:
        """A plain case, in the shapes of another one if it is given."""
        if like is None:
            return self.plain(draw, options)
        return variants.plain(self.layer, self.case, options, draw, like=like)

    # -- the situation ----------------------------------------------------------------------

    @cached_property
    def situation(self) -> Situation:
        """The simplest kind of case on which it fails."""
        found = self._tried("nothing", self.defaults)
        if found is None and self.case.options != self.defaults:
            found = self._tried("options", self.case.options)
        if found is None:
            found = self._small()
        if found is None:
            found = self._equal_sizes()
        if found is None:
            found = self._tried("sizes", self.case.options, like=self.case)
        if found is not None:
            return found
        own = (self.own,) if self.own is not None and self.wrong(self.own) else ()
        others = (self.probe(self.case.but(cotangents=None, seed=self.case.seed + k)) for k in (1, 2))
        needed = self._needed(self.case.options, lambda o: self.fails(self.case.but(options=o)))
        return Situation("values", needed, (*own, *(p for p in others if p is not None and self.wrong(p))))

    def _small(self) -> Situation | None:
        """Plain cases on which it fails by less than a probe can tell, but not by less than the check itself."""
        if self.finding.property != "gradient" or self.finding.kind != "wrong":
            return None
        plain = [p for p in (self.probe(self.plain(draw, self.case.options)) for draw in range(DRAWS)) if p is not None]
        wrong = tuple(p for p in plain if self._usable(p) and self.told_by_check(p.case))
        return Situation("nothing", {}, wrong) if wrong and len(wrong) == len(plain) else None

    def told_by_check(self, case: Case) -> bool:
        """Whether the check itself, which sees more than a probe, finds the gradient wrong on a case."""
        outcome = examine(self.layer, case, properties.get("gradient"))
        return any(f.primal == self.finding.primal and f.kind == "wrong" for f in outcome.findings)

    def _equal_sizes(self) -> Situation | None:
        """Two axes that have one size in the finding's case, and fail on plain cases when they are equal."""
        options = self.case.options
        sizes = variants.lone_sizes(self.layer, self.case)
        for one, two in combinations(sizes, 2):
            if sizes[one] != sizes[two]:
                continue
            made = (
                variants.plain(self.layer, self.case, options, k, variants.grouped({one: n, two: n}))
                for k, n in enumerate((3, 4))
            )
            probes = tuple(p for p in map(self.probe, made) if p is not None)
            if probes and all(map(self.wrong, probes)):
                needed = {n: v for n, v in options.items() if n in self.defaults and v != self.defaults[n]}
                rare = self._apart(one, two)
                if rare:
                    return Situation("nothing", needed, rare, some=True)
                return Situation("sizes", needed, probes, (one.lstrip("*"), two.lstrip("*")))
        return None

    def _apart(self, one: str, two: str) -> tuple[Probe, ...]:
        """Cases on which two axes differ, and it fails all the same: now and then, whatever the sizes."""
        sizes = [variants.grouped({one: n, two: m}) for n, m in permutations((2, 3, 4, 5), 2)]
        made = (variants.plain(self.layer, self.case, self.case.options, k, s) for k, s in enumerate(sizes))
        return tuple(p for p in map(self.probe, made) if p is not None and self.wrong(p))

    def _tried(self, needs: str, options: Mapping[str, Any], like: Case | None = None) -> Situation | None:
        def probes(chosen: Mapping[str, Any]) -> list[Probe]:
            drawn = (self._like(k, chosen, like) for k in range(DRAWS))
            return [p for p in map(self.probe, drawn) if p is not None]

        def more(chosen: Mapping[str, Any]) -> Iterator[Probe]:
            drawn = (self._like(k, chosen, like) for k in range(DRAWS, 4 * DRAWS))
            return (p for p in map(self.probe, drawn) if self.wrong(p) and p is not None)

        found = probes(options)
        if not any(map(self.wrong, found)) or (needs == "sizes" and not all(map(self.wrong, found))):
            return None
        needed = {}
        if needs != "nothing":
            needed = self._needed(options, lambda chosen: any(map(self.wrong, probes(chosen))))
            found = probes({**self.defaults, **needed})
        wrong = [p for p in found if self.wrong(p)]
        some = any(p.failure is None and not self.wrong(p) and np.any(p.numerical(self.primal)) for p in found)
        if len(wrong) < DRAWS:  # it fails on some draws only; a claim is to be tried on several
            wrong += islice(more({**self.defaults, **needed}), DRAWS - len(wrong))
        return Situation(needs, needed, tuple(wrong), some=some)

    def _needed(self, options: Mapping[str, Any], fails: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
        """The smallest set of options that still fails, one put back to its default after the other."""
        chosen = dict(options)
        for name, default in self.defaults.items():
            if chosen.get(name) != default and fails({**chosen, name: default}):
                chosen[name] = default
        return {n: v for n, v in chosen.items() if n in self.defaults and v != self.defaults[n]}

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of the situation: the defaults, and what the failure needs beside them."""
        return {**self.defaults, **self.situation.options}

    @cached_property
    def given(self) -> str:
        """What it takes in words: " with stride=2", " where N = D", " at these values"; empty on plain cases."""
        return self.with_options + {"sizes": self._at_sizes, "values": " at these values"}.get(self.situation.needs, "")

    @property
    def fault(self) -> str:
        """What is wrong, in words: the gradient, or code that breaks down."""
        if self.finding.kind == "crash":
            return "backward fails"
        return f"the gradient of {self.primal} is {'NaN' if self.finding.kind == 'nan' else 'wrong'}"

    @property
    def sound(self) -> str:
        """What it is elsewhere, as far as was tried: values that are wrong besides are another finding."""
        return {"crash": "runs", "nan": "finite"}.get(self.finding.kind, "right")

    @property
    def with_options(self) -> str:
        """The options that it needs in words: " with stride=2"; empty if there are none."""
        options = self.situation.options
        return f" with {', '.join(f'{n}={v!r}' for n, v in options.items())}" if options else ""

    @property
    def _at_sizes(self) -> str:
        equal = self.situation.equal
        return f" where {equal[0]} = {equal[1]}" if equal else " at these sizes"

    # -- claims -----------------------------------------------------------------------------

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """Cases on which it fails and that a signature must explain, backward having run on them."""
        found = (p for p in self.situation.failing if p.failure is None)
        return tuple(p for p in found if p.analytic.get(self.primal) is not None)

    def everywhere(self, test: Callable[[Probe], bool], among: Sequence[Probe] | None = None) -> bool:
        """Whether something holds on every probe, and there is one."""
        chosen = self.probes if among is None else among
        return bool(chosen) and all(_safely(test, probe) for probe in chosen)

    def pair(self, probe: Probe) -> tuple[Array, Array]:
        """Analytic and numerical gradient of the finding's primal."""
        return probe.analytic[self.primal], probe.numerical(self.primal)

    def with_cotangents(self, probe: Probe, change: Callable[[Array], Array]) -> dict[str, Array]:
        """Analytic gradients when each cotangent is changed."""
        return probe.pulled(tuple(np.asarray(change(v), v.dtype) for v in probe.case.cotangents or ()))

    def labels_of(self, output: int, rank: int) -> tuple[str, ...]:
        """A readable name for each axis of an output of that rank.

        Where the author names none, an axis is called after the one dimension of the primals that has its
        size on every plain case; their sizes all differ, so that no other has.
        """
        returns = list(self.layer.returns.values())
        if output < len(returns):
            return returns[output].labels(rank)
        probes = [p for p in (self.probe(self.plain(draw)) for draw in range(_TRIED)) if p is not None]
        probes = [p for p in probes if output < len(p.outputs) and p.outputs[output].ndim == rank]
        return tuple(self._inferred(probes, output, axis) for axis in range(rank))

    def _inferred(self, probes: list[Probe], output: int, axis: int) -> str:
        if axis == 0 and self.layer.batch is not None:
            return self.layer.batch
        sizes = [variants.lone_sizes(self.layer, p.case) for p in probes]
        lengths = [p.outputs[output].shape[axis] for p in probes]
        names = [n for n in sizes[0] if [s.get(n) for s in sizes] == lengths] if len(set(lengths)) > 2 else []
        several = len(self.own.outputs if self.own else ()) > 1
        unnamed = f"axis {axis} of output {output}" if several else f"axis {axis}"
        return names[0].lstrip("*") if len(names) == 1 else unnamed

    def others_wrong(self, probe: Probe) -> list[str]:
        """Primals whose gradients are wrong on a probe, in the author's order."""
        return [n for n in self.differentiable if probe.wrong(n).any()]


def _safely(test: Callable[[Probe], bool], probe: Probe) -> bool:
    try:
        with np.errstate(all="ignore"):
            return bool(test(probe))
    except (LayerFailure, KeyError):
        return False
