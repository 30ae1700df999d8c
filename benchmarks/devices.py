"""What several devices and processes cost, beside what a model of that cost predicts: docs/scaling.md.

`python -m benchmarks.devices` prints a table: the seconds of a step of 784-50-10 by batches of 100 and of
2,000, on 1, 2, 4 and 8 devices of one process and in 1 and 2 processes, and the prediction from what was
measured apart: the step on one device with a device's share of the batch, and the sums over devices.
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
from itertools import pairwise
from typing import Any

SIZES, EXAMPLES, STEPS = (784, 50, 10), 20_000, 300
PARAMETERS = sum(n * m + m for n, m in pairwise(SIZES))
ROW = 784 * 4 + 4  # bytes of an example
BLOCK = 2**24  # bytes of the batches that are exchanged in one sum


def seconds_of_a_sum(mesh: Any, numbers: int, repeats: int) -> float:
    """Return the seconds that the devices take to add up arrays of so many numbers, within a program."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    def sums(x: Any) -> Any:
        return jax.lax.fori_loop(0, repeats, lambda _, x: jax.lax.psum(x, "data") * 0.5, x)

    f = jax.jit(
        jax.shard_map(sums, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    )
    x = jax.jit(partial(jnp.ones, numbers), out_shardings=jax.NamedSharding(mesh, PartitionSpec()))()
    jax.block_until_ready(f(x))
    start = time.perf_counter()
    jax.block_until_ready(f(x))
    return (time.perf_counter() - start) / repeats


def seconds_of_a_step(mesh: Any, batch: int) -> float:
    """Return the seconds of a step in training, compilation apart."""
    import jax
    import numpy as np

    import jaxnet
    from jaxnet import network

    rng = np.random.default_rng(0)
    x, t = rng.random((EXAMPLES, SIZES[0]), np.float32), rng.integers(10, size=EXAMPLES)
    params = network.init(jax.random.key(0), SIZES)
    run = partial(jaxnet.fit, network.loss, params, (x, t), batch_size=batch, mesh=mesh, progress=False)
    run(steps=STEPS)
    return float(run(steps=STEPS).train_seconds) / STEPS


def child(devices: int, processes: int, own: int, port: int, batch: int) -> dict[str, float]:
    """Return what one process measures."""
    from jaxnet import sharding

    if processes > 1:
        sharding.connect(f"127.0.0.1:{port}", processes, own)
    parts = devices * processes
    mesh = sharding.mesh(parts) if parts > 1 else None
    found = {"step": seconds_of_a_step(mesh, batch)}
    if mesh is not None:
        block = max(1, min(STEPS, BLOCK // (batch * ROW)))
        found["gradient"] = seconds_of_a_sum(mesh, PARAMETERS, 100)
        found["exchange"] = seconds_of_a_sum(mesh, block * batch * ROW // 4, 3) / block
    return found


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
    cores = len(os.sched_getaffinity(0))
    print("batch  devices  processes  step (us)  against one  predicted (us)  predicted / measured")
    for batch in options.batch:
        places = [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2)]
        shares = sorted({batch // (d * p) for d, p in places})
        rounds = [
            {(d, p): measured(d, p, batch) for d, p in places}
            | {("share", share): measured(1, 1, share) for share in shares}
            for _ in range(options.rounds)
        ]

        def median(key: Any, name: str, rounds: Any = rounds) -> float:
            values = [found[key].get(name, 0.0) for found in rounds]
            return float(statistics.median(values))

        for d, p in places:
            step, parts = median((d, p), "step"), d * p
            alone = median(("share", batch // parts), "step")
            predicted = alone * -(-parts // cores) + median((d, p), "gradient") + median((d, p), "exchange")
            ratio = statistics.median(found[d, p]["step"] / found[1, 1]["step"] for found in rounds)
            print(
                f"{batch:5}  {d:7}  {p:9}  {step * 1e6:9.0f}  {ratio:11.2f}  {predicted * 1e6:14.0f}  "
                f"{predicted / step:20.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
