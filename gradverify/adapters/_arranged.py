"""How a pair of functions is called: where forward has its outputs, and what each argument of backward is.

Ways to call it are told by the names of backward's arguments, and by what forward returns on small arrays. Those that
no name contradicts are tried, the documented one first, until gradients of the right shapes come back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from gradverify.adapters._normal import called, positional
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import SLOW

_UPSTREAM = re.compile(
    r"dy|dout|g|grad|upstream|cotangent|ct|v|(d|grad|g)_?(out|output|y|z|h|c|l|loss|hidden|cell)(s|\d|_\w+)*"
    r"|dL_?d\w+|(d|dout|grad)s|[dg]\d",
    re.IGNORECASE,
)
_WEAK = ("g", "v", "ct")  # which say so beside no other such name: what a Householder forward saves is called v, too
_SAVED = re.compile(r"_|saved|\w*caches?|ctx|context|residuals?|res|tape|memory|intermediates?")
_OUTPUT, _SHAPE = ("y", "out", "output", "result", "ans", "z", "s", "p", "h"), "_shape"
# What an argument of backward is, where it is not what an argument of forward is called; of several outputs, the
# gradient of one is (DY, k).
DY, KEPT, EACH, Y = "the upstream gradient", "what forward saved", "what forward saved, one by one", "the output"
Role = str | tuple[str, int]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to call a pair.

    Attributes
    ----------
    kept : where what forward saved stands in what it returns: "last", "first", or "" where there is no such thing
    roles : of each argument of backward
    """

    kept: str
    roles: tuple[Role, ...]

    def parted(self, made: Any) -> tuple[Any, Any]:
        """The output, or a tuple of several, and what forward saved, of what it returned."""
        if not self.kept:
            return made, None
        outputs = list(made)
        saved = outputs.pop(0 if self.kept == "first" else -1)
        whole = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return (tuple(whole) if isinstance(whole, list) else whole), saved

    def given(self, outputs: Any, saved: Any, dys: tuple[Any, ...], known: Mapping[str, Any]) -> list[Any]:
        """Arguments for backward."""
        found: list[Any] = []
        for role in self.roles:
            if role == EACH:
                found += saved
            elif isinstance(role, tuple):
                found.append(dys[role[1]])
            elif role == DY:
                found.append(dys[0] if len(dys) == 1 else dys)
            elif role in (KEPT, Y):
                found.append(saved if role == KEPT else outputs)
            else:
                found.append(known[role] if role in known else getattr(known[role.removesuffix(_SHAPE)], "shape", ()))
        return found

    @property
    def upstream(self) -> bool:
        """Whether backward takes an upstream gradient; else it gives gradients for one of 1."""
        return any(role == DY or isinstance(role, tuple) for role in self.roles)

    @property
    def usual(self) -> bool:
        """Whether it is the documented way: (outputs, saved) and backward(dy, saved)."""
        whole, split = (DY, KEPT), (*((DY, k) for k in range(len(self.roles) - 1)), KEPT)
        return self.kept == "last" and self.upstream and self.roles in (whole, split)

    def __str__(self) -> str:
        """The line of a report that says it."""
        told = {(role[0] if isinstance(role, tuple) else role): None for role in self.roles}
        line = f"backward: a function of {', '.join(r for r in told if not r.endswith(_SHAPE)) or 'shapes'}"
        return line + ("; forward returns what it saved first" if self.kept == "first" else "")


def ways(made: Any, backward: Callable[..., Any], known: Mapping[str, Any], options: Sequence[str]) -> list[Way]:
    """Ways to call a pair, the likeliest first; those that a name contradicts only where no other is left.

    Parameters
    ----------
    made : what forward returned
    known : its arguments by name, primals and options
    options : names of the options among them
    """
    taken = [p for p in positional(backward) or () if p.default is p.empty or (told(p.name) and p.name not in options)]
    star = any(p.kind is p.VAR_POSITIONAL for p in arguments(backward) or ())
    found: dict[Way, int] = {}
    for kept in _places(made, known):
        outputs, saved = Way(kept, ()).parted(made)
        call = _Call([p.name for p in taken], star, outputs, saved, bool(kept), known, options)
        for roles in call.arrangements():
            found.setdefault(Way(kept, tuple(roles)), call.contradictions(roles))
    least = min(found.values(), default=0)
    return [way for way, against in found.items() if against == least]


