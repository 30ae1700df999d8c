"""Planted faults are named by their line and kind; right functions have none named."""

import inspect
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from planted import FAULTS, X, late_square, steep_tanh
from right import RIGHT

from jaxnet.gradcheck.locate import find_origins, locate


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", FAULTS)
def test_the_right_line_and_kind_are_named_and_no_other(name):
    fault = FAULTS[name]
    with jax.enable_x64(fault.x64):
        origins = locate(fault.f, *fault.args)
    assert {(origin.where, origin.kind) for origin in origins} == fault.expected


@pytest.mark.sampled(10)
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_named_in_a_right_function(name, x64):
    f, args = RIGHT[name]
    with jax.enable_x64(x64):
        assert locate(f, *(jax.tree.map(_widened, args) if x64 else args)) == ()


def _widened(leaf):
    wide = getattr(leaf, "dtype", None) in (np.float32, np.float64)
    return np.asarray(leaf, np.float64) if wide else leaf


def _located(name):
    return locate(FAULTS[name].f, *FAULTS[name].args)


def test_an_origin_says_which_function_of_the_user_has_the_rule_and_where_it_is_called():
    (origin,) = _located("in_an_equinox_module")
    assert (origin.operation, origin.name) == ("custom_vjp_call", "steep_tanh")
    assert origin.function == "Layer.__call__"
    (origin,) = _located("in_scan")
    assert origin.function == "step"


def test_the_slopes_are_those_of_the_rule_and_of_the_function():
    (origin,) = _located("wrong_vjp")
    rule, slope = re.fullmatch(r"slope (\S+) by its rule, (\S+) numerically", origin.detail).groups()
    assert float(rule) / float(slope) == pytest.approx(1.02, abs=0.01)  # of three digits
    (origin,) = _located("dead_vjp")
    assert origin.detail.startswith("slope 0 by its rule, ")


@pytest.mark.parametrize(
    ("name", "says", "masked"),
    [
        ("sqrt_behind_where", "cotangent 0 in, NaN out: sqrt at 0;", True),
        ("exp_overflows_behind_where", "cotangent 0 in, NaN out: exp at 200 is inf in float32;", True),
        ("exp_overflows_in_float16", "cotangent 0 in, NaN out: exp at 20 is inf in float16;", True),
        ("norm_at_zero", "cotangent 2 in, inf out: sqrt at 0", False),
        ("infinite_value", "cotangent -1 in, -inf out: log at 0 is -inf in float32", False),
    ],
)
def test_what_is_not_finite_is_said_and_a_second_where_advised_only_behind_a_where(name, says, masked):
    (origin,) = _located(name)
    assert origin.detail.startswith(says)
    assert ("second where()" in origin.detail) == masked


def test_an_overflow_is_one_of_the_function_s_own_type_only():
    f = FAULTS["exp_overflows_behind_where"].f
    with jax.enable_x64(True):
        assert locate(f, np.array([1.0, 200.0])) == ()
        assert [origin.operation for origin in locate(f, np.array([1.0, 800.0]))] == ["exp"]


@pytest.mark.parametrize(
    ("name", "iterations"),
    [
        ("in_a_branch_of_a_scan", ", in iteration 3 of scan"),
        ("in_the_last_iteration", ", in iteration 4 of scan"),
        ("in_nested_scans", ", in iteration 0 of scan, in iteration 0 of scan"),
        ("rule_in_a_while", ", in iteration 0 of while"),
        ("in_remat", ""),
    ],
)
def test_the_iteration_is_said(name, iterations):
    origin = next(origin for origin in _located(name) if origin.operation != "while")
    assert origin.detail.partition(", in ")[1:] == iterations.partition(", in ")[1:]


def test_a_reversed_scan_counts_its_iterations_as_it_runs_them():
    def f(x):
        return lax.scan(lambda c, v: (c + jnp.where(v > 0, jnp.sqrt(v), 0), None), 0.0, x, reverse=True)[0]

    (origin,) = locate(f, np.array([1.0, 2.0, 0.0, 3.0], np.float32))
    assert origin.detail.endswith("in iteration 1 of scan")


def test_origins_come_in_the_order_of_the_function():
    assert [origin.kind for origin in _located("three_kinds")] == ["wrong rule", "stopped", "not finite"]


def test_only_what_is_differentiated_and_what_a_cotangent_reaches_is_at_fault():
    def f(x, y):
        return {"good": jnp.sin(x), "bad": late_square(y)}

    x = np.float32(2)
    assert locate(f, x, x) == ()
    assert [origin.name for origin in locate(f, x, x, argnums=1)] == ["late_square"]
    assert [origin.name for origin in locate(f, x, x, argnums=(0, -1))] == ["late_square"]
    assert locate(f, x, x, argnums=1, cotangent={"good": 1.0, "bad": 0.0}) == ()


