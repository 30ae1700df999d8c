"""Inputs of every kind that a gradient checker was once wrong about, and what its report must say of each.

Nothing is computed before a kind is called. What is expected is an answer by mathematics, not by a run.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback


class Kind(NamedTuple):
    """One call of the checker and its answer.

    verdict is the report's, or the name of the exception by which the call is refused. says are words that
    the report (or the exception) must have, never those that it must not have. needs is the package without
    which the kind cannot be built. row names the group.
    """

    name: str
    call: Callable
    verdict: str
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    needs: str = ""
    row: str = ""


KINDS: list[Kind] = []


def kind(row: str, verdict: str, *says: str, never: tuple[str, ...] = (), needs: str = ""):
    """Enter a call under the function's own name."""

    def enter(call: Callable) -> Callable:
        KINDS.append(Kind(call.__name__.replace("_", " "), call, verdict, says, never, needs, row))
        return call

    return enter


def check(f: Callable, *args, **options):
    from jaxnet import check_gradients

    return check_gradients(f, *args, **options)


def ruled(f: Callable, slope: Callable) -> Callable:
    """Return a function of one array that works element by element, with this derivative as its rule."""
    rule = jax.custom_vjp(f)
    rule.defvjp(lambda x: (f(x), x), lambda x, g: (g * slope(x),))
    return rule


def scaled(f: Callable, factor: float = 1.02) -> Callable:
    """Return f with a rule that is too large by this factor."""
    rule = jax.custom_vjp(f)
    rule.defvjp(
        lambda *args: jax.vjp(f, *args), lambda pull, g: jax.tree.map(lambda leaf: factor * leaf, pull(g))
    )
    return rule


def off(x, factor: float, *narrow: str):
    """Return the factor where x has one of these types, else 1."""
    return jnp.asarray(factor if x.dtype.name in narrow else 1, x.dtype)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# A gradient wrong in the function's own precision only

OWN = "own precision"


@kind(OWN, "fail", "float32")
def rule_a_million_times_too_large_in_float32():
    sine = ruled(jnp.sin, lambda x: jnp.cos(x) * off(x, -1e6, "float32"))
    return check(lambda x: sine(x).sum(), f32(0.3, 0.7))


@kind(OWN, "fail", "bfloat16")
def rule_a_million_times_too_large_in_bfloat16():
    sine = ruled(jnp.sin, lambda x: jnp.cos(x) * off(x, -1e6, "bfloat16"))
    return check(lambda x: sine(x).sum(), jnp.asarray([0.3, 0.7], jnp.bfloat16))


@kind(OWN, "fail", "float32")
def rule_a_tenth_too_large_in_float32():
    square = ruled(jnp.square, lambda x: 2 * x * off(x, 1.1, "float32"))
    return check(lambda x: square(x).sum() + x.sum(), f32(*normal(5)))


@kind(OWN, "fail", "float32")
def jvp_rule_doubled_in_float32():
    @jax.custom_jvp
    def tanh(x):
        return jnp.tanh(x)

    @tanh.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return tanh(x), t * (1 - jnp.tanh(x) ** 2) * off(x, 2, "float32")

    return check(lambda x: tanh(x).mean(), f32(0.3, -0.7, 2.0))


@kind(OWN, "fail", "by hand")
def candidate_wrong_in_float32():
    return check(
        lambda x: jnp.sin(x).sum(),
        f32(0.3, 0.7),
        candidates={"by hand": lambda x: jnp.cos(x) * off(x, 1.05, "float32")},
    )


@kind(OWN, "fail", "float32")
def slope_that_overflows_in_float32():
    # 1/(1 + exp(-x))^2 * exp(-x) is inf / inf where exp(100) is not finite.
    sigmoid = ruled(jax.nn.sigmoid, lambda x: jnp.exp(-x) / (1 + jnp.exp(-x)) ** 2)
    return check(lambda x: (1e3 * sigmoid(x)).sum(), f32(-100.0, 0.5))


@kind(OWN, "pass")
def rule_right_in_every_type():
    sine = ruled(jnp.sin, jnp.cos)
    return check(lambda x: sine(x).sum(), f32(0.3, 0.7))


@kind(OWN, "pass")
def normal_noise_by_the_default_type():
    def f(x):
        return jnp.sum((x + jax.random.normal(jax.random.key(0), (4,))) ** 2)

    return check(f, f32(*normal(4)))


@kind(OWN, "pass")
def uniform_noise_and_dropout_by_the_default_type():
    def f(x):
        kept = jax.random.bernoulli(jax.random.key(1), 0.5, x.shape)
        return jnp.sum(jnp.where(kept, x * jax.random.uniform(jax.random.key(2), x.shape), 0.1 * x**2))

    return check(f, f32(*normal(8)))


@kind(OWN, "pass")
def machine_epsilon_of_the_type_inside():
    def f(x):
        return jnp.sum(jnp.sqrt(x**2 + jnp.finfo(x.dtype).eps))

    return check(f, f32(1e-4, -3e-4, 0.2))


@kind(OWN, "pass")
def cast_to_float32_on_purpose():
    return check(lambda x: jnp.sum(jnp.sin(x.astype(jnp.float32))), normal(5))


@kind(OWN, "fail")
def cast_to_float32_on_purpose_and_a_wrong_candidate():
    return check(
        lambda x: jnp.sum(jnp.sin(x.astype(jnp.float32))),
        normal(5),
        candidates={"by hand": lambda x: 1.02 * jnp.cos(x)},
    )


# A leaf's scale taken from far away

FAR = "a singularity nearby"
TETRAHEDRON = np.array([[0.0, 0, 0], [1.1, 0, 0], [0.5, 1.0, 0.1], [0.6, 0.4, 0.9]])


def pair_energy(energy, positions):
    i, j = np.triu_indices(len(positions), 1)
    return jnp.sum(energy(jnp.linalg.norm(positions[i] - positions[j], axis=1)))


def lennard_jones(d):
    return 4 * ((1 / d) ** 12 - (1 / d) ** 6)


def march(origin):
    t = 0.0
    for _ in range(25):
        t = t + jnp.linalg.norm(origin + t * jnp.array([0.0, 0.0, 1.0])) - 1
    return t


@kind(FAR, "fail")
def lennard_jones_with_a_rule_too_large():
    return check(partial(pair_energy, scaled(lennard_jones)), TETRAHEDRON)


@kind(FAR, "pass")
def lennard_jones_right():
    return check(partial(pair_energy, lennard_jones), TETRAHEDRON)


@kind(FAR, "fail")
def ray_march_with_a_rule_too_large():
    return check(scaled(march), np.array([0.2, 0.3, -3.0]))


@kind(FAR, "pass")
def ray_march_right():
    return check(march, np.array([0.2, 0.3, -3.0]))


@kind(FAR, "fail")
def coulomb_energy_of_a_close_pair():
    points = np.array([[0.0, 0, 0], [1e-3, 0, 0], [1.0, 2.0, 0.5]])
    return check(partial(pair_energy, scaled(lambda d: 1 / d)), points)


@kind(FAR, "fail")
def log_barrier_near_its_wall():
    barrier = scaled(lambda x: -jnp.log(1 - x).sum())
    return check(barrier, np.array([0.999, 0.2]))


@kind(FAR, "fail")
def tangent_near_its_pole():
    return check(scaled(lambda x: jnp.tan(x).sum()), np.array([1.5707, 0.4]))


@kind(FAR, "fail")
def hundredth_power_of_a_small_candidate_error():
    return check(
        lambda x: jnp.sum((1 / x) ** 100),
        np.array([1.3, 0.97]),
        candidates={"hand": lambda x: -101 * x**-101.0},
    )


# A leaf's largest element hides the others

HIDDEN = "elements of many sizes"
SIZES = np.array([1e12, 1.0, 1.0])


