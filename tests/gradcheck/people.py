"""A catalogue of functions as people write them, in float32 and in float64, to judge a gradient checker by.

The right gradient of each is its own autodiff gradient; the wrong one has one leaf 2 % too large.
Nothing is built, and no library beyond jax and NumPy imported, before a case is asked for.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Dtype = type[np.float32] | type[np.float64]


class Case(NamedTuple):
    """One function and where it is differentiated.

    build(dtype) gives (f, args); what f closes over and the arguments have this type, and f is to be called
    where x64 is on exactly when it is float64. gradient makes the right gradient of f, where that is not
    `jax.grad` or `jax.jacrev`. spoilt is the leaf that the wrong gradient has too large, where it is not the
    middle one. needs is the package without which there is no such function. expect is "inconclusive" where
    a right gradient need not pass nor a wrong one fail, but neither may be taken for the other. notes say
    what is particular: "by type" where f in float32 and under x64 are different functions, not one rounded
    twice.
    """

    name: str
    build: Callable[[Dtype], tuple[Callable, tuple]]
    argnums: int | tuple[int, ...] = 0
    expect: str = "pass"
    notes: str = ""
    needs: str = ""
    gradient: Callable[[Callable], Callable] | None = None
    spoilt: int | None = None


class Draw(NamedTuple):
    """Random arrays of one type: the same numbers in float32 as in float64, but for rounding."""

    rng: np.random.Generator
    dtype: Dtype

    def array(self, values) -> Array:
        return jnp.asarray(values, self.dtype)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return self.array(scale * self.rng.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.array(self.rng.uniform(low, high, shape))

    def module(self, make: Callable):
        """Return what make draws in float32, in this type: left to itself it draws other numbers for each."""
        with jax.enable_x64(False):
            tree = make()
        return jax.tree.map(lambda leaf: self.array(leaf) if _is_float32(leaf) else leaf, tree)

    def layers(self, *widths: int) -> list[tuple[Array, Array]]:
        return [(self.normal(m, n, scale=m**-0.5), self.normal(n, scale=0.1)) for m, n in pairwise(widths)]


def _is_float32(leaf) -> bool:
    return getattr(leaf, "dtype", None) == np.float32


CASES: list[Case] = []


def case(write: Callable[[Draw], tuple[Callable, tuple]] | None = None, **fields):
    """Enter a function of a Draw in the catalogue under its own name."""
    if write is None:
        return partial(case, **fields)

    def build(dtype: Dtype) -> tuple[Callable, tuple]:
        with jax.enable_x64(dtype is np.float64):
            return write(Draw(np.random.default_rng(0), dtype))

    CASES.append(Case(write.__name__.replace("_", " "), build, **fields))
    return write


def right_gradient(case: Case, dtype: Dtype) -> Callable:
    """Return the case's own autodiff gradient, a function of its arguments."""
    f, args = case.build(dtype)
    if case.gradient:
        return case.gradient(f)
    with jax.enable_x64(dtype is np.float64):
        scalar = getattr(f(*args), "ndim", None) == 0
    return (jax.grad if scalar else jax.jacrev)(f, argnums=case.argnums)


def wrong_gradient(case: Case, dtype: Dtype) -> Callable:
    """Return the right gradient with one leaf 2 % too large."""
    gradient = right_gradient(case, dtype)

    def wrong(*args):
        leaves, structure = jax.tree.flatten(gradient(*args))
        spoilt = len(leaves) // 2 if case.spoilt is None else case.spoilt
        leaves[spoilt] = leaves[spoilt] * 1.02
        return jax.tree.unflatten(structure, leaves)

    return wrong


def forward(params, x, activation):
    for w, b in params[:-1]:
        x = activation(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def normed(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5)


# Networks


@case
def relu_network_with_int64_labels(draw):
    labels = draw.rng.integers(0, 5, 16)

    def loss(params, x):
        z = forward(params, x, jax.nn.relu)
        return -jax.nn.log_softmax(z)[jnp.arange(16), labels].mean()

    return loss, (draw.layers(6, 8, 5), draw.normal(16, 6))


@case
def gelu_network(draw):
    x, y = draw.normal(10, 4), draw.normal(10, 2)

    def mse(params):
        return jnp.mean((forward(params, x, jax.nn.gelu) - y) ** 2)

    return mse, (draw.layers(4, 8, 8, 2),)


@case
def silu_network_with_layer_norm(draw):
    def loss(params, x, y):
        h = normed(jax.nn.silu(x @ params["w1"])) * params["scale"] + params["shift"]
        return jnp.mean(jnp.abs(h @ params["w2"] - y) ** 1.5)

    params = {"w1": draw.normal(5, 7), "scale": draw.uniform(0.5, 1.5, 7), "shift": draw.normal(7)}
    return loss, ({**params, "w2": draw.normal(7, 2)}, draw.normal(9, 5), draw.normal(9, 2))


@case
def softplus_network_and_weight_decay(draw):
    def loss(params, x, y):
        error = forward(params, x, jax.nn.softplus) - y
        return (error**2).mean() + 1e-3 * sum((leaf**2).sum() for leaf in jax.tree.leaves(params))

    return loss, (draw.layers(3, 6, 1), draw.normal(12, 3), draw.normal(12, 1))


@case(notes="by type: bernoulli draws its uniform numbers in the default type")
def dropout_with_a_fixed_key(draw):
    def loss(params, x, key):
        h = jnp.tanh(x @ params[0])
        h = jnp.where(jax.random.bernoulli(key, 0.7, h.shape), h / 0.7, 0)
        return jnp.sum((h @ params[1]) ** 2)

    return loss, ((draw.normal(4, 10), draw.normal(10, 2)), draw.normal(6, 4), jax.random.key(1))


@case
def conv_relu_closed_over(draw):
    images = draw.normal(2, 3, 8, 8)

    def loss(kernel):
        return jnp.mean(jax.nn.relu(lax.conv(images, kernel, (1, 1), "SAME")) ** 2)

    return loss, (draw.normal(4, 3, 3, 3),)


@case(argnums=(0, 1))
def conv_stride_and_dilation_nhwc(draw):
    images = draw.normal(2, 9, 9, 2)

    def loss(kernel, bias):
        z = lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jnp.tanh(z + bias) ** 2)

    return (
        loss,
        (draw.normal(3, 3, 2, 4, scale=0.3), draw.normal(4)),
    )


@case(argnums=(0, 1))
def transposed_conv_decoder(draw):
    def loss(kernel, code):
        image = lax.conv_transpose(code, kernel, (2, 2), "SAME")
        return jnp.mean(jax.nn.leaky_relu(image) ** 2)

    return loss, (draw.normal(3, 3, 2, 3, scale=0.3), draw.normal(1, 4, 4, 2))


@case
def depthwise_conv_of_an_int8_image(draw):
    image = draw.rng.integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)

    def loss(kernel):
        x = jnp.asarray(image, kernel.dtype) / 128
        z = lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
        )
        return jnp.mean(jax.nn.hard_swish(z))

    return loss, (draw.normal(3, 3, 1, 6),)


