"""Functions whose gradient is known to the last bits of float64: the oracle for error bars.

The derivatives are closed forms in mpmath with 100 digits (of the layer norm, differences over 1e-30), at the
exact float64 point and with the exact float64 constants of the function. They share no code with JAX or with
the estimates that they judge. A kink or a tie lies at a point only where the slopes on both sides are given,
a jump at none. Every f is meant for where x64 is enabled.
"""

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax.scipy import special

Vector = Callable[[np.ndarray], np.ndarray]
Numbers = list[mpmath.mpf]

mp = mpmath.mp.clone()  # nobody else's precision changes
mp.dps = 100


class Truth(NamedTuple):
    """A scalar function of one float64 array [n], points to look at, and its gradient there."""

    name: str
    f: Callable[[jax.Array], jax.Array]
    points: tuple[np.ndarray, ...]
    derivative: Vector  # at a kink, the mean of the slopes on both sides
    low: Vector | None = None  # the lesser and the greater slope of both sides; None: they are equal
    high: Vector | None = None
    # f is a smooth function and noise far above rounding; the derivative is that of the smooth one.
    noisy: bool = False


def _rounded(gradient: Callable[[Numbers], Numbers]) -> Vector:
    """Return a gradient in mpmath as one in float64, computed once for each point."""

    @cache
    def at(point: bytes) -> np.ndarray:
        return np.array([float(d) for d in gradient([mp.mpf(v) for v in np.frombuffer(point).tolist()])])

    return lambda x: at(x.tobytes()).copy()


def _coupled(name: str, f: Callable, gradient: Callable, *points: np.ndarray, noisy: bool = False) -> Truth:
    return Truth(name, f, points, _rounded(gradient), noisy=noisy)


def _each(name: str, g: Callable, slope: Callable, *points: np.ndarray, noisy: bool = False) -> Truth:
    """Return the sum over all elements of a function g of one number."""
    return _coupled(name, lambda x: jnp.sum(g(x)), lambda x: [slope(v) for v in x], *points, noisy=noisy)


def _kinked(name: str, f: Callable, left: Callable, right: Callable, *points: np.ndarray) -> Truth:
    """Return a function with kinks at its points: left and right are the gradients from both sides."""
    below, above = _rounded(left), _rounded(right)
    return Truth(
        name,
        f,
        points,
        lambda x: below(x) / 2 + above(x) / 2,
        lambda x: np.minimum(below(x), above(x)),
        lambda x: np.maximum(below(x), above(x)),
    )


def _each_kinked(name: str, g: Callable, kink: float, left: Callable, right: Callable, *points) -> Truth:
    """Return the sum of a function of one number, with slope left below its kink and right above it."""
    return _kinked(
        name,
        lambda x: jnp.sum(g(x)),
        lambda x: [left(v) if v <= kink else right(v) for v in x],
        lambda x: [left(v) if v < kink else right(v) for v in x],
        *points,
    )


def _differences(value: Callable[[Numbers], mpmath.mpf]) -> Callable[[Numbers], Numbers]:
    """Return the gradient of a smooth function of moderate scales, right to some 50 digits."""
    step = mp.mpf("1e-30")

    def moved(x: Numbers, i: int, by: mpmath.mpf) -> mpmath.mpf:
        return value([*x[:i], x[i] + by, *x[i + 1 :]])

    return lambda x: [(moved(x, i, step) - moved(x, i, -step)) / (2 * step) for i in range(len(x))]


def _spread(low: float, high: float, n: int = 100) -> np.ndarray:
    """Return n points that fill an interval evenly, in no order."""
    return low + (high - low) * ((np.arange(n) + 0.5) * 0.6180339887498949 % 1)


def _scales(low: float, high: float, n: int = 100) -> np.ndarray:
    """Return powers of ten with exponents from low to high."""
    return 10.0 ** _spread(low, high, n)


def _signed(x: np.ndarray) -> np.ndarray:
    return x * np.where(np.arange(x.size) % 2, -1.0, 1.0)


def _near(center: float, low: float = -12, high: float = -1, n: int = 100) -> np.ndarray:
    """Return points on both sides of a number, 10^low to 10^high away from it."""
    return center + _signed(_scales(low, high, n))


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _matrix(x: Numbers, width: int) -> mpmath.matrix:
    return mp.matrix(_rows(x, width))


def _rows(x: Numbers, width: int) -> list[Numbers]:
    return [x[i : i + width] for i in range(0, len(x), width)]


def _times(matrix: np.ndarray, x: Numbers) -> Numbers:
    return [mp.fdot(row, x) for row in matrix.tolist()]


# The constants of the functions: float64, unless a function is about narrower ones.

LARGE_AND_SMALL = (1e300, 1e200, 1e100, 1e16, 3.0, 1.0, 1e-8, 1e-16, 1e-100, 1e-200, 1e-300, 2.3e-308)
EDGES = np.array([sign * v for v in (*LARGE_AND_SMALL, 0.0) for sign in (1, -1)])
SUBNORMAL = np.r_[EDGES, 1e-310, -1e-310, 5e-324, -5e-324]
SPAN = _scales(-12, 12)  # a factor for each of 100 elements
W1, B1 = _normal(1, 60, 200), _normal(2, 200)
W2, B2, V = _normal(3, 200, 50) / 8, _normal(4, 50), _normal(5, 50)
FEATURES, SIGNS = _normal(6, 200, 60), np.sign(_normal(7, 200))
DENSE, TARGET = _normal(8, 60, 60) / 8, _normal(9, 60)
SPD = DENSE @ DENSE.T + np.diag(_scales(-6, 6, 60))
NARROW = (_normal(10, 60, 30) / 8).astype(np.float32)
RECURRENT = _normal(11, 3, 3)
KNOTS, HEIGHTS = np.linspace(-1, 1, 401), np.cumsum(_normal(12, 401))
CONTROL = _normal(13, 21)  # of a cubic spline
LABELS = np.arange(20) * 7 % 10
SEVENTH = (1.0, -7.0, 21.0, -35.0, 35.0, -21.0, 7.0, -1.0)  # (x - 1)^7
WILKINSON = tuple(np.poly(np.arange(1.0, 21.0)).tolist())  # rounded: a polynomial with other roots
GRID = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)[:20] + _normal(14, 20, 3) / 30
SPECTRUM = _scales(-3, 3, 33)
PAIRS = np.triu_indices(20, 1)