@kind(HIDDEN, "fail")
def quadratic_of_sizes_1e12_and_1():
    return check(
        lambda x: (SIZES * x**2).sum() / 2,
        np.ones(3),
        candidates={"hand": lambda x: SIZES * x * np.array([1, 2, -5])},
    )


@kind(HIDDEN, "pass")
def quadratic_of_sizes_1e12_and_1_right():
    return check(lambda x: (SIZES * x**2).sum() / 2, np.ones(3), candidates={"hand": lambda x: SIZES * x})


@kind(HIDDEN, "fail", "x[1]")
def exponentials_of_30_and_0():
    return check(
        lambda x: jnp.exp(x).sum(),
        np.array([30.0, 0.0, 1.0]),
        candidates={"hand": lambda x: jnp.exp(x) * np.array([1, 3, 1])},
    )


@kind(HIDDEN, "fail")
def powers_of_a_polynomial():
    coefficients = np.array([1e-9, 1.0, 1e9, 1e18])
    return check(
        lambda c: jnp.sum(jnp.sin(c / coefficients) * coefficients**2),
        coefficients,
        candidates={"hand": lambda c: coefficients * jnp.cos(c / coefficients) * np.array([1.5, 1, 1, 1])},
    )


@kind(HIDDEN, "fail")
def small_leaf_beside_a_large_one():
    def f(p):
        return 1e10 * jnp.sum(p["large"] ** 2) + jnp.sum(jnp.sin(p["small"]))

    def hand(p):
        return {"large": 2e10 * p["large"], "small": 1.1 * jnp.cos(p["small"])}

    return check(f, {"large": normal(3), "small": normal(3)}, candidates={"hand": hand})


# Infinite values

INFINITE = "infinite values"


def surprisal(x):
    return -jnp.log(jnp.maximum(x - 1, 0))


@kind(INFINITE, "inconclusive", "log", never=("agree to inf",))
def sum_that_is_infinite():
    return check(
        lambda x: surprisal(x).sum(), np.array([0.5, 3.0]), candidates={"hand": lambda x: -1 / (x - 1)}
    )


@kind(INFINITE, "inconclusive", never=("agree to inf",))
def one_infinite_output_of_several():
    return check(surprisal, np.array([0.5, 3.0, 4.0]), candidates={"hand": lambda x: -1 / (x - 1) * (x > 1)})


@kind(INFINITE, "fail", never=("agree to inf",))
def one_infinite_output_and_another_wrong():
    wrong = np.array([1, 1, 1.3])
    return check(
        surprisal,
        np.array([0.5, 3.0, 4.0]),
        candidates={"hand": lambda x: -wrong / (x - 1) * (x > 1)},
    )


@kind(INFINITE, "inconclusive", never=("agree to inf",))
def one_output_masked_by_infinity():
    mask = np.array([True, False, True])
    return check(lambda x: jnp.where(mask, x**2, jnp.inf), normal(3))


@kind(INFINITE, "inconclusive", "div", never=("agree to inf",))
def reciprocal_of_zero():
    return check(lambda x: (1 / x).sum(), np.array([0.0, 2.0]))


@kind(INFINITE, "inconclusive", "sqrt")
def root_of_a_negative_number():
    return check(lambda x: jnp.sqrt(x).sum(), np.array([-1.0, 2.0]), candidates={"hand": lambda x: 0.5 * x})


@kind(INFINITE, "inconclusive", "cosh")
def overflow_of_a_hyperbolic_cosine():
    return check(lambda x: jnp.cosh(x).sum(), np.array([1000.0, 1.0]))


# A large term that carries no information

DROWNED = "a term drowned in another"


@kind(DROWNED, "fail")
def billion_and_billionth():
    def f(p):
        return 1e9 * jnp.cos(p["a"]) + 1e-9 * p["b"] ** 2

    def hand(p):
        return {"a": -1e9 * jnp.sin(p["a"]), "b": 50 * 2e-9 * p["b"]}

    return check(f, {"a": 0.7, "b": 1.3}, candidates={"hand": hand})


@kind(DROWNED, "fail")
def sine_below_the_rounding_of_an_offset():
    return check(
        lambda x: 1e12 + 1e-6 * jnp.sin(x).sum(),
        np.array([0.3, 0.8]),
        candidates={"hand": lambda x: 3e-6 * jnp.cos(x)},
    )


@kind(DROWNED, "pass")
def sine_below_the_rounding_of_an_offset_right():
    return check(
        lambda x: 1e12 + 1e-6 * jnp.sin(x).sum(),
        np.array([0.3, 0.8]),
        candidates={"hand": lambda x: 1e-6 * jnp.cos(x)},
    )


@kind(DROWNED, "fail")
def penalty_far_larger_than_the_loss():
    def f(w, v):
        return 1e15 * jnp.sum(w**2) + jnp.sum(jnp.tanh(v))

    def hand(w, v):
        return 2e15 * w, (1 - jnp.tanh(v) ** 2) * np.array([1.0, 0.0, 1.0])

    return check(f, np.ones(2), normal(3), argnums=(0, 1), candidates={"hand": hand})


# Nothing to compare with

NOTHING = "no derivative"


def host_sine(x):
    return np.sin(x)


