"""Models of several kinds, each trained as in a plain loop, resumed bit for bit, and in many as alone."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn import datasets as sklearn_datasets
from sklearn.model_selection import KFold
from sklearn.utils.class_weight import compute_sample_weight

import jaxnet
from jaxnet import checkpoints, network, training
from tests.helpers import assert_same_bits

LABELS = np.random.default_rng(0).integers(3, size=40)
STEPS = 50


class Model(NamedTuple):
    loss: Any
    params: Any
    train: Any
    state: Any = None
    has_aux: bool = False
    keyed: bool = False
    named: Any = ()

    def options(self):
        named = dict(self.named) if self.state is None else {"has_state": True, "state": self.state}
        return named | {"has_aux": self.has_aux, "optimizer": optax.adam(0.01), "batch_size": 8}


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def is_key(leaf):
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def cross_entropy(logits, t):
    return optax.softmax_cross_entropy_with_integer_labels(logits, t).mean()


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        # A bias would be nothing there but rounding, which Adam makes larger.
        x = nn.Dense(6, use_bias=False, param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=jnp.float64)(x)
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(x))
        return nn.Dense(3, param_dtype=jnp.float64)(x)


def flax():
    """Batch norm and dropout."""
    module, x = Normed(), normal(40, 4)
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), x[:2])

    def loss(params, state, x, t, key):
        logits, state = module.apply(
            {"params": params, **state}, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return cross_entropy(logits, t), state

    # Flax makes them in float32, and the first step would turn them into float64.
    state = jax.tree.map(np.float64, {"batch_stats": variables["batch_stats"]})
    return Model(loss, variables["params"], (x, LABELS), state, keyed=True)


def equinox():
    """A convolutional model, handed over whole, its functions among the leaves."""

    @eqx.filter_jit
    def init(key):
        first, last = jax.random.split(key)
        layers = [eqx.nn.Conv2d(1, 2, 3, key=first), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(jnp.ravel)]
        return eqx.nn.Sequential([*layers, eqx.nn.Linear(18, 3, key=last)])

    model = init(jax.random.key(1))

    def loss(model, x, t):
        return cross_entropy(jax.vmap(model)(x), t)

    return Model(loss, model, (normal(40, 1, 5, 5), LABELS))


def recurrent():
    """A recurrent network, a step for each element of a sequence."""
    params = {"inner": normal(5, 5) / 2, "outer": normal(2, 5) / 2, "out": normal(5, 1) / 2}

    def loss(params, x, t):
        def step(hidden, x):
            return jnp.tanh(hidden @ params["inner"] + x @ params["outer"]), None

        hidden, _ = jax.lax.scan(step, jnp.zeros((len(x), 5)), x.swapaxes(0, 1))
        return jnp.mean((hidden @ params["out"] - t) ** 2)

    x = normal(40, 6, 2)
    return Model(loss, params, (x, x.sum(axis=(1, 2))[:, None]))


def autoencoder():
    """A variational autoencoder: no targets, a key, and both terms of the loss as auxiliary values."""
    params = normal(4, 4) / 2, normal(2, 4) / 2

    def loss(params, x, t, key):
        assert t is None
        mean, log_var = jnp.split(x @ params[0], 2, axis=1)
        code = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        error = jnp.mean((code @ params[1] - x) ** 2)
        kl = jnp.mean(jnp.exp(log_var) + mean**2 - 1 - log_var) / 2
        return error + 0.1 * kl, {"error": error, "kl": kl, "mean": mean.mean(axis=0)}

    return Model(loss, params, (normal(40, 4), None), has_aux=True, keyed=True)


def two_inputs():
    """Two inputs and two targets by name; a key, an integer array, an integer and a name among params."""
    params = {
        "picture": normal(3, 3, 2) / 3,
        "age": np.ones((1, 2)),
        "order": np.array([1, 0]),
        "heads": 2,
        "name": "sum",
        "key": jax.random.key(9),
    }

    def loss(params, x, t):
        assert params["name"] == "sum"
        noise = 0.1 * jax.random.normal(params["key"], (params["heads"],))
        found = jnp.einsum("nij,ijk->nk", x["picture"], params["picture"]) + x["age"] @ params["age"]
        found = (found + noise)[:, params["order"]]
        return jnp.mean((found[:, 0] - t["one"]) ** 2) + jnp.mean((found[:, 1] - t["other"]) ** 2)

    x = {"picture": normal(40, 3, 3), "age": normal(40, 1)}
    return Model(loss, params, (x, {"one": x["age"][:, 0] * 2, "other": x["picture"].sum(axis=(1, 2))}))


def regression():
    """Scikit-learn's diabetes, by a network of the library."""
    x, t = sklearn_datasets.load_diabetes(return_X_y=True)
    params = network.init(jax.random.key(2), (10, 8, 1), dtype=jnp.float64)
    return Model(network.squared_loss, params, (x, (t - t.mean()) / t.std()))