def _polynomial_slope(coefficients):
    terms = list(enumerate(reversed(coefficients)))[1:]
    return lambda v: mp.fsum(k * mp.mpf(c) * v ** (k - 1) for k, c in terms)


def _wilkinson_slope(v):
    factors = [v - k for k in range(1, 21)]
    return mp.fsum(mp.fprod(factors[:k] + factors[k + 1 :]) for k in range(20))


def _relu_network(x):
    return jax.nn.relu(jax.nn.relu(x @ W1 + B1) @ W2 + B2) @ V


def _relu_network_gradient(x):
    hidden = [z + b for z, b in zip(_times(W1.T, x), B1.tolist(), strict=True)]
    last = [z + b for z, b in zip(_times(W2.T, [max(z, 0) for z in hidden]), B2.tolist(), strict=True)]
    back = _times(W2, [v if z > 0 else 0 for v, z in zip(V.tolist(), last, strict=True)])
    return _times(W1, [d if z > 0 else 0 for d, z in zip(back, hidden, strict=True)])


def _hinge_gradient(x):
    margins = [s * m for s, m in zip(SIGNS.tolist(), _times(FEATURES, x), strict=True)]
    weights = [mp.mpf(-s) / 200 if m < 1 else 0 for s, m in zip(SIGNS.tolist(), margins, strict=True)]
    return _times(FEATURES.T, weights)


def _residual_gradient(x):
    residuals = [r - s for r, s in zip(_times(FEATURES, x), SIGNS.tolist(), strict=True)]
    return _times(FEATURES.T, [mp.sign(r) for r in residuals])


def _place(bisect, shift):
    """Return the slopes of SPAN @ sort(x), where ties count as the first or the last of them."""
    return lambda x: [mp.mpf(SPAN[bisect(ordered, v) + shift].item()) for ordered in [sorted(x)] for v in x]


def _winners(beats):
    """Return the slopes of the sum of the maxima of fours, where ties go by beats."""

    def slopes(x):
        return [all(beats(v, w) for w in r[:i] + r[i + 1 :]) for r in _rows(x, 4) for i, v in enumerate(r)]

    return slopes


def _median_slope(x):
    return [int(v == sorted(x)[len(x) // 2]) for v in x]


def _interpolation_slope(v):
    i = bisect_right(KNOTS.tolist(), v) - 1
    (x0, x1), (y0, y1) = ([mp.mpf(t) for t in table[i : i + 2].tolist()] for table in (KNOTS, HEIGHTS))
    return (y1 - y0) / (x1 - x0)


def _spline(x):
    u = jnp.abs(4 * x[:, None] - np.arange(-10.0, 11.0))
    basis = jnp.where(u < 1, 4 - 6 * u**2 + 3 * u**3, jnp.where(u < 2, (2 - u) ** 3, 0.0))
    return jnp.sum(basis @ CONTROL)


def _spline_slope(v):
    def slope(u):
        inner = -12 * abs(u) + 9 * u**2
        return mp.sign(u) * (inner if abs(u) < 1 else -3 * max(2 - abs(u), 0) ** 2)

    return mp.fdot(CONTROL.tolist(), [4 * slope(4 * v - j) for j in range(-10, 11)])


def _bump(x):
    inside = jnp.abs(x) < 1
    return jnp.where(inside, jnp.exp(-1 / jnp.where(inside, 1 - x**2, 1.0)), 0.0)


def _bump_slope(v):
    return -2 * v / (1 - v**2) ** 2 * mp.exp(-1 / (1 - v**2)) if abs(v) < 1 else 0


def _logistic_map(x):
    return jax.lax.scan(lambda y, _: (2.8 * y * (1 - y), None), x, length=8)[0]


def _logistic_map_slope(v):
    slope = mp.mpf(1)
    for _ in range(8):
        slope *= 2.8 * (1 - 2 * v)
        v = 2.8 * v * (1 - v)
    return slope


def _kepler(mean):
    """Solve y - 0.3 sin(y) = mean by Newton's method."""

    def step(state):
        move = (state[0] - 0.3 * jnp.sin(state[0]) - mean) / (1 - 0.3 * jnp.cos(state[0]))
        return state[0] - move, move

    return jax.lax.while_loop(lambda s: jnp.max(jnp.abs(s[1])) > 1e-12, step, (mean, jnp.ones_like(mean)))[0]


def _kepler_slope(mean):
    root = mean
    for _ in range(12):
        root -= (root - 0.3 * mp.sin(root) - mean) / (1 - 0.3 * mp.cos(root))
    return 1 / (1 - 0.3 * mp.cos(root))


def _bisected(x):
    """Solve y**3 + y = x, stopping at about 4e-6."""

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        below = middle**3 + middle < x
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    return jax.lax.fori_loop(0, 20, halve, (jnp.full_like(x, -4.0), jnp.full_like(x, 4.0)))[0]


def _bisected_slope(v):
    root = (v / 2 + mp.sqrt(v**2 / 4 + mp.mpf(1) / 27)) ** (mp.mpf(1) / 3)
    return 1 / (3 * (root - 1 / (3 * root)) ** 2 + 1)


def _recurrent(x):
    def step(state, inputs):
        state = jnp.tanh(RECURRENT @ state + inputs)
        return state, state

    return jnp.sum(jax.lax.scan(step, jnp.zeros(3), x.reshape(-1, 3))[1] ** 2)


def _recurrent_gradient(x):
    states, state = [], [mp.mpf(0)] * 3
    for inputs in _rows(x, 3):
        state = [mp.tanh(z + v) for z, v in zip(_times(RECURRENT, state), inputs, strict=True)]
        states.append(state)
    back, gradient = [mp.mpf(0)] * 3, []
    for state in reversed(states):
        back = [(d + 2 * s) * (1 - s**2) for d, s in zip(back, state, strict=True)]
        gradient = back + gradient
        back = _times(RECURRENT.T, back)
    return gradient


def _rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _rosenbrock_gradient(x):
    gradient = [mp.mpf(0)] * len(x)
    for i, (a, b) in enumerate(pairwise(x)):
        gradient[i] -= 400 * a * (b - a**2) + 2 * (1 - a)
        gradient[i + 1] += 200 * (b - a**2)
    return gradient


def _lennard_jones(x):
    atoms = x.reshape(-1, 3)
    attraction = 1 / jnp.sum((atoms[PAIRS[0]] - atoms[PAIRS[1]]) ** 2, axis=1) ** 3
    return 4 * jnp.sum(attraction**2 - attraction)


def _lennard_jones_gradient(x):
    atoms, gradient = _rows(x, 3), [[mp.mpf(0)] * 3 for _ in range(20)]
    for i, j in zip(*(index.tolist() for index in PAIRS), strict=True):
        gap = [a - b for a, b in zip(atoms[i], atoms[j], strict=True)]
        square = mp.fdot(gap, gap)
        force = 24 * (1 - 2 / square**3) / square**4
        for k in range(3):
            gradient[i][k] += force * gap[k]
            gradient[j][k] -= force * gap[k]
    return [component for atom in gradient for component in atom]


def _logdet(x):
    square = x.reshape(10, 10)
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(square @ square.T + np.eye(10)))))


