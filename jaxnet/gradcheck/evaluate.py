"""A function at many points near one, in bounded memory: along lines, or with one element at a time replaced.

Everything here runs where x64 is enabled.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr
from jaxtyping import Float, Int

from jaxnet._compiler import compiler_options
from jaxnet.gradcheck.interpret import all_eqns, bind, holds, inside, loops_in_branch, walk
from jaxnet.gradcheck.perturb import Change, moved, replaced
from jaxnet.gradcheck.pieces import with_piece
from jaxnet.gradcheck.rounding import SEEDS, rounded

CHUNK_BYTES = 2**24  # of intermediate values at once: bounded memory, and no more than a cache holds
_SMALL_CHUNK = 64  # evaluations: of a few elements, or along lines
_LARGEST_CHUNK = 2**14
_PAYS = 2e9  # operations, below which it does not pay to find out what an element touches
_FOLLOWED = (
    500  # equations, beyond which changes are not followed through a function: compiling takes too long
)
_FEW = 1e7  # operations, which take less time than it takes to optimize a program
_WHILE = 30  # trips of a loop that says how far it goes only as it runs, about
_STEPS = 30  # evaluations that an element gets, about
_KEPT = 128  # compiled programs
_FOREVER = 2**31 - 1
# As many more trips than at the point itself does a while loop get before its result counts as not finite.
_PATIENCE, _SPARE_TRIPS = 100, 1_000
# What functions of real numbers raise when they are given complex ones.
NO_COMPLEX = (TypeError, ValueError, NotImplementedError, Warning)


class _Program:
    """A function, compiled for each of the shapes it is given; no clearing of jax's caches undoes that."""

    def __init__(self, function: Callable[..., Any], jaxpr: ClosedJaxpr, options: dict[str, Any] | None):
        self.function = jax.jit(function, compiler_options=options)
        self.jaxpr = jaxpr  # kept, since its text may hold addresses, which must not be used again meanwhile
        self.compiled: dict[Any, Future[Callable[..., Any]]] = {}

    def ahead(self, *args: Any) -> Future[Callable[..., Any]]:
        """Return the program for such arguments, which another thread compiles."""
        shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in jax.tree.leaves(args))
        if shapes not in self.compiled:
            self.compiled[shapes] = _compiler.submit(self.function.lower(*args).compile)
        return self.compiled[shapes]

    def __call__(self, *args: Any) -> Any:
        return self.ahead(*args).result()(*args)


_compiler = ThreadPoolExecutor(2, "jaxnet-compiler")
_programs: OrderedDict[Any, _Program] = OrderedDict()


def program(
    kind: Any,
    jaxpr: ClosedJaxpr,
    function: Callable[..., Any],
    evaluations: int = 1,
    *,
    rules: bool = True,
) -> _Program:
    """Return a function compiled; an equal one again, as its kind and the text of the jaxpr it runs tell.

    evaluations: how often, about, the jaxpr is run by it. rules: whether it may hold rules of derivatives.
    """
    key = kind, *_text(jaxpr.jaxpr), bool(jax.config.read("jax_enable_x64"))
    if key not in _programs:
        few = _survey(jaxpr.jaxpr).operations * evaluations < _FEW
        rules |= holds(jaxpr.jaxpr, "eq")  # as that of a maximum compares it with its operands
        how = ("rules" if few else "any") if rules else ("once" if few else "quick")
        _programs[key] = _Program(function, jaxpr, compiler_options(how))
        if len(_programs) > _KEPT:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


@functools.lru_cache(_KEPT)
def _text(jaxpr: Any) -> tuple[str, tuple[Any, ...]]:
    """Return a jaxpr as text, which takes longer than many a run of it, and the Python that it calls back.

    Of that the text says no more than the name.
    """
    calls = [equation for equation in all_eqns(jaxpr) if "callback" in equation.primitive.name]
    called = [value for equation in calls for value in equation.params.values() if callable(value)]
    return str(jaxpr), tuple(called)


def whole(kind: str, jaxpr: ClosedJaxpr) -> _Program:
    """Return a jaxpr compiled, as a function of its constants and its arguments."""
    return program(kind, jaxpr, lambda consts, args: walk(jaxpr.jaxpr, consts, args, bind))


