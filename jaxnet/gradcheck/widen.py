"""Any traced function in float64, also one that insists on float32.

A function is traced once, in its own types. Its jaxpr is then evaluated with every floating-point number in
float64: constants keep the values that they have in their own type, control flow and the primal functions of
custom rules are walked through, and what works on bits or is not JAX's (random bits, callbacks) runs in its
own type. So it is the same function, free of rounding.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxnet.gradcheck.interpret import Values, bind, control, walk

# What has no meaning in another type than its own.
_OWN_TYPE = {"bitcast_convert_type", "pure_callback", "io_callback", "ffi_call", "nextafter", "random_gamma"}
_DROPPED = {"debug_callback", "debug_print"}
_WIDEST = {"float": np.dtype(np.float64), "complex": np.dtype(np.complex128)}


class Wide(NamedTuple):
    """A traced function, to be evaluated in float64."""

    jaxpr: ClosedJaxpr
    """Of float64, with custom rules left out; its constants are JAX's arrays."""
    narrow: tuple[tuple[str, str], ...]
    """Casts to a narrower type than the operand's that are part of the function: the type, and where."""
    opaque: tuple[str, ...]
    """Operations that run in their own type."""
    narrowest: Any
    """The least precise type in which the function itself computes."""


def widen(jaxpr: ClosedJaxpr) -> Wide:
    """Return a traced function in float64, where x64 is enabled."""
    narrow: dict[tuple[str, str], None] = {}
    opaque: dict[str, None] = {}
    types: set[Any] = set()

    def run(inner: ClosedJaxpr, values: Values) -> Values:
        found = walk(inner.jaxpr, [wide_value(const) for const in inner.consts], values, rule)
        return [wide_value(value) for value in found]

    def rule(eqn: Any, values: Values) -> Values:
        name = eqn.primitive.name
        values = [wide_value(value) for value in values]
        if name in _DROPPED:
            return [None] * len(eqn.outvars)
        types.update(atom.aval.dtype for atom in eqn.outvars if _is_float(atom.aval))
        found = control(eqn, values, run)
        if found is not None:
            return found[0]
        if name == "convert_element_type" and _narrows(eqn):
            narrow[str(eqn.params["new_dtype"]), where(eqn)] = None
        if name == "reduce_precision":
            narrow[f"{eqn.params['mantissa_bits']} bits", where(eqn)] = None
            return values
        if name not in _OWN_TYPE:
            try:
                return [wide_value(value) for value in bind(eqn, values, **_wide_params(eqn))]
            except (TypeError, ValueError, NotImplementedError):
                pass  # it insists on its own types, as any other that this module does not know
        if any(_is_float(atom.aval) for atom in [*eqn.invars, *eqn.outvars]):
            opaque[name] = None
        return [wide_value(value) for value in bind(eqn, _own_types(eqn, values))]

    shapes = [jax.ShapeDtypeStruct(a.shape, wide_type(a.dtype)) for a in jaxpr.in_avals]
    traced = jax.make_jaxpr(lambda *args: run(jaxpr, list(args)))(*shapes)
    types.update(aval.dtype for aval in jaxpr.in_avals if _is_float(aval))
    narrowest = max(types, key=lambda dtype: jnp.finfo(dtype).eps, default=np.dtype(np.float64))
    return Wide(hoisted(traced), tuple(narrow), tuple(opaque), narrowest)


def hoisted(jaxpr: ClosedJaxpr) -> ClosedJaxpr:
    """Return a jaxpr with JAX's arrays for constants: NumPy's would keep their type in jax's caches."""
    consts = [jnp.asarray(np.asarray(c)) if isinstance(c, np.ndarray) else c for c in jaxpr.consts]
    return ClosedJaxpr(jaxpr.jaxpr, consts)


def wide_type(dtype: Any) -> Any:
    """Return the type in which numbers of a type are computed here: float64 or complex128, if inexact."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return _WIDEST["complex"]
    return _WIDEST["float"] if jnp.issubdtype(dtype, jnp.floating) else dtype


def wide_value(value: Any) -> Any:
    """Return a value in the type in which it is computed here."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact) or wide_type(dtype) == dtype:
        return value
    return value.astype(wide_type(dtype))


def _own_types(eqn: Any, values: Values) -> Values:
    return [
        jnp.asarray(value).astype(atom.aval.dtype) if _is_inexact(atom.aval) else value
        for value, atom in zip(values, eqn.invars, strict=True)
    ]


def _wide_params(eqn: Any) -> dict[str, Any]:
    """Return the parameters of an equation that name a floating-point type, with float64 in its place."""
    changes: dict[str, Any] = {}
    for key, value in eqn.params.items():
        if key in ("dtype", "new_dtype", "preferred_element_type", "out_dtype") and value is not None:
            changes[key] = wide_type(value) if not jnp.issubdtype(value, jax.dtypes.prng_key) else value
        elif key == "update_jaxpr" and value is not None:
            changes[key] = widen(ClosedJaxpr(value, eqn.params["update_consts"])).jaxpr.jaxpr
        elif key in ("jaxpr", "reducer") and eqn.primitive.name in ("reduce", "reduce_window"):
            changes[key] = widen(value).jaxpr
    return changes


def _narrows(eqn: Any) -> bool:
    before, after = eqn.invars[0].aval.dtype, eqn.params["new_dtype"]
    both = jnp.issubdtype(before, jnp.inexact) and jnp.issubdtype(after, jnp.inexact)
    return bool(both and jnp.finfo(after).eps > jnp.finfo(before).eps)


def _is_float(aval: Any) -> bool:
    return _is_inexact(aval) and bool(jnp.issubdtype(aval.dtype, jnp.floating))


def _is_inexact(aval: Any) -> bool:
    return hasattr(aval, "dtype") and bool(jnp.issubdtype(aval.dtype, jnp.inexact))


_LIBRARIES = (os.path.dirname(os.path.abspath(jax.__file__)) + os.sep,)


def frames(eqn: Any) -> list[Any]:
    """Return the frames of Python that made an equation and are not JAX's own, innermost first."""
    traceback = eqn.source_info.traceback
    return [f for f in (traceback.frames if traceback else []) if not f.file_name.startswith(_LIBRARIES)]


def where(eqn: Any) -> str:
    """Return "file.py:12", the line of the user's code that made an equation."""
    outside = frames(eqn)
    mine = [f for f in outside if "site-packages" not in f.file_name] or outside
    return f"{os.path.basename(mine[0].file_name)}:{mine[0].line_num}" if mine else "unknown"
