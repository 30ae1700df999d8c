"""What a run is asked to do, and every check of an argument before anything is computed."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Key

from jaxnet._arrays import as_examples
from jaxnet.sharding import Share, at_home, layout, place, replicated
from jaxnet.shards import OnDisk
from jaxnet.training import disk
from jaxnet.training.state import (
    BATCH_SIZE,
    STEPS,
    AnyKey,
    Examples,
    Loss,
    Measure,
    Metric,
    Objective,
    PyTree,
    Sampling,
    TrainState,
    all_finite,
    as_key,
    as_params,
    default_optimizer,
    draw_batches,
    num_examples,
    step_key,
    taken,
    takes,
    trainable,
)

_log = logging.getLogger(__name__)

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

    loss: Objective
    parts: dict[str, Examples]
    batches: Array | None
    steps: int
    batch_size: int
    sampling: Sampling
    metrics: Mapping[str, Measure]
    eval_every: int | None
    """None where nothing is evaluated."""
    eval_parts: tuple[str, ...]
    eval_batch: int | None
    loss_after_update: bool
    on_nonfinite: OnNonFinite
    stretch: int | None
    early_stopping: EarlyStopping | None
    track: tuple[str, ...] = ()
    subsets: Array | None = None
    """Of many networks the rows of train that each is trained on [networks, m]."""
    on_disk: Mapping[str, OnDisk] = {}
    """The parts that stay there, of which `parts` holds but the shapes."""
    mesh: Mesh | None = None
    """The devices that a run is spread over, where it names them."""

    @property
    def num_examples(self) -> int:
        """How many examples a network is trained on."""
        return num_examples(self.parts["train"]) if self.subsets is None else self.subsets.shape[1]

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on from this one's result."""
        names = ("batch_size", "sampling", "eval_every", "loss_after_update", "on_nonfinite")
        return {name: getattr(self, name) for name in names}


