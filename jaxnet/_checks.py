"""What `fit` and `fit_many` check of their arguments before anything is computed."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from jaxnet._arrays import as_pair
from jaxnet._steps import (
    BATCH_SIZE,
    STEPS,
    Loss,
    Sampling,
    TrainState,
    all_finite,
    default_optimizer,
    draw_batches,
)

PyTree = Any


class Task(NamedTuple):
    """What `fit` and `fit_many` are asked to do, checked and with its defaults."""

    parts: dict[str, tuple[Array, Array]]
    batches: Array | None
    steps: int
    batch_size: int
    metrics: Mapping[str, Loss]
    eval_every: int | None
    """None where nothing is evaluated."""


def check_task(
    loss: Loss,
    parts: dict[str, Any],
    *,
    batches: ArrayLike | None,
    steps: int | None,
    batch_size: int | None,
    sampling: str,
    metrics: Mapping[str, Loss] | None,
    eval_every: int | None,
) -> Task:
    """Return the checked task; parts: train first, the others None where not given."""
    x, t = check_examples(parts["train"], "train")
    checked = {"train": (x, t)}
    if batches is not None:
        batches = check_batches(batches, len(x), steps, batch_size)
        steps, batch_size = batches.shape
    steps = check_positive_int(STEPS if steps is None else steps, "steps")
    batch_size = check_positive_int(BATCH_SIZE if batch_size is None else batch_size, "batch_size")
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling must be 'replacement' or 'shuffle', got {sampling!r}")
    for name, examples in parts.items():
        if name != "train" and examples is not None:
            checked[name] = check_examples(examples, name, x.shape[1:])
    if metrics is None:
        metrics = {} if len(checked) == 1 else {"loss": loss}
    elif not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to functions, got {type(metrics).__name__}")
    eval_every = check_positive_int(
        max(len(x) // batch_size, 1) if eval_every is None else eval_every, "eval_every"
    )
    return Task(checked, batches, steps, batch_size, metrics, eval_every if metrics else None)


def check_params(params: PyTree) -> None:
    """Refuse params that are not floating-point or not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"params{jax.tree_util.keystr(path)} must be floating-point, got {leaf.dtype}")
    if not all_finite(params):
        raise ValueError("params must be finite, got NaN or infinity")


def check_metrics(task: Task, params: PyTree) -> None:
    """Refuse metrics that do not return a scalar; params: arrays or their shapes and dtypes."""
    for name, metric in task.metrics.items():
        for examples in task.parts.values():
            value = jax.eval_shape(metric, params, *examples)
            if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
                got = getattr(value, "shape", type(value).__name__)
                raise TypeError(f"the metric {name!r} must return a scalar, got {got}")


def check_early_stopping(stopping: Any, task: Task) -> None:
    """Refuse an `EarlyStopping` that the task's evaluations cannot serve."""
    for name, allowed in (
        ("part", list(task.parts)),
        ("metric", list(task.metrics)),
        ("mode", ["min", "max"]),
    ):
        got = getattr(stopping, name)
        if got not in allowed:
            raise ValueError(f"early_stopping.{name} must be one of {allowed}, got {got!r}")
    check_positive_int(stopping.patience, "early_stopping.patience")
    if not 0 <= stopping.min_delta < float("inf"):
        raise ValueError(
            f"early_stopping.min_delta must be finite and not negative, got {stopping.min_delta}"
        )


def batch_error(loss: Loss, state: TrainState, step: int, task: Task, sampling: Sampling) -> Exception | None:
    """Return what the loss, given values instead of tracers, finds wrong with the batch of a step."""
    x, t = task.parts["train"]
    if task.batches is None:
        rows = draw_batches(state.key, step, 1, task.batch_size, len(x), sampling)[0]
    else:
        rows = task.batches[step]
    try:
        loss(state.params, x[rows], t[rows])
    except (TypeError, ValueError) as error:
        return type(error)(f"in the batch of step {step}: {error}")
    return None


