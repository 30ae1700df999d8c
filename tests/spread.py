"""What the tests of several devices and processes run, each in a process of its own: see test_sharding.py."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

import jaxnet
from jaxnet import datasets, network, sharding, shards

SIZES = (784, 50, 10)
RATES = {"learning_rate": np.linspace(0.05, 0.3, 6)}


def mnist(dtype: str = "float32", train: int = 60_000) -> Any:
    """Return MNIST in that dtype, and a network's parameters."""
    parts = datasets.load("mnist")
    (x, t), (x_test, t_test) = [(x.astype(dtype), t) for x, t in parts]
    params = network.init(jax.random.key(1), SIZES)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return (x[:train], t[:train]), (x_test, t_test), params


def networks(count: int) -> Any:
    """Return the parameters of so many networks."""
    return jax.vmap(lambda key: network.init(key, SIZES))(jax.random.split(jax.random.key(3), count))


def largest_difference(one: Any, other: Any) -> float:
    """Return the largest difference of two results' parameters."""
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def devices(which: str) -> Iterator[Any]:
    """Yield for each dtype and mesh how far 300 steps of MNIST end from those on one device."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    some = {"float64": [(2, 1), (4, 2)]}
    every = {name: [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (4, 2)] for name in ("float32", "float64")}
    for dtype, shapes in (some if which == "some" else every).items():
        # Of so many 2, 4 and 8 devices cannot have as many each.
        train, test, params = mnist(dtype, 9_999 if which == "some" else 59_999)

        def fit(mesh: Any, train: Any = train, test: Any = test, params: Any = params) -> Any:
            how: dict[str, Any] = {"optimizer": optax.adam(1e-3), "eval_every": 300, "progress": False}
            how["eval_parts"] = ["train", "test"] if mesh is None or mesh.size == 8 else ["test"]
            return jaxnet.fit(network.loss, params, train, test=test, steps=300, mesh=mesh, **how)

        alone = fit(None)
        for shape in shapes:
            result = fit(sharding.mesh(*shape))
            held = result.state.params[0].weight
            pairs = [
                (getattr(alone.history, part), getattr(result.history, part)) for part in ("train", "test")
            ]
            curves = [np.abs(own["loss"] - one["loss"]).max() for one, own in pairs if own]
            yield {
                "dtype": dtype,
                "mesh": shape,
                "difference": largest_difference(alone, result),
                "metrics": float(max(curves)),
                "devices": len(held.sharding.device_set),
                "columns": held.addressable_shards[0].data.shape[1],
            }


def many(which: str) -> Iterator[Any]:
    """Yield how far networks that are spread over four devices end from those on one."""
    jax.config.update("jax_num_cpu_devices", 4)
    (x, t), test, _ = mnist(train=3000)
    subsets = np.random.default_rng(0).integers(0, 3000, (6, 500))
    early = jaxnet.training.EarlyStopping("accuracy", "test", patience=1, mode="max")
    for name, more in {
        "one key": {},
        "own keys": {"key": jax.random.split(jax.random.key(5), 6)},
        "groups": {"max_networks": 4},
        "subsets": {"subsets": subsets},
        "early stopping": {"early_stopping": early, "steps": 300},
        "one diverges": {"hyperparameters": {"learning_rate": [0.1, 0.1, 0.1, 0.1, 1e9, 0.1]}},
    }.items():
        if which == "some" and name != "own keys":
            continue
        how: dict[str, Any] = {
            "optimizer": optax.sgd,
            "hyperparameters": RATES,
            "steps": 60,
            "eval_every": 20,
        }
        how |= {"test": test, "metrics": {"accuracy": network.accuracy}, "progress": False} | more
        one, spread = (
            jaxnet.fit_many(network.loss, networks(6), (x, t), mesh=mesh, **how)
            for mesh in (None, sharding.mesh(2, 2))
        )
        alike = jax.tree.map(
            lambda a, b: bool(np.array_equal(a, b, equal_nan=True)),
            (one.history.eval_step, one.diverged, one.stopped_early),
            (spread.history.eval_step, spread.diverged, spread.stopped_early),
        )
        losses = np.abs(one.history.loss - spread.history.loss)
        yield {
            "what": name,
            "difference": largest_difference(one, spread),
            "loss": float(np.nanmax(losses)),
            "shapes": one.history.loss.shape == spread.history.loss.shape,
            "alike": all(jax.tree.leaves(alike)),
        }


def process(port: str, count: str, own: str, what: str) -> Iterator[Any]:
    """Yield what one of several processes finds of a run that they make together."""
    sharding.connect(f"127.0.0.1:{port}", int(count), int(own), timeout=60)
    train, test, params = mnist(train=20_000)
    mesh, first = sharding.mesh(), int(own) == 0
    how: dict[str, Any] = {"steps": 300, "eval_every": 100, "metrics": {"accuracy": network.accuracy}}
    how |= {"test": test, "progress": False}
    alone = train
    if what.startswith("disk:"):
        f, alone = jaxnet.fit, shards.load(what[5:])[0]
        train = alone
    elif what == "many":
        f, params = jaxnet.fit_many, networks(6)
        how |= {"optimizer": optax.sgd, "hyperparameters": RATES}
    else:
        f = jaxnet.fit
        rows = sharding.own_rows(len(train[0]), mesh)
        x, t = (array[slice(*rows)].copy() for array in train)
        train = sharding.Share(x, t, len(train[0]))
        yield {"rows": rows}
    if what == "other data" and int(own) == 1:
        how["test"] = test[0] * 2, test[1]
    if what == "other settings" and int(own) == 1:
        how["batch_size"] = 50
    if what == "nan" and int(own) == 1:
        train.x[3] = np.nan
    held: list[int] = []

    def hold(stretch: Any) -> None:
        shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
        held.append(sum({shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}.values()))

    try:
        result = f(network.loss, params, train, mesh=mesh, callbacks=[hold], **how)
    except (
        Exception
    ) as error:  # what each process says of its error, whatever it is, is what the tests look at
        yield {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.flush()
        os._exit(1)
    found = {"steps": result.history.loss.shape[-1], "held": max(held)}
    yield found | {"evaluations": result.history.eval_step.tolist()}
    if first:
        yield {"difference": largest_difference(f(network.loss, params, alone, **how), result)}


def endless(port: str, count: str, own: str) -> Iterator[Any]:
    """Train until something ends it; the first line comes when it is under way."""
    sharding.connect(f"127.0.0.1:{port}", int(count), int(own), timeout=60)
    x = np.random.default_rng(0).normal(size=(1000, 20)).astype(np.float32)
    params = network.init(jax.random.key(0), (20, 8, 3))

    def tell(stretch: Any) -> None:
        print(json.dumps({"step": int(stretch.state.step)}), flush=True)

    train = x, np.arange(1000) % 3
    fit = {"steps": 10**8, "stretch": 100, "callbacks": [tell], "progress": False, "mesh": sharding.mesh()}
    try:
        jaxnet.fit(network.loss, params, train, **fit)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    yield {}


if __name__ == "__main__":
    for line in globals()[sys.argv[1]](*sys.argv[2:]):
        print(json.dumps(line), flush=True)
