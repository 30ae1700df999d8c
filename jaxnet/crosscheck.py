"""The gradient cross-checker: independent estimates of one gradient, all against all.

Reverse and forward autodiff, hand-written gradients, extrapolated central differences and the complex step.
The verdict on each element comes from the error bar of the numerical estimate (see `estimates`).
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnet import _probe
from jaxnet.judging import compare
from jaxnet.report import GradientReport, Method

PyTree = Any
_FORWARD = 2_048  # elements for which forward autodiff is run one by one
_PROJECTIONS = 3  # of a function that is not scalar
_UNSUPPORTED = (  # what jax says of a mode of differentiation that a function does not have
    "can't apply forward-mode",
    "Reverse-mode differentiation does not work",
    "do not support JVP",
    "Differentiation rule for",
    "differentiation rule",
)


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    candidates: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> GradientReport:
    """Compare all independent estimates of the gradient of f at args, and say which is wrong, where and why.

    f: a pure function of pytrees, traceable by JAX or not; scalar, or any arrays, which are then checked
    through random projections of them. argnums: the arguments to differentiate, as for `jax.grad`.

    candidates: gradients by name, each a function of f's arguments or a ready pytree, of the structure that
    `jax.grad` returns; of the structure of `jax.jacrev` for an f that is not scalar, or, where it works
    element by element, the derivative of each element.

    The numerical side runs in float64, and everything does where args are. Other estimates run as they are,
    in the types of args, and are judged at the precision of what they return; functions also run in float64,
    where rounding hides nothing.

    limit: all elements are looked at one by one up to this many; of more a sample is, and random directions
    of each leaf: the report states what could have escaped. By default 10,000, or 100,000 where one element
    touches so little of what f computes that this is no more work, as in a small network.

    Raises:
        TypeError: a leaf to differentiate that is not floating-point, an f that does not return
            floating-point numbers, a candidate of another structure, or not of floating-point numbers.
        ValueError: no leaf to differentiate, NaN in args, an argnum out of range, a candidate of another
            shape, or an f that returns different values for equal input.
        What f raises is raised as it is, with a note on which estimate was running.

    >>> square = lambda x: (x**2).sum()
    >>> check_gradients(square, np.array([1.0, 2.0]), candidates={"by hand": lambda x: 2 * x}).verdict
    'pass'
    >>> check_gradients(square, np.array([1.0, 2.0]), candidates={"by hand": lambda x: x}).leaves[0].cause
    'by hand is 0.5 times the gradient: a factor of 2 is missing'
    """
    problem = _Problem(f, args, argnums)
    candidates = {str(name): candidate for name, candidate in (candidates or {}).items()}
    functions = [f, *(candidate for candidate in candidates.values() if callable(candidate))]
    mixed = any(_probe.holds_numpy(function, *args) for function in functions)
    with ExitStack() as stack, np.errstate(all="ignore"):
        if problem.in_float64:
            stack.enter_context(_probe.float64(mixed))
        problem.run()
        methods = [_autodiff(problem, "reverse"), _autodiff(problem, "forward")]
        methods += [_hand_written(problem, name, candidate) for name, candidate in candidates.items()]
        if not problem.in_float64:
            stack.enter_context(_probe.float64(mixed))
        problem.widen()
        for method in methods:
            with _running(f"{method.name} in float64"):
                _finish(problem, method)
            if method.ready and method.dtypes == methods[0].dtypes:
                method.noise = methods[0].noise  # it cannot be run again: reverse autodiff's rounding
        return compare(problem, methods, limit, seed)


@contextmanager
def _running(what: str) -> Iterator[None]:
    """Add to whatever the user's function raises what was running; nothing is caught for good."""
    try:
        yield
    except Exception as error:
        error.add_note(f"check_gradients was running {what}")
        raise


