import os
import pickle
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet
from jaxnet import network, training
from jaxnet.training import program as programs
from jaxnet.training import run as runs
from jaxnet.training.state import all_finite
from tests.helpers import assert_same_bits, compilations, press_ctrl_c_in_call

X = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
T = np.random.default_rng(1).integers(3, size=60).astype(np.int32)
PARAMS = network.init(jax.random.key(0), (4, 5, 3), weight_std=0.5)
METRICS = {"accuracy": network.accuracy, "loss": network.loss}


def fit(*, loss=network.loss, params=PARAMS, train=(X, T), **options):
    return jaxnet.fit(loss, params, train, **{"steps": 50, "batch_size": 10, "progress": False} | options)


def plain_loop(optimizer, batches, *, after=False):
    """The usual Python loop, straight from optax's documentation, as the oracle."""
    params, losses = PARAMS, []
    state = optimizer.init(params)
    for rows in np.asarray(batches):
        value, grads = jax.value_and_grad(network.loss)(params, X[rows], T[rows])
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(network.loss(params, X[rows], T[rows]) if after else value)
    return params, np.array(losses)


@pytest.mark.parametrize(
    "optimizer",
    [optax.lbfgs(), optax.MultiSteps(optax.adam(0.05), 2).gradient_transformation()],
    ids=["lbfgs", "multi"],
)
def test_optimizers_that_ask_for_more_than_the_gradient(optimizer):
    losses = fit(
        optimizer=optimizer, batches=np.tile(np.arange(60), (15, 1)), steps=15, batch_size=60
    ).history.loss
    assert losses[-1] < losses[0] - 0.05