def called_back(x):
    return io_callback(host_sine, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@kind(NOTHING, "inconclusive")
def io_callback_alone():
    return check(lambda x: called_back(x).sum(), np.array([0.3, 0.7]))


@kind(NOTHING, "inconclusive")
def pure_callback_alone():
    def f(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jnp.sum(jax.pure_callback(host_sine, shape, x, vmap_method="expand_dims") ** 2)

    return check(f, np.array([0.3, 0.7]))


@kind(NOTHING, "inconclusive", "not available")
def numpy_alone():
    return check(lambda x: np.sin(np.asarray(x)).sum(), np.array([0.3, 0.7]))


@kind(NOTHING, "pass")
def io_callback_and_a_candidate():
    return check(
        lambda x: called_back(x).sum(), np.array([0.3, 0.7]), candidates={"hand": lambda x: jnp.cos(x)}
    )


@kind(NOTHING, "fail")
def io_callback_and_a_wrong_candidate():
    return check(
        lambda x: called_back(x).sum(), np.array([0.3, 0.7]), candidates={"hand": lambda x: -jnp.cos(x)}
    )


# Jumps

JUMP = "at a jump"


@kind(JUMP, "inconclusive", "jump")
def step_function_and_a_sum():
    return check(lambda x: jnp.where(x > 0.3, 1.0, 0.0).sum() + x.sum(), np.array([0.3, 0.8]))


@kind(JUMP, "inconclusive", "jump")
def eigenvectors_of_a_matrix_of_rank_one():
    v, w = np.array([1.0, 2.0, -1.0]), np.arange(3.0)
    return check(lambda a: jnp.sum(jnp.linalg.eigh(a)[1][:, 0] ** 2 * w), np.outer(v, v))


@kind(JUMP, "inconclusive", "jump")
def floor_of_an_integer():
    return check(lambda x: jnp.floor(x).sum() + (x**2).sum(), np.array([2.0, 0.5]))


@kind(JUMP, "inconclusive", "jump")
def sign_at_zero():
    return check(lambda x: jnp.sum(jnp.sign(x) + x), np.array([0.0, -0.5]))


@kind(JUMP, "inconclusive", "jump")
def argmax_of_equals():
    payoff = np.array([1.0, 5.0, 2.0])
    return check(lambda x: jnp.take(payoff, jnp.argmax(x)) + jnp.sum(x**2), np.array([0.7, 0.7, 0.1]))


@kind(JUMP, "pass")
def floor_between_integers():
    return check(lambda x: jnp.floor(x).sum() + (x**2).sum(), np.array([2.3, 0.5]))


# Functions that insist on a type

INSISTS = "insists on float32"


@kind(INSISTS, "pass")
def conv_of_a_closed_over_image():
    image = jnp.asarray(normal(2, 3, 8, 8), jnp.float32)

    def f(p):
        return jnp.mean(jax.nn.relu(lax.conv(image, p, (1, 1), "SAME")) ** 2)

    return check(f, jnp.asarray(normal(8, 3, 3, 3, seed=1), jnp.float32))


@kind(INSISTS, "pass")
def conv_with_tanh_and_stride_2():
    image = jnp.asarray(normal(2, 3, 8, 8), jnp.float32)

    def f(p):
        return jnp.mean(jnp.tanh(lax.conv(image, p, (2, 2), "SAME")) ** 2)

    return check(f, jnp.asarray(normal(8, 3, 3, 3, seed=1), jnp.float32))


@kind(INSISTS, "pass")
def lstm_in_a_float32_scan():
    xs = jnp.asarray(normal(10, 3), jnp.float32)

    def f(p):
        def step(carry, x):
            h, c = carry
            i, o, g, u = jnp.split(x @ p["x"] + h @ p["h"], 4)
            c = jax.nn.sigmoid(i) * c + jax.nn.sigmoid(g) * jnp.tanh(u)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros(4, jnp.float32)
        return jnp.sum(lax.scan(step, (zero, zero), xs)[0][0] ** 2)

    return check(f, {"x": normal(3, 16).astype(np.float32), "h": normal(4, 16, seed=1).astype(np.float32)})


@kind(INSISTS, "fail")
def conv_of_a_closed_over_image_and_a_wrong_candidate():
    image = jnp.asarray(normal(1, 2, 6, 6), jnp.float32)

    def f(p):
        return jnp.mean(jax.nn.relu(lax.conv(image, p, (1, 1), "SAME")) ** 2)

    kernel = jnp.asarray(normal(2, 2, 3, 3, seed=1), jnp.float32)
    return check(f, kernel, candidates={"hand": lambda p: 1.02 * jax.grad(f)(p)})


@kind(INSISTS, "pass")
def lax_operations_on_constants_of_float32():
    table = jnp.asarray(normal(6), jnp.float32)

    def f(x):
        y = lax.mul(lax.add(x, table), lax.full((6,), 2.0, jnp.float32))
        return lax.reduce(lax.select(y > 0, y, lax.neg(y)), np.float32(0), lax.add, (0,))

    return check(f, jnp.asarray(normal(6, seed=1), jnp.float32))


@kind(INSISTS, "pass")
def fori_loop_with_a_float32_carry():
    def f(x):
        return lax.fori_loop(0, 5, lambda n, y: jnp.sin(y) + jnp.float32(0.1) * x.sum(), jnp.float32(0.3))

    return check(f, jnp.asarray([0.5, -0.2], jnp.float32))


# Outputs that are 0-d beside others

OUTPUTS = "several outputs"


def two_outputs(x):
    return {"u": jnp.sin(x), "v": x[0] * x[1]}


@kind(OUTPUTS, "pass")
def dictionary_with_a_0d_output():
    return check(two_outputs, np.array([0.3, 0.7]), candidates={"jacrev": jax.jacrev(two_outputs)})


@kind(OUTPUTS, "fail")
def dictionary_with_a_wrong_0d_output():
    def hand(x):
        return {"u": jnp.diag(jnp.cos(x)), "v": jnp.stack([x[1], 2 * x[0]])}

    return check(two_outputs, np.array([0.3, 0.7]), candidates={"hand": hand})


@kind(OUTPUTS, "pass")
def tuple_of_0d_outputs():
    def f(x):
        return jnp.sum(x**2), jnp.prod(x), x[0]

    return check(f, np.array([0.3, 0.7, 2.0]), candidates={"jacfwd": jax.jacfwd(f)})


@kind(OUTPUTS, "pass")
def nested_outputs_in_float32():
    def f(p):
        return [{"loss": jnp.sum(p["w"] ** 2), "parts": (p["w"] @ p["w"].T, p["b"])}]

    p = {"w": normal(2, 3).astype(np.float32), "b": np.float32(0.4)}
    return check(f, p, candidates={"jacrev": jax.jacrev(f)})


# Extreme points of functions with right derivatives

EXTREME = "extreme points"


@kind(EXTREME, "pass")
def logaddexp_at_minus_1e9():
    return check(lambda v: jnp.logaddexp(v[0], v[1]), np.array([-1e9, -1e9]))


@kind(EXTREME, "pass", "right to 1e-10")
def normal_logcdf_at_minus_30():
    return check(lambda x: jax.scipy.stats.norm.logcdf(x), np.array(-30.0))


@kind(EXTREME, "pass")
def logsumexp_of_large_numbers():
    return check(jax.nn.logsumexp, np.array([1e9, 1e9, 1e9 - 1]))


@kind(EXTREME, "pass")
def log_ndtr_in_the_tail():
    return check(lambda x: jax.scipy.special.log_ndtr(x).sum(), np.array([-12.0, -3.0, 5.0]))


@kind(EXTREME, "pass")
def softplus_far_out():
    return check(lambda x: jax.nn.softplus(x).sum(), np.array([-600.0, 500.0, 0.1]))


@kind(EXTREME, "pass")
def log1p_and_expm1_of_1e_minus_20():
    return check(lambda x: jnp.sum(jnp.log1p(x) + jnp.expm1(x)), np.array([1e-20, -1e-18]))


# Approximations

APPROXIMATE = "approximations"


def root_to_1e_minus_6(a):
    def solve(g, y):
        def better(state):
            y, _ = state
            return y - 0.5 * g(y), jnp.abs(g(y))

        return lax.while_loop(lambda state: state[1] > 1e-6, better, (y, jnp.ones_like(y)))[0]

    def linear(g, y):
        return y / g(jnp.ones_like(y))

    return lax.custom_root(lambda y: y - jnp.cos(a * y), jnp.full_like(a, 0.5), solve, linear)


@kind(APPROXIMATE, "pass", "approximation")
def custom_root_that_stops_early():
    return check(root_to_1e_minus_6, np.array(0.7))


@kind(APPROXIMATE, "pass")
def custom_root_that_stops_early_within_rtol():
    return check(root_to_1e_minus_6, np.array(0.7), rtol=1e-3)


@kind(APPROXIMATE, "fail")
def custom_root_that_stops_early_with_a_wrong_rule():
    return check(scaled(root_to_1e_minus_6), np.array(0.7), rtol=1e-3)


def decay_by_diffrax(rate):
    import diffrax

    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, rate: -rate * y * jnp.cos(y)),
        diffrax.Tsit5(),
        t0=0,
        t1=8,
        dt0=None,
        y0=jnp.ones_like(rate),
        args=rate,
        stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
    ).ys[0]


@kind(APPROXIMATE, "pass", needs="diffrax")
def adaptive_steps_of_diffrax():
    # Its autodiff gradient is right to 1.2e-3; its slope, which the choice of steps bends, to 5.9e-3.
    return check(decay_by_diffrax, np.array(0.6), rtol=1e-2)


@kind(APPROXIMATE, "fail", needs="diffrax")
def adaptive_steps_of_diffrax_with_a_wrong_candidate():
    def hand(rate):
        return 1.1 * jax.grad(decay_by_diffrax)(rate)

    return check(decay_by_diffrax, np.array(0.6), candidates={"hand": hand}, rtol=1e-2)


@kind(APPROXIMATE, "pass")
def fixed_point_with_an_implicit_rule():
    @jax.custom_vjp
    def fixed(a):
        def better(state):
            y, _ = state
            return jnp.tanh(a * y + 0.5), y

        return lax.while_loop(lambda s: jnp.abs(s[0] - s[1]) > 1e-6, better, (a * 0 + 0.5, a * 0))[0]

    def back(kept, g):
        a, y = kept
        slope = 1 - y**2
        return (g * slope * y / (1 - slope * a),)

    fixed.defvjp(lambda a: (fixed(a), (a, fixed(a))), back)
    return check(fixed, np.array(0.8), rtol=1e-4)


