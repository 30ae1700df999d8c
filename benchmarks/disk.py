"""Training from a dataset on disk that is larger than memory may be: its speed and its peak of memory.

`python -m benchmarks.disk` makes 4 GB of random pictures in a temporary folder, trains on them in batches of
4,096, each example drawn anew or in blocks of 32, and prints the peak of memory above importing jax, and the
speed beside that of the first 400 MB of the same data in memory, each run in a process of its own, in turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, BATCH, STEPS, CHUNK = 784, 4096, 374, 20_000  # 334 steps see 4 GB once
ROW = FEATURES * 4
FIRST = 40  # steps, before those that are timed


def make(folder: Path, rows: int) -> None:
    """Write a pair of .npy files with random inputs and labels."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, FEATURES))
    for start in range(0, rows, CHUNK):
        x[start : start + CHUNK] = rng.random((len(x[start : start + CHUNK]), FEATURES), np.float32)
    x.flush()
    np.save(folder / "t.npy", rng.integers(10, size=rows).astype(np.int32))


def peak() -> float:
    """Return the peak of this process's memory in MB."""
    # Not getrusage, whose peak a process has from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(folder: Path, where: str, sampling: Any, rows: int) -> dict[str, float]:
    """Train, compilation apart, and return the steps a second and the peak of memory above importing jax."""
    import jax

    jax.numpy.zeros(1).block_until_ready()
    before = peak()
    from jaxnet import fit, network, shards

    train: Any = shards.OnDisk.of(folder / "x.npy", folder / "t.npy")
    if where == "memory":
        x, t = (np.load(folder / f"{name}.npy", mmap_mode="r")[:rows] for name in "xt")
        train = np.array(x), np.array(t)
    params = network.init(jax.random.key(0), (FEATURES, 50, 10))
    run = partial(fit, network.loss, params, train, batch_size=BATCH, sampling=sampling, progress=False)
    first = run(steps=FIRST)
    seconds = run(steps=STEPS, resume=first).train_seconds
    seconds -= first.train_seconds
    return {"steps": (STEPS - FIRST) / seconds, "peak": peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, where, sampling, rows = options.child
        print(json.dumps(child(Path(folder), where, sampling, int(rows))))
        return
    rows = int(options.gigabytes * 2**30 / ROW)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rows)
        kinds = [(where, sampling) for sampling in ("replacement", "blocks") for where in ("disk", "memory")]
        found: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind, runs in found.items():
                command = [sys.executable, "-m", "benchmarks.disk", "--child", folder, *kind, str(rows // 10)]
                runs.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    for (where, sampling), runs in found.items():
        steps, most = (statistics.median(run[name] for run in runs) for name in ("steps", "peak"))
        told = f"{where:7} {sampling:12} {steps:7.1f} steps/s of {BATCH}; {most:6.0f} MB above importing jax"
        beside = zip(runs, found["memory", "replacement"], strict=True)
        ratios = [one["steps"] / other["steps"] for one, other in beside]
        print(f"{told}; {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of memory's")


if __name__ == "__main__":
    main()