def test_leaves_that_are_not_floating_point_are_left_alone():
    def f(tree):
        return jnp.sum(steep_tanh(tree["x"]) * tree["n"]) * jax.random.normal(tree["key"])

    tree = {"x": X, "n": 3, "key": jax.random.key(0), "f": jnp.sin, "none": None, "i": np.arange(3)}
    assert [origin.name for origin in locate(f, tree)] == ["steep_tanh"]


def test_arguments_without_a_floating_point_number_are_refused():
    with pytest.raises(ValueError, match=r"argnums must be in 0\.\.0 for 1 arguments, got 2"):
        locate(jnp.sum, X, argnums=2)
    with pytest.raises(ValueError, match=r"argnums must be in 0\.\.-1 for 0 arguments, got 0"):
        locate(lambda: 1.0)
    with pytest.raises(ValueError, match="floating-point number in argnums, got none in 1"):
        locate(lambda x, n: x * n, 1.0, 3, argnums=1)


def test_what_jax_debugs_is_no_obstacle(unchecked):
    with jax.debug_nans(True), jax.numpy_dtype_promotion("strict"):
        assert [origin.operation for origin in _located("distances_to_itself")] == ["sqrt"]


def _found(f, *values):
    values = [jnp.asarray(v) for v in values]
    return find_origins(jax.make_jaxpr(f)(*values), values, [jnp.float32(1)])


def test_flat_operations_through_which_a_gradient_would_flow_are_noted():
    def f(x):
        y = jnp.floor(x) * x  # <- floor
        index = jnp.argmax(x)  # <- argmax
        whole = x.astype(jnp.int32)  # <- convert_element_type
        step = (x > 0).astype(jnp.float32)  # <- gt
        kept = jnp.where(x > 0, x, 0.0) + x[jnp.argmin(x)] + lax.stop_gradient(jnp.round(x))
        return jnp.sum(y * whole * step * index + kept)

    lines, start = inspect.getsourcelines(f)
    marked = {m[1]: n for n, line in enumerate(lines, start) if (m := re.search(r"# <- (\w+)", line))}
    expected = {
        f"no gradient flows through {k}, test_locate.py:{n} in f: it is flat" for k, n in marked.items()
    }
    located = _found(f, np.array([1.5, 2.7, 3.2, 1.1], np.float32))
    assert located.origins == ()
    assert set(located.notes) == expected
    assert len(expected) == 4


def test_the_operations_that_are_right_are_counted():
    located = _found(lambda x: jnp.sum(jnp.exp(jnp.sin(x)) * x), X)
    assert located == ((), 4, ())  # sin, exp, mul, reduce_sum
    located = _found(lambda x: jnp.sum(jnp.exp(steep_tanh(x)) * x), X)
    assert located.checked == 3


def test_a_rule_that_no_numerical_slope_can_judge_is_not_accused():
    @jax.custom_vjp
    def jagged(x):
        return jnp.sin(1e14 * x)

    jagged.defvjp(lambda x: (jagged(x), x), lambda x, g: (g * 1e14 * jnp.cos(1e14 * x),))
    with jax.enable_x64(True):
        assert locate(lambda x: jagged(x).sum(), np.array([0.3, 0.7])) == ()


def test_mutable_arrays_are_said_not_to_be_looked_into():
    def f(x):
        cell = jax.new_ref(x)
        cell[...] = jnp.sin(cell[...])
        return cell[...].sum()

    assert _found(f, X) == ((), 0, ("a function with mutable arrays is not looked into",))


def test_a_loop_that_is_too_long_to_go_through_is_said_not_to_be_looked_into(monkeypatch):
    monkeypatch.setattr(sys.modules["jaxnet.gradcheck.locate"], "_ITERATIONS", 5)
    located = _found(lambda x: FAULTS["in_scan"].f(x), X)
    assert located.origins == ()
    (note,) = located.notes
    assert re.fullmatch(r"scan, planted.py:\d+, has too many iterations to look into", note)


def test_a_rule_of_the_function_itself_which_no_line_calls_is_named_by_its_own_line():
    def act(x):
        return jnp.tanh(x).sum()

    wrong = jax.custom_vjp(act)
    wrong.defvjp(lambda x: (act(x), x), lambda x, g: (g * (1 - jnp.tanh(x)),))
    (origin,) = locate(wrong, np.array([0.3, 0.5]))
    line = act.__code__.co_firstlineno
    assert (origin.kind, origin.name) == ("wrong rule", "act")
    # Of its own, or as jax 0.8 traces it, where locate was called.
    assert origin.where in (f"test_locate.py:{line}", f"test_locate.py:{line + 5}")
