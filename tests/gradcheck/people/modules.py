"""Modules of Equinox and Flax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case


def filtered(f):
    import equinox as eqx

    return eqx.filter_grad(f)


@case(needs="equinox", gradient=filtered, notes="activation functions are leaves, sizes static fields")
def equinox_mlp(draw):
    import equinox as eqx

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    model = draw.module(lambda: eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0)))
    return loss, (model, draw.normal(10, 3), draw.normal(10, 2))


@case(needs="equinox", gradient=filtered)
def equinox_conv_net(draw):
    import equinox as eqx

    def make():
        keys = jax.random.split(jax.random.key(1))
        conv, linear = eqx.nn.Conv2d(1, 3, 3, key=keys[0]), eqx.nn.Linear(27, 4, key=keys[1])
        relu, flat = eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(jnp.ravel)
        return eqx.nn.Sequential([conv, eqx.nn.MaxPool2d(2, 2), relu, flat, linear])

    labels = np.array([3, 0, 1, 1])

    def loss(model, images):
        logits = jax.vmap(model)(images)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

    return loss, (draw.module(make), draw.normal(4, 1, 8, 8))


@case(needs="equinox", gradient=filtered)
def equinox_recurrent_classifier(draw):
    import equinox as eqx

    class Classifier(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear
        steps: int = eqx.field(static=True)
        name: str = "gru"

        def __call__(self, xs):
            h = jnp.zeros(self.cell.hidden_size, xs.dtype)
            h, _ = lax.scan(lambda h, x: (self.cell(x, h), None), h, xs[: self.steps])
            return self.head(h)[0]

    def make():
        keys = jax.random.split(jax.random.key(2))
        return Classifier(eqx.nn.GRUCell(2, 4, key=keys[0]), eqx.nn.Linear(4, 1, key=keys[1]), 5)

    labels = np.array([1, 0, 1])

    def loss(model, xs):
        z = jax.vmap(model)(xs)
        return jnp.mean(jax.nn.softplus(z) - labels * z)

    return loss, (draw.module(make), draw.normal(3, 6, 2))


@case(
    needs="flax",
    gradient=partial(jax.grad, allow_int=True),
    notes="running statistics and an integer count are among the leaves",
)
def flax_linen_variables(draw):
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
            count.value += 1
            x = nn.Dense(6)(x)
            x = nn.BatchNorm(use_running_average=False)(x)
            return nn.Dense(3)(nn.relu(x))

    x, labels = draw.normal(9, 4), draw.rng.integers(0, 3, 9)

    def loss(variables):
        logits, _ = Net().apply(variables, x, mutable=["batch_stats", "counts"])
        return -jnp.mean(nn.log_softmax(logits)[jnp.arange(9), labels])

    return loss, (draw.module(lambda: Net().init(jax.random.key(0), np.ones((9, 4), np.float32))),)


@case(needs="flax")
def flax_nnx_state(draw):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(3, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.outer = nnx.Linear(6, 1, rngs=rngs)

        def __call__(self, x):
            return self.outer(nnx.gelu(self.norm(self.inner(x))))

    graph, state = draw.module(lambda: nnx.split(Net(nnx.Rngs(0))))
    x, y = draw.normal(8, 3), draw.normal(8, 1)
    return lambda state: jnp.mean((nnx.merge(graph, state)(x) - y) ** 2), (state,)