def unbalanced():
    """Seven of one class to one of the other, which weigh as much."""
    x, t = normal(80, 4), np.repeat([0, 1], [70, 10])
    params = network.init(jax.random.key(2), (4, 8, 2), dtype=jnp.float64)
    return Model(network.loss, params, (x, t), named={"class_weight": "balanced"}.items())


MODELS = [flax, equinox, recurrent, autoencoder, two_inputs, regression, unbalanced]


def without(*rest):
    """Return the models, of which `make test-all` alone runs the rest."""
    return [pytest.param(make, marks=pytest.mark.rest) if make in rest else make for make in MODELS]


pytestmark = pytest.mark.usefixtures("x64", "compiled_once")


def fit(model, key=5, **options):
    # A stretch everywhere, so that one program serves all tests of a model.
    train = {"steps": STEPS, "key": key, "progress": False, "stretch": 10} | model.options() | options
    return jaxnet.fit(model.loss, model.params, model.train, **train)


def is_trained(leaf):
    return eqx.is_inexact_array(leaf) or (isinstance(leaf, np.ndarray) and leaf.dtype == float)


def first_state(model):
    return training.init_state(model.params, optax.adam(0.01), 5, () if model.state is None else model.state)


def plain_loop(model, key):
    """The loop of optax's documentation: nothing of the trainer but the batches and keys."""
    free, fixed = eqx.partition(model.params, is_trained)
    state, losses, aux = model.state, [], []
    optimizer = optax.adam(0.01)
    # Every class as much as any other, by scikit-learn.
    weights = compute_sample_weight("balanced", model.train[1]) if model.named else None
    opt_state = optimizer.init(free)

    @jax.jit
    def train_step(free, opt_state, state, x, t, key, weight):
        named = {"sample_weight": weight} if model.named else {}

        def loss(free):
            before = () if state is None else (state,)
            after = (key,) if model.keyed else ()
            found = model.loss(eqx.combine(free, fixed), *before, x, t, *after, **named)
            return found if isinstance(found, tuple) else (found, None)

        (value, more), grads = jax.value_and_grad(loss, has_aux=True)(free)
        updates, opt_state = optimizer.update(grads, opt_state, free)
        return optax.apply_updates(free, updates), opt_state, value, more

    length = len(jax.tree.leaves(model.train)[0])
    batches = np.asarray(training.draw_batches(key, 0, STEPS, 8, length))

    for step, rows in enumerate(batches):
        x, t = jax.tree.map(lambda leaf, rows=rows: leaf[rows], model.train)
        step_key = training.step_key(key, step)
        free, opt_state, value, more = train_step(
            free, opt_state, state, x, t, step_key, weights[rows] if model.named else None
        )
        losses.append(value)
        state = more if model.state is not None else None
        aux.append(more)
    return eqx.combine(free, fixed), state, np.array(losses), aux


def assert_close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if is_trained(a):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        else:
            assert a is b or (a == b).all()


# The page on training, whose examples the tests run, has the others too.
@pytest.mark.parametrize("make", without(equinox, recurrent, regression))
def test_a_model_trains_as_in_a_plain_loop(make):
    model, key = make(), jax.random.key(5)
    params, state, losses, aux = plain_loop(model, key)
    result = fit(model, key)
    assert_close(result.params, params)
    np.testing.assert_allclose(result.history.loss, losses, rtol=1e-6)
    if model.state is not None:
        assert_close(result.model_state, state)
    if model.has_aux:
        assert set(result.history.aux) == set(aux[0])
        for name, values in result.history.aux.items():
            np.testing.assert_allclose(values, np.stack([found[name] for found in aux]), rtol=1e-6)


