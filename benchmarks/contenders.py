"""What a user would pick, and jaxnet: all train 784-50-10 from the same weights on the same batches.

Each contender is a function from a `Problem` to its `train(batches)`, which starts from the problem's weights
and returns the loss of every batch. One process measures one contender: `python -m benchmarks.contenders NAME
FOLDER` prints a line of JSON.
"""

import argparse
import importlib
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE, BATCH_SIZE, HIDDEN, SEED = 0.1, 100, 50, 0
WARM_UP = 100  # steps, of those that compile nothing or one step only
EVALUATE_EVERY = CHECKPOINT_EVERY = 600  # steps, an epoch of MNIST


class Problem(NamedTuple):
    """What is trained on, in NumPy; fit draws from its key the `batches` that the others are given."""

    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray
    weights: tuple[np.ndarray, ...]  # W1, b1, W2, b2
    batches: np.ndarray  # [steps, batch]
    device: str  # cpu or cuda


Train = Callable[[np.ndarray], Any]  # of batches, to their losses


class Contender(NamedTuple):
    label: str
    prepare: Callable[[Problem], Train]
    imports: tuple[str, ...] = ()  # what it cannot do without, imported before the memory's baseline is taken
    loss: str = "before"  # whose losses are alike: those "before" the update, or "after" it
    whole: bool = False  # compiled for a run of that length
    peer: bool = True  # what a user would pick instead
    gpu: bool = True
    networks: int = 1
    share: float = 1.0  # of the steps, where a run of all would take minutes


def reference(problem: Problem, dtype: type, published: bool) -> Train:
    """The source's own loop: published, or with the softmax that learns."""
    import reference_numpy

    softmax = reference_numpy.softmax if published else reference_numpy.softmax_by_row
    x: np.ndarray = np.asarray(problem.x, dtype)
    one_hot: np.ndarray = _one_hot(problem.t).astype(dtype)

    def train(batches: np.ndarray) -> list[float]:
        net = reference_numpy.TwoLayerNet(problem.x.shape[1], HIDDEN, 10, softmax=softmax)
        net.params = {
            k: p.astype(dtype) for k, p in zip(("W1", "b1", "W2", "b2"), problem.weights, strict=True)
        }
        return reference_numpy.train(net, x, one_hot, batches=batches, learning_rate=dtype(LEARNING_RATE))

    return train


def numpy_by_hand(problem: Problem) -> Train:
    """The same algorithm tuned: one forward pass, the loss from its logits, the backward pass."""
    rate = np.float32(LEARNING_RATE)

    def train(batches: np.ndarray) -> list[float]:
        w1, b1, w2, b2 = (p.copy() for p in problem.weights)
        losses = []
        for rows in batches:
            x, labels = problem.x[rows], problem.t[rows]
            a = 1 / (1 + np.exp(-(x @ w1 + b1)))
            z = a @ w2 + b2
            z -= z.max(axis=1, keepdims=True)
            exps = np.exp(z)
            sums = exps.sum(axis=1, keepdims=True)
            index = np.arange(len(rows)), labels
            losses.append(float(np.mean(np.log(sums[:, 0]) - z[index])))
            dz = exps / sums
            dz[index] -= 1
            dz /= np.float32(len(rows))
            da = dz @ w2.T * a * (1 - a)
            w2 -= rate * (a.T @ dz)
            b2 -= rate * dz.sum(axis=0)
            w1 -= rate * (x.T @ da)
            b1 -= rate * da.sum(axis=0)
        return losses

    return train


def sklearn_mlp(problem: Problem) -> Train:
    """MLPClassifier.partial_fit goes through a hundred batches a call, and tells the mean of their losses."""
    from sklearn.neural_network import MLPClassifier

    def train(batches: np.ndarray) -> list[float]:
        model = MLPClassifier(
            (HIDDEN,), activation="logistic", solver="sgd", alpha=0, batch_size=batches.shape[1],
            learning_rate_init=LEARNING_RATE, momentum=0, nesterovs_momentum=False, shuffle=False,
        )  # fmt: skip
        model.partial_fit(problem.x[batches[0]], problem.t[batches[0]], classes=np.arange(10))
        w1, b1, w2, b2 = problem.weights
        for own, given in zip([*model.coefs_, *model.intercepts_], (w1, w2, b1, b2), strict=True):
            own[:] = given
        losses: list[float] = []
        for start in range(0, len(batches), 100):
            rows = batches[start : start + 100]
            model.partial_fit(problem.x[rows.ravel()], problem.t[rows.ravel()])
            losses += [model.loss_] * len(rows)
        return losses

    return train


