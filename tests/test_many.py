import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import network
from jaxnet.training import body, many, program
from jaxnet.training.state import Examples, Objective
from tests.helpers import compilations, press_ctrl_c_in_call, stack

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
T = np.random.default_rng(1).integers(3, size=60).astype(np.int32)
KEYS = jax.random.split(jax.random.key(5), 3)
STARTS = [
    network.init(key, (4, 5, 3), weight_std=std) for key, std in zip(KEYS, (0.1, 0.5, 1.0), strict=True)
]
METRICS = {"accuracy": network.accuracy, "loss": network.loss}
COMMON = {"steps": 40, "batch_size": 10, "progress": False}
EVALUATED = {"test": (X[:20], T[:20]), "metrics": METRICS, "eval_every": 15}


STACKED = stack(*STARTS)


def fit_many(*, loss=network.loss, params=STACKED, train=(X, T), **options):
    return jaxnet.fit_many(loss, params, train, **COMMON | options)


def momentum(learning_rate, momentum, weight_decay):
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=momentum, nesterov=True)
    )


HYPER = {"learning_rate": [0.05, 0.1, 0.3], "momentum": [0.9, 0.5, 0.0], "weight_decay": [0.0, 0.01, 0.1]}


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        (KEYS, {"sampling": "shuffle", "max_networks": 2, "loss_after_update": True}),
        (KEYS[0], {}),
    ],
    ids=["own batches, in groups", "shared batches"],
)
def test_each_network_ends_where_fit_takes_it(keys, options):
    result = fit_many(optimizer=momentum, hyperparameters=HYPER, key=keys, **EVALUATED, **options)
    options.pop("max_networks", None)
    assert not result.diverged.any() and not result.interrupted
    for index in (0, 2):
        alone = jaxnet.fit(
            network.loss,
            STARTS[index],
            (X, T),
            optimizer=momentum(**{name: values[index] for name, values in HYPER.items()}),
            key=keys[index] if keys.ndim else keys,
            **COMMON | EVALUATED | options,
        )
        np.testing.assert_array_equal(result.history.eval_step, alone.history.eval_step)
        own = jax.tree.map(lambda leaf, index=index: leaf[index], (result.state, result.params))
        assert_close(own, (alone.state, alone.params))
        recorded = result.history._replace(eval_step=np.zeros(3))  # the one array that all share
        assert_close(
            jax.tree.map(lambda leaf, index=index: leaf[index], recorded),
            alone.history._replace(eval_step=np.float64(0)),
        )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("keys", [KEYS, KEYS[0]], ids=["own batches", "shared batches"])
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_however_many_cores_and_however_small_their_caches(monkeypatch, lanes, keys):
    """Networks side by side or one after the other, in float64, which is a matter of the caller's thread."""
    monkeypatch.setattr(many, "_num_lanes", lambda: lanes)
    monkeypatch.setattr(many, "_CACHE", 1)
    with jax.enable_x64(True):
        starts = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), STACKED)
        result = fit_many(params=starts, key=keys, optimizer=optax.adam(0.01))
        assert result.history.loss.dtype == result.params[0].weight.dtype == np.float64
        for index in range(3):
            alone = jaxnet.fit(
                network.loss,
                jax.tree.map(lambda leaf, index=index: leaf[index], starts),
                (X, T),
                key=keys[index] if keys.ndim else keys,
                optimizer=optax.adam(0.01),
                **COMMON,
            )
            np.testing.assert_allclose(result.history.loss[index], alone.history.loss, rtol=1e-12)
            for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(alone.params), strict=True):
                np.testing.assert_allclose(one[index], other, rtol=1e-9, atol=1e-12)


