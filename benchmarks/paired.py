"""What might make a run cheaper, in pairs: `python -m benchmarks.paired GROUP`; see NOTES.md for the answers.

All variants of a group take turns in one process, and quoted is the median of each round's ratio to the first
variant, which is what jaxnet does: the machine's moods hit both.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from benchmarks.contenders import BATCH_SIZE, HIDDEN, LEARNING_RATE
from jaxnet import datasets, fit_many, network, training
from jaxnet._compiler import compiler_options
from jaxnet.training import body, many
from jaxnet.training import program as compiled
from jaxnet.training.state import Examples, Measure
from jaxnet.training.turned import turned_products

STEPS, EXAMPLES, NETWORKS = 600, 60_000, 16
YNN = "xla_cpu_experimental_ynn_fusion_type"
Variants = Mapping[str, Callable[[], Any]]
OPTIMIZER = optax.sgd(LEARNING_RATE)


def data() -> tuple[Array, Array]:
    try:
        x, t = datasets.load("mnist")[0]
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        x, t = rng.random((EXAMPLES, 784), np.float32), rng.integers(10, size=EXAMPLES)
    return jnp.asarray(x), jnp.asarray(t, jnp.int32)


def gather(array: Array, rows: Array) -> Array:
    return array.at[rows].get(mode="promise_in_bounds")


def contiguous(array: Array, rows: Array) -> Array:
    return lax.dynamic_slice_in_dim(array, rows[0] % (EXAMPLES - BATCH_SIZE), BATCH_SIZE)


def jax_step(state: training.TrainState, x: Array, t: Array, loss: Any = network.loss) -> tuple[Any, Array]:
    result: tuple[Any, Array] = training.train_step(state, x, t, loss=loss, optimizer=OPTIMIZER)
    return result


def hand_step(state: training.TrainState, x: Array, t: Array, turned: bool = False) -> tuple[Any, Array]:
    """The fewest operations: one softmax for loss and gradient, no optimizer; dW as one product or turned."""
    (w1, b1), (w2, b2) = state.params
    a = jax.nn.sigmoid(x @ w1 + b1)
    log_y, one_hot = jax.nn.log_softmax(a @ w2 + b2), jax.nn.one_hot(t, 10)
    dz = (jnp.exp(log_y) - one_hot) / len(x)
    da = (dz @ w2.T) * a * (1 - a)
    dw1 = (da.T @ x).T if turned else x.T @ da
    grads = (network.Dense(dw1, da.sum(0)), network.Dense(a.T @ dz, dz.sum(0)))
    params = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state.params, grads)
    return state._replace(params=params, step=state.step + 1), -jnp.sum(log_y * one_hot) / len(x)


def loop(step: Any = jax_step, batch: Any = gather, unroll: int = 1, options: Any = None) -> Any:
    """Return a program of STEPS steps, like that of `fit` but for what is given."""

    def run(state: training.TrainState, x: Array, t: Array, rows: Array) -> Any:
        def body(carry: Any) -> Any:
            state, losses, value = carry
            for _ in range(unroll):
                drawn, index = rows[state.step], state.step
                state, value = step(state, batch(x, drawn), batch(t, drawn))
                losses = losses.at[index].set(value)
            return state, losses, value

        def running(carry: Any) -> Array:
            result: Array = (carry[0].step < STEPS) & jnp.isfinite(carry[2])
            return result

        return lax.while_loop(running, body, (state, jnp.full(STEPS, jnp.nan), jnp.zeros(())))

    options = compiler_options("steps") if options is None else options
    return jax.jit(run, compiler_options=options)


def scan(unroll: int) -> Any:
    def run(state: training.TrainState, x: Array, t: Array, rows: Array) -> Any:
        def body(state: Any, drawn: Array) -> Any:
            return jax_step(state, gather(x, drawn), gather(t, drawn))

        return lax.scan(body, state, rows, unroll=unroll)

    return jax.jit(run, compiler_options=compiler_options("steps"))


def step_group() -> Variants:
    x, t = data()
    pixels = jnp.asarray(np.round(np.asarray(x) * 255), jnp.uint8)
    state = training.init_state(network.init(jax.random.key(1), (784, HIDDEN, 10)), OPTIMIZER)
    rows = training.draw_batches(jax.random.key(0), 0, STEPS, BATCH_SIZE, EXAMPLES)

    def scaled(params: Any, x: Array, t: Array) -> Array:
        return network.loss(params, x * jnp.float32(1 / 255), t)

    def optax_loss(params: Any, x: Array, t: Array) -> Array:
        result: Array = optax.softmax_cross_entropy_with_integer_labels(network.logits(params, x), t).mean()
        return result

    programs = {
        "as fit does": (loop(), x),
        "as fit does, again": (loop(), x),
        "uint8 pixels": (loop(partial(jax_step, loss=scaled)), pixels),
        "two steps an iteration": (loop(unroll=2), x),
        "scan": (scan(1), x),
        "scan, four steps an iteration": (scan(4), x),
        "batches that need no gather": (loop(batch=contiguous), x),
        "optax's loss": (loop(partial(jax_step, loss=optax_loss)), x),
        "step by hand": (loop(hand_step), x),
        "step by hand, dW turned": (loop(partial(hand_step, turned=True)), x),
        "XLA's default options": (loop(options={}), x),
        "YNN for single products": (loop(options={YNN: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}), x),
        "YNN for products": (loop(options={YNN: "LIBRARY_FUSION_TYPE_DOT"}), x),
    }

    return {name: partial(_call, run, state, pixels, t, rows) for name, (run, pixels) in programs.items()}


def products_group() -> Variants:
    """Return the two large products of a step and nothing else, by XLA and by NumPy."""
    rng = np.random.default_rng(0)
    x, w = rng.random((BATCH_SIZE, 784), np.float32), rng.random((784, HIDDEN), np.float32)
    options = compiler_options("steps")

    def both(_: Any, w: Any, x: Any) -> Any:
        return w - np.float32(1e-6) * (x.T @ (x @ w))

    def by_numpy() -> None:
        own = w
        for i in range(STEPS):
            own = both(i, own, x)

    def program(options: Any) -> Callable[[], Array]:
        run = jax.jit(lambda w, x: lax.fori_loop(0, STEPS, partial(both, x=x), w), compiler_options=options)
        on_device = jnp.asarray(w), jnp.asarray(x)

        def call() -> Array:
            result: Array = run(*on_device).block_until_ready()
            return result

        return call

    return {"XLA": program(options), "XLA's default options": program(None), "NumPy": by_numpy}


def draw_group() -> Variants:
    """Return the first call of each way to draw the batches of a thousand steps: mostly compilation."""

    def randint(key: Array) -> Array:
        return jax.random.randint(key, (BATCH_SIZE,), 0, EXAMPLES)

    def bits(key: Array) -> Array:
        return (jax.random.bits(key, (BATCH_SIZE,), jnp.uint32) % np.uint32(EXAMPLES)).astype(jnp.int32)

    def first_call(draw: Any, impl: str | None = None) -> Callable[[], Array]:
        def call() -> Array:
            key = jax.random.key(0, impl=impl)
            jax.clear_caches()
            run = jax.jit(lambda key: jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(jnp.arange(1000)))
            result: Array = run(key).block_until_ready()
            return result

        return call

    return {
        "randint": first_call(randint),
        "bits, modulo": first_call(bits),
        "randint, rbg keys": first_call(randint, "rbg"),
    }


def evaluate_group() -> Variants:
    x, t = data()
    params = network.init(jax.random.key(1), (784, HIDDEN, 10))
    metrics = (("accuracy", Measure(network.accuracy)),)

    def whole(params: Any, x: Array, t: Array) -> Any:
        examples = Examples(x, t)
        return body.evaluate((params, ()), examples, metrics=metrics, chunk=EXAMPLES, many=False)

    turned = turned_products(network.accuracy)

    def chunks(n: int) -> Any:
        def run(params: Any, x: Array, t: Array) -> Array:
            parts = x.reshape(-1, n, 784), t.reshape(-1, n)
            result: Array = lax.map(lambda part: turned(params, *part), parts).mean()
            return result

        return jax.jit(run)

    def product(params: Any, x: Array, t: Array) -> Array:
        result: Array = x @ params[0].weight
        return result

    def halves(params: Any, x: Array, t: Array) -> Array:
        w = params[0].weight.T
        return jnp.einsum("bnk,bmk->bmn", x.reshape(2, -1, 784), jnp.stack([w, w]))

    programs = {
        "whole": jax.jit(whole),
        "products as the metric says": jax.jit(network.accuracy),
        "the first product alone": jax.jit(product),
        "the same turned, in halves": jax.jit(halves),
    } | {f"in chunks of {n}": chunks(n) for n in (100, 1000, 2000, 5000)}
    return {name: partial(_call, run, params, x, t) for name, run in programs.items()}


def _call(run: Any, *args: Any) -> Any:
    return jax.block_until_ready(run(*args))


def many_group(own: bool) -> Variants:
    """Return sweeps with shared batches or each its own, with one thing of `fit_many` undone in each."""
    x, t = data()
    seeds = jax.random.split(jax.random.key(1), NETWORKS)
    params = jax.vmap(lambda seed: network.init(seed, (784, HIDDEN, 10)))(seeds)
    rates = {"learning_rate": np.full(NETWORKS, LEARNING_RATE, np.float32)}

    def sweep(**undone: Any) -> Callable[[], Any]:
        def loss(params: Any, x: Array, t: Array) -> Array:  # its own, so that no two share a program
            return network.loss(params, x, t)

        def call() -> Any:
            module = compiled if "turned_products" in undone else many
            with mock.patch.multiple(module, **undone or {"_CACHE": many._CACHE}):
                return fit_many(
                    loss, params, (x, t), key=seeds if own else seeds[0], steps=STEPS, optimizer=optax.sgd,
                    hyperparameters=rates, progress=False,
                )  # fmt: skip

        return call

    as_it_is = {"turned_products": lambda loss: loss}
    variants = {
        "as fit_many does": sweep(),
        "again": sweep(),
        "one lane": sweep(_num_lanes=lambda: 1),
        "products as the loss says": sweep(**as_it_is),
        "those, and matrices as they are": sweep(**as_it_is, turned=lambda state: state),
    }
    return variants | ({"all of a lane at once": sweep(_CACHE=2**40)} if own else {})


GROUPS: dict[str, tuple[Callable[[], Variants], float, str]] = {
    "step": (step_group, STEPS / 1e6, "us a step"),
    "products": (products_group, STEPS / 1e6, "us a step"),
    "shared": (partial(many_group, own=False), STEPS * NETWORKS / 1e6, "us a step and network"),
    "separate": (partial(many_group, own=True), STEPS * NETWORKS / 1e6, "us a step and network"),
    "draw": (draw_group, 1, "s"),
    "evaluate": (evaluate_group, 1e-3, "ms"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    group, unit, name_of_unit = GROUPS[options.group]
    variants = group()
    for run in variants.values():
        run()
    seconds = np.empty((options.rounds, len(variants)))
    for round_ in range(options.rounds):
        for column, run in enumerate(variants.values()):
            start = time.perf_counter()
            run()
            seconds[round_, column] = time.perf_counter() - start
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    for name, taken, ratio in zip(variants, seconds.T, ratios, strict=True):
        values = np.median(taken) / unit, taken.min() / unit
        print(f"{name:32} median {values[0]:8.3g}, min {values[1]:8.3g} {name_of_unit}, x {ratio:.3f}")


if __name__ == "__main__":
    main()
