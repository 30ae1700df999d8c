"""What else `fit` and `fit_many` take: epochs, weights, state, auxiliary values, tracked values, averages."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.utils.class_weight import compute_class_weight

import jaxnet
from jaxnet import checkpoints, network, training
from jaxnet.training import run
from tests.helpers import assert_same_bits, compilations, stack

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
T = np.r_[np.zeros(40, int), np.ones(15, int), np.full(5, 2)].astype(np.int32)
PARAMS = network.init(jax.random.key(0), (4, 3), weight_std=0.5)
LABELS = np.random.default_rng(1).integers(3, size=60).astype(np.int32)
# A stretch everywhere, so that programs serve several tests.
COMMON = {"steps": 30, "batch_size": 10, "progress": False, "stretch": 5}


def fit(*, loss=network.loss, params=PARAMS, train=(X, T), **options):
    return jaxnet.fit(loss, params, train, **COMMON | options)


def fit_many(*, loss=network.loss, params=None, train=(X, T), **options):
    params = stack(PARAMS, PARAMS) if params is None else params
    return jaxnet.fit_many(loss, params, train, **COMMON | options)


def square(w, x, t):
    return jnp.mean((x @ w - t) ** 2)


def test_epochs_are_steps():
    one, other = fit(epochs=3, steps=None), fit(steps=18)
    assert_same_bits((one.state, one.history), (other.state, other.history))


def plain_loop(optimizer, weight, class_weight):
    @jax.jit
    def step(params, state, x, t, weights):
        def loss(params):
            logits = x @ params[0].weight + params[0].bias
            each = optax.softmax_cross_entropy_with_integer_labels(logits, t)
            return (each * weights).sum() / weights.sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimizer.init(PARAMS)
    for rows in np.asarray(training.draw_batches(jax.random.key(0), 0, 30, 10, 60)):
        params, state = step(params, state, X[rows], T[rows], weight[rows] * class_weight[T[rows]])
    return params


def test_weights_of_examples_and_classes_are_scikit_learns():
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=T)
    np.testing.assert_allclose(training.balanced_class_weight(T), balanced)
    weight = np.random.default_rng(2).random(60).astype(np.float32)
    params = plain_loop(optax.sgd(0.3), weight, balanced.astype(np.float32))
    common = {"sample_weight": weight, "optimizer": optax.sgd(0.3)}
    many = fit_many(class_weight="balanced", **common)
    for given in ("balanced", balanced):
        result = fit(class_weight=given, **common)
        for one, other, both in zip(*map(jax.tree.leaves, (result.params, params, many.params)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(both[1], other, rtol=1e-5, atol=1e-6)


def test_a_loss_of_ones_own_takes_class_weights_by_label():
    def loss(params, x, t, class_weight):
        each = -jnp.take_along_axis(jax.nn.log_softmax(network.logits(params, x)), t[:, None], 1)[:, 0]
        return (each * class_weight[t]).sum() / class_weight[t].sum()

    result, expected = (fit(loss=f, class_weight=[1, 2, 0.5]) for f in (loss, network.loss))
    np.testing.assert_allclose(result.history.loss, expected.history.loss, rtol=1e-5)


def test_early_stopping_knows_of_which_metrics_more_is_better():
    options = {"metrics": {"accuracy": network.accuracy, "loss": network.loss}, "eval_every": 5}
    stops = {
        (metric, mode): fit(**options, early_stopping=training.EarlyStopping(metric, "train", mode=mode))
        for metric in ("accuracy", "loss")
        for mode in ("auto", "min", "max")
    }
    for metric, mode in (("accuracy", "max"), ("loss", "min")):
        assert_same_bits(stops[metric, "auto"].params, stops[metric, mode].params)
    assert float(stops["accuracy", "auto"].best.value) > float(stops["accuracy", "min"].best.value)


def test_a_callback_ends_the_run():
    def at_ten(stretch):
        return "stop" if int(np.max(stretch.state.step)) == 10 else None

    result = fit(callbacks=[at_ten])
    assert result.stopped_early and not result.interrupted and len(result.history.loss) == 10
    whole = fit(resume=result)
    assert_same_bits((whole.state, whole.history), (fit().state, fit().history))
    many = fit_many(callbacks=[at_ten], max_networks=1)
    np.testing.assert_array_equal(many.state.step, [10, 0])
    assert_same_bits(fit_many(max_networks=1, resume=many).state, fit_many(max_networks=1).state)


def confusion(params, x, t):
    return jnp.zeros((3, 3), int).at[t, jnp.argmax(network.logits(params, x), axis=1)].add(1)


@pytest.mark.parametrize("eval_batch", [pytest.param(None, marks=pytest.mark.rest), 7])
def test_a_metric_may_be_an_array(eval_batch, tmp_path):
    options = {"metrics": {"confusion": confusion, "loss": network.loss}, "eval_every": 20}
    options |= {"eval_batch": eval_batch}
    start = training.init_state(PARAMS)
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        result = fit(**options, callbacks=[saver])
        saver.save(result)
    assert result.history.train["confusion"].shape == (3, 3, 3)
    predicted = np.argmax(network.logits(result.params, X), axis=1)
    np.testing.assert_array_equal(result.history.train["confusion"][-1], confusion_matrix(T, predicted))
    assert_same_bits(checkpoints.restore(tmp_path, start).history, result.history)
    header, *_ = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "step,loss,train_loss"
    many = fit_many(**options)
    assert many.history.train["confusion"].shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(many.history.train["confusion"][1], result.history.train["confusion"])


@pytest.mark.rest
def test_an_array_metric_of_a_network_that_diverged_is_nan():
    result = fit_many(
        loss=lambda w, x, t: jnp.where(w < -4.5, jnp.nan, w),
        params=jnp.zeros(2),
        optimizer=optax.sgd,
        hyperparameters={"learning_rate": [0.01, 1.0]},
        metrics={"counts": lambda w, x, t: jnp.array([len(x), 1])},
        eval_every=5,
    )
    counts = result.history.train["counts"]
    np.testing.assert_array_equal(counts[0], [[60, 1]] * len(counts[0]))
    np.testing.assert_array_equal(np.isnan(counts[1, :, 0]), result.history.eval_step >= 5)


def test_learning_rate_and_gradient_norm_are_recorded():
    schedule = optax.cosine_decay_schedule(0.3, 30)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    names = ("learning_rate", "gradient_norm")
    result = fit(optimizer=optimizer, track=names)
    rounding = 0.3 * np.finfo(np.float32).eps  # of 1 + cos, where that is small
    rates = schedule(np.arange(30))
    np.testing.assert_allclose(result.history.aux["learning_rate"], rates, rtol=1e-6, atol=rounding)
    first = training.draw_batches(jax.random.key(0), 0, 1, 10, 60)[0]
    grads = jax.grad(network.loss)(PARAMS, X[first], T[first])
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(grads)))
    assert float(result.history.aux["gradient_norm"][0]) == pytest.approx(float(norm), rel=1e-5)
    assert_same_bits(result.state, fit(optimizer=optimizer).state)
    many = fit_many(optimizer=optimizer, track=names, max_networks=1)
    np.testing.assert_allclose(
        many.history.aux["gradient_norm"][1], result.history.aux["gradient_norm"], rtol=1e-4
    )
    half = fit(optimizer=optimizer, track=names, steps=13)
    assert_same_bits(fit(optimizer=optimizer, track=names, resume=half).history, result.history)
    with pytest.raises(
        ValueError, match=r"recorded \[\] of each step, got \['gradient_norm', 'learning_rate'\]"
    ):
        fit(optimizer=optimizer, resume=half)


@pytest.mark.parametrize("many", [pytest.param(False, marks=pytest.mark.rest), True])
def test_evaluations_and_the_result_are_of_averaged_parameters(many):
    rule = training.averaged(optax.sgd(0.3), 0.9)
    options = {"metrics": {"loss": network.loss}, "eval_every": 30}
    train = fit_many if many else fit
    result, plain = train(optimizer=rule, **options), train(optimizer=optax.sgd(0.3))
    assert_same_bits(result.state.params, plain.state.params)
    params = average = jax.tree.map(np.asarray, PARAMS)
    grad = jax.jit(jax.grad(network.loss))
    for rows in np.asarray(training.draw_batches(jax.random.key(0), 0, 30, 10, 60)):
        grads = jax.device_get(grad(params, X[rows], T[rows]))
        params = jax.tree.map(lambda p, g: p - np.float32(0.3) * g, params, grads)
        average = jax.tree.map(lambda a, p: np.float32(0.9) * a + np.float32(0.1) * p, average, params)
    for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(one[1] if many else one, other, rtol=1e-4, atol=1e-5)
    found = result.history.train["loss"][..., -1]
    np.testing.assert_allclose(found, float(network.loss(average, X, T)), rtol=1e-5)


@pytest.mark.rest
def test_a_run_may_begin_with_the_state_of_an_optimizer():
    optimizer = optax.adam(0.01)
    half = fit(optimizer=optimizer, steps=15, batches=None)
    rows = training.draw_batches(jax.random.key(0), 15, 15, 10, 60)
    rest = fit(
        params=half.params, opt_state=half.state.opt_state, optimizer=optimizer, batches=rows, steps=None,
        batch_size=None,
    )  # fmt: skip
    assert_same_bits(rest.params, fit(optimizer=optimizer).params)


@pytest.mark.rest
def test_the_default_metric_of_a_loss_with_all_of_it():
    """The loss itself, with a fixed key and without its other values."""

    def loss(w, state, x, t, key):
        value = square(w, x, t) + state + 0 * jax.random.normal(key)
        return value, state + 1, {"w": w}

    named = {
        "has_state": True,
        "has_aux": True,
        "train": (X, X.sum(axis=1)),
        "test": (X[:9], X[:9].sum(axis=1)),
    }
    result = fit(loss=loss, params=jnp.zeros(4), state=jnp.float32(0), **named)
    assert float(result.model_state) == 30 and result.history.aux["w"].shape == (30, 4)
    expected = square(result.params, X[:9], X[:9].sum(axis=1)) + 30
    assert float(result.history.test["loss"][-1]) == pytest.approx(float(expected), rel=1e-6)
    state, (value, aux) = jaxnet.train_step(
        training.init_state(jnp.zeros(4), model_state=jnp.float32(7)),
        X, X.sum(axis=1), loss=loss, has_state=True, has_aux=True,
    )  # fmt: skip
    assert float(state.model_state) == 8 and float(value) > 7 and aux["w"].shape == (4,)


def test_large_auxiliary_values_are_held_for_few_steps_at_a_time(monkeypatch):
    def loss(w, x, t):
        return square(w, x, t), {"z": x @ w, "many": jnp.full(1000, x.sum())}

    def trained():
        w, options = jnp.zeros(4), {"loss": loss, "train": (X, X[:, 0]), "has_aux": True, "stretch": None}
        results = fit(params=w, **options), fit_many(params=stack(w, w), **options)
        return [(result.state, result.history) for result in results]

    def cut(*arguments):
        cuts.append(run.longest_cut(*arguments))
        return cuts[-1]

    whole, cuts = trained(), []
    monkeypatch.setattr(run, "_MAX_RECORDED", 20_000)  # of 4,040 bytes a step and network
    for module in ("fit", "many"):
        monkeypatch.setattr(sys.modules[f"jaxnet.training.{module}"], "longest_cut", cut)
    assert_same_bits(whole, trained())
    assert cuts[0] == 4 and cuts[1] in (2, 4)  # of both networks in a program, or of each in its own


def test_a_key_that_may_be_none_is_none_in_evaluations():
    def loss(w, x, t, key=None):
        return square(w, x, t) + (0 if key is None else 100 + jax.random.uniform(key))

    result = fit(loss=loss, params=jnp.zeros(4), train=(X, X[:, 0]), test=(X, X[:, 0]))
    noise = result.history.loss - 100
    assert (noise > 0).all() and len(set(noise.tolist())) == 30
    assert (result.history.train["loss"] < 50).all()


def test_early_stopping_of_each_network_is_that_of_fit(tmp_path):
    stopping = training.EarlyStopping(part="test", patience=2)
    options = {"train": (X[:20], LABELS[:20]), "test": (X[:20], LABELS[:20]), "eval_every": 5, "steps": 60}
    options |= {"early_stopping": stopping, "batch_size": 5, "eval_parts": ["test"]}
    rates = [0.001, 0.5, 20.0]
    params = stack(*[PARAMS] * 3)
    sweep = {"optimizer": optax.sgd, "hyperparameters": {"learning_rate": rates}, "params": params}
    many = fit_many(**options, **sweep)
    for index, rate in enumerate(rates):
        alone = fit(**options, optimizer=optax.sgd(rate))
        done = int(alone.state.step)
        assert (int(many.state.step[index]), many.stopped_early[index]) == (done, alone.stopped_early)
        assert int(many.best.step[index]) == alone.best.step
        np.testing.assert_allclose(many.best.value[index], alone.best.value, rtol=1e-4)
        np.testing.assert_allclose(many.history.loss[index, :done], alone.history.loss, rtol=1e-3, atol=1e-4)
        assert np.isnan(many.history.loss[index, done:]).all()
        for one, other in zip(jax.tree.leaves(many.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-3, atol=1e-4)
    assert 0 < many.stopped_early.sum() < 3
    start = training.init_states(params, optax.sgd, sweep["hyperparameters"])
    for steps in (10, 60):
        with checkpoints.Checkpointer(tmp_path, every=5) as saver:
            resume = saver.restore(start)
            result = fit_many(**options | {"steps": steps}, **sweep, resume=resume, callbacks=[saver])
            saver.save(result)
    assert_same_bits((result.state, result.history, result.best), (many.state, many.history, many.best))
    for other in (None, stopping._replace(patience=3)):
        with pytest.raises(ValueError, match="resume must be of a run with early_stopping"):
            fit_many(**options | {"early_stopping": other}, **sweep, resume=result)


def test_hyperparameters_of_the_loss_and_of_a_schedule():
    def loss(w, x, t, l2):
        return square(w, x, t) + l2 * jnp.sum(w**2)

    def optimizer(peak, decay):
        return optax.sgd(lambda count: peak * decay**count)

    hyper = {"l2": [0.1, 1.0], "peak": [0.1, 0.05], "decay": [0.9, 0.99]}
    options = {"train": (X, X[:, 0]), "metrics": {"square": square}}
    many = fit_many(
        loss=loss, params=jnp.zeros((2, 4)), optimizer=optimizer, hyperparameters=hyper, **options
    )
    for index in (0, 1):
        own = {name: values[index] for name, values in hyper.items()}
        l2 = own.pop("l2")
        alone = fit(
            loss=lambda w, x, t, l2=l2: loss(w, x, t, l2),
            params=jnp.zeros(4),
            optimizer=optimizer(**own),
            **options,
        )
        np.testing.assert_allclose(many.params[index], alone.params, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(many.history.loss[index], alone.history.loss, rtol=1e-4)


@pytest.mark.parametrize("keys", [pytest.param(3, marks=pytest.mark.rest), [3, 4]], ids=["shared", "own"])
def test_each_network_of_many_may_have_rows_of_its_own(keys):
    subsets = np.stack([np.arange(0, 40), np.arange(20, 60)])
    key = jax.random.key(3) if keys == 3 else jnp.stack([jax.random.key(k) for k in keys])
    many = fit_many(subsets=subsets, key=key)
    for index in (0, 1):
        alone = fit(train=(X[subsets[index]], T[subsets[index]]), key=key[index] if key.ndim else key)
        np.testing.assert_allclose(many.history.loss[index], alone.history.loss, rtol=1e-5)


def noisy(w, x, t, key):
    return square(w, x + jax.random.normal(key, x.shape), t)


BATCHES = np.random.default_rng(3).integers(20, size=(30, 10))
OWN = jax.random.split(jax.random.key(8), 2)


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        (OWN, {"batches": BATCHES, "steps": None, "batch_size": None}),
        pytest.param(OWN[0], {"subsets": np.arange(40).reshape(2, 20)}, marks=pytest.mark.rest),
        pytest.param(OWN[0], {}, marks=pytest.mark.rest),
    ],
    ids=["own keys, shared batches", "shared key, own rows", "shared"],
)
def test_each_network_is_given_the_keys_of_fit(keys, options):
    params = np.zeros((2, 4), np.float32)
    many = fit_many(loss=noisy, params=params, train=(X, X[:, 0]), key=keys, **options)
    for index in (0, 1):
        rest = dict(options)
        rows = rest.pop("subsets", np.tile(np.arange(60), (2, 1)))[index]
        key = keys[index] if keys.ndim else keys
        alone = fit(loss=noisy, params=params[index], train=(X[rows], X[rows, 0]), key=key, **rest)
        np.testing.assert_allclose(many.history.loss[index], alone.history.loss, rtol=1e-4)


@jax.custom_jvp
def wrong(x):
    return jnp.tanh(x)


wrong.defjvp(lambda x, dx: (jnp.tanh(x[0]), (1 - jnp.tanh(x[0])) * dx[0]))  # not squared


def checked_loss(w, x, t):
    return jnp.mean((wrong(x @ w) - t) ** 2)


@pytest.mark.parametrize("many", [pytest.param(False, marks=pytest.mark.rest), True])
def test_a_wrong_gradient_is_located_before_training(many):
    train, params = (fit_many, np.full((2, 4), 0.1)) if many else (fit, np.full(4, 0.1))
    with pytest.raises(jaxnet.gradcheck.GradientError, match="FAIL") as caught:
        train(loss=checked_loss, params=params, train=(X, X[:, 0]), check=True)
    line = checked_loss.__code__.co_firstlineno + 1
    assert f"{__file__.rsplit('/', 1)[-1]}:{line}" in str(caught.value)


@pytest.mark.rest
def test_a_right_gradient_is_checked_and_trains():
    assert_same_bits(fit(check=True, steps=5).state, fit(steps=5).state)


def test_a_run_with_a_key_made_afresh_compiles_once():
    def run():
        def loss(w, x, t, key):
            return square(w, x * jax.random.bernoulli(key, 0.5, x.shape), t) * 1.5

        return fit(loss=loss, params=jnp.zeros(4), train=(X, X[:, 0]))

    run()
    with compilations() as found:
        run()
    assert found == [0]


def stateful(value):
    return lambda w, state, x, t: value(w, state, x, t)


STATE = {"mean": jnp.zeros(3)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 2}, ValueError, "epochs must be left out where steps or batches are given, got 2"),
        ({"epochs": 0, "steps": None}, ValueError, "epochs must be positive, got 0"),
        ({"sample_weight": np.ones(59)}, ValueError, r"sample_weight must have shape \[60\], got \[59\]"),
        ({"sample_weight": -np.ones(60)}, ValueError, "sample_weight must be finite, not negative"),
        ({"sample_weight": np.zeros(60)}, ValueError, "not all zero"),
        ({"sample_weight": np.full(60, "a")}, TypeError, "sample_weight must be numbers, got <U1"),
        ({"loss": square, "sample_weight": np.ones(60)}, TypeError, "a loss with a parameter of that name"),
        ({"loss": square, "class_weight": "balanced"}, TypeError, "a loss with a parameter of that name"),
        ({"class_weight": "even"}, ValueError, "class_weight must be 'balanced', got 'even'"),
        ({"class_weight": [1, -1, 1]}, ValueError, "a number for each class, none negative"),
        ({"class_weight": [1, 1]}, ValueError, r"class_weight must have shape \[3\], got \[2\]"),
        ({"class_weight": "balanced", "train": (X, X[:, 0])}, TypeError, "labels must be integers to weigh"),
        (
            {"class_weight": "balanced", "train": (X, None)},
            TypeError,
            r"needs integer labels \[n\] for targets",
        ),
        ({"class_weight": "balanced", "train": (X, T - 1)}, ValueError, "not negative to weigh classes"),
        ({"track": "gradient_norm"}, TypeError, "track must be a sequence of names, got 'gradient_norm'"),
        (
            {"track": ["learning_rate"]},
            ValueError,
            "what the optimizer's state holds once, .* got 'learning_rate'",
        ),
        ({"opt_state": optax.adam(0.1).init(PARAMS)}, ValueError, "opt_state must be one of this optimizer"),
        ({"state": STATE}, ValueError, "state must be given with has_state=True, and only then, got one"),
        ({"has_state": True}, ValueError, "state must be given with has_state=True, and only then, got none"),
        (
            {"has_state": True, "state": {"mean": np.full(3, np.nan)}},
            ValueError,
            "state must be finite, got NaN or infinity",
        ),
        (
            {
                "loss": lambda params, state, x, t: network.loss(params, x, t),
                "has_state": False,
                "state": None,
            },
            TypeError,
            r"the loss must take \(params, x, t\), got one that takes \(params, state, x, t\); with",
        ),
        (
            {"loss": stateful(lambda w, s, x, t: x[0, 0]), "has_state": True, "state": STATE},
            TypeError,
            r"the loss must return \(value, state\), got no tuple",
        ),
        (
            {"loss": stateful(lambda w, s, x, t: (x[0, 0], s, s)), "has_state": True, "state": STATE},
            TypeError,
            r"the loss must return \(value, state\), got 3 values",
        ),
        (
            {
                "loss": stateful(lambda w, s, x, t: (x[0, 0], {"var": s["mean"]})),
                "has_state": True,
                "state": STATE,
            },
            TypeError,
            r"a state of the structure it was given, with leaves \[\"\['mean'\]\"\], got \[\"\['var'\]\"\]",
        ),
        (
            {
                "loss": stateful(lambda w, s, x, t: (x[0, 0], {"mean": x[0]})),
                "has_state": True,
                "state": STATE,
            },
            TypeError,
            r"must return state\['mean'\] as it was given, float32\[3\], got float32\[4\]",
        ),
        ({"has_aux": True}, TypeError, r"the loss must return \(value, aux\), got no tuple"),
        (
            {
                "loss": lambda p, x, t: (x[0, 0], {"gradient_norm": 1}),
                "has_aux": True,
                "track": ["gradient_norm"],
            },
            ValueError,
            r"auxiliary values must not be named as those of track, got \['gradient_norm'\]",
        ),
        (
            {"loss": lambda p, x, t: (x[0, 0], jnp.zeros(2**20)), "has_aux": True, "steps": 2000},
            ValueError,
            "auxiliary values of all steps must take at most 4 GiB, got 7.81 GiB, 4194304 bytes a step",
        ),
        ({"params": {"w": jnp.ones(4), "c": jnp.ones(1, complex)}}, TypeError, r"params\['c'\] must be real"),
        (
            {"params": {"w": jnp.ones(4), "s": {1, 2}}},
            TypeError,
            r"params\['s'\] must be an array or hashable",
        ),
        (
            {"train": ({"a": X, "b": X[:9]}, T)},
            ValueError,
            r"as many inputs as targets, got shapes \[60, 4\] and \[9, 4\] and \[60\]",
        ),
        ({"train": (None, T)}, ValueError, "train must hold at least one example, got no inputs"),
        ({"train": ({"a": X * np.nan}, T)}, ValueError, r"train inputs\['a'\] must be finite, got NaN"),
        ({"test": ({"a": X}, T)}, ValueError, "test inputs must be of the structure of train inputs"),
        (
            {"metrics": {"m": lambda p, x, t: (t, t)}},
            TypeError,
            "the metric 'm' must return a number or an array",
        ),
        (
            {
                "metrics": {"m": confusion},
                "early_stopping": training.EarlyStopping(metric="m", part="train"),
            },
            ValueError,
            r"early_stopping.metric must be of a scalar, got 'm' of shape \[3, 3\]",
        ),
    ],
)
def test_bad_input(unchecked, options, error, message):
    with pytest.raises(error, match=message) as caught:
        fit(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": np.zeros((3, 5), int)}, "subsets must be of 2 networks, got 3"),
        ({"subsets": np.full((2, 5), 60)}, r"subsets must index 0\.\.59, got 60\.\.60"),
        (
            {"subsets": np.zeros((2, 5), int), "batches": np.zeros((3, 2), int)},
            "subsets must be left out where batches are given",
        ),
        (
            {"has_state": True, "state": {"mean": np.zeros(3)}},
            r"state\['mean'\] must be of 2 networks, got shape \[3\]",
        ),
    ],
)
def test_bad_input_of_many(options, message):
    with pytest.raises(ValueError, match=message):
        fit_many(**options)


def test_decay_is_checked():
    with pytest.raises(ValueError, match=r"decay must be between 0 and 1, got 1\.5"):
        training.averaged(optax.sgd(0.1), 1.5)
