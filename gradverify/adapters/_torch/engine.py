"""Torch code behind NumPy arrays: forward, backward by autograd, and the other ways into it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.adapters._torch.arrays import (
    Array,
    Tensor,
    Watch,
    array,
    elsewhere,
    import_torch,
    moved,
    place,
    tensor,
    tensors_in,
)
from gradverify.adapters._torch.direct import (
    fixed,
    laid_out_alike,
    one_by_one,
    one_thread,
    pulled,
    recorded,
    unmoved,
    with_saved_moved,
    without_tape,
)
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.failures import ELSEWHERE, error_line


@dataclass(frozen=True, slots=True)
class Tape:
    """What forward keeps for backward: the leaves, the outputs with their graph, and where they came from."""

    leaves: dict[str, Tensor]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any]
    watch: Watch
    again: Callable[[], tuple[Tensor, ...]]  # the same forward once more, for outputs with a graph of their own

    def nudged(self, rng: np.random.Generator, part: float | None = None) -> Tape:
        """With what autograd keeps moved by a unit in the last place, or by that part of itself."""
        return replace(self, outputs=with_saved_moved(self.again, int(rng.integers(1 << 31)), part))


@dataclass(frozen=True, slots=True)
class Engine:
    """One torch callable.

    Attributes
    ----------
    name : for messages
    call : (tensors by primal name, options) -> outputs in any nesting
    names : primals in the order of the layer's forward
    differentiable : names of the primals that require a gradient
    device : where tensors go
    kernel : the one floating type that the code takes, or None where it takes any
    updated : primals that the code updates in place (running statistics), so that each copy needs its own
    grid : the 8-bit floating type that differentiable primals are stored in; None where `kernel` is
    strict : None from backward stays None (a Function's own answer), else it is zero, as autograd means it
    """

    name: str
    call: Callable[[dict[str, Tensor], dict[str, Any]], Any]
    names: tuple[str, ...]
    differentiable: tuple[str, ...]
    device: Any
    kernel: Any = None
    grid: Any = None
    updated: tuple[str, ...] = ()
    strict: bool = False

    def but(self, **changes: Any) -> Engine:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    # -- the normal form --------------------------------------------------------------------

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Tape]:
        """Outputs as arrays, and the tape."""
        leaves = self._leaves(dict(zip(self.names, arrays)), self.differentiable)
        watch = self._watched(arrays, leaves.values())
        outputs = self._run(leaves, options)
        tape = Tape(leaves, outputs, options, watch, lambda: self._run(leaves, options))
        watch.write_back()
        found = tuple(array(y) for y in outputs)
        return (found[0] if len(found) == 1 else found), tape

    def backward(self, cotangents: Any, tape: Tape) -> dict[str, Array | None]:
        """Gradients by primal name, for cotangents as the layer's outputs are: one, or a tuple."""
        given = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        vs = self._cotangents(given, tape.outputs)
        watch = self._watched(given, vs)
        grads = self._grad(tape.outputs, tape.leaves, vs, tape.options)
        tape.watch.write_back()
        watch.write_back()
        return _arrays(grads, (*tape.leaves.values(), *vs), tape.leaves if not self.strict else {})

    def wants(self, cotangents: tuple[Array, ...], tape: Tape, names: tuple[str, ...]) -> dict[str, Array | None]:
        """Gradients of some primals, by a forward in which no other requires one."""
        leaves = {n: t.detach().requires_grad_(n in names) for n, t in tape.leaves.items()}
        outputs = self._run(leaves, tape.options)
        vs = self._cotangents(cotangents, outputs)
        grads = self._grad(outputs, leaves, vs, tape.options)
        return _arrays(grads, (*leaves.values(), *vs), leaves)

    # -- other derivatives ------------------------------------------------------------------

    def second(
        self, primals: Mapping[str, Array], cotangents: tuple[Array, ...], weights: Mapping[str, Array], **options: Any
    ) -> dict[str | None, Any]:
        """Gradient of the weighted sum of the gradients, by differentiating backward once more.

        By cotangents under None. Empty where autograd recorded nothing of backward.
        """
        torch = import_torch()
        leaves = self._leaves(primals, self.differentiable)
        outputs = self._run(leaves, options)
        vs = tuple(v.requires_grad_(v.is_floating_point()) for v in self._cotangents(cotangents, outputs))
        grads = self._grad(outputs, leaves, vs, options, create_graph=True)
        parts = [
            (g.conj() * tensor(weights[n], g.device).to(g.dtype)).real.sum()
            for n, g in grads.items()
            if g is not None and n in weights and g.requires_grad
        ]
        if not parts:
            return {}
        if any(_forbidden(g) for g in grads.values() if g is not None):
            raise LayerFailure("missing", "second backward", "no second backward: marked with @once_differentiable")
        wanted = [*(leaves[n] for n in grads), *(v for v in vs if v.requires_grad)]
        with self._explained("second backward"), fixed(self.device, 2), one_thread(_elements(leaves)):
            try:
                found = self._within(
                    leaves, options, lambda: torch.autograd.grad(sum(parts), wanted, allow_unused=True)
                )
            except RuntimeError as error:
                if "is not implemented" in str(error):
                    raise LayerFailure("missing", "second backward", f"no second backward: {error}") from None
                raise
        full = [array(torch.zeros_like(t) if g is None else g) for t, g in zip(wanted, found)]
        upstream = iter(full[len(grads) :])
        arrays: dict[str | None, Any] = dict(zip(grads, full))
        return arrays | {None: tuple(next(upstream) if v.requires_grad else None for v in vs)}

    def jvp(self, primals: Mapping[str, Array], tangents: Mapping[str, Array], **options: Any) -> tuple[Array, ...]:
        """Tangents of the outputs by forward-mode differentiation."""
        torch = import_torch()
        mode = torch.autograd.forward_ad
        leaves = self._leaves(primals, ())
        with warnings.catch_warnings(), mode.dual_level():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch, while it loads its rules
            duals = dict(leaves)
            for name, tangent in tangents.items():
                duals[name] = mode.make_dual(leaves[name], tensor(tangent, self.device).to(leaves[name].dtype))
            try:
                outputs = self._run(duals, options)
            except NotImplementedError as error:
                raise LayerFailure("missing", "jvp", f"no forward mode: {str(error).splitlines()[0]}") from None
            pairs = [mode.unpack_dual(y) for y in outputs]
            return tuple(array(torch.zeros_like(p.primal) if p.tangent is None else p.tangent) for p in pairs)

    # -- many copies at once ----------------------------------------------------------------

    def broadcast(self, primals: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """Outputs at primals of which some have leading axes, as the code's own operations broadcast them.

        Raises LayerFailure if the code draws random numbers, of which each copy would get others, or fails.
        """
        elements = sum(a.size for a in primals.values())
        leaves = self._stacks({n: primals[n] for n in self.names})
        try:
            with import_torch().no_grad(), without_tape(), unmoved(self.device), one_thread(elements):
                return tuple(array(y) for y in tensors_in(self.call(leaves, dict(options))))
        except Exception as error:  # whatever it is, the loop says it better
            raise LayerFailure("crash", "forward", f"not broadcast: {error}") from error

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """Outputs, each with a leading axis, at primals by `torch.func.vmap`; what all copies share has a length of 1.

        Raises LayerFailure if the code cannot be vectorised; the caller goes copy by copy then.
        """
        full, shared, _ = self._spread(stack)
        try:
            with import_torch().no_grad(), without_tape():
                return tuple(array(y) for y in self._vectorised(full, shared, options))
        except Exception as error:  # whatever it is, the loop says it better
            raise LayerFailure("crash", "forward", f"not vectorised: {error}") from error

    def looped(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """As `batched`, by calling the code once for each copy, without a graph."""
        full, shared, count = self._spread(stack)
        leaves = self._stacks(full)

        def single(k: int) -> tuple[Tensor, ...]:
            copy = {n: t if n in shared else t[k] for n, t in leaves.items()}
            return tensors_in(self.call(copy, dict(options)))

        try:
            with import_torch().no_grad(), without_tape(), fixed(self.device), one_thread(_elements(leaves) // count):
                return tuple(array(y) for y in one_by_one(single, count, self.device))
        except Exception as error:  # whatever it is, the loop says it better
            raise LayerFailure("crash", "forward", f"a copy fails: {error}") from error

    def _stacks(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Stacks as tensors; to a device they go without what lies between their elements."""
        there = getattr(self.device, "type", "cpu") != "cpu"
        return {n: tensor(np.ascontiguousarray(a) if there else a, self.device, self.kernel) for n, a in arrays.items()}

    def _spread(self, stack: Mapping[str, Array]) -> tuple[dict[str, Array], frozenset[str], int]:
        """Primals in order, those that all copies share (without a leading axis), and the number of copies."""
        if set(stack) != set(self.names):
            raise LayerFailure("crash", "forward", "the stack lacks a primal")
        count = max(a.shape[0] for a in stack.values())
        shared = frozenset(n for n, a in stack.items() if a.shape[0] == 1 < count and n not in self.updated)
        full = {n: stack[n][0] if n in shared else stack[n] for n in self.names}
        full |= {n: np.repeat(stack[n], count // stack[n].shape[0], axis=0) for n in self.updated}
        return full, shared, count

    def _vectorised(
        self, stack: Mapping[str, Array], shared: frozenset[str], options: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """Outputs at a stack in which the `shared` primals have no leading axis."""
        torch = import_torch()
        count = next(a.shape[0] for n, a in stack.items() if n not in shared)
        arguments = list(self._stacks(stack).values())
        axes = tuple(None if n in shared else 0 for n in stack)

        def single(*tensors: Tensor) -> tuple[Tensor, ...]:
            return tensors_in(self.call(dict(zip(self.names, tensors)), dict(options)))

        try:
            with fixed(self.device), one_thread(sum(t.numel() for t in arguments)):
                mapped = torch.func.vmap(single, axes, randomness="same")
                outputs: tuple[Tensor, ...] = mapped(*arguments)
                return outputs
        except torch.cuda.OutOfMemoryError:
            if count < 2:
                raise
            halves = [
                {n: a if n in shared else a[part] for n, a in stack.items()}
                for part in (slice(0, count // 2), slice(count // 2, None))
            ]
            parts = [self._vectorised(half, shared, options) for half in halves]
            return tuple(torch.cat(pair) for pair in zip(*parts))

    # -- within -----------------------------------------------------------------------------

    def _leaves(self, arrays: Mapping[str, Array], wanted: tuple[str, ...]) -> dict[str, Tensor]:
        leaves = {name: self._leaf(name, a) for name, a in arrays.items()}
        return {name: t.requires_grad_(name in wanted) for name, t in leaves.items()}

    def _leaf(self, name: str, array: Array) -> Tensor:
        """In the kernel's type; of values that its 8-bit type has, where there is one."""
        coarse = self.grid is not None and name in self.differentiable
        stored = tensor(array, self.device, self.grid if coarse else self.kernel)
        return moved(stored, self.device, self.kernel) if coarse else stored

    def _run(self, leaves: dict[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, ...]:
        with self._explained("forward"), fixed(self.device), one_thread(_elements(leaves)):
            raw = laid_out_alike(lambda tensors: self.call(tensors, dict(options)), leaves, self.device)
        outputs = tensors_in(raw)
        if not outputs:
            raise LayerFailure("outputs", "forward", f"{self.name!r} returned no tensor but a {type(raw).__name__}")
        differentiable = [y for y in outputs if y.requires_grad]
        return tuple(differentiable) if self.strict and differentiable else outputs

    def _cotangents(self, given: tuple[Array, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor(v, y.device, y.dtype if y.is_floating_point() else None) for v, y in zip(given, outputs))

    def _grad(
        self,
        outputs: tuple[Tensor, ...],
        leaves: Mapping[str, Tensor],
        cotangents: tuple[Tensor, ...],
        options: Mapping[str, Any],
        create_graph: bool = False,
    ) -> dict[str, Tensor | None]:
        pairs = [(y, v) for y, v in zip(outputs, cotangents) if y.requires_grad]
        if not pairs:
            raise LayerFailure(
                "missing",
                "backward",
                f"no output of {self.name!r} has a gradient: it was detached, computed under no_grad, or turned "
                "into NumPy on the way",
            )
        wanted = {n: t for n, t in leaves.items() if t.requires_grad}
        ys, inputs, vs = [y for y, _ in pairs], list(wanted.values()), [v for _, v in pairs]

        def run() -> Any:
            return recorded(ys, inputs, vs) if create_graph else pulled(ys, inputs, vs)

        with self._explained("backward"), fixed(self.device, 1), one_thread(_elements(leaves)):
            found = self._within(leaves, options, run)
        return dict(zip(wanted, found))

    def _within(self, leaves: Mapping[str, Tensor], options: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """What `run` gives; a module has the state of the primals meanwhile, since backward may run it again."""
        within = getattr(self.call, "within", None)
        return run() if within is None else within(dict(leaves), dict(options), run)

    def _watched(self, arrays: Iterable[Array], tensors: Iterable[Tensor]) -> Watch:
        elsewhere = self.kernel is not None or getattr(self.device, "type", "cpu") != "cpu"
        return Watch(zip(arrays, tensors) if elsewhere else ())

    @contextmanager
    def _explained(self, stage: str) -> Iterator[None]:
        """Turn what torch says into what the author can do."""
        try:
            yield
        except LayerFailure:
            raise
        except Exception as error:
            hint = elsewhere(error, self.device)
            if hint is not None:
                said = f"{stage} of {self.name!r} cannot run on the device {self.device}"
                raise LayerFailure(ELSEWHERE, stage, f"{said}: {error_line(error)}; {hint}") from error
            if not isinstance(error, RuntimeError):
                raise
            text = str(error)
            counts = re.search(r"(\w+) returned an incorrect number of gradients \(expected (\d+), got (\d+)\)", text)
            if counts:
                who, expected, got = counts[1].removesuffix("Backward"), int(counts[2]), int(counts[3])
                kind = "missing" if got < expected else "surplus"
                raise LayerFailure(
                    kind,
                    stage,
                    f"backward of {who!r} returns {got} gradient(s) for {expected} argument(s) of forward; "
                    "None stands for an argument that has none",
                ) from error
            hint = _hint(text)
            if hint:
                raise LayerFailure("crash", stage, f"{stage} raised {type(error).__name__}: {text}; {hint}") from error
            raise


def _forbidden(value: Tensor) -> bool:
    """Whether a gradient passed a Function that is differentiable once; no path leads on from there."""
    pending, seen = [value.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith(("autograd::Error", "DelayedError")):
            return True
        seen.add(node)
        pending.extend(following for following, _ in node.next_functions)
    return False


def _elements(leaves: Mapping[str, Tensor]) -> int:
    return sum(t.numel() for t in leaves.values())


def _hint(text: str) -> str:
    if "same device" in text:
        return "primals go where device=... says, by default to the CPU or to the module's parameters"
    if re.search(r"not implemented for '(Half|BFloat16)'", text) or "Low precision dtypes not supported" in text:
        return 'this device has no kernel for that type; check with dtype="float32" or device="cuda"'
    if "must have the same dtype" in text or "same dtype" in text or "expected scalar type" in text:
        return (
            "the code mixes floating types: make its constants follow the inputs, or declare kernel=..., reference=..."
        )
    return ""


def _arrays(
    grads: Mapping[str, Tensor | None], others: tuple[Tensor, ...], zeros: Mapping[str, Tensor]
) -> dict[str, Array | None]:
    """Arrays that share memory with nothing: a Function may return its cotangent, autograd never adds in place.

    None becomes zeros like the tensor of that name in `zeros`, where there is one.
    """
    taken = {place(t) for t in others}
    found: dict[str, Array | None] = {}
    for name, g in grads.items():
        if g is None:
            found[name] = np.zeros_like(array(zeros[name])) if name in zeros else None
            continue
        g = g.detach()
        g = g.clone() if place(g) in taken or not g.is_contiguous() else g
        taken.add(place(g))
        found[name] = array(g)
    return found
