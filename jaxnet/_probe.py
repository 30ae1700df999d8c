"""A function at many points near one: elements moved one by one, along lines, or off the real axis.

Everything here runs where x64 is enabled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from jaxnet._perturb import perturbed

PyTree = Any
CHUNK_BYTES = 2**24  # of intermediate values at once: bounded memory, and no more than a cache holds
_SMALL_CHUNK = 64  # evaluations: a second program, for the few elements that need another look
_LINE_CHUNK = 8  # evaluations along a line: noise, extrapolation and the point itself need 7, 6 and 1
_MANY_OPERATIONS = 1e10  # take longer than compiling another program
NO_COMPLEX = (TypeError, ValueError, NotImplementedError, Warning)  # what functions of real numbers raise
# A function of concrete values only, such as one with an `if` on them, cannot be traced.
UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def is_float64(dtype: Any) -> bool:
    """Return whether a floating-point type has no less than float64's precision."""
    return bool(jnp.finfo(dtype).eps < 1e-15)


def holds_numpy(f: Callable[..., Any], *args: Any) -> bool:
    """Return whether f closes over NumPy arrays; also where f cannot be traced to see."""
    try:
        constants = jax.make_jaxpr(f, static_argnums=[n for n, a in enumerate(args) if callable(a)])(
            *args
        ).consts
    except (
        Exception
    ):  # f may raise anything, and does so again where it is run; to clear caches is always right
        return True
    return any(not isinstance(constant, Array) for constant in constants)


@contextmanager
def float64(mixed: bool = True) -> Iterator[None]:
    """Enable x64 in a context, whatever the process's setting.

    mixed: NumPy arrays that a function closes over have one type within and another outside, which jax's
    caches of traced functions do not tell apart: they are cleared on the way in and out.
    """
    clear = mixed and jnp.zeros(()).dtype != jnp.float64
    if clear:
        jax.clear_caches()
    try:
        with jax.enable_x64(True):
            yield
    finally:
        if clear:
            jax.clear_caches()


