"""The matrix-product limit: what the products of a step would take at the machine's measured float32 rate.

`python -m benchmarks.limit SIZE` prints the rates of NumPy and XLA on square matrices, as a line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

SIZE, TRIES = 2048, 7


def step_flops(sizes: Sequence[int], batch_size: int) -> int:
    """Return the floating-point operations of a step's products: forward, dW, and da of the hidden layers."""
    products = [inputs * outputs for inputs, outputs in pairwise(sizes)]
    return 2 * batch_size * (3 * sum(products) - products[0])


def best_rate(product: Callable[[], object], size: int) -> float:
    """Return the floating-point operations per second of the fastest of a few products."""
    product()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def main() -> None:
    import jax
    import jax.numpy as jnp

    size = int(sys.argv[1]) * (1 if jax.default_backend() == "cpu" else 8)
    a = np.random.default_rng(0).random((size, size), np.float32)
    on_device, dot = jnp.asarray(a), jax.jit(jnp.dot)
    rates = {"XLA": best_rate(lambda: dot(on_device, on_device).block_until_ready(), size)}
    if jax.default_backend() == "cpu":
        rates["NumPy"] = best_rate(lambda: a @ a, size)
    json.dump(rates, sys.stdout)


if __name__ == "__main__":
    main()