def told(name: str) -> str:
    """DY or KEPT where the name of an argument says so, else ""."""
    return KEPT if _SAVED.fullmatch(name) else DY if _UPSTREAM.fullmatch(name) else ""


def _places(made: Any, known: Mapping[str, Any]) -> list[str]:
    """Where what forward saved may stand: last, unless only the first can be no output."""
    if not isinstance(made, (tuple, list)) or len(made) < 2:
        return [""]
    inputs = {id(v) for v in known.values() if _is_array(v)}

    def certainly(part: Any) -> bool:
        if _is_array(part) or isinstance(part, (float, int)):
            return False
        inside = list(part) if isinstance(part, (tuple, list)) else []
        return not inside or any(not _is_array(v) or id(v) in inputs for v in inside)

    places = ["first", "last"] if certainly(made[0]) and not certainly(made[-1]) else ["last", "first"]
    return places + [""] * all(map(_is_array, made))


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


@dataclass(frozen=True, slots=True)
class _Call:
    """What is known of a call of backward.

    Attributes
    ----------
    names : of its arguments that are given by place
    star : whether it takes any number of others
    outputs, saved : of forward; `kept` says whether it saved anything
    known, options : arguments of forward by name, and which of them are options
    """

    names: list[str]
    star: bool
    outputs: Any
    saved: Any
    kept: bool
    known: Mapping[str, Any]
    options: Sequence[str]

    @property
    def count(self) -> int:
        """Number of outputs."""
        return len(self.outputs) if isinstance(self.outputs, tuple) else 1

    @property
    def alone(self) -> bool:
        """Whether gradients may be for an upstream gradient of 1: of a loss, or an elementwise derivative."""
        return self.count == 1 and (not self.kept or getattr(self.outputs, "shape", ()) == ())

    def arrangements(self) -> Iterator[list[Role]]:
        """Roles for the arguments, by place and by name; the documented ones come first."""
        names = self.names
        one: list[Role] = [DY]
        split: list[Role] = [(DY, k) for k in range(self.count)]
        dys = [one] if self.count == 1 else [split, one]
        if self.kept:
            for some in dict.fromkeys([tuple(names), tuple(n for n in names if n not in self.options)]):
                for roles in self._two_orders(dys, some, KEPT, 1):
                    places = iter(roles)
                    yield [next(places) if n in some else n for n in names] + list(places)
            if self.alone and len(names) == 1 and not self.star:
                yield [KEPT]
        yield from self._by_names()
        if self.kept and isinstance(self.saved, (tuple, list)):
            yield from self._two_orders(dys, names, EACH, len(self.saved))

    def told(self, name: str) -> str:
        """As `told`, beside the other arguments; "" of what forward calls so."""
        others = [n for n in self.names if n != name and told(n) == DY]
        weak = name in _WEAK and any(n not in _WEAK or self.names.index(n) < self.names.index(name) for n in others)
        return "" if name in self.known or (weak and told(name) == DY) else told(name)

    def _two_orders(self, dys: list[list[Role]], names: Sequence[str], role: str, number: int) -> Iterator[list[Role]]:
        """What was saved behind the upstream gradients and before them, where there are as many arguments."""
        for d in dys:
            if len(names) == len(d) + number or (self.star and len(names) <= len(d) + number):
                yield from ([*d, role], [role, *d])

    def _by_names(self) -> Iterator[list[Role]]:
        """What each argument is called: as one of forward, as a shape, as an upstream gradient, as the output.

        The one other is what forward saved; without that, and beside all that moves, it is the upstream gradient.
        """
        roles: list[Any] = [self._role_of(n) for n in self.names]
        if roles.count("") == 1:
            moving = {n for n, v in self.known.items() if _is_array(v)}
            free = KEPT not in roles if self.kept else DY not in roles and moving <= {*self.names}
            place = roles.index("")
            if free and not any(self.names[place] in names_of_gradients(n) for n in self.known):  # an array to fill
                roles[place] = KEPT if self.kept else DY
        upstream = roles.count(DY)
        if "" in roles or roles.count(KEPT) > 1 or roles.count(Y) > 1 or upstream not in {0, 1, self.count}:
            return
        order = iter(range(self.count))
        if upstream or (self.alone and Y not in roles):
            yield [(DY, next(order)) if role == DY and upstream > 1 else role for role in roles]

    def _role_of(self, name: str) -> str:
        if name in self.known or (name.endswith(_SHAPE) and name.removesuffix(_SHAPE) in self.known):
            return name
        if self.told(name) and (self.kept or self.told(name) == DY):
            return self.told(name)
        output = name in _OUTPUT or any(name.endswith(f"_{primal}") for primal in self.known)
        return Y if output and not self.kept else ""

    def contradictions(self, roles: Sequence[Role]) -> int:
        """How many arguments are called something else than what they would get."""
        inputs = {id(v): n for n, v in self.known.items() if _is_array(v)}
        single = [part for role in roles for part in ([(EACH, v) for v in self.saved] if role == EACH else [role])]
        found = 0
        for name, role in zip(self.names, single):
            kind, of = role[0] if isinstance(role, tuple) else role, self.told(name)
            if kind == DY:
                found += name in self.known or of == KEPT
            elif kind in (KEPT, EACH):
                value = role[1] if isinstance(role, tuple) else self.saved
                found += of == DY or (of == KEPT and kind == EACH)
                if _is_array(self.known.get(name)):  # it is called as a primal, and is another one, or no array
                    found += inputs.get(id(value), name) != name or not _is_array(value)
        return found