class Probe:
    """Values of a scalar function f(point, context) near a point, in bounded memory."""

    def __init__(self, f: Callable[[PyTree, PyTree], Array], point: PyTree):
        flat, self.unravel = ravel_pytree(point)
        self.f, self.point = f, point
        self.flat = np.asarray(flat)
        self.sizes = [np.size(leaf) for leaf in jax.tree.leaves(point)]
        self.starts = np.cumsum([0, *self.sizes])
        self.context: PyTree = None
        self.narrowest: Any = np.dtype(np.float64)
        self.work = 0.0
        """The operations of all elements' evaluations, in units of one of the whole f."""
        self._jaxpr: Any = None
        self._costs: dict[Any, _Cost] = {}  # of one evaluation, by kind
        self._cheap: list[bool] = []  # by leaf: whether it pays to compute again only what an element touches
        self._programs: dict[Any, Callable[..., Array]] = {}

    def trace(self) -> None:
        """Look at what f does to float64, once it has its context: its cost, and any narrower numbers."""
        if self._cheap:
            return  # another context changes nothing
        try:
            traced = jax.make_jaxpr(self.f)(self.point, self.context)
            # As arrays of jax: a jaxpr that holds NumPy's would keep their type, of x64, in jax's caches.
            self._jaxpr = ClosedJaxpr(traced.jaxpr, [jnp.asarray(constant) for constant in traced.consts])
        except UNTRACEABLE:
            self._cheap = [False] * len(self.sizes)
            self.narrowest = np.dtype(jnp.asarray(self.f(self.point, self.context)).dtype)
            self.work = float(self.flat.size)
            return
        whole = self._costs["whole"] = _survey(self._jaxpr.jaxpr)
        self.narrowest = whole.narrowest
        for leaf, size in enumerate(self.sizes):
            cheap = 6 * size * whole.operations > _MANY_OPERATIONS and (
                self._cost(leaf).operations < whole.operations / 4
            )
            self._cheap.append(cheap)
            self.work += size * (self._cost(leaf).operations / whole.operations if cheap else 1)

    def _cost(self, kind: Any) -> "_Cost":
        if kind not in self._costs:

            def survey(count: int) -> _Cost:
                index, value = np.zeros(count, np.int32), np.zeros(count)
                return _survey(
                    jax.make_jaxpr(self._vmapped(kind))(
                        index, value, self.point, self.flat, self.context
                    ).jaxpr
                )

            # What does not depend on the element is computed once, not for each.
            one, two = survey(1), survey(2)
            self._costs[kind] = _Cost(two.bytes - one.bytes, two.operations - one.operations, two.narrowest)
        return self._costs[kind]

    @property
    def center(self) -> float:
        """The value at the point itself."""
        return float(self.along(np.zeros_like(self.flat), np.zeros(1))[0])

    def elements(self, index: Int[np.ndarray, " n"], values: np.ndarray) -> np.ndarray:
        """Return f with element index[i] replaced by values[i, j], for all i and j: [n, m]."""
        if not self._cheap:
            self.trace()
        result = np.empty(values.shape, np.result_type(values.dtype, np.float64))
        leaves = np.searchsorted(self.starts, index, side="right") - 1
        kinds = np.array([leaf if self._cheap[leaf] else -1 for leaf in range(len(self.sizes))])[leaves]
        for kind in np.unique(kinds):
            rows = kinds == kind
            run = self._run_complex if np.iscomplexobj(values) else self._run_elements
            result[rows] = run(int(kind), index[rows], values[rows])
        return result

    def _run_elements(self, kind: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
        start = 0 if kind < 0 else self.starts[kind]
        flat_index = np.repeat(index - start, values.shape[1]).astype(np.int32)
        found = self._run("whole" if kind < 0 else kind, flat_index, values.reshape(-1))
        if np.isrealobj(found) and np.iscomplexobj(values):
            raise TypeError("the value of f stays real for complex input")
        return found.reshape(values.shape)

    def _run_complex(self, kind: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Give f complex numbers, or its operations one by one where it refuses them; or the reverse."""
        try:
            return self._run_elements(kind, index, values)
        except NO_COMPLEX:
            if self._jaxpr is None:
                raise
            leaf = (
                np.searchsorted(self.starts, index, side="right") - 1 if kind < 0 else np.full(len(index), -1)
            )
            result = np.empty_like(values)
            with suppress(*NO_COMPLEX):
                for other in np.unique(leaf):
                    rows = leaf == other
                    result[rows] = self._run_elements(int(other), index[rows], values[rows])
                return result
            raise

    def along(self, direction: Float[np.ndarray, " size"], steps: Float[np.ndarray, " m"]) -> np.ndarray:
        """Return f(point + step · direction) for each step: [m]."""
        return self._run("along", steps, np.zeros(len(steps)), direction)

    def _run(self, kind: Any, first: np.ndarray, second: np.ndarray, *extra: np.ndarray) -> np.ndarray:
        if self._jaxpr is None:
            one = self._one(kind)
            return np.array(
                [
                    np.asarray(
                        one(jnp.asarray(a), jnp.asarray(b), *extra, self.point, self.flat, self.context)
                    )
                    for a, b in zip(first, second, strict=True)
                ]
            )
        largest = int(max(1, min(CHUNK_BYTES // self._bytes(kind), 2**14)))
        largest = min(largest, 2 ** (6 * self.flat.size - 1).bit_length())
        small = _LINE_CHUNK if kind == "along" else _SMALL_CHUNK
        chunk = min(small, largest) if len(first) <= small else largest
        key = kind, np.iscomplexobj(second), chunk
        if key not in self._programs:
            self._programs[key] = jax.jit(self._vmapped(kind))
        found = []
        for start in range(0, len(first), chunk):
            parts = [array[start : start + chunk] for array in (first, second)]
            filled = [np.resize(part, chunk) for part in parts]
            values = self._programs[key](*filled, *extra, self.point, self.flat, self.context)
            found.append(np.asarray(values)[: len(parts[0])])
        return np.concatenate(found)

    def _bytes(self, kind: Any) -> int:
        return (
            self._cost(kind).bytes + 8
            if isinstance(kind, int)
            else self._costs["whole"].bytes + self.flat.nbytes
        )

    def _vmapped(self, kind: Any) -> Callable[..., Array]:
        return jax.vmap(self._one(kind), (0, 0, *(None,) * (4 if kind == "along" else 3)))

    def _one(self, kind: Any) -> Callable[..., Array]:
        # The point is an argument, or XLA would compute all that follows from it alone, slowly, as it
        # compiles.
        if kind == "along":
            return lambda step, _, direction, point, flat, context: self.f(
                self.unravel(flat + step * direction), context
            )
        if kind != "whole":
            evaluate = perturbed(self._jaxpr, kind)
            return lambda index, value, point, _, context: evaluate(
                index, value, *jax.tree.leaves((point, context))
            )

        def value(index: Array, value: Array, point: PyTree, _: Any, context: PyTree) -> Array:
            leaves = [
                jnp.where(jnp.arange(size) == index - start, value, jnp.ravel(leaf)).reshape(jnp.shape(leaf))
                for leaf, start, size in zip(jax.tree.leaves(point), self.starts, self.sizes, strict=False)
            ]
            return self.f(jax.tree.unflatten(jax.tree.structure(point), leaves), context)

        return value


class Directions:
    """Values of a probe's function along directions, as if the lengths along them were a point's elements."""

    def __init__(self, probe: Probe, directions: Callable[[int], Float[np.ndarray, " size"]], count: int):
        self.probe, self.directions = probe, directions
        self.flat, self.sizes, self.center = np.zeros(count), [count], probe.center

    def elements(self, index: Int[np.ndarray, " n"], values: Float[np.ndarray, "n m"]) -> np.ndarray:
        """Return f(point + values[i, j] · direction index[i]): [n, m]."""
        rows = zip(index, values, strict=True)
        return np.stack([self.probe.along(self.directions(int(number)), row) for number, row in rows])


class _Cost(NamedTuple):
    bytes: int
    """Of all intermediate values."""
    operations: float
    narrowest: Any
    """Type that float64 is converted to."""


def _survey(jaxpr: Any) -> _Cost:
    total, operations, narrowest = 0, 0.0, np.dtype(np.float64)
    for eqn in jaxpr.eqns:
        for var in eqn.outvars:
            size = float(np.prod(var.aval.shape, dtype=float))
            total += int(size) * getattr(var.aval.dtype, "itemsize", 8)
            if eqn.primitive.name == "dot_general":
                (axes, _), _ = eqn.params["dimension_numbers"]
                size *= np.prod([eqn.invars[0].aval.shape[axis] for axis in axes])
            operations += size
        inner = [p for value in eqn.params.values() for p in (value if isinstance(value, tuple) else [value])]
        found = [_survey(getattr(p, "jaxpr", p)) for p in inner if hasattr(getattr(p, "jaxpr", p), "eqns")]
        total += sum(cost.bytes for cost in found)
        operations += sum(cost.operations for cost in found) * eqn.params.get("length", 1)
        dtypes = [cost.narrowest for cost in found]
        if eqn.primitive.name == "convert_element_type":
            before, after = eqn.invars[0].aval.dtype, eqn.params["new_dtype"]
            if jnp.issubdtype(after, jnp.floating) and jnp.issubdtype(before, jnp.floating):
                dtypes.append(after)
        narrowest = max(narrowest, *dtypes, key=lambda dtype: jnp.finfo(dtype).eps) if dtypes else narrowest
    return _Cost(total, operations, narrowest)