OPTIMIZERS = {
    "sgd": optax.sgd(0.3),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam-cosine": optax.adam(optax.cosine_decay_schedule(0.05, 30)),
    "clip-adamw": optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.01, weight_decay=0.1)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optax_optimizer_trains_as_in_a_plain_loop(optimizer, after):
    batches = training.draw_batches(jax.random.key(7), 0, 30, 10, len(X))
    params, losses = plain_loop(optimizer, batches, after=after)
    result = fit(optimizer=optimizer, key=jax.random.key(7), steps=30, loss_after_update=after)
    np.testing.assert_allclose(result.history.loss, losses, rtol=2e-5)
    for one, other in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_train_step_is_the_step_of_fit():
    optimizer = optax.adam(0.01)
    state = training.init_state(PARAMS, optimizer, jax.random.key(3))
    for step in range(20):
        rows = training.draw_batches(jax.random.key(3), step, 1, 10, len(X))[0]
        state, _ = jaxnet.train_step(state, X[rows], T[rows], loss=network.loss, optimizer=optimizer)
    result = fit(optimizer=optimizer, key=jax.random.key(3), steps=20)
    assert int(state.step) == 20
    for one, other in zip(
        jax.tree.leaves(result.state.opt_state), jax.tree.leaves(state.opt_state), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampling", ["replacement", "shuffle", "blocks"])
def test_a_run_does_not_depend_on_how_it_is_cut(sampling):
    whole = fit(sampling=sampling)
    assert_same_bits(whole.state.params, fit(sampling=sampling, stretch=7).state.params)
    evaluated = fit(sampling=sampling, test=(X, T), metrics=METRICS, eval_every=11)
    assert_same_bits(whole.state, evaluated.state)
    assert_same_bits(whole.history.loss, evaluated.history.loss)


def test_one_compilation_serves_all_stretches_and_the_next_run():
    traces = 0

    def loss(params, x, t):
        nonlocal traces
        traces += 1
        return network.loss(params, x, t) * 1.25

    with compilations() as first:
        fit(loss=loss, steps=12, stretch=6)  # two stretches of equal length
    assert first[0] >= 1
    after_one_run = traces
    params = jax.tree.map(jnp.ones_like, PARAMS)
    with compilations() as second:
        fit(loss=loss, steps=51, stretch=6)  # and nine more, the last of another length
        fit(loss=loss, params=params, steps=12, stretch=6, key=jax.random.key(9))
    assert second == [0] and traces == after_one_run


def test_programs_are_found_again_by_what_they_compute():
    def train(scale, **options):
        def loss(params, x, t):
            return network.loss(params, x, t) * scale

        metrics = {"share": lambda *args: loss(*args) * 0.5}
        return fit(loss=loss, optimizer=optax.adam(0.01), metrics=metrics, steps=20, **options)

    one = train(1.5)
    with compilations() as again:
        other = train(1.5)
        resumed = train(1.5, resume=one)
    assert again == [0]
    assert_same_bits((one.state, one.history), (other.state, other.history))
    assert_same_bits((one.state, one.history), (resumed.state, resumed.history))
    with compilations() as more:
        assert not np.array_equal(train(2.5).history.loss, one.history.loss)
    assert more[0] > 0


def test_a_sweep_of_learning_rates_in_a_loop_compiles_once():
    factory = optax.inject_hyperparams(optax.sgd)
    fit(optimizer=factory(learning_rate=0.01))
    with compilations() as more:
        losses = {float(fit(optimizer=factory(learning_rate=0.1 * i)).history.loss[-1]) for i in range(1, 9)}
    assert more == [0] and len(losses) == 8


def test_losses_that_call_back_do_not_share_a_program():
    def loss(seen):
        def loss(params, x, t):
            jax.debug.callback(seen.append, x[0, 0])
            return network.loss(params, x, t)

        return loss

    one, other = [], []
    fit(loss=loss(one), steps=3)
    fit(loss=loss(other), steps=3)
    jax.effects_barrier()
    assert len(one) == len(other) > 0


def test_programs_are_bounded_in_number():
    for factor in range(3):
        fit(loss=lambda p, x, t, factor=factor: network.loss(p, x, t) * (factor + 2), steps=3)
    assert 0 < len(programs._programs) <= programs._LIMIT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_LIMIT", 2)
        fit(loss=lambda p, x, t: network.loss(p, x, t) * 7, steps=3)
    assert len(programs._programs) == 2


def test_history_is_the_source_schedule():
    states = []
    result = fit(
        test=(X[:20], T[:20]), metrics=METRICS, callbacks=[lambda stretch: states.append(stretch.state)]
    )
    assert result.history.loss.shape == (50,)
    np.testing.assert_array_equal(result.history.eval_step, [0, 6, 12, 18, 24, 30, 36, 42, 48, 49])
    params_after = {int(state.step): state.params for state in states}
    for index, step in enumerate(result.history.eval_step):
        params = params_after[step + 1]
        for name, metric in METRICS.items():
            assert result.history.train[name][index] == pytest.approx(float(metric(params, X, T)), rel=1e-6)
            measured = float(metric(params, X[:20], T[:20]))
            assert result.history.test[name][index] == pytest.approx(measured, rel=1e-6)


def test_what_is_evaluated_by_default():
    assert fit().history.train == {} and len(fit().history.eval_step) == 0
    history = fit(test=(X, T)).history
    assert set(history.train) == set(history.test) == {"loss"}
    history = fit(metrics={"accuracy": network.accuracy}, eval_every=25).history
    assert set(history.train) == {"accuracy"} and history.test == {}
    np.testing.assert_array_equal(history.eval_step, [0, 25, 49])


def test_callbacks_see_every_stretch():
    seen = []
    result = fit(callbacks=[seen.append], stretch=20, metrics=METRICS, eval_every=30)
    assert [int(stretch.state.step) for stretch in seen] == [1, 20, 31, 40, 50]
    np.testing.assert_array_equal(np.concatenate([stretch.loss for stretch in seen]), result.history.loss)
    assert [bool(stretch.train) for stretch in seen if int(stretch.state.step) in (1, 31)] == [True, True]
    assert_same_bits(seen[-1].state, result.state)


@given(st.data())
@settings(deadline=None, max_examples=20)
def test_a_batch_is_a_function_of_key_and_step(data):
    impl = data.draw(st.sampled_from(["threefry2x32", "rbg", "unsafe_rbg"]))
    sampling = data.draw(st.sampled_from(["replacement", "shuffle", "blocks"]))
    examples = data.draw(st.sampled_from([33, 100] if sampling == "blocks" else [1, 7, 40]))
    size = data.draw(st.sampled_from([1, 5])) if sampling == "replacement" or examples > 5 else 1
    first = data.draw(st.integers(0, 100))
    key = jax.random.key(data.draw(st.integers(0, 3)), impl=impl)
    whole = np.asarray(training.draw_batches(key, 0, 110, size, examples, sampling))
    part = np.asarray(training.draw_batches(key, first, 10, size, examples, sampling))
    np.testing.assert_array_equal(part, whole[first : first + 10])
    assert whole.min() >= 0 and whole.max() < examples


@pytest.mark.sampled(12)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 4095, 4096, 50_000])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_seen_among_many(size, dtype, bad, x64):
    largest = jnp.full(size, jnp.finfo(dtype).max, dtype)
    assert all_finite((largest, -largest, jnp.zeros(0, dtype), jnp.arange(3)))
    for at in (0, size // 2, size - 1):
        assert not all_finite((jnp.ones(3), largest.at[at].set(bad)))


def test_batches_with_replacement_are_uniform_and_of_their_key():
    key = jax.random.key(0)
    counts = np.bincount(np.ravel(training.draw_batches(key, 0, 1000, 100, 50)), minlength=50)
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)
    other = training.draw_batches(jax.random.key(1), 0, 1000, 100, 50)
    assert not np.array_equal(other, training.draw_batches(key, 0, 1000, 100, 50))