def test_a_network_can_be_resumed_by_fit():
    half = fit_many(optimizer=optax.adam(0.01), key=KEYS, steps=20)
    whole = fit_many(optimizer=optax.adam(0.01), key=KEYS)
    state = jax.tree.map(lambda leaf: leaf[1], half.state)
    history = jaxnet.training.History(half.history.loss[1], half.history.eval_step, {}, {}, {})
    resume = jaxnet.training.FitResult(state, history, False, 0.0, 0.0)
    rest = jaxnet.fit(network.loss, STARTS[1], (X, T), optimizer=optax.adam(0.01), resume=resume, **COMMON)
    assert_close(rest.state, jax.tree.map(lambda leaf: leaf[1], whole.state))
    np.testing.assert_allclose(rest.history.loss, whole.history.loss[1], rtol=1e-4)


def test_shared_batches_make_one_wide_product():
    """The first layer's weights of all networks meet the batch in one matrix product, not in three."""
    state = many.TrainState(stack(*STARTS), optax.sgd(0.1).init(STARTS[0]), jnp.zeros(3, jnp.int32), KEYS[0])
    rows = jnp.zeros((5, 10), jnp.int32)
    settings = {"loss": Objective(network.loss), "optimizer": optax.sgd(0.1), "at_once": 3}
    settings |= {"kind": "any", "loss_after_update": False}
    examples = Examples(X, T)
    found = program.program(body.run_stretch, state, jnp.int32(5), rows, {}, examples, **settings)
    assert "f32[15,10]" in found.result().as_text().replace(" ", "")  # 3 of 5 hidden units, 10 examples


def falls(w, x, t):
    """Falls by the learning rate at each step and is NaN below -4.5."""
    return jnp.where(w < -4.5, jnp.nan, w)


@pytest.mark.parametrize("max_networks", [None, 1])
def test_a_network_that_diverges_leaves_the_others_alone(max_networks):
    rates = {"learning_rate": [0.01, 1.0, 0.5, 0.02]}
    result = fit_many(
        loss=falls,
        params=jnp.zeros(4),
        optimizer=optax.sgd,
        hyperparameters=rates,
        metrics={"w": lambda w, x, t: w},
        eval_every=4,
        max_networks=max_networks,
    )
    np.testing.assert_array_equal(result.diverged, [False, True, True, False])
    np.testing.assert_array_equal(result.state.step, [40, 5, 10, 40])
    np.testing.assert_allclose(result.params, [-0.4, -5, -5, -0.8], rtol=1e-5)
    assert result.history.loss.shape == (4, 40)
    np.testing.assert_allclose(result.history.loss[1], [0, -1, -2, -3, -4] + 35 * [np.nan])
    np.testing.assert_allclose(result.history.loss[0], -0.01 * np.arange(40), atol=1e-6)
    np.testing.assert_array_equal(result.history.eval_step, [*range(0, 40, 4), 39])
    np.testing.assert_allclose(result.history.train["w"][2], [-0.5, -2.5, -4.5] + 8 * [np.nan])


def test_parameters_that_become_nan_behind_a_finite_loss():
    def factory(at):
        def update(updates, count, params=None):
            return {"seen": -updates["seen"], "unseen": jnp.where(count == at, jnp.nan, 0.0)}, count + 1

        return optax.GradientTransformation(lambda params: jnp.int32(0), update)

    params = {"seen": jnp.zeros(2), "unseen": jnp.ones(2)}
    hyper = {"at": np.array([3, 100])}
    result = fit_many(loss=lambda p, x, t: p["seen"], params=params, optimizer=factory, hyperparameters=hyper)
    np.testing.assert_array_equal(result.state.step, [3, 40])
    np.testing.assert_array_equal(result.params["seen"], [-3, -40])
    np.testing.assert_array_equal(np.isnan(result.history.loss).sum(axis=1), [37, 0])


def test_all_diverge():
    result = fit_many(loss=lambda w, x, t: jnp.exp(w * 1e3), params=jnp.ones(2))
    assert result.diverged.all() and np.isnan(result.history.loss).all()
    np.testing.assert_array_equal(result.params, 1)