@case
def max_pool_network(draw):
    images, labels = draw.normal(3, 8, 8, 1), np.array([1, 0, 3])

    def loss(params):
        z = lax.conv_general_dilated(
            images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        z = lax.reduce_window(jax.nn.relu(z), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        logits = z.reshape(3, -1) @ params["w"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    return loss, ({"kernel": draw.normal(3, 3, 1, 3), "w": draw.normal(48, 4, scale=0.1)},)


@case
def average_pool_in_a_scan_of_blocks(draw):
    image = draw.normal(1, 8, 8, 2)

    def loss(kernels):
        def block(x, kernel):
            z = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            pooled = lax.reduce_window(jax.nn.elu(z), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9
            return x + pooled, pooled.mean()

        x, means = lax.scan(block, image, kernels)
        return jnp.mean(x**2) + means.sum()

    return loss, (draw.normal(3, 3, 3, 2, 2, scale=0.3),)


@case
def batch_norm_in_training(draw):
    x, y = draw.normal(12, 5), draw.normal(12)

    def loss(params):
        h = normed(x @ params["w"], axis=0) * params["gamma"] + params["beta"]
        return jnp.mean((jax.nn.relu(h).sum(1) - y) ** 2)

    return loss, ({"w": draw.normal(5, 6), "gamma": draw.uniform(0.5, 1.5, 6), "beta": draw.normal(6)},)


@case(argnums=(0, 1))
def group_norm_and_rms_norm(draw):
    def loss(x, scale):
        groups = normed(x.reshape(4, 2, 6)).reshape(4, 12)
        rms = groups * lax.rsqrt(jnp.mean((groups + scale) ** 2, -1, keepdims=True) + 1e-6)
        return jnp.sum(rms**3)

    return loss, (draw.normal(4, 12), draw.normal(12))


def attend(q, k, v, mask, hidden):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    return jax.nn.softmax(jnp.where(mask, scores, hidden), axis=-1) @ v


@case
def causal_attention_with_infinity(draw):
    x = draw.normal(6, 4)

    def loss(p):
        return jnp.sum(
            attend(x @ p["q"], x @ p["k"], x @ p["v"], jnp.tril(jnp.ones((6, 6), bool)), -jnp.inf) ** 2
        )

    return loss, ({name: draw.normal(4, 4) for name in "qkv"},)


@case
def padded_attention_with_minus_1e9(draw):
    x, lengths = draw.normal(2, 5, 4), np.array([5, 3])

    def loss(p):
        mask = (jnp.arange(5) < lengths[:, None])[:, None, :]
        out = attend(x @ p["q"], x @ p["k"], x @ p["v"], mask, -1e9)
        return jnp.mean((out @ p["o"]) ** 2)

    return loss, ({name: draw.normal(4, 4) for name in "qkvo"},)


@case(notes="jax computes the softmax in float32 whatever it is given: in float64 f is a staircase")
def attention_of_jax_nn(draw):
    def loss(qkv):
        out = jax.nn.dot_product_attention(*qkv, is_causal=True)
        return jnp.sum(jnp.sin(out))

    return loss, (tuple(draw.normal(1, 5, 2, 3) for _ in range(3)),)


@case
def transformer_block(draw):
    x, d, heads = draw.normal(2, 5, 6), 6, 2

    def split(z):
        return z.reshape(2, 5, heads, d // heads).transpose(0, 2, 1, 3)

    def loss(p):
        q, k, v = map(split, jnp.split(normed(x) @ p["qkv"], 3, axis=-1))
        mixed = attend(q, k, v, jnp.tril(jnp.ones((5, 5))) > 0, -1e9)
        h = x + mixed.transpose(0, 2, 1, 3).reshape(2, 5, d) @ p["out"]
        h = h + jax.nn.gelu(normed(h) @ p["up"] + p["bias"]) @ p["down"]
        return jnp.mean(jax.nn.logsumexp(h, axis=-1) - h[..., 0])

    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 2 * d), "bias": (2 * d,), "down": (2 * d, d)}
    return loss, ({name: draw.normal(*shape, scale=0.4) for name, shape in shapes.items()},)


@case(argnums=(0, 1))
def rotary_embedding(draw):
    x = draw.normal(7, 4)

    def loss(w_q, w_k):
        angle = jnp.arange(7)[:, None] * 10_000.0 ** -(jnp.arange(2) / 2)

        def rotated(z):
            a, b = jnp.split(z, 2, axis=-1)
            return jnp.concatenate(
                [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], axis=-1
            )

        return jax.nn.logsumexp(rotated(x @ w_q) @ rotated(x @ w_k).T)

    return loss, (draw.normal(4, 4), draw.normal(4, 4))


@case
def recurrent_network(draw):
    xs = draw.normal(12, 3)

    def loss(params):
        w_x, w_h, w_out = params
        h, _ = lax.scan(lambda h, x: (jnp.tanh(x @ w_x + h @ w_h), None), jnp.zeros(5, xs.dtype), xs)
        return jnp.sum((h @ w_out) ** 2)

    return loss, ((draw.normal(3, 5), draw.normal(5, 5, scale=0.4), draw.normal(5, 2)),)


@case
def lstm_in_scan(draw):
    xs, y = draw.normal(8, 4, 3), draw.normal(4, 4)

    def loss(p):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x @ p["wx"] + h @ p["wh"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((4, 4), xs.dtype)
        (h, _), hs = lax.scan(step, (start, start), xs)
        return jnp.mean((h - y) ** 2) + 0.1 * jnp.mean(hs**2)

    return loss, ({"wx": draw.normal(3, 16), "wh": draw.normal(4, 16, scale=0.5), "b": draw.normal(16)},)


@case
def gru_of_sequences_of_different_lengths(draw):
    lengths = np.array([6, 2, 4])

    def loss(p, xs):
        def step(h, inputs):
            time, x = inputs
            z, r = jnp.split(jax.nn.sigmoid(x @ p["x"][0] + h @ p["h"][0]), 2, axis=-1)
            new = (1 - z) * h + z * jnp.tanh(x @ p["x"][1] + (r * h) @ p["h"][1])
            return jnp.where((time < lengths)[:, None], new, h), None

        h, _ = lax.scan(step, jnp.zeros((3, 4), xs.dtype), (jnp.arange(6), xs))
        return jnp.sum(h**2)

    p = {"x": (draw.normal(2, 8), draw.normal(2, 4)), "h": (draw.normal(4, 8), draw.normal(4, 4))}
    return loss, (p, draw.normal(6, 3, 2))


EDGES = np.array([[0, 1], [1, 2], [2, 0], [3, 1], [4, 3], [2, 4], [0, 4], [1, 0]])


@case
def graph_network(draw):
    nodes = draw.normal(5, 3)

    def loss(params):
        h = nodes
        for w_message, w_self in params:
            messages = jax.nn.relu(jnp.concatenate([h[EDGES[:, 0]], h[EDGES[:, 1]]], axis=1) @ w_message)
            h = jnp.tanh(h @ w_self + jax.ops.segment_sum(messages, EDGES[:, 1], num_segments=5))
        return jnp.sum(h.mean(0) ** 2)

    return loss, ([(draw.normal(6, 3), draw.normal(3, 3)) for _ in range(2)],)


@case(argnums=(0, 1))
def graph_attention(draw):
    nodes, source, target = draw.normal(5, 3), EDGES[:, 0], EDGES[:, 1]

    def loss(w, a):
        h = nodes @ w
        score = jax.nn.leaky_relu(jnp.concatenate([h[source], h[target]], axis=1) @ a)
        score = jnp.exp(score - jax.ops.segment_max(score, target, 5)[target])
        weight = score / jax.ops.segment_sum(score, target, 5)[target]
        return jnp.sum(jax.ops.segment_sum(weight[:, None] * h[source], target, 5) ** 2)

    return loss, (draw.normal(3, 4), draw.normal(8))


@case
def embedding_lookup(draw):
    words, labels = draw.rng.integers(0, 9, (4, 3)), draw.rng.integers(0, 2, 4)

    def loss(params):
        logits = params["table"][words].mean(1) @ params["w"]
        return jnp.mean(jnp.logaddexp(0, logits) - labels * logits)

    return loss, ({"table": draw.normal(9, 5), "w": draw.normal(5)},)


@case
def negative_sampling(draw):
    centre, context = draw.rng.integers(0, 10, 8), draw.rng.integers(0, 10, (8, 4))

    def loss(params):
        scores = jnp.einsum("nd,nkd->nk", params["in"][centre], params["out"][context])
        return -jnp.mean(jax.nn.log_sigmoid(scores[:, 0]) + jax.nn.log_sigmoid(-scores[:, 1:]).sum(1))

    return loss, ({"in": draw.normal(10, 4), "out": draw.normal(10, 4)},)


@case
def remat_residual_network(draw):
    x = draw.normal(6, 5)

    def loss(params):
        h = x
        for w, b in params:
            h = h + jax.checkpoint(lambda h, w, b: jax.nn.relu(normed(h) @ w + b))(h, w, b)
        return jnp.mean(h**2)

    return loss, (draw.layers(5, 5, 5, 5, 5),)


@case(argnums=(0, 1))
def mixture_of_experts(draw):
    x, y = draw.normal(10, 3), draw.normal(10, 2)

    def loss(gate, experts):
        weights, chosen = lax.top_k(jax.nn.softmax(x @ gate), 2)
        outputs = jnp.einsum("nd,edk->nek", x, experts)
        picked = jnp.take_along_axis(outputs, chosen[:, :, None], axis=1)
        mixed = jnp.sum(weights[:, :, None] * picked, 1) / weights.sum(1, keepdims=True)
        return jnp.mean((mixed - y) ** 2)

    return loss, (draw.normal(3, 4), draw.normal(4, 3, 2))


@case(argnums=(0, 1, 2))
def tied_autoencoder(draw):
    x = draw.uniform(0, 1, 8, 9)

    def loss(w, b, c):
        z = jax.nn.sigmoid(x @ w + b) @ w.T + c
        return jnp.mean(jnp.maximum(z, 0) - z * x + jnp.log1p(jnp.exp(-jnp.abs(z))))

    return loss, (draw.normal(9, 4), draw.normal(4), draw.normal(9))


@case(argnums=(0, 1))
def hypernetwork_of_sines(draw):
    x, y = draw.uniform(-1, 1, 15, 2), draw.normal(15)

    def loss(params, code):
        w1, w2 = jnp.split(forward(params, code, jnp.tanh), [12])
        return jnp.mean((jnp.sin(3 * (x @ w1.reshape(2, 6))) @ w2 - y) ** 2)

    return loss, (draw.layers(3, 8, 18), draw.normal(3))


@case
def deep_sets_under_vmap_and_jit(draw):
    sets, y = draw.normal(5, 7, 2), draw.normal(5)

    @jax.jit
    def one(params, points):
        inner, outer = params
        return forward(outer, jax.vmap(lambda p: forward(inner, p, jax.nn.elu))(points).max(0), jnp.tanh)[0]

    def loss(params):
        return jnp.sum((jax.vmap(one, (None, 0))(params, sets) - y) ** 2)

    return loss, ((draw.layers(2, 6, 4), draw.layers(4, 5, 1)),)


@case(notes="by type: normal noise drawn inside in the default type")
def variational_autoencoder(draw):
    x = draw.uniform(0, 1, 6, 8)

    def negative_elbo(params, key):
        mean, log_var = jnp.split(forward(params["encoder"], x, jnp.tanh), 2, axis=1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        logits = forward(params["decoder"], z, jnp.tanh)
        kl = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var, axis=1)
        return jnp.mean(
            kl - jnp.sum(x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits), 1)
        )

    params = {"encoder": draw.layers(8, 7, 4), "decoder": draw.layers(2, 7, 8)}
    return negative_elbo, (params, jax.random.PRNGKey(0))


@case
def normalising_flow(draw):
    x = draw.normal(10, 2)

    def loss(params):
        z, log_det = x, 0.0
        for net in params:
            shift, log_scale = jnp.split(forward(net, z[:, :1], jnp.tanh), 2, axis=1)
            log_scale = jnp.tanh(log_scale)
            z = jnp.concatenate([z[:, 1:] * jnp.exp(log_scale) + shift, z[:, :1]], axis=1)
            log_det += log_scale.sum(1)
        return jnp.mean(0.5 * (z**2).sum(1) - log_det)

    return loss, ([draw.layers(1, 5, 2) for _ in range(3)],)


@case
def gradient_penalty(draw):
    real, fake = draw.normal(6, 3), draw.normal(6, 3)

    def loss(params):
        def critic(x):
            return forward(params, x, jnp.tanh)[0]

        slopes = jax.vmap(jax.grad(critic))((real + fake) / 2)
        distance = jax.vmap(critic)(fake).mean() - jax.vmap(critic)(real).mean()
        return distance + 10 * jnp.mean((jnp.linalg.norm(slopes, axis=1) - 1) ** 2)

    return loss, (draw.layers(3, 6, 1),)


@case
def clipped_policy_loss(draw):
    states, actions, advantage = draw.normal(20, 4), draw.rng.integers(0, 3, 20), draw.normal(20)
    old = draw.uniform(-2, -0.5, 20)

    def loss(params):
        log_p = jax.nn.log_softmax(forward(params, states, jnp.tanh))
        ratio = jnp.exp(log_p[jnp.arange(20), actions] - old)
        entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=1).mean()
        return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage).mean() - 0.01 * entropy

    return loss, (draw.layers(4, 6, 3),)


@case
def q_learning_with_a_target_network(draw):
    states, after = draw.normal(8, 3), draw.normal(8, 3)
    actions, reward, done = draw.rng.integers(0, 2, 8), draw.normal(8), draw.rng.integers(0, 2, 8)

    def loss(params, target):
        best = forward(target, after, jax.nn.relu).max(1)
        aim = reward + 0.99 * (1 - done) * best
        error = jnp.take_along_axis(forward(params, states, jax.nn.relu), actions[:, None], 1)[:, 0] - aim
        return jnp.where(jnp.abs(error) < 1, 0.5 * error**2, jnp.abs(error) - 0.5).mean()

    return loss, (draw.layers(3, 8, 2), draw.layers(3, 8, 2))


@case(argnums=(0, 1))
def distillation_at_a_temperature(draw):
    x, teacher = draw.normal(8, 4), draw.normal(8, 5, scale=3)

    def loss(params, temperature):
        z = forward(params, x, jax.nn.mish)
        p = jax.nn.softmax(teacher / temperature)
        return -(temperature**2) * jnp.mean(jnp.sum(p * jax.nn.log_softmax(z / temperature), axis=1))

    return loss, (draw.layers(4, 6, 5), draw.array(2.5))


@case(argnums=(0, 1))
def meta_learning_step(draw):
    x, y = draw.uniform(-2, 2, 10, 1), draw.normal(10, 1)

    def inner(params, x, y):
        return jnp.mean((forward(params, x, jnp.tanh) - y) ** 2)

    def loss(params, rate):
        slopes = jax.grad(inner)(params, x[:5], y[:5])
        return inner(jax.tree.map(lambda p, g: p - rate * g, params, slopes), x[5:], y[5:])

    return loss, (draw.layers(1, 7, 1), draw.array(0.1))


@case(argnums=(0, 1), needs="optax")
def adam_unrolled(draw):
    import optax

    x, y = draw.normal(12, 3), draw.normal(12)

    def loss(w, log_rate):
        optimizer = optax.adam(jnp.exp(log_rate))

        def step(carry, _):
            w, state = carry
            slopes = jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
            updates, state = optimizer.update(slopes, state)
            return (optax.apply_updates(w, updates), state), None

        (w, _), _ = lax.scan(step, (w, optimizer.init(w)), None, length=6)
        return jnp.mean((x @ w - y) ** 2)

    return loss, (draw.normal(3), draw.array(-2.0))


@case
def fourier_neural_operator(draw):
    signal = draw.normal(3, 16)

    def loss(params):
        modes = jnp.fft.rfft(signal)[:, :5] * (params["real"] + 1j * params["imag"])
        h = jax.nn.gelu(jnp.fft.irfft(jnp.pad(modes, ((0, 0), (0, 4))), n=16) + params["w"] * signal)
        return jnp.mean((h - jnp.roll(signal, 1, axis=1)) ** 2)

    return loss, ({"real": draw.normal(5), "imag": draw.normal(5), "w": draw.array(0.3)},)


@case(argnums=(0, 1, 2))
def state_space_model_by_associative_scan(draw):
    u = draw.normal(32, 3)

    def loss(log_decay, b, c):
        decay = jnp.broadcast_to(jnp.exp(-jnp.exp(log_decay)), (32, 4))

        def combine(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, states = lax.associative_scan(combine, (decay, u @ b))
        return jnp.mean((states @ c - jnp.roll(u[:, 0], 3)) ** 2)

    return loss, (draw.normal(4), draw.normal(3, 4), draw.normal(4))


@case
def equilibrium_network_with_its_own_rule(draw):
    x = draw.normal(3)

    def cell(p, z):
        return jnp.tanh(p["w"] @ z + p["u"] @ x + p["b"])

    def iterate(step, start):
        return lax.fori_loop(0, 80, lambda _, z: step(z), start)

    @jax.custom_vjp
    def equilibrium(p):
        return iterate(partial(cell, p), jnp.zeros_like(p["b"]))

    def ahead(p):
        z = equilibrium(p)
        return z, (p, z)

    def back(kept, g):
        p, z = kept
        _, pull = jax.vjp(cell, p, z)
        adjoint = iterate(lambda a: g + pull(a)[1], g)
        return (pull(adjoint)[0],)

    equilibrium.defvjp(ahead, back)
    p = {"w": draw.normal(6, 6, scale=0.15), "u": draw.normal(6, 3), "b": draw.normal(6)}
    return lambda p: jnp.sum(equilibrium(p) ** 3), (p,)


# Modules


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


# Losses


@case
def label_smoothing(draw):
    labels = draw.rng.integers(0, 6, 12)

    def loss(logits):
        aim = jax.nn.one_hot(labels, 6) * 0.9 + 0.1 / 6
        return -jnp.mean(jnp.sum(aim * jax.nn.log_softmax(logits), axis=-1))

    return loss, (draw.normal(12, 6, scale=3),)


@case(needs="optax")
def connectionist_temporal_classification(draw):
    import optax

    labels, label_padding = np.array([[1, 2, 2], [3, 1, 0]]), np.array([[0.0, 0, 0], [0, 0, 1]])
    padding = np.array([[0.0] * 8, [0.0] * 6 + [1.0] * 2])

    def loss(logits):
        return optax.ctc_loss(logits, padding, labels, label_padding).mean()

    return loss, (draw.normal(2, 8, 4),)


@case(argnums=(0, 1))
def focal_loss(draw):
    labels = draw.rng.integers(0, 2, 15)

    def loss(w, x):
        p = jax.nn.sigmoid(x @ w)
        p_right = jnp.where(labels == 1, p, 1 - p)
        return jnp.mean(-0.25 * (1 - p_right) ** 2 * jnp.log(p_right + 1e-7))

    return loss, (draw.normal(4), draw.normal(15, 4))


@case(argnums=(0, 1, 2))
def triplet_loss(draw):
    def loss(anchor, positive, negative):
        near = jnp.linalg.norm(anchor - positive, axis=1)
        far = jnp.linalg.norm(anchor - negative, axis=1)
        return jnp.maximum(near - far + 0.5, 0).sum()

    return loss, tuple(draw.normal(6, 3) for _ in range(3))


@case
def multiclass_hinge(draw):
    labels = draw.rng.integers(0, 4, 10)

    def loss(w, x):
        scores = x @ w
        margin = scores - scores[jnp.arange(10), labels][:, None] + 1
        return jnp.maximum(margin.at[jnp.arange(10), labels].set(0), 0).sum() / 10 + 1e-2 * (w**2).sum()

    return loss, (draw.normal(5, 4), draw.normal(10, 5))


@case(argnums=(0, 1))
def contrastive_loss(draw):
    def loss(a, b):
        a, b = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
        logits = a @ b.T / 0.1
        diagonal = jnp.diag(jax.nn.log_softmax(logits, 1)) + jnp.diag(jax.nn.log_softmax(logits, 0))
        return -diagonal.mean()

    return loss, (draw.normal(6, 4), draw.normal(6, 4))


@case
def huber_regression(draw):
    x = draw.normal(20, 3)
    y = x @ np.array([1.0, -2.0, 0.5]) + draw.normal(20, scale=2)

    def loss(w, delta=1.0):
        r = jnp.abs(x @ w - y)
        return jnp.where(r <= delta, r**2 / 2, delta * (r - delta / 2)).mean()

    return loss, (draw.normal(3),)


@case
def pinball_loss_of_three_quantiles(draw):
    x, y, levels = draw.normal(20, 2), draw.normal(20), np.array([0.1, 0.5, 0.9])

    def loss(w):
        error = y[:, None] - x @ w
        return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error))

    return loss, (draw.normal(2, 3),)