def evaluated(kind: str, jaxpr: ClosedJaxpr, args: Sequence[Any]) -> list[np.ndarray]:
    """Return a jaxpr's results, compiled; again for an equal one."""
    found = [np.asarray(leaf) for leaf in whole(kind, jaxpr)(jaxpr.consts, list(args))]
    if all(np.isfinite(leaf).all() for leaf in found):
        return found
    # Not optimized, XLA may round a minimum otherwise than the operand that it is; one by one it does not.
    return [np.asarray(leaf) for leaf in walk(jaxpr.jaxpr, jaxpr.consts, list(args), bind)]


class Moved(NamedTuple):
    """How a function changes from what it is at the point itself, at some points beside it."""

    change: np.ndarray
    """NaN where either value is not finite."""
    error: np.ndarray
    """How far off rounding makes it, as far as it can be followed."""
    value: np.ndarray
    """The function there, as its plain evaluation has it."""
    crossed: np.ndarray
    """Whether the function decides otherwise than at the point itself (see `pieces`), where that is known."""


@runtime_checkable
class Movable(Protocol):
    """A function near a point of flat numbers, whatever evaluates it."""

    flat: np.ndarray
    sizes: list[int]
    value: float

    def elements(self, index: np.ndarray, values: np.ndarray) -> Moved:
        """Return the changes with element index[i] replaced by values[i, j], for all i and j."""
        ...


