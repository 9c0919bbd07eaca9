"""Differences of torch code along single entries, from perturbed copies to contracted numbers on one device.

The copies of one primal are made once, and reused: each chunk writes its perturbed entries into them and takes
them back. Only the contracted differences come back as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters._torch_arrays import Array, Tensor, import_torch, tensor, tensors_in
from gradverify.adapters._torch_direct import fixed, one_by_one, one_thread, unmoved, without_tape
from gradverify.adapters._torch_engine import Engine
from gradverify.evaluate import LayerFailure
from gradverify.layer import Contraction

_SHARE = 8  # of a device's free memory, one part in this many is taken by copies and outputs


@dataclass(frozen=True)
class Slopes:
    """See `Hooks.slopes`."""

    engine: Engine

    def __call__(
        self, primals: Mapping[str, Array], name: str, entries: Array, a: Array, b: Array, how: Contraction
    ) -> tuple[Array, Array, Array, Array]:
        engine, torch = self.engine, import_torch()
        if engine.updated:
            raise LayerFailure("crash", "forward", "the code updates its primals in place")
        leaves = {n: tensor(primals[n], engine.device, engine.kernel) for n in engine.names}
        rows = min(entries.size, self._rows(leaves[name], how))
        at = torch.from_numpy(entries).to(engine.device)
        steps = [tensor(np.asarray(s, float), engine.device) for s in (a, b)]
        context = unmoved if how.way == "broadcast" else fixed
        while True:
            try:
                with torch.no_grad(), without_tape(), context(engine.device), one_thread(rows * leaves[name].numel()):
                    parts = list(self._chunks(leaves, name, at, steps, rows, how))
                return tuple(torch.cat(p).cpu().numpy() for p in zip(*parts))
            except torch.cuda.OutOfMemoryError as error:
                if rows == 1:
                    raise LayerFailure("crash", "forward", f"out of memory for a single copy: {error}") from error
                rows = (rows + 1) // 2
            except Exception as error:  # whatever it is, the caller's own way says it better
                raise LayerFailure("crash", "forward", f"not contracted: {error}") from error

    def _rows(self, base: Tensor, how: Contraction) -> int:
        width: int = 16 * (base.numel() + 4 * how.weights.size + 1)
        if self.engine.device.type != "cuda":
            return max(1, how.memory // width)
        free = int(import_torch().cuda.mem_get_info(self.engine.device)[0])
        return max(1, free // (_SHARE * width))

    def _chunks(
        self, leaves: dict[str, Tensor], name: str, at: Tensor, steps: list[Tensor], rows: int, how: Contraction
    ) -> Iterator[tuple[Tensor, ...]]:
        """Change, noise, whether anything moved, and realised step, for one chunk of entries after the other."""
        torch = import_torch()
        base = leaves[name].detach().contiguous()
        flat = base.reshape(-1)
        copies = base.expand(2 * rows, *base.shape).clone()
        moves = torch.stack(steps).to(base.dtype)
        weights, sigma = (tensor(v, self.engine.device) for v in (how.weights, how.sigma))
        run = self._forward(leaves, name, how)
        row = torch.arange(rows, device=base.device)
        for first in range(0, at.numel(), rows):
            chosen = at[first : first + rows]
            n = chosen.numel()
            kept = flat[chosen]
            ends = kept + moves[:, first : first + rows]
            with _written(copies[: 2 * n].view(2, n, -1), (slice(None), row[:n], chosen), ends, kept, flat):
                plus, minus = run(copies[: 2 * n]).view(2, n, -1)
                yield (*_contracted(plus, minus, weights, sigma, how), (ends[0] - ends[1]).to(weights.dtype))

    def _forward(self, leaves: dict[str, Tensor], name: str, how: Contraction) -> Any:
        """A function from copies of one primal to flat outputs, shape (count, K)."""
        torch = import_torch()
        engine, options = self.engine, dict(how.options)
        rank = max(t.ndim for t in leaves.values())

        def call(moved: Tensor) -> tuple[Tensor, ...]:
            return tensors_in(engine.call({**leaves, name: moved}, options))

        mapped = torch.func.vmap(call, randomness="same")

        def run(copies: Tensor) -> Tensor:
            count, shape = copies.shape[0], copies.shape[1:]
            if how.way == "broadcast":
                raw = call(copies.view(count, *(1,) * (rank - len(shape)), *shape))
            elif how.way == "batched":
                raw = mapped(copies)
            else:
                raw = one_by_one(lambda k: call(copies[k]), count, engine.device)
            if len(raw) != len(how.shapes):
                raise ValueError("other outputs than one forward has")
            flat = [_leading(y, count, s) for y, s in zip(raw, how.shapes)]
            return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

        return run


@contextmanager
def _written(copies: Tensor, where: tuple[Any, ...], ends: Tensor, kept: Tensor, flat: Tensor) -> Iterator[None]:
    """Inside, the copies are perturbed; afterwards they are the point again, even where the code overwrote them."""
    copies[where] = ends
    yield
    copies[where] = kept
    if not copies[0, 0].equal(flat):
        copies.copy_(flat.expand_as(copies))


def _contracted(ya: Tensor, yb: Tensor, weights: Tensor, sigma: Tensor, how: Contraction) -> tuple[Tensor, ...]:
    """As `Point` contracts differences on the host."""
    torch = import_torch()
    delta = (ya - yb).to(weights.dtype)
    changed = delta.sgn().abs()  # 0, 1, or NaN where there is no difference to speak of
    if how.coarse:  # away from the point outputs round more coarsely
        sigma = torch.maximum(sigma, how.relative * torch.maximum(ya.abs(), yb.abs()).to(weights.dtype))
        noise = (changed * sigma) @ weights.abs()
    else:
        noise = changed @ (weights.abs() * sigma)
    return delta @ weights, noise, changed @ torch.ones_like(weights) != 0


def _leading(y: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """An output with a leading axis as rows; one that did not depend on the copies is repeated."""
    if tuple(y.shape) == shape:
        return y.expand(count, *shape).reshape(count, -1)
    extra = y.ndim - len(shape) - 1
    if extra < 0 or y.shape[0] not in (1, count) or tuple(y.shape[1:]) != ((1,) * extra + shape):
        raise ValueError("the stack was not carried through")
    return y.expand(count, *y.shape[1:]).reshape(count, -1)
