"""Calls that raised."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kinds.catalogue import ELSEWHERE, MANY, check, f32, kind, normal, ruled

# More elements than forward autodiff is run for


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


@kind(NUMPY, "fail", "the worst entry is that of out[1] by x[1]: 1.1, numerically 1")
def several_outputs_of_numpy_with_a_wrong_candidate():
    def f(x):
        return np.array([float(x[0]) ** 2, float(x[0]) * float(x[1])])

    def jacobian(x):
        return np.array([[2 * x[0], 0], [x[1], 1.1 * x[0]]])

    return check(f, np.array([1.0, 2.0]), candidates={"jacobian": jacobian})


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
def pure_callback_without_a_vmap_method():
    @jax.custom_vjp
    def sine(x):
        return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    sine.defvjp(lambda x: (sine(x), x), lambda x, g: (g * jnp.cos(x),))
    return check(lambda x: sine(x).sum(), np.array([0.3, 0.7]))


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


@kind(OTHERS, "fail", "ready is 1.02 times the gradient", needs="equinox")
def a_ready_gradient_that_can_be_called():
    import equinox as eqx

    def f(model):
        return jnp.sum(model(jnp.arange(3.0)) ** 2)

    model = eqx.nn.Linear(3, 2, use_bias=False, key=jax.random.key(0))
    return check(f, model, candidates={"ready": jax.tree.map(lambda g: 1.02 * g, eqx.filter_grad(f)(model))})


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
