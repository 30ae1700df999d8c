import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet
import reference_numpy
from benchmarks.gradient_catalogue import CASES, W, X, by_hand, network_loss
from jaxnet import check_gradients, cli, network
from jaxnet.gradcheck import GradientError

WRONG = [case for case in CASES if not case.right]


def test_the_catalogue_is_large_and_most_causes_are_known():
    assert sum(case.right for case in CASES) >= 40 and len(WRONG) >= 40
    assert sum(bool(case.cause) for case in WRONG) >= len(WRONG) / 2


@pytest.mark.sampled(14)
@pytest.mark.parametrize(
    "case", CASES, ids=[f"{'right' if case.right else 'wrong'}: {case.name}" for case in CASES]
)
def test_every_wrong_gradient_fails_and_no_right_one(case):
    candidates = None if case.candidate is None else {"by hand": case.candidate}
    report = check_gradients(case.f, *case.args, candidates=candidates)
    assert report.verdict == ("pass" if case.right else "fail"), str(report)
    causes = "; ".join(leaf.cause for leaf in report.leaves if leaf.cause)
    if case.cause:
        assert case.cause in causes
    else:  # nothing is named where nothing fits
        assert not causes


@settings(max_examples=5, deadline=None)
@given(leaf=st.sampled_from(sorted(W)), place=st.integers(0, 10**6), sign=st.sampled_from([-1, 1]))
def test_one_percent_in_any_one_element_is_found(leaf, place, sign):
    grads = {name: np.array(value) for name, value in by_hand(W, X).items()}
    flat = grads[leaf].reshape(-1)
    flat[place % flat.size] *= 1 + sign * 0.01
    report = check_gradients(network_loss, W, X, candidates={"planted": grads})
    index = np.unravel_index(place % flat.size, grads[leaf].shape)
    assert report.verdict == "fail"
    assert report.worst.path == f"p['{leaf}'][{', '.join(map(str, index))}]"
    assert [found.path for found in report.leaves if found.failed] == [f"p['{leaf}']"]


def square(x):
    return (x**2).sum()


def test_the_odd_one_out_is_named():
    report = check_gradients(
        square, np.arange(1.0, 4.0), candidates={"mine": lambda x: 2 * x, "yours": lambda x: x}
    )
    assert report.summary.startswith(
        "yours disagrees with reverse, forward, mine, Richardson and complex step"
    )
    assert report.worst.failed == ["yours"]
    assert report.worst.values["mine"] == report.worst.values["reverse"] == 6


def test_autodiff_that_is_wrong_in_both_modes_is_the_odd_one_out():
    report = check_gradients(lambda x: jnp.sum(x * jax.lax.stop_gradient(x)), np.arange(1.0, 4.0))
    assert report.summary.startswith("reverse and forward disagree with Richardson and complex step")


def test_a_custom_vjp_has_no_forward_mode_and_that_is_normal():
    case = next(case for case in CASES if case.name == "custom_vjp" and case.right)
    report = check_gradients(case.f, *case.args)
    assert report.passed and "forward" in report.methods["forward"]
    assert "forward: not available" in str(report)


def test_a_kink_is_named_and_a_slope_between_passes():
    def f(x):
        return jnp.abs(x).sum()

    report = check_gradients(f, np.array([0.0, 2.0]), candidates={"half": lambda x: np.array([0.5, 1.0])})
    assert report.passed
    assert report.leaves[0].notes == [
        "1 of its elements at a kink, such as x[0] with slopes -1 and 1: what is between them passes"
    ]
    report = check_gradients(f, np.array([0.0, 2.0]), candidates={"out": lambda x: np.array([1.5, 1.0])})
    assert "out (1.5) is not between the slopes -1 and 1 of the kink" in report.worst.reason


