"""What is promised of every run: nothing lost, nothing taken for finite that is not, strict modes, memory."""

import logging
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import checkpoints, metrics, network, training
from jaxnet.training import body, program
from jaxnet.training import run as runs
from jaxnet.training.state import Examples, Measure
from tests.helpers import assert_same_bits, stack

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
T = np.random.default_rng(1).integers(3, size=60).astype(np.int32)
PARAMS = network.init(jax.random.key(0), (4, 5, 3), weight_std=0.5)
METRICS = {"accuracy": network.accuracy, "loss": network.loss}
COMMON = {"steps": 50, "batch_size": 10, "progress": False}


def fit(*, loss=network.loss, params=PARAMS, train=(X, T), **options):
    return jaxnet.fit(loss, params, train, **COMMON | options)


def fit_many(*, loss=network.loss, params=None, train=(X, T), **options):
    params = stack(PARAMS, PARAMS) if params is None else params
    return jaxnet.fit_many(loss, params, train, **COMMON | options)


# The end


def test_the_end_is_evaluated_and_may_be_the_best():
    stopping = training.EarlyStopping(part="test", patience=100)
    result = fit(test=(X, T), eval_every=20, early_stopping=stopping, optimizer=optax.sgd(0.5))
    np.testing.assert_array_equal(result.history.eval_step, [0, 20, 40, 49])
    last = float(network.loss(result.state.params, X, T))
    assert float(result.history.test["loss"][-1]) == pytest.approx(last, rel=1e-6)
    assert (result.best.step, result.scheduled.step) == (49, 40) and not result.stopped_early
    assert_same_bits(result.params, result.state.params)


def test_going_on_from_an_end_that_was_evaluated_is_the_run_never_ended():
    stopping = training.EarlyStopping(part="test", patience=3)
    options = {
        "test": (X[:20], T[:20]),
        "eval_every": 20,
        "early_stopping": stopping,
        "optimizer": optax.adam(0.1),
    }
    whole = fit(steps=400, **options)
    assert whole.stopped_early
    for cut in (1, 30, 41, 50, 61):
        part = fit(steps=cut, **options)
        resumed = fit(steps=400, resume=part, **options)
        assert_same_bits(
            (whole.state, whole.history, whole.best, whole.scheduled),
            (resumed.state, resumed.history, resumed.best, resumed.scheduled),
        )


def test_resuming_what_early_stopping_ended_says_so(caplog):
    stopping = training.EarlyStopping(part="train", patience=1, mode="max")
    options = {"metrics": METRICS, "eval_every": 10, "early_stopping": stopping}
    ended = fit(**options)
    assert ended.stopped_early and not caplog.records
    with caplog.at_level(logging.WARNING):
        assert fit(**options, resume=ended).stopped_early
    assert "ended by early stopping after 11 steps: a longer patience goes on" in caplog.text
    patient = options | {"early_stopping": stopping._replace(patience=100)}
    assert int(fit(**patient, resume=ended).state.step) == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 20}, "resume must be of a run with batch_size 20, got 10"),
        ({"sampling": "shuffle"}, "resume must be of a run with sampling 'shuffle', got 'replacement'"),
        ({"loss_after_update": True}, "resume must be of a run with loss_after_update True, got False"),
        ({"on_nonfinite": "continue"}, "resume must be of a run with on_nonfinite 'continue', got 'stop'"),
    ],
)
@pytest.mark.parametrize("train", [fit, fit_many])
def test_a_run_of_other_settings_is_not_resumed(train, change, message):
    with pytest.raises(ValueError, match=message):
        train(resume=train(steps=5), **change)


# Many networks


@pytest.mark.sampled(2)
@pytest.mark.parametrize("keys", [3, [3, 4]], ids=["shared batches", "own batches"])
@pytest.mark.parametrize("stopped", [1, 13, 30])
def test_many_networks_resume_to_the_same_bits(keys, stopped):
    key = jax.random.key(keys) if keys == 3 else jnp.stack([jax.random.key(k) for k in keys])
    options = {"test": (X, T), "metrics": METRICS, "eval_every": 7, "optimizer": optax.adam(0.01), "key": key}
    whole = fit_many(**options)
    resumed = fit_many(**options | {"key": None}, resume=fit_many(**options, steps=stopped))
    assert_same_bits((whole.state, whole.history), (resumed.state, resumed.history))


