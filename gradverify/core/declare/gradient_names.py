"""Under which names authors keep the gradient of a primal."""

from __future__ import annotations

from functools import cache


@cache
def names_of_gradients(name: str) -> tuple[str, ...]:
    """Names under which authors keep the gradient of a parameter."""
    body = name.lstrip("_")
    dash = name[: len(name) - len(body)]
    stems = [f"d{body}", f"d_{body}", f"{body}_grad", f"grad_{body}", f"{body}_diff", f"{body}_gradient"]
    stems += [f"{body}_gradients", f"gradient_{body}", f"grads_{body}", f"{body}_grads", f"diff_{body}"]
    stems += [f"grad{body}", f"{body}grad", f"delta_{body}", f"{body}_delta", f"d{body.capitalize()}"]
    stems += [f"grad_wrt_{body}", f"dL_d_{body}", f"dLd{body}", f"{body}_error", f"{body}_derivative"]
    stems += [f"grad{body.capitalize()}", f"{body}Grad", f"dL_d{body}", f"d{body}_", f"g{body}", f"{body}_g"]
    singular = [f"{body[:-1]}_gradients", f"{body[:-1]}_grad"] if body.endswith("s") else []
    both = [*stems, *singular]
    return tuple(dict.fromkeys([f"{dash}{s}" for s in both] + both))
