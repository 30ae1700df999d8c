"""What is checked: a function, its arguments, what of them is differentiated, and how it can be run."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from jaxnet.gradcheck.evaluate import evaluated
from jaxnet.gradcheck.progress import doing
from jaxnet.gradcheck.widen import Wide, hoisted, widen

PyTree = Any
Leaves = list[Any]
_PROJECTIONS = 3  # of a function that is not scalar
_RUNS = 2  # of f, to see whether it is deterministic


class Output(NamedTuple):
    """What f returned at the point."""

    tree: Any
    values: list[np.ndarray]
    paths: list[str]
    scalar: bool
    finite: list[np.ndarray]
    """Which of its numbers are."""
    single: bool
    """One array, not a container of them."""


class Problem(NamedTuple):
    """A function at a point. Its numbers are flat: of a complex leaf the real parts, then the imaginary."""

    name: str
    call: Callable[[Leaves], Leaves]
    """f of what is differentiated; its outputs."""
    rebuilt: Callable[[Leaves], tuple[Any, ...]]
    """f's arguments with other leaves."""
    others: tuple[Any, ...]
    """The arguments that are not differentiated."""
    leaves: Leaves
    """What is differentiated, as given."""
    paths: list[str]
    keys: list[tuple[int, str]]
    """Where each leaf is: its argument, among those differentiated, and its path there."""
    single: bool
    """One argument is differentiated, not a tuple of them."""
    shapes: list[tuple[int, ...]]
    """Of the real numbers of each leaf: [2, ...] of a complex one."""
    starts: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray]
    output: Output
    weights: list[Leaves]
    """The random projections of its outputs; a single 1 for a scalar."""
    traced: ClosedJaxpr | None
    """f of its leaves, in its own types."""
    wide: Wide | None
    """The same in float64."""
    untraceable: str
    """Why there is no jaxpr."""
    x64: bool
    """The function runs where x64 is enabled."""

    @property
    def flat(self) -> np.ndarray:
        """The point."""
        return ravel(self.leaves)

    @property
    def sizes(self) -> list[int]:
        """How many real numbers each leaf has."""
        return [int(np.prod(shape)) for shape in self.shapes]

    def element(self, index: int | np.integer) -> str:
        """Return the path of an element."""
        leaf = int(np.searchsorted(self.starts, index, side="right")) - 1
        where: tuple[Any, ...] = np.unravel_index(index - self.starts[leaf], self.shapes[leaf])
        part = ""
        if is_complex(self.leaves[leaf]):
            part, where = (".real", ".imag")[int(where[0])], where[1:]
        return self.paths[leaf] + (f"[{', '.join(map(str, where))}]" if where else "") + part

    def as_given(self, flat: np.ndarray) -> Leaves:
        """Return flat numbers as leaves of the types that f was given."""
        parts = np.split(flat, self.starts[1:-1])
        return [
            _typed(part.reshape(s), leaf)
            for part, s, leaf in zip(parts, self.shapes, self.leaves, strict=True)
        ]


@contextmanager
def running(what: str) -> Iterator[None]:
    """Add to whatever the user's function raises what was running; nothing is caught for good."""

    def note(kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"check_gradients was running {what}")

    with ExitStack() as leaving, doing(what):
        leaving.push(note)
        yield


def is_complex(leaf: Any) -> bool:
    """Return whether a leaf is of complex numbers."""
    return bool(jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.complexfloating))


def is_inexact(leaf: Any) -> bool:
    """Return whether a leaf can be differentiated by: of a floating-point or complex type."""
    if isinstance(leaf, (bool, int)):
        return False
    return isinstance(leaf, (float, complex)) or (
        isinstance(leaf, (np.ndarray, np.generic, Array)) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
    )


def ravel(leaves: Sequence[Any], *, gradient: bool = False) -> np.ndarray:
    """Return leaves as one flat float64 array; a gradient's imaginary parts in jax's convention, negated."""
    parts = []
    for leaf in leaves:
        array = np.asarray(leaf)
        if np.iscomplexobj(array):
            parts += [
                array.real.astype(float).ravel(),
                (-1 if gradient else 1) * array.imag.astype(float).ravel(),
            ]
        else:
            parts.append(array.astype(np.float64).ravel())
    return np.concatenate(parts)


def _typed(part: np.ndarray, leaf: Any) -> Any:
    if is_complex(leaf):
        part = part[0] + 1j * part[1]
    if isinstance(leaf, (float, complex)) and not isinstance(leaf, np.generic):
        return type(leaf)(part)
    return jnp.asarray(part, leaf.dtype) if isinstance(leaf, Array) else np.asarray(part).astype(leaf.dtype)


