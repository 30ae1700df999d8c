"""What checkpoints add to the source's run on MNIST: `python -m benchmarks.checkpoints`."""

import statistics
import sys
import tempfile
import time

import jax

from jaxnet import checkpoints, datasets, fit, network


def overhead(
    rounds: int = 5, every: int = 600, best: str | None = "test_accuracy"
) -> list[tuple[float, float]]:
    """Return the seconds of the run without and with checkpoints, in pairs, their order alternating."""
    train, test = datasets.load("mnist")
    init_key, key = jax.random.split(jax.random.key(0))
    params = network.init(init_key, (784, 50, 10))

    def run(folder: str | None) -> float:
        saver = None if folder is None else checkpoints.Checkpointer(folder, every=every, best=best)
        start = time.perf_counter()
        with saver or tempfile.TemporaryDirectory():
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
        return time.perf_counter() - start - result.compile_seconds

    def with_checkpoints() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return run(folder)

    run(None), with_checkpoints()
    pairs = []
    for round in range(rounds):
        if round % 2:
            with_first = with_checkpoints()
            pairs.append((run(None), with_first))
        else:
            pairs.append((run(None), with_checkpoints()))
    return pairs


if __name__ == "__main__":
    pairs = overhead(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    for without, with_ in pairs:
        print(f"{without:.3f} s without, {with_:.3f} s with checkpoints: {with_ / without - 1:+.1%}")
    print(f"median {statistics.median(with_ / without - 1 for without, with_ in pairs):+.1%}")