def _logdet_gradient(x):
    square = _matrix(x, 10)
    return list(2 * mp.inverse(square * square.T + mp.eye(10)) * square)


def _cubed_eigenvalues_gradient(x):
    symmetric = (_matrix(x, 10) + _matrix(x, 10).T) / 2
    return list(3 * symmetric * symmetric)


def _largest_eigenvalue_gradient(x):
    vectors = mp.eigsy((_matrix(x, 8) + _matrix(x, 8).T) / 2)[1]
    return [vectors[i, 7] * vectors[j, 7] for i in range(8) for j in range(8)]


def _solve_gradient(x):
    scaled = mp.matrix(SPD.tolist()) + mp.diag([mp.exp(v) for v in x])
    solution = mp.lu_solve(scaled, mp.matrix(TARGET.tolist()))
    return [-mp.exp(v) * s**2 for v, s in zip(x, solution, strict=True)]


def _spectrum_gradient(x):
    """Return the gradient of SPECTRUM @ |rfft(x)|^2, a quadratic form of cosines."""
    cosines = [mp.cos(2 * mp.pi * k / 64) for k in range(64)]
    kernel = [mp.fdot(SPECTRUM.tolist(), [cosines[k * n % 64] for k in range(33)]) for n in range(64)]
    return [2 * mp.fdot(x, [kernel[(m - n) % 64] for n in range(64)]) for m in range(64)]


def _softmax(x):
    powers = [mp.exp(v) for v in x]
    return [p / mp.fsum(powers) for p in powers]


def _expectation_gradient(x):
    shares, values = _softmax(x), TARGET.tolist() + TARGET.tolist()[:40]
    return [
        p * mp.fsum(q * (mp.mpf(v) - w) for q, w in zip(shares, values, strict=True))
        for p, v in zip(shares, values, strict=True)
    ]


def _cross_entropy(x):
    return -jnp.mean(jax.nn.log_softmax(x.reshape(20, 10))[np.arange(20), LABELS])


def _cross_entropy_gradient(x):
    return [
        (p - (i == label)) / 20
        for row, label in zip(_rows(x, 10), LABELS.tolist(), strict=True)
        for i, p in enumerate(_softmax(row))
    ]


