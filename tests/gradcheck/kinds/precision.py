"""Half precision, the ends of a type, kinks within a rounding, and functions good to a tolerance only."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.ode import odeint
from jax.scipy.special import betainc, logsumexp

from kinds.catalogue import check, f32, kind, normal, scaled

HALF = "half precision inside"
END = "the ends of a type"
ROUNDED_KINK = "a kink within a rounding"
TOLERANCE = "good to a tolerance only"
REFUSED = "jax refuses the derivative"
SUMS = "every element in every sum"
EXCUSED = "excused by the rounding of another"


def half(x):
    return x.astype(jnp.bfloat16)


def product(x, w):
    return (half(x) @ half(w)).astype(x.dtype)


def layers(p, x):
    return jnp.mean((jax.nn.relu(product(x, p["w"])) @ p["v"]) ** 2)


@kind(HALF, "pass")
def relu_layer_in_half_precision():
    p = {"w": f32(*normal(64)).reshape(8, 8) * np.float32(0.3), "v": f32(*normal(8, seed=1))}
    return check(layers, p, f32(*normal(32, seed=2)).reshape(4, 8))


def squares(w, x):
    return jnp.mean(jnp.tanh(product(x, w)) ** 2)


ARGS = f32(*normal(36)).reshape(6, 6) * np.float32(0.4), f32(*normal(18, seed=1)).reshape(3, 6)


@kind(HALF, "fail", "by hand")
def candidate_a_hundredth_too_large_in_half_precision():
    return check(squares, *ARGS, candidates={"by hand": lambda w, x: 1.01 * jax.grad(squares)(w, x)})


@kind(HALF, "fail", "arises in custom_vjp_call", "precision.py")
def rule_of_a_product_in_half_precision():
    rule = scaled(product, 1.1)
    return check(lambda w, x: jnp.mean(jnp.tanh(rule(x, w)) ** 2), *ARGS)


@kind(HALF, "pass")
def exact_gelu_in_half_precision():
    return check(lambda w, x: (jax.nn.gelu(product(x, w), approximate=False) ** 2).sum(), *ARGS)


@kind(HALF, "pass")
def rules_with_constants_in_half_precision():
    def f(w, x):
        return (jax.nn.gelu(half(x) @ half(w), approximate=False) ** 2).astype(x.dtype).sum()

    return check(f, *ARGS)


@kind(END, "pass")
def a_saturated_unit_whose_slope_is_no_normal_number():
    return check(lambda x: jax.nn.sigmoid(x).sum(), f32(-95, 0.1))


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(-jnp.abs(x))) + jnp.maximum(x, 0)


softplus.defjvps(lambda t, value, x: jax.nn.sigmoid(x) * t)


@kind(END, "pass", "complex step")
def sums_of_rows_that_saturate():
    rng = np.random.default_rng(0)
    table, ids, into = f32(*normal(24)).reshape(12, 2), rng.integers(12, size=300), rng.integers(6, size=300)

    def pooled(table):
        return jnp.mean(jnp.tanh(jax.ops.segment_sum(table[jnp.asarray(ids)], jnp.asarray(into), 6)) ** 2)

    return check(pooled, table)


@kind(END, "inconclusive", "reverse at x[0] depends on its rounding", never=("16 digits",))
def a_float32_gradient_of_which_rounding_leaves_nothing():
    return check(lambda x: jnp.sum((1 - jnp.cos(x)) / x**2), f32(1e-3))


@kind(END, "pass")
def two_terms_that_are_both_flushed():
    x = f32(-77.7949391547136, *normal(299))
    return check(lambda x: jnp.mean(softplus(x) * jnp.cos(x / 50)), x)


@kind(END, "pass")
def a_flushed_tail_times_more_than_one():
    return check(lambda x: jnp.mean(jnp.exp(-x * x)), f32(9.33, 1, 2))


@kind(END, "pass")
def a_radial_basis_so_far_away_that_it_is_flushed():
    return check(lambda x: jnp.exp(-(x**2)).sum(), f32(9.6, 0.1))


@kind(END, "inconclusive", "f is not finite at the point itself", "arises in integer_pow", never=("FAIL",))
def a_square_beyond_float32():
    return check(lambda x: jnp.sqrt((x**2).sum()), f32(1e20, 2e20))


@kind(ROUNDED_KINK, "pass", "at a kink")
def a_grid_point_that_only_float32_hits():
    values = jnp.asarray(np.random.default_rng(0).random(12), jnp.float32)

    def f(shift):
        positions = jnp.arange(12, dtype=shift.dtype) * 0.9 + shift
        return (jax.scipy.ndimage.map_coordinates(values, [positions], 1, "nearest") ** 2).sum()

    return check(f, np.float32(0.5))


def prey(p):
    def rate(y, t, p):
        return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])

    found = odeint(rate, jnp.array([2.0, 1.0], p.dtype), jnp.linspace(0, 5, 6, dtype=p.dtype), p)
    return (jnp.log(found) ** 2).mean()


@kind(TOLERANCE, "fail", "small", "large")
def adaptive_steps_beside_a_candidate_that_is_far_off():
    p, candidates = np.array([1.1, 0.4, 0.1, 0.4]), {"small": 1.005, "large": -1.0}
    with jax.enable_x64(True):
        slope = jax.grad(prey)
        given = {name: lambda p, k=k: k * slope(p) for name, k in candidates.items()}
        report = check(prey, p, candidates=given)
    assert report.leaves[0].failed == ["small", "large"], str(report)
    return report


def transported(c):
    a, b = jnp.log(1 / 6), jnp.log(1 / 7)

    def step(state):
        f, g, n, _ = state
        new = 0.2 * (a - logsumexp((g - c) / 0.2, 1))
        return new, 0.2 * (b - logsumexp((new[:, None] - c) / 0.2, 0)), n + 1, jnp.abs(new - f).max()

    start = jnp.zeros(6, c.dtype), jnp.zeros(7, c.dtype), 0, jnp.ones((), c.dtype)
    f, g, *_ = lax.while_loop(lambda state: (state[3] > 1e-10) & (state[2] < 500), step, start)
    return f, g


@kind(TOLERANCE, "fail", "arises in custom_vjp_call `cost`", "precision.py")
def rule_of_a_solver_two_hundredths_off():
    @jax.custom_vjp
    def cost(c):
        f, g = transported(c)
        return f.mean() + g.mean()

    def forward(c):
        f, g = transported(c)
        return f.mean() + g.mean(), jnp.exp((f[:, None] + g - c) / 0.2)

    cost.defvjp(forward, lambda plan, g: (1.02 * g * plan,))
    with jax.enable_x64(True):
        return check(lambda c: cost(c), np.random.default_rng(0).random((6, 7)))


@kind(TOLERANCE, "pass")
def layer_in_equilibrium_by_its_implicit_rule():
    def cell(w, x, z):
        return jnp.tanh(w @ z + x)

    def settled(step, z):
        def going(state):
            return (jnp.linalg.norm(state[0] - state[1]) > 1e-6) & (state[2] < 300)

        state = z, step(z), 0
        return lax.while_loop(going, lambda s: (s[1], step(s[1]), s[2] + 1), state)[1]

    @jax.custom_vjp
    def layer(w, x):
        return settled(lambda z: cell(w, x, z), jnp.zeros_like(x))

    def forward(w, x):
        z = layer(w, x)
        return z, (w, x, z)

    def backward(kept, g):
        w, x, z = kept
        back = jax.vjp(lambda z: cell(w, x, z), z)[1]
        through = settled(lambda u: g + back(u)[0], g)
        return jax.vjp(lambda w, x: cell(w, x, z), w, x)[1](through)

    layer.defvjp(forward, backward)
    rng = np.random.default_rng(5)
    w, x = (0.3 * rng.normal(size=(4, 4))).astype(np.float32), rng.normal(size=4).astype(np.float32)
    return check(lambda w, x: (layer(w, x) ** 2).sum(), w, x, argnums=(0, 1))


@kind(REFUSED, "fail", "by hand", "not available: Betainc gradient")
def beta_integral_by_its_parameter():
    return check(lambda a: betainc(a, 1.7, 0.4), np.float32(2.3), candidates={"by hand": np.float32(-0.1)})


@kind(REFUSED, "fail", "arises in custom_vjp_call")
def complex_numbers_put_beside_each_other():
    def state(t):
        return jnp.abs(jnp.array([jnp.cos(t[0]), -1j * jnp.sin(t[1])]) @ jnp.array([1.0, 2.0]))

    rule = scaled(state)
    return check(lambda t: rule(t), f32(0.3, -0.7))


@kind(SUMS, "fail", "random directions")
def a_large_matrix_times_itself():
    square = scaled(lambda w: w @ w, 1.001)
    with jax.enable_x64(True):
        return check(lambda w: jnp.mean(jnp.tanh(square(w)) ** 2), normal(120, 120) / 11)


@kind(EXCUSED, "fail", "c disagrees with")
def a_median_whose_place_is_computed_in_floating_point():
    # One element's slope is a rounding of its weight; and place 20 / 2, if it is rounded, is another element.
    def f(x):
        return jnp.median(jnp.abs(x - jnp.median(x))) + jnp.quantile(x, 0.3)

    x = np.random.default_rng(1).normal(size=21).astype(np.float32)
    return check(f, x, candidates={"c": lambda x: 1.02 * jax.grad(f)(x)})


@kind("a slope too steep for any step", "inconclusive")
def logistic_map_of_60_steps_by_its_parameter():
    start = np.float32(0.3)
    return check(lambda r: lax.fori_loop(0, 60, lambda _, x: r * x * (1 - x), start), np.float32(3.9))


@kind("rules that call back, of one text", "fail", "arises in custom_jvp_call `sine`")
def wrong_rule_where_a_right_one_of_that_text_was_before():
    def function(scale):
        def called(host, x):
            of = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return jax.pure_callback(host, of, x, vmap_method="expand_dims")

        @jax.custom_jvp
        def sine(x):
            return called(lambda x: np.sin(x).astype(x.dtype), x)

        sine.defjvps(lambda t, _, x: t * called(lambda x: (scale * np.cos(x)).astype(x.dtype), x))
        return lambda x: (sine(x) ** 2).sum()

    assert check(function(1.0), f32(0.3, 0.7)).verdict == "pass"
    return check(function(2.0), f32(0.3, 0.7))


@kind(END, "inconclusive", "too wide to decide")
def a_point_so_small_that_any_slope_is_lost_in_rounding():
    return check(jnp.i0, np.float32(1e-30), candidates={"c": lambda x: jnp.float32(1e10)})


@kind("a rule that is nearly right", "fail", "arises in custom_vjp_call")
def a_rule_a_ten_thousandth_too_large():
    with jax.enable_x64(True):
        report = check(lambda x: scaled(lambda x: x**3, 1.0001)(x).sum(), np.array([1.0]))
    rule, slope = re.search(r"slope (\S+) by its rule, (\S+) numerically", str(report)).groups()
    assert rule != slope
    return report


@kind("noise that is declared", "pass")
def a_tolerance_wider_than_the_noise():
    rng = np.random.default_rng(0)
    options = {"candidates": {"by hand": lambda x: 2 * x}, "noise": 1e-5, "rtol": 0.01}
    return check(lambda x: float((x**2).sum() * (1 + 1e-6 * rng.normal())), np.array([1.0, 2.0]), **options)
