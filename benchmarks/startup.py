"""How long one waits before anything happens, each in a fresh process: `python -m benchmarks.startup`.

Printed are medians over the rounds: importing jaxnet, above what Python takes to start; every `--help`; and
from calling `fit` on MNIST's shapes to the end of its first step, with jax imported and started before.
"""

import argparse
import statistics
import subprocess
import sys
import time

from jaxnet.cli.settings import COMMANDS

FIRST_STEP = """
import time
import jax, numpy as np
from jaxnet import fit, network

params = network.init(jax.random.key(0), (784, 50, 10))
train = np.zeros((60_000, 784), np.float32), np.zeros(60_000, np.int32)
start = time.perf_counter()
fit(network.loss, params, train, steps=1, progress=False)
print(time.perf_counter() - start)
"""


def wall(*arguments: str) -> float:
    """Return the seconds that Python takes with these arguments."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step() -> float:
    done = subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = range(parser.parse_args().rounds)
    bare = statistics.median(wall("-c", "") for _ in rounds)
    imported = statistics.median(wall("-c", "import jaxnet") for _ in rounds)
    print(f"import jaxnet: {imported - bare:.3f} s (target 0.1)")
    helps = {
        " ".join(["jaxnet", *command, "--help"]): statistics.median(
            wall("-m", "jaxnet", *command, "--help") for _ in rounds
        )
        for command in [[], *([name] for name in COMMANDS)]
    }
    for name, seconds in helps.items():
        print(f"{name}: {seconds:.2f} s (target 0.35)")
    print(f"fit to its first step: {statistics.median(first_step() for _ in rounds):.2f} s (target 0.8)")


if __name__ == "__main__":
    main()
