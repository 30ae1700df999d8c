"""Networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case, forward, normed


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