def test_shuffled_epochs_see_every_example_once_in_a_new_order():
    batches = np.asarray(training.draw_batches(jax.random.key(0), 0, 24, 5, 42, "shuffle")).reshape(3, 8 * 5)
    for epoch in batches:
        assert len(np.unique(epoch)) == 40  # of 42: the remainder is left out
    assert not np.array_equal(batches[0], batches[1])


def test_shuffled_blocks_are_runs_of_examples_each_seen_once_an_epoch():
    batches = np.asarray(training.draw_batches(jax.random.key(0), 0, 3 * 9, 20, 207, "blocks"))
    for epoch in batches.reshape(3, 9 * 20):
        assert len(np.unique(epoch)) == 180  # of 207: six blocks of 32, and nine whole batches of them
        assert np.all((np.diff(epoch) % 207 == 1) | (np.arange(1, 180) % 32 == 0))
    starts = {tuple(sorted(epoch[::32])) for epoch in batches.reshape(3, 180).tolist()}
    assert len(starts) == 3  # an epoch's blocks begin where another's do not


def falling(w, x, t):
    """Falls by the learning rate at each step and is NaN below -4.5."""
    return jnp.where(w < -4.5, jnp.nan, w)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("stretch", [1, 2, 5, 6, 100])
def test_a_loss_that_becomes_nan_stops_with_its_step_and_the_state_before(stretch, after):
    with pytest.raises(
        training.NonFiniteError, match=r"the loss became nan at step (4|5); .result holds"
    ) as caught:
        fit(
            loss=falling,
            params=jnp.float32(0),
            optimizer=optax.sgd(1.0),
            stretch=stretch,
            loss_after_update=after,
        )
    error, result = caught.value, caught.value.result
    expected = 4 if after else 5  # at -5, seen by the update that led there or by the next
    assert isinstance(error, FloatingPointError)
    assert error.step == int(result.state.step) == len(result.history.loss) == expected
    assert float(result.params) == -expected
    np.testing.assert_array_equal(result.history.loss, -np.arange(expected, dtype=np.float32) - after)


def test_parameters_that_become_nan_behind_a_finite_loss():
    def update(updates, count, params=None):
        return {"seen": -updates["seen"], "unseen": jnp.where(count == 3, jnp.nan, 0.0)}, count + 1

    optimizer = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    params = {"seen": jnp.float32(0), "unseen": jnp.float32(1)}
    with pytest.raises(training.NonFiniteError, match="a parameter became non-finite at step 3;") as caught:
        fit(loss=lambda p, x, t: p["seen"], params=params, optimizer=optimizer)
    result = caught.value.result
    assert int(result.state.step) == len(result.history.loss) == 3
    assert {name: float(leaf) for name, leaf in result.params.items()} == {"seen": -3, "unseen": 1}


