"""Options of XLA's compiler for jaxnet's own programs, which no other code of the process sees."""

from contextlib import suppress
from functools import cache
from typing import Any

import jax

_OPTIONS: dict[str, dict[str, Any]] = {
    # What trains. Small products outside of YNN: a seventh off a step of 784-50-10 with jaxlib 0.10.
    "steps": {"xla_cpu_experimental_ynn_fusion_type": ""},
    # What draws batches: integers are the same however computed. It compiles in 0.2 s, not 0.5 to 1.
    "quick": {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False},
    # What computes less than it takes to optimize it; if it runs rules, with XLA's own fusions: without, a
    # maximum may be no longer the operand that it is, bit for bit, and has another derivative.
    "once": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False},
    "rules": {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": True},
}


def compiler_options(kind: str) -> dict[str, Any] | None:
    """Return those of a kind of program; none on another backend, or where this jaxlib does not have them."""
    return _known(kind) if jax.default_backend() == "cpu" else None


@cache
def _known(kind: str) -> dict[str, Any]:
    return {name: value for name, value in _OPTIONS.get(kind, {}).items() if _has(name, value)}


@cache
def _has(name: str, value: object) -> bool:
    with suppress(jax.errors.JaxRuntimeError):
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        return True
    return False