def test_what_diverges_does_not_touch_the_bits_of_the_others():
    options = {"loss": partial(network.loss, activation="relu"), "optimizer": optax.adam}
    options |= {"eval_every": 9, "metrics": METRICS}
    both = fit_many(hyperparameters={"learning_rate": [0.01, 1e30]}, **options)
    np.testing.assert_array_equal(both.diverged, [False, True])
    healthy = fit_many(hyperparameters={"learning_rate": [0.01, 0.01]}, **options)
    first = [jax.tree.map(lambda leaf: leaf[0], result.state) for result in (both, healthy)]
    assert_same_bits(*first)
    np.testing.assert_array_equal(both.history.loss[0], healthy.history.loss[0])
    step = int(both.state.step[1])
    assert np.isfinite(both.history.loss[1, :step]).all() and np.isnan(both.history.loss[1, step:]).all()


def test_callbacks_of_many_networks_see_every_stretch():
    seen = []
    result = fit_many(callbacks=[seen.append], stretch=20, metrics=METRICS, eval_every=30, max_networks=1)
    assert [int(told.state.step[0]) for told in seen] == [1, 20, 31, 40, 50] * 2
    for group in (0, 1):
        losses = np.concatenate([told.loss for told in seen[5 * group : 5 * group + 5]], axis=1)
        np.testing.assert_array_equal(losses, result.history.loss[group : group + 1])
    assert_same_bits(seen[-1].result().history, result.history)


def test_many_networks_take_batches():
    batches = np.random.default_rng(2).integers(60, size=(30, 7))
    options = {"batches": batches, "steps": None, "batch_size": None}
    result, alone = fit_many(**options), fit(**options)
    np.testing.assert_allclose(result.history.loss[1], alone.history.loss, rtol=1e-5)


# Finite or not

