"""Recurrent cells declared: from a step that an author wrote to the layers that are checked.

A cell is a class in the style of every other layer that also names its `states`. Registering it
gives two layers: the cell, and the cell repeated T times with back-propagation through time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradverify.adapters import as_layer, register
from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.errors import DeclarationError
from gradverify.unrolled import Bidirectional, Cell, Truncated, Unrolled, cell_output

TIME = "T"


def register_cell(target: Any = None, /, *, sequence: str | bool | None = None, **declaration: Any) -> Any:
    """Put a cell and its T-step layer into the registry; returns its argument, so it is also a decorator.

    Parameters
    ----------
    target : a class with static forward and backward, dimension strings as attributes, and
        `states`; or anything an adapter recognises, with `states` given here
    sequence : name of the T-step layer; by default the cell's without "_cell" (``lstm_cell`` gives
        ``lstm``), or with "_sequence" where it does not end so; False registers the cell alone.
        May also be an attribute of the class
    **declaration : `states`, `inputs` (default: every primal that is no state and has the batch
        axis), and what `gradverify.register` takes

    Raises
    ------
    DeclarationError
        Naming the cell, if it cannot be used as one, or a name is taken.
    """
    if target is None:
        return lambda inner: register_cell(inner, sequence=sequence, **declaration)
    cell = as_cell(target, **declaration)
    wanted = getattr(target, "sequence", True) if sequence is None else sequence
    steps = unroll(cell, name=wanted if isinstance(wanted, str) else None) if wanted else None
    register(cell)
    if steps is not None:
        register(steps)
    return target


def as_cell(
    target: Any,
    /,
    *,
    states: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | None = None,
    **declaration: Any,
) -> Cell:
    """A Cell from a Cell, a registered name, a class, or anything an adapter recognises.

    Raises DeclarationError, naming the cell, if it cannot be used as one, and TargetError if no layer has that name.
    """
    if isinstance(target, str):
        target = layers.get(target)
    if isinstance(target, Cell) and states is None and inputs is None and not declaration:
        return target
    layer = as_layer(target, **declaration)
    states = _tuple(getattr(target, "states", ()) if states is None else states)
    inputs = _tuple(getattr(target, "inputs", ()) if inputs is None else inputs)
    _validate_states(layer, states)
    inputs = inputs or _per_step(layer, states)
    _validate_inputs(layer, states, inputs)
    cell = Cell.__new__(Cell)
    cell._set(**{**vars(layer), "states": states, "inputs": inputs})
    cell._set(returns=layer.returns or {state: layer.primal(state).dims for state in states})
    return cell


def unroll(target: Any, *, truncate: int | None = None, name: str | None = None) -> Layer:
    """The T-step layer of a cell; its backward is back-propagation through time.

    Its primals are the cell's: inputs with a leading axis T, states as initial states (``h`` becomes ``h0``),
    parameters as they are. Its outputs are the first state after each step and the last value of every state: ``h`` (T,
    ...), ``h_T``, ``c_T``. With T = 0 these are the initial states. Raises DeclarationError if the layer cannot be
    derived from the cell.

    Parameters
    ----------
    target : what `as_cell` takes
    truncate : no gradient flows over the border between chunks of this many steps (truncated
        back-propagation through time); declared as a surrogate, so that a check knows
    name : of the layer; by default from the cell's, see `register_cell`
    """
    cell = as_cell(target)
    _validate_repeatable(cell)
    if truncate is not None and (not isinstance(truncate, int) or truncate < 1):
        raise DeclarationError(f"cell {cell.name!r}, truncate: the number of steps must be 1 or more, got {truncate!r}")
    steps = Unrolled(cell, truncate)
    return Layer(
        steps.forward,
        steps.backward,
        name=name or _sequence_name(cell.name) + (f"_truncated_{truncate}" if truncate else ""),
        primals={steps.renamed(p.name): _spec(p, timed=p.name in cell.inputs) for p in cell.primals},
        returns={cell.states[0]: f"{TIME} {cell_output(cell).dims.text}", **_last(cell)},
        assume=steps.assume if cell.assume else None,
        surrogate=Truncated(steps) if truncate else None,
        **_inherited(cell, steps.renamed),
    )


def bidirectional(target: Any, *, name: str | None = None) -> Layer:
    """The T-step layer of a cell in both directions of time, emitted states concatenated along the last axis.

    The reverse direction has initial states and parameters of its own, named with "_reverse" (``W_reverse``), and its
    last states are those after the first time step, as in torch. Raises DeclarationError if the layer cannot be derived
    from the cell.

    Parameters
    ----------
    target : what `as_cell` takes
    name : of the layer; by default "bi" and the name of the T-step layer (``bilstm``)
    """
    cell = as_cell(target)
    _validate_repeatable(cell)
    steps = Unrolled(cell)
    both = Bidirectional(steps)
    against = [p for p in cell.primals if p.name not in cell.inputs]
    primals = {steps.renamed(p.name): _spec(p, timed=p.name in cell.inputs) for p in cell.primals}
    inherited = _inherited(cell, steps.renamed)
    for key in ("zero", "constants"):
        inherited[key] += tuple(f"{n}_reverse" for n in inherited[key] if n not in cell.inputs)
    return Layer(
        both.forward,
        both.backward,
        name=name or f"bi{_sequence_name(cell.name)}",
        primals={**primals, **{f"{steps.renamed(p.name)}_reverse": _spec(p, timed=False) for p in against}},
        returns={cell.states[0]: _doubled(cell_output(cell)), **_last(cell), **_last(cell, "_reverse")},
        assume=both.assume if cell.assume else None,
        **inherited,
    )


def _sequence_name(name: str) -> str:
    return name[: -len("_cell")] if name.endswith("_cell") and name != "_cell" else f"{name}_sequence"


def _last(cell: Cell, suffix: str = "") -> dict[str, str]:
    return {f"{state}_{TIME}{suffix}": cell.primal(state).dims.text for state in cell.states}


def _doubled(state: Primal) -> str:
    """Dimensions of both directions of a state side by side, e.g. "T N 2*H"."""
    *front, width = state.dims.text.split()
    return " ".join([TIME, *front, f"2*{width}" if width.isidentifier() else f"2*({width})"])


def _spec(primal: Primal, timed: bool) -> tuple[str, Any]:
    domain = primal.domain
    text = f"{TIME} {primal.dims.text}" if timed else primal.dims.text
    return text, domain.text if domain.strategy is None else domain.strategy


def _inherited(cell: Cell, renamed: Callable[[str], str]) -> dict[str, Any]:
    """Declarations of the cell that hold for its T steps as well."""
    return {
        "options": cell.options,
        "batch": cell.batch,
        "empty": cell.empty,
        "kinks": cell.declared.kinks,
        "conjugate": cell.declared.conjugate,
        "jumps": cell.declared.jumps,
        "accuracy": cell.declared.accuracy,
        "zero": tuple(renamed(name) for name in cell.declared.zero),
        "constants": tuple(renamed(p.name) for p in cell.primals if not p.differentiable),
        "doc": f"T steps of {cell.name}. {cell.doc}".strip(),
    }


# -- what can be wrong with a cell --------------------------------------------------------------


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(names.split() if isinstance(names, str) else names)


def _validate_states(layer: Layer, states: tuple[str, ...]) -> None:
    if not states:
        raise DeclarationError(
            f'cell {layer.name!r} does not say which primals are its states; add e.g. states = ("h", "c")'
        )
    for state in states:
        if state not in layer.primal_names:
            raise DeclarationError(
                f"cell {layer.name!r}, states: there is no primal {state!r} (has {', '.join(layer.primal_names)})"
            )
        if not layer.primal(state).differentiable:
            raise DeclarationError(f"cell {layer.name!r}, states: {state!r} is not differentiable")
    if layer.returns and len(layer.returns) != len(states):
        raise DeclarationError(
            f"cell {layer.name!r} returns {', '.join(layer.returns)}, its states are {', '.join(states)}: "
            "forward must return the next value of each state, in the order of states"
        )


def _per_step(layer: Layer, states: tuple[str, ...]) -> tuple[str, ...]:
    if layer.batch is None:
        raise DeclarationError(
            f'cell {layer.name!r} has no batch axis to tell inputs from parameters; declare batch = "N" '
            'or name the inputs: inputs = ("x",)'
        )
    return tuple(p.name for p in layer.primals if p.name not in states and layer.batch in p.dims.names)


def _validate_inputs(layer: Layer, states: tuple[str, ...], inputs: tuple[str, ...]) -> None:
    if not inputs:
        raise DeclarationError(f"cell {layer.name!r} has no input, so nothing tells the number of steps")
    others = [name for name in layer.primal_names if name not in states]
    for name in inputs:
        if name not in others:
            raise DeclarationError(
                f"cell {layer.name!r}, inputs: {name!r} is not among the primals that are no state "
                f"({', '.join(others) or 'there are none'})"
            )


def _validate_repeatable(cell: Cell) -> None:
    declared = cell.declared
    for reason, found in (
        ("declares a surrogate", declared.surrogate is not None),
        ("declares a factor", declared.factor != 1.0),
        ("declares the gradient of a state as zero", not set(declared.zero).isdisjoint(cell.states)),
        ("keeps state on itself", declared.stateful or cell.hooks.session is not None),
    ):
        if found:
            raise DeclarationError(
                f"cell {cell.name!r} {reason}, so its T-step layer cannot be derived; register the cell alone "
                "with sequence=False, and the T steps as a layer of their own with gradverify.register"
            )
    if any(TIME in primal.dims.names for primal in cell.primals):
        raise DeclarationError(f"cell {cell.name!r} has an axis {TIME}, which is time here; give it another name")
    taken = {f"{state}0" for state in cell.states} & set(cell.primal_names)
    if taken:
        raise DeclarationError(f"cell {cell.name!r} has a primal {min(taken)!r}, the name of an initial state")
