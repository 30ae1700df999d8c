"""Gradients by other means than numerical ones: reverse and forward autodiff, and hand-written."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr

from jaxnet.gradcheck import judge
from jaxnet.gradcheck.evaluate import CHUNK_BYTES, evaluated, program, whole
from jaxnet.gradcheck.interpret import all_eqns, bind, holds, loops_in_branch, walk
from jaxnet.gradcheck.problem import Leaves, Problem, is_complex, is_inexact, ravel, running
from jaxnet.gradcheck.rounding import SEEDS, rounded
from jaxnet.gradcheck.widen import Wide, hoisted, widen

_FORWARD = 2_048  # elements for which forward autodiff is run one by one
_BESIDE = 4  # points near the real one, where a gradient is run to see its noise
_UNSUPPORTED = (  # what jax says of a mode of differentiation that a function does not have
    "can't apply forward-mode",
    "Reverse-mode differentiation does not work",
    "do not support JVP",
    "do not support forward-mode",
    "Differentiation rule for",
    "differentiation rule",
    "Forward-mode differentiation",
    "reverse-mode",
    "not supported",
    "not implemented",
)
_TRIPS = 100_000  # of a while loop, which need not end where every operation is off by a rounding


class Gradient(NamedTuple):
    """One way to the gradient, flat in float64, for each projection of f."""

    name: str
    own: list[np.ndarray] | None = None
    """As it comes, in its own types."""
    wide: list[np.ndarray] | None = None
    """The same rules in float64."""
    noise: np.ndarray | None = None
    """Of each element in its own type, measured beside the point."""
    epsilon: np.ndarray | None = None
    """Of each element's own type; of the function's narrowest, where that is less precise."""
    dtypes: tuple[str, ...] = ()
    unavailable: str | None = None
    looked: np.ndarray | None = None
    """Where it is known, if not everywhere."""
    entries: Callable[[int], np.ndarray] | None = None
    """Of a Jacobian: what gives each of f's values' derivatives by an element, all in a row."""
    rounding: Callable[[int], np.ndarray] | None = None
    """What measures, for a projection, how far roundings to 2^-52 of every operation take the same rules."""
    rounded: np.ndarray | float = 0.0
    """What it measured, once that was asked for."""

    def best(self, projection: int) -> np.ndarray:
        """Return the most precise values there are."""
        found = self.wide if self.wide is not None else self.own
        assert found is not None
        return found[projection]


def begun(problem: Problem, modes: Sequence[str]) -> dict[str, ClosedJaxpr]:
    """Return modes of autodiff traced, each for `autodiff`, while another thread compiles them."""
    found = dict[str, ClosedJaxpr]()
    for mode in modes if problem.traced is not None else ():
        with contextlib.suppress(Exception):  # tracing the user's rules: `autodiff` tells of it
            if mode == "reverse":
                found[mode] = jaxpr = _reverse_jaxpr(problem)
                args = [*map(jnp.asarray, problem.leaves), *map(jnp.asarray, problem.weights[0])]
                whole("own", jaxpr).ahead(jaxpr.consts, args)
            elif (total := int(problem.starts[-1])) <= _FORWARD:
                found[mode] = jaxpr = _slope_jaxpr(problem)
                forward_elements(problem, np.arange(total), problem.weights[0], jaxpr, only_begin=True)
    return found


def autodiff(problem: Problem, modes: Sequence[str], begun: Mapping[str, ClosedJaxpr]) -> list[Gradient]:
    """Return the gradient by each mode of autodiff, or why it is not available."""
    found = []
    # What jax cannot trace is Python of the user's own, which may meet its tracers with any error.
    refusals = (TypeError, ValueError, NotImplementedError) if problem.traced is not None else (Exception,)
    for mode in modes:
        function = _reverse if mode == "reverse" else _forward
        try:
            with running(f"{mode} autodiff"):
                found.append(function(problem, begun.get(mode)))
        except refusals as error:
            lines = str(error).strip().splitlines() or [""]
            known = any(phrase in str(error) for phrase in _UNSUPPORTED)
            known |= isinstance(error, NotImplementedError)
            if not known and problem.traced is not None:
                raise
            reason = lines[0].split(". ")[0]
            found.append(Gradient(mode, unavailable=reason if known else f"{type(error).__name__}: {reason}"))
    # Both modes compute the same sums in another order.
    other = next((g.rounding for g in found if g.rounding is not None), None)
    return [g._replace(rounding=g.rounding or other) for g in found]


def pull_back(problem: Problem) -> Callable[..., Leaves]:
    """Return `gradient(leaves, weights)`: reverse autodiff of the weighted outputs, in f's own types."""

    def gradient(leaves: Leaves, weights: Leaves) -> Leaves:
        outputs, back = jax.vjp(problem.call, list(leaves))
        cotangents = [jnp.asarray(w).astype(out.dtype) for w, out in zip(weights, outputs, strict=True)]
        return list(back(cotangents)[0])

    return gradient


