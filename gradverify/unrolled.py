"""Recurrent cells in use: one step, T steps, T steps in both directions; forward above backward.

Back-propagation through time needs nothing but the cell's own backward: the cotangent of a state is
what the next step gave for it, plus what came from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure, by_name, forwarded, handed
from gradverify.core.nouns import Array

Arrays = dict[str, Array]


@dataclass(frozen=True, init=False)
class Cell(Layer):
    """One step of a recurrence: a layer whose outputs are its next states.

    Attributes
    ----------
    states : primals that carry the state; forward returns their next values in this order
    inputs : primals that are given anew at each step; all others are parameters, the same at each step
    """

    states: tuple[str, ...]
    inputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "cell"

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Number of axes of each primal."""
        return {primal.name: len(primal.dims.axes) for primal in self.primals}

    @cached_property
    def rank(self) -> int:
        """Number of axes of the primal that has most."""
        return max(self.ranks.values())

    @cached_property
    def times(self) -> dict[str, int]:
        """Where the axis of time goes for each primal."""
        return {primal.name: time_axis(primal) for primal in self.primals}

    @cached_property
    def due(self) -> tuple[str, ...]:
        """Primals whose gradient each step gives: all that are differentiable and not declared zero."""
        return tuple(p.name for p in self.differentiable if p.name not in self.declared.zero)

    def pull(self, cotangents: tuple[Array, ...], saved: Any, options: Mapping[str, Any]) -> Arrays:
        """Gradients of one step by name; of every differentiable primal that is not declared zero.

        Raises LayerFailure if backward raises, or gives no gradient for a primal.
        """
        given = handed(self.backward, cotangents, saved)
        raw = self.backward(*given, **taken_by(self.backward, options, len(given)))  # the sequence is in a guard
        found = by_name(self, raw)
        for value in found.values():
            if isinstance(value, LayerFailure):
                raise value
        for name in self.due:
            if found.get(name) is None:
                message = f"backward of the cell {self.name!r} gives no gradient for {name}"
                raise LayerFailure("missing", "backward", message)
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Unrolled:
    """T steps of a cell, and back-propagation through time.

    Attributes
    ----------
    truncate : the gradient does not flow over the border between chunks of this many steps

    All arrays may have one more leading axis than declared (with axes of size 1 behind it): stacked
    copies, which go through the cell together if the cell broadcasts.
    """

    cell: Cell
    truncate: int | None = None

    @property
    def parts(self) -> tuple[Cell, ...]:
        return (self.cell,)

    def forward(self, *primals: Array, **options: Any) -> tuple[tuple[Array, ...], Any]:
        """The first state after each step, and the last value of every state.

        Saved are what the cell saved at each step, the primals by the cell's names, and the options.
        """
        values = dict(zip(self.cell.primal_names, primals))
        outputs, steps, _ = self._run(values, options)
        return outputs, (steps, values, options)

    def backward(self, cotangents: tuple[Array, ...], saved: Any) -> Arrays:
        """Gradients by name; those of the parameters are summed over the steps."""
        steps, values, options = saved
        cell, emitted = self.cell, cell_output(self.cell)
        upstream = np.moveaxis(cotangents[0], time_axis(emitted), 0)
        carry = {state: np.array(v) for state, v in zip(cell.states, cotangents[1:])}
        sums: Arrays = {}
        each: dict[str, list[Array]] = {name: [] for name in cell.inputs}
        for t in reversed(range(len(steps))):
            carry[emitted.name] = carry[emitted.name] + upstream[t]
            found = cell.pull(tuple(carry[state] for state in cell.states), steps[t], options)
            carry = {state: _shaped(cell, state, found.pop(state), carry[state], t) for state in cell.states}
            if self.border(t):
                carry = {state: np.zeros_like(v) for state, v in carry.items()}
            for name, value in found.items():
                if name in each:
                    each[name].insert(0, value)
                else:
                    sums[name] = sums[name] + value if name in sums else np.array(value)
        return self._gradients(values, carry, each, sums)

    def _gradients(self, values: Arrays, carry: Arrays, each: dict[str, list[Array]], sums: Arrays) -> Arrays:
        gradients = {f"{state}0": value for state, value in carry.items()}
        for primal in self.cell.differentiable:
            name = primal.name
            if name in carry:
                continue
            if each.get(name):
                gradients[name] = np.stack(each[name], axis=time_axis(primal))
            elif name not in self.cell.declared.zero:  # no step at all gives zeros, not a missing gradient
                gradients[name] = sums.get(name, np.zeros_like(values[name]))
        return gradients

    def border(self, t: int) -> bool:
        """Whether the states that enter step t come out of an earlier chunk."""
        return self.truncate is not None and t > 0 and t % self.truncate == 0

    def detached(self, *primals: Array, at: Mapping[str, Array], **options: Any) -> tuple[Array, ...]:
        """The outputs, where the states that enter each chunk stay what they are at the primals `at`."""
        names = [self.renamed(name) for name in self.cell.primal_names]
        held = {n: np.asarray(at[r]).astype(p.dtype) for n, r, p in zip(self.cell.primal_names, names, primals)}
        entered = self._run(held, options)[2]
        return self._run(dict(zip(self.cell.primal_names, primals)), options, entered)[0]

    def renamed(self, name: str) -> str:
        """The name that a primal of the cell has in this layer."""
        return f"{name}0" if name in self.cell.states else name

    def _run(
        self, values: Arrays, options: Mapping[str, Any], held: list[Arrays] | None = None
    ) -> tuple[tuple[Array, ...], tuple[Any, ...], list[Arrays]]:
        """Outputs, what the cell saved at each step, and the states that entered each step."""
        cell, emitted = self.cell, self.cell.states[0]
        states = {name: self._fitted(name, values[name]) for name in cell.states}
        first = states[emitted]
        entered, steps, out = [], [], []
        for t, step in enumerate(self._each_step(values)):
            states = held[t] if held is not None and self.border(t) else states
            entered.append(states)
            step |= states
            after, saved = forwarded(cell, cell.forward(*(step[name] for name in cell.primal_names), **options))
            states = dict(zip(cell.states, after))
            steps.append(saved)
            out.append(after[0])
        axis, every = cell.times[emitted], out or [first]
        if len({h.shape for h in every}) > 1:  # the first ones, where only later inputs are stacked copies
            every = list(np.broadcast_arrays(*every))
        stacked = np.stack(every, axis=axis)
        last = tuple(np.array(states[name]) for name in cell.states)
        return (stacked if out else np.delete(stacked, 0, axis), *last), tuple(steps), entered

    def _each_step(self, values: Arrays) -> Iterator[Arrays]:
        """The inputs of each step, and the parameters."""
        cell = self.cell
        fixed = {n: self._fitted(n, v) for n, v in values.items() if n not in cell.states and n not in cell.inputs}
        timed = {n: self._fitted(n, np.moveaxis(values[n], cell.times[n], 0), 1) for n in cell.inputs}
        for t in range(min(len(v) for v in timed.values())):
            yield {**fixed, **{name: v[t] for name, v in timed.items()}}

    def _fitted(self, name: str, array: Array, before: int = 0) -> Array:
        """Stacked copies with as many axes behind the first as the cell's primals need to broadcast.

        Parameters
        ----------
        before : axes in front of that of the copies
        """
        own = self.cell.ranks[name]
        if array.ndim <= own + before or self.cell.times[name] == 0:
            return array
        front, back = array.shape[: before + 1], array.shape[array.ndim - own :]
        return array.reshape(*front, *(1,) * (self.cell.rank - own), *back)

    def assume(self, **values: Any) -> bool:
        """Whether the cell's own predicate holds for the inputs of every step with the initial states."""
        start = {name: values[self.renamed(name)] for name in self.cell.primal_names}
        options = {name: values[name] for name in self.cell.options if name in values}
        states = {name: start[name] for name in self.cell.states}
        return all(self.cell.allows({**states, **step}, options) for step in self._each_step(start))