@case(needs="optax")
def losses_of_optax(draw):
    import optax

    labels, y = draw.rng.integers(0, 4, 8), draw.uniform(0, 1, 8, 4)

    def loss(z):
        return (
            optax.softmax_cross_entropy_with_integer_labels(z, labels).sum()
            + optax.sigmoid_binary_cross_entropy(z, y).mean()
            + optax.huber_loss(z, y).mean()
            + optax.cosine_distance(z, y).sum()
            + optax.log_cosh(z, y).sum()
        )

    return loss, (draw.normal(8, 4),)


@case
def supervised_ranking_by_approximate_ndcg(draw):
    gain = 2.0 ** draw.rng.integers(0, 4, 9) - 1

    def loss(w, x):
        s = x @ w
        rank = 0.5 + jax.nn.sigmoid((s[None] - s[:, None]) / 0.3).sum(1)
        ideal = jnp.sum(-jnp.sort(-gain) / jnp.log2(jnp.arange(9) + 2))
        return -jnp.sum(gain / jnp.log2(rank + 1)) / ideal

    return loss, (draw.normal(3), draw.normal(9, 3))


@case
def cross_entropy_of_1000_examples(draw):
    labels = draw.rng.integers(0, 3, 1000)

    def loss(params, x):
        return -jax.nn.log_softmax(x @ params["w"] + params["b"])[jnp.arange(1000), labels].mean()

    return loss, ({"w": draw.normal(5, 3), "b": draw.normal(3)}, draw.normal(1000, 5))


@case(argnums=(0, 1))
def dice_and_smooth_l1(draw):
    mask = draw.rng.integers(0, 2, (6, 6))

    def loss(logits, boxes):
        p = jax.nn.sigmoid(logits)
        dice = 1 - (2 * jnp.sum(p * mask) + 1) / (jnp.sum(p) + jnp.sum(mask) + 1)
        top, bottom = jnp.maximum(boxes[0, :2], boxes[1, :2]), jnp.minimum(boxes[0, 2:], boxes[1, 2:])
        inter = jnp.prod(jnp.maximum(bottom - top, 0))
        areas = jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        return dice + 1 - inter / (areas.sum() - inter)

    boxes = draw.array([[0.0, 0.1, 2.0, 1.9], [0.7, 0.4, 2.6, 3.1]])
    return loss, (draw.normal(6, 6), boxes)


# Likelihoods


@case
def gaussian_likelihood(draw):
    y = draw.normal(30, scale=2)

    def nll(p):
        scale = jnp.exp(p["log_scale"])
        return -jax.scipy.stats.norm.logpdf(y, p["mean"], scale).sum()

    return nll, ({"mean": draw.array(0.3), "log_scale": draw.array(0.2)},)


@case(argnums=(0, 1, 2))
def student_t_regression(draw):
    x, y = draw.normal(15, 2), draw.normal(15)

    def nll(w, log_scale, log_df):
        df, z = 1 + jnp.exp(log_df), (y - x @ w) / jnp.exp(log_scale)
        constant = jax.scipy.special.gammaln((df + 1) / 2) - jax.scipy.special.gammaln(df / 2)
        return jnp.sum(
            (df + 1) / 2 * jnp.log1p(z**2 / df) + log_scale + 0.5 * jnp.log(df * jnp.pi) - constant
        )

    return nll, (draw.normal(2), draw.array(0.1), draw.array(1.2))


@case(argnums=(0, 1))
def beta_likelihood(draw):
    y = draw.uniform(0.05, 0.95, 12)

    def nll(a, b):
        return -jax.scipy.stats.beta.logpdf(y, jax.nn.softplus(a), jax.nn.softplus(b)).mean()

    return nll, (draw.array(0.7), draw.array(1.9))


@case
def gamma_likelihood(draw):
    y = draw.uniform(0.3, 4, 12)

    def nll(log_ab):
        a, b = jnp.exp(log_ab)
        return -jax.scipy.stats.gamma.logpdf(y, a, scale=1 / b).sum()

    return nll, (draw.array([0.4, -0.3]),)


@case
def dirichlet_likelihood(draw):
    p = jax.nn.softmax(draw.normal(7, 4))

    def nll(alpha):
        return -jax.vmap(jax.scipy.stats.dirichlet.logpdf, (0, None))(
            p / p.sum(1, keepdims=True), alpha
        ).sum()

    return nll, (draw.uniform(0.5, 3, 4),)


@case
def negative_binomial_likelihood(draw):
    counts, x = draw.rng.integers(0, 12, 14), draw.normal(14, 2)

    def nll(p):
        mean, r = jnp.exp(x @ p["w"]), jnp.exp(p["log_r"])
        lgamma = jax.scipy.special.gammaln
        log_p = lgamma(counts + r) - lgamma(r) - lgamma(counts + 1.0)
        return -jnp.sum(log_p + r * jnp.log(r / (r + mean)) + counts * jnp.log(mean / (r + mean)))

    return nll, ({"w": draw.normal(2), "log_r": draw.array(0.5)},)


@case(argnums=(0, 1))
def multivariate_normal_by_its_cholesky_factor(draw):
    y, rows = draw.normal(10, 3), np.tril_indices(3)

    def nll(mean, entries):
        factor = jnp.zeros((3, 3), entries.dtype).at[rows].set(entries)
        factor = jnp.tril(factor, -1) + jnp.diag(jnp.exp(jnp.diag(factor)))
        covariance = factor @ factor.T
        return -jax.scipy.stats.multivariate_normal.logpdf(y, mean, covariance).sum()

    return nll, (draw.normal(3), draw.normal(6, scale=0.5))


@case
def gaussian_process_marginal_likelihood(draw):
    x = jnp.sort(draw.uniform(0, 5, 15))
    y = jnp.sin(x) + draw.normal(15, scale=0.1)

    def nll(log_hyper):
        length, amplitude, noise = jnp.exp(log_hyper)
        kernel = amplitude**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
        factor = jnp.linalg.cholesky(kernel + (noise**2 + 1e-6) * jnp.eye(15))
        alpha = jax.scipy.linalg.cho_solve((factor, True), y)
        return 0.5 * y @ alpha + jnp.log(jnp.diag(factor)).sum()

    return nll, (draw.array([0.2, 0.1, -1.5]),)


@case(argnums=(0, 1))
def matern_kernel_with_a_double_where(draw):
    x, y = draw.normal(8, 2), draw.normal(8)

    def nll(log_length, jitter):
        squared = jnp.sum(((x[:, None] - x) / jnp.exp(log_length)) ** 2, -1)
        distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        kernel = (1 + jnp.sqrt(3) * distance) * jnp.exp(-jnp.sqrt(3) * distance) + jitter * jnp.eye(8)
        sign, log_det = jnp.linalg.slogdet(kernel)
        return 0.5 * (sign * log_det + y @ jnp.linalg.solve(kernel, y))

    return nll, (draw.array([0.1, -0.4]), draw.array(0.3))


@case
def kalman_filter(draw):
    ys = jnp.cumsum(draw.normal(15, 1, scale=0.5), axis=0)

    def nll(p):
        step, observe = jnp.array([[1.0, p["dt"]], [0.0, 0.95]]), jnp.array([[1.0, 0.0]])
        q, r = jnp.exp(p["log_q"]) * jnp.eye(2), jnp.exp(p["log_r"]) * jnp.eye(1)

        def update(carry, y):
            mean, cov = carry
            mean, cov = step @ mean, step @ cov @ step.T + q
            residual, s = y - observe @ mean, observe @ cov @ observe.T + r
            gain = jnp.linalg.solve(s, observe @ cov).T
            log_p = -0.5 * (residual @ jnp.linalg.solve(s, residual) + jnp.linalg.slogdet(s)[1])
            return (mean + gain @ residual, cov - gain @ observe @ cov), log_p

        start = (jnp.zeros(2, ys.dtype), jnp.eye(2, dtype=ys.dtype))
        return -lax.scan(update, start, ys)[1].sum()

    return nll, ({"dt": draw.array(0.3), "log_q": draw.array(-1.0), "log_r": draw.array(-0.5)},)


@case
def hidden_markov_model(draw):
    words = draw.rng.integers(0, 5, 20)

    def nll(p):
        move, emit = jax.nn.log_softmax(p["move"], axis=1), jax.nn.log_softmax(p["emit"], axis=1)

        def step(alpha, word):
            return jax.nn.logsumexp(alpha[:, None] + move, axis=0) + emit[:, word], None

        start = jax.nn.log_softmax(p["start"]) + emit[:, words[0]]
        return -jax.nn.logsumexp(lax.scan(step, start, jnp.asarray(words[1:]))[0])

    return nll, ({"start": draw.normal(3), "move": draw.normal(3, 3), "emit": draw.normal(3, 5)},)


@case(argnums=(0, 1))
def conditional_random_field(draw):
    tags, scores = draw.rng.integers(0, 4, 9), draw.normal(9, 4)

    def nll(scores, moves):
        path = scores[jnp.arange(9), tags].sum() + moves[tags[:-1], tags[1:]].sum()
        alpha = scores[0]
        for row in scores[1:]:
            alpha = jax.nn.logsumexp(alpha[:, None] + moves, axis=0) + row
        return jax.nn.logsumexp(alpha) - path

    return nll, (scores, draw.normal(4, 4))


@case
def eight_schools(draw):
    y, sd = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def potential(p):
        norm = jax.scipy.stats.norm
        tau = jnp.exp(p["log_tau"])
        log_p = norm.logpdf(p["mu"], 0, 5) + jnp.log(tau) - jnp.log1p((tau / 5) ** 2)
        log_p += norm.logpdf(p["z"]).sum() + norm.logpdf(y, p["mu"] + tau * p["z"], sd).sum()
        return -log_p

    return potential, ({"mu": draw.array(4.0), "log_tau": draw.array(1.0), "z": draw.normal(8)},)