def _reverse_jaxpr(problem: Problem) -> ClosedJaxpr:
    leaves, weights = ([jnp.asarray(leaf) for leaf in some] for some in (problem.leaves, problem.weights[0]))
    gradient = pull_back(problem)
    return hoisted(jax.make_jaxpr(lambda new, w: gradient(new, w))(leaves, weights))


def _reverse(problem: Problem, jaxpr: ClosedJaxpr | None) -> Gradient:
    if problem.traced is None:
        gradient = pull_back(problem)
        return _measured(
            "reverse", problem, lambda new, w: gradient([jnp.asarray(leaf) for leaf in new], w), None
        )
    jaxpr = jaxpr or _reverse_jaxpr(problem)
    return _measured("reverse", problem, lambda new, w: evaluated("own", jaxpr, [*new, *w]), jaxpr)


def _measured(
    name: str, problem: Problem, own: Callable[[Leaves, Leaves], Leaves], jaxpr: ClosedJaxpr | None
) -> Gradient:
    """Run a gradient at the point, and beside it to see its noise; in float64 too, if it is narrower."""
    first = own(problem.leaves, problem.weights[0])
    dtypes = [np.dtype(getattr(leaf, "dtype", np.float64)) for leaf in first]
    values = [ravel(first, gradient=True)]
    values += [ravel(own(problem.leaves, w), gradient=True) for w in problem.weights[1:]]
    beside = [ravel(own(point, problem.weights[0]), gradient=True) for point in nearby(problem)[1:]]
    wide = rounding = None
    epsilon = _epsilons(problem, dtypes)
    if jaxpr is not None:
        with jax.enable_x64(True):
            widened = widen(jaxpr)
            epsilon = _epsilons(problem, dtypes, widened)
            rounding = _rounding_of(problem, widened.jaxpr, epsilon, lambda found, _: found, weighted=True)
            if (epsilon > 1e-15).any():
                wide = [
                    ravel(evaluated("wide", widened.jaxpr, [*wide_leaves(problem), *_wide(w)]), gradient=True)
                    for w in problem.weights
                ]
    return Gradient(
        name,
        own=values,
        wide=wide,
        noise=scatter([values[0], *beside]),
        epsilon=epsilon,
        dtypes=tuple(map(str, dtypes)),
        rounding=rounding,
    )


def _rounding_of(
    problem: Problem,
    jaxpr: ClosedJaxpr,
    epsilon: np.ndarray,
    project: Callable[[Any, Leaves], Leaves],
    *,
    weighted: bool,
) -> Callable[[int], np.ndarray]:
    def rounding(number: int) -> np.ndarray:
        weights = problem.weights[number]
        args = [*wide_leaves(problem), *(_wide(weights) if weighted else [])]
        try:
            moved = blurred(jaxpr, args)
        except jax.errors.JaxRuntimeError:  # of a callback that refuses numbers a rounding off
            return np.zeros(int(problem.starts[-1]))
        by_rounding, by_flushing = (
            np.abs(ravel([_spread(leaf, like) for leaf, like in zip(found, problem.leaves, strict=True)]))
            for found in (project(some, [np.abs(w) for w in weights]) for some in moved)
        )
        # Of what is scaled up to a type's own roundings, flushing is as it is.
        result: np.ndarray = by_rounding + np.where(epsilon > 1e-15, by_flushing * 2.0**-52 / epsilon, 0.0)
        return result

    return rounding


def _spread(size: Any, like: Any) -> Any:
    """Return how far off a number may be, as one whose parts each may be."""
    return size * (1 + 1j) if is_complex(like) else size