def arranged(forward: Any, backward: Any, names: tuple[Sequence[str], ...], way: Way) -> tuple[Any, Any]:
    """The pair as forward -> (outputs, known) and backward(dy, known), which hands on what each argument is.

    Parameters
    ----------
    names : of forward's arguments, as it calls them and as primals are called
    """

    @wraps(forward)
    def run(*primals: Any, **options: Any) -> Any:
        outputs, saved = way.parted(forward(*primals, **options))
        known = {name: value for some in names for name, value in zip(some, primals)}
        return outputs, ({**known, **options}, outputs, saved)

    @wraps(backward)
    def pull(*given: Any, **options: Any) -> Any:
        *cotangents, (known, outputs, saved) = given
        whole = len(cotangents) == 1 and isinstance(cotangents[0], tuple)
        dys = cotangents[0] if whole else tuple(cotangents)
        values = way.given(outputs, saved, dys, known)
        rest = taken_by(backward, {n: v for n, v in options.items() if n not in way.roles}, len(values))
        raw = backward(*values, **rest)
        return raw if way.upstream else times(raw, dys[0])

    return run, pull


def times(raw: Any, dy: Any) -> Any:
    """Gradients for an upstream gradient of 1, times the one that there is; by name, if they are."""
    if isinstance(raw, Mapping):
        return {name: None if g is None else g * dy for name, g in raw.items()}
    return [None if g is None else g * dy for g in (raw if isinstance(raw, (tuple, list)) else [raw])]


def chosen(
    backward: Callable[..., Any],
    made: Any,
    known: Mapping[str, Any],
    options: Sequence[str],
    ones: Callable[[Any], Any],
    fits: Callable[[Any], bool],
) -> Way | None:
    """The way to call a pair: the first by which backward gives gradients that fit; else the likeliest; or None.

    Parameters
    ----------
    made, known, options : see `ways`
    ones : an upstream gradient for an output
    fits : whether what backward returned holds gradients of the right shapes
    """
    candidates = ways(made, backward, known, options)
    for way in candidates:
        outputs, saved = way.parted(made)
        dys = tuple(map(ones, outputs if isinstance(outputs, tuple) else (outputs,)))
        values = way.given(outputs, saved, dys, known)
        rest = taken_by(backward, {n: known[n] for n in options if n not in way.roles}, len(values))
        try:
            raw = called("backward", backward, *values, **rest)
            if fits(raw if way.upstream else times(raw, dys[0])):
                return way
        except LayerFailure as failure:  # it is called in another way, or wrong
            if failure.kind in ("timeout", SLOW):
                raise
    return candidates[0] if candidates else None