def test_divergence_at_the_first_step_gives_back_the_start():
    with pytest.raises(training.NonFiniteError, match="the loss became inf at step 0") as caught:
        fit(loss=lambda w, x, t: jnp.exp(w * 1e3), params=jnp.float32(1))
    assert float(caught.value.result.params) == 1 and caught.value.result.history.loss.shape == (0,)


def test_a_bad_label_is_named_with_its_step():
    t = T.copy()
    t[17] = 3
    batches = np.arange(60).reshape(6, 10)
    message = r"in the batch of step 1: labels must be in 0\.\.2, got 3 at index 7"
    with pytest.raises(ValueError, match=message) as caught:
        fit(train=(X, t), batches=batches, steps=None, batch_size=None)
    failure = caught.value.__cause__
    assert isinstance(failure, training.NonFiniteError) and len(failure.result.history.loss) == 1
    assert pickle.loads(pickle.dumps(failure)).step == 1


def test_a_bad_label_that_only_a_metric_sees_is_named():
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got 3"):
        fit(test=(X, T + 1), metrics={"accuracy": network.accuracy})


def test_large_batches_make_short_stretches():
    seen = []
    fit(batch_size=2**18, steps=9, callbacks=[seen.append])
    assert max(len(stretch.loss) for stretch in seen) <= 4


@pytest.mark.parametrize("stretches", [1, 3])
def test_ctrl_c_keeps_what_is_done(stretches):
    count = 0

    def press(stretch):
        nonlocal count
        count += 1
        if count == stretches:
            signal.raise_signal(signal.SIGINT)

    result = fit(callbacks=[press], stretch=5)
    assert result.interrupted
    done = int(result.state.step)
    assert 1 <= done < 50 and len(result.history.loss) == done
    assert_same_bits(result.params, fit(steps=done).params)


@pytest.mark.parametrize("sampling", ["replacement", "shuffle", "blocks"])
@pytest.mark.parametrize("stopped", [1, 13, 22, 50])
def test_an_interrupted_run_resumes_to_the_same_bits(stopped, sampling):
    options = {"optimizer": optax.adam(0.01), "sampling": sampling, "key": jax.random.key(5)}
    options |= {"test": (X[:20], T[:20]), "metrics": METRICS, "eval_every": 7}

    def press(stretch):
        if int(stretch.state.step) >= stopped:
            signal.raise_signal(signal.SIGINT)

    whole = fit(**options, stretch=9)
    part = fit(**options, stretch=1, callbacks=[press])
    assert int(part.state.step) == stopped
    resumed = fit(**options, resume=part)
    assert_same_bits((whole.state, whole.history), (resumed.state, resumed.history))


STOPPING = training.EarlyStopping(patience=3)
# Learns 40 labels that mean nothing, so that the other 20 soon get worse.
OVERFITTING = {
    "train": (X[:40], T[:40]),
    "validation": (X[40:], T[40:]),
    "metrics": METRICS,
    "optimizer": optax.adam(0.03),
    "eval_every": 10,
    "steps": 400,
}


def fit_and_stop_at(step, **options):
    def press(stretch):
        if int(stretch.state.step) >= step:
            signal.raise_signal(signal.SIGINT)

    return fit(**OVERFITTING, **options, stretch=1, callbacks=[press])