@pytest.mark.parametrize("make", without(flax, equinox, recurrent, two_inputs, regression, unbalanced))
def test_a_model_resumes_from_a_checkpoint_to_the_same_bits(make, tmp_path):
    model = make()
    whole = fit(model)
    start = first_state(model)
    for steps in (20, STEPS):
        with checkpoints.Checkpointer(tmp_path, every=10) as saver:
            result = fit(model, steps=steps, callbacks=[saver], resume=saver.restore(start))
            saver.save(result)
    assert_same_bits((whole.state, whole.history), (result.state, result.history))


@pytest.mark.parametrize("make", without(*MODELS[1:]))
def test_a_model_among_many_ends_where_it_does_alone(make):
    model, keys = make(), jax.random.split(jax.random.key(6))

    def both(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]) if is_key(leaf) else repeated(leaf), tree)

    def repeated(leaf):
        return np.stack([leaf, leaf]) if eqx.is_array_like(leaf) and np.ndim(leaf) else leaf

    def own(index, leaf):
        if not hasattr(leaf, "shape"):
            return leaf
        return leaf[index] if is_key(leaf) else np.asarray(leaf)[index]

    options = model.options() | {"steps": STEPS, "progress": False}
    if model.state is not None:
        options["state"] = both(model.state)
    many = jaxnet.fit_many(model.loss, both(model.params), model.train, key=keys, **options)
    assert not many.diverged.any()
    for index in (0, 1):
        alone = fit(model, keys[index])
        found = many.params, many.model_state, many.history.loss, many.history.aux
        expected = alone.params, alone.model_state, alone.history.loss, alone.history.aux
        assert_close(jax.tree.map(partial(own, index), found), expected)


def killer(saver, step):
    def kill(stretch):
        if int(np.max(stretch.state.step)) == step:
            saver._job.result()  # until the checkpoint before is on the disk
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


RUN = """
import sys
import jax
from tests import test_models as these

with jax.enable_x64(True):
    model = getattr(these, sys.argv[3])()
    start = these.first_state(model)
    with these.checkpoints.Checkpointer(sys.argv[1], every=10) as saver:
        kill = these.killer(saver, int(sys.argv[2]))
        these.fit(model, callbacks=[kill, saver], resume=saver.restore(start))
"""


@pytest.mark.parametrize("make", without(*MODELS[1:]))
def test_a_model_that_was_killed_resumes_to_the_same_bits(make, tmp_path):
    model = make()
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", RUN, str(tmp_path), "30", make.__name__]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoints.steps(tmp_path)[-1] == 20
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        result = fit(model, callbacks=[saver], resume=saver.restore(first_state(model)))
    whole = fit(model)
    assert_same_bits((whole.state, whole.history), (result.state, result.history))


FOLDS = """
import sys
import jax
from tests import test_models as these

with jax.enable_x64(True), these.checkpoints.Checkpointer(sys.argv[1], every=10) as saver:
    these.fit_folds([these.killer(saver, int(sys.argv[2])), saver], saver)
"""


def fit_folds(callbacks=(), saver=None):
    """Five folds of the regression, as cross-validation trains them."""
    model = regression()
    folds = [rows for rows, _ in KFold(5, shuffle=True, random_state=0).split(model.train[0][:440])]
    params = jax.tree.map(lambda leaf: np.stack([leaf] * 5), model.params)
    start = training.init_states(params, optax.adam(0.01), key=5)
    options = model.options() | {"steps": STEPS, "key": 5, "progress": False, "stretch": 10}
    resume = None if saver is None else saver.restore(start)
    return jaxnet.fit_many(
        model.loss,
        params,
        model.train,
        subsets=np.stack(folds),
        callbacks=callbacks,
        resume=resume,
        **options,
    )


@pytest.mark.rest
def test_folds_that_were_killed_resume_to_the_same_bits(tmp_path):
    command = [sys.executable, "-c", FOLDS, str(tmp_path), "30"]
    root = Path(__file__).parent.parent
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoints.steps(tmp_path)[-1] == 5 * 20  # of all networks together
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        result = fit_folds([saver], saver)
    whole = fit_folds()
    assert_same_bits((whole.state, whole.history), (result.state, result.history))
