"""Right gradients that were accused."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kinds.catalogue import ELSEWHERE, MANY, OWN, check, f32, kind, normal, ruled, scaled

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
