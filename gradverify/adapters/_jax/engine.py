"""JAX code behind NumPy arrays: compiled forward and pullback, and the other ways into it.

Compiling costs tens of milliseconds for each new shape, and calling what is compiled some
microseconds; so everything is compiled, and few copies go one by one where many go by `jax.vmap`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure

Array = Any  # numpy.ndarray or jax.Array
# in what JAX raises
_NO_RULE = "custom_vjp|do not support JVP|not support reverse-mode|Linearization failed|does not work for lax"
_SYMBOLIC = "symbolic_zeros=True"  # in what JAX prints of a traced function, of any rule that takes them
_FEW = 512  # copies that are not worth a compilation of their own


def import_jax() -> Any:
    """The module jax; raises DeclarationError if it is not installed, with the extra that brings it."""
    try:
        import jax
    except ImportError as error:
        raise DeclarationError(f"jax cannot be imported ({error}): pip install 'gradverify[jax]'") from None
    return jax


@dataclass(frozen=True)
class Tape:
    """What forward keeps for backward: a pure function is called again, on the same arguments.

    Attributes
    ----------
    moved : a seed, and the part of itself by which what JAX keeps for backward moves; none where that stays
    """

    primals: dict[str, Array]
    options: Mapping[str, Any]
    moved: tuple[int, float | None] | None = None

    def nudged(self, rng: np.random.Generator, part: float | None = None) -> Tape:
        """With what JAX keeps moved by a unit in the last place, or by that part of itself."""
        return replace(self, moved=(int(rng.integers(1 << 31)), part))


@dataclass(frozen=True)
class Engine:
    """One JAX callable.

    Attributes
    ----------
    name : for messages
    call : (arrays by primal name, options) -> outputs in any pytree
    names : primals in the order of the layer's forward
    differentiable : names of the primals that get a gradient
    """

    name: str
    call: Callable[[dict[str, Any], dict[str, Any]], Any]
    names: tuple[str, ...]
    differentiable: tuple[str, ...]
    _compiled: dict[Any, Any] = field(default_factory=dict)
    _plain: set[str] = field(default_factory=set)  # kinds of call that cannot be compiled: control flow on values

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Tape]:
        """Outputs as arrays, and the tape."""
        primals = {n: np.array(a) for n, a in zip(self.names, arrays)}
        found = self._do("forward", self._outputs(options), options, primals)
        if not found:
            raise LayerFailure("outputs", "forward", f"{self.name!r} returned no array")
        return (found[0] if len(found) == 1 else found), Tape(primals, options)

    def backward(self, cotangents: Any, tape: Tape) -> dict[str, Array]:
        """Gradients by primal name, for cotangents as the layer's outputs are: one, or a tuple."""
        return self._pull(cotangents, tape, self.differentiable)

    def wants(self, cotangents: tuple[Array, ...], tape: Tape, names: tuple[str, ...]) -> dict[str, Array] | None:
        """Gradients of some primals; the others are constants of the function that is differentiated.

        None where no rule of the author's is told which are which: JAX tells those with symbolic zeros alone, and each
        subset would be compiled by itself.
        """
        return self._pull(cotangents, tape, names) if self._symbolic(tape) else None

    def _symbolic(self, tape: Tape) -> bool:
        """Whether a rule in what is called takes symbolic zeros; asked once for each choice of options."""
        jax = import_jax()
        key = "symbolic", repr(sorted(tape.options.items()))
        if key not in self._compiled:
            try:
                with _precision(tape.primals):
                    traced = str(jax.make_jaxpr(self._outputs(tape.options))(tape.primals))
            except Exception:  # noqa: BLE001  control flow on values, as a rule: it cannot be traced, and must be asked
                traced = _SYMBOLIC
            self._compiled[key] = _SYMBOLIC in traced
        return bool(self._compiled[key])

    def second(
        self, primals: Mapping[str, Array], cotangents: tuple[Array, ...], weights: Mapping[str, Array], **options: Any
    ) -> dict[str | None, Any]:
        """Gradient of the weighted sum of the gradients, by differentiating the pullback once more.

        By cotangents under None, where all of them have a derivative.
        """
        jax = import_jax()

        def weighted(moving: dict[str, Any], rest: dict[str, Any], vs: Any, w: dict[str, Any]) -> Any:
            grads = self._pullback(moving, rest, vs, options)
            return sum((jax.numpy.conj(w[n]) * g).real.sum() for n, g in grads.items() if n in w)

        moving, rest = self._parted({n: primals[n] for n in self.names}, self.differentiable)
        arguments = moving, rest, _like(tuple(cotangents)), dict(weights)
        with _ruled("second backward", "no second backward"):
            if any(np.asarray(v).dtype.kind not in "fc" for v in cotangents):
                return dict(self._do("second", jax.grad(weighted), options, *arguments))
            by_primal, upstream = self._do("second upstream", jax.grad(weighted, (0, 2)), options, *arguments)
            return {**by_primal, None: upstream if isinstance(upstream, tuple) else (upstream,)}

    def jvp(self, primals: Mapping[str, Array], tangents: Mapping[str, Array], **options: Any) -> tuple[Array, ...]:
        """Tangents of the outputs by forward-mode differentiation."""
        jax = import_jax()
        moving, rest = self._parted({n: primals[n] for n in self.names}, tuple(tangents))
        along = {n: np.asarray(tangents[n], moving[n].dtype) for n in moving}

        def pushed(moving: dict[str, Any], rest: dict[str, Any], along: dict[str, Any]) -> Any:
            outputs = self._outputs(options)
            return jax.jvp(lambda m: outputs({**rest, **m}), (moving,), (along,))[1]

        with _ruled("jvp", "no forward mode"):
            return tuple(self._do("jvp", pushed, options, moving, rest, along))

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """Outputs, each with a leading axis, at primals by `jax.vmap`; what all copies share has a length of 1.

        Raises LayerFailure if the code cannot be vectorised; the caller goes copy by copy then.
        """
        if set(stack) != set(self.names):
            raise LayerFailure("crash", "forward", "the stack lacks a primal")
        count = max(a.shape[0] for a in stack.values())
        if count <= _FEW:
            return self._rows(stack, options, count)
        try:
            return self._mapped(stack, options, count)
        except Exception as error:  # whatever it is, the loop says it better
            raise LayerFailure("crash", "forward", f"not vectorised: {error}") from error

    # -- within -----------------------------------------------------------------------------

    def _rows(self, stack: Mapping[str, Array], options: Mapping[str, Any], count: int) -> tuple[Array, ...]:
        function = self._outputs(options)
        rows = [
            self._do("forward", function, options, {n: stack[n][k % stack[n].shape[0]] for n in self.names})
            for k in range(count)
        ]
        return tuple(np.stack(parts) for parts in zip(*rows))

    def _mapped(self, stack: Mapping[str, Array], options: Mapping[str, Any], count: int) -> tuple[Array, ...]:
        """Padded to a power of two, so that few sizes are compiled."""
        jax = import_jax()
        size = 1 << (count - 1).bit_length()
        shared = {n: stack[n][0] for n in self.names if stack[n].shape[0] == 1}
        moving = {n: _padded(stack[n], size) for n in self.names if n not in shared}
        outputs = self._outputs(options)

        def mapped(moving: dict[str, Any], shared: dict[str, Any]) -> Any:
            return jax.vmap(lambda m: outputs({**shared, **m}))(moving)

        return tuple(y[:count] for y in self._do(f"mapped {sorted(moving)}", mapped, options, moving, shared))

    def _pull(self, cotangents: Any, tape: Tape, names: tuple[str, ...]) -> dict[str, Array]:
        given = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        moving, rest = self._parted(tape.primals, names)
        seed, part = tape.moved or (None, None)

        def pulled(moving: dict[str, Any], rest: dict[str, Any], vs: Any, seed: Any) -> Any:
            return self._pullback(moving, rest, vs, tape.options, seed, part)

        kind = f"backward {names}" if seed is None else f"backward {names}, moved by {part}"
        return dict(self._do(kind, pulled, tape.options, moving, rest, _like(given), seed))

    def _pullback(
        self,
        moving: dict[str, Any],
        rest: dict[str, Any],
        vs: Any,
        options: Mapping[str, Any],
        seed: Any = None,
        part: float | None = None,
    ) -> Any:
        jax = import_jax()
        outputs = self._outputs(options)
        ys, pull = jax.vjp(lambda m: outputs({**rest, **m}), moving)
        if seed is not None:
            pull = _nudged(pull, seed, part)
        return pull(tuple(_cotangent(v, y) for v, y in zip(vs, ys)))[0]

    def _parted(self, primals: Mapping[str, Array], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        moving = {n: np.asarray(primals[n]) for n in self.names if n in names}
        return moving, {n: np.asarray(primals[n]) for n in self.names if n not in names}

    def _outputs(self, options: Mapping[str, Any]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
        jax = import_jax()
        return lambda arrays: tuple(jax.tree_util.tree_leaves(self.call(dict(arrays), dict(options))))

    def _do(self, kind: str, function: Callable[..., Any], options: Mapping[str, Any], *arguments: Any) -> Any:
        """Call by its compiled form, or as it is where its control flow depends on values; results as NumPy arrays."""
        jax = import_jax()
        key = kind, repr(sorted(options.items()))
        with _precision(arguments):
            if kind not in self._plain:
                compiled = self._compiled.get(key)
                if compiled is None:
                    compiled = self._compiled[key] = jax.jit(function, compiler_options=_quick())
                try:
                    return jax.tree_util.tree_map(_array, compiled(*arguments))
                except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
                    self._plain.add(kind)
            concrete = jax.tree_util.tree_map(jax.numpy.asarray, arguments)
            return jax.tree_util.tree_map(_array, function(*concrete))


@functools.cache
def _quick() -> dict[str, Any] | None:
    """On a CPU, compile in a quarter of the time to code that is as fast for small arrays."""
    jax = import_jax()
    if jax.default_backend() != "cpu":
        return None
    plain = {"xla_backend_optimization_level": 0}
    for options in ({**plain, "xla_cpu_use_fusion_emitters": False}, plain):
        try:
            jax.jit(lambda: 0.0, compiler_options=options).lower().compile()
        except Exception:  # noqa: BLE001  this version of XLA has no such option
            continue
        return options
    return None


@contextmanager
def _precision(arguments: Any) -> Iterator[None]:
    """64 bits where an argument has them, else what the user has set."""
    jax = import_jax()
    leaves = jax.tree_util.tree_leaves(arguments)
    wide = any(a.dtype in (np.float64, np.complex128) for a in leaves if hasattr(a, "dtype"))
    if not wide:
        yield
        return
    switch = jax.enable_x64 if hasattr(jax, "enable_x64") else _experimental().enable_x64
    with switch(True):
        yield


@contextmanager
def _ruled(stage: str, lacking: str) -> Iterator[None]:
    """What JAX, or the code, has no rule for is missing, and no crash."""
    try:
        yield
    except (NotImplementedError, TypeError, ValueError) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        if isinstance(error, NotImplementedError) or re.search(_NO_RULE, text):
            raise LayerFailure("missing", stage, f"{lacking}: {text}") from None
        raise


def _experimental() -> Any:
    from jax import experimental

    return experimental


def _nudged(kept: Any, seed: Any, part: float | None) -> Any:
    """A pytree whose numbers are moved by a unit in their last place, or by that part of themselves."""
    jax = import_jax()
    leaves, tree = jax.tree_util.tree_flatten(kept)
    keys = jax.random.split(jax.random.PRNGKey(seed), max(1, len(leaves)))

    def moved(value: Any, key: Any) -> Any:
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.inexact):
            return value
        eps = jax.numpy.finfo(value.dtype).eps if part is None else part
        return (value * (1 + eps * jax.random.randint(key, value.shape, -1, 2))).astype(value.dtype)

    return jax.tree_util.tree_unflatten(tree, [moved(value, key) for value, key in zip(leaves, keys)])


def _like(cotangents: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(np.array(v) for v in cotangents)


def _cotangent(v: Any, y: Any) -> Any:
    """In the output's own type; integers have cotangents without values."""
    jax = import_jax()
    if jax.numpy.issubdtype(y.dtype, jax.numpy.inexact):
        return jax.numpy.asarray(v, y.dtype)
    return np.zeros(y.shape, jax.dtypes.float0)


def _array(value: Any) -> Array:
    """As NumPy has it; bfloat16 and smaller floating types become float32, which holds their values exactly."""
    found = np.asarray(value)
    return found.astype(np.float32) if found.dtype.kind == "V" else found


def _padded(array: Array, size: int) -> Array:
    short = size - array.shape[0]
    return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short else array
