"""What checkpoints add to the source's run on MNIST: `python -m benchmarks.checkpoints`."""

import sys
import tempfile
import time
from contextlib import nullcontext

import jax
import numpy as np

from jaxnet import checkpoints, datasets, fit, network


def overhead(rounds: int = 5, every: int = 600, best: str | None = "test_accuracy") -> list[np.ndarray]:
    """Return for each round [2, 2] seconds: without and with checkpoints, on the clock and of all processors.

    Both runs of a round are in this process, one after the other, and rounds alternate which is first.
    """
    train, test = datasets.load("mnist")
    init_key, key = jax.random.split(jax.random.key(0))
    params = network.init(init_key, (784, 50, 10))

    def run(saver: checkpoints.Checkpointer | None) -> list[float]:
        clocks = time.perf_counter, time.process_time
        before = [clock() for clock in clocks]
        with saver or nullcontext():
            result = fit(
                network.loss,
                params,
                train,
                test=test,
                key=key,
                metrics={"accuracy": network.accuracy},
                stretch=every,
                callbacks=[] if saver is None else [saver],
                progress=False,
            )
            if saver is not None:
                saver.save(result)
        return [clock() - start for clock, start in zip(clocks, before, strict=True)]

    def with_checkpoints() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            return run(checkpoints.Checkpointer(folder, every=every, best=best))

    def without() -> list[float]:
        return run(None)

    without(), with_checkpoints()  # compiles
    measured = []
    for number in range(rounds):
        order = (without, with_checkpoints) if number % 2 else (with_checkpoints, without)
        seconds = {variant: variant() for variant in order}
        measured.append(np.array([seconds[without], seconds[with_checkpoints]]))
    return measured


if __name__ == "__main__":
    measured = overhead(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    for (wall, cpu), (wall_with, cpu_with) in measured:
        print(f"{wall:.2f} s without, {wall_with:.2f} s with; of processors {cpu:.2f} s and {cpu_with:.2f} s")
    wall, cpu = np.median([with_ / without - 1 for without, with_ in measured], axis=0)
    print(f"checkpoints add {wall:+.1%} on the clock, {cpu:+.1%} of processor time (medians)")