# Chaos

CHAOS = "chaos"


@kind(CHAOS, "inconclusive")
def logistic_map_of_300_steps():
    return check(lambda r: lax.fori_loop(0, 300, lambda _, x: r * x * (1 - x), r * 0 + 0.3), np.array(3.9))


@kind(CHAOS, "inconclusive")
def tent_map_of_200_steps():
    # 1.9999: at exactly 2 each step shifts a binary fraction by one digit, until none is left.
    def step(_, x):
        return 1.9999 * jnp.minimum(x, 1 - x)

    return check(lambda x: lax.fori_loop(0, 200, step, x), np.array(0.3141))


@kind(CHAOS, "inconclusive")
def lorenz_system_over_a_long_time():
    def f(rho):
        def step(s, _):
            x, y, z = s
            return s + 0.01 * jnp.stack([10 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z]), None

        return lax.scan(step, jnp.ones(3), None, length=6000)[0][0]

    return check(f, np.array(28.0))


# Labels of NumPy

LABELS = "int64 labels"


def classifier(z, labels):
    return -jax.nn.log_softmax(z)[jnp.arange(16), labels].mean()


@kind(LABELS, "pass")
def classifier_with_int64_labels_closed_over():
    labels = np.random.default_rng(0).integers(0, 5, 16)

    def f(w, x):
        return classifier(x @ w, labels)

    return check(f, normal(4, 5).astype(np.float32), normal(16, 4, seed=1).astype(np.float32))


@kind(LABELS, "pass")
def classifier_with_int64_labels_as_an_argument():
    labels = np.random.default_rng(0).integers(0, 5, 16)
    return check(classifier, normal(16, 5).astype(np.float32), labels)


@kind(LABELS, "pass")
def take_along_axis_with_int64():
    ids = np.random.default_rng(0).integers(0, 5, (6, 1))
    return check(
        lambda z: jnp.take_along_axis(jax.nn.softmax(z), ids, axis=1).sum(), normal(6, 5).astype(np.float32)
    )


@kind(LABELS, "pass")
def segments_and_scatter_with_int64():
    ids = np.array([0, 2, 2, 1, 0])

    def f(x):
        sums = jax.ops.segment_sum(x, ids, num_segments=3)
        return jnp.sum(sums**2) + jnp.sum(jnp.zeros(4, x.dtype).at[ids].add(x[::-1]) ** 3)

    return check(f, normal(5).astype(np.float32))


@kind(LABELS, "fail")
def classifier_with_int64_labels_and_a_wrong_candidate():
    labels = np.random.default_rng(0).integers(0, 5, 16)
    z = normal(16, 5).astype(np.float32)
    return check(classifier, z, labels, candidates={"hand": lambda z, t: 1.02 * jax.grad(classifier)(z, t)})


# More elements than forward autodiff is run for

MANY = "many elements"


@kind(MANY, "pass")
def rule_of_3000_elements():
    cube = ruled(lambda x: x**3, lambda x: 3 * x**2)
    return check(lambda x: cube(x).sum(), normal(3000))


@kind(MANY, "fail")
def wrong_rule_of_3000_elements():
    cube = ruled(lambda x: x**3, lambda x: 3.1 * x**2)
    return check(lambda x: cube(x).sum(), normal(3000))


@kind(MANY, "pass")
def rule_of_a_matrix_of_2500_elements_in_float32():
    relu = ruled(lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype))
    weight = normal(50, 50).astype(np.float32)
    return check(lambda w, x: jnp.mean(relu(x @ w) ** 2), weight, normal(4, 50, seed=1).astype(np.float32))


# f that raises or never ends elsewhere

ELSEWHERE = "fails elsewhere"


@kind(ELSEWHERE, "pass")
def raises_below_zero():
    def f(v):
        if v < 0:
            raise ValueError("v must not be negative")
        return jnp.sqrt(v) + v**2

    return check(f, np.array(1.7))


@kind(ELSEWHERE, "pass")
def loop_that_never_ends_below_one():
    def f(v):
        return lax.while_loop(lambda y: y < 100, lambda y: y * v, v)

    return check(f, np.array(1.7))


@kind(ELSEWHERE, "pass")
def python_loop_that_never_ends_below_one():
    def f(v):
        y, steps = v, 0
        while y < 100:
            y, steps = y * v, steps + 1
            if steps > 1000:
                raise RuntimeError("does not end")
        return y

    return check(f, np.array(1.7))


@kind(ELSEWHERE, "pass")
def asserts_a_probability():
    def f(p):
        assert np.all((np.asarray(p) > 0) & (np.asarray(p) < 1)), "not a probability"
        return -np.sum(np.asarray(p) * np.log(np.asarray(p)))

    return check(f, np.array([0.2, 0.7]), candidates={"hand": lambda p: -np.log(p) - 1})


@kind(ELSEWHERE, "pass")
def math_domain_error_elsewhere():
    return check(
        lambda x: math.log(float(x) - 0.9), np.array(1.0), candidates={"hand": lambda x: 1 / (x - 0.9)}
    )


@kind(ELSEWHERE, "inconclusive")
def raises_right_beside_the_point():
    def f(v):
        if v > 1.7:
            raise ValueError("too large")
        return v**2

    return check(f, np.array(1.7), candidates={"hand": lambda v: 2 * v})


# f that accepts float32 only

ONLY = "accepts float32 only"


@kind(ONLY, "pass", "float32")
def asserts_float32():
    def f(x):
        assert x.dtype == jnp.float32, "float32 only"
        return jnp.sum(jnp.sin(x))

    return check(f, f32(0.3, 0.7))


@kind(ONLY, "pass", "float32")
def looks_its_type_up():
    def f(x):
        return jnp.sum(x**2) * {np.dtype(np.float32): 3.0}[np.dtype(x.dtype)]

    return check(f, f32(0.3, 0.7))


@kind(ONLY, "pass", "float32")
def callback_of_a_fixed_type():
    @jax.custom_vjp
    def sine(x):
        def host(x):
            if np.asarray(x).dtype != np.float32:
                raise RuntimeError("the library takes float32")
            return np.sin(np.asarray(x))

        return jax.pure_callback(
            host, jax.ShapeDtypeStruct(x.shape, jnp.float32), x, vmap_method="sequential"
        )

    sine.defvjp(lambda x: (sine(x), x), lambda x, g: (g * jnp.cos(x),))
    return check(lambda x: sine(x).sum(), f32(0.3, 0.7))


@kind(ONLY, "fail", "float32")
def asserts_float32_with_a_wrong_candidate():
    def f(x):
        assert x.dtype == jnp.float32, "float32 only"
        return jnp.sum(jnp.sin(x))

    return check(f, f32(0.3, 0.7), candidates={"hand": lambda x: 1.3 * jnp.cos(x)})


# NumPy and SciPy

NUMPY = "NumPy and SciPy"


@kind(NUMPY, "pass", "not available")
def rosenbrock_of_scipy():
    from scipy import optimize

    return check(optimize.rosen, normal(5), candidates={"rosen_der": optimize.rosen_der})


@kind(NUMPY, "fail", "rosen_der")
def rosenbrock_of_scipy_with_a_wrong_candidate():
    from scipy import optimize

    return check(
        optimize.rosen,
        normal(5),
        candidates={"rosen_der": lambda x: optimize.rosen_der(x) * (1 + 0.02 * (x > 0))},
    )