@dataclass(frozen=True, eq=False)
class Truncated:
    """The surrogate of truncated back-propagation through time: states do not move from chunk to chunk."""

    steps: Unrolled

    @property
    def __name__(self) -> str:
        return f"back-propagation truncated every {self.steps.truncate} step(s)"

    def __call__(self, *primals: Array, at: Mapping[str, Array], **options: Any) -> tuple[Array, ...]:
        return self.steps.detached(*primals, at=at, **options)


@dataclass(frozen=True, eq=False)
class Bidirectional:
    """A T-step layer over time and a second one, with states and parameters of its own, against it."""

    steps: Unrolled

    @property
    def parts(self) -> tuple[Cell, ...]:
        return self.steps.parts

    def forward(self, *primals: Array, **options: Any) -> tuple[tuple[Array, ...], Any]:
        """Both emitted states, concatenated along the last axis, and the last states of both directions."""
        cell, count = self.steps.cell, len(self.steps.cell.primals)
        rest = iter(primals[count:])
        against = [
            self._flipped(p, primals[k]) if p.name in cell.inputs else next(rest) for k, p in enumerate(cell.primals)
        ]
        (h, *last), saved = self.steps.forward(*primals[:count], **options)
        (h_reverse, *last_reverse), saved_reverse = self.steps.forward(*against, **options)
        pair = np.broadcast_arrays(h, self._flipped(cell_output(cell), h_reverse))
        return (np.concatenate(pair, axis=-1), *last, *last_reverse), (saved, saved_reverse)

    def backward(self, cotangents: tuple[Array, ...], saved: Any) -> Arrays:
        """Gradients by name; those of the inputs are summed over both directions."""
        cell, count = self.steps.cell, len(self.steps.cell.states)
        dh, dh_reverse = np.split(cotangents[0], 2, axis=-1)
        dh_reverse = self._flipped(cell_output(cell), dh_reverse)
        gradients = self.steps.backward((dh, *cotangents[1 : 1 + count]), saved[0])
        against = self.steps.backward((dh_reverse, *cotangents[1 + count :]), saved[1])
        for name, value in against.items():
            if name in cell.inputs:
                gradients[name] = gradients[name] + self._flipped(cell.primal(name), value)
            else:
                gradients[f"{name}_reverse"] = value
        return gradients

    def assume(self, **values: Any) -> bool:
        """Whether the cell's own predicate holds in both directions."""
        against = {name.removesuffix("_reverse"): v for name, v in values.items() if name.endswith("_reverse")}
        return self.steps.assume(**values) and self.steps.assume(**{**values, **against})

    def _flipped(self, primal: Primal, array: Array) -> Array:
        return np.flip(array, time_axis(primal))


def cell_output(cell: Cell) -> Primal:
    """The state that the T-step layer gives out after each step: the first."""
    return cell.primal(cell.states[0])


def time_axis(primal: Primal) -> int:
    """Where the axis of time goes, in front of a primal's own; from the end, as copies stack in front."""
    many = any(axis.kind == "many" for axis in primal.dims.axes)
    return 0 if many else -len(primal.dims.axes) - 1


def _shaped(cell: Cell, state: str, gradient: Array, cotangent: Array, t: int) -> Array:
    """The gradient of a state; it becomes the cotangent one step earlier, so a wrong shape must not go on."""
    if gradient.shape != cotangent.shape:
        message = (
            f"the gradient that the cell {cell.name!r} gives for {state} at step {t} has shape {gradient.shape}, "
            f"{state} has {cotangent.shape}"
        )
        raise LayerFailure("shape", "backward", message)
    return gradient