@pytest.mark.parametrize(
    ("f", "x", "reason"),
    [
        (lambda x: jnp.sqrt(x).sum() * 0 + jnp.where(x > 0, x, jnp.nan).sum(), np.array([0.0]), "not finite"),
        (lambda x: jnp.sum(x + 1e-3 * jax.lax.stop_gradient(jnp.sin(1e17 * x))), np.array([0.3]), "too wide"),
    ],
    ids=["not finite at the point", "noise"],
)
def test_what_cannot_be_decided_is_inconclusive(f, x, reason):
    report = check_gradients(f, x, candidates={"by hand": np.ones_like(x) * (1 if x.size == 1 else 2 * x)})
    assert report.verdict == "inconclusive" and not report.passed
    assert reason in report.worst.reason
    report.raise_if_failed()


def test_the_report_in_every_form(tmp_path):
    report = check_gradients(network_loss, W, X, candidates={"by hand": {**by_hand(W, X), "w1": W["w1"]}})
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["verdict"] == "fail" and found["passed"] is False
    assert [leaf["path"] for leaf in found["leaves"]] == ["p['b1']", "p['b2']", "p['w1']", "p['w2']"]
    assert set(found["matrix"]) == {"reverse", "forward", "by hand", "Richardson", "complex step"}
    with pytest.raises(
        GradientError, match=r"by hand disagrees with reverse, forward, Richardson and complex step"
    ):
        report.raise_if_failed()
    assert (
        "<b style='color:crimson'>FAIL</b>" in report._repr_html_()
        and "p[&#x27;w1&#x27;]" in report._repr_html_()
    )
    report.plot().savefig(tmp_path / "steps.png")
    check_gradients(square, np.ones(2)).raise_if_failed()


def test_a_large_pytree_is_sampled_and_says_what_could_have_escaped():
    x = np.random.default_rng(0).standard_normal((300, 50))
    right = check_gradients(square, x, candidates={"by hand": lambda x: 2 * x})
    assert right.passed and right.leaves[0].checked < 3000
    assert "what could have escaped is an error under" in right.leaves[0].notes[0]
    planted = 2 * x
    planted[123, 45] += 1e-4
    report = check_gradients(square, x, candidates={"planted": planted})
    assert report.verdict == "fail" and report.worst.path == "x[123, 45]"


def test_directions_find_what_no_estimate_points_at():
    # Every autodiff is as wrong as the other: only the function itself can tell.
    x = np.random.default_rng(0).standard_normal(20_000)

    def f(x):
        return jnp.sum(x**2) - jax.lax.stop_gradient(x[17_777] ** 2)

    assert check_gradients(lambda x: jnp.sum(x**2) - x[17_777] ** 2, x, limit=100).passed
    assert check_gradients(f, x, limit=100).verdict == "fail"


@pytest.mark.rest
def test_a_network_is_checked_in_full_where_an_element_touches_little():
    params = network.init(jax.random.key(0), (600, 20, 10), weight_std=0.1)
    x, t = np.random.default_rng(0).standard_normal((20, 600)).astype(np.float32), np.arange(20) % 10
    candidates = {"backprop": network.backprop}
    report = check_gradients(network.loss, params, x, t, candidates=candidates)
    assert report.passed and [leaf.checked for leaf in report.leaves] == [12_000, 20, 200, 10]
    asked = check_gradients(network.loss, params, x, t, candidates=candidates, limit=1_000)
    assert asked.passed and sum(leaf.checked for leaf in asked.leaves) < 5_000
    x, t = x[:7], t[:7]
    for activation in ("relu", "tanh"):
        f = partial(network.loss, x=x[:, :6], t=t % 3, activation=activation)
        assert check_gradients(f, network.init(jax.random.key(1), (6, 5, 4, 3), weight_std=0.7)).passed