@kind(NUMPY, "pass", "not available")
def edits_a_copy_in_place():
    def f(x):
        y = x.copy()
        y[0] *= 3
        y[y < 0] = 0
        return (y**2).sum()

    def hand(x):
        g = 2 * x * (x > 0)
        g[0] *= 9
        return g

    return check(f, np.array([0.4, -0.7, 1.2]), candidates={"hand": hand})


@kind(NUMPY, "pass", "not available")
def determinant_by_numpy():
    a = normal(4, 4)
    return check(np.linalg.det, a, candidates={"jacobi": lambda a: np.linalg.det(a) * np.linalg.inv(a).T})


@kind(NUMPY, "pass", "not available")
def likelihood_by_scipy_with_a_dictionary():
    from scipy import stats

    y = normal(10)

    def f(p):
        return -stats.norm.logpdf(y, p["mean"], p["sd"]).sum()

    def hand(p):
        z = (y - p["mean"]) / p["sd"]
        return {"mean": -(z / p["sd"]).sum(), "sd": ((1 - z**2) / p["sd"]).sum()}

    return check(f, {"mean": np.array(0.2), "sd": np.array(1.3)}, candidates={"hand": hand})


@kind(NUMPY, "pass", "not available")
def python_floats_and_math():
    def f(x):
        return sum(math.sin(v) for v in x)

    return check(f, np.array([0.3, 0.7]), candidates={"hand": lambda x: np.array([math.cos(v) for v in x])})


# Settings of jax, and what stands beside the parameters

SETTINGS = "settings of jax"


@kind(SETTINGS, "pass")
def pure_callback_without_a_vmap_method():
    @jax.custom_vjp
    def sine(x):
        return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    sine.defvjp(lambda x: (sine(x), x), lambda x, g: (g * jnp.cos(x),))
    return check(lambda x: sine(x).sum(), np.array([0.3, 0.7]))


@jax.custom_vjp
def expectation(p):
    """Of 0, 1, 2 ..., by a host that takes only probabilities, as NumPy's multinomial does."""

    def on_host(p):
        if p.sum() != 1:
            raise ValueError("the probabilities do not sum to 1")
        return p @ np.arange(len(p), dtype=p.dtype)

    return jax.pure_callback(on_host, jax.ShapeDtypeStruct((), p.dtype), p)


expectation.defvjp(
    lambda p: (expectation(p), p),
    lambda p, g: (g * jnp.arange(p.size, dtype=p.dtype),),
)


@kind(SETTINGS, "inconclusive", "f raises ValueError: the probabilities do not sum to 1")
def a_callback_that_refuses_what_is_beside_the_point():
    return check(expectation, f32(0.25, 0.25, 0.5))


@kind(SETTINGS, "pass")
def a_callback_that_refuses_another_argument_than_the_one_checked():
    def f(p, w):
        return expectation(p) * w[1] + w[0] ** 3

    return check(f, f32(0.25, 0.25, 0.5), f32(0.0, 1.0, 2.0), argnums=1)


@kind(SETTINGS, "pass")
def strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        return check(lambda x: jnp.sum(jnp.sin(x) * jnp.float32(2)), f32(0.3, 0.7))


@kind(SETTINGS, "pass")
def strict_dtype_promotion_in_float64():
    with jax.numpy_dtype_promotion("strict"):
        return check(lambda x: jnp.sum(jnp.sin(x) * 2.0), np.array([0.3, 0.7]))


@kind(SETTINGS, "pass")
def debug_nans_and_a_log():
    with jax.debug_nans(True):
        return check(lambda x: jnp.log(x).sum(), np.array([0.01, 0.7]))


@kind(SETTINGS, "pass")
def nan_among_data_that_are_not_differentiated():
    def f(w, y):
        seen = ~jnp.isnan(y)
        return jnp.sum(jnp.where(seen, w - jnp.where(seen, y, 0), 0) ** 2)

    return check(f, normal(3), np.array([0.3, np.nan, 1.2]))


@kind(SETTINGS, "fail")
def nan_among_data_that_reaches_the_gradient():
    # The sum leaves the missing element out; its gradient is 0 times NaN there, not 0.
    return check(lambda w, y: jnp.nansum((w - y) ** 2), normal(3), np.array([0.3, np.nan, 1.2]))


@kind(SETTINGS, "pass")
def nan_among_closed_over_and_masked_data():
    data = np.array([0.3, np.nan, 1.2], np.float32)

    def f(w):
        seen = ~jnp.isnan(data)
        return jnp.sum(jnp.where(seen, w - jnp.where(seen, data, 0), 0) ** 2)

    return check(f, normal(3).astype(np.float32))


@kind(SETTINGS, "pass")
def jit_with_a_static_float():
    @partial(jax.jit, static_argnums=1)
    def f(x, power):
        return jnp.sum(jnp.abs(x) ** power) if power > 1 else jnp.sum(x)

    return check(f, normal(3), 2.5)


@kind(SETTINGS, "pass")
def jit_with_a_static_string_in_float32():
    @partial(jax.jit, static_argnums=(1, 2))
    def f(x, kind, n):
        return jnp.sum(getattr(jnp, kind)(x)) * n

    return check(f, normal(3).astype(np.float32), "tanh", 3)


@kind(SETTINGS, "pass")
def x64_switched_on_by_the_user():
    with jax.enable_x64(True):
        return check(lambda x: jnp.sum(x**3), jnp.asarray([0.3, 0.7], jnp.float32))


# Complex numbers

COMPLEX = "complex numbers"
Z = normal(3) + 1j * normal(3, seed=1)


def squared_modulus(z):
    return jnp.sum(jnp.abs(z) ** 2) + jnp.real(z[0] ** 3)


@kind(COMPLEX, "pass")
def complex_parameters_in_the_convention_of_jax():
    def hand(z):
        # df/dx - i df/dy, as jax.grad has it.
        return 2 * jnp.conj(z) + jnp.array([3, 0, 0]) * z**2

    return check(squared_modulus, Z, candidates={"hand": hand})


@kind(COMPLEX, "fail")
def conjugate_of_the_convention_of_jax():
    return check(squared_modulus, Z, candidates={"hand": lambda z: jnp.conj(jax.grad(squared_modulus)(z))})


@kind(COMPLEX, "pass")
def complex64_parameters_beside_real_ones():
    def f(p):
        return jnp.sum(jnp.abs(jnp.exp(1j * p["angle"]) * p["amplitude"] - 1) ** 2)

    return check(f, {"angle": f32(0.3, 0.8), "amplitude": Z[:2].astype(np.complex64)})


@kind(COMPLEX, "pass")
def complex_values_of_real_parameters():
    def f(x):
        return jnp.exp(1j * x) * x

    return check(f, np.array([0.3, 0.7]), candidates={"jacfwd": jax.jacfwd(f)})


@kind(COMPLEX, "pass")
def spectrum_of_a_real_signal():
    return check(jnp.fft.rfft, normal(8))


@kind(COMPLEX, "fail")
def complex_values_and_a_wrong_candidate():
    def f(x):
        return jnp.exp(1j * x)

    return check(f, np.array([0.3, 0.7]), candidates={"hand": lambda x: jnp.diag(jnp.exp(1j * x))})


# Leaves that are not floating-point

OTHERS = "other leaves"


@kind(OTHERS, "pass")
def integers_keys_none_and_names():
    p = {
        "w": normal(4),
        "steps": 3,
        "ids": np.array([0, 2]),
        "key": jax.random.key(0),
        "mask": np.array([True, False, True, True]),
        "none": None,
        "name": "linear",
        "activation": jnp.tanh,
    }

    def f(p):
        noise = jax.random.normal(p["key"], (4,), p["w"].dtype)
        h = p["activation"](p["w"] + 0.1 * noise) ** p["steps"]
        return jnp.sum(jnp.where(p["mask"], h, 0)) + jnp.sum(h[p["ids"]])

    return check(f, p)