@case(argnums=(0, 1))
def poisson_regression_with_exposure(draw):
    counts, x = draw.rng.poisson(3, 16), draw.normal(16, 3)

    def nll(w, exposure):
        rate = jnp.exp(x @ w) * exposure
        return jnp.mean(rate - counts * jnp.log(rate) + jax.scipy.special.gammaln(counts + 1.0))

    return nll, (draw.normal(3, scale=0.5), draw.uniform(0.5, 2, 16))


@case
def cox_partial_likelihood(draw):
    times, event = draw.rng.exponential(1, 14), jnp.asarray(draw.rng.integers(0, 2, 14))
    x = draw.normal(14, 3)

    def nll(w):
        order = jnp.argsort(-jnp.asarray(times))
        risk = (x @ w)[order]
        return -jnp.sum(event[order] * (risk - lax.cumlogsumexp(risk)))

    return nll, (draw.normal(3),)


@case
def weibull_survival_with_censoring(draw):
    times, seen, x = draw.uniform(0.2, 3, 12), np.array([1, 0, 1] * 4, bool), draw.normal(12, 2)

    def nll(p):
        shape, scale = jnp.exp(p["log_shape"]), jnp.exp(x @ p["w"])
        hazard = (times / scale) ** shape
        log_density = jnp.log(shape / scale) + (shape - 1) * jnp.log(times / scale) - hazard
        return -jnp.where(seen, log_density, -hazard).sum()

    return nll, ({"log_shape": draw.array(0.3), "w": draw.normal(2, scale=0.4)},)


@case(argnums=(0, 1))
def von_mises_likelihood(draw):
    angles = draw.uniform(-2, 2, 10)

    def nll(mean, log_kappa):
        kappa = jnp.exp(log_kappa)
        return jnp.sum(jnp.log(jax.scipy.special.i0e(kappa)) + kappa - kappa * jnp.cos(angles - mean))

    return nll, (draw.array(0.4), draw.array(0.7))


@case
def mixture_density_network(draw):
    x, y = draw.normal(12, 1), draw.normal(12)

    def nll(params):
        logits, means, log_scales = jnp.split(forward(params, x, jnp.tanh), 3, axis=1)
        parts = jax.nn.log_softmax(logits) + jax.scipy.stats.norm.logpdf(
            y[:, None], means, jnp.exp(log_scales)
        )
        return -jax.nn.logsumexp(parts, axis=1).mean()

    return nll, (draw.layers(1, 6, 9),)


@case
def gaussian_mixture(draw):
    y = draw.normal(25, 2)

    def nll(p):
        precision = jnp.exp(-p["log_scale"])
        z = (y[:, None, :] - p["means"]) * precision
        parts = jax.nn.log_softmax(p["logits"]) + jnp.sum(-0.5 * z**2 + jnp.log(precision), axis=-1)
        return -jnp.sum(jax.nn.logsumexp(parts, axis=1))

    return nll, ({"logits": draw.normal(3), "means": draw.normal(3, 2), "log_scale": draw.normal(3, 2)},)


@case(argnums=(0, 1))
def ordinal_regression(draw):
    x, levels = draw.normal(15, 2), draw.rng.integers(0, 4, 15)

    def nll(w, gaps):
        cuts = jnp.cumsum(jnp.concatenate([gaps[:1], jax.nn.softplus(gaps[1:])]))
        cuts = jnp.concatenate([jnp.array([-jnp.inf]), cuts, jnp.array([jnp.inf])]).astype(gaps.dtype)
        p = jax.nn.sigmoid(cuts[levels + 1] - x @ w) - jax.nn.sigmoid(cuts[levels] - x @ w)
        return -jnp.log(p).mean()

    return nll, (draw.normal(2), draw.array([-1.0, 0.5, 0.8]))


@case(argnums=(0, 1))
def zero_inflated_poisson(draw):
    counts = np.array([0, 0, 3, 1, 0, 5, 2, 0])

    def nll(logit, log_rate):
        rate, log_zero = jnp.exp(log_rate), jax.nn.log_sigmoid(logit)
        log_poisson = counts * log_rate - rate - jax.scipy.special.gammaln(counts + 1)
        log_poisson += jax.nn.log_sigmoid(-logit)
        return -jnp.where(counts == 0, jnp.logaddexp(log_zero, log_poisson), log_poisson).sum()

    return nll, (draw.array(-0.4), draw.array(0.6))


@case(argnums=(0, 1))
def tobit_regression(draw):
    x, y = draw.normal(16, 2), draw.normal(16)

    def nll(w, log_scale):
        norm, scale, mean = jax.scipy.stats.norm, jnp.exp(log_scale), x @ w
        censored = y <= 0
        return -jnp.where(censored, norm.logcdf(-mean / scale), norm.logpdf(y, mean, scale)).sum()

    return nll, (draw.normal(2), draw.array(0.1))


@case
def garch_volatility(draw):
    returns = draw.normal(40, scale=0.02)

    def nll(raw):
        omega, alpha, beta = jnp.exp(raw[0]), 0.3 * jax.nn.sigmoid(raw[1]), 0.7 * jax.nn.sigmoid(raw[2])

        def step(variance, r):
            variance = omega + alpha * r**2 + beta * variance
            return variance, variance

        _, variance = lax.scan(step, jnp.var(returns), returns[:-1])
        return 0.5 * jnp.sum(jnp.log(variance) + returns[1:] ** 2 / variance)

    return nll, (draw.array([-9.0, 0.2, 1.0]),)


@case(argnums=(0, 1))
def kl_between_full_gaussians(draw):
    target = jnp.eye(4, dtype=draw.dtype) + 0.1

    def kl(mean, factor):
        covariance = factor @ factor.T + 0.1 * jnp.eye(4)
        quadratic = mean @ jnp.linalg.solve(target, mean)
        gap = jnp.linalg.slogdet(target)[1] - jnp.linalg.slogdet(covariance)[1]
        return 0.5 * (jnp.trace(jnp.linalg.solve(target, covariance)) + quadratic - 4 + gap)

    return kl, (draw.normal(4), draw.normal(4, 4))


@case
def plackett_luce_ranking(draw):
    orders = np.array([draw.rng.permutation(5) for _ in range(6)])

    def nll(strength):
        s = strength[orders]
        return -jnp.sum(s - lax.cumlogsumexp(s, axis=1, reverse=True))

    return nll, (draw.normal(5),)


@case
def hawkes_process(draw):
    times = jnp.sort(draw.uniform(0, 10, 18))

    def nll(raw):
        mu, alpha, beta = jax.nn.softplus(raw)

        def step(carry, gap):
            carry = jnp.exp(-beta * gap) * (1 + carry)
            return carry, jnp.log(mu + alpha * carry)

        _, logs = lax.scan(step, jnp.zeros((), raw.dtype), jnp.diff(times))
        compensator = mu * 10 + alpha / beta * jnp.sum(1 - jnp.exp(-beta * (10 - times)))
        return compensator - logs.sum() - jnp.log(mu)

    return nll, (draw.array([0.2, -0.5, 0.9]),)


@case(argnums=(0, 1))
def probabilistic_pca(draw):
    x = draw.normal(20, 5)

    def nll(w, log_noise):
        model = w @ w.T + jnp.exp(log_noise) * jnp.eye(5)
        return 0.5 * (jnp.linalg.slogdet(model)[1] + jnp.trace(jnp.linalg.inv(model) @ jnp.cov(x.T)))

    return nll, (draw.normal(5, 2), draw.array(-0.3))


@case
def beta_binomial_and_entropy(draw):
    n, k = np.array([10, 12, 8]), np.array([3, 9, 0])

    def nll(ab):
        a, b = jnp.exp(ab)
        betaln = jax.scipy.special.betaln
        entropy = (
            betaln(a, b) - (a - 1) * jax.scipy.special.digamma(a) - (b - 1) * jax.scipy.special.digamma(b)
        )
        return jnp.sum(betaln(a, b) - betaln(k + a, n - k + b)) - 0.1 * entropy

    return nll, (draw.array([0.3, 0.8]),)


@case
def matrix_factorisation_with_missing_data(draw):
    ratings = np.where(draw.rng.uniform(size=(6, 5)) < 0.3, np.nan, draw.rng.normal(size=(6, 5)))

    def loss(p, ratings):
        seen = ~jnp.isnan(ratings)
        error = jnp.where(seen, ratings, 0) - jnp.where(seen, p["users"] @ p["items"].T, 0)
        return jnp.sum(error**2) / seen.sum() + 0.01 * sum(jnp.sum(v**2) for v in p.values())

    return loss, ({"users": draw.normal(6, 2), "items": draw.normal(5, 2)}, draw.array(ratings))


# Dynamics


def runge_kutta(field, y, dt, *args):
    k1 = field(y, *args)
    k2 = field(y + dt / 2 * k1, *args)
    k3 = field(y + dt / 2 * k2, *args)
    k4 = field(y + dt * k3, *args)
    return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def predators(y, theta):
    prey, hunters = y
    a, b, c, d = theta
    return jnp.stack([a * prey - b * prey * hunters, c * prey * hunters - d * hunters])


@case(argnums=(0, 1))
def lotka_volterra_by_runge_kutta(draw):
    def loss(theta, y0):
        def step(y, _):
            y = runge_kutta(predators, y, 0.1, theta)
            return y, y

        _, ys = lax.scan(step, y0, None, length=40)
        return jnp.mean((jnp.log(ys) - 0.2) ** 2)

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]), draw.array([10.0, 5.0]))


@case(argnums=(0, 1), notes="the adjoint is solved to a tolerance of its own")
def lotka_volterra_by_odeint(draw):
    from jax.experimental.ode import odeint

    times = draw.array([0.0, 1.0, 2.0])

    def loss(theta, y0):
        ys = odeint(lambda y, t, theta: predators(y, theta), y0, times, theta)
        return jnp.sum(ys[-1])

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]), draw.array([10.0, 5.0]))


def diffrax_adaptive(draw, rtol, atol):
    import diffrax

    def loss(theta):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: predators(y, args)),
            diffrax.Tsit5(),
            t0=0,
            t1=4,
            dt0=0.1,
            y0=draw.array([2.0, 1.0]),
            args=theta,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        )
        return jnp.sum(solution.ys**2)

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]),)


@case(needs="diffrax", notes="the choice of steps is not differentiated: right to the solver's tolerance")
def diffrax_adaptive_to_1e_minus_6(draw):
    return diffrax_adaptive(draw, 1e-6, 1e-8)


@case(
    needs="diffrax",
    expect="inconclusive",
    notes="f is the solution to 0.3 %; its own slope, in which the choice of steps takes part, is 2.4 % away",
)
def diffrax_adaptive_to_1e_minus_3(draw):
    return diffrax_adaptive(draw, 1e-3, 1e-6)


@case(needs="diffrax")
def diffrax_with_constant_steps(draw):
    import diffrax

    def loss(p):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, p: jnp.tanh(p["w"] @ y + p["b"]) - 0.1 * y),
            diffrax.Heun(),
            t0=0,
            t1=1,
            dt0=0.1,
            y0=draw.array([1.0, -0.5, 0.2]),
            args=p,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 1, 4)),
        )
        return jnp.mean(solution.ys**2)

    return loss, ({"w": draw.normal(3, 3), "b": draw.normal(3)},)


@case
def neural_ode(draw):
    y0, aim = draw.normal(4, 2), draw.normal(4, 2)

    def loss(params):
        def field(y):
            return forward(params, y, jnp.tanh)

        y = lax.fori_loop(0, 8, lambda _, y: runge_kutta(field, y, 0.125), y0)
        return jnp.mean((y - aim) ** 2)

    return loss, (draw.layers(2, 6, 2),)


@case(argnums=(0, 1, 2))
def symplectic_pendulum(draw):
    def energy_drift(q0, p0, length):
        def step(state, _):
            q, p = state
            p = p - 0.05 * 9.81 / length * jnp.sin(q)
            q = q + 0.05 * p
            return (q, p), p**2 / 2 - 9.81 / length * jnp.cos(q)

        _, energy = lax.scan(step, (q0, p0), None, length=50)
        return jnp.var(energy) + energy[-1]

    return energy_drift, (draw.array(0.7), draw.array(0.2), draw.array(1.3))


@case(argnums=(0, 1))
def hamiltonian_by_grad_inside(draw):
    centres = draw.normal(3, 2)

    def loss(q, p):
        def potential(q):
            return -jnp.log(jnp.sum(jnp.exp(-jnp.sum((q - centres) ** 2, axis=1))))

        for _ in range(6):
            p = p - 0.1 * jax.grad(potential)(q)
            q = q + 0.2 * p
            p = p - 0.1 * jax.grad(potential)(q)
        return potential(q) + p @ p / 2

    return loss, (draw.normal(2), draw.normal(2))


