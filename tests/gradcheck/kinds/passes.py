"""Wrong gradients that passed, and what nothing can be said of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from kinds.catalogue import OWN, check, f32, kind, normal, off, ruled, scaled

# A gradient wrong in the function's own precision only


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


@kind(JUMP, "inconclusive", "f jumps at x[0], by 1:")
def a_floor_times_its_argument():
    return check(lambda x: (jnp.floor(x) * x).sum(), np.array([1.0, 2.5]))


@kind(JUMP, "inconclusive", "f jumps at x[0], by 9:")
def a_ceiling_times_a_square():
    return check(lambda x: (jnp.ceil(x) * x**2).sum(), np.array([3.0, 2.5]))


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