def test_early_stopping_gives_back_the_best_parameters():
    whole = fit(**OVERFITTING)
    curve = whole.history.validation["loss"]
    # The rule, by itself: the first evaluation that the next three do not better.
    best = next(i for i in range(len(curve)) if curve[i] == curve[: i + 4].min())
    stopped = fit(**OVERFITTING, early_stopping=STOPPING)
    assert stopped.stopped_early and not stopped.interrupted
    assert int(stopped.state.step) == (best + 3) * 10 + 1 < 400
    np.testing.assert_array_equal(stopped.history.validation["loss"], curve[: best + 4])
    assert (stopped.best.step, stopped.best.value) == (best * 10, curve[best])
    measured = network.loss(stopped.params, *OVERFITTING["validation"])
    assert float(measured) == pytest.approx(float(curve[best]), rel=1e-6)
    assert_same_bits(stopped.params, fit(**OVERFITTING | {"steps": best * 10 + 1}).params)


@pytest.mark.parametrize(
    ("stopping", "expected"),
    [
        (training.EarlyStopping(patience=2), (3, True)),
        (training.EarlyStopping(patience=2, min_delta=0.25), (2, True)),
        (training.EarlyStopping(patience=3), (3, False)),
        (training.EarlyStopping(patience=1, mode="max"), (0, True)),
    ],
)
def test_the_rule_of_early_stopping(stopping, expected):
    values = [3.0, np.nan, 2.0, 1.8, 1.8, np.nan]
    watch = None
    for step, value in enumerate(values):
        watch = runs.watched(watch, (step, {"validation": {"loss": np.float32(value)}}), stopping, ())
    assert (watch.step, watch.waited >= stopping.patience) == expected


@pytest.mark.parametrize("step", [1, 5, 11, 35])
def test_early_stopping_resumes_to_the_same_bits(step):
    whole = fit(**OVERFITTING, early_stopping=STOPPING)
    part = fit_and_stop_at(step, early_stopping=STOPPING)
    assert part.interrupted and int(part.state.step) == step
    resumed = fit(**OVERFITTING, early_stopping=STOPPING, resume=part)
    assert resumed.stopped_early
    assert resumed.best.step == whole.best.step
    assert_same_bits(
        (whole.state, whole.history, whole.params), (resumed.state, resumed.history, resumed.params)
    )
    again = fit(**OVERFITTING, early_stopping=STOPPING, resume=resumed)
    assert again.stopped_early
    assert_same_bits((whole.state, whole.history, whole.params), (again.state, again.history, again.params))


def test_early_stopping_resumes_what_was_trained_without_it_only_from_the_start():
    with pytest.raises(ValueError, match="whose best evaluation is after step 10, got no best"):
        fit(**OVERFITTING, early_stopping=STOPPING, resume=fit_and_stop_at(15))


@pytest.mark.parametrize("call", [1, 2, 4])
def test_ctrl_c_during_an_evaluation_loses_no_line_of_the_history(call, monkeypatch):
    options = OVERFITTING | {"steps": 30, "early_stopping": STOPPING}
    whole = fit(**options)
    module = sys.modules["jaxnet.training.fit"]
    monkeypatch.setattr(module, "compile_evaluate", press_ctrl_c_in_call(call, module.compile_evaluate))
    part = fit(**options)
    assert part.interrupted
    resumed = fit(**options, resume=part)
    assert_same_bits(
        (whole.state, whole.history, whole.params), (resumed.state, resumed.history, resumed.params)
    )


RESUMABLE = fit(steps=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 9}, "steps must be at least the 10 that the run to resume has done, got 9"),
        ({"key": jax.random.key(1)}, "key must be that of the run to resume, or left out"),
        ({"optimizer": optax.adam(0.1)}, "resume must have this run's params and optimizer"),
        (
            {"params": network.init(jax.random.key(0), (4, 6, 3))},
            r"resume.state.params\[0\].weight must be float32\[4, 6\], got float32\[4, 5\]",
        ),
        ({"metrics": METRICS}, r"resume must hold the train metrics \['accuracy', 'loss'\], got \[\]"),
    ],
    ids=["steps", "key", "optimizer", "params", "metrics"],
)
def test_a_result_of_another_run_is_not_resumed(change, message):
    with pytest.raises(ValueError, match=message):
        fit(resume=RESUMABLE, **change)


