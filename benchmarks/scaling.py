"""How the time of a step grows with hidden width, batch, number of networks and dataset size.

`python -m benchmarks.scaling SERIES` prints, as a line of JSON, the seconds of a step (of one network) for
every value and round; values take turns within a round. Pixels and labels are random.
"""

import argparse
import json
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contenders import BATCH_SIZE, HIDDEN, LEARNING_RATE
from benchmarks.limit import step_flops

WORK, MAX_STEPS = 4e10, 2000  # floating-point operations and steps of one measurement, at most
NETWORKS = tuple(2**n for n in range(11))
DEFAULTS = {"hidden": HIDDEN, "batch": BATCH_SIZE, "networks": 1, "examples": 10_000}


class Series(NamedTuple):
    label: str
    varied: str
    values: tuple[int, ...]
    many: str = ""  # how fit_many gives them batches


SERIES = {
    "hidden": Series("hidden width", "hidden", (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
    "batch": Series("batch size", "batch", (10, 30, 100, 300, 1000, 3000, 10_000)),
    "examples": Series("training examples", "examples", (1000, 3000, 10_000, 30_000, 100_000, 300_000)),
    "shared": Series("networks, batches shared", "networks", NETWORKS, "shared"),
    "separate": Series("networks, each its batches", "networks", NETWORKS, "separate"),
}


def flops(series: Series, value: int) -> int:
    """Return the floating-point operations of one network's step."""
    setting = DEFAULTS | {series.varied: value}
    return step_flops((784, setting["hidden"], 10), setting["batch"])


def measurement(series: Series, value: int, max_steps: int) -> Any:
    """Return a function that trains and returns the seconds of a network's step, compilation apart."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnet
    from jaxnet import network

    setting = DEFAULTS | {series.varied: value}
    networks = setting["networks"]
    rng = np.random.default_rng(0)
    n = setting["examples"]
    train = jnp.asarray(rng.random((n, 784), np.float32)), jnp.asarray(rng.integers(10, size=n))
    steps = int(np.clip(WORK / flops(series, value) / networks, 10, max_steps))
    init = partial(network.init, sizes=(784, setting["hidden"], 10))
    run: Any
    settings = {"steps": steps, "batch_size": setting["batch"], "progress": False}
    if series.many:
        keys = jax.random.split(jax.random.key(0), networks)
        run = partial(
            jaxnet.fit_many, network.loss, jax.vmap(init)(keys), train, optimizer=optax.sgd(LEARNING_RATE),
            key=keys[0] if series.many == "shared" else keys,
        )  # fmt: skip
    else:
        params = init(jax.random.key(0))
        run = partial(jaxnet.fit, network.loss, params, train, optimizer=optax.sgd(LEARNING_RATE))

    def measure() -> float:
        return float(run(**settings).train_seconds) / steps / networks

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", choices=SERIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the smallest two values, ten steps")
    options = parser.parse_args()
    series = SERIES[options.series]
    values = series.values[:2] if options.quick else series.values
    seconds: dict[int, list[float]] = {value: [] for value in values}
    measures = {value: measurement(series, value, 10 if options.quick else MAX_STEPS) for value in values}
    for round_ in range(options.rounds + 1):
        for value, measure in measures.items():
            elapsed = measure()
            if round_:  # the first compiles
                seconds[value].append(elapsed)
    print(json.dumps({str(value): taken for value, taken in seconds.items()}))


if __name__ == "__main__":
    main()