def differentiated(args: tuple[Any, ...], argnums: int | Sequence[int]) -> list[int]:
    """Return the arguments to differentiate by, or raise ValueError where argnums names others."""
    numbers: list[Any] = [argnums] if isinstance(argnums, (int, np.integer)) else list(argnums)
    if not numbers or not all(
        isinstance(n, (int, np.integer)) and -len(args) <= n < len(args) for n in numbers
    ):
        raise ValueError(f"argnums must be in 0..{len(args) - 1} for {len(args)} arguments, got {argnums}")
    return [int(n) % len(args) for n in numbers]


def in_float64(args: tuple[Any, ...], argnums: int | Sequence[int]) -> bool:
    """Return whether all that is differentiated has float64's precision: then everything runs in it."""
    leaves = [
        leaf for n in differentiated(args, argnums) for leaf in jax.tree.leaves(args[n]) if is_inexact(leaf)
    ]
    return all(jnp.finfo(getattr(leaf, "dtype", np.float64)).eps < 1e-15 for leaf in leaves)


@contextmanager
def float64(*functions: Callable[..., Any], args: tuple[Any, ...] = ()) -> Iterator[None]:
    """Enable x64 for user's functions, whatever the process's setting.

    NumPy arrays that a function closes over have one type within and another outside, which jax's caches do
    not tell apart: where there are any they are cleared on the way in and out.
    """
    mixed = not jax.config.read("jax_enable_x64") and any(
        _closes_over_numpy(f) or _holds_numpy(f, args) for f in functions
    )
    if mixed:
        jax.clear_caches()
    try:
        with jax.enable_x64(True):
            yield
    finally:
        if mixed:
            jax.clear_caches()


def _closes_over_numpy(value: Any, depth: int = 4) -> bool:
    """Return whether NumPy's arrays are among what a function names.

    Such a function is not traced for them: where a trace fails, jax keeps the types that it gave them.
    """
    if isinstance(value, functools.partial):
        return any(_closes_over_numpy(v, depth) for v in (value.func, *value.args, *value.keywords.values()))
    if inspect.ismethod(value):
        value = value.__func__
    if not depth or not inspect.isfunction(value):
        return any(isinstance(leaf, np.ndarray) and leaf.ndim for leaf in jax.tree.leaves(value))
    if str(value.__module__).partition(".")[0] in ("jax", "numpy"):
        return False
    try:
        named = inspect.getclosurevars(value)
    except ValueError:  # a name that has no value yet; to clear caches is always right
        return True
    return any(_closes_over_numpy(v, depth - 1) for v in (*named.nonlocals.values(), *named.globals.values()))


def _holds_numpy(f: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    numbers = [
        n for n, arg in enumerate(args) if jax.tree.leaves(arg) and all(map(_is_array, jax.tree.leaves(arg)))
    ]

    def call(*some: Any) -> Any:
        full = list(args)
        for n, value in zip(numbers, some, strict=True):
            full[n] = value
        return f(*full)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that there are only where x64 is enabled
            consts = jax.make_jaxpr(call)(*(args[n] for n in numbers)).consts
    except (
        Exception
    ):  # f may raise anything, and does so again where it is run; to clear caches is always right
        return True
    return any(not isinstance(const, Array) for const in consts)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (float, complex, np.ndarray, np.generic, Array))


@contextmanager
def ordinary() -> Iterator[None]:
    """Set aside what a user may have made jax strict about, and a GPU's rounding of operands to TF32."""
    with ExitStack() as stack:
        for context in (
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.transfer_guard("allow"),
            jax.default_matmul_precision("highest"),
            np.errstate(all="ignore"),
        ):
            stack.enter_context(context)
        yield