def test_ctrl_c_from_outside_in_the_middle_of_a_long_run():
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))

    def start_timer_once(stretch):
        if int(stretch.state.step) == len(stretch.loss):
            timer.start()

    result = fit(steps=10_000_000, callbacks=[start_timer_once])
    assert result.interrupted and 0 < int(result.state.step) == len(result.history.loss) < 10_000_000


def test_x_of_any_rank_and_any_pytree():
    x = np.random.default_rng(0).standard_normal((30, 2, 3)).astype(np.float32)
    t = x.sum(axis=(1, 2))

    def loss(params, x, t):
        return jnp.mean((jnp.einsum("nij,ij->n", x, params["w"]) + params["b"][0] - t) ** 2)

    start = {"w": np.zeros((2, 3), np.float32), "b": [0.0]}
    result = jaxnet.fit(loss, start, (x, t), steps=500, batch_size=10, progress=False)
    np.testing.assert_allclose(result.params["w"], 1, atol=1e-3)


def test_float64_where_it_is_on(x64):
    result = fit(train=(X.astype(np.float64), T), params=network.init(jax.random.key(0), (4, 3)))
    assert result.params[0].weight.dtype == result.history.loss.dtype == np.float64


def test_progress_stays_silent_where_stderr_is_no_terminal(capsys):
    fit(progress=True)
    assert capsys.readouterr() == ("", "")