def torch_eager(problem: Problem) -> Train:
    import torch

    x = torch.from_numpy(problem.x).to(problem.device)
    t = torch.from_numpy(problem.t).long().to(problem.device)
    w1, b1, w2, b2 = (torch.from_numpy(p) for p in problem.weights)

    def train(batches: np.ndarray) -> np.ndarray:
        model = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Sigmoid(), torch.nn.Linear(HIDDEN, 10)
        ).to(problem.device)
        with torch.no_grad():
            for own, given in zip(model.parameters(), (w1.T, b1, w2.T, b2), strict=True):
                own.copy_(given)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        losses = []
        for rows in torch.from_numpy(batches).to(problem.device):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), t[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        result: np.ndarray = torch.stack(losses).cpu().numpy()
        return result

    return train


def torch_by_hand(problem: Problem) -> Train:
    """No module, no autograd: the backward pass written out, the updates fused into its products."""
    import torch

    x, one_hot = (torch.from_numpy(array).to(problem.device) for array in (problem.x, _one_hot(problem.t)))

    def train(batches: np.ndarray) -> np.ndarray:
        w1, b1, w2, b2 = (torch.from_numpy(p.copy()).to(problem.device) for p in problem.weights)
        losses = []
        for rows in torch.from_numpy(batches).to(problem.device):
            x_batch, t_batch = x.index_select(0, rows), one_hot.index_select(0, rows)
            a = torch.addmm(b1, x_batch, w1).sigmoid_()
            log_y = torch.addmm(b2, a, w2).log_softmax(1)
            losses.append((log_y * t_batch).sum())
            dz = log_y.exp_().sub_(t_batch).div_(len(rows))
            da = (dz @ w2.T).mul_(a).mul_(1 - a)
            w2.addmm_(a.T, dz, alpha=-LEARNING_RATE)
            b2.sub_(dz.sum(0), alpha=LEARNING_RATE)
            w1.addmm_(x_batch.T, da, alpha=-LEARNING_RATE)
            b1.sub_(da.sum(0), alpha=LEARNING_RATE)
        result: np.ndarray = (torch.stack(losses) / -batches.shape[1]).cpu().numpy()
        return result

    result: Callable[[np.ndarray], Any] = torch.inference_mode()(train)
    return result


def flax_nnx(problem: Problem) -> Train:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.hidden = nnx.Linear(problem.x.shape[1], HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.sigmoid(self.hidden(x)))

    @nnx.jit
    def train_step(model: Net, optimizer: nnx.Optimizer[Net], x: Any, t: Any) -> Any:
        def loss(model: Net) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), t).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    def train(batches: np.ndarray) -> list[float]:
        model = Net(nnx.Rngs(SEED))
        w1, b1, w2, b2 = (jnp.asarray(p) for p in problem.weights)
        model.hidden.kernel, model.hidden.bias = nnx.Param(w1), nnx.Param(b1)
        model.out.kernel, model.out.bias = nnx.Param(w2), nnx.Param(b2)
        optimizer = nnx.Optimizer(model, optax.sgd(LEARNING_RATE), wrt=nnx.Param)
        losses = [train_step(model, optimizer, problem.x[rows], problem.t[rows]) for rows in batches]
        return [float(loss) for loss in losses]

    return train


def jitted_step(problem: Problem) -> Train:
    """The usual JAX loop: one jitted step, called from Python with a batch that NumPy gathered."""
    import optax

    from jaxnet import network, training

    optimizer = optax.sgd(LEARNING_RATE)

    def train(batches: np.ndarray) -> list[float]:
        state = training.init_state(_params(problem), optimizer)
        losses = []
        for rows in batches:
            x, t = problem.x[rows], problem.t[rows]
            state, loss = training.train_step(state, x, t, loss=network.loss, optimizer=optimizer)
            losses.append(loss)
        return [float(loss) for loss in losses]

    return train


def fit(problem: Problem, evaluate: bool = False, **settings: Any) -> Train:
    import jax
    import optax

    import jaxnet
    from jaxnet import network

    optimizer, params = optax.sgd(LEARNING_RATE), _params(problem)
    if evaluate:
        settings |= {
            "test": (problem.x_test, problem.t_test),
            "metrics": {"accuracy": network.accuracy},
            "eval_every": min(EVALUATE_EVERY, len(problem.batches)),
        }

    def train(batches: np.ndarray) -> Any:
        return jaxnet.fit(
            network.loss, params, (problem.x, problem.t), key=jax.random.key(SEED), steps=len(batches),
            batch_size=batches.shape[1], optimizer=optimizer, progress=False, **settings,
        )  # fmt: skip

    return train