def make_problem(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    argnums: int | Sequence[int],
    *,
    has_aux: bool = False,
    noise: float = 0.0,
    bounds: tuple[Any, Any] | None = None,
) -> Problem:
    """Return the checked problem, or raise what `check_gradients` says."""
    numbers = differentiated(args, argnums)
    names = _names(f, len(args))
    places: list[tuple[int, int]] = []  # of the leaves: the argument, and the leaf's number in it
    paths: list[str] = []
    keys: list[tuple[int, str]] = []
    flattened = {n: jax.tree.flatten(args[n]) for n in numbers}
    leaves: Leaves = []
    for position, n in enumerate(numbers):
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(args[n])):
            if is_inexact(leaf) and not (
                isinstance(leaf, (float, complex)) and not np.isfinite(leaf) and path
            ):
                # An infinite number among the fields of a module is an option of it.
                places.append((n, number))
                keys.append((position, jax.tree_util.keystr(path)))
                paths.append(names[n] + keys[-1][1])
                leaves.append(leaf)
    _check_leaves(args, numbers, names, leaves, paths)
    shapes = [((2,) if is_complex(leaf) else ()) + np.shape(leaf) for leaf in leaves]

    held = [arg if n in numbers else jax.tree.map(_as_jax, arg) for n, arg in enumerate(args)]

    def rebuilt(new: Leaves) -> tuple[Any, ...]:
        trees = {n: list(found[0]) for n, found in flattened.items()}
        for (n, number), leaf in zip(places, new, strict=True):
            trees[n][number] = leaf
        # Traced, f gets JAX's arrays: jax's caches keep the type that it gave to NumPy's, across x64.
        others = held if any(isinstance(leaf, Tracer) for leaf in new) else args
        return tuple(
            jax.tree.unflatten(flattened[n][1], trees[n]) if n in trees else other
            for n, other in enumerate(others)
        )

    def valued(*new: Any) -> PyTree:
        value = f(*rebuilt(list(new)))
        return _without_aux(value) if has_aux else value

    def call(new: Leaves) -> Leaves:
        return jax.tree.leaves(valued(*new))

    def traced_once() -> tuple[ClosedJaxpr, PyTree]:
        # A function of its own, or jax would not trace it again.
        found: tuple[ClosedJaxpr, PyTree] = jax.make_jaxpr(lambda *new: valued(*new), return_shape=True)(
            *leaves
        )
        return found

    traced, wide, untraceable, shape = None, None, "", None
    try:
        traced, shape = traced_once()
    except Exception as error:  # the user's f, traced: the report says what it raised, and f is run
        untraceable = f"{type(error).__name__}: {error}".splitlines()[0]
    if traced is not None:
        traced = hoisted(traced)
    tree = jax.tree.structure(shape)

    def run() -> PyTree:
        if traced is None or not unchanging:
            return valued(*leaves)
        return jax.tree.unflatten(tree, map(jnp.asarray, evaluated("f", traced, leaves)))

    unchanging = traced is not None and _equal(traced, hoisted(traced_once()[0]))
    output = _output(run, noise)
    if traced is not None:
        with jax.enable_x64(True):
            wide = widen(traced)
    function = getattr(f, "func", f)
    return Problem(
        name=getattr(function, "__name__", type(function).__name__).replace("<lambda>", "f"),
        call=call,
        rebuilt=rebuilt,
        others=tuple(arg for n, arg in enumerate(args) if n not in numbers),
        leaves=leaves,
        paths=paths,
        keys=keys,
        single=isinstance(argnums, (int, np.integer)),
        shapes=shapes,
        starts=np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]),
        bounds=_bounds(bounds, leaves, args, numbers, isinstance(argnums, (int, np.integer))),
        output=output,
        weights=_weights(output),
        traced=traced,
        wide=wide,
        untraceable=untraceable,
        x64=bool(jax.config.read("jax_enable_x64")),
    )


