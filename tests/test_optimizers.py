import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optimizers
from tests.helpers import raw

GRADS = [np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -1.0]), np.array([-0.2, 0.4, 0.6])]
START = np.array([1.0, -1.0, 2.0])
RATE, DECAY, MU = 0.1, 0.01, 0.8


def steps_of(optimizer):
    params, path = jnp.asarray(START), []
    state = optimizer.init(params)
    for grads in GRADS:
        updates, state = optimizer.update(jnp.asarray(grads), state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.array(path)


def by_the_book(name, decay, rates):
    """The update rules as their papers have them, in NumPy."""
    p, v, m, s = START.copy(), np.zeros(3), np.zeros(3), np.zeros(3)
    path = []
    for i, (g, rate) in enumerate(zip(GRADS, rates, strict=True), start=1):
        if name != "adamw":
            g = g + decay * p
        if name == "sgd":
            step = g
        elif name in ("momentum", "nesterov"):
            v = MU * v + g
            step = g + MU * v if name == "nesterov" else v
        else:
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
            step = (m / (1 - 0.9**i)) / (np.sqrt(s / (1 - 0.999**i)) + 1e-8)
            if name == "adamw":
                step = step + decay * p
        p = p - rate * step
        path.append(p)
    return np.array(path)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_each_optimizer_is_its_papers(name, decay):
    optimizer = optimizers.optimizer(name, RATE, momentum=MU, weight_decay=decay)
    np.testing.assert_allclose(steps_of(optimizer), by_the_book(name, decay, [RATE] * 3), rtol=2e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [RATE * (1 + math.cos(math.pi * i / 3)) / 2 for i in range(3)]),
        ("warmup_cosine", [0.0, RATE, RATE * (1 + math.cos(math.pi / 2)) / 2]),
    ],
)
def test_each_schedule_is_its_formula(schedule, rates):
    warmup = {"warmup_steps": 1} if schedule == "warmup_cosine" else {}
    optimizer = optimizers.optimizer("sgd", RATE, schedule=schedule, steps=3, **warmup)
    np.testing.assert_allclose(steps_of(optimizer), by_the_book("sgd", 0.0, rates), rtol=2e-5)


def test_rates_may_be_traced():
    def path(rate, decay):
        options = {"schedule": "warmup_cosine", "steps": 4, "warmup_steps": 2}
        optimizer = optimizers.optimizer("nesterov", rate, weight_decay=decay, **options)
        params, state = jnp.asarray(START), optimizer.init(jnp.asarray(START))
        for grads in GRADS:
            updates, state = optimizer.update(jnp.asarray(grads), state, params)
            params = optax.apply_updates(params, updates)
        return params

    together = jax.vmap(path)(jnp.array([0.1, 0.2]), jnp.array([0.0, 0.1]))
    np.testing.assert_allclose(together, [path(0.1, 0.0), path(0.2, 0.1)], rtol=1e-6)


def test_defaults():
    assert set(optimizers.LEARNING_RATES) == set(optimizers.OPTIMIZERS)
    default = steps_of(optimizers.optimizer("adamw"))
    np.testing.assert_array_equal(default, steps_of(optax.adamw(0.001)))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS[3:])
def test_each_other_is_optaxs_of_that_name(name):
    parameters = inspect.signature(getattr(optax, name)).parameters
    given = {"weight_decay": 0.05, "key": jax.random.key(1)}
    given = {option: value for option, value in given.items() if option in parameters}
    ours = optimizers.optimizer(name, 0.03, **given)
    assert optimizers.optimizer(name)
    rate = next(iter(parameters))
    assert rate in ("learning_rate", "max_learning_rate")
    expected, extra = getattr(optax, name)(**{rate: 0.03} | given), {}
    params, grads = jnp.asarray(START), jnp.asarray(GRADS[0])
    if name in ("lbfgs", "polyak_sgd"):
        extra = {"value": 1.0}
    if name == "lbfgs":
        extra |= {"grad": grads, "value_fn": lambda params: (params**2).sum()}

    def program(rule):
        update = jax.make_jaxpr(lambda grads: rule.update(grads, rule.init(params), params, **extra))(grads)
        return str(update), [raw(constant).tolist() for constant in update.consts]

    assert program(ours) == program(expected)
    assert program(ours) != program(optimizers.optimizer(name, 0.02, **given))


def test_options_are_optaxs():
    ours = optimizers.optimizer("rmsprop", 0.1, momentum=0.5, decay=0.8, weight_decay=0.2)
    expected = optax.chain(optax.add_decayed_weights(0.2), optax.rmsprop(0.1, decay=0.8, momentum=0.5))
    np.testing.assert_array_equal(steps_of(ours), steps_of(expected))
    with pytest.raises(TypeError, match=r"adam takes b1, b2, .*, got beta"):
        optimizers.optimizer("adam", beta=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sdg"}, "optimizer must be one of sgd, momentum, nesterov, adam, adamw, .*, got 'sdg'"),
        (
            {"name": "sm3", "schedule": "cosine", "steps": 5},
            "schedule must be constant for sm3, got 'cosine'",
        ),
        ({"schedule": "linear"}, "schedule must be one of constant, cosine, warmup_cosine, got 'linear'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"momentum": 1.0}, r"momentum must be in 0\.\.1, without 1, got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative, got -0.1"),
        ({"schedule": "cosine"}, "steps must be positive for the schedule cosine, got None"),
        ({"warmup_steps": 5}, "warmup_steps is of the schedule warmup_cosine, got it with constant"),
        (
            {"schedule": "warmup_cosine", "steps": 5, "warmup_steps": 5},
            "warmup_steps must be positive and below steps, 5, got 5",
        ),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        optimizers.optimizer(**{"name": "sgd"} | options)