SIZES = [1, 4095, 4096, 50_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_in_data_or_params_is_refused(size, bad):
    x, params = np.ones((2, size), np.float32), np.ones(size, np.float32)

    def loss(w, x, t):
        return jnp.mean(x * w) + jnp.mean(t)

    wrong = x.copy()
    wrong[1, -1] = bad
    for train, many in ((jaxnet.fit, False), (jaxnet.fit_many, True)):
        start = np.stack([params, params]) if many else params
        with pytest.raises(ValueError, match="train inputs must be finite, got NaN or infinity in example 1"):
            train(loss, start, (wrong, np.zeros(2)), steps=1, progress=False)
        with pytest.raises(ValueError, match="params must be finite, got NaN or infinity"):
            start[..., size // 2] = bad
            train(loss, start, (x, np.zeros(2)), steps=1, progress=False)


@pytest.mark.parametrize("size", SIZES)
def test_one_parameter_that_becomes_nan_ends_the_run_before_it(size):
    def update(updates, count, params=None):
        return updates.at[size // 2].set(jnp.where(count == 3, jnp.nan, 1.0)), count + 1

    def loss(w, x, t):
        return jnp.sum(w[:0]) + jnp.mean(x)

    optimizer = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    data = np.ones((4, 2), np.float32), np.ones(4)
    with pytest.raises(training.NonFiniteError, match="a parameter became non-finite at step 3") as caught:
        jaxnet.fit(loss, jnp.zeros(size), data, optimizer=optimizer, steps=9, progress=False)
    assert np.isfinite(caught.value.result.params).all() and int(caught.value.result.state.step) == 3
    many = jaxnet.fit_many(loss, jnp.zeros((2, size)), data, optimizer=optimizer, steps=9, progress=False)
    assert many.diverged.all() and np.isfinite(many.params).all()
    np.testing.assert_array_equal(many.state.step, 3)


@pytest.mark.parametrize("size", [pytest.param(n, marks=[pytest.mark.rest] * (n < 4096)) for n in SIZES])
def test_one_nan_in_a_metric_or_on_disk_is_still_there(size, tmp_path):
    x = np.ones((size, 1), np.float32)
    metrics = {"worst": lambda w, x, t: jnp.mean(jnp.where(t == size // 2, jnp.nan, x[:, 0]))}

    def loss(w, x, t):
        return jnp.mean(w)

    train = {
        "train": (x, np.arange(size)),
        "metrics": metrics,
        "steps": 1,
        "batch_size": 1,
        "progress": False,
    }
    result = jaxnet.fit(loss, jnp.zeros(size), **train)
    many = jaxnet.fit_many(loss, jnp.zeros((2, size)), **train)
    assert np.isnan(result.history.train["worst"]).all() and np.isnan(many.history.train["worst"]).all()

    def update(updates, count, params=None):
        return updates.at[size // 2].set(jnp.nan), count

    optimizer = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    options = train | {"optimizer": optimizer, "on_nonfinite": "continue", "metrics": None}
    with checkpoints.Checkpointer(tmp_path, every=1) as saver:
        lost = jaxnet.fit(loss, jnp.zeros(size), **options, callbacks=[saver])
    back = checkpoints.restore(tmp_path, training.init_state(jnp.zeros(size), optimizer, 0))
    np.testing.assert_array_equal(np.isnan(back.params), np.arange(size) == size // 2)
    assert_same_bits(lost.params, back.params)


def test_a_run_may_go_on_where_something_is_not_finite():
    """A loss of NaN in one batch, which `apply_if_finite` leaves out."""
    x = X.copy()
    batches = np.arange(60).reshape(6, 10)

    def loss(params, x, t):
        return network.loss(params, x, t) * jnp.where(x[0, 0] == X[20, 0], jnp.nan, 1.0)

    options = {"optimizer": optax.apply_if_finite(optax.sgd(0.5), 3), "batches": batches, "train": (x, T)}
    options |= {"steps": None, "batch_size": None, "loss": loss}
    with pytest.raises(training.NonFiniteError, match="the loss became nan at step 2"):
        fit(**options)
    result = fit(**options, on_nonfinite="continue")
    np.testing.assert_array_equal(np.isnan(result.history.loss), np.arange(6) == 2)
    without = fit(
        batches=np.delete(batches, 2, axis=0), optimizer=optax.sgd(0.5), steps=None, batch_size=None
    )
    for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(without.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    many = fit_many(**options, on_nonfinite="continue")
    assert not many.diverged.any() and np.isfinite(many.params[0].weight).all()


# Optimizers that ask for something


def plain_loop(step, batches):
    params = PARAMS
    for i, rows in enumerate(np.asarray(batches)):
        params = step(i, params, X[rows], T[rows])
    return params


def sharpness_aware(opaque):
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    return optax.contrib.sam(optax.sgd(0.1), adversary, sync_period=2, opaque_mode=opaque)


@pytest.mark.parametrize("opaque", [True, False])
def test_sharpness_aware_minimization_trains_as_in_a_plain_loop(opaque):
    optimizer = sharpness_aware(opaque)
    state = optimizer.init(PARAMS)

    def step(i, params, x, t):
        nonlocal state

        def grad_fn(params, _):
            return jax.grad(network.loss)(params, x, t)

        extra = {"grad_fn": grad_fn} if opaque else {}
        updates, state = optimizer.update(grad_fn(params, 0), state, params, **extra)
        return optax.apply_updates(params, updates)

    key = jax.random.key(4)
    expected = plain_loop(step, training.draw_batches(key, 0, 20, 10, len(X)))
    result = fit(optimizer=sharpness_aware(opaque), key=key, steps=20)
    for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_lookahead_trains_as_in_a_plain_loop():
    def optimizer():
        return optax.lookahead(optax.sgd(0.3), sync_period=3, slow_step_size=0.5)

    start = optax.LookaheadParams.init_synced(PARAMS)
    rule, key = optimizer(), jax.random.key(4)
    params, state = start, rule.init(start)
    for rows in np.asarray(training.draw_batches(key, 0, 20, 10, len(X))):
        grads = jax.grad(network.loss)(params.fast, X[rows], T[rows])
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    result = fit(
        loss=lambda p, x, t: network.loss(p.fast, x, t),
        params=start,
        optimizer=optimizer(),
        key=key,
        steps=20,
    )
    for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match=r"optax\.LookaheadParams\.init_synced"):
        fit(optimizer=optimizer())


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.schedule_free_sgd(0.3),
        optax.contrib.schedule_free_adamw(0.1),
        optax.chain(optax.sgd(0.3), optax.contrib.reduce_on_plateau(patience=2)),
        optax.polyak_sgd(),
        optax.contrib.muon(0.1),
    ],
)
def test_rules_with_a_state_of_their_own_learn(optimizer):
    losses = fit(
        optimizer=optimizer, batches=np.tile(np.arange(60), (25, 1)), steps=25, batch_size=60
    ).history.loss
    assert losses[-1] < losses[0] - 0.03


# Strict modes of JAX

STRICT = {
    "NaN": lambda: jax.debug_nans(True),
    "transfers": lambda: jax.transfer_guard("disallow"),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
}


@pytest.mark.parametrize("mode", STRICT.values(), ids=STRICT)
@pytest.mark.parametrize("train", [fit, fit_many])
def test_a_healthy_run_passes_the_strict_modes(train, mode):
    options = {"test": (X, T), "metrics": METRICS, "eval_every": 20, "optimizer": optax.adam(0.01)}
    stopping = {"early_stopping": training.EarlyStopping(part="test")} if train is fit else {}
    expected = train(**options, **stopping)
    with mode():
        result = train(**options, **stopping, sampling="replacement")
        train(**options, **stopping, sampling="shuffle")
        resumed = train(**options, **stopping, resume=train(**options | {"steps": 30}, **stopping))
    assert_same_bits(expected.state, result.state)
    assert_same_bits((expected.state, expected.history), (resumed.state, resumed.history))


def test_a_sweep_in_which_one_diverges_passes_the_guard_of_transfers():
    with jax.transfer_guard("disallow"):
        loss = partial(network.loss, activation="relu")
        result = fit_many(loss=loss, optimizer=optax.sgd, hyperparameters={"learning_rate": [0.1, 1e30]})
    np.testing.assert_array_equal(result.diverged, [False, True])


# Keys


@pytest.mark.parametrize("key", [0, np.int64(0), jax.random.PRNGKey(0), np.zeros(2, np.uint32)])
@pytest.mark.parametrize("train", [fit, fit_many])
def test_a_seed_or_an_old_key_is_the_key_that_is_meant(train, key):
    assert_same_bits(train(key=key, steps=5).history.loss, train(key=jax.random.key(0), steps=5).history.loss)


@pytest.mark.parametrize("key", ["0", 0.5, True, jnp.zeros(2)])
@pytest.mark.parametrize("train", [fit, fit_many])
def test_what_is_no_key_is_refused(unchecked, train, key):
    with pytest.raises(
        TypeError, match=r"key must be of jax.random.key or PRNGKey, or a seed, got "
    ) as caught:
        train(key=key)
    assert "\n" not in str(caught.value)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sampling", ["replacement", "shuffle"])
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_a_run_with_another_kind_of_key_does_not_depend_on_how_it_is_cut(impl, sampling):
    options = {"key": jax.random.key(3, impl=impl), "sampling": sampling}
    whole, cut = fit(**options), fit(**options, stretch=7)
    assert_same_bits((whole.state, whole.history), (cut.state, cut.history))
    resumed = fit(**options, resume=fit(**options, steps=23))
    assert_same_bits((whole.state, whole.history), (resumed.state, resumed.history))
    many = fit_many(**options | {"key": jnp.stack([options["key"], jax.random.key(4, impl=impl)])})
    np.testing.assert_allclose(many.history.loss[0], whole.history.loss, rtol=1e-5)


# Evaluation


def root_mean_square(params, x, t):
    """No mean over examples."""
    return jnp.sqrt(jnp.mean((network.logits(params, x)[:, 0] - t) ** 2))


@pytest.mark.parametrize("eval_batch", [pytest.param(7, marks=pytest.mark.rest), 1000])
def test_evaluating_a_few_examples_at_a_time_is_evaluating_all(eval_batch):
    metrics = METRICS | {"rms": root_mean_square, "count": lambda p, x, t: jnp.float32(len(x))}
    options = {"metrics": metrics, "test": (X[:13], T[:13]), "eval_every": 20}
    for train in (fit, fit_many):
        whole, parts = train(**options, eval_batch=10_000), train(**options, eval_batch=eval_batch)
        for part in ("train", "test"):
            for name in metrics:
                one, other = (getattr(result.history, part)[name] for result in (whole, parts))
                np.testing.assert_allclose(one, other, rtol=2e-6)


def test_a_metric_that_is_a_mean_on_the_first_examples_alone_is_evaluated_on_all():
    x = np.repeat(np.float32([[1, 0], [0, 1]]), 20, axis=0)  # the first twenty are predicted right
    t = np.r_[np.ones(20, int), np.tile([0, 1], 10)]
    params = (network.Dense(jnp.float32([[0, 1], [1, 0]]), jnp.zeros(2)),)
    found = metrics.of(network.predict, "recall", "precision")
    options = {"params": params, "train": (x, t), "metrics": found, "steps": 1, "optimizer": optax.sgd(0.0)}
    for train in (fit, fit_many):
        one = {} if train is fit else {"params": jax.tree.map(lambda leaf: leaf[None], params)}
        result = train(**options | one, batch_size=4, eval_batch=10)
        np.testing.assert_allclose(np.ravel(result.history.train["recall"])[-1], 20 / 30, rtol=1e-6)


def test_a_metric_with_large_arrays_is_evaluated_in_chunks_of_bounded_memory():
    x = np.zeros((4000, 28, 28, 1), np.float32)

    def metric(kernel, x, t):
        convolved = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jnp.tanh(convolved)) + jnp.mean(t)

    kernel, examples = jnp.ones((5, 5, 1, 32)), Examples(jnp.asarray(x), jnp.zeros(4000))
    chunk = program.chunk_of(Measure(metric), (kernel, ()), examples)
    assert 500 < chunk <= 2**26 // (28 * 28 * 32 * 4)
    settings = {"metrics": (("m", Measure(metric)),), "many": False, "kind": "steps"}
    programs = [
        program.program(body.evaluate, (kernel, ()), examples, chunk=n, **settings) for n in (4000, chunk)
    ]
    whole, parts = (found.result().memory_analysis().temp_size_in_bytes for found in programs)
    assert parts < 2**29 < 2 * whole


def test_the_parts_to_evaluate_are_a_choice(unchecked):
    history = fit(test=(X, T), validation=(X, T), metrics=METRICS, eval_parts=["test"]).history
    assert set(history.test) == set(METRICS) and history.train == history.validation == {}
    with pytest.raises(ValueError, match="eval_parts must be 'train', got 'test'"):
        fit(metrics=METRICS, eval_parts=["test"])
    with pytest.raises(ValueError, match=r"early_stopping.part must be one of \['test'\], got 'train'"):
        stopping = training.EarlyStopping(part="train")
        fit(metrics=METRICS, test=(X, T), eval_parts=["test"], early_stopping=stopping)
    with pytest.raises(ValueError, match="eval_batch must be positive, got 0"):
        fit(metrics=METRICS, eval_batch=0)
    with pytest.raises(ValueError, match="on_nonfinite must be 'stop' or 'continue', got 'go'"):
        fit(on_nonfinite="go")


# Progress


def test_a_notebook_gets_a_bar_of_its_own(monkeypatch, capsys):
    shown = []

    class Bar:
        disable = False

        def __init__(self, **options):
            shown.append(options["total"])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            shown.append("closed")

        def update(self, num_steps):
            shown.append(num_steps)

        def set_postfix(self, values, refresh):
            assert float(values["loss"]) > 0 and float(values["train accuracy"]) >= 0

    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    fit(progress=True, metrics=METRICS)
    assert shown[0] == 50 and shown[-1] == "closed" and sum(shown[1:-1]) == 50


def test_no_stderr_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert int(fit(progress=True).state.step) == 50


def test_pieces_of_a_history_stay_few():
    run = runs.Run(training.init_state(PARAMS), np.array(True))
    settings = dict.fromkeys(("batches", "batch_size", "metrics", "eval_every", "eval_parts", "eval_batch"))
    settings |= {
        "sampling": "replacement",
        "on_nonfinite": "stop",
        "loss_after_update": False,
        "stretch": None,
    }
    task = jaxnet.training.task.check_task(network.loss, {"train": (X, T)}, steps=1000, **settings)

    def train(state, first, num_steps):
        record = body.Record(np.arange(first, first + num_steps, dtype=np.float32), {})
        return state, record, np.array(True)

    for _ in range(1000):
        run, _ = runs._extended(run, train, 1, task)
        assert len(run.records) <= 10
    np.testing.assert_array_equal(runs.history_of(run, task).loss, np.arange(1000))