def check_examples(
    examples: tuple[ArrayLike, ArrayLike], name: str, shape: tuple[int, ...] | None = None
) -> tuple[Array, Array]:
    host = as_pair(examples, name)
    x, t = (jax.device_put(array) for array in host)  # asarray copies some NumPy arrays twice
    for before, after in zip(host, (x, t), strict=True):
        if before.size and jnp.issubdtype(after.dtype, jnp.integer):
            low, high = int(before.min()), int(before.max())
            limits = jnp.iinfo(after.dtype)
            if low < limits.min or high > limits.max:
                raise ValueError(f"{name} must fit into {after.dtype}, got {low}..{high}")
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"{name} inputs must have the shape of train inputs, {list(shape)} each, got {list(x.shape[1:])}"
        )
    for array, kind in ((x, "inputs"), (t, "targets")):
        if not all_finite(array):
            row = int(np.argwhere(~np.isfinite(np.asarray(array)))[0][0])
            raise ValueError(f"{name} {kind} must be finite, got NaN or infinity in example {row}")
    return x, t


def check_optimizer(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    if optimizer is None:
        return default_optimizer()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}")
    return optimizer


def check_batches(batches: ArrayLike, num_examples: int, steps: int | None, batch_size: int | None) -> Array:
    host = np.asarray(batches)
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"batches must be integer indices, got {host.dtype}")
    if host.ndim != 2 or not host.size:
        raise ValueError(f"batches must have shape [steps, batch] and not be empty, got {list(host.shape)}")
    if host.min() < 0 or host.max() >= num_examples:
        raise ValueError(f"batches must index 0..{num_examples - 1}, got {host.min()}..{host.max()}")
    for name, given, implied in (("steps", steps, host.shape[0]), ("batch_size", batch_size, host.shape[1])):
        if given not in (None, implied):
            raise ValueError(f"{name} must be {implied}, as batches has it, or left out, got {given}")
    return jnp.asarray(host, jnp.int32)


def check_positive_int(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)


def check_resumable(found: TrainState, fresh: TrainState, steps: int, key: PRNGKeyArray | None) -> TrainState:
    """Return the state to resume, on the device, or say in what it differs from this run's fresh one."""
    found = jax.tree.map(jnp.asarray, found)
    expected, got = (jax.tree_util.tree_leaves_with_path(state) for state in (fresh, found))
    if str(jax.tree.structure(fresh)) != str(jax.tree.structure(found)):
        raise ValueError("resume must have this run's params and optimizer, got another structure")
    for (path, leaf), (_, other) in zip(expected, got, strict=True):
        if (leaf.shape, leaf.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"resume.state{jax.tree_util.keystr(path)} must be {leaf.dtype}{list(leaf.shape)}, "
                f"got {other.dtype}{list(other.shape)}"
            )
    if found.step > steps:
        raise ValueError(
            f"steps must be at least the {found.step} that the run to resume has done, got {steps}"
        )
    if key is not None and (jax.random.key_data(key) != jax.random.key_data(found.key)).any():
        raise ValueError("key must be that of the run to resume, or left out, got another")
    return found


def check_stacked(params: PyTree) -> tuple[PyTree, int]:
    """Return the params of `fit_many` as arrays, and how many networks they are of."""
    params = jax.tree.map(jnp.asarray, params)
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(params)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        found = sorted({list(leaf.shape).__repr__() for leaf in jax.tree.leaves(params)})
        raise ValueError(f"params must have the networks on every leaf's first axis, got shapes {found}")
    return params, lengths.pop()[0]


def check_hyperparameters(
    hyperparameters: Mapping[str, ArrayLike | list], networks: int, params: PyTree
) -> dict[str, Array]:
    """Return one value of each hyperparameter for each network, in the dtype of params."""
    if not isinstance(hyperparameters, Mapping):
        got = type(hyperparameters).__name__
        raise TypeError(f"hyperparameters must be a mapping of names to arrays, got {got}")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    checked = {}
    for name, values in hyperparameters.items():
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"hyperparameters[{name!r}] must be numbers, got {array.dtype}")
        if array.shape != (networks,):
            raise ValueError(
                f"hyperparameters[{name!r}] must be one value for each of {networks} networks, "
                f"got shape {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"hyperparameters[{name!r}] must be finite, got {array.tolist()}")
        checked[name] = jnp.asarray(array, dtype if array.dtype.kind == "f" else None)
    return checked


def check_factory(optimizer: Any, hyper: Mapping[str, Array]) -> Any:
    """Return the optimizer, or the function of hyperparameters that returns one."""
    if not hyper:
        return check_optimizer(optimizer)
    if not callable(optimizer):
        got = type(optimizer).__name__
        raise TypeError(f"optimizer must be a function of {list(hyper)} that returns an optax one, got {got}")
    check_optimizer(optimizer(**{name: values[0] for name, values in hyper.items()}))
    return optimizer