def check_task(
    loss: Loss,
    parts: dict[str, Any],
    *,
    batches: ArrayLike | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    sampling: Sampling = "replacement",
    metrics: Mapping[str, Metric] | None = None,
    eval_every: int | None = None,
    eval_parts: Sequence[str] | None = None,
    eval_batch: int | None = None,
    loss_after_update: bool = False,
    on_nonfinite: OnNonFinite = "stop",
    stretch: int | None = None,
    early_stopping: EarlyStopping | None = None,
    epochs: int | None = None,
    sample_weight: ArrayLike | list[Any] | None = None,
    class_weight: Any = None,
    has_state: bool = False,
    has_aux: bool = False,
    track: Sequence[str] = (),
    subsets: ArrayLike | None = None,
    mesh: Mesh | None = None,
    many: bool = False,
) -> Task:
    """Return the checked task; parts: train first, the others None where not given.

    With a mesh its arrays are still on the host: see `placed_task`. many: for many networks.
    """
    on_disk = {name: part for name, part in parts.items() if isinstance(part, OnDisk)}
    train = check_examples(parts["train"], "train", mesh=mesh, many=many)
    length = num_examples(train)
    if isinstance(parts["train"], Share) and isinstance(class_weight, str):
        raise ValueError("class_weight must be numbers where a process has but a share of train")
    given, loss = (
        loss,
        with_class_weight(loss, class_weight, on_disk["train"].labels() if "train" in on_disk else train.t),
    )
    train = train._replace(sample_weight=check_sample_weight(sample_weight, length, loss))
    checked = {"train": train}
    if subsets is not None:
        if batches is not None:
            raise ValueError("subsets must be left out where batches are given")
        subsets = check_rows(subsets, "subsets", "networks, m", length)
        length = subsets.shape[1]
    if batches is not None:
        batches = check_batches(batches, length, steps, batch_size)
        steps, batch_size = batches.shape
    batch_size = check_positive_int(BATCH_SIZE if batch_size is None else batch_size, "batch_size")
    if epochs is not None:
        if steps is not None:
            raise ValueError(f"epochs must be left out where steps or batches are given, got {epochs}")
        steps = check_positive_int(epochs, "epochs") * max(length // batch_size, 1)
    steps = check_positive_int(STEPS if steps is None else steps, "steps")
    check_choice(sampling, get_args(Sampling), "sampling")
    check_choice(on_nonfinite, get_args(OnNonFinite), "on_nonfinite")
    for name, examples in parts.items():
        if name != "train" and examples is not None:
            checked[name] = check_examples(examples, name, train.x, mesh=mesh, many=many)
    if metrics is None:
        metrics = {} if len(checked) == 1 else {"loss": loss}
    elif not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a mapping of names to functions, got {type(metrics).__name__}")
    measures = {
        name: Measure(metric, has_state, (has_state or has_aux) and (metric is loss or metric is given))
        for name, metric in metrics.items()
    }
    for part in eval_parts or ():
        check_choice(part, list(checked), "eval_parts")
    # Not all that one trains on, where it is on disk, unless it is asked for.
    by_default = [part for part in checked if part != "train" or part not in on_disk]
    evaluated = tuple(part for part in checked if part in (by_default if eval_parts is None else eval_parts))
    every = (
        max(length // batch_size, 1) if eval_every is None else check_positive_int(eval_every, "eval_every")
    )
    if isinstance(track, str):
        raise TypeError(f"track must be a sequence of names, got {track!r}")
    task = Task(
        Objective(loss, has_state, has_aux),
        checked,
        batches,
        steps,
        batch_size,
        sampling,
        measures,
        every if metrics and evaluated else None,
        evaluated if metrics else (),
        None if eval_batch is None else check_positive_int(eval_batch, "eval_batch"),
        loss_after_update,
        on_nonfinite,
        None if stretch is None else check_positive_int(stretch, "stretch"),
        early_stopping,
        tuple(track),
        subsets,
        on_disk,
        mesh,
    )
    if early_stopping is not None:
        check_early_stopping(early_stopping, task)
    return task


def balanced_class_weight(labels: ArrayLike, classes: int | None = None) -> np.ndarray:
    """Return a weight for each class with which all classes weigh the same: `n / (classes · n_class)`.

    classes: by default one more than the largest label; one that no example has gets 0. As scikit-learn's
    `compute_class_weight("balanced")` does of classes that all have examples.

    Raises:
        TypeError: labels are not integers.
        ValueError: labels are not of shape [n], or negative.

    >>> balanced_class_weight(np.array([0, 0, 0, 1]))
    array([0.66666667, 2.        ])
    """
    host = np.asarray(labels)
    if host.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers to weigh classes by, got {host.dtype}")
    if host.ndim != 1 or not host.size or host.min() < 0:
        raise ValueError(f"labels must be [n] and not negative to weigh classes by, got {list(host.shape)}")
    counts = np.bincount(host, minlength=classes or 0)
    return np.divide(len(host), len(counts) * counts, out=np.zeros(len(counts)), where=counts > 0)


def with_class_weight(loss: Loss, class_weight: Any, labels: PyTree) -> Loss:
    """Return the loss with a weight for each class, or say what is wrong with it."""
    if class_weight is None:
        return loss
    if not takes(loss, "class_weight"):
        raise TypeError("class_weight must be given to a loss with a parameter of that name, got one without")
    if isinstance(class_weight, str):
        check_choice(class_weight, ["balanced"], "class_weight")
        if not hasattr(labels, "dtype"):
            got = "none" if labels is None else type(labels).__name__
            raise TypeError(f"class_weight 'balanced' needs integer labels [n] for targets, got {got}")
        return partial(loss, class_weight=balanced_class_weight(labels))
    weights = np.asarray(class_weight)
    if weights.dtype.kind not in "iuf" or weights.ndim != 1 or not (weights >= 0).all() or not weights.any():
        raise ValueError(
            f"class_weight must be 'balanced' or a number for each class, none negative, got {class_weight!r}"
        )
    return partial(loss, class_weight=weights)


def check_sample_weight(weights: ArrayLike | list[Any] | None, length: int, loss: Loss) -> Array | None:
    """Return a weight for each example on the device, or say what is wrong with them."""
    if weights is None:
        return None
    if not takes(loss, "sample_weight"):
        raise TypeError(
            "sample_weight must be given to a loss with a parameter of that name, got one without"
        )
    host = np.asarray(weights)
    if host.dtype.kind not in "iufb":
        raise TypeError(f"sample_weight must be numbers, got {host.dtype}")
    if host.shape != (length,):
        raise ValueError(f"sample_weight must have shape [{length}], got {list(host.shape)}")
    if not np.isfinite(host).all() or host.min() < 0 or not host.any():
        bad = np.flatnonzero(~(np.isfinite(host) & (host >= 0)))
        got = f"{host[bad[0]]} for example {bad[0]}" if bad.size else "zeros"
        raise ValueError(f"sample_weight must be finite, not negative, and not all zero, got {got}")
    return jnp.asarray(host, float)


def check_choice(value: Any, allowed: Sequence[str], name: str) -> None:
    """Refuse a value that is none of those."""
    if value not in allowed:
        known = ", ".join(map(repr, allowed[:-1]))
        raise ValueError(f"{name} must be {f'{known} or ' if known else ''}{allowed[-1]!r}, got {value!r}")


def check_params(params: PyTree) -> None:
    """Refuse params none of which is floating-point, that are complex, or not finite."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for _, leaf in leaves):
        got = [f"params{jax.tree_util.keystr(path)} {leaf.dtype}" for path, leaf in leaves]
        raise TypeError(f"params must hold floating-point leaves to train, got {', '.join(got) or 'none'}")
    for path, leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            where = jax.tree_util.keystr(path)
            raise TypeError(f"params{where} must be real, got {leaf.dtype}")
    if not all_finite(params):
        raise ValueError("params must be finite, got NaN or infinity")


def check_model_state(state: PyTree, has_state: bool, networks: int | None = None) -> PyTree:
    """Return the first state of the model, or of many, as arrays; () where there is none."""
    if has_state != (state is not None):
        got = "none" if state is None else "one"
        raise ValueError(f"state must be given with has_state=True, and only then, got {got}")
    if state is None:
        return ()
    state = jax.tree.map(jnp.asarray, state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if networks is not None and leaf.shape[:1] != (networks,):
            where = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where} must be of {networks} networks, got shape {list(leaf.shape)}")
    if not all_finite(state):
        raise ValueError("state must be finite, got NaN or infinity")
    return state


def check_metrics(task: Task, weights: tuple[PyTree, PyTree]) -> None:
    """Refuse metrics that return no array, or one a number for each example; weights: or their shapes."""
    for name, metric in task.metrics.items():
        for part in task.eval_parts:
            examples = task.parts[part]._replace(layout=None)
            length = num_examples(examples)
            value = jax.eval_shape(metric, weights, examples)
            if not isinstance(value, jax.ShapeDtypeStruct):
                raise TypeError(
                    f"the metric {name!r} must return a number or an array, got {type(value).__name__}"
                )
            if value.shape[:1] == (length,):

                def longer(leaf: Array) -> jax.ShapeDtypeStruct:
                    return jax.ShapeDtypeStruct((len(leaf) + 1, *leaf.shape[1:]), leaf.dtype)

                more = jax.eval_shape(metric, weights, jax.tree.map(longer, examples))
                if more.shape != value.shape:
                    raise TypeError(
                        f"the metric {name!r} must reduce over the examples, got shape {list(value.shape)} "
                        f"of {length} {part} examples"
                    )
            stopping = task.early_stopping
            if value.shape and stopping is not None and stopping.metric == name:
                raise ValueError(
                    f"early_stopping.metric must be of a scalar, got {name!r} of shape {list(value.shape)}"
                )


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
    with jax.transfer_guard("allow"):
        if network is not None:
            state = jax.tree.map(lambda leaf: leaf[network] if leaf.ndim else leaf, state)
        state = at_home(state, task.mesh)
        try:
            task.loss(state.params, state.model_state, *next_batch(state, task, network))
        except (TypeError, ValueError) as error:
            return type(error)(f"in the batch of step {int(state.step)}: {error}")
    return None


def next_batch(state: TrainState, task: Task, network: int | None = None) -> tuple[Examples, Key[Array, ""]]:
    """Return the examples of a network's next step, and the key that the loss is given."""
    examples, step = task.parts["train"], int(state.step)
    if task.batches is None:
        rows = draw_batches(state.key, step, 1, task.batch_size, task.num_examples, task.sampling)[0]
    else:
        rows = task.batches[step]
    if task.subsets is not None:
        rows = task.subsets[network][rows]
    if (source := task.on_disk.get("train")) is not None:
        host = np.asarray(rows)
        disk.check_finite(source, host)
        found: Examples = jax.tree.map(jnp.asarray, disk.read(source, host, examples.sample_weight))
        return found, step_key(state.key, step)
    if task.mesh is None:
        return taken(examples, rows), step_key(state.key, step)
    return at_home(jax.jit(taken)(examples, np.asarray(rows)), task.mesh), step_key(state.key, step)


def check_examples(
    examples: Any, name: str, like: PyTree = None, mesh: Mesh | None = None, many: bool = False
) -> Examples:
    """Return examples on the device, or say what is wrong with them; like: the inputs of others.

    With a mesh they are still on the host, of many networks without a layout: each has them all.
    """
    length = None
    if isinstance(examples, OnDisk):
        if many:
            raise TypeError(f"{name} must be a pair (x, t) of arrays; a dataset on disk is for fit")
        found = disk.like(examples)
        _check_inputs(found.x, name, like)
        return found
    if isinstance(examples, Share):
        if mesh is None or many:
            raise TypeError(f"{name} must be a pair (x, t); a Share is for fit with a mesh")
        *examples, length = examples
    host = Examples(*as_examples(examples, name))
    if mesh is None:
        found = jax.tree.map(jax.device_put, host)  # asarray copies some NumPy arrays twice
    else:
        rows = num_examples(host)
        how = layout(rows if length is None else length, mesh)
        first, last = how.own_rows()
        if length is not None and rows != last - first:
            raise ValueError(
                f"{name} must be a share of {last - first} examples, rows {first}..{last - 1} of {length}, "
                f"got {rows}"
            )
        found = jax.tree.map(_as_on_device, host)._replace(layout=None if many else how)
    for before, after in zip(jax.tree.leaves(host), jax.tree.leaves(found), strict=True):
        if before.size and jnp.issubdtype(after.dtype, jnp.integer):
            low, high = int(before.min()), int(before.max())
            limits = jnp.iinfo(after.dtype)
            if low < limits.min or high > limits.max:
                raise ValueError(f"{name} must fit into {after.dtype}, got {low}..{high}")
    _check_inputs(found.x, name, like)
    for tree, kind in ((found.x, "inputs"), (found.t, "targets")):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not all_finite(leaf):
                row = int(np.argwhere(~np.isfinite(np.asarray(leaf)))[0][0])
                where = jax.tree_util.keystr(path)
                raise ValueError(f"{name} {kind}{where} must be finite, got NaN or infinity in example {row}")
    result: Examples = found
    return result


def _check_inputs(x: PyTree, name: str, like: PyTree) -> None:
    """Refuse inputs that are not like those of train."""
    if like is not None:
        wanted_tree, got = (str(jax.tree.structure(tree)) for tree in (like, x))
        if wanted_tree != got:
            raise ValueError(f"{name} inputs must be of the structure of train inputs, got {got}")
        pairs = zip(jax.tree.leaves(like), jax.tree_util.tree_leaves_with_path(x), strict=True)
        for wanted, (path, leaf) in pairs:
            if leaf.shape[1:] != wanted.shape[1:]:
                raise ValueError(
                    f"{name} inputs{jax.tree_util.keystr(path)} must have the shape of train inputs, "
                    f"{list(wanted.shape[1:])} each, got {list(leaf.shape[1:])}"
                )


def _as_on_device(leaf: Any) -> np.ndarray:
    host = np.asarray(leaf)
    return host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)


def described(task: Task, state: TrainState) -> dict[str, Any]:
    """Return what must be the same on every process of a run, the data by its content."""
    digest = hashlib.sha256()

    def add(leaf: Any, rows: bool) -> None:
        host = np.asarray(leaf)
        digest.update(f"{host.dtype}{host.shape[rows:]}".encode())
        if not rows:
            digest.update(np.ascontiguousarray(host).data)

    for source in task.on_disk.values():
        digest.update(repr([(shard.length, shard.sha256) for shard in source.shards]).encode())
    for name, part in task.parts.items():
        for leaf in jax.tree.leaves(part) * (name not in task.on_disk):  # of a share only what it is like
            add(leaf, rows=part.layout is not None and len(leaf) != part.layout.length)
        digest.update(str(num_examples(part)).encode())
    data, digest = digest.digest(), hashlib.sha256()
    for leaf in jax.tree.leaves((state, task.batches, task.subsets)):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        add(jax.random.key_data(leaf) if is_key else leaf, rows=False)
    names = "steps", "eval_parts", "eval_batch", "stretch", "early_stopping", "track"
    more = {name: getattr(task, name) for name in names}
    settings = task.settings() | more | {"metrics": sorted(task.metrics), "parts": list(task.parts)}
    return {"data": data, "settings": settings, "params, optimizer and key": digest.digest()}


def placed_task(task: Task) -> Task:
    """Return a task with its arrays on the devices of its mesh."""
    if task.mesh is None:
        return task
    everywhere = replicated(task.mesh)

    def placed(examples: Examples) -> Examples:
        how = examples.layout

        def put(leaf: np.ndarray) -> Array:
            if how is None:
                return place(leaf, everywhere)
            return how.place(leaf, 0 if len(leaf) == how.length else how.own_rows()[0])

        found: Examples = jax.tree.map(put, examples)
        return found

    batches = None if task.batches is None else place(task.batches, everywhere)
    parts = {n: e if n in task.on_disk else placed(e) for n, e in task.parts.items()}
    return task._replace(parts=parts, batches=batches)


def check_optimizer(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    """Return the optimizer, by default the source's."""
    if optimizer is None:
        return default_optimizer()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}")
    return optimizer


def check_opt_state(opt_state: optax.OptState | None, fresh: TrainState) -> optax.OptState:
    """Return the optimizer's first state: the fresh one's, or one that is like it."""
    if opt_state is None:
        return fresh.opt_state
    given = jax.tree.map(jnp.asarray, opt_state)

    def described(tree: PyTree) -> str:
        return str(jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree))

    if described(given) != described(fresh.opt_state):
        raise ValueError("opt_state must be one of this optimizer and these params, got another")
    return given