def blurred(jaxpr: ClosedJaxpr, args: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return how far a float64 jaxpr's results move where every operation's result is off by a rounding.

    And where it is made 0 below float32's smallest normal number, as XLA does.
    """

    def function(consts: Any, args: Any, seed: Any, size: Any, least: Any) -> Any:
        return rounded(jaxpr, consts, args, seed, size, np.int32(_TRIPS), least)

    run = program("blurred", jaxpr, function)

    def moved(seed: int, size: float, least: float) -> list[np.ndarray]:
        found = run(jaxpr.consts, list(args), np.uint32(seed), size, least)
        return [np.nan_to_num(np.abs(np.asarray(v) - p)) for v, p in zip(found, plain, strict=True)]

    plain = [np.asarray(leaf) for leaf in run(jaxpr.consts, list(args), np.uint32(0), 0.0, 0.0)]
    seeds = [moved(seed, 2.0**-52, 0.0) for seed in SEEDS]
    return [np.max(leaves, axis=0) for leaves in zip(*seeds, strict=True)], moved(0, 0.0, judge.FLUSHED)


def wide_leaves(problem: Problem) -> Leaves:
    """Return the leaves in float64, where x64 is enabled."""
    return _wide(problem.leaves)


def _wide(leaves: Sequence[Any]) -> Leaves:
    return [np.asarray(x).astype(complex if np.iscomplexobj(np.asarray(x)) else np.float64) for x in leaves]


def _epsilons(problem: Problem, dtypes: Sequence[Any], widened: Wide | None = None) -> np.ndarray:
    """Return the epsilon of each element's type, or of the narrowest type that a function casts to."""
    floor = float(jnp.finfo(widened.narrowest).eps) if widened is not None and widened.narrow else 0.0
    return np.repeat([max(float(jnp.finfo(dtype).eps), floor) for dtype in dtypes], problem.sizes)


def _line(problem: Problem, relative: Any) -> list[np.ndarray]:
    """Return points along a random line through the point, of a relative distance, within its bounds."""
    rng = np.random.default_rng(0)
    flat, (lower, upper) = problem.flat, problem.bounds
    move = flat * relative * rng.uniform(0.5, 1, flat.size) * rng.choice([-1, 1], flat.size)
    return [np.clip(flat + k * move, lower, upper) for k in range(_BESIDE)]


def nearby(problem: Problem) -> list[Leaves]:
    """Return points along a random line, a few roundings of their type, or of f's narrowest, apart."""
    epsilon = _epsilons(problem, [getattr(leaf, "dtype", float) for leaf in problem.leaves], problem.wide)
    return [problem.as_given(flat) for flat in _line(problem, 4 * epsilon)]


def scatter(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the noise of values along a line: what of their differences is not smooth."""
    found = np.stack(values)
    parts = [np.diff(found, order, axis=0) / variance**0.5 for order, variance in ((2, 6), (3, 20))]
    most = np.abs(np.concatenate(parts)).max(axis=0)
    return np.where(np.isfinite(most), most, 0.0)


def _forward(problem: Problem, jaxpr: ClosedJaxpr | None) -> Gradient:
    total = int(problem.starts[-1])
    if problem.traced is None:
        return _forward_untraced(problem)
    jaxpr = jaxpr or _slope_jaxpr(problem)
    epsilon = _epsilons(problem, [jnp.asarray(leaf).dtype for leaf in problem.leaves], problem.wide)
    if total > _FORWARD:
        return Gradient("forward", wide=[], looked=np.zeros(total, bool), epsilon=epsilon)
    everywhere, weights = np.arange(total), problem.weights[0]
    wide = [forward_elements(problem, everywhere, w, jaxpr) for w in problem.weights]
    line = _line(problem, 2.0**-50)
    beside = [forward_elements(problem, everywhere, weights, jaxpr, flat) for flat in line[1:]]
    return Gradient("forward", wide=wide, noise=scatter([wide[0], *beside]), epsilon=epsilon)


def _slope_jaxpr(problem: Problem) -> ClosedJaxpr:
    """Return the slope along a direction of the weighted outputs, traced in f's own types, in float64."""

    def slope(leaves: Leaves, tangents: Leaves, weights: Leaves) -> Array:
        outputs = jax.jvp(lambda *new: problem.call(list(new)), tuple(leaves), tuple(tangents))[1]
        pairs = zip(outputs, weights, strict=True)
        # A tangent of what is left out may be infinite.
        terms = [jnp.sum(jnp.where(w != 0, jnp.real(out * w.astype(out.dtype)), 0)) for out, w in pairs]
        return jnp.sum(jnp.stack([jnp.asarray(term, terms[0].dtype) for term in terms]))

    leaves = [jnp.asarray(leaf) for leaf in problem.leaves]
    weights = [jnp.asarray(w) for w in problem.weights[0]]
    jaxpr = hoisted(jax.make_jaxpr(slope)(leaves, leaves, weights))
    if any(
        eqn.primitive.name == "custom_lin" for eqn in all_eqns(jaxpr.jaxpr)
    ):  # jax says it where it is run
        raise TypeError("can't apply forward-mode autodiff (jvp) to a custom_vjp function.")
    with jax.enable_x64(True):
        return widen(jaxpr).jaxpr


def _parts(problem: Problem, flat: Any) -> Leaves:
    """Return flat float64 numbers as leaves, complex where they are."""
    pieces = zip(problem.starts[:-1], problem.starts[1:], problem.shapes, problem.leaves, strict=True)
    parts = [(flat[start:stop].reshape(shape), leaf) for start, stop, shape, leaf in pieces]
    return [part[0] + 1j * part[1] if is_complex(leaf) else part for part, leaf in parts]


def slopes(
    problem: Problem,
    directions: Callable[[Any], Any],
    rows: np.ndarray,
    weights: Leaves,
    jaxpr: ClosedJaxpr,
    kind: str,
    flat: np.ndarray | None = None,
    *,
    only_begin: bool = False,
) -> np.ndarray:
    """Return forward autodiff's slopes along directions, each made from a row, in float64.

    only_begin: have it compiled in another thread, and return nothing.
    """
    flat = problem.flat if flat is None else flat
    # Where many are computed at once all branches are, also one that calls back, or a loop that never ends.
    alone = holds(jaxpr.jaxpr, "callback") or loops_in_branch(jaxpr.jaxpr)
    together = 1 if alone else max(1, min(256, CHUNK_BYTES // (8 * flat.nbytes)))

    def run(batch: int) -> np.ndarray:
        def function(consts: Any, rows: Any, flat: Any, weights: Any) -> Any:
            def one(row: Any) -> Any:
                args = [*_parts(problem, flat), *_parts(problem, directions(row)), *weights]
                return walk(jaxpr.jaxpr, consts, args, bind)[0]

            return jax.lax.map(one, rows, batch_size=batch if batch > 1 else None)

        run = program((kind, batch, rows.shape, tuple(problem.shapes)), jaxpr, function, len(rows))
        if only_begin:
            run.ahead(jaxpr.consts, jnp.asarray(rows), flat, _wide(weights))
            return np.zeros(0)
        return np.asarray(run(jaxpr.consts, jnp.asarray(rows), flat, _wide(weights)))

    with jax.enable_x64(True):
        try:
            return run(together)
        except NotImplementedError:  # an operation that cannot be batched
            return run(1)


def forward_elements(
    problem: Problem,
    index: np.ndarray,
    weights: Leaves,
    jaxpr: ClosedJaxpr,
    flat: np.ndarray | None = None,
    *,
    only_begin: bool = False,
) -> np.ndarray:
    """Return the derivatives by some elements, by forward autodiff in float64; only_begin: as for slopes."""
    total = int(problem.starts[-1])

    def unit(row: Any) -> Any:
        return jnp.zeros(total).at[row].set(1.0)

    return slopes(problem, unit, index, weights, jaxpr, "forward", flat, only_begin=only_begin)


def forward_some(
    problem: Problem, gradient: Gradient, index: np.ndarray, directions: Sequence[np.ndarray]
) -> Any:
    """Return forward autodiff's derivatives by some elements, and slopes along directions, by projection."""
    jaxpr = _slope_jaxpr(problem)
    total = int(problem.starts[-1])
    wide, along = [], []
    for weights in problem.weights:
        values = np.full(total, np.nan)
        values[index] = forward_elements(problem, index, weights, jaxpr)
        wide.append(values)
        rows = np.stack(directions) if len(directions) else np.zeros((0, total))
        along.append(
            slopes(problem, lambda row: row, rows, weights, jaxpr, "slopes") if len(rows) else np.zeros(0)
        )
    looked = np.isin(np.arange(total), index)
    return gradient._replace(wide=wide, looked=looked, noise=np.zeros(total)), along


def _forward_untraced(problem: Problem) -> Gradient:
    leaves = tuple(jnp.asarray(leaf) for leaf in problem.leaves)
    total = int(problem.starts[-1])
    if total > _FORWARD:
        return Gradient(
            "forward", unavailable="f cannot be traced, and has too many elements to run it for each"
        )

    def derivative(index: int, weights: Leaves) -> float:
        unit = np.zeros(total)
        unit[index] = 1
        tangents = tuple(jnp.asarray(t) for t in problem.as_given(unit))
        outputs = jax.jvp(lambda *new: problem.call(list(new)), leaves, tangents)[1]
        pairs = zip(outputs, weights, strict=True)
        return float(sum(np.sum(np.where(w != 0, np.real(np.asarray(out) * w), 0)) for out, w in pairs))

    own = [np.array([derivative(i, w) for i in range(total)]) for w in problem.weights]
    epsilon = _epsilons(problem, [getattr(leaf, "dtype", np.float64) for leaf in leaves])
    return Gradient("forward", own=own, noise=np.zeros(total), epsilon=epsilon)


def hand_written(problem: Problem, name: str, candidate: Any) -> Gradient:
    """Return a hand-written gradient, a function of f's arguments or a ready pytree."""
    numbers = jax.tree_util.tree_leaves_with_path(candidate)
    paths = {(0, jax.tree_util.keystr(path)) for path, leaf in numbers if is_inexact(leaf)}
    # A module of the model's own kind can be called, but is what a gradient of it looks like.
    if not callable(candidate) or (problem.single and paths == {*problem.keys}):
        blocks = _leaves(problem, name, candidate)
        own = [ravel(_weighted(problem, blocks, w), gradient=True) for w in problem.weights]
        dtypes = [np.dtype(getattr(leaf, "dtype", np.float64)) for leaf in blocks[0]]
        epsilon = _epsilons(problem, dtypes)
        return Gradient(
            name,
            own=own,
            noise=epsilon * np.abs(own[0]),
            epsilon=epsilon,
            dtypes=tuple(map(str, dtypes)),
            entries=_entries(problem, blocks),
        )

    def leaves_at(new: Leaves) -> list[Leaves]:
        with running(name):
            return _leaves(problem, name, candidate(*problem.rebuilt(new)))

    def weighted(blocks: list[Leaves], weights: Leaves) -> Leaves:
        return _weighted(problem, blocks, weights)

    count = len(problem.leaves)

    def in_blocks(flat: Any) -> list[Leaves]:
        return [list(flat[k : k + count]) for k in range(0, len(flat), count)]

    def traceable(*new: Any) -> list[Leaves]:
        blocks = leaves_at(list(new))
        if any(isinstance(leaf, (np.ndarray, float)) for block in blocks for leaf in block):
            raise TypeError("NumPy's numbers are not JAX's: traced, they would change their type")
        return blocks

    widened = traced = None
    with contextlib.suppress(Exception):  # the user's candidate: whatever tracers make it raise, it is called
        traced = hoisted(jax.make_jaxpr(traceable)(*problem.leaves))
    if traced is not None:
        first, *points = [in_blocks(evaluated("own", traced, point)) for point in nearby(problem)]
        with jax.enable_x64(True):
            widened, blocks = widen(traced), first
            if widened.narrow or any(jnp.finfo(leaf.dtype).eps > 1e-15 for leaf in first[0]):
                blocks = in_blocks(evaluated("wide", widened.jaxpr, wide_leaves(problem)))
        if any(map(_underflown, *map(jax.tree.leaves, (first, blocks)))):
            first = leaves_at(problem.leaves)  # as it is called: compiled, it may underflow elsewhere
    else:
        first, *points = [leaves_at(point) for point in (problem.leaves, *nearby(problem)[1:])]
    dtypes = [np.dtype(getattr(leaf, "dtype", np.float64)) for leaf in first[0]]
    own = [ravel(weighted(first, w), gradient=True) for w in problem.weights]
    epsilon = _epsilons(problem, dtypes, widened)
    wide = rounding = None
    if widened is not None:
        rounding = _rounding_of(
            problem, widened.jaxpr, epsilon, lambda flat, w: weighted(in_blocks(flat), w), weighted=False
        )
        if (epsilon > 1e-15).any():
            wide = [ravel(weighted(blocks, w), gradient=True) for w in problem.weights]
    beside = [ravel(weighted(point, problem.weights[0]), gradient=True) for point in points]
    return Gradient(
        name,
        own=own,
        wide=wide,
        entries=_entries(problem, first),
        rounding=rounding,
        noise=scatter([own[0], *beside]),
        epsilon=epsilon,
        dtypes=tuple(map(str, dtypes)),
    )


def _underflown(leaf: Any, wide: Any) -> bool:
    """Return whether a gradient may be off because numbers on the way to it were too small, or too large."""
    size = np.abs(np.asarray(leaf).astype(complex))
    safe = (size > 2**20 * float(jnp.finfo(leaf.dtype).tiny)) & np.isfinite(size)
    return not (safe | ((size == 0) & (wide == 0))).all()


def _entries(problem: Problem, blocks: list[Leaves]) -> Callable[[int], np.ndarray]:
    def column(index: int) -> np.ndarray:
        leaf = int(np.searchsorted(problem.starts, index, side="right")) - 1
        shape = np.shape(problem.leaves[leaf])
        part, place = divmod(index - int(problem.starts[leaf]), int(np.prod(shape)) or 1)
        found = []
        for output, block in zip(problem.output.values, blocks, strict=True):
            values = np.asarray(block[leaf])
            if np.shape(values) == np.shape(output) + shape:
                values = values.reshape(np.size(output), -1)[:, place]
            else:  # the diagonal
                values = np.where(np.arange(np.size(output)) == place, values.ravel(), 0)
            found.append((-values.imag if part else values.real).astype(np.float64))
        return np.concatenate(found)

    return column


def _weighted(problem: Problem, blocks: list[Leaves], weights: Leaves) -> Leaves:
    """Return the gradient of the weighted outputs from the derivatives of each output."""
    total: Leaves = [0.0] * len(problem.leaves)
    for output, weight, block in zip(problem.output.values, weights, blocks, strict=True):
        for number, leaf in enumerate(block):
            values = np.asarray(leaf)
            values = values.astype(complex if np.iscomplexobj(values) else np.float64)
            shape = np.shape(problem.leaves[number])
            if values.shape == np.shape(output) + shape:
                if weight.ndim or not problem.output.scalar:
                    # What is left out may be infinite.
                    there = (weight != 0).reshape(weight.shape + (1,) * len(shape))
                    values = np.tensordot(weight, np.where(there, values, 0), axes=weight.ndim)
            else:
                values = np.where(weight != 0, weight * values, 0)  # the diagonal: f works element by element
            values = values.astype(complex) if is_complex(problem.leaves[number]) else np.real(values)
            total[number] = total[number] + values
    return total


def _leaves(problem: Problem, name: str, gradient: Any) -> list[Leaves]:
    """Return a hand-written gradient's leaves by output, or say why it is none."""
    tree = problem.output.tree
    if problem.output.single:
        blocks = [gradient]
    else:
        try:
            blocks = tree.flatten_up_to(gradient)
        except (TypeError, ValueError):
            raise TypeError(
                f"{name} must have the structure of {tree}, got {jax.tree.structure(gradient)}"
            ) from None
    return [
        _block(problem, name, output, block)
        for output, block in zip(problem.output.values, blocks, strict=True)
    ]


def _block(problem: Problem, name: str, output: np.ndarray, block: Any) -> Leaves:
    parts = [block] if problem.single else list(block) if isinstance(block, (tuple, list)) else [block]
    found = {
        (number, jax.tree_util.keystr(path)): leaf
        for number, part in enumerate(parts)
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }
    extra = [key for key, leaf in found.items() if key not in problem.keys and is_inexact(leaf)]
    if extra or any(key not in found for key in problem.keys):
        raise TypeError(
            f"{name} must have the structure of what is differentiated, {problem.paths}, got "
            f"{jax.tree.structure(block)}"
        )
    leaves = [found[key] for key in problem.keys]
    for leaf, path, like in zip(leaves, problem.paths, problem.leaves, strict=True):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not (isinstance(leaf, (float, complex)) or hasattr(leaf, "shape")) or not jnp.issubdtype(
            dtype, jnp.inexact
        ):
            got = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"{name} must be floating-point at {path}, got {got}")
        full = np.shape(output) + np.shape(like)
        diagonal = not problem.output.scalar and np.shape(leaf) == np.shape(like) == np.shape(output)
        if np.shape(leaf) != full and not diagonal:
            raise ValueError(f"{name} must have shape {list(full)} at {path}, got {list(np.shape(leaf))}")
    return leaves
