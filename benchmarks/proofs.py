"""What is proven on a device: the source's run, every gradient of its network, the tests of parity.

`python -m benchmarks.proofs FOLDER` prints a line of JSON.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.contenders import BATCH_SIZE, HIDDEN, LEARNING_RATE, SEED, load_problem

TESTS = tuple(f"tests/test_parity_{part}.py" for part in ("functions", "gradients", "training"))
CHECKS = 2  # of the gradient: the first compiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnet
    from jaxnet import network

    problem = load_problem(options.folder, "")
    (x, t), test = (problem.x, problem.t), (problem.x_test, problem.t_test)
    key = jax.random.key(SEED)
    params = network.init(key, (x.shape[1], HIDDEN, 10))
    run = jaxnet.fit(
        network.loss, params, (x, t), test=test, optimizer=optax.sgd(LEARNING_RATE), key=key,
        steps=len(problem.batches), batch_size=BATCH_SIZE, metrics={"accuracy": network.accuracy},
        progress=False,
    )  # fmt: skip
    found: dict[str, Any] = {"accuracy": float(run.history.test["accuracy"][-1])}
    batch = jnp.asarray(x[:BATCH_SIZE]), jnp.asarray(t[:BATCH_SIZE])
    for call in range(CHECKS):
        start = time.perf_counter()
        report = jaxnet.check_gradients(lambda p: network.loss(p, *batch), params)
        found[f"check {call}"] = time.perf_counter() - start
    found |= {"verdict": report.verdict, "elements": sum(leaf.size for leaf in jax.tree.leaves(params))}
    found["arrays"] = str(jax.tree.leaves(run.params)[0].devices())
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=Path(__file__).parents[1], capture_output=True, text=True,
    )  # fmt: skip
    last = tests.stdout.strip().splitlines()[-1]
    if tests.returncode:
        print(tests.stdout, file=sys.stderr)
        raise SystemExit(f"the tests of parity fail: {last}")
    found["parity"] = re.sub(r" in .*|=", "", last).strip()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