def _as_jax(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc" else leaf


def _names(f: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = [
            p.name
            for p in inspect.signature(f).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        parameters = []
    return [parameters[n] if n < len(parameters) else f"args[{n}]" for n in range(count)]


def _check_leaves(
    args: tuple[Any, ...], numbers: list[int], names: list[str], leaves: Leaves, paths: list[str]
) -> None:
    for leaf, path in zip(leaves, paths, strict=True):
        if not np.isfinite(np.asarray(leaf).astype(complex)).all():
            raise ValueError(f"{path} must be finite, got NaN or infinity")
    if sum(np.size(leaf) for leaf in leaves):
        return
    for n in numbers:
        for where, leaf in jax.tree_util.tree_leaves_with_path(args[n]):
            if isinstance(leaf, (int, np.ndarray, np.generic, Array)):
                got = getattr(leaf, "dtype", type(leaf).__name__)
                name = names[n] + jax.tree_util.keystr(where)
                if np.size(leaf) == 0:
                    raise ValueError(f"{name} must have elements to be differentiated, got {np.shape(leaf)}")
                raise TypeError(f"{name} must be floating-point to be differentiated, got {got}")
    raise ValueError("there must be at least one number to differentiate by, got none")


def _without_aux(value: Any) -> Any:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"f must return (value, aux) with has_aux, got {_short(value)}")
    try:
        jax.tree.leaves(value[1])
    except (TypeError, ValueError) as error:
        raise TypeError(f"f's aux must be a pytree, got {type(value[1]).__name__}: {error}") from None
    return value[0]


def _equal(one: ClosedJaxpr, other: ClosedJaxpr) -> bool:
    """Return whether what is traced again is the same; a function that keeps a state may not be."""
    pairs = list(zip(one.consts, other.consts, strict=False))
    same = str(one.jaxpr) == str(other.jaxpr)
    return same and all(a is b or np.array_equal(a, b) for a, b in pairs if not _is_key(a))


def _is_key(value: Any) -> bool:
    return bool(jnp.issubdtype(getattr(value, "dtype", np.float64), jax.dtypes.prng_key))


def _output(run: Callable[[], PyTree], noise: float) -> Output:
    """Return what f returns; run is f at the point."""
    with running("f itself"):
        values = [run() for _ in range(_RUNS)]
    leaves = [jax.tree.leaves(value) for value in values]
    if not leaves[0]:
        raise TypeError(f"f must return floating-point numbers, got {values[0]!r}")
    for leaf in leaves[0]:
        if not is_inexact(leaf):
            raise TypeError(
                f"f must return floating-point numbers, got {getattr(leaf, 'dtype', type(leaf).__name__)}"
            )
    for others in leaves[1:]:
        if not all(_alike(a, b, noise) for a, b in zip(leaves[0], others, strict=True)):
            raise ValueError(
                f"f must be deterministic, got {_short(values[0])} and {_short(values[1])} for equal input"
                + (f" with noise={noise}" if noise else "")
            )
    arrays = [np.asarray(leaf) for leaf in leaves[0]]
    arrays = [a if a.dtype.kind in "fc" else a.astype(np.float64) for a in arrays]
    single = isinstance(values[0], (float, complex, Array, np.ndarray, np.generic))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(values[0])]
    return Output(
        tree=jax.tree.structure(values[0]),
        values=arrays,
        paths=paths,
        scalar=single and np.ndim(arrays[0]) == 0 and not np.iscomplexobj(arrays[0]),
        finite=[np.asarray(np.isfinite(array)) for array in arrays],
        single=single,
    )


def _alike(one: Any, other: Any, noise: float) -> bool:
    a, b = np.asarray(one).astype(complex), np.asarray(other).astype(complex)
    if a.shape != b.shape:
        return False
    return bool(
        np.array_equal(a, b, equal_nan=True) or np.allclose(a, b, rtol=4 * noise, atol=0, equal_nan=True)
    )


def _short(value: PyTree) -> str:
    leaves = jax.tree.leaves(value)
    return str(leaves[0]).split("\n")[0] if leaves else repr(value)


def _weights(output: Output) -> list[Leaves]:
    if output.scalar:
        return [[np.ones(())]]
    rng = np.random.default_rng(0)
    # Multiples of 1/8, which every floating-point type holds.
    eighths = np.r_[-12:-3, 4:13] / 8

    def one(array: np.ndarray, finite: np.ndarray) -> np.ndarray:
        weight = np.asarray(rng.choice(eighths, array.shape))
        if np.iscomplexobj(array):
            weight = weight + 1j * rng.choice(eighths, array.shape)
        return np.asarray(np.where(finite, weight, 0))

    return [
        [one(a, finite) for a, finite in zip(output.values, output.finite, strict=True)]
        for _ in range(_PROJECTIONS)
    ]


def _bounds(
    bounds: tuple[Any, Any] | None, leaves: Leaves, args: tuple[Any, ...], numbers: list[int], single: bool
) -> tuple[np.ndarray, np.ndarray]:
    size = sum((2 if is_complex(leaf) else 1) * np.size(leaf) for leaf in leaves)
    if bounds is None:
        return np.full(size, -np.inf), np.full(size, np.inf)
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise ValueError(f"bounds must be (lower, upper), got {bounds!r}")
    if any(is_complex(leaf) for leaf in leaves):
        raise TypeError("bounds must be of real numbers, got a complex leaf")
    wrt = args[numbers[0]] if single else tuple(args[n] for n in numbers)
    whole: Any = jax.tree.structure(wrt)

    def one(bound: Any, missing: float) -> np.ndarray:
        if bound is None:
            return np.full(size, missing)
        if isinstance(bound, (int, float)):
            return np.full(size, float(bound))
        if jax.tree.structure(bound) != whole:
            raise ValueError(
                f"bounds must be None, a number or like what is differentiated, {whole}, got {bound!r}"
            )
        pairs = zip(jax.tree.leaves(bound), jax.tree.leaves(wrt), strict=True)
        return np.concatenate(
            [np.broadcast_to(b, np.shape(leaf)).ravel() for b, leaf in pairs if is_inexact(leaf)]
        )

    lower, upper = one(bounds[0], -np.inf), one(bounds[1], np.inf)
    flat = ravel(leaves)
    if not ((lower <= flat) & (flat <= upper)).all():
        first = int(np.argmax(~((lower <= flat) & (flat <= upper))))
        raise ValueError(
            f"the point must be within bounds, got {flat[first]} outside [{lower[first]}, {upper[first]}]"
        )
    return lower, upper
