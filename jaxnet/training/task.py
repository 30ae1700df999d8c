"""What a run is asked to do, and every check of an argument before anything is computed."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key

from jaxnet._arrays import as_pair
from jaxnet.training.state import (
    BATCH_SIZE,
    STEPS,
    AnyKey,
    Loss,
    PyTree,
    Sampling,
    TrainState,
    all_finite,
    as_key,
    default_optimizer,
    draw_batches,
)

Part = Literal["train", "validation", "test"]
OnNonFinite = Literal["stop", "continue"]


class EarlyStopping(NamedTuple):
    """When to end a run that no longer gets better: after `patience` evaluations in a row without a gain.

    A gain is a metric below (mode "min") or above ("max") the best so far by more than min_delta; NaN is
    none. `metric` is a name among the metrics of `fit`, measured on `part`.
    """

    metric: str = "loss"
    part: Part = "validation"
    patience: int = 5
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0


class Task(NamedTuple):
    """What `fit` and `fit_many` are asked to do, checked and with its defaults."""

    loss: Loss
    parts: dict[str, tuple[Array, Array]]
    batches: Array | None
    steps: int
    batch_size: int
    sampling: Sampling
    metrics: Mapping[str, Loss]
    eval_every: int | None
    """None where nothing is evaluated."""
    eval_parts: tuple[str, ...]
    eval_batch: int | None
    loss_after_update: bool
    on_nonfinite: OnNonFinite
    stretch: int | None
    early_stopping: EarlyStopping | None

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on from this one's result."""
        names = ("batch_size", "sampling", "eval_every", "loss_after_update", "on_nonfinite")
        return {name: getattr(self, name) for name in names}


def check_task(
    loss: Loss,
    parts: dict[str, Any],
    *,
    batches: ArrayLike | None,
    steps: int | None,
    batch_size: int | None,
    sampling: Sampling,
    metrics: Mapping[str, Loss] | None,
    eval_every: int | None,
    eval_parts: Sequence[str] | None,
    eval_batch: int | None,
    loss_after_update: bool,
    on_nonfinite: OnNonFinite,
    stretch: int | None,
    early_stopping: EarlyStopping | None = None,
) -> Task:
    """Return the checked task; parts: train first, the others None where not given."""
    x, t = check_examples(parts["train"], "train")
    checked = {"train": (x, t)}
    if batches is not None:
        batches = check_batches(batches, len(x), steps, batch_size)
        steps, batch_size = batches.shape
    steps = check_positive_int(STEPS if steps is None else steps, "steps")
    batch_size = check_positive_int(BATCH_SIZE if batch_size is None else batch_size, "batch_size")
    check_choice(sampling, get_args(Sampling), "sampling")
    check_choice(on_nonfinite, get_args(OnNonFinite), "on_nonfinite")
    for name, examples in parts.items():
        if name != "train" and examples is not None:
            checked[name] = check_examples(examples, name, x.shape[1:])
    if metrics is None:
        metrics = {} if len(checked) == 1 else {"loss": loss}
    elif not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to functions, got {type(metrics).__name__}")
    for part in eval_parts or ():
        check_choice(part, list(checked), "eval_parts")
    evaluated = tuple(part for part in checked if eval_parts is None or part in eval_parts)
    every = (
        max(len(x) // batch_size, 1) if eval_every is None else check_positive_int(eval_every, "eval_every")
    )
    task = Task(
        loss,
        checked,
        batches,
        steps,
        batch_size,
        sampling,
        metrics,
        every if metrics and evaluated else None,
        evaluated if metrics else (),
        None if eval_batch is None else check_positive_int(eval_batch, "eval_batch"),
        loss_after_update,
        on_nonfinite,
        None if stretch is None else check_positive_int(stretch, "stretch"),
        early_stopping,
    )
    if early_stopping is not None:
        check_early_stopping(early_stopping, task)
    return task


def check_choice(value: Any, allowed: Sequence[str], name: str) -> None:
    """Refuse a value that is none of those."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed[:-1]))
        raise ValueError(f"{name} must be {f'{known} or ' if known else ''}{allowed[-1]!r}, got {value!r}")


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
        for part in task.eval_parts:
            value = jax.eval_shape(metric, params, *task.parts[part])
            if not isinstance(value, jax.ShapeDtypeStruct) or value.shape:
                got = getattr(value, "shape", type(value).__name__)
                raise TypeError(f"the metric {name!r} must return a scalar, got {got}")


def check_early_stopping(stopping: EarlyStopping, task: Task) -> None:
    """Refuse an `EarlyStopping` that the task's evaluations cannot serve."""
    for name, allowed in (
        ("part", list(task.eval_parts)),
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


def check_key(key: AnyKey, networks: int | None = None) -> Key[Array, "..."]:
    """Return the key that is meant, or one for each of many networks."""
    found = as_key(key)
    if found.shape not in ((), (networks,)):
        several = "" if networks is None else f", or {networks} of them"
        raise ValueError(f"key must be one of jax.random.key{several}, got {found.dtype}{list(found.shape)}")
    return found


def batch_error(state: TrainState, task: Task, network: int | None = None) -> Exception | None:
    """Return what the loss, given values instead of tracers, finds wrong with the batch of the next step.

    network: of many, which.
    """
    x, t = task.parts["train"]
    with jax.transfer_guard("allow"):
        if network is not None:
            state = jax.tree.map(lambda leaf: leaf[network] if leaf.ndim else leaf, state)
        step = int(state.step)
        if task.batches is None:
            rows = draw_batches(state.key, step, 1, task.batch_size, len(x), task.sampling)[0]
        else:
            rows = task.batches[step]
        try:
            task.loss(state.params, x[rows], t[rows])
        except (TypeError, ValueError) as error:
            return type(error)(f"in the batch of step {step}: {error}")
    return None


def check_examples(
    examples: tuple[ArrayLike, ArrayLike], name: str, shape: tuple[int, ...] | None = None
) -> tuple[Array, Array]:
    """Return (x, t) on the device, or say what is wrong with them; shape: of each input."""
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
        if jnp.issubdtype(array.dtype, jnp.inexact) and not all_finite(array):
            row = int(np.argwhere(~np.isfinite(np.asarray(array)))[0][0])
            raise ValueError(f"{name} {kind} must be finite, got NaN or infinity in example {row}")
    return x, t


def check_optimizer(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    """Return the optimizer, by default the source's."""
    if optimizer is None:
        return default_optimizer()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}")
    return optimizer


def check_batches(batches: ArrayLike, num_examples: int, steps: int | None, batch_size: int | None) -> Array:
    """Return explicit batches on the device, or say what is wrong with them."""
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
    """Return a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)


def check_resumable(found: TrainState, fresh: TrainState, given: AnyKey) -> TrainState:
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
    if given is not None and (jax.random.key_data(fresh.key) != jax.random.key_data(found.key)).any():
        raise ValueError("key must be that of the run to resume, or left out, got another")
    return found


def check_settings(found: Mapping[str, Any], task: Task, **more: Any) -> None:
    """Refuse to resume a run whose settings say that it is another."""
    for name, value in (task.settings() | more).items():
        if name in found and found[name] != value:
            raise ValueError(f"resume must be of a run with {name} {value!r}, got {found[name]!r}")


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