IMPORT = """
import sys, jax
before = dict(jax.config.values)
import jaxnet
assert jax.config.values == before, "import changes jax's configuration"
heavy = {"matplotlib", "sklearn", "pooch", "tqdm", "beartype", "reference_numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_is_light_and_changes_no_configuration():
    subprocess.run([sys.executable, "-c", IMPORT], check=True)


NAN = np.where(np.arange(60)[:, None] == 7, np.nan, X)
BATCHES = np.zeros((3, 2), int)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train": (X, T[:-1])}, ValueError, r"as many inputs as targets, got shapes \[60, 4\] and \[59\]"),
        ({"train": (X[:0], T[:0])}, ValueError, "train must hold at least one example"),
        ({"train": X}, ValueError, r"train must be a pair \(x, t\) of arrays, got ndarray"),
        ({"train": (X, T, T)}, ValueError, r"train must be a pair \(x, t\) of arrays, got tuple of 3"),
        ({"train": (np.ma.masked_less(X, 0), T)}, TypeError, "expected arrays without masked values"),
        ({"early_stopping": 5, "test": (X, T)}, TypeError, "must be a training.EarlyStopping, got 5"),
        (
            {"early_stopping": training.EarlyStopping()},
            ValueError,
            "with metrics, or validation or test data",
        ),
        ({"resume": 3}, TypeError, "resume must be a FitResult, .* got 3"),
        ({"callbacks": print}, TypeError, "callbacks must be a sequence of functions, got <built-in"),
        ({"callbacks": [3]}, TypeError, r"callbacks\[0\] must be a function, got 3"),
        ({"metrics": {"a": 3}}, TypeError, r"metrics\['a'\] must be a function, got 3"),
        ({"loss": 3}, TypeError, "loss must be a function, got 3"),
        ({"eval_parts": "test"}, TypeError, "eval_parts must be a sequence of names, got 'test'"),
        (
            {"params": {"w": np.array(["a"])}},
            TypeError,
            r"params\['w'\] must be an array of numbers, got <U1",
        ),
        ({"train": (np.float32(1), T)}, ValueError, r"got shapes \[\] and \[60\]"),
        ({"train": (NAN, T)}, ValueError, "train inputs must be finite, got NaN or infinity in example 7"),
        ({"train": (X, np.where(T == 1, np.inf, 0))}, ValueError, "train targets must be finite"),
        ({"train": (X, T.astype(float))}, TypeError, "labels must be integers, got float32"),
        ({"train": (X[:, :3], T)}, ValueError, r"x must have shape \[n, 4\] or \[4\], got \[10, 3\]"),
        ({"test": (X, T[:3])}, ValueError, "test must be as many inputs as targets"),
        (
            {"test": (X[:, :3], T)},
            ValueError,
            r"test inputs must have the shape of train inputs, \[4\] each, got \[3\]",
        ),
        ({"params": jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)}, ValueError, "params must be finite"),
        ({"steps": 0}, ValueError, "steps must be positive, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer, got 1.5"),
        ({"batch_size": -1}, ValueError, "batch_size must be positive, got -1"),
        (
            {"batch_size": 33, "sampling": "blocks"},
            ValueError,
            "at most the 60 training examples to shuffle, 32 in whole blocks of 32, got 33",
        ),
        (
            {"batch_size": 61, "sampling": "shuffle"},
            ValueError,
            "at most the 60 training examples to shuffle, got 61",
        ),
        ({"eval_every": 0}, ValueError, "eval_every must be positive, got 0"),
        (
            {"early_stopping": STOPPING, "test": (X, T)},
            ValueError,
            r"early_stopping.part must be one of \['train', 'test'\], got 'validation'",
        ),
        (
            {"early_stopping": training.EarlyStopping("loss", "train"), "metrics": {"m": network.accuracy}},
            ValueError,
            r"early_stopping.metric must be one of \['m'\], got 'loss'",
        ),
        (
            {"early_stopping": training.EarlyStopping(patience=0), "validation": (X, T)},
            ValueError,
            "early_stopping.patience must be positive, got 0",
        ),
        (
            {"early_stopping": training.EarlyStopping(min_delta=-1.0), "validation": (X, T)},
            ValueError,
            r"early_stopping.min_delta must be finite and not negative, got -1",
        ),
        (
            {"early_stopping": training.EarlyStopping(mode="least"), "validation": (X, T)},
            ValueError,
            r"early_stopping.mode must be one of \['min', 'max', 'auto'\], got 'least'",
        ),
        ({"stretch": 0}, ValueError, "stretch must be positive, got 0"),
        ({"sampling": "random"}, ValueError, "'replacement', 'shuffle' or 'blocks', got 'random'"),
        ({"optimizer": "adam"}, TypeError, "an optax gradient transformation, got str"),
        ({"batches": BATCHES + 0.5}, TypeError, "batches must be integer indices, got float64"),
        ({"batches": BATCHES[0]}, ValueError, r"shape \[steps, batch\] and not be empty, got \[2\]"),
        ({"batches": BATCHES[:0]}, ValueError, r"got \[0, 2\]"),
        ({"batches": BATCHES - 1}, ValueError, r"batches must index 0..59, got -1..-1"),
        ({"batches": BATCHES + 60}, ValueError, r"batches must index 0..59, got 60..60"),
        ({"batches": BATCHES}, ValueError, "steps must be 3, as batches has it, or left out, got 50"),
        (
            {"loss": lambda p, x, t: x[:, 0]},
            TypeError,
            r"the loss must return a real scalar, got float32 of shape",
        ),
        (
            {"loss": lambda p, x, t: (x[0, 0], t)},
            TypeError,
            "real scalar, got tuple: has_aux or has_state say",
        ),
        (
            {"metrics": [network.accuracy]},
            TypeError,
            "metrics must be a mapping of names to functions, got list",
        ),
        (
            {"params": {"w": np.arange(3)}},
            TypeError,
            r"params must hold floating-point leaves to train, got params\['w'\] int32",
        ),
        (
            {"train": (X, T.astype(np.int64) + 2**32)},
            ValueError,
            r"train must fit into int32, got 4294967296\.\.4294967298",
        ),
        (
            {"metrics": {"m": lambda p, x, t: x[:, 0]}},
            TypeError,
            r"the metric 'm' must reduce over the examples, got shape \[60\] of 60 train examples",
        ),
        ({"sampling": "x"}, ValueError, "'replacement', 'shuffle' or 'blocks', got 'x'"),
        ({"train": (np.full((3, 2), "a"), T[:3])}, TypeError, "train must be two arrays of numbers"),
    ],
)
def test_bad_input(unchecked, options, error, message):
    with pytest.raises(error, match=message) as caught:
        fit(**options)
    assert "\n" not in str(caught.value)