@case
def lennard_jones_energy(draw):
    def energy(positions):
        i, j = jnp.triu_indices(5, 1)
        d = jnp.linalg.norm(positions[i] - positions[j], axis=1)
        return jnp.sum(4 * ((1 / d) ** 12 - (1 / d) ** 6))

    corners = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, 1.15], [1.05, 1.1, 0.2]])
    return energy, (draw.array(corners + 0.05 * draw.rng.standard_normal((5, 3))),)


@case(argnums=(0, 1, 2), notes="round of the minimum image is flat almost everywhere")
def morse_in_a_periodic_box(draw):
    def energy(positions, box, depth):
        delta = positions[:, None] - positions
        delta = delta - box * jnp.round(delta / box)
        i, j = np.triu_indices(6, 1)
        r = jnp.sqrt(jnp.sum(delta[i, j] ** 2, axis=-1))
        return jnp.sum(depth * (1 - jnp.exp(-1.5 * (r - 1))) ** 2)

    return energy, (draw.uniform(0, 3, 6, 3), draw.array(3.0), draw.array(0.8))


@case
def ewald_sum(draw):
    charges, grid = (
        np.array([1.0, -1, 1, -1]),
        np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3),
    )

    def energy(positions):
        i, j = np.triu_indices(4, 1)
        r = jnp.linalg.norm(positions[i] - positions[j], axis=1)
        real = jnp.sum(charges[i] * charges[j] * jax.scipy.special.erfc(r) / r)
        waves = 2 * np.pi / 4 * grid[np.any(grid != 0, axis=1)]
        k2 = np.sum(waves**2, axis=1)
        structure = jnp.exp(1j * positions @ waves.T).T @ charges
        return real + 2 * np.pi / 64 * jnp.sum(np.exp(-k2 / 4) / k2 * jnp.abs(structure) ** 2)

    return energy, (draw.array(np.array([[0.0, 0, 0], [1, 0.2, 0], [0.1, 1, 1], [2, 2, 1.5]]) + 0.1),)


@case(argnums=(0, 1, 2))
def ray_march_to_a_sphere(draw):
    def depth(origin, direction, centre):
        direction = direction / jnp.linalg.norm(direction)
        t = jnp.zeros((), origin.dtype)
        for _ in range(25):
            t = t + jnp.linalg.norm(origin + t * direction - centre) - 1.0
        return t

    return depth, (draw.array([0.1, -0.2, -3.0]), draw.array([0.05, 0.1, 1.0]), draw.array([0.1, 0.0, 0.5]))


@case
def physics_informed_loss(draw):
    times = draw.uniform(0, 2, 10)

    def loss(params):
        def u(t):
            return forward(params, t[None], jnp.tanh)[0]

        du, d2u = jax.grad(u), jax.grad(jax.grad(u))
        residual = jax.vmap(lambda t: d2u(t) + 0.3 * du(t) + 4 * u(t))(times)
        zero = jnp.zeros((), times.dtype)
        return jnp.mean(residual**2) + (u(zero) - 1) ** 2 + du(zero) ** 2

    return loss, (draw.layers(1, 8, 1),)


@case
def hessian_vector_product_inside(draw):
    v = draw.normal(5)

    def curvature(x):
        def inner(x):
            return jnp.sum(jnp.log(jnp.cosh(x))) + jnp.prod(jnp.sin(x))

        return v @ jax.jvp(jax.grad(inner), (x,), (v,))[1]

    return curvature, (draw.normal(5),)


@case(notes="by type: normal noise drawn inside in the default type")
def stochastic_differential_equation(draw):
    key = jax.random.key(3)

    def price(p):
        noise = jax.random.normal(key, (20, 16))

        def step(x, z):
            return x + p["rate"] * (p["mean"] - x) * 0.05 + jnp.exp(p["log_vol"]) * jnp.sqrt(0.05) * z, None

        x, _ = lax.scan(step, jnp.broadcast_to(p["start"], 16), noise)
        return jnp.mean(jnp.maximum(x - 0.2, 0))

    p = {"rate": 1.3, "mean": 0.4, "log_vol": -0.7, "start": 0.3}
    return price, ({name: draw.array(value) for name, value in p.items()},)


@case(argnums=(0, 1))
def heat_equation(draw):
    aim = draw.normal(16)

    def loss(u0, log_conductivity):
        def step(u, _):
            flux = jnp.exp(log_conductivity) * jnp.diff(u)
            return u + 0.2 * jnp.diff(jnp.pad(flux, 1)), None

        u, _ = lax.scan(step, u0, None, length=30)
        return jnp.mean((u - aim) ** 2)

    return loss, (draw.normal(16), draw.normal(15, scale=0.3))


@case(argnums=(0, 1))
def burgers_with_upwind_differences(draw):
    def loss(u0, viscosity):
        def step(_, u):
            left, right = u - jnp.roll(u, 1), jnp.roll(u, -1) - u
            slope = jnp.where(u > 0, left, right)
            return u - 0.1 * u * slope + viscosity * (right - left)

        return jnp.sum(lax.fori_loop(0, 15, step, u0) ** 2)

    return loss, (draw.array(np.sin(np.arange(14) * 2 * np.pi / 14 + 0.3) + 0.2), draw.array(0.1))


@case(argnums=(0, 1, 2, 3))
def gray_scott_reaction_diffusion(draw):
    def laplacian(u):
        return sum(jnp.roll(u, shift, axis) for shift in (-1, 1) for axis in (0, 1)) - 4 * u

    def loss(feed, kill, u, v):
        def step(state, _):
            u, v = state
            reaction = u * v**2
            new_u = u + 0.16 * laplacian(u) - reaction + feed * (1 - u)
            return (new_u, v + 0.08 * laplacian(v) + reaction - kill * v), None

        (u, v), _ = lax.scan(step, (u, v), None, length=8)
        return jnp.mean(v**2)

    return loss, (draw.array(0.035), draw.array(0.1), draw.uniform(0.5, 1, 6, 6), draw.uniform(0, 0.5, 6, 6))


@case(argnums=(0, 1, 2))
def continuous_cellular_automaton(draw):
    ring = jnp.fft.rfft2(draw.array(np.exp(-((np.hypot(*np.indices((8, 8)) - 3.5) - 2) ** 2))))

    def loss(world, mean, width):
        def step(world, _):
            excitation = jnp.fft.irfft2(jnp.fft.rfft2(world) * ring, s=(8, 8)) / 20
            return jnp.clip(
                world + 0.1 * (2 * jnp.exp(-(((excitation - mean) / width) ** 2)) - 1), 0, 1
            ), None

        return lax.scan(step, world, None, length=5)[0].mean()

    return loss, (draw.uniform(0.2, 0.8, 8, 8), draw.array(0.45), draw.array(0.15))


@case(argnums=(0, 1, 2))
def mean_field_ising(draw):
    def magnetisation(coupling, field, temperature):
        def step(_, m):
            return 0.5 * m + 0.5 * jnp.tanh((coupling + coupling.T) @ m / temperature + field)

        return jnp.mean(lax.fori_loop(0, 40, step, jnp.zeros_like(field)) ** 2)

    return magnetisation, (draw.normal(5, 5, scale=0.2), draw.normal(5), draw.array(1.5))


@case
def kepler_orbit_by_newton(draw):
    times = draw.uniform(0, 6, 9)

    def loss(p):
        mean_anomaly = p["rate"] * times + p["phase"]

        def newton(_, e):
            return e - (e - p["ecc"] * jnp.sin(e) - mean_anomaly) / (1 - p["ecc"] * jnp.cos(e))

        e = lax.fori_loop(0, 12, newton, mean_anomaly)
        x = p["a"] * (jnp.cos(e) - p["ecc"])
        y = p["a"] * jnp.sqrt(1 - p["ecc"] ** 2) * jnp.sin(e)
        return jnp.mean((x - 0.5) ** 2 + y**2)

    return loss, (
        {"rate": draw.array(1.1), "phase": draw.array(0.2), "ecc": draw.array(0.4), "a": draw.array(1.7)},
    )


@case(argnums=(0, 1, 2))
def gravity_of_planets_in_si_units(draw):
    def speed_squared(mass, position, momentum):
        gravity = 6.674e-11
        radius = jnp.linalg.norm(position)
        return jnp.sum((momentum / 1e24) ** 2) / 2 - gravity * mass / radius

    position, momentum = draw.array([1.2e11, 0.9e11, 1e9]), draw.array([2e28, -2.1e28, 1e26])
    return speed_squared, (draw.array(1.99e30), position, momentum)


@case(argnums=(0, 1))
def three_bodies_with_softening(draw):
    masses = np.array([1.0, 0.5, 0.2])

    def loss(x, v):
        def acceleration(x):
            d = x[None] - x[:, None]
            return jnp.sum(masses[:, None] * d / (jnp.sum(d**2, -1, keepdims=True) + 0.1) ** 1.5, axis=1)

        def step(state, _):
            x, v = state
            v = v + 0.05 * acceleration(x)
            return (x + 0.05 * v, v), None

        (x, v), _ = lax.scan(step, (x, v), None, length=30)
        return jnp.sum(x**2)

    return loss, (draw.normal(3, 2), draw.normal(3, 2, scale=0.3))


@case(argnums=(0, 1, 2))
def bloch_equations(draw):
    def signal(pulse, t1, t2):
        def step(m, b1):
            angle = jnp.hypot(b1[0], b1[1]) + 1e-3
            axis = jnp.stack([b1[0], b1[1], 1e-3 * angle]) / angle
            m = (
                m * jnp.cos(angle)
                + jnp.cross(axis, m) * jnp.sin(angle)
                + axis * (axis @ m) * (1 - jnp.cos(angle))
            )
            decay = jnp.exp(-0.1 / jnp.stack([t2, t2, t1]))
            return m * decay + jnp.array([0, 0, 1]) * (1 - decay), m[0]

        m, seen = lax.scan(step, draw.array([0.0, 0.0, 1.0]), pulse)
        return jnp.sum(seen**2) - m[2]

    return signal, (draw.normal(10, 2, scale=0.5), draw.array(1.2), draw.array(0.3))


@case
def quaternion_alignment(draw):
    a, b = draw.normal(6, 3), draw.normal(6, 3)

    def loss(q):
        w, *xyz = q / jnp.sqrt(q @ q)
        v = jnp.stack(xyz)
        rotated = a + 2 * jnp.cross(v, jnp.cross(v, a) + w * a)
        return jnp.sum((rotated - b) ** 2)

    return loss, (draw.normal(4),)


@case
def lagrangian_network(draw):
    q, v = draw.normal(2), draw.normal(2)

    def loss(params):
        def lagrangian(q, v):
            return jnp.sum(v**2) + forward(params, jnp.concatenate([q, v]), jax.nn.softplus)[0] * 0.1

        mass = jax.hessian(lagrangian, 1)(q, v)
        force = jax.grad(lagrangian)(q, v) - jax.jacfwd(jax.grad(lagrangian, 1))(q, v) @ v
        return jnp.sum(jnp.linalg.solve(mass, force) ** 2)

    return loss, (draw.layers(4, 6, 1),)


@case
def stiff_kinetics_by_implicit_euler(draw):
    def loss(log_rates):
        k = jnp.exp(log_rates)

        def field(y):
            slow, fast = k[0] * y[0], k[1] * y[1] * y[2]
            return jnp.stack([fast - slow, slow - fast - k[2] * y[1] ** 2, k[2] * y[1] ** 2])

        def newton(y, _, new):
            jacobian = jnp.eye(3) - 0.1 * jax.jacfwd(field)(new)
            return new - jnp.linalg.solve(jacobian, new - y - 0.1 * field(new))

        def step(y, _):
            y = lax.fori_loop(0, 6, partial(newton, y), y)
            return y, y[0]

        y, path = lax.scan(step, draw.array([1.0, 0.0, 0.0]), None, length=8)
        return path.sum() + y[2]

    return loss, (draw.array(np.log([0.4, 1e2, 1e4])),)


@case
def epidemic_with_a_switch(draw):
    def loss(p):
        def step(state, day):
            s, i = state
            rate = lax.cond(day < 10, lambda p: p["before"], lambda p: p["after"] * 0.8, p)
            new, gone = rate * s * i, jax.nn.sigmoid(p["recovery"]) * i
            return (s - new, i + new - gone), new

        start = (draw.array(0.99), draw.array(0.01))
        _, cases = lax.scan(step, start, jnp.arange(25))
        return jnp.sum((jnp.log(cases) + 4) ** 2)

    return loss, ({"before": draw.array(0.6), "after": draw.array(0.3), "recovery": draw.array(-1.5)},)


