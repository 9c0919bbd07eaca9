"""What a user calls: `check` draws cases of anything that can be made a layer, `verify` takes one Case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradverify.adapters import layer_of
from gradverify.compose import under_loss
from gradverify.core.check.progress import shown
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import EXAMPLES, Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import GradientMismatch
from gradverify.core.nouns import Case
from gradverify.core.summarise.report import Report
from gradverify.core.verify import listed, no_pass, verify_layer
from gradverify.report.terminal import raised


def check(
    target: Any,
    backward: Callable[..., Any] | None = None,
    /,
    *,
    loss: str | bool | None = None,
    examples: int | None = None,
    seed: int | None = None,
    eps: float | str | None = None,
    dtype: str = "float64",
    properties: Sequence[str] | str | None = None,
    method: str = "adaptive",
    raises: bool = True,
    quiet: bool = False,
    **declaration: Any,
) -> Report:
    """Check that a backward pass is right.

    Parameters
    ----------
    target : a forward (with `backward`), a registered name, a Layer, or anything an adapter recognises
    backward : the hand-written backward, when `target` is a forward
    loss : name of a registered loss to put on top, e.g. "mse"; True declares that the target is a loss
    examples : cases drawn for each property, at least 1; None draws 100
    seed : of the drawing, a whole number; the same seed draws the same cases; None takes 0
    eps : step of the first central difference, relative to the entry, between 0 and 1; None draws one with each case;
        a string declares a primal of that name, as in ``eps="N D"``
    dtype : floating type of the primals: "float64", "float32" or "float16"
    properties : name or names of the properties to try; None tries all that apply
    method : "adaptive", "central" (the tutorial's procedure at `eps` alone) or "complex" (a complex step)
    raises : raise when there is a finding, or nothing could be verified; False returns the Report
    quiet : whether a check of more than a second says nothing at a terminal or in a notebook
    **declaration : dimension strings of the primals, e.g. ``x="N D"``, and everything else that `Layer` takes

    Returns
    -------
    Report

    Raises
    ------
    GradientMismatch
        An AssertionError with the report as its text.
    NothingVerified, PartlyVerified
        An AssertionError: no entry of any case could be decided, or an object has weights without a gradient.
    GradverifyError
        For a target, a declaration or an argument that cannot be used.
    """
    __tracebackhide__ = True  # pytest shows the line of the test that called
    if isinstance(eps, str):
        declaration, eps = {**declaration, "eps": eps}, None
    if isinstance(loss, bool):
        declaration, loss = {**declaration, "loss": loss}, None
    layer = layer_of(target, backward, **declaration)
    layer = layer if loss is None else under_loss(layer, loss)
    settings = Settings(
        examples=EXAMPLES if examples is None else examples,
        seed=seed,
        eps=eps,
        dtype=dtype,
        properties=None if properties is None else listed(properties),
        method=method,
    )
    with shown(quiet) as listen:
        report = check_layer(layer, settings, listen)
    if raises and report.findings:
        raise GradientMismatch(report, raised(report))
    if raises and not report.verified:
        raise no_pass(report)
    return report


def verify(layer: Layer | str | Any, case: Case, names: Sequence[str] | str | None = None) -> Report:
    """Verify one concrete Case; no Hypothesis, no shrinking.

    Parameters
    ----------
    layer : a Layer, a registered name, or anything that `gradverify.register` takes
    case : primals, options and cotangents; cotangents that are None are drawn from the Case's seed
    names : property or properties to try, default all that apply

    Returns
    -------
    Report
        Nothing is raised for a finding: see `Report.ok` and `Report.findings`.

    Raises
    ------
    DeclarationError, TargetError, UsageError
        If there is no such layer, it cannot be used, or the case does not fit it.
    """
    return verify_layer(layer_of(layer), case, names)