def test_ctrl_c_keeps_what_is_done(monkeypatch):
    options = {"metrics": METRICS, "eval_every": 15}
    whole = fit_many(max_networks=1, **options)
    # After four evaluations of the first group, in the second of the second's.
    monkeypatch.setattr(many, "compile_evaluate", press_ctrl_c_in_call(6, many.compile_evaluate))
    part = fit_many(max_networks=1, **options)
    assert part.interrupted and not part.diverged.any()
    np.testing.assert_array_equal(part.state.step, [40, 1, 0])
    np.testing.assert_array_equal(part.history.loss[0], whole.history.loss[0])
    np.testing.assert_array_equal(part.history.loss[1:, 0], [whole.history.loss[1, 0], np.nan])
    assert np.isnan(part.history.loss[1:, 1:]).all()
    accuracies = part.history.train["accuracy"]
    np.testing.assert_array_equal(accuracies[0], whole.history.train["accuracy"][0])
    np.testing.assert_array_equal(np.isnan(accuracies), [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    for one, start in zip(jax.tree.leaves(part.params), jax.tree.leaves(stack(*STARTS)), strict=True):
        np.testing.assert_array_equal(one[2], start[2])


def test_one_compilation_serves_all_groups_and_the_next_sweep():
    def sweep(rate, loss):
        rates = {"learning_rate": np.full(4, rate)}
        params = stack(*STARTS, STARTS[0])
        fit_many(loss=loss, params=params, optimizer=optax.sgd, hyperparameters=rates, max_networks=2)

    sweep(1.0, lambda params, x, t: network.loss(params, x, t) * 1.25)
    with compilations() as found:
        sweep(0.5, lambda params, x, t: network.loss(params, x, t) * 1.25)
    assert found == [0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"params": STARTS[0]},
            ValueError,
            r"the networks on every leaf's first axis, got shapes \['\[3\]', ",
        ),
        (
            {"params": jnp.float32(1)},
            ValueError,
            r"the networks on every leaf's first axis, got shapes \['\[\]'\]",
        ),
        ({"key": KEYS[:2]}, ValueError, r"one of jax.random.key, or 3 of them, got key<fry>\[2\]"),
        ({"key": jnp.zeros((2, 2), jnp.uint32)}, ValueError, r"got key<fry>\[2\]"),
        ({"key": jnp.zeros(2)}, TypeError, r"key must be of jax.random.key or PRNGKey, or a seed, got Array"),
        (
            {"hyperparameters": {"learning_rate": [1.0]}},
            ValueError,
            "one value for each of 3 networks, got shape",
        ),
        ({"hyperparameters": {"learning_rate": ["a"] * 3}}, TypeError, "must be numbers, got <U1"),
        ({"hyperparameters": {"learning_rate": [0, np.nan, 1]}}, ValueError, "must be finite, got"),
        ({"hyperparameters": [1]}, TypeError, "must be a mapping of names to arrays, got list"),
        (
            {"hyperparameters": {"learning_rate": np.ones(3)}, "optimizer": optax.sgd(1.0)},
            TypeError,
            "GradientTr",
        ),
        ({"hyperparameters": {"rate": np.ones(3)}}, TypeError, "unexpected keyword argument 'rate'"),
        ({"optimizer": optax.sgd}, TypeError, "an optax gradient transformation, got function"),
        ({"max_networks": 0}, ValueError, "max_networks must be positive, got 0"),
        ({"train": (X, T + 1)}, ValueError, r"in the batch of step 0: labels must be in 0\.\.2, got 3"),
        ({"steps": 0}, ValueError, "steps must be positive, got 0"),
        (
            {"metrics": {"m": lambda p, x, t: x[:, 0]}},
            TypeError,
            r"the metric 'm' must reduce over the examples, got shape \[60\] of 60 train examples",
        ),
    ],
)
def test_bad_input(unchecked, options, error, message):
    if "hyperparameters" in options:
        options = {"optimizer": optax.sgd} | options
    with pytest.raises(error, match=message) as caught:
        fit_many(**options)
    assert "\n" not in str(caught.value)