def fit_many(problem: Problem, networks: int, share_batches: bool) -> Train:
    """Copies of one network; the first has the key, and so the batches, of the other contenders."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxnet
    from jaxnet import network

    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * networks), _params(problem))
    key = jax.random.key(SEED)
    if not share_batches:
        key = jnp.stack([key, *(jax.random.key(SEED + i) for i in range(1, networks))])
    rates = np.full(networks, LEARNING_RATE, np.float32)

    def train(batches: np.ndarray) -> Any:
        return jaxnet.fit_many(
            network.loss, stacked, (problem.x, problem.t), optimizer=optax.sgd,
            hyperparameters={"learning_rate": rates}, steps=len(batches), batch_size=batches.shape[1],
            key=key, progress=False,
        )  # fmt: skip

    return train


def _params(problem: Problem) -> Any:
    import jax.numpy as jnp

    from jaxnet import network

    w1, b1, w2, b2 = (jnp.asarray(p) for p in problem.weights)
    return network.Dense(w1, b1), network.Dense(w2, b2)


def _one_hot(t: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.eye(10, dtype=np.float32)[t]
    return result


def fit_checkpointed(problem: Problem) -> Train:
    from jaxnet.checkpoints import Checkpointer

    every = min(CHECKPOINT_EVERY, len(problem.batches))
    callbacks: list[Checkpointer] = []
    run = fit(problem, stretch=every, callbacks=callbacks)

    def train(batches: np.ndarray) -> Any:
        with tempfile.TemporaryDirectory() as folder, Checkpointer(folder, every=every) as saver:
            callbacks[:] = [saver]
            result = run(batches)
            saver.save(result)
        return result

    return train


ours = partial(Contender, imports=("jax",), whole=True, peer=False)
CONTENDERS = {
    "reference": Contender(
        "the source's loop as published, float64", partial(reference, dtype=np.float64, published=True),
        loss="published", peer=False, gpu=False,
    ),
    "reference32": Contender(
        "the source's loop corrected, float32", partial(reference, dtype=np.float32, published=False),
        loss="after", gpu=False,
    ),
    "numpy": Contender("NumPy float32 by hand", numpy_by_hand, gpu=False),
    "sklearn": Contender("scikit-learn MLPClassifier", sklearn_mlp, ("sklearn.neural_network",), gpu=False),
    "torch": Contender("PyTorch eager", torch_eager, ("torch",)),
    "torch_hand": Contender("PyTorch by hand", torch_by_hand, ("torch",)),
    "flax": Contender("Flax NNX", flax_nnx, ("jax", "flax.nnx")),
    "step": Contender("jitted step, Python loop", jitted_step, ("jax",)),
    "fit": ours("`fit`", fit),
    "fit_after": ours("`fit`, loss after the update", partial(fit, loss_after_update=True), loss="after"),
    "fit_evaluated": ours("`fit`, evaluated each epoch", partial(fit, evaluate=True)),
    "fit_checkpointed": ours(
        "`fit`, a checkpoint each epoch", fit_checkpointed, imports=("jax", "safetensors.numpy")
    ),
} | {
    f"fit_many_{n}{'' if shared else '_separate'}": ours(
        f"`fit_many`, {n} on {'shared' if shared else 'separate'} batches",
        partial(fit_many, networks=n, share_batches=shared), networks=n, share=share,
    )
    for n, shared, share in (
        (1, True, 1), (4, True, 0.5), (16, True, 0.2), (64, True, 0.1), (16, False, 0.2), (64, False, 0.1),
    )
}  # fmt: skip


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in MB (10^6 bytes)."""
    try:  # Linux's getrusage starts from the parent's peak
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024 / 1e6
    except FileNotFoundError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def load_aligned(path: Path) -> np.ndarray:
    """Load an array to where `jaxnet.datasets` would: at a multiple of 64 bytes."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape) * dtype.itemsize
        data = np.empty(size + 64, np.uint8)
        start = -data.ctypes.data % 64
        file.readinto(data[start : start + size].data)
        return data[start : start + size].view(dtype).reshape(shape)


def load_problem(folder: Path, device: str) -> Problem:
    arrays = {path.stem: load_aligned(path) for path in folder.glob("problem/*.npy")}
    weights = tuple(arrays.pop(name) for name in ("W1", "b1", "W2", "b2"))
    return Problem(**arrays, weights=weights, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", type=int, default=2, help="1: measure only the first, that compiles")
    options = parser.parse_args()
    contender = CONTENDERS[options.name]
    problem = load_problem(options.folder, options.device)
    baseline_start = time.perf_counter()
    for module in contender.imports:
        importlib.import_module(module)
    measured: dict[str, Any] = {"held_mb": peak_memory()}
    train = contender.prepare(problem)
    measured["startup"] = time.perf_counter() - baseline_start
    batches = problem.batches[: max(1, round(contender.share * len(problem.batches)))]
    for call in range(options.calls):
        given = batches if contender.whole or call else batches[:WARM_UP]
        start = time.perf_counter()
        result = train(given)
        seconds = time.perf_counter() - start
        if call == 0:
            measured |= {"first": seconds, "first_steps": len(given)}
            measured["compile"] = getattr(result, "compile_seconds", None)
            measured["peak_mb"] = peak_memory()
        else:
            measured |= {"seconds": seconds, "steps": len(given)}
            losses = result.history.loss if hasattr(result, "history") else np.asarray(result)
            losses = losses[0] if losses.ndim == 2 else losses  # of the first of many
            np.save(options.folder / f"{options.name}-{options.device}.npy", losses)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