def check_first_gradient(state: TrainState, task: Task, network: int | None = None) -> None:
    """Raise GradientError with the report where the gradient of the loss of the next batch is wrong."""
    from jaxnet.gradcheck import check_gradients

    state = at_home(state, task.mesh)
    examples, key = next_batch(state, task, network)

    def loss(params: PyTree) -> Array:
        return task.loss(params, state.model_state, examples, key)[0]

    report = check_gradients(loss, state.params)
    report.raise_if_failed()
    if report.verdict == "inconclusive":
        _log.warning("the check of the gradient is inconclusive: %s", report.summary)


def check_batches(batches: ArrayLike, length: int, steps: int | None, batch_size: int | None) -> Array:
    """Return explicit batches on the device, or say what is wrong with them."""
    found = check_rows(batches, "batches", "steps, batch", length)
    for name, given, implied in zip(("steps", "batch_size"), (steps, batch_size), found.shape, strict=True):
        if given not in (None, implied):
            raise ValueError(f"{name} must be {implied}, as batches has it, or left out, got {given}")
    return found


def check_rows(rows: ArrayLike, name: str, shape: str, length: int) -> Array:
    """Return a matrix of indices of examples on the device, or say what is wrong with it."""
    host = np.asarray(rows)
    if not np.issubdtype(host.dtype, np.integer):
        raise TypeError(f"{name} must be integer indices, got {host.dtype}")
    if host.ndim != 2 or not host.size:
        raise ValueError(f"{name} must have shape [{shape}] and not be empty, got {list(host.shape)}")
    if host.min() < 0 or host.max() >= length:
        raise ValueError(f"{name} must index 0..{length - 1}, got {host.min()}..{host.max()}")
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
    params = as_params(params)
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(params)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        found = sorted({list(leaf.shape).__repr__() for leaf in jax.tree.leaves(params)})
        raise ValueError(f"params must have the networks on every leaf's first axis, got shapes {found}")
    return params, lengths.pop()[0]


def check_hyperparameters(
    hyperparameters: Mapping[str, ArrayLike | list[Any]], networks: int, params: PyTree
) -> dict[str, Array]:
    """Return one value of each hyperparameter for each network, in the dtype of params."""
    if not isinstance(hyperparameters, Mapping):
        got = type(hyperparameters).__name__
        raise TypeError(f"hyperparameters must be a mapping of names to arrays, got {got}")
    dtype = jnp.result_type(*jax.tree.leaves(trainable(params)))
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
