"""A layer under a loss: the loss's prediction is the layer's output, its other primals come along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradverify.core.declare import dims
from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.domains import Domain
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer, Loss
from gradverify.core.declare.registry import loss as find_loss
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import by_name, outputs_of
from gradverify.core.evaluate.failures import LayerFailure


def under_loss(layer: Layer, name: str) -> Layer:
    """A layer whose output is the loss of the given layer's output.

    The layer must have one output and declare its dimensions (``returns``), from which those of the loss's other
    primals follow. Names that clash get the loss's name in front. Raises TargetError if there is no such loss, and
    DeclarationError if the layer's output cannot be matched with the prediction.
    """
    loss = find_loss(name)
    prediction, *others = loss.primals
    if isinstance(layer, Loss):
        raise DeclarationError(f"{layer.name!r} is a loss already; --loss takes a layer")
    if len(layer.returns) != 1:
        raise DeclarationError(
            f"layer {layer.name!r} cannot be put under the loss {name!r}: it must have one output and declare "
            'its dimensions, e.g. returns="N K"'
        )
    rename = _match(layer, prediction, next(iter(layer.returns.values())), name)
    taken = set(layer.primal_names)
    extra = {p.name: (f"{name}_{p.name}" if p.name in taken else p.name) for p in others}
    own = {key: (f"{name}_{key}" if key in layer.options else key) for key in loss.options}

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        count = len(layer.primals)
        mine = {k: v for k, v in options.items() if k in layer.options}
        theirs = {key: options[alias] for key, alias in own.items() if alias in options}
        output, saved = layer.forward(*arrays[:count], **mine)
        (read,) = outputs_of(layer, output)
        value, kept = loss.forward(read, *arrays[count:], **theirs)
        return value, (saved, kept, mine, theirs)

    def backward(dE: Any, saved: Any) -> Mapping[str, Any]:
        inner, kept, mine, theirs = saved
        above = by_name(loss, loss.backward(dE, kept, **taken_by(loss.backward, theirs, 2)))
        upstream = above.pop(prediction.name)
        if isinstance(upstream, LayerFailure):
            raise upstream
        below = by_name(layer, layer.backward(upstream, inner, **taken_by(layer.backward, mine, 2)))
        return {**below, **{extra[key]: value for key, value in above.items()}}

    added = tuple(
        Primal(extra[p.name], _renamed(p.dims, rename), _domain(p.domain, rename), p.differentiable) for p in others
    )
    composed = Loss(forward, backward, name=f"{layer.name}+{name}", primals={"x": ""})
    composed._set(
        primals=(*layer.primals, *added),
        options={**layer.options, **{own[key]: spec for key, spec in loss.options.items()}},
        declared=layer.declared,
        assume=layer.assume,
        empty=layer.empty and loss.empty,
        doc=f"{layer.doc} Under the loss {name}.",
        unverified=layer.unverified,
        origin=f"{layer.origin or layer.name}+{name}",
    )
    return composed


def _match(layer: Layer, prediction: Primal, output: dims.Dims, name: str) -> dict[str, str]:
    """The loss's axis names in terms of the layer's; a starred group takes all that is left."""
    mine, theirs = output.text.split(), prediction.dims.text.split()
    if theirs and theirs[0].startswith("*"):
        cut = len(mine) - len(theirs) + 1
        return {theirs[0]: " ".join(mine[:cut]), **dict(zip(theirs[1:], mine[cut:]))}
    if len(mine) != len(theirs):
        raise DeclarationError(
            f"the output {output.text!r} of layer {layer.name!r} does not fit the prediction "
            f"{prediction.dims.text!r} of the loss {name!r}"
        )
    return dict(zip(theirs, mine))


def _renamed(spec: dims.Dims, rename: Mapping[str, str]) -> dims.Dims:
    return dims.parse(" ".join(rename.get(token, token) for token in spec.text.split()))


def _domain(domain: Domain, rename: Mapping[str, str]) -> Domain:
    return replace(domain, arguments=tuple(rename.get(argument, argument) for argument in domain.arguments))