class _Problem:
    """f at its arguments, as given and in float64, and what is differentiated."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], argnums: int | Sequence[int]):
        self.f, self.args = f, args
        self.single = isinstance(argnums, (int, np.integer))
        numbers: list[Any] = [argnums] if isinstance(argnums, (int, np.integer)) else list(argnums)
        if not numbers or not all(
            isinstance(n, (int, np.integer)) and -len(args) <= n < len(args) for n in numbers
        ):
            raise ValueError(
                f"argnums must be in 0..{len(args) - 1} for {len(args)} arguments, got {argnums}"
            )
        self.argnums = [int(n) % len(args) for n in numbers]
        self.wrt: PyTree = args[self.argnums[0]] if self.single else tuple(args[n] for n in self.argnums)
        self._check_args()
        self.leaves = jax.tree.leaves(self.wrt)
        self.shapes = [np.shape(leaf) for leaf in self.leaves]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.starts = np.cumsum([0, *self.sizes])
        # Then everything runs in float64; otherwise as the process is set.
        self.in_float64 = all(
            isinstance(leaf, float) or _probe.is_float64(leaf.dtype) for leaf in self.leaves
        )
        self.is_wide = True

    def run(self) -> None:
        """Evaluate f as it is."""
        self.output = self._value()
        self.scalar = (
            isinstance(self.output, (float, Array, np.ndarray, np.generic)) and np.ndim(self.output) == 0
        )

    def widen(self) -> None:
        """Take the arguments to float64, if f lets them, where x64 is enabled."""
        self.wide_args = jax.tree.map(_widen, _copies(self.args))
        self.point = (
            self.wide_args[self.argnums[0]] if self.single else tuple(self.wide_args[n] for n in self.argnums)
        )
        try:
            jax.eval_shape(lambda wrt: self.call(wrt, wide=True), self.point)
        except _probe.UNTRACEABLE:
            pass
        except (TypeError, ValueError):  # f insists on its own types
            self.is_wide = False

    def _check_args(self) -> None:
        names = self._names()
        self.paths: list[str] = []
        for number, argument in enumerate(self.args):
            for path, leaf in jax.tree_util.tree_leaves_with_path(argument):
                name = names[number] + jax.tree_util.keystr(path)
                numeric = isinstance(leaf, (float, complex, np.ndarray, np.generic, Array))
                if number in self.argnums:
                    dtype = getattr(leaf, "dtype", type(leaf).__name__)
                    if isinstance(leaf, bool) or not (
                        isinstance(leaf, float) or (numeric and jnp.issubdtype(dtype, jnp.floating))
                    ):
                        raise TypeError(f"{name} must be floating-point to be differentiated, got {dtype}")
                if numeric and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                    found = np.asarray(leaf, complex)
                    if np.isnan(found).any() or (number in self.argnums and np.isinf(found).any()):
                        raise ValueError(f"{name} must be finite, got NaN or infinity")
        for number in self.argnums:
            for path, _ in jax.tree_util.tree_leaves_with_path(self.args[number]):
                self.paths.append(names[number] + jax.tree_util.keystr(path))
        if not sum(np.size(leaf) for leaf in jax.tree.leaves(self.wrt)):
            raise ValueError("there must be at least one number to differentiate by, got none")

    def _names(self) -> list[str]:
        try:
            parameters = [
                p.name
                for p in inspect.signature(self.f).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            ]
        except (TypeError, ValueError):
            parameters = []
        return [parameters[n] if n < len(parameters) else f"args[{n}]" for n in range(len(self.args))]

    def _value(self) -> PyTree:
        with _running("f itself"):
            values = [self.f(*self.args) for _ in range(3)]
        leaves = [jax.tree.leaves(value) for value in values]
        if not leaves[0]:
            raise TypeError(f"f must return floating-point numbers, got {values[0]!r}")
        for leaf in leaves[0]:
            numeric = isinstance(leaf, (float, np.ndarray, np.generic, Array))
            if not numeric or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                got = getattr(leaf, "dtype", type(leaf).__name__)
                raise TypeError(f"f must return floating-point numbers, got {got}")
        for others in leaves[1:]:
            if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(leaves[0], others, strict=True)):
                raise ValueError(
                    f"f must be deterministic, got {_short(values[0])} and {_short(values[1])} for equal "
                    "input"
                )
        return values[0]

    def call(self, wrt: PyTree, *, wide: bool) -> PyTree:
        """Return f with wrt in place of what it is differentiated by."""
        full = list(self.wide_args if wide else self.args)
        for number, value in zip(self.argnums, [wrt] if self.single else wrt, strict=True):
            full[number] = value
        return self.f(*full)

    def project(self, wrt: PyTree, weights: PyTree, *, wide: bool) -> Any:
        """Return f where it is scalar, else the sum of its values, each times its weight."""
        value = self.call(wrt, wide=wide)
        if self.scalar:
            return jnp.asarray(value)
        pairs = zip(jax.tree.leaves(value), jax.tree.leaves(weights), strict=True)
        return sum(jnp.sum(leaf * jnp.asarray(weight, leaf.dtype)) for leaf, weight in pairs)

    def weights(self) -> list[PyTree]:
        """Return the random projections; a single 1 for a scalar f."""
        if self.scalar:
            return [1.0]
        rng = np.random.default_rng(0)
        # Multiples of 1/8, which every floating-point type holds.
        return [
            jax.tree.map(lambda leaf: rng.choice(np.r_[-12:-3, 4:13] / 8, np.shape(leaf)), self.output)
            for _ in range(_PROJECTIONS)
        ]  # fmt: skip

    def evaluate(self, point: PyTree, weights: PyTree) -> Any:
        """Return f at a float64 point, computed in float64 where f lets it be."""
        if self.is_wide:
            return self.project(point, weights, wide=True)
        own = jax.tree.map(lambda leaf, like: leaf.astype(jnp.result_type(like)), point, self.wrt)
        return self.project(own, weights, wide=False)

    running = staticmethod(_running)

    def ravel(self, gradient: PyTree) -> np.ndarray:
        """Return a gradient as one flat float64 array."""
        return np.concatenate(
            [np.asarray(leaf).astype(np.float64).ravel() for leaf in jax.tree.leaves(gradient)]
        )


def _copies(args: PyTree) -> PyTree:
    """Copy NumPy arrays: jax remembers the type, by x64, of one that a traced function closes over."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, args)