@pytest.mark.parametrize("sizes", [(6, 5, 3), (6, 5, 4, 3), (6, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_network_s_numerical_gradient_is_the_general_one(sizes, bias, x64):
    params = network.init(jax.random.key(0), sizes, weight_std=0.7, bias=bias, dtype=float)
    x, t = np.random.default_rng(0).standard_normal((9, 6)), np.arange(9) % 3
    for activation in ("sigmoid", "tanh"):
        fast = network.numerical_gradient(params, x, t, activation=activation)
        slow = jaxnet.numerical_gradient(partial(network.loss, x=x, t=t, activation=activation), params)
        for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def test_the_network_s_numerical_gradient_is_the_source_s(x64):
    rng = np.random.default_rng(0)
    net = reference_numpy.TwoLayerNet(12, 5, 4, softmax=reference_numpy.softmax_by_row, rng=rng)
    x, t = rng.random((10, 12)), np.eye(4)[np.arange(10) % 4]
    p = net.params
    params = network.Dense(p["W1"], p["b1"]), network.Dense(p["W2"], p["b2"])
    ours = jax.tree.leaves(network.numerical_gradient(params, x, t))
    theirs = net.numerical_gradient(x, t)
    for name, leaf in zip(("W1", "b1", "W2", "b2"), ours, strict=True):
        assert isinstance(leaf, np.ndarray)
        # The source's 1e-7 in the logarithm changes its loss, and so its gradient, by as much.
        np.testing.assert_allclose(leaf, theirs[name], rtol=0, atol=1e-6)


def counting():
    calls = iter(range(100))
    return lambda x: (x**2).sum() + next(calls)


@pytest.mark.parametrize(
    ("f", "args", "options", "error", "message"),
    [
        (square, (), {}, ValueError, r"argnums must be in 0..-1 for 0 arguments, got 0"),
        (square, (np.ones(2),), {"argnums": 1}, ValueError, "argnums must be in 0..0 for 1 arguments, got 1"),
        (square, ({},), {}, ValueError, "at least one number to differentiate by, got none"),
        (square, (np.ones(0),), {}, ValueError, r"x must have elements to be differentiated, got \(0,\)"),
        (square, (np.arange(3),), {}, TypeError, "x must be floating-point .* got int64"),
        (square, (np.array([1.0, np.nan]),), {}, ValueError, "x must be finite, got NaN"),
        (lambda x: None, (1.0,), {}, TypeError, "must return floating-point numbers, got None"),
        (lambda x: "no", (1.0,), {}, TypeError, "must return floating-point numbers, got str"),
        (lambda x: jnp.argmax(x), (np.ones(2),), {}, TypeError, "floating-point numbers, got int"),
        (counting(), (np.ones(2),), {}, ValueError, r"deterministic, got \d.0 and \d.0 for equal"),
        (square, (np.ones(2),), {"candidates": {"c": np.ones(3)}}, ValueError, r"\[2\] at x, got \[3\]"),
        (square, (np.ones(2),), {"candidates": {"c": np.ones(2, int)}}, TypeError, "at x, got int64"),
        (square, (np.ones(2),), {"candidates": {"c": (np.ones(2),)}}, TypeError, "have the structure of"),
    ],
)  # fmt: skip
def test_bad_input_is_said_in_one_line(f, args, options, error, message):
    with pytest.raises(error, match=message):
        check_gradients(f, *args, **options)


def test_an_exception_inside_f_is_shown_as_it_is_with_the_estimate_that_ran():
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        check_gradients(f, 2.0)
    assert caught.value.__notes__[-1] == "check_gradients was running f itself"


def test_what_f_raises_where_it_is_traced_means_that_there_is_no_autodiff():
    def f(x):
        if isinstance(x, jax.core.Tracer):
            raise KeyError("mine")
        return x**2

    report = check_gradients(f, 2.0)
    assert report.verdict == "inconclusive" and "nothing was compared" in report.summary
    assert report.methods["reverse"] == report.methods["forward"] == "KeyError: 'mine'"
    assert check_gradients(f, 2.0, candidates={"by hand": lambda x: 2 * x}).passed
    assert check_gradients(f, 2.0, candidates={"by hand": lambda x: 3 * x}).verdict == "fail"


def test_the_process_stays_as_it_is():
    a = np.random.default_rng(0).standard_normal(3)  # of float64, closed over

    def f(x):
        return jnp.sum(jnp.sin(x) * a)

    before = jax.grad(f)(jnp.ones(3))
    assert check_gradients(f, jnp.ones(3)).passed and check_gradients(f, np.ones(3)).passed
    after = jax.grad(f)(jnp.ones(3))
    assert after.dtype == before.dtype == np.float32
    np.testing.assert_array_equal(before, after)
    labels = np.arange(3)  # of int64, an argument
    assert check_gradients(lambda x, t: jnp.sum(jnp.where(t > 0, x, x**2)), jnp.ones(3), labels).passed
    assert jnp.asarray(labels).dtype == np.int32


@pytest.mark.parametrize("run", [check_gradients, jaxnet.locate, jaxnet.numerical_gradient])
def test_products_are_of_full_precision_whatever_a_gpu_is_given_to(run):
    told = set()

    def f(w):
        told.add(jax.config.jax_default_matmul_precision)
        return jnp.tanh(jnp.outer(w, w) @ w).sum()

    with jax.default_matmul_precision("bfloat16"):
        run(f, np.ones(3, np.float32))
        assert jax.config.jax_default_matmul_precision == "bfloat16"
    assert told == {"highest"}


OWN = """
import jax.numpy as jnp
from jax import lax
def right(x, y): return jnp.sum(x * y)
def right_args(): return jnp.ones(3), jnp.arange(3.0)
def right_gradient(x, y): return y
def wrong(x): return jnp.sum(x**2)
def wrong_args(): return jnp.ones(3)
def wrong_gradient(x): return x
def noisy(x): return x + 1e-3 * lax.stop_gradient(jnp.sin(1e17 * x))
def noisy_args(): return 0.3
def alone(x): return x
def broken(x): return x.nothing
def broken_args(): return 1.0
"""


def test_jaxnet_check_of_your_own_function(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    target = f"{tmp_path / 'own.py'}:"
    codes = {name: cli.main(["check", target + name]) for name in ("right", "wrong", "noisy")}
    assert codes == {"right": 0, "wrong": 1, "noisy": 3}
    assert "wrong_gradient is 0.5 times the gradient: a factor of 2 is missing" in capsys.readouterr().out
    for name, message in {
        "none": "must define a function none, got",
        "alone": "must define a function alone_args()",
        "broken": "AttributeError",
    }.items():
        assert cli.main(["check", target + name]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for wrong in ("own.py", str(tmp_path / "missing.py:f"), "own.txt:f"):
        assert cli.main(["check", wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_jaxnet_check_of_the_network(capsys):
    quick = ["--data", "digits", "--hidden", "6", "--batch-size", "10"]
    assert cli.main(["check", *quick]) == 0
    assert "reverse, forward, backprop, Richardson and complex step agree to" in capsys.readouterr().out
    assert cli.main(["check", *quick, "--published-softmax"]) == 1
    out = capsys.readouterr().out
    assert "published backprop disagrees with reverse, forward, Richardson and complex step" in out
    assert "sum to about 0.1 = 1/10, not to 1" in " ".join(out.split())


def test_importing_costs_no_plotting():
    code = "import jaxnet, sys; print('matplotlib' in sys.modules, 'orbax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


@pytest.mark.parametrize("size", [0.0, 2.2e-313, 1e-300, 1e-200])
def test_an_element_too_small_for_steps_of_its_own_size(size):
    def f(x):
        return jnp.sum(jnp.exp(x) * jnp.sin(x))

    assert check_gradients(f, np.array([size])).passed
    wrong = check_gradients(f, np.array([size]), candidates={"wrong": np.array([1.01])})
    assert wrong.verdict == "fail"


def test_a_search_for_the_cause_that_fails_is_told_and_costs_no_verdict(monkeypatch, caplog):
    wrong = jax.custom_vjp(jnp.sin)
    wrong.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (1.1 * g * jnp.cos(x),))

    def failing(*args, is_wrong):
        raise KeyError("lost")

    monkeypatch.setattr("jaxnet.gradcheck.check.find_origins", failing)
    report = check_gradients(lambda x: wrong(x).sum(), np.array([0.3, 0.7]))
    assert report.verdict == "fail"
    assert "where it arises could not be found: KeyError: 'lost'" in str(report)
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info[0] is KeyError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": square}, "candidates must be gradients by name, such as {'mine': f}, got <function"),
        ({"points": [np.ones(2)]}, "points must be tuples of f's arguments"),
    ],
)
def test_options_of_another_form_are_refused(unchecked, options, message):
    with pytest.raises(TypeError, match=message):
        jaxnet.check_gradients(square, np.ones(2), **options)