class Target:
    """A scalar function near a point of flat float64 numbers.

    parts: the point, in arrays. The function is a jaxpr, of the parts and then of `context`; or, where it
    cannot be traced, `call`, of NumPy arrays like the parts.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray],
        *,
        jaxpr: ClosedJaxpr | None = None,
        call: Callable[[list[np.ndarray]], Any] | None = None,
        context: Sequence[Any] = (),
        bounds: tuple[np.ndarray, np.ndarray] | None = None,
        epsilon: float = 2.0**-52,
    ):
        self.shapes = [np.shape(part) for part in parts]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.starts = np.cumsum([0, *self.sizes])
        self.flat = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])
        self.bounds = bounds or (np.full(self.flat.size, -np.inf), np.full(self.flat.size, np.inf))
        self.jaxpr, self.call, self.context = jaxpr, call, list(context)
        self.raised: str | None = None
        """What `call` raised at a point beside the one it is checked at."""
        self.cheap = [False] * len(self.sizes)
        """By part: whether only what one of its elements touches is computed again."""
        self.work = float(self.flat.size)
        """Of an evaluation for each element, in units of one of the whole function."""
        self.value: float
        """At the point itself."""
        self.calls_back = jaxpr is None or holds(jaxpr.jaxpr, "callback")
        self.sharp, self.epsilon = False, epsilon
        self.limit, self.extra = _FOREVER, 0
        self._at_middle: Change | None = None
        self._costs: dict[tuple[int, bool], _Cost] = {}
        if jaxpr is None:
            self.value = float(self._value(self.flat))
            return
        self.cost = _survey(jaxpr.jaxpr)
        self.one_by_one = self.calls_back
        if not self.one_by_one:
            self._weigh(max(self.cost.operations, 1.0))
        try:
            middle = self._middle()
        except NotImplementedError:  # an operation that cannot be batched
            self.one_by_one = True
            middle = self._middle()
        self.value = float(middle.value[0])
        self.trips = int(middle.trips[0])
        self.limit = min(_FOREVER, _SPARE_TRIPS + _PATIENCE * self.trips)

    def sharpened(self) -> "Target":
        """Return the same function, whose changes are followed through what does not change, if affordable.

        A change of 1e-20 in one term of a sum of 1 is then known to all its digits (see `perturb`), by a
        program that takes several times as long to compile.
        """
        sharp = copy(self)
        sharp.sharp = self.jaxpr is not None and self.cost.equations <= _FOLLOWED
        return sharp

    def run_on(self, extra: int) -> "Target":
        """Return the same function with loops that iterate until it is good enough run on for so long."""
        there = copy(self)
        there.extra, there.sharp, there._at_middle = extra, False, None
        return there

    def _middle(self) -> Change:
        """Return the function at the point itself, as its plain evaluation has it."""
        if self._at_middle is None:
            there = copy(self)
            # Evaluated together, points go through all branches: a loop in another one may never end.
            there.one_by_one |= self.jaxpr is not None and loops_in_branch(self.jaxpr.jaxpr)
            self._at_middle = there._run("plain", *self._line(np.zeros(1)), np.zeros_like(self.flat))
        return self._at_middle

    def decides_otherwise(self, there: "Target") -> bool:
        """Return whether the same function decides otherwise at another point itself."""
        return bool(self._middle().crossed[0] != there._middle().crossed[0])

    def _weigh(self, operations: float) -> None:
        self.work = 0.0
        for part, size in enumerate(self.sizes):
            touched = operations
            if operations * size > _PAYS:
                touched = self._cost_of(part).operations
                self.cheap[part] = touched < operations / 4
            self.work += size * (touched / operations if self.cheap[part] else 1.0)

    def _cost_of(self, part: int) -> "_Cost":
        """Return what one more element costs: what does not depend on it is computed once for all."""
        if (part, self.sharp) not in self._costs:
            rows = [(np.zeros(count, np.int32), np.zeros(count)) for count in (1, 2)]
            mapped = [jax.make_jaxpr(self._mapped(part))(*columns, *self._fixed()) for columns in rows]
            one, two = (_survey(jaxpr.jaxpr) for jaxpr in mapped)
            each = _Cost(two.bytes - one.bytes, two.operations - one.operations, two.equations)
            self._costs[part, self.sharp] = each
        return self._costs[part, self.sharp]

    def moved(self, flat: np.ndarray) -> "Target":
        """Return the same function near another point."""
        there = copy(self)
        there.flat, there._at_middle = flat, None
        if self.jaxpr is None:
            there.value = float(self._value(flat))
        return there

    def seen_through(self, context: Sequence[Any]) -> "Target":
        """Return the same function with another context."""
        there = copy(self)
        there.context, there._at_middle = list(context), None
        return there

    def at(self, flat: np.ndarray) -> list[np.ndarray]:
        """Return flat numbers in the shapes of the parts."""
        pieces = np.split(flat, self.starts[1:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def elements(self, index: Int[np.ndarray, " n"], values: np.ndarray) -> Moved:
        """Return the changes with element index[i] replaced by values[i, j], for all i and j: [n, m].

        values may be complex; then one of NO_COMPLEX is raised where the function does not take them. It is
        not evaluated out of bounds: NaN.
        """
        lower, upper = (bound[index][:, None] for bound in self.bounds)
        apt = (values.real >= lower) & (values.real <= upper)
        values = np.where(apt, values, self.flat[index][:, None])
        change, error = np.empty(values.shape, values.dtype), np.zeros(values.shape)
        crossed, value = np.zeros(values.shape, bool), np.empty(values.shape, values.dtype)
        part = np.searchsorted(self.starts, index, side="right") - 1
        kinds = np.where(np.array(self.cheap)[part], part, -1)
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            where, new = np.repeat(index[rows], values.shape[1]).astype(np.int32), values[rows].ravel()
            if kind < 0:
                found = self._moved(where, new, np.zeros(where.size), np.zeros_like(self.flat))
            else:
                found = self._run(int(kind), where - np.int32(self.starts[kind]), new)
                if not self.sharp and not np.iscomplexobj(new):
                    found = found._replace(error=2.0**-53 * (np.abs(found.value) + abs(self.value)))
            change[rows] = found.change.reshape(-1, values.shape[1])
            error[rows] = found.error.reshape(-1, values.shape[1])
            value[rows] = found.value.reshape(-1, values.shape[1])
            crossed[rows] = found.crossed.reshape(-1, values.shape[1])
        return Moved(np.where(apt, change, np.nan), error, value, crossed)

    def along(self, direction: Float[np.ndarray, " size"], steps: Float[np.ndarray, " m"]) -> Moved:
        """Return the changes at point + step · direction for each step: [m]."""
        found = self._moved(*self._line(steps), direction)
        return Moved(*map(np.asarray, (found.change, found.error, found.value, found.crossed)))

    def blurred(self, index: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the function with element index[i] replaced by values[i], rounded at random: [n, seeds]."""
        jaxpr = self.jaxpr
        if jaxpr is None or self.one_by_one:
            return np.full((len(index), len(SEEDS)), np.nan)

        def one(index: Any, value: Any, seed: Any, limit: Any, consts: Any, flat: Any, context: Any) -> Any:
            new = jnp.where(jnp.arange(flat.size) == index, value, flat)
            pieces = zip(self.starts[:-1], self.starts[1:], self.shapes, strict=True)
            parts = [new[start:stop].reshape(shape) for start, stop, shape in pieces]
            return rounded(jaxpr, consts, [*parts, *context], seed, 2.0**-52, limit)[0]

        fixed = np.int32(self.limit), jaxpr.consts, self.flat, self.context
        kind = "rounded", np.iscomplexobj(values), tuple(self.shapes), tuple(map(np.shape, self.context))
        run = program(
            kind, jaxpr, jax.vmap(one, (0, 0, 0, None, None, None, None)), len(SEEDS) * _SMALL_CHUNK
        )
        rows = np.repeat(index, len(SEEDS)).astype(np.int32), np.repeat(values, len(SEEDS))
        seeds, found = np.tile(np.array(SEEDS, np.uint32), len(index)), []
        for start in range(0, len(seeds), _SMALL_CHUNK):
            some = [column[start : start + _SMALL_CHUNK] for column in (*rows, seeds)]
            found.append(np.asarray(run(*(np.resize(c, _SMALL_CHUNK) for c in some), *fixed))[: len(some[0])])
        return np.concatenate(found).reshape(len(index), len(SEEDS))

    def _moved(self, *columns: np.ndarray) -> Change:
        """Return the changes at moved points: followed through the function, or by plain subtraction."""
        if self.sharp or self.jaxpr is None:
            return self._run("moved", *columns)
        found = self._run("plain", *columns)
        if np.iscomplexobj(columns[1]):
            return found._replace(change=found.value - found.value.real)
        middle = self._middle()
        base = float(middle.value[0])
        return found._replace(
            change=found.value - base,
            error=2.0**-53 * (np.abs(found.value) + abs(base)),
            crossed=found.crossed != middle.crossed,
        )

    def _line(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.full(len(steps), -1, np.int32), np.zeros(len(steps)), np.asarray(steps, np.float64)

    def _fixed(self) -> tuple[Any, ...]:
        assert self.jaxpr is not None
        return np.array([self.limit, self.extra], np.int32), self.jaxpr.consts, self.flat, self.context

    def _run(self, kind: Any, *columns: np.ndarray) -> Change:
        """Run a program on rows; but for parts, the last column is the direction, which all rows share."""
        columns, shared = columns[:3], columns[3:]
        count = len(columns[0])
        if self.jaxpr is None:
            return self._call(*columns, *shared)
        whole = 2 * self.cost.bytes + self.flat.nbytes
        # Most of what follows from one element alone is never in memory at once.
        bytes_each = self._cost_of(kind).bytes / 4 if isinstance(kind, int) else whole
        largest = int(max(1, min(CHUNK_BYTES // max(bytes_each, 1), _LARGEST_CHUNK)))
        if self.flat.size <= _SMALL_CHUNK**2 // 6:
            largest = min(largest, _SMALL_CHUNK)
        chunk = min(_SMALL_CHUNK, largest) if count <= _SMALL_CHUNK else largest
        kinds = (
            kind,
            self.sharp,
            np.iscomplexobj(columns[1]),
            tuple(self.shapes),
            tuple(map(np.shape, self.context)),
        )
        evaluations = _STEPS * self.flat.size
        run = program((kinds, self.one_by_one), self.jaxpr, self._mapped(kind), evaluations, rules=False)
        parts: list[Change] = []
        for start in range(0, count, chunk):
            rows = [column[start : start + chunk] for column in columns]
            found = self._ran(run, [np.resize(row, chunk) for row in rows], shared)
            parts.append(Change(*(leaf[: len(rows[0])] for leaf in found)))
        return Change(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _ran(self, run: Callable[..., Any], rows: list[np.ndarray], shared: tuple[np.ndarray, ...]) -> Change:
        """Run a program, row by row where what it calls back raises: NaN where it does."""
        try:
            return Change(*map(np.asarray, run(*rows, *shared, *self._fixed())))
        except jax.errors.JaxRuntimeError as error:
            if "allback" not in str(error):
                raise
            self.raised = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
            if all((row == row[0]).all() for row in rows):
                nothing = np.zeros(len(rows[0]), np.int32)
                lost = np.full(len(rows[0]), np.nan)
                return Change(lost, 0 * lost, lost, nothing.astype(bool), nothing)
        found = [
            self._ran(run, [np.full_like(row, row[n]) for row in rows], shared) for n in range(len(rows[0]))
        ]
        return Change(*(np.stack([leaf[0] for leaf in column]) for column in zip(*found, strict=True)))

    def _mapped(self, kind: Any) -> Callable[..., Change]:
        """Return the program of a kind, for rows of points.

        The point is an argument, or XLA would compute all that follows from it alone, slowly, as it compiles.
        """
        one, rows = self._one(kind), 2 if isinstance(kind, int) else 3

        def mapped(*args: Any) -> Any:
            columns, fixed = args[:rows], args[rows:]
            if self.one_by_one:
                return lax.map(lambda row: one(*row, *fixed), columns)
            return jax.vmap(one, (*(0,) * rows, *(None,) * len(fixed)))(*columns, *fixed)

        return mapped

    def _one(self, kind: Any) -> Callable[..., Change]:
        jaxpr, starts, shapes, sharp = self.jaxpr, self.starts, self.shapes, self.sharp
        assert jaxpr is not None

        def parts(flat: Any) -> list[Any]:
            pieces = zip(starts[:-1], starts[1:], shapes, strict=True)
            return [flat[start:stop].reshape(shape) for start, stop, shape in pieces]

        def point(index: Any, value: Any, step: Any, direction: Any, flat: Any) -> Any:
            return jnp.where(jnp.arange(flat.size) == index, value, flat + step * direction)

        def point_moved(*args: Any) -> Change:
            index, value, step, direction, limit, consts, flat, context = args
            new = parts(point(index, value, step, direction, flat))
            return moved(jaxpr, limit, consts, [*parts(flat), *context], new)

        def point_evaluated(*args: Any) -> Change:
            index, value, step, direction, limit, consts, flat, context = args
            found = with_piece(
                jaxpr, consts, [*parts(point(index, value, step, direction, flat)), *context], limit
            )
            (result,) = found.values
            nothing = jnp.zeros_like(result.real)
            return Change(nothing, nothing, result, found.piece, found.trips)

        def element_replaced(
            index: Any, value: Any, limit: Any, consts: Any, flat: Any, context: Any
        ) -> Change:
            args = [*parts(flat), *context]
            return replaced(jaxpr, kind, sharp)(index, value, limit, consts, args)

        return {"moved": point_moved, "plain": point_evaluated}.get(kind, element_replaced)

    def _value(self, flat: np.ndarray) -> Any:
        assert self.call is not None
        return self.call(self.at(flat))

    def _call(
        self, index: np.ndarray, values: np.ndarray, steps: np.ndarray, direction: np.ndarray
    ) -> Change:
        """Evaluate what cannot be traced, point by point; NaN where it raises beside the point itself."""
        found = np.empty(len(index), np.result_type(values, np.float64))
        for row, (element, value, step) in enumerate(zip(index, values, steps, strict=True)):
            point = self.flat + step * direction
            if element >= 0:
                point = point.astype(found.dtype)
                point[element] = value
            try:
                found[row] = self._value(point)
            except Exception as error:  # the user's f: whatever it raises, it has no value there
                if np.iscomplexobj(values):
                    raise TypeError(str(error).strip() or type(error).__name__) from error
                found[row] = np.nan
                self.raised = f"{type(error).__name__}: {error}".splitlines()[0]
        nothing = np.zeros(len(index), np.int32)
        rounding = self.epsilon / 2 * (np.abs(found) + abs(self.value))
        return Change(found - self.value, rounding, found, nothing.astype(bool), nothing)


class Directions:
    """A target's function along directions, as if the lengths along them were a point's elements."""

    def __init__(self, target: Target, directions: Callable[[int], Float[np.ndarray, " size"]], count: int):
        self.target, self.directions = target, directions
        self.flat, self.sizes, self.value = np.zeros(count), [count], target.value
        self.bounds = np.full(count, -np.inf), np.full(count, np.inf)

    def moved(self, flat: np.ndarray) -> "Directions":
        """Return the same: lengths along directions have no roundings of their own."""
        return self

    def elements(self, index: Int[np.ndarray, " n"], values: Float[np.ndarray, "n m"]) -> Moved:
        """Return the changes at point + values[i, j] · direction index[i]: [n, m]."""
        pairs = zip(index, values, strict=True)
        rows = [self.target.along(self.directions(int(number)), row) for number, row in pairs]
        return Moved(*(np.stack(column) for column in zip(*rows, strict=True)))


class _Cost(NamedTuple):
    bytes: int
    """Of all intermediate values."""
    operations: float
    equations: int


def _survey(jaxpr: Any) -> _Cost:
    total, operations, equations = 0, 0.0, len(jaxpr.eqns)
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        for var in eqn.outvars:
            size = float(np.prod(getattr(var.aval, "shape", ()), dtype=float))
            total += int(size) * getattr(getattr(var.aval, "dtype", None), "itemsize", 8)
            if name == "dot_general":
                (axes, _), _ = eqn.params["dimension_numbers"]
                size *= np.prod([eqn.invars[0].aval.shape[axis] for axis in axes])
            operations += size
        for cost in (_survey(inner.jaxpr) for inner in inside(eqn)):
            total += cost.bytes
            operations += cost.operations * eqn.params.get("length", _WHILE if name == "while" else 1)
            equations += cost.equations
    return _Cost(total, operations, equations)