def _widen(leaf: Any) -> Any:
    if isinstance(leaf, (np.ndarray, np.generic, Array)) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return (
            jnp.asarray(leaf).astype(jnp.float64)
            if isinstance(leaf, Array)
            else jnp.asarray(leaf, jnp.float64)
        )
    return jnp.asarray(leaf, jnp.float64) if isinstance(leaf, float) else leaf


def _short(value: PyTree) -> str:
    return str(jax.tree.leaves(value)[0]).split("\n")[0]


def _autodiff(problem: _Problem, mode: str) -> Method:
    """Return the gradient by one mode of autodiff, as f is and in float64, with its own rounding noise."""
    weights = problem.weights()
    method = Method(mode, noise=np.zeros(problem.starts[-1]))
    method.sampled = mode == "forward" and problem.starts[-1] > _FORWARD

    def gradient(wide: bool) -> Callable[[PyTree, PyTree], PyTree]:
        target = partial(problem.project, wide=wide)
        return _compiled(jax.grad(target) if mode == "reverse" else partial(_forward_gradient, target))

    def once(wrt: PyTree, weights: PyTree) -> PyTree:  # whether f has forward autodiff at all
        return jax.jvp(lambda p: problem.project(p, weights, wide=False), (wrt,), (wrt,))[1]

    own = gradient(wide=False)
    try:
        with _running(f"{mode} autodiff"):
            if method.sampled:
                _compiled(once)(jax.tree.map(jnp.asarray, problem.wrt), weights[0])
                method.dtypes = [np.dtype(np.float64)] * len(problem.sizes)
                return method
            found = [own(problem.wrt, w) for w in weights]
            method.dtypes = [np.dtype(leaf.dtype) for leaf in jax.tree.leaves(found[0])]
            method.own = [problem.ravel(gradient) for gradient in found]
            if not all(map(_probe.is_float64, method.dtypes)):
                method.beside = _beside(problem, lambda p: own(p, weights[0]))
                method.exact = gradient(wide=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        if not any(phrase in str(error) for phrase in _UNSUPPORTED):
            raise
        method.unavailable = str(error).split("\n")[0].split(". ")[0]
    return method


def _compiled(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    compiled = jax.jit(function)

    def call(*args: Any) -> PyTree:
        try:
            return compiled(*args)
        except _probe.UNTRACEABLE:  # f looks at its values
            return function(*args)

    return call


def _forward_gradient(target: Callable[[PyTree, PyTree], Array], wrt: PyTree, weights: PyTree) -> PyTree:
    wrt = jax.tree.map(jnp.asarray, wrt)
    flat, unravel = ravel_pytree(wrt)

    def derivative(index: Array) -> Array:
        direction = unravel(jnp.zeros_like(flat).at[index].set(1))
        return jax.jvp(lambda p: target(p, weights), (wrt,), (direction,))[1]

    batch = max(1, min(256, _probe.CHUNK_BYTES // (8 * flat.nbytes)))
    try:
        return unravel(jax.lax.map(derivative, jnp.arange(flat.size), batch_size=batch).astype(flat.dtype))
    except _probe.UNTRACEABLE:
        return unravel(
            jnp.stack([derivative(jnp.asarray(index)) for index in range(flat.size)]).astype(flat.dtype)
        )


def _beside(problem: _Problem, own: Callable[[PyTree], PyTree]) -> list[tuple[PyTree, np.ndarray]]:
    """Return a method's values at the point and a few roundings beside it, to measure its own by."""
    rng = np.random.default_rng(0)

    def nudged(leaf: Any, size: float) -> Any:
        dtype = jnp.result_type(leaf)
        factor = 1 + size * float(jnp.finfo(dtype).eps) * rng.standard_normal(np.shape(leaf))
        return jnp.asarray(np.asarray(leaf, np.float64) * factor, dtype)

    points = [jax.tree.map(partial(nudged, size=size), problem.wrt) for size in (0.0, 4.0, 4.0, 4.0)]
    return [(point, problem.ravel(own(point))) for point in points]


def _finish(problem: _Problem, method: Method) -> None:
    """Run a method in float64, where it has narrower numbers, and measure its rounding."""
    if method.exact is None or not problem.is_wide:
        return
    weights = problem.weights()
    try:
        method.wide = [problem.ravel(method.exact(problem.point, w)) for w in weights]
    except (TypeError, ValueError):
        if method.name in ("reverse", "forward"):
            raise
        return  # a hand-written one that insists on its own types
    for point, mine in method.beside:
        error = np.abs(mine - problem.ravel(method.exact(jax.tree.map(_widen, point), weights[0])))
        method.noise = np.maximum(method.noise, np.where(np.isfinite(error), error, 0))


def _hand_written(problem: _Problem, name: str, candidate: Any) -> Method:
    ready = not callable(candidate)

    def project(gradient: PyTree, weights: PyTree) -> PyTree:
        return _candidate(problem, name, gradient, weights)[0]

    weights = problem.weights()
    if ready:
        found: PyTree = candidate
    else:
        with _running(name):
            found = candidate(*problem.args)
    own = [problem.ravel(project(found, w)) for w in weights]
    dtypes = _candidate(problem, name, found, weights[0])[1]
    method = Method(name, dtypes, own, noise=np.zeros(problem.starts[-1]), ready=ready)
    if ready or all(map(_probe.is_float64, dtypes)):
        return method

    def run(wrt: PyTree, weights: PyTree, *, wide: bool) -> PyTree:
        full = list(problem.wide_args if wide else problem.args)
        for number, value in zip(problem.argnums, [wrt] if problem.single else wrt, strict=True):
            full[number] = value
        return project(candidate(*full), weights)

    with _running(name):
        method.beside = _beside(problem, lambda p: run(p, weights[0], wide=False))
    method.exact = partial(run, wide=True)
    return method


def _candidate(problem: _Problem, name: str, gradient: PyTree, weights: PyTree) -> tuple[list, list]:
    """Return a hand-written gradient as float64 arrays, and their types, or say why it is none."""
    outputs = jax.tree.leaves(problem.output)
    one = problem.scalar or not isinstance(problem.output, (tuple, list, dict))
    expected = jax.tree.structure(problem.wrt)
    structure: Any = jax.tree.structure(problem.output)
    blocks: list[PyTree] = [gradient] if one else structure.flatten_up_to(gradient)
    total = [np.zeros(shape) for shape in problem.shapes]
    dtypes: list[Any] = [None] * len(total)
    for output, weight, block in zip(outputs, jax.tree.leaves(weights), blocks, strict=True):
        if str(jax.tree.structure(block)) != str(expected):
            raise TypeError(f"{name} must have the structure of {expected}, got {jax.tree.structure(block)}")
        for number, leaf in enumerate(jax.tree.leaves(block)):
            path, shape = problem.paths[number], problem.shapes[number]
            if not isinstance(leaf, (float, np.ndarray, np.generic, Array)) or not jnp.issubdtype(
                jnp.result_type(leaf), jnp.floating
            ):
                got = getattr(leaf, "dtype", type(leaf).__name__)
                raise TypeError(f"{name} must be floating-point at {path}, got {got}")
            dtypes[number] = np.dtype(getattr(leaf, "dtype", np.float64))
            values = np.asarray(leaf).astype(np.float64)
            full = np.shape(output) + shape
            if values.shape == full:
                values = np.tensordot(weight, values, axes=np.ndim(output)) if np.ndim(output) else values
            elif not problem.scalar and values.shape == shape == np.shape(output):
                values = weight * values  # the diagonal: f works element by element
            else:
                raise ValueError(f"{name} must have shape {list(full)} at {path}, got {list(values.shape)}")
            total[number] = total[number] + values
    return total, dtypes
