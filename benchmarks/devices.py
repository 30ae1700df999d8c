"""What several devices and processes cost, beside what a model of that cost predicts: docs/scaling.md.

`python -m benchmarks.devices` prints a table: the seconds of a step of 784-50-10 by batches of 100 and of
2,000, on 1, 2, 4 and 8 devices of one process and in 1 and 2 processes, and the prediction from what was
measured apart in the same processes: the work, as many networks that each train alone on a device with its
share of a batch; the sum of a gradient between two products; the exchange of batches.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

SIZES, EXAMPLES, STEPS, TURNS, CALLS = (784, 50, 10), 20_000, 300, 3, 20


def seconds_of(f: Any, *args: Any) -> float:
    """Return the seconds of a call that waits for its result."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    return time.perf_counter() - start


def products(mesh: Any, share: int, summed: bool) -> Any:
    """Return what takes steps of two products on each device and, if summed, of the sum of a gradient."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import PartitionSpec

    from jaxnet import network
    from jaxnet.sharding import place

    split, everywhere = PartitionSpec("data"), PartitionSpec()

    def own(x: Any, gradient: Any) -> Any:
        def body(_: Any, gradient: Any) -> Any:
            (first, bias), *others = gradient
            own = (type(gradient[0])(x.T @ jnp.tanh(x @ first) * 1e-6, bias), *others)
            return jax.lax.psum(own, "data") if summed else own

        return jax.lax.fori_loop(0, STEPS, body, gradient)

    f = jax.jit(
        jax.shard_map(own, mesh=mesh, in_specs=(split, everywhere), out_specs=everywhere, check_vma=False)
    )
    shape = share * mesh.shape["data"], SIZES[0]
    x = np.random.default_rng(0).random(shape, np.float32)
    parts = jax.make_array_from_callback(shape, jax.NamedSharding(mesh, split), lambda index: x[index])
    whole = jax.NamedSharding(mesh, everywhere)
    gradient = jax.tree.map(lambda leaf: place(leaf, whole), network.init(jax.random.key(0), SIZES))
    return partial(f, parts, gradient)


def exchanges(mesh: Any, x: Any, t: Any, batch: int) -> Any:
    """Return what measures the exchange of batches as training does it, in seconds a step."""
    import jax
    import numpy as np

    from jaxnet.sharding import layout, place, replicated
    from jaxnet.training.body import exchange
    from jaxnet.training.run import _MAX_EXCHANGED
    from jaxnet.training.state import Examples

    how = layout(len(x), mesh)
    first, last = how.own_rows()
    own_x, own_t = (how.place(leaf[first:last], first) for leaf in (x, t))
    examples = Examples(own_x, own_t, None, how)
    steps: int = max(1, min(STEPS, _MAX_EXCHANGED // (batch * (x[0].nbytes + t[0].nbytes))))
    rng, f, everywhere = np.random.default_rng(0), jax.jit(exchange), replicated(mesh)

    def measure() -> float:
        drawn = rng.integers(len(x), size=(CALLS, steps, batch), dtype=np.int32)
        seconds = [seconds_of(f, place(rows, everywhere), examples) for rows in drawn]
        return float(statistics.mean(seconds)) / steps

    return measure


def child(devices: int, processes: int, own: int, port: int, batch: int) -> dict[str, float]:
    """Return the seconds of a step that one process measures, and of what it consists of."""
    import jax
    import numpy as np

    import jaxnet
    from jaxnet import network, sharding

    if processes > 1:
        sharding.connect(f"127.0.0.1:{port}", processes, own)
    parts = devices * processes
    mesh = sharding.mesh(parts) if parts > 1 else None
    rng = np.random.default_rng(0)
    x = rng.random((EXAMPLES, SIZES[0]), np.float32)
    t = rng.integers(10, size=EXAMPLES, dtype=np.int32)
    how: dict[str, Any] = {"steps": STEPS, "mesh": mesh, "progress": False}
    params = network.init(jax.random.key(0), SIZES)
    step = partial(jaxnet.fit, network.loss, params, (x, t), batch_size=batch, **how)
    keys = jax.random.split(jax.random.key(1), parts)
    networks = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (parts, *leaf.shape)), params)
    alone = partial(
        jaxnet.fit_many, network.loss, networks, (x, t), batch_size=batch // parts, key=keys, **how
    )
    pieces: dict[str, Any] = {"step": lambda: step().train_seconds / STEPS}
    if mesh is not None:
        pieces["work"] = lambda: alone().train_seconds / STEPS
        summed, not_summed = (products(mesh, batch // parts, summed) for summed in (True, False))
        pieces["sum"] = lambda: (seconds_of(summed) - seconds_of(not_summed)) / STEPS
        pieces["exchange"] = exchanges(mesh, x, t, batch)
    found: dict[str, list[float]] = {name: [] for name in pieces}
    for turn in range(1 + TURNS):  # in turn, the first to compile
        for name, measure in pieces.items():
            value = float(measure())
            if turn:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def measured(devices: int, processes: int, batch: int) -> dict[str, float]:
    """Return what the first of so many fresh processes measures."""
    with socket.create_server(("", 0)) as door:
        port = door.getsockname()[1]
    arguments = [devices, processes, port, batch]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.devices", "--child", *map(str, [own, *arguments])],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for own in range(processes)
    ]
    found = [process.communicate()[0].splitlines()[-1] for process in running]
    result: dict[str, float] = json.loads(found[0])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 2000])
    parser.add_argument("--child", type=int, nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        own, devices, processes, port, batch = options.child
        print(json.dumps(child(devices, processes, own, port, batch)))
        return
    print(
        "batch  devices  processes  step (us)  against one    work + sum + exchange (us)  predicted/measured"
    )
    for batch in options.batch:
        places = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2)]
        rounds = [{place: measured(*place, batch) for place in places} for _ in range(options.rounds)]
        for place in places:
            found = [one[place] for one in rounds]
            step = statistics.median(one["step"] for one in found)
            ratio = statistics.median(one[place]["step"] / one[1, 1]["step"] for one in rounds)
            names = ("work", "sum", "exchange")
            parts = [statistics.median(one.get(name, 0.0) for one in found) * 1e6 for name in names]
            shares = statistics.median(
                sum(one.get(name, 0.0) for name in names) / one["step"] for one in found
            )
            line = f"{batch:5}  {place[0]:7}  {place[1]:9}  {step * 1e6:9.0f}  {ratio:11.2f}"
            if place != (1, 1):
                told = " + ".join(f"{part:.0f}" for part in parts) + f" = {sum(parts):.0f}"
                line += f"  {told:>28}  {shares:18.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