@kind(OTHERS, "pass", needs="equinox")
def whole_equinox_mlp():
    import equinox as eqx

    model = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0))
    x = normal(5, 2).astype(np.float32)
    return check(lambda model: jnp.sum(jax.vmap(model)(x) ** 2), model)


@kind(OTHERS, "fail", needs="equinox")
def whole_equinox_mlp_and_a_wrong_candidate():
    import equinox as eqx

    model = eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0))
    x = normal(5, 2).astype(np.float32)

    def f(model):
        return jnp.sum(jax.vmap(model)(x) ** 2)

    return check(
        f, model, candidates={"hand": lambda m: jax.tree.map(lambda g: 1.02 * g, eqx.filter_grad(f)(m))}
    )


@kind(OTHERS, "pass", needs="flax")
def variables_of_flax():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
            count.value += 1
            return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x)))

    x = normal(6, 4).astype(np.float32)
    variables = Net().init(jax.random.key(0), x)
    return check(lambda v: jnp.sum(Net().apply(v, x, mutable=["batch_stats", "counts"])[0] ** 2), variables)


@kind(OTHERS, "ValueError")
def no_leaf_to_differentiate():
    return check(lambda p: jnp.float32(1.0), {"none": None, "name": "linear"})


@kind(OTHERS, "TypeError", "floating-point")
def integers_and_nothing_else_to_differentiate():
    return check(lambda p: jnp.sum(p["steps"] * 1.0), {"steps": np.arange(3)})


# Misleading words

WORDS = "misleading words"


@kind(WORDS, "ValueError", "reverse")
def candidate_named_reverse():
    return check(lambda x: (x**2).sum(), np.ones(2), candidates={"reverse": lambda x: 2 * x})


@kind(WORDS, "ValueError", "Richardson")
def candidate_named_richardson():
    return check(lambda x: (x**2).sum(), np.ones(2), candidates={"Richardson": lambda x: 2 * x})


@kind(WORDS, "ValueError", "complex step")
def candidate_named_complex_step():
    return check(lambda x: (x**2).sum(), np.ones(2), candidates={"complex step": lambda x: 2 * x})


@kind(WORDS, "fail", never=("batch",))
def three_parameters_and_a_factor_of_three():
    return check(lambda x: jnp.sin(x).sum(), normal(3), candidates={"hand": lambda x: 3 * jnp.cos(x)})


@kind(WORDS, "fail", never=("batch",))
def four_by_two_parameters_and_a_factor_of_four():
    return check(lambda w: jnp.sum(w**4), normal(4, 2), candidates={"hand": lambda w: 16 * w**3})


@kind(WORDS, "fail", "batch")
def sum_in_place_of_a_mean_over_a_batch():
    def f(w, x):
        return jnp.mean((x @ w) ** 2)

    return check(f, normal(3), normal(7, 3, seed=1), candidates={"hand": lambda w, x: 2 * x.T @ (x @ w)})


@kind(WORDS, "pass", never=("agree to inf", "agree to 1e+", "agree to 6e-01"))
def agreement_beside_a_kink():
    return check(
        lambda x: jnp.abs(x).sum(),
        np.array([0.0, 2.0]),
        candidates={"half": lambda x: jnp.sign(x) + 0.5 * (x == 0)},
    )


@kind(WORDS, "fail", "[2]", "x[1]")
def worst_entry_of_a_jacobian():
    # Output 2, input 1: x0 * x1.
    def f(x):
        return jnp.stack([x[0] ** 2, jnp.sin(x[1]), x[0] * x[1], x[2]])

    def hand(x):
        return jax.jacrev(f)(x).at[2, 1].mul(1.5)

    return check(f, np.array([0.4, 0.9, 1.3]), candidates={"hand": hand})


@kind(WORDS, "fail", "['b']", "x[2]")
def worst_entry_among_the_outputs_of_a_dictionary():
    def f(x):
        return {"a": jnp.sin(x), "b": jnp.cumsum(x) ** 2}

    def hand(x):
        jacobian = jax.jacrev(f)(x)
        return {"a": jacobian["a"], "b": jacobian["b"].at[2, 2].add(1.0)}

    return check(f, np.array([0.4, 0.9, 1.3]), candidates={"hand": hand})


# Second order

ORDER = "order"


@kind(ORDER, "pass")
def second_order_of_a_network():
    x = normal(5, 3)

    def f(w):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ w["a"]) @ w["b"]) ** 2)

    return check(f, {"a": normal(3, 4), "b": normal(4, 2)}, order=2)


@kind(ORDER, "pass")
def second_order_in_float32():
    return check(lambda x: jnp.sum(jnp.exp(jnp.sin(x))), f32(0.3, 0.7, -1.0), order=2)


def sine_with_a_stopped_slope():
    return ruled(jnp.sin, lambda x: lax.stop_gradient(jnp.cos(x)))


@kind(ORDER, "pass")
def right_slope_that_is_stopped_at_first_order():
    sine = sine_with_a_stopped_slope()
    return check(lambda x: sine(x).sum(), np.array([0.3, 0.7]))


@kind(ORDER, "fail")
def right_slope_that_is_stopped_at_second_order():
    sine = sine_with_a_stopped_slope()
    return check(lambda x: sine(x).sum(), np.array([0.3, 0.7]), order=2)


@kind(ORDER, "fail")
def second_derivative_wrong_in_one_direction():
    @jax.custom_jvp
    def slope(x):
        return 3 * x**2

    slope.defjvp(lambda primals, tangents: (slope(*primals), 6.5 * primals[0] * tangents[0]))
    cube = ruled(lambda x: x**3, slope)
    return check(lambda x: cube(x).sum() + jnp.sum(x**4), np.array([0.3, 0.7]), order=2)


@kind(ORDER, "ValueError", "order")
def third_order():
    return check(lambda x: jnp.sin(x).sum(), np.ones(2), order=3)


# Modes

MODES = "modes"


@kind(MODES, "pass", never=("forward: not available",))
def reverse_only():
    return check(lambda x: jnp.sin(x).sum(), np.array([0.3, 0.7]), modes=("reverse",))


@kind(MODES, "pass")
def forward_only_through_a_while_loop():
    def f(x):
        return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.sin(s[1]) + x), (0, x))[1]

    return check(f, np.array(0.3), modes=("forward",))


@kind(MODES, "fail", "reverse")
def reverse_only_of_a_wrong_rule():
    square = ruled(jnp.square, lambda x: 3 * x)
    return check(lambda x: square(x).sum(), np.array([0.3, 0.7]), modes=("reverse",))


@kind(MODES, "ValueError", "modes")
def no_such_mode():
    return check(lambda x: jnp.sin(x).sum(), np.ones(2), modes=("sideways",))


# Auxiliary output

AUX = "has_aux"


def with_aux(w, x):
    z = x @ w
    return jnp.mean(z**2), {"z": z, "n": 3, "note": "aux"}


@kind(AUX, "pass")
def auxiliary_output_left_alone():
    return check(with_aux, normal(3), normal(5, 3, seed=1), has_aux=True)


@kind(AUX, "fail")
def auxiliary_output_and_a_wrong_candidate():
    def hand(w, x):
        return 1.02 * jax.grad(with_aux, has_aux=True)(w, x)[0]

    return check(with_aux, normal(3), normal(5, 3, seed=1), has_aux=True, candidates={"hand": hand})


@kind(AUX, "pass")
def auxiliary_output_that_is_not_finite():
    return check(lambda x: (jnp.sum(x**2), jnp.log(-jnp.abs(x))), normal(3), has_aux=True)


# Tolerance

RTOL = "rtol"


def roughly(error):
    return lambda x: jnp.cos(x) * (1 + error)