def _layer_norm_value(x):
    mean = mp.fsum(x) / len(x)
    spread = mp.sqrt(mp.fsum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
    return mp.fdot(TARGET.tolist(), [(v - mean) / spread for v in x])


def _layer_norm(x):
    return TARGET @ ((x - jnp.mean(x)) / jnp.sqrt(jnp.var(x) + 1e-5))


def _mixing_gradient(x):
    angles = _times(DENSE, x)
    through = _times(DENSE.T, [v * mp.cos(a) for v, a in zip(x, angles, strict=True)])
    return [mp.sin(a) + t for a, t in zip(angles, through, strict=True)]


def _running_gradient(x):
    sums = [mp.fsum(x[: i + 1]) for i in range(len(x))]
    return [2 * mp.fsum(sums[i:]) for i in range(len(x))]


def _narrow_gradient(x):
    slopes = [mp.sech(z) ** 2 for z in _times(NARROW.T, x)]
    return _times(NARROW, slopes)


def _product_gradient(x):
    return [mp.fprod(x[:i] + x[i + 1 :]) for i in range(len(x))]


def _scaled(width: float, height: float) -> list[Truth]:
    """Return functions of inputs about as large as width, with values about as large as height."""
    name, points = f"{width:g} wide, {height:g} high", _spread(-3, 3, 60) * width
    return [
        _each(
            f"sine, {name}",
            lambda x: height * jnp.sin(x / width),
            lambda v: height * mp.cos(v / width) / width,
            points,
        ),
        _each(
            f"rational, {name}",
            lambda x: height / (1 + (x / width) ** 2),
            lambda v: -2 * height * (v / width) / (1 + (v / width) ** 2) ** 2 / width,
            points,
        ),
        _each(
            f"exponential, {name}",
            lambda x: height * jnp.exp(x / width),
            lambda v: height * mp.exp(v / width) / width,
            points,
        ),
    ]


def _power(exponent: float) -> Truth:
    return _each(
        f"power {exponent}",
        lambda x: x**exponent,
        lambda v: exponent * v ** (mp.mpf(exponent) - 1),
        _scales(-12, 12),
    )


# A formatter would give each argument a line.
# fmt: off
SMOOTH = [
    _each("sine", jnp.sin, mp.cos, _spread(-10, 10)),
    _each("logarithm at scales", jnp.log, lambda v: 1 / v, _scales(-12, 12)),
    _each("square at scales, one sum", jnp.square, lambda v: 2 * v, _signed(_scales(-12, 12, 200))),
    _each("reciprocal at scales", lambda x: 1 / x, lambda v: -1 / v**2, _signed(_scales(-12, 12))),
    _each("square root at scales", jnp.sqrt, lambda v: 1 / (2 * mp.sqrt(v)), _scales(-12, 12)),
    _each("cube root at scales", jnp.cbrt, lambda v: 1 / (3 * mp.cbrt(v**2)), _signed(_scales(-12, 12))),
    _each("x log x at scales", lambda x: x * jnp.log(x), lambda v: mp.log(v) + 1, _scales(-12, 12)),
    _each("arctangent at scales", jnp.arctan, lambda v: 1 / (1 + v**2), _signed(_scales(-12, 12))),
    _each("arsinh at scales", jnp.arcsinh, lambda v: 1 / mp.sqrt(1 + v**2), _signed(_scales(-12, 12))),
    _each("log1p", jnp.log1p, lambda v: 1 / (1 + v), _signed(_scales(-12, -0.1)), _scales(-12, 12)),
    _each("expm1", jnp.expm1, mp.exp, _signed(_scales(-12, 1))),
    _each("mean of tanh", lambda x: jnp.tanh(x) / x.size, lambda v: mp.sech(v) ** 2 / 120,
          _spread(-3, 3, 120)),
    *(truth for width in (1e-12, 1.0, 1e12) for height in (1e-12, 1e12) for truth in _scaled(width, height)),
    _each("inputs far from 0", lambda x: jnp.sin(x - 1e9), lambda v: mp.cos(v - 1e9), 1e9 + _spread(-3, 3)),
    _each("inputs far from 0, squared", lambda x: (x - 1e12) ** 2, lambda v: 2 * (v - 1e12),
          1e12 + _spread(-9, 9)),
    *map(_power, (0.3, 1.5, -0.7, -2.5, 3.1)),
    _each("x to the x", lambda x: x**x, lambda v: v**v * (1 + mp.log(v)), _spread(1e-3, 5), _scales(-9, -1)),
]
OFFSETS = [
    _each("offset 1e6", lambda x: 1e6 + jnp.sin(x), mp.cos, _spread(-5, 5)),
    _each("offset 1e12", lambda x: 1e12 + x**2, lambda v: 2 * v, _spread(-5, 5)),
    _each("difference of squares", lambda x: (x + 1e6) ** 2 - 1e12, lambda v: 2 * (v + 1e6), _spread(-1, 1)),
    _each("root minus x", lambda x: jnp.sqrt(x**2 + 1) - x, lambda v: v / mp.sqrt(v**2 + 1) - 1,
          _scales(-3, 6)),
    _each("log of 1 + exp", lambda x: jnp.log(1 + jnp.exp(x)), lambda v: 1 / (1 + mp.exp(-v)),
          _spread(-30, 30)),
    _each("1 - cos over square", lambda x: (1 - jnp.cos(x)) / x**2,
          lambda v: mp.sin(v) / v**2 - 2 * (1 - mp.cos(v)) / v**3, _scales(-4, 0.5)),
    _each("7th power, expanded", lambda x: jnp.polyval(np.array(SEVENTH), x), lambda v: 7 * (v - 1) ** 6,
          _near(1, -3, 0)),
    _each("Wilkinson, factors", lambda x: jnp.prod(x[:, None] - np.arange(1.0, 21.0), 1), _wilkinson_slope,
          _spread(0.5, 20.5)),
    _each("Wilkinson, expanded", lambda x: jnp.polyval(np.array(WILKINSON), x), _polynomial_slope(WILKINSON),
          _spread(0, 8)),
    _coupled("variance far from 0", lambda x: jnp.var(1e6 + x),
          lambda x: [(v - mp.fsum(x) / 100) / 50 for v in x], _spread(-1, 1)),
]
KINKS = [
    _each_kinked("absolute value", jnp.abs, 0, lambda v: -1, lambda v: 1, np.r_[_near(0), 0.0], EDGES),
    _each_kinked("absolute value at 1e9", lambda x: jnp.abs(x - 1e9), 1e9, lambda v: -1, lambda v: 1,
          np.r_[_near(1e9, -6, 6), 1e9]),
    _each_kinked("relu", jax.nn.relu, 0, lambda v: 0, lambda v: 1, np.r_[_near(0), 0.0], EDGES),
    _each_kinked("relu of a sine", lambda x: jax.nn.relu(x) + jnp.sin(x), 0, mp.cos, lambda v: 1 + mp.cos(v),
          np.r_[_near(0), 0.0]),
    _each_kinked("maximum", lambda x: jnp.maximum(x**2, 0.25 * x), 0.25, lambda v: 0.25, lambda v: 2 * v,
          np.r_[_near(0.25), 0.25]),
    _each_kinked("clip", lambda x: jnp.clip(x, -1, 1), 1, lambda v: 1, lambda v: 0, np.r_[_near(1), 1.0]),
    _each_kinked("steep beside flat", lambda x: jnp.where(x > 0, 1e6 * x, 1e-6 * x), 0, lambda v: 1e-6,
          lambda v: 1e6, np.r_[_near(0), 0.0]),
    _each_kinked("hinge of a cube", lambda x: jnp.maximum(1 - x**3, 0), 1, lambda v: -3 * v**2, lambda v: 0,
          np.r_[_near(1), 1.0]),
    _each("soft threshold", lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0), lambda v: abs(v) > 0.5,
          _near(0.5), _near(-0.5)),
    _each("squared relu", lambda x: jax.nn.relu(x) ** 2, lambda v: 2 * max(v, 0), np.r_[_near(0), 0.0]),
    _each("Huber", lambda x: jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x) - 0.5),
          lambda v: min(max(v, -1), 1), _near(1), _near(-1)),
    _each("power 1.5 of the size", lambda x: jnp.abs(x) ** 1.5, lambda v: 1.5 * mp.sign(v) * mp.sqrt(abs(v)),
          _near(0)),
    _each("x times its size", lambda x: x * jnp.abs(x), lambda v: 2 * abs(v), np.r_[_near(0), 0.0]),
    _each("pieces of 0.0005", lambda x: jnp.abs(jnp.mod(x, 1e-3) - 5e-4), lambda v: mp.sign(v % 1e-3 - 5e-4),
          _spread(1, 2)),
    _each("pieces of 5e-7", lambda x: jnp.abs(jnp.mod(x, 1e-6) - 5e-7), lambda v: mp.sign(v % 1e-6 - 5e-7),
          _spread(1, 2)),
    _each("interpolation, 400 pieces", lambda x: jnp.interp(x, KNOTS, HEIGHTS), _interpolation_slope,
          _spread(-1, 1)),
    _each("size of a fast sine", lambda x: jnp.abs(jnp.sin(1e3 * x)),
          lambda v: 1e3 * mp.cos(1e3 * v) * mp.sign(mp.sin(1e3 * v)), _spread(0, 1)),
    _each("floor beside a line", lambda x: jnp.floor(x) + 2 * x, lambda v: 2, _near(3, -6)),
    _each("sign beside a sine", lambda x: jnp.sign(x) + jnp.sin(x), mp.cos, _near(0, -6)),
    _each("jump of 1e3 beside a line", lambda x: x + jnp.where(x > 0.5, 1e3, 0.0), lambda v: 1,
          _near(0.5, -6)),
    _each("rounded", lambda x: jnp.round(10 * x) / 10, lambda v: 0, _spread(0, 1)),
    _coupled("relu network", _relu_network, _relu_network_gradient, _normal(20, 60), 1e-3 * _normal(21, 60),
          1e3 * _normal(22, 60)),
    _coupled("hinge loss", lambda x: jnp.mean(jnp.maximum(0, 1 - SIGNS * (FEATURES @ x))), _hinge_gradient,
          _normal(23, 60) / 8),
    _coupled("absolute residuals", lambda x: jnp.sum(jnp.abs(FEATURES @ x - SIGNS)), _residual_gradient,
          _normal(24, 60)),
    _kinked("sorted", lambda x: SPAN @ jnp.sort(x), _place(bisect_left, 0), _place(bisect_right, -1),
          _spread(-1, 1), np.repeat(_spread(-1, 1, 50), 2), np.repeat(_spread(-1, 1, 50), 2) + _near(0)),
    _kinked("maxima of fours", lambda x: jnp.sum(x.reshape(-1, 4).max(1)), _winners(operator.gt),
          _winners(operator.ge), _spread(-1, 1), np.arange(100.0) % 3, 1 + _near(0)),
    _coupled("median", jnp.median, _median_slope, _spread(-1, 1, 101), _near(0, n=101)),
]
SINGULAR = [
    _each("log at 1e-10", jnp.log, lambda v: 1 / v, 1e-10 * _spread(0.5, 2)),
    _each("12th power of 1/x", lambda x: (1 / x) ** 12, lambda v: -12 / v**13, _spread(0.5, 2),
          _scales(-2, 2)),
    _each("pole at 1", lambda x: 1 / (x - 1), lambda v: -1 / (v - 1) ** 2, 1 + 1e-6 * _spread(0.5, 2),
          _near(1, -10)),
    _each("double pole at 1", lambda x: 1 / (x - 1) ** 2, lambda v: -2 / (v - 1) ** 3, _near(1, -6)),
    _each("tangent near its pole", jnp.tan, lambda v: mp.sec(v) ** 2, _near(np.pi / 2, -6, 0)),
    _each("cosecant near a pole", lambda x: 1 / jnp.sin(x), lambda v: -mp.cos(v) / mp.sin(v) ** 2,
          _near(np.pi, -6, 0)),
    _each("arcsine near its end", jnp.arcsin, lambda v: 1 / mp.sqrt(1 - v**2), 1 - _scales(-12, -1)),
    _each("artanh near its end", jnp.arctanh, lambda v: 1 / (1 - v**2), 1 - _scales(-12, -1)),
    _each("arcosh near its end", jnp.arccosh, lambda v: 1 / mp.sqrt(v**2 - 1), 1 + _scales(-10, 2)),
    _each("log of log", lambda x: jnp.log(jnp.log(x)), lambda v: 1 / (v * mp.log(v)), 1 + _scales(-8, 2)),
    _each("log of -log", lambda x: jnp.log(-jnp.log(x)), lambda v: 1 / (v * mp.log(v)), _scales(-12, -0.1),
          1 - _scales(-10, -1)),
    _each("logit near its ends", special.logit, lambda v: 1 / (v * (1 - v)), _scales(-12, -1),
          1 - _scales(-10, -1)),
    _each("entropy", special.entr, lambda v: -mp.log(v) - 1, _scales(-12, 0)),
    _each("exp of -1/x", lambda x: jnp.exp(-1 / x), lambda v: mp.exp(-1 / v) / v**2, _scales(-3, 1)),
    _each("bump", _bump, _bump_slope, _near(1, -4), _spread(-2, 2)),
    _coupled("log of a distance", lambda x: jnp.log(jnp.sum(x**2)),
          lambda x: [2 * v / mp.fdot(x, x) for v in x], 1e-8 * _normal(25, 60)),
    _coupled("norm", lambda x: jnp.sqrt(jnp.sum(x**2)), lambda x: [v / mp.sqrt(mp.fdot(x, x)) for v in x],
          _normal(26, 60), 1e-9 * _normal(27, 60), 1e9 * _normal(28, 60)),
]
STEEP_AND_FLAT = [
    _coupled("squares with factors", lambda x: SPAN @ x**2 / 2,
          lambda x: [a * v for a, v in zip(SPAN.tolist(), x, strict=True)], np.ones(100), _spread(-3, 3)),
    _coupled("sines with factors", lambda x: SPAN @ jnp.sin(x),
          lambda x: [a * mp.cos(v) for a, v in zip(SPAN.tolist(), x, strict=True)], _spread(-3, 3)),
    _coupled("exponentials of many widths", lambda x: jnp.sum(jnp.exp(x * SPAN)),
          lambda x: [a * mp.exp(a * v) for a, v in zip(SPAN.tolist(), x, strict=True)],
          _spread(-3, 3) / SPAN),
    _coupled("large beside small", lambda x: 1e9 * jnp.cos(x[:50]).sum() + 1e-9 * (x[50:] ** 2).sum(),
          lambda x: [-1e9 * mp.sin(v) for v in x[:50]] + [2e-9 * v for v in x[50:]], _spread(-3, 3)),
    _each("exponential", jnp.exp, mp.exp, _spread(-30, 30), _spread(-700, 700)),
    _each("sigmoid", jax.nn.sigmoid, lambda v: 1 / (2 + mp.exp(v) + mp.exp(-v)), _spread(-8, 8),
          _spread(-800, 800)),
    _each("tanh", jnp.tanh, lambda v: mp.sech(v) ** 2, _spread(-3, 3), _spread(-400, 400)),
    _each("softplus", jax.nn.softplus, lambda v: 1 / (1 + mp.exp(-v)), _spread(-8, 8), _spread(-700, 700)),
    _each("log cosh", lambda x: jnp.logaddexp(x, -x), mp.tanh, _spread(-3, 3), _signed(_scales(-12, 3))),
    _each("silu", jax.nn.silu, lambda v: 1 / (1 + mp.exp(-v)) + v / (2 + mp.exp(v) + mp.exp(-v)),
          _spread(-40, 40)),
    _coupled("logsumexp, close", special.logsumexp, _softmax, _normal(29, 100)),
    _coupled("logsumexp, 1e3 apart", special.logsumexp, _softmax, _spread(-500, 500)),
    _coupled("softmax, close", lambda x: jax.nn.softmax(x) @ np.r_[TARGET, TARGET[:40]],
          _expectation_gradient, _normal(30, 100)),
    _coupled("softmax, 1e3 apart", lambda x: jax.nn.softmax(x) @ np.r_[TARGET, TARGET[:40]],
          _expectation_gradient, _spread(-500, 500)),
    _coupled("cross entropy", _cross_entropy, _cross_entropy_gradient, _normal(31, 200),
          100 * _normal(32, 200)),
    _each("needle", lambda x: jnp.exp(-(((x - 0.5) / 1e-6) ** 2)),
          lambda v: -2 * (v - 0.5) / mp.mpf(1e-6) ** 2 * mp.exp(-(((v - 0.5) / 1e-6) ** 2)),
          0.5 + 1e-6 * _spread(-6, 6)),
    _each("needle beside a line", lambda x: x + jnp.exp(-(((x - 0.5) * 1e4) ** 2)),
          lambda v: 1 - 2e8 * (v - 0.5) * mp.exp(-(((v - 0.5) * 1e4) ** 2)), _near(0.5, -5)),
    _each("narrow step", lambda x: jnp.tanh(x / 1e-6), lambda v: mp.sech(v / 1e-6) ** 2 / 1e-6,
          _near(0, -8, -2)),
    _each("narrow resonance", lambda x: 1 / (1 + (x * 1e5) ** 2),
          lambda v: -2e10 * v / (1 + (v * 1e5) ** 2) ** 2, _near(0, -8, 0)),
    _each("Runge", lambda x: 1 / (1 + 25 * x**2), lambda v: -50 * v / (1 + 25 * v**2) ** 2, _spread(-1, 1)),
    _each("fast sine", lambda x: jnp.sin(1e4 * x), lambda v: 1e4 * mp.cos(1e4 * v), _spread(-3, 3)),
    _each("fast small sine on a slow one", lambda x: jnp.sin(x) + 1e-6 * jnp.sin(1e4 * x),
          lambda v: mp.cos(v) + 1e-6 * mp.mpf(1e4) * mp.cos(1e4 * v), _spread(-3, 3)),
    _each("sine of 1/x", lambda x: jnp.sin(1 / x), lambda v: -mp.cos(1 / v) / v**2, 0.01 * _spread(0.5, 2),
          _scales(-3, 1)),
    _each("sine of the square", lambda x: jnp.sin(x**2), lambda v: 2 * v * mp.cos(v**2), _spread(0, 100)),
    _each("sine of exp", lambda x: jnp.sin(jnp.exp(x)), lambda v: mp.exp(v) * mp.cos(mp.exp(v)),
          _spread(0, 9)),
]
SPECIAL = [
    _each("log of gamma", special.gammaln, mp.digamma, _scales(-6, 6), _near(1.5, -3, 0)),
    _each("digamma", special.digamma, lambda v: mp.psi(1, v), _scales(-3, 3)),
    _each("trigamma", lambda x: special.polygamma(1, x), lambda v: mp.psi(2, v), _scales(-1, 2)),
    _each("zeta", lambda x: special.zeta(2.5, x), lambda v: -2.5 * mp.zeta(3.5, v), _scales(-1, 1, 50)),
    _each("erf", special.erf, lambda v: 2 / mp.sqrt(mp.pi) * mp.exp(-(v**2)), _spread(-5, 5),
          _signed(_scales(-12, 0))),
    _each("erfc", special.erfc, lambda v: -2 / mp.sqrt(mp.pi) * mp.exp(-(v**2)), _spread(-5, 25)),
    _each("inverse of erf", special.erfinv, lambda v: mp.sqrt(mp.pi) / 2 * mp.exp(mp.erfinv(v) ** 2),
          _spread(-1, 1), _signed(1 - _scales(-9, -1))),
    _each("gelu", lambda x: 0.5 * x * (1 + special.erf(0.7 * x)),
          lambda v: 0.5 * (1 + mp.erf(0.7 * v)) + 0.7 * v * mp.exp(-((0.7 * v) ** 2)) / mp.sqrt(mp.pi),
          _spread(-6, 6)),
    _each("Bessel i0e", special.i0e, lambda v: mp.exp(-v) * (mp.besseli(1, v) - mp.besseli(0, v)),
          _spread(0, 20)),
    _each("Bessel i1", special.i1, lambda v: mp.besseli(0, v) - mp.besseli(1, v) / v, _spread(-9, 9)),
    # From 0.36 on, JAX's fraction stops early: what it computes is another function, by up to 4e-14.
    _each("incomplete beta", lambda x: special.betainc(2.5, 3.5, x),
          lambda v: v**1.5 * (1 - v) ** 2.5 / mp.beta(2.5, 3.5), _spread(0, 0.3)),
    _each("incomplete gamma", lambda x: special.gammainc(2.5, x),
          lambda v: v**1.5 * mp.exp(-v) / mp.gamma(2.5), _spread(0, 20)),
    _each("exponential integral", special.expi, lambda v: mp.exp(v) / v, _spread(0.1, 10)),
    _each("log of the normal tail", special.log_ndtr, lambda v: mp.npdf(v) / mp.ncdf(v), _spread(-4, 4)),
]
COUPLED = [
    _coupled("Rosenbrock", _rosenbrock, _rosenbrock_gradient, np.ones(100), _spread(-2, 2),
          100 * _spread(-1, 1)),
    _coupled("quadratic form", lambda x: x @ SPD @ x / 2,
          lambda x: [(a + b) / 2 for a, b in zip(_times(SPD, x), _times(SPD.T, x), strict=True)],
          _normal(33, 60)),
    _coupled("inverse form", lambda x: TARGET @ jnp.linalg.solve(SPD + jnp.diag(jnp.exp(x)), TARGET),
          _solve_gradient, _normal(34, 60)),
    _coupled("log of a determinant", _logdet, _logdet_gradient, _normal(35, 100), 100 * _normal(36, 100)),
    _coupled("log of a size of a determinant", lambda x: jnp.linalg.slogdet(x.reshape(10, 10))[1],
          lambda x: list(mp.inverse(_matrix(x, 10)).T), _normal(37, 100)),
    _coupled("trace of a cube", lambda x: jnp.trace(jnp.linalg.matrix_power(x.reshape(10, 10), 3)),
          lambda x: list(3 * (_matrix(x, 10) ** 2).T), _normal(38, 100)),
    _coupled("cubed eigenvalues", lambda x: jnp.sum(jnp.linalg.eigvalsh(x.reshape(10, 10)) ** 3),
          _cubed_eigenvalues_gradient, _normal(39, 100)),
    _coupled("largest eigenvalue", lambda x: jnp.linalg.eigvalsh(x.reshape(8, 8))[-1],
          _largest_eigenvalue_gradient, _normal(40, 64)),
    _coupled("spectrum", lambda x: SPECTRUM @ jnp.abs(jnp.fft.rfft(x)) ** 2, _spectrum_gradient,
          _normal(41, 64)),
    _coupled("x @ sin(A x)", lambda x: x @ jnp.sin(DENSE @ x), _mixing_gradient, _normal(42, 60)),
    _coupled("Lennard-Jones", _lennard_jones, _lennard_jones_gradient, 1.1 * GRID.ravel(),
          0.5 * GRID.ravel()),
    _coupled("layer norm", _layer_norm, _differences(_layer_norm_value), _normal(43, 60),
          1e3 + _normal(44, 60)),
    _coupled("product", jnp.prod, _product_gradient, _signed(_spread(0.5, 2, 60)),
          np.r_[0.0, _spread(0.5, 2, 59)]),
    _coupled("neighbours", lambda x: x[1:] @ x[:-1],
          lambda x: [a + b for a, b in zip([0, *x[:-1]], [*x[1:], 0], strict=True)], _signed(_scales(-6, 6))),
    _coupled("running sums", lambda x: jnp.sum(jnp.cumsum(x) ** 2), _running_gradient, _normal(45, 100)),
    _coupled("recurrent network", _recurrent, _recurrent_gradient, _normal(46, 90)),
    _each("cubic spline", _spline, _spline_slope, _spread(-3, 3), _near(0.5, -9)),
    _each("logistic map", _logistic_map, _logistic_map_slope, _spread(0.05, 0.95)),
    _each("Newton's method to the end", _kepler, _kepler_slope, _spread(-3, 3, 60)),
]
FLAT = [
    _each("constant", lambda x: 0 * x + 3, lambda v: 0, _spread(-3, 3, 60)),
    _coupled("elements without use", lambda x: x[0] ** 2 + x[1], lambda x: [2 * x[0], 1] + [0] * 58,
          _normal(47, 60)),
    _each("minimum", lambda x: (x - 0.3) ** 2, lambda v: 2 * (v - 0.3), np.full(50, 0.3), _near(0.3)),
    _coupled("minimum over a valley", lambda x: SPAN @ (x - SPAN) ** 2,
          lambda x: [2 * a * (v - a) for a, v in zip(map(mp.mpf, SPAN.tolist()), x, strict=True)], SPAN),
    _each("cosine at its top", lambda x: 1e6 * jnp.cos(x), lambda v: -1e6 * mp.sin(v), np.zeros(50),
          _near(0)),
    _each("cube at 0", lambda x: x**3, lambda v: 3 * v**2, np.zeros(50), _near(0)),
    _each("4th power at 0", lambda x: x**4, lambda v: 4 * v**3, np.zeros(50), _near(0)),
    _each("line at the edges", lambda x: 3 * x, lambda v: 3, SUBNORMAL),
    _each("sine at the small edges", jnp.sin, mp.cos, SUBNORMAL[np.abs(SUBNORMAL) < 5]),
    _each("arctangent at the edges", jnp.arctan, lambda v: 1 / (1 + v**2), SUBNORMAL),
    _each("tanh at the edges", jnp.tanh, lambda v: mp.sech(v) ** 2 if abs(v) < 1e4 else 0, SUBNORMAL),
    _each("softsign at the edges", lambda x: x / (1 + jnp.abs(x)), lambda v: 1 / (1 + abs(v)) ** 2,
          SUBNORMAL),
    _each("logarithm at the edges", jnp.log, lambda v: 1 / v, np.array(LARGE_AND_SMALL)),
    _each("cube root at the edges", jnp.cbrt, lambda v: 1 / (3 * mp.cbrt(v**2)), EDGES[EDGES != 0]),
    _each("gaussian at the edges", lambda x: jnp.exp(-jnp.square(x)),
          lambda v: -2 * v * mp.exp(-(v**2)) if abs(v) < 1e4 else 0, SUBNORMAL),
]
NOISY = [
    _each("sine in float32", lambda x: jnp.sin(x.astype(np.float32)).astype(np.float64), mp.cos,
          _spread(-5, 5), noisy=True),
    _each("sine of float32", lambda x: jnp.sin(x.astype(np.float32).astype(np.float64)), mp.cos,
          _spread(-5, 5), noisy=True),
    _each("square in float32", lambda x: (x.astype(np.float32) ** 2).astype(np.float64), lambda v: 2 * v,
          1e6 * _spread(-1, 1), noisy=True),
    _each("exponential in float16", lambda x: jnp.exp(x.astype(np.float16)).astype(np.float64), mp.exp,
          _spread(-2, 2), noisy=True),
    _each("tanh in bfloat16", lambda x: jnp.tanh(x.astype(jnp.bfloat16)).astype(np.float64),
          lambda v: mp.sech(v) ** 2, _spread(-2, 2), noisy=True),
    _coupled("network in float32",
          lambda x: jnp.sum(jnp.tanh(x.astype(np.float32) @ NARROW)).astype(np.float64), _narrow_gradient,
          _normal(48, 60), noisy=True),
    _each("ripple of 1e-9", lambda x: jnp.sin(x) + 1e-9 * jnp.sin(1e12 * x), mp.cos, _spread(1, 3),
          noisy=True),
    _each("ripple of 1e-9, unresolved", lambda x: jnp.log(x) + 1e-9 * jnp.sin(1e12 * x), lambda v: 1 / v,
          1e4 * _spread(1, 3), noisy=True),
    _each("ripple of 1e-6", lambda x: x**2 + 1e-6 * jnp.sin(1e15 * x), lambda v: 2 * v, _spread(1, 3),
          noisy=True),
    _each("values rounded to 1e-8", lambda x: jnp.round(1e8 * jnp.exp(x)) / 1e8, mp.exp, _spread(-2, 2),
          noisy=True),
    _each("inputs rounded to 1e-7", lambda x: jnp.sin(jnp.round(x, 7)), mp.cos, _spread(-2, 2), noisy=True),
    _each("bisection", _bisected, _bisected_slope, _spread(-5, 5, 60), noisy=True),
]
# fmt: on
TRUTHS = SMOOTH + OFFSETS + KINKS + SINGULAR + STEEP_AND_FLAT + SPECIAL + COUPLED + FLAT + NOISY
