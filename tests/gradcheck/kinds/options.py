"""What the report says, and what the options of a check ask for."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kinds.catalogue import check, f32, kind, normal, ruled

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