@kind(RTOL, "fail")
def candidate_right_to_1e_minus_4():
    return check(lambda x: jnp.sin(x).sum(), normal(4), candidates={"hand": roughly(1e-4)})


@kind(RTOL, "pass")
def candidate_right_to_1e_minus_4_within_rtol():
    return check(lambda x: jnp.sin(x).sum(), normal(4), candidates={"hand": roughly(1e-4)}, rtol=1e-3)


@kind(RTOL, "fail")
def candidate_right_to_1e_minus_2_outside_rtol():
    return check(lambda x: jnp.sin(x).sum(), normal(4), candidates={"hand": roughly(1e-2)}, rtol=1e-3)


@kind(RTOL, "pass", "right to")
def candidate_right_to_1e_minus_9_by_default():
    return check(lambda x: jnp.sin(x).sum(), normal(4), candidates={"hand": roughly(1e-9)})


@kind(RTOL, "ValueError", "rtol")
def negative_rtol():
    return check(lambda x: jnp.sin(x).sum(), np.ones(2), rtol=-1.0)


# Noise

NOISE = "noise"


def noisy(size, seed=0):
    rng = np.random.default_rng(seed)
    return lambda x: float((np.asarray(x) ** 2).sum() * (1 + size * rng.standard_normal()))


@kind(NOISE, "ValueError", "deterministic")
def noise_that_is_not_announced():
    return check(noisy(1e-9), np.array([0.4, 1.2]), candidates={"hand": lambda x: 2 * x})


@kind(NOISE, "pass")
def noise_that_is_announced():
    return check(noisy(1e-9), np.array([0.4, 1.2]), candidates={"hand": lambda x: 2 * x}, noise=1e-8)


@kind(NOISE, "fail")
def noise_and_a_wrong_candidate():
    return check(noisy(1e-9), np.array([0.4, 1.2]), candidates={"hand": lambda x: 2.4 * x}, noise=1e-8)


@kind(NOISE, "inconclusive")
def noise_as_large_as_the_value():
    return check(noisy(0.5), np.array([0.4, 1.2]), candidates={"hand": lambda x: 2.02 * x}, noise=1.0)


@kind(NOISE, "ValueError", "deterministic")
def hidden_state():
    calls = []

    def f(x):
        calls.append(None)
        return jnp.sum(x**2) * len(calls)

    return check(f, np.ones(2))


# Bounds

BOUNDS = "bounds"


def inside_only(f, low, high):
    """Return f, which must never be called outside."""

    def guarded(x):
        x = np.asarray(x)
        assert np.all((x >= low) & (x <= high)), "evaluated outside"
        return f(x)

    return guarded


@kind(BOUNDS, "pass")
def at_a_lower_bound():
    f = inside_only(lambda x: (x**1.5 + 2 * x).sum(), 0, np.inf)
    return check(
        f, np.array([0.0, 0.5]), bounds=(0.0, None), candidates={"hand": lambda x: 1.5 * np.sqrt(x) + 2}
    )


@kind(BOUNDS, "fail")
def at_a_lower_bound_and_wrong_there():
    f = inside_only(lambda x: (x**2 + 2 * x).sum(), 0, np.inf)
    hand = np.array([2.5, 3.0])
    return check(f, np.array([0.0, 0.5]), bounds=(0.0, None), candidates={"hand": lambda x: hand})


@kind(BOUNDS, "pass")
def between_two_bounds():
    f = inside_only(lambda p: (p * np.log(p + 0.1) + (1 - p) ** 2).sum(), 0, 1)

    def hand(p):
        return np.log(p + 0.1) + p / (p + 0.1) - 2 * (1 - p)

    return check(f, np.array([0.0, 1e-9, 0.3, 1.0]), bounds=(0.0, 1.0), candidates={"hand": hand})


@kind(BOUNDS, "pass")
def bounds_by_leaf_through_jax():
    def f(p):
        return jnp.sum(jnp.sqrt(p["a"]) + p["b"] ** 2) + jnp.log(1 - p["b"]).sum()

    p = {"a": np.array([1e-3, 2.0]), "b": np.array([0.2, 0.9])}
    return check(
        f, p, bounds=({"a": np.zeros(2), "b": np.full(2, -5.0)}, {"a": np.full(2, 9.0), "b": np.ones(2)})
    )


@kind(BOUNDS, "ValueError", "bounds")
def point_outside_its_bounds():
    return check(lambda x: (x**2).sum(), np.array([-1.0, 0.5]), bounds=(0.0, None))


# Several points

POINTS = "points"


@kind(POINTS, "pass")
def three_points():
    def f(x, y):
        return jnp.sum(jnp.sin(x) * y)

    points = [(normal(3, seed=1), np.ones(3)), (normal(3, seed=2), normal(3, seed=3))]
    return check(f, normal(3), np.ones(3), points=points)


@kind(POINTS, "fail")
def wrong_at_a_further_point_only():
    def hand(x):
        return jnp.where(x > 1, 2.2 * x, 2 * x)

    return check(
        lambda x: (x**2).sum(),
        np.array([0.3]),
        points=[(np.array([0.8]),), (np.array([1.7]),)],
        candidates={"hand": hand},
    )


@kind(POINTS, "inconclusive")
def not_finite_at_a_further_point():
    return check(lambda x: jnp.log(x).sum(), np.array([0.3]), points=[(np.array([0.0]),)])


# Special points of the functions themselves

SPECIAL = "special points"


@kind(SPECIAL, "pass")
def a_power_between_one_and_two_at_0():
    return check(lambda x: (x**1.5).sum(), np.array([0.0, 1.0, 4.0]))


@kind(SPECIAL, "inconclusive", "has no end", "INCONCLUSIVE")
def a_cube_root_at_0():
    return check(jnp.cbrt, np.array(0.0))


@kind(SPECIAL, "inconclusive", "has no end")
def a_square_root_at_0():
    return check(jnp.sqrt, np.array(0.0))


@kind(SPECIAL, "inconclusive", "has no end")
def an_arc_cosine_at_its_end():
    return check(jnp.arccos, np.array(-1.0))


@kind(SPECIAL, "inconclusive")
def a_floor_where_all_numbers_are_whole():
    return check(jnp.floor, np.array(1e30))


@kind(SPECIAL, "pass")
def a_remainder_of_whole_numbers():
    return check(lambda x: jnp.mod(x, 3.0).sum(), np.array([0.5, 7.25, 100.1]))


@kind(SPECIAL, "pass")
def a_hyperbolic_cosine_next_to_0():
    return check(jnp.cosh, np.array(1e-30), candidates={"by hand": jnp.sinh})


@kind(SPECIAL, "fail", "by hand (1.02e-30")
def a_hyperbolic_cosine_next_to_0_by_a_wrong_hand():
    return check(jnp.cosh, np.array(1e-30), candidates={"by hand": lambda x: 1.02 * jnp.sinh(x)})


@kind(SPECIAL, "pass")
def what_cancels_next_to_0_by_a_better_hand():
    return check(
        lambda x: jnp.exp(x) + jnp.exp(-x), np.array(1e-17), candidates={"h": lambda x: 2 * jnp.sinh(x)}
    )


@kind(SPECIAL, "pass")
def the_imaginary_part_of_what_is_real():
    return check(lambda x: jnp.imag(x + 0j).sum(), np.array([0.0, -1.0]))


@kind(SPECIAL, "fail")
def a_bessel_function_that_is_wrong_at_0():
    rule = jax.custom_jvp(lambda x: jnp.cosh(x))
    rule.defjvp(lambda x, dx: (jnp.cosh(x[0]), jnp.where(x[0] == 0, 1.0, jnp.sinh(x[0])) * dx[0]))
    return check(rule, np.array(0.0))


@kind(SPECIAL, "pass")
def the_median_of_equal_numbers():
    return check(jnp.median, np.ones(4))