@case
def cart_pole_controls(draw):
    def cost(forces):
        def step(state, force):
            _, v, angle, spin = state
            push = (force + 0.05 * spin**2 * jnp.sin(angle)) / 1.1
            turn = 9.8 * jnp.sin(angle) - jnp.cos(angle) * push
            turn = turn / (0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1))
            push = push - 0.05 * turn * jnp.cos(angle) / 1.1
            new = state + 0.05 * jnp.stack([v, push, spin, turn])
            return new, jnp.sum(new**2) + 0.01 * force**2

        return lax.scan(step, draw.array([0.0, 0.0, 0.2, 0.0]), forces)[1].sum()

    return cost, (draw.normal(20, scale=0.5),)


@case(argnums=(0, 1))
def hodgkin_huxley_rates(draw):
    def fraction(x):
        small = jnp.abs(x) < 1e-4
        return jnp.where(small, 1 - x / 2, x / -jnp.expm1(-jnp.where(small, 1.0, x)) * jnp.exp(-x))

    def loss(conductance, current):
        def step(carry, _):
            v, n = carry
            opening, closing = 0.1 * fraction(-(v + 55) / 10), 0.125 * jnp.exp(-(v + 65) / 80)
            n = n + 0.05 * (opening * (1 - n) - closing * n)
            v = v + 0.05 * (current - conductance * n**4 * (v + 77) - 0.3 * (v + 54.4))
            return (v, n), v

        _, vs = lax.scan(step, (draw.array(-65.0), draw.array(0.32)), None, length=60)
        return jnp.mean((vs + 60) ** 2)

    return loss, (draw.array(36.0), draw.array(10.0))


# Linear algebra


def positive(draw, n):
    a = draw.normal(n, n)
    return a @ a.T / n + jnp.eye(n, dtype=draw.dtype)


@case(argnums=(0, 1))
def linear_solve(draw):
    return lambda a, b: jnp.sum(jnp.linalg.solve(a, b) ** 2), (positive(draw, 5), draw.normal(5, 2))


@case
def inverse_and_trace(draw):
    return lambda a: jnp.trace(jnp.linalg.inv(a) @ a.T), (positive(draw, 4) + draw.normal(4, 4, scale=0.2),)


@case
def log_determinant(draw):
    def f(a):
        sign, log_det = jnp.linalg.slogdet(a)
        return sign * log_det + jnp.linalg.det(a) / 10

    return f, (draw.normal(5, 5),)


@case
def eigenvalues_of_a_symmetric_matrix(draw):
    def f(a):
        values, vectors = jnp.linalg.eigh((a + a.T) / 2)
        return jnp.sum(jnp.exp(-values)) + (vectors[:, 0] ** 2) @ jnp.arange(5.0)

    return f, (draw.array(np.diag([1.0, 2, 4, 7, 11])) + draw.normal(5, 5, scale=0.3),)


@case
def eigenvalues_of_a_general_matrix(draw):
    def f(a):
        values = jnp.linalg.eigvals(a)
        return jnp.sum(jnp.abs(values) ** 2) + jnp.max(jnp.real(values))

    return f, (draw.array([[2.0, 1, 0, 0], [-1, 2, 0.3, 0], [0.2, 0, -1, 0.4], [0, 0.1, 0.3, 4]]),)


@case
def singular_values(draw):
    def f(a):
        s = jnp.linalg.svd(a, compute_uv=False)
        return s.sum() + jnp.log(s[0] / s[-1])

    return f, (draw.normal(6, 4),)


@case
def procrustes_rotation(draw):
    x = draw.normal(8, 3)

    def f(y):
        u, _, vt = jnp.linalg.svd(x.T @ y)
        return jnp.sum((x @ (u @ vt) - y) ** 2)

    return f, (draw.normal(8, 3),)


@case
def qr_of_a_tall_matrix(draw):
    def f(a):
        q, r = jnp.linalg.qr(a)
        return jnp.sum(jnp.log(jnp.abs(jnp.diag(r)))) + jnp.sum(q[0] ** 2)

    return f, (draw.normal(6, 3),)


@case(argnums=(0, 1))
def least_squares(draw):
    def f(a, b):
        return jnp.sum(jnp.linalg.lstsq(a, b)[0] ** 3)

    return f, (draw.normal(8, 3), draw.normal(8))


@case
def matrix_exponential(draw):
    return lambda a: jnp.sum(jax.scipy.linalg.expm(a) ** 2), (draw.normal(4, 4, scale=0.5),)


@case
def pseudoinverse(draw):
    return lambda a: jnp.sum(jnp.sin(jnp.linalg.pinv(a))), (draw.normal(5, 3),)


@case
def cholesky_solve_and_wishart(draw):
    b = draw.normal(5)

    def f(a):
        factor = jax.scipy.linalg.cho_factor(a @ a.T + jnp.eye(5))
        return b @ jax.scipy.linalg.cho_solve(factor, b) + jnp.sum(jnp.log(jnp.abs(jnp.diag(factor[0]))))

    return f, (draw.normal(5, 5),)


@case
def matrix_power_and_norms(draw):
    def f(a):
        walk = jnp.linalg.matrix_power(jax.nn.softmax(a, axis=1), 5)
        return jnp.linalg.norm(walk) + jnp.linalg.norm(a, 2) + jnp.linalg.norm(a, 1)

    return f, (draw.normal(4, 4),)


@case(argnums=(0, 1))
def triangular_solve_and_kronecker(draw):
    b = draw.normal(6)

    def f(a, c):
        x = jax.scipy.linalg.solve_triangular(a, b[:3], lower=True)
        return x @ x + jnp.sum(jnp.kron(a, c) @ b) ** 2

    return f, (jnp.tril(draw.normal(3, 3)) + 2 * jnp.eye(3, dtype=draw.dtype), draw.normal(2, 2))


@case(argnums=(0, 1, 2))
def thomas_algorithm(draw):
    d = draw.normal(12)

    def f(lower, diagonal, upper):
        def down(carry, row):
            c, y = carry
            a, b, u, rhs = row
            scale = 1 / (b - a * c)
            return (u * scale, (rhs - a * y) * scale), (u * scale, (rhs - a * y) * scale)

        zero = jnp.zeros((), d.dtype)
        _, (c, y) = lax.scan(down, (zero, zero), (lower, diagonal, upper, d))

        def up(x, row):
            x = row[1] - row[0] * x
            return x, x

        return jnp.sum(lax.scan(up, zero, (c, y), reverse=True)[1] ** 2)

    return f, (draw.normal(12), 4 + draw.normal(12, scale=0.3), draw.normal(12))


@case
def conjugate_gradients(draw):
    b = draw.normal(6)

    def f(a):
        matrix = a @ a.T + jnp.eye(6)
        x, _ = jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, b, tol=1e-6)
        return jnp.sum(x**2)

    return f, (draw.normal(6, 6, scale=0.4),)


@case(argnums=(0, 1))
def custom_linear_solve(draw):
    b = draw.normal(5)

    def f(diagonal, u):
        def matvec(x):
            return diagonal * x + u * (u @ x)

        def solver(_, rhs):
            plain = rhs / diagonal
            return plain - (u / diagonal) * (u @ plain) / (1 + u @ (u / diagonal))

        return jnp.sum(lax.custom_linear_solve(matvec, b, solver, symmetric=True) ** 2)

    return f, (draw.uniform(1, 3, 5), draw.normal(5))


@case
def sparse_matrix_of_jax(draw):
    from jax.experimental import sparse

    indices, x = np.array([[0, 1], [1, 3], [2, 0], [3, 3], [0, 2]]), draw.normal(4)

    def f(data):
        y = sparse.BCOO((data, indices), shape=(4, 4)) @ x
        return jnp.sum(jnp.exp(y))

    return f, (draw.normal(5),)


@case
def tensor_train_by_einsum(draw):
    target = draw.normal(3, 4, 3)

    def loss(cores):
        return jnp.sum((jnp.einsum("ia,ajb,bk->ijk", *cores) - target) ** 2)

    return loss, ((draw.normal(3, 2), draw.normal(2, 4, 2), draw.normal(2, 3)),)


@case
def cayley_rotation(draw):
    x = draw.normal(4, 3)

    def f(a):
        skew = jnp.triu(a, 1) - jnp.triu(a, 1).T
        rotation = jnp.linalg.solve(jnp.eye(4) + skew, jnp.eye(4) - skew)
        return jnp.sum(jnp.max(rotation @ x, axis=0))

    return f, (draw.normal(4, 4),)


# Signals


@case
def spectral_loss(draw):
    aim = jnp.abs(jnp.fft.rfft(draw.normal(32)))

    def loss(signal):
        spectrum = jnp.abs(jnp.fft.rfft(signal))
        return jnp.mean((spectrum - aim) ** 2) + jnp.mean(jnp.abs(jnp.log(spectrum) - jnp.log(aim)))

    return loss, (draw.normal(32),)


@case
def convolution_by_fft(draw):
    signal = draw.normal(40)

    def loss(kernel):
        direct = jnp.convolve(signal, kernel, mode="same")
        return jnp.sum(jax.scipy.signal.fftconvolve(signal, kernel, mode="same") * jnp.tanh(direct))

    return loss, (draw.normal(7),)


@case
def mel_spectrogram_loss(draw):
    frames, window = np.arange(0, 48, 8)[:, None] + np.arange(16), np.hanning(16)
    bank, aim = draw.uniform(0, 1, 9, 5), draw.uniform(-2, 2, 6, 5)

    def loss(audio):
        power = jnp.abs(jnp.fft.rfft(audio[frames] * window)) ** 2
        return jnp.mean(jnp.abs(jnp.log(power @ bank + 1e-6) - aim))

    return loss, (draw.normal(64),)


@case
def short_time_fourier_transform(draw):
    def loss(audio):
        _, _, z = jax.scipy.signal.stft(audio, nperseg=16)
        return jnp.sum(jnp.abs(z[1:-1]) ** 2 * jnp.arange(1, 8)[:, None])

    return loss, (draw.normal(64),)


@case
def haar_wavelets(draw):
    def loss(signal):
        details, low = [], signal
        while low.size > 1:
            low, high = (low[::2] + low[1::2]) / jnp.sqrt(2), (low[::2] - low[1::2]) / jnp.sqrt(2)
            details.append(high)
        return sum(jnp.sum(jnp.sqrt(d**2 + 1e-2)) for d in details) + low[0] ** 2

    return loss, (draw.normal(32),)


@case(argnums=(0, 1))
def biquad_filter_in_scan(draw):
    audio = draw.normal(50)

    def loss(b, a):
        def step(z, x):
            y = b[0] * x + z[0]
            return jnp.stack([b[1] * x - a[0] * y + z[1], b[2] * x - a[1] * y]), y

        return jnp.mean(lax.scan(step, jnp.zeros(2, audio.dtype), audio)[1] ** 2)

    return loss, (draw.array([0.2, 0.4, 0.2]), draw.array([-0.6, 0.3]))


@case
def magnetic_resonance_reconstruction(draw):
    mask = draw.rng.uniform(size=(8, 8)) < 0.6
    measured = jnp.fft.fft2(draw.normal(8, 8)) * mask

    def loss(image):
        error = jnp.fft.fft2(image, norm="ortho") * mask - measured / 8
        smooth = jnp.sqrt(jnp.diff(image, axis=0)[:, :-1] ** 2 + jnp.diff(image, axis=1)[:-1] ** 2 + 1e-4)
        return jnp.sum(jnp.real(error * error.conj())) + 0.1 * smooth.sum()

    return loss, (draw.normal(8, 8),)


@case
def quantum_circuit(draw):
    flip = jnp.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])

    def energy(angles):
        state = jnp.zeros(4, complex).at[0].set(1)
        for a, b, c, d in angles:
            ry = jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]])
            rz = jnp.diag(jnp.exp(1j * jnp.array([-b, b])))
            ry2 = jnp.array([[jnp.cos(c), -jnp.sin(c)], [jnp.sin(c), jnp.cos(c)]])
            state = flip @ (jnp.kron(rz @ ry, ry2 * jnp.exp(1j * d)) @ state)
        operator = jnp.array([[1, 0, 0, 0.5], [0, -1, 0.5j, 0], [0, -0.5j, -1, 0], [0.5, 0, 0, 1]])
        return jnp.real(state.conj() @ operator @ state)

    return energy, (draw.uniform(-2, 2, 3, 4),)


@case
def complex_parameters(draw):
    a = draw.normal(3, 3) + 1j * draw.normal(3, 3)
    z = draw.normal(3) + 1j * draw.normal(3)
    return lambda z: jnp.sum(jnp.abs(jnp.tanh(a @ z)) ** 2) + jnp.real(z[0] ** 2), (z,)


@case
def autocorrelation_and_phase(draw):
    def loss(x):
        correlation = jnp.correlate(x, x, mode="full")[19:]
        phase = jnp.angle(jnp.fft.rfft(x)[1:4])
        return jnp.sum((correlation / correlation[0])[1:5] ** 2) + jnp.sum(jnp.cos(phase))

    return loss, (draw.normal(20),)


