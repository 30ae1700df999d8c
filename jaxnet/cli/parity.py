"""The command `jaxnet parity`."""

import jax
import numpy as np
import optax

from jaxnet import network, training
from jaxnet.cli import signals
from jaxnet.cli.problem import load
from jaxnet.cli.settings import Parity

_PARITY_TOLERANCE = 1e-10
_PARITY_EVERY = 100  # steps
_PARITY_LIMIT = 10**8  # steps × batch size


def run(options: Parity) -> int:
    """Train both, print the largest differences; return the exit code."""
    # The one place where jaxnet meets the reference, with which it shares no code.
    import reference_numpy

    if options.steps * options.batch_size > _PARITY_LIMIT:
        drawn = options.steps * options.batch_size
        raise ValueError(f"parity draws all batches at once, at most {_PARITY_LIMIT} examples, got {drawn}")
    (train, _), classes = load(options.data)
    x, labels = train[0].astype(np.float64), train[1]
    t = np.eye(classes)[labels]
    sizes = (x.shape[1], options.hidden, classes)
    init_key, batch_key = jax.random.split(jax.random.key(options.seed))
    batches = np.asarray(
        training.draw_batches(batch_key, 0, options.steps, options.batch_size, len(x), "replacement")
    )
    with jax.enable_x64(True):
        params = network.init(init_key, sizes, weight_std=options.weight_std, dtype=np.float64)
    reference = reference_numpy.TwoLayerNet(
        *sizes, softmax=reference_numpy.softmax_by_row, sigmoid=reference_numpy.sigmoid_stable
    )
    names = ("W1", "b1", "W2", "b2")
    reference.params = {
        name: np.array(leaf) for name, leaf in zip(names, jax.tree.leaves(params), strict=True)
    }
    reference_steps = reference_numpy.sgd_steps(
        reference, x, t, batches=batches, learning_rate=options.learning_rate
    )
    # Largest differences so far: of parameters, of exact losses, and of the exact loss from the source's,
    # which has 1e-7 inside the logarithm.
    furthest = dict.fromkeys(("params", "exact loss", "published loss"), 0.0)

    def record(name: str, difference: float) -> None:
        furthest[name] = max(furthest[name], float(abs(difference)))

    def compare(stretch: training.Stretch) -> None:
        step = 0
        for loss in stretch.loss:
            step, published = next(reference_steps)
            record("exact loss", loss - reference.exact_loss(x[batches[step]], t[batches[step]]))
            record("published loss", loss - published)
        for name, leaf in zip(names, jax.tree.leaves(stretch.state.params), strict=True):
            record("params", np.abs(reference.params[name] - leaf).max())
        if (step + 1) % (10 * _PARITY_EVERY) == 0 or step + 1 == options.steps:
            values = "  ".join(f"{name} {value:.2e}" for name, value in furthest.items())
            print(f"step {step + 1:6d}: {values}", flush=True)

    print("largest differences so far between the reference and jaxnet:")
    with jax.enable_x64(True):
        result = training.fit(
            network.loss,
            params,
            (x, labels),
            batches=batches,
            optimizer=optax.sgd(options.learning_rate),
            loss_after_update=True,
            stretch=_PARITY_EVERY,
            callbacks=[compare, signals.heed],
            progress=False,
        )
    if result.interrupted:
        raise KeyboardInterrupt
    passed = max(furthest["params"], furthest["exact loss"]) <= _PARITY_TOLERANCE
    print(
        f"parameters, compared every {_PARITY_EVERY} steps, differ at most by {furthest['params']:.2e}, "
        f"losses by {furthest['exact loss']:.2e};\n"
        f"the source's own loss differs by up to {furthest['published loss']:.2e} for its 1e-7\n"
        f"{'pass' if passed else 'FAIL'} at {_PARITY_TOLERANCE:g}"
    )
    return 0 if passed else 1