@kind(SPECIAL, "pass")
def a_clip_whose_ends_meet_at_the_point():
    return check(jnp.clip, np.array(0.0), np.array(0.0), np.array(0.0), argnums=(0, 1, 2))


@kind(SPECIAL, "fail", "a[3]")
def the_median_of_equal_numbers_by_a_wrong_hand():
    wrong = jnp.array([0.0, 0.5, 0.5, 2.0])
    return check(jnp.median, np.ones(4), candidates={"by hand": lambda a: wrong.astype(a.dtype)})


@kind(SPECIAL, "fail")
def a_where_that_is_another_function_at_the_point_alone():
    return check(lambda x: jnp.where(x == 0, 0.0, x), np.array(0.0))


@kind(SPECIAL, "pass")
def a_small_angle():
    return check(jnp.arctan2, np.array(1.0), np.array(1e-30), argnums=(0, 1))


@kind(SPECIAL, "pass")
def a_loop_that_ends_only_in_its_own_branch():
    def grown(v):
        return lax.while_loop(lambda y: y < 100, lambda y: y * v, v)

    def f(x):
        return lax.map(lambda v: lax.cond(v > 1, grown, lambda v: v**2, v), x).sum()

    return check(f, np.array([0.3, 1.7, 1.2, 1e-8]))


@kind(SPECIAL, "pass")
def a_cube_at_zero():
    return check(lambda x: (x**3).sum(), np.zeros(2))


@kind(SPECIAL, "pass")
def logarithms_of_sums_of_exponentials_of_tiny_numbers():
    def f(x):
        return jax.lax.cumlogsumexp(x) @ jnp.arange(1.0, 5.0) + jax.lax.cumlogsumexp(x, reverse=True)[1]

    return check(f, 1e-30 * np.array([1.0, 2.0, -1.0, 0.5]))


@kind(SPECIAL, "inconclusive")
def a_logarithm_of_what_rounds_to_one():
    return check(lambda x: jax.scipy.stats.chi2.logsf(x, 3.0), np.array(1e-30))


@kind(SPECIAL, "pass")
def a_distribution_whose_slope_is_lost_in_its_rounding():
    return check(jax.scipy.stats.expon.cdf, np.array(30.0), np.array(0.0), np.array(1.0), argnums=(0, 1, 2))


@kind(SPECIAL, "pass")
def a_slope_below_what_numbers_hold():
    return check(jax.nn.sigmoid, np.array(-700.0))


@kind(SPECIAL, "inconclusive", never=("jump",))
def a_sine_between_whose_numbers_are_many_periods():
    return check(lambda x: (jnp.arange(1.0, 5.0) * jnp.sin(x)).sum(), 1e30 * np.array([0.3, -1.2, 2.1, 0.7]))


@kind(SPECIAL, "fail")
def a_slope_of_1e30_where_there_is_none():
    return check(lambda x: jnp.sin(x[0]) + ruled(lambda v: 0 * v, lambda v: 1e30 + 0 * v)(x[1]), np.ones(2))


@kind(SPECIAL, "pass")
def overlapping_windows_whose_maxima_tie():
    def f(x):
        pooled = lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "SAME")
        return pooled @ jnp.cos(jnp.arange(4.0))

    return check(f, np.zeros(4))


@kind(SPECIAL, "inconclusive", "f has a kink", "each operation's derivative there is one of its own")
def units_that_are_all_at_their_kinks():
    first, second = normal(4, 16), normal(16)
    return check(
        lambda x: jnp.tanh(jax.nn.relu(x @ first) @ second),
        np.zeros(4),
        candidates={"by hand": lambda x: jnp.zeros(4)},
    )


@kind(SPECIAL, "fail", "custom_vjp")
def units_at_their_kinks_by_a_wrong_rule():
    first, second = normal(4, 16), normal(16, seed=1)
    relu = ruled(jax.nn.relu, lambda x: jnp.where(x >= 0, 1.5, 0.0))
    return check(lambda x: jnp.tanh(relu(x @ first) @ second), np.zeros(4))


@kind(SPECIAL, "fail", "by hand")
def units_at_their_kinks_by_a_hand_of_its_own():
    first, second = normal(4, 16), normal(16, seed=1)
    return check(
        lambda x: jnp.tanh(jax.nn.relu(x @ first) @ second),
        np.zeros(4),
        candidates={"by hand": lambda x: 100 * jnp.ones(4)},
    )


@kind(SPECIAL, "fail", "is not 1")
def two_kinks_that_make_a_line():
    return check(lambda x: jax.nn.relu(x) - jax.nn.relu(-x), np.array(0.0))


@kind(ELSEWHERE, "pass")
def an_operation_that_cannot_be_batched():
    return check(lambda a, b: lax.ragged_dot(a, b, jnp.array([2, 1])).sum(), normal(3, 4), normal(2, 4, 5))


@kind(SPECIAL, "inconclusive", "distribution function", never=("FAIL",))
def a_sample_of_a_gamma_distribution():
    key = jax.random.key(0)
    return check(lambda a: (jax.random.gamma(key, a, dtype=a.dtype) ** 2).sum(), np.array([0.7, 2.3, 5.1]))


@kind(SPECIAL, "fail", "wrong rule")
def a_sample_of_a_gamma_distribution_by_a_wrong_rule():
    key, square = jax.random.key(0), scaled(jnp.square)
    return check(lambda a: square(jax.random.gamma(key, a, dtype=a.dtype)).sum(), np.array([0.7, 2.3, 5.1]))


@kind(SPECIAL, "pass", never=("not available",))
def a_linear_solve_by_forward_autodiff():
    return check(lambda a: jnp.linalg.solve(a, jnp.ones(3)).sum(), normal(3, 3))


@kind(OWN, "pass", "right to 1e-6")
def forward_autodiff_of_a_series_in_float32():
    return check(lambda x: jax.scipy.special.log_ndtr(x).sum(), f32(*np.linspace(-12, 3, 7)))


@kind(MANY, "pass", "kinks along these")
def kinks_along_random_directions():
    return check(
        lambda w: jnp.sum(jnp.abs(w) * jnp.arange(1000)), normal(1000) * (np.arange(1000) % 3), limit=100
    )


@kind(MANY, "fail", "random directions", never=("kinks",))
def one_element_of_1000_that_is_not_looked_at():
    sine = ruled(jnp.sin, lambda x: jnp.cos(x).at[777].mul(1.001))
    return check(lambda x: sine(x).sum(), normal(1000), limit=100)


@kind(SPECIAL, "inconclusive", "a kink", never=("stopped",))
def hundreds_of_units_at_their_kinks():
    x, v = normal(16, 5), normal(40, 3, seed=1)

    def f(w):
        z = jax.nn.relu(x @ w) @ v
        return -jax.nn.log_softmax(z)[np.arange(16), np.arange(16) % 3].mean()

    return check(f, np.zeros((5, 40)))


@kind(OWN, "pass")
def a_minimum_that_xla_rounds_otherwise_than_its_operand():
    x = f32(*normal(9))

    def f(v):
        edges = jnp.stack([v[0] * x - v[1], v[2] * x - v[0], v[1] * x - v[2]])
        return jnp.sum(jax.nn.sigmoid(jnp.min(edges, 0)))

    return check(f, f32(0.3, 0.7, -0.2))


@kind(SPECIAL, "pass")
def distances_to_a_corner_that_rounding_tells_apart():
    points, corners = np.split(normal(16, 2, seed=7), [10])

    def f(v):
        side, beside = v[1:] - v[:-1], points[:, None] - v[:-1]
        t = jnp.clip((beside * side).sum(-1) / (side**2).sum(-1), 0, 1)
        return jnp.linalg.norm(beside - t[..., None] * side, axis=-1).min(1).sum()

    return check(f, corners)