# Order and choice


@case
def wasserstein_by_sorting(draw):
    y = jnp.sort(draw.normal(15))
    return lambda x: jnp.mean(jnp.abs(jnp.sort(x) - y) ** 2), (draw.normal(15),)


@case
def hard_examples_by_top_k(draw):
    labels = draw.rng.integers(0, 3, 14)

    def loss(w, x):
        each = -jax.nn.log_softmax(x @ w)[jnp.arange(14), labels]
        return lax.top_k(each, 5)[0].mean()

    return loss, (draw.normal(4, 3), draw.normal(14, 4))


@case
def median_and_absolute_deviation(draw):
    def f(x):
        centre = jnp.median(x)
        return centre + jnp.median(jnp.abs(x - centre)) * jnp.std(x)

    return f, (draw.normal(11),)


@case
def quantiles_and_value_at_risk(draw):
    returns = draw.normal(40, 3)

    def risk(w):
        total = returns @ jax.nn.softmax(w)
        edge = jnp.quantile(total, 0.1)
        return -jnp.mean(jnp.where(total < edge, total, 0)) + jnp.percentile(total, 90)

    return risk, (draw.normal(3),)


@case
def soft_rank(draw):
    aim = np.argsort(np.argsort(draw.rng.standard_normal(8))) + 1.0

    def loss(scores):
        rank = 0.5 + jax.nn.sigmoid((scores[:, None] - scores) / 0.5).sum(1)
        return 1 - jnp.corrcoef(rank, aim)[0, 1]

    return loss, (draw.normal(8),)


@case
def gini_and_trimmed_mean(draw):
    def f(x):
        s = x[jnp.argsort(x)]
        n = s.size
        gini = jnp.sum((2 * jnp.arange(1, n + 1) - n - 1) * s) / (n * s.sum())
        return gini + s[2:-2].mean()

    return f, (draw.uniform(1, 5, 12),)


@case(argnums=(0, 1))
def sinkhorn_distance(draw):
    def distance(x, y):
        cost = jnp.sum((x[:, None] - y) ** 2, -1)
        f, g = jnp.zeros(6, cost.dtype), jnp.zeros(7, cost.dtype)
        for _ in range(25):
            f = -0.5 * jax.nn.logsumexp((g - cost) / 0.5 - jnp.log(7), axis=1)
            g = -0.5 * jax.nn.logsumexp((f[:, None] - cost) / 0.5 - jnp.log(6), axis=0)
        return f.mean() + g.mean()

    return distance, (draw.normal(6, 2), draw.normal(7, 2))


@case
def soft_dynamic_time_warping(draw):
    b = draw.normal(7)

    def distance(a):
        cost = (a[:, None] - b) ** 2

        def row(above, costs):
            def cell(left, inputs):
                c, up, corner = inputs
                new = c - jax.nn.logsumexp(-jnp.stack([left, up, corner]))
                return new, new

            _, new = lax.scan(cell, jnp.full((), 1e10, a.dtype), (costs, above[1:], above[:-1]))
            return jnp.concatenate([jnp.full(1, 1e10, a.dtype), new]), None

        first = jnp.full(8, 1e10, a.dtype).at[0].set(0)
        return lax.scan(row, first, cost)[0][-1]

    return distance, (draw.normal(6),)


@case(argnums=(0, 1), notes="by type: Gumbel noise drawn inside in the default type")
def gumbel_softmax(draw):
    values = draw.normal(5)

    def loss(logits, temperature, key):
        noise = jax.random.gumbel(key, (8, 5))
        return jnp.mean((jax.nn.softmax((logits + noise) / temperature) @ values) ** 2)

    return loss, (draw.normal(5), draw.array(0.7), jax.random.key(5))


@case(needs="optax", notes="piecewise linear")
def projection_onto_the_simplex(draw):
    import optax

    v = draw.normal(6)
    return lambda x: jnp.sum(optax.projections.projection_simplex(x) * v), (draw.normal(6),)


@case(argnums=(0, 1))
def logits_of_the_largest_and_its_runner_up(draw):
    def margin(x, w):
        z = x @ w
        best = jnp.argmax(z, axis=1)
        other = jnp.max(jnp.where(jax.nn.one_hot(best, 5) > 0, -jnp.inf, z), axis=1)
        return jnp.sum(jnp.take_along_axis(z, best[:, None], 1)[:, 0] - other)

    return margin, (draw.normal(4, 3), draw.normal(3, 5))


# Geometry and images


@case(argnums=(0, 1))
def linear_interpolation(draw):
    knots = np.linspace(0, 1, 6)

    def loss(x, values):
        return jnp.sum(jnp.interp(x, knots, values) ** 2)

    return loss, (draw.uniform(0.02, 0.98, 10), draw.normal(6))


@case(argnums=(0, 1))
def affine_warp_of_an_image(draw):
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")).reshape(2, -1)

    def loss(matrix, image):
        where = matrix[:, :2] @ grid + matrix[:, 2:]
        warped = jax.scipy.ndimage.map_coordinates(image, list(where), order=1, mode="nearest")
        return jnp.mean((warped - image.ravel()) ** 2)

    return loss, (draw.array([[0.953, 0.1107, 0.33], [-0.0803, 1.041, -0.41]]), draw.normal(8, 8))


@case
def optical_flow(draw):
    first, second = draw.normal(7, 7), draw.normal(7, 7)

    def loss(flow):
        rows, columns = jnp.indices((7, 7)) + flow
        r, c = jnp.clip(jnp.floor(rows), 0, 5).astype(int), jnp.clip(jnp.floor(columns), 0, 5).astype(int)
        dr, dc = rows - r, columns - c
        top = second[r, c] * (1 - dc) + second[r, c + 1] * dc
        bottom = second[r + 1, c] * (1 - dc) + second[r + 1, c + 1] * dc
        error = top * (1 - dr) + bottom * dr - first
        return jnp.mean(jnp.sqrt(error**2 + 1e-3)) + 0.1 * jnp.mean(jnp.diff(flow, axis=1) ** 2)

    return loss, (draw.uniform(0.1, 0.9, 2, 7, 7),)


@case
def natural_cubic_spline(draw):
    t, x = jnp.linspace(0.03, 0.97, 20), jnp.linspace(0, 1, 7)

    def loss(y):
        h = x[1] - x[0]
        system = np.diag(np.full(5, 4.0)) + np.diag(np.ones(4), 1) + np.diag(np.ones(4), -1)
        bend = jnp.pad(jnp.linalg.solve(system, 6 * jnp.diff(y, 2) / h**2), 1)
        i = jnp.clip(jnp.searchsorted(x, t) - 1, 0, 5)
        a, b = (x[i + 1] - t) / h, (t - x[i]) / h
        s = a * y[i] + b * y[i + 1] + ((a**3 - a) * bend[i] + (b**3 - b) * bend[i + 1]) * h**2 / 6
        return jnp.mean((s - jnp.sin(6 * t)) ** 2)

    return loss, (draw.normal(7),)


@case
def bezier_curve_length(draw):
    t = np.linspace(0, 1, 30)[:, None]

    def length(points):
        while points.shape[0] > 1:
            points = (
                (1 - t) * points[:-1, None] + t * points[1:, None]
                if points.ndim == 2
                else ((1 - t) * points[:-1] + t * points[1:])
            )
        return jnp.sum(jnp.linalg.norm(jnp.diff(points[0], axis=0), axis=1))

    return length, (draw.normal(4, 2),)


@case
def volume_rendering(draw):
    depths = np.linspace(0.1, 2, 16)

    def loss(params, rays):
        x = rays[:, None] * depths[:, None]
        out = forward(params, x, jax.nn.relu)
        alpha = 1 - jnp.exp(-jax.nn.softplus(out[..., 0]) * 0.12)
        through = jnp.cumprod(1 - alpha + 1e-10, axis=1)
        weights = alpha * jnp.concatenate([jnp.ones_like(through[:, :1]), through[:, :-1]], axis=1)
        return jnp.mean((jnp.sum(weights * jax.nn.sigmoid(out[..., 1]), axis=1) - 0.3) ** 2)

    return loss, (draw.layers(3, 8, 2), draw.normal(5, 3))


def rodrigues(w):
    angle = jnp.linalg.norm(w)
    x, y, z = w / angle
    k = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return jnp.eye(3) + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * k @ k


@case(argnums=(0, 1), notes="a vector of residuals")
def bundle_adjustment(draw):
    seen = draw.normal(3, 4, 2, scale=0.1)

    def residuals(cameras, points):
        def view(camera):
            local = points @ rodrigues(camera[:3]).T + camera[3:6]
            plane = local[:, :2] / local[:, 2:]
            r2 = jnp.sum(plane**2, axis=1, keepdims=True)
            return camera[6] * plane * (1 + 0.05 * r2)

        return (jax.vmap(view)(cameras) - seen).ravel()

    pose = np.concatenate(
        [
            0.3 * draw.rng.standard_normal((3, 3)),
            [[0, 0, 4]] + 0.1 * draw.rng.standard_normal((3, 3)),
            np.ones((3, 1)),
        ],
        axis=1,
    )
    return residuals, (draw.array(pose), draw.normal(4, 3))


@case
def pose_graph(draw):
    measured = draw.normal(4, 3, scale=0.5)

    def loss(poses):
        turn = jax.vmap(rodrigues)(poses[:, :3])
        relative = jnp.einsum("nij,nik->njk", turn[:-1], turn[1:])
        angle = jnp.arccos(jnp.clip((jnp.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))
        moved = jnp.einsum("nij,ni->nj", turn[:-1], jnp.diff(poses[:, 3:], axis=0))
        return jnp.sum(angle**2) + jnp.sum((moved - measured) ** 2)

    return loss, (draw.normal(5, 6, scale=0.6),)


@case(argnums=(0, 1))
def closest_points(draw):
    cloud, normals = draw.normal(9, 3), draw.normal(9, 3)

    def loss(pose, points):
        moved = points @ rodrigues(pose[:3]).T + pose[3:]
        nearest = jnp.argmin(jnp.sum((moved[:, None] - cloud) ** 2, -1), axis=1)
        return jnp.sum(jnp.sum((moved - cloud[nearest]) * normals[nearest], axis=1) ** 2)

    return loss, (draw.normal(6, scale=0.3), draw.normal(5, 3))


@case
def great_circle_distance(draw):
    cities = draw.uniform(-1, 1, 5, 2)

    def total(place):
        d = cities - place
        a = jnp.sin(d[:, 0] / 2) ** 2 + jnp.cos(place[0]) * jnp.cos(cities[:, 0]) * jnp.sin(d[:, 1] / 2) ** 2
        bearing = jnp.arctan2(d[:, 1], d[:, 0])
        return jnp.sum(2 * 6371 * jnp.arcsin(jnp.sqrt(a))) + jnp.sum(jnp.sin(bearing))

    return total, (draw.array([0.4, 0.1]),)


@case
def soft_silhouette(draw):
    pixels = np.stack(np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8)), -1).reshape(-1, 2)
    aim = draw.array(np.hypot(*pixels.T) < 0.6)

    def loss(corners):
        sides = jnp.roll(corners, -1, axis=0) - corners
        offset = pixels[:, None] - corners
        inside = sides[:, 0] * offset[..., 1] - sides[:, 1] * offset[..., 0]
        return jnp.mean((jnp.prod(jax.nn.sigmoid(inside / 0.1), axis=1) - aim) ** 2)

    return loss, (draw.array([[-0.8, -0.6], [0.9, -0.7], [0.1, 0.8]]),)


@case
def total_variation_denoising(draw):
    noisy = draw.normal(8, 8)

    def loss(image):
        edges = jnp.abs(jnp.diff(image, axis=0)).sum() + jnp.abs(jnp.diff(image, axis=1)).sum()
        return 0.5 * jnp.sum((image - noisy) ** 2) + 0.2 * edges

    return loss, (draw.normal(8, 8),)


@case
def gaussian_blur_and_sharpness(draw):
    image = draw.uniform(0, 1, 10, 10)

    def loss(log_width):
        t = jnp.arange(-2, 3)
        kernel = jnp.exp(-0.5 * (t / jnp.exp(log_width)) ** 2)
        kernel = kernel / kernel.sum()
        blurred = jax.scipy.signal.convolve2d(image, jnp.outer(kernel, kernel), mode="valid")
        return jnp.mean(jnp.sum(jnp.stack(jnp.gradient(blurred)) ** 2, axis=0))

    return loss, (draw.array(0.2),)


# Control flow and rules


@case
def cumulative_operations(draw):
    def f(x):
        return (
            jnp.sum(jnp.cumprod(1 + 0.1 * x))
            + jnp.sum(jnp.cumsum(x) ** 2) / 10
            + lax.cumlogsumexp(x)[-3]
            + lax.cummax(x).sum()
        )

    return f, (draw.normal(12),)


@case
def fori_loop_of_power_iterations(draw):
    def f(a):
        def step(_, v):
            v = a @ a.T @ v
            return v / jnp.linalg.norm(v)

        v = lax.fori_loop(0, 30, step, jnp.ones(4, a.dtype))
        return v @ a @ a.T @ v

    return f, (draw.normal(4, 4),)


@case(gradient=jax.jacfwd, notes="a while loop has no reverse mode")
def while_loop_of_newton_steps(draw):
    def root(a):
        def step(state):
            n, x = state
            return n + 1, x - (x**3 + a[0] * x - a[1]) / (3 * x**2 + a[0])

        return lax.while_loop(lambda s: s[0] < 15, step, (0, jnp.ones((), a.dtype)))[1]

    return root, (draw.array([1.4, 3.7]),)


@case(argnums=(0, 1))
def switch_of_activations(draw):
    kinds = np.array([0, 2, 1, 0, 1])

    def f(w, x):
        def layer(x, inputs):
            kind, w = inputs
            return lax.switch(kind, [jnp.tanh, jnp.sin, lambda z: z / (1 + z**2)], w @ x), None

        return jnp.sum(lax.scan(layer, x, (kinds, w))[0] ** 2)

    return f, (draw.normal(5, 3, 3), draw.normal(3))


@case
def custom_jvp_of_log1pexp(draw):
    @jax.custom_jvp
    def log1pexp(x):
        return jnp.log1p(jnp.exp(x))

    @log1pexp.defjvp
    def _(primals, tangents):
        return log1pexp(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]

    return lambda x: jnp.sum(log1pexp(x) ** 2), (draw.normal(8, scale=4),)


@case(argnums=(0, 1, 2))
def custom_vjp_of_a_clip(draw):
    @jax.custom_vjp
    def clip(x, low, high):
        return jnp.minimum(jnp.maximum(x, low), high)

    def ahead(x, low, high):
        return clip(x, low, high), (x, low, high)

    def back(kept, g):
        x, low, high = kept
        inside = (x > low) & (x < high)
        return (
            jnp.where(inside, g, 0),
            jnp.sum(jnp.where(x <= low, g, 0)),
            jnp.sum(jnp.where(x >= high, g, 0)),
        )

    clip.defvjp(ahead, back)
    return lambda x, low, high: jnp.sum(clip(x, low, high) ** 3), (
        draw.normal(9),
        draw.array(-0.4),
        draw.array(0.7),
    )


@case(notes="nondiff_argnums and a residual of integers")
def custom_vjp_of_a_gather(draw):
    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def take(table, size, ids):
        return table[ids] * size

    def ahead(table, size, ids):
        return take(table, size, ids), (ids, table.shape)

    def back(size, kept, g):
        ids, shape = kept
        return jnp.zeros(shape, g.dtype).at[ids].add(size * g), np.zeros(ids.shape, jax.dtypes.float0)

    take.defvjp(ahead, back)
    ids = np.array([0, 3, 3, 1])
    return lambda table: jnp.sum(take(table, 3, jnp.asarray(ids)) ** 2), (draw.normal(5, 2),)


@case
def custom_root_of_an_implicit_function(draw):
    def loss(a):
        def residual(y):
            return y - jnp.cos(a * y)

        def solve(g, guess):
            return lax.fori_loop(
                0, 20, lambda _, y: y - g(y) / jax.jvp(g, (y,), (jnp.ones_like(y),))[1], guess
            )

        y = lax.custom_root(residual, 0.7 * jnp.ones_like(a), solve, lambda g, y: y / g(jnp.ones_like(y)))
        return jnp.sum(y**2)

    return loss, (draw.uniform(0.5, 1.5, 4),)


@case
def scan_of_checkpointed_layers(draw):
    x = draw.normal(4, 5)

    @jax.checkpoint
    def layer(x, w):
        return jnp.sin(x @ w) + x, jnp.max(x)

    def loss(ws):
        x_last, peaks = lax.scan(layer, x, ws)
        return jnp.mean(x_last**2) + peaks.sum()

    return loss, (draw.normal(4, 5, 5, scale=0.4),)


@case(notes="static arguments: an integer and a string")
def jitted_with_static_arguments(draw):
    @partial(jax.jit, static_argnums=(1, 2))
    def f(x, power, kind):
        y = x**power
        return jnp.sum(jnp.sqrt(1 + y**2)) if kind == "smooth" else jnp.sum(jnp.abs(y))

    return f, (draw.normal(6), 3, "smooth")


@case
def laplacian_by_lax_map(draw):
    points = draw.normal(4, 2)

    def loss(params):
        def u(x):
            return forward(params, x, jnp.sin)[0]

        return jnp.mean(lax.map(lambda x: jnp.trace(jax.hessian(u)(x)), points) ** 2)

    return loss, (draw.layers(2, 6, 1),)


@case(argnums=(0, 2))
def first_and_third_arguments(draw):
    def f(a, n, b):
        return jnp.sum(jnp.stack([jnp.sin(k * a) for k in range(1, n)]) @ b["v"]) + b["c"][0] ** 2

    return f, (draw.normal(5), 4, {"v": draw.normal(5), "c": (draw.array(0.3), None)})


@case(notes="several outputs, one of them 0-d")
def dictionary_of_outputs(draw):
    def f(x):
        return {"u": jnp.sin(x), "v": x[0] * x[1], "w": (jnp.outer(x, x[:2]),)}

    return f, (draw.normal(4),)


@case
def scatter_and_dynamic_slices(draw):
    ids = np.array([0, 4, 4, 2])

    def f(x, start):
        bins = jnp.zeros(6, x.dtype).at[ids].add(x**2).at[1].set(jnp.exp(x[0])).at[2].mul(x[3])
        bins = bins.at[5].max(x[1])
        window = lax.dynamic_slice(jnp.pad(bins, 2, mode="edge"), (start,), (5,))
        return jnp.sum(lax.dynamic_update_slice(bins, window[:2] ** 2, (start,)) * jnp.arange(6))

    return f, (draw.normal(4), 3)


@case
def named_tuple_of_parameters(draw):
    class Params(NamedTuple):
        rate: Array
        weights: dict

    def f(p):
        return jnp.sum(jnp.exp(-p.rate * p.weights["a"] ** 2)) + (1 + p.weights["b"].mean()) ** 3

    return f, (Params(draw.array(0.7), {"a": draw.normal(5), "b": draw.normal(2, 3)}),)


@case(notes="the cast is meant; in float64 it makes f a staircase")
def float32_inside(draw):
    def f(x):
        return jnp.sum(jnp.sin(x.astype(jnp.float32)) * x)

    return f, (draw.normal(6),)


# Scales


@case
def small_sum_on_a_large_offset(draw):
    return lambda x: 1e6 + jnp.sum(jnp.sin(x)) + 1e3 * jnp.prod(x), (draw.normal(5),)


@case
def differences_of_large_parameters(draw):
    def f(x):
        return jnp.sum(jnp.log1p((x / 1e8) ** 2)) + jnp.sum(jnp.diff(x)) * 1e-9

    return f, (draw.uniform(0.5e8, 2e8, 6),)


@case
def tiny_parameters_and_values(draw):
    return lambda x: jnp.sum(x**2 * jnp.cosh(1e8 * x)), (draw.uniform(-1e-8, 1e-8, 5),)


@case
def one_pytree_of_many_scales(draw):
    def f(p):
        current = p["saturation"] * jnp.expm1(p["voltage"] / p["thermal"])
        return jnp.log(current + 1e-9) + p["capacity"] * p["frequency"] * 3 + jnp.sqrt(p["resistance"]) * 1e-4

    values = {"saturation": 1e-12, "voltage": 0.55, "thermal": 0.0259, "capacity": 1e-9, "frequency": 2e8}
    return f, ({name: draw.array(value) for name, value in {**values, "resistance": 4.7e6}.items()},)


@case
def rosenbrock_and_himmelblau(draw):
    def f(x):
        rosen = jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        return rosen + (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2

    return f, (draw.normal(6),)


@case
def ackley_and_rastrigin(draw):
    def f(x):
        ackley = -20 * jnp.exp(-0.2 * jnp.sqrt(jnp.mean(x**2))) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x)))
        return ackley + 60 + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))

    return f, (draw.uniform(-2, 2, 5),)


@case
def hill_and_michaelis_menten(draw):
    dose, response = np.array([0.1, 0.3, 1.0, 3.0, 10.0]), np.array([0.02, 0.1, 0.45, 0.9, 0.97])

    def loss(p):
        n, k, top = jnp.exp(p)
        return jnp.sum((top * dose**n / (k**n + dose**n) - response) ** 2) + (dose / (k + dose)).sum() * 0.01

    return loss, (draw.array([0.4, 0.1, -0.2]),)


@case(argnums=(0, 1, 2, 3))
def black_scholes_price(draw):
    def call(spot, volatility, rate, time, strike):
        cdf = jax.scipy.stats.norm.cdf
        d1 = (jnp.log(spot / strike) + (rate + volatility**2 / 2) * time) / (volatility * jnp.sqrt(time))
        return spot * cdf(d1) - strike * jnp.exp(-rate * time) * cdf(d1 - volatility * jnp.sqrt(time))

    return call, tuple(draw.array(value) for value in (100.0, 0.2, 0.03, 0.5, 105.0))


@case(argnums=(0, 1))
def american_put_on_a_tree(draw):
    def put(spot, volatility):
        up = jnp.exp(volatility * jnp.sqrt(0.05))
        p = (jnp.exp(0.03 * 0.05) - 1 / up) / (up - 1 / up)
        prices = spot * up ** (2.0 * jnp.arange(21) - 20)
        value = jnp.maximum(100 - prices, 0)

        def back(_, state):
            value, prices = state
            prices = prices * up
            kept = jnp.exp(-0.03 * 0.05) * (p * jnp.roll(value, -1) + (1 - p) * value)
            return jnp.maximum(kept, 100 - prices), prices

        return lax.fori_loop(0, 20, back, (value, prices))[0][0]

    return put, (draw.array(97.0), draw.array(0.25))


@case
def sharpe_ratio_of_a_portfolio(draw):
    returns = draw.normal(60, 4, scale=0.01) + 0.0005

    def ratio(logits):
        path = returns @ jax.nn.softmax(logits)
        return -path.mean() / path.std() * jnp.sqrt(252) + 0.1 * jnp.sum((path < 0) * path**2)

    return ratio, (draw.normal(4),)


# Kinks


@case(notes="kinks at 1e-7, 3e-6 and 1e-3 from the point")
def kinks_very_near(draw):
    x = draw.uniform(0.4, 0.6, 3)
    centres = x - draw.array([1.2e-7, -3e-6, 1e-3])
    return lambda x: jnp.sum(jnp.abs(x - centres) * jnp.array([1.0, 2.0, 3.0])), (x,)


@case(notes="at the kink: exact zeros")
def lasso_with_zero_coefficients(draw):
    x, y = draw.normal(12, 6), draw.normal(12)

    def loss(w):
        return jnp.mean((x @ w - y) ** 2) + 0.3 * jnp.abs(w).sum()

    return loss, (draw.array([0.5, 0.0, -1.2, 0.0, 0.0, 0.3]),)


@case(notes="at the kink: jax shares the slope among equals")
def largest_of_equals(draw):
    return lambda x: jnp.max(x) ** 2 + jnp.sum(x**2), (draw.array([1.0, 2.0, 2.0, 0.5]),)


@case(notes="at the kink: padded rows and biases that are zero")
def relu_network_at_zero(draw):
    x = draw.normal(5, 4).at[3:].set(0)

    def loss(params):
        return jnp.sum(jax.nn.relu(x @ params["w"] + params["b"]) @ params["v"])

    return loss, ({"w": draw.normal(4, 6), "b": jnp.zeros(6, draw.dtype), "v": draw.normal(6)},)


@case(notes="at the kink: margins of exactly 1")
def hinge_at_its_margin(draw):
    x, y = draw.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, -1.0, 1.0])
    return lambda w: jnp.sum(jnp.maximum(0, 1 - y * (x @ w))) + 0.5 * (w @ w), (draw.array([1.0, -0.5]),)


@case
def hundreds_of_kinks(draw):
    x, y = draw.normal(60, 6), draw.normal(60)

    def loss(params):
        return jnp.mean(jnp.abs(forward(params, x, jax.nn.relu)[:, 0] - y))

    return loss, (draw.layers(6, 12, 12, 1),)
