"""What a run is asked to do, and every check of an argument before anything is computed."""

import logging
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Key

from jaxnet._names import METRICS_OF_CLASSES
from jaxnet.sharding import Share, at_home
from jaxnet.shards import OnDisk
from jaxnet.training import disk
from jaxnet.training.examples import (
    check_batches,
    check_callable,
    check_choice,
    check_examples,
    check_positive_int,
    check_rows,
    check_sample_weight,
    with_class_weight,
)
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
    trainable,
)

_log = logging.getLogger(__name__)

Part = Literal["train", "validation", "test"]
OnNonFinite = Literal["stop", "continue"]

_MAX_AUX = 2**32  # bytes


class EarlyStopping(NamedTuple):
    """When to end a run that no longer gets better: after `patience` evaluations in a row without a gain.

    A gain is a metric below (mode "min") or above ("max") the best so far by more than min_delta; NaN is
    none. `metric` is a name among the metrics of `fit`, measured on `part`. mode "auto": "max" where it is
    the name of a metric of which more is better, such as "accuracy", "f1_macro" or "r2", else "min".
    """

    metric: str = "loss"
    part: Part = "validation"
    patience: int = 5
    mode: Literal["min", "max", "auto"] = "auto"
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
    aux_bytes: int = 0
    """Of the auxiliary values of a network in each step."""

    @property
    def num_examples(self) -> int:
        """How many examples a network is trained on."""
        return num_examples(self.parts["train"]) if self.subsets is None else self.subsets.shape[1]

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on from this one's result."""
        names = ("batch_size", "sampling", "eval_every", "loss_after_update", "on_nonfinite")
        return {name: getattr(self, name) for name in names}


def task_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return, of the arguments of `fit` or `fit_many` by name, those that `check_task` takes by name."""
    known = signature(check_task).parameters.values()
    return {p.name: arguments[p.name] for p in known if p.kind == p.KEYWORD_ONLY and p.name in arguments}


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
    check_callable(loss, "loss")
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
    for name, metric in metrics.items():
        check_callable(metric, f"metrics[{name!r}]")
    measures = {
        name: Measure(metric, has_state, (has_state or has_aux) and (metric is loss or metric is given))
        for name, metric in metrics.items()
    }
    if isinstance(eval_parts, str):
        raise TypeError(f"eval_parts must be a sequence of names, got {eval_parts!r}")
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
        task = task._replace(early_stopping=check_early_stopping(early_stopping, task))
    return task


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


def check_aux(
    task: Task, state: TrainState, hyper: dict[str, Array] | None = None, networks: int = 1
) -> Task:
    """Return the task with the size of its auxiliary values, of which a history can hold but so many.

    state, hyper: of one network.
    """
    if not task.loss.has_aux:
        return task
    loss, examples = task.loss.bound(hyper or {})[0], task.parts["train"]._replace(layout=None)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((task.batch_size, *leaf.shape[1:]), leaf.dtype), examples
    )
    _, (_, aux) = jax.eval_shape(loss, state.params, state.model_state, batch, state.key)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(aux))
    if (whole := size * networks * task.steps) > _MAX_AUX:
        raise ValueError(
            f"auxiliary values of all steps must take at most {_MAX_AUX / 2**30:.3g} GiB, got "
            f"{whole / 2**30:.3g} GiB, {size} bytes a step: return fewer, such as their means"
        )
    return task._replace(aux_bytes=size)


def check_early_stopping(stopping: EarlyStopping, task: Task) -> EarlyStopping:
    """Return when to stop, with the mode that is meant, or say why the task's evaluations cannot serve it."""
    if not isinstance(stopping, EarlyStopping):
        raise TypeError(f"early_stopping must be a training.EarlyStopping, got {stopping!r}")
    if not task.eval_parts:
        raise ValueError("early_stopping must be given with metrics, or validation or test data, got none")
    for name, allowed in (
        ("part", list(task.eval_parts)),
        ("metric", list(task.metrics)),
        ("mode", ["min", "max", "auto"]),
    ):
        got = getattr(stopping, name)
        if got not in allowed:
            raise ValueError(f"early_stopping.{name} must be one of {allowed}, got {got!r}")
    check_positive_int(stopping.patience, "early_stopping.patience")
    if not 0 <= stopping.min_delta < float("inf"):
        raise ValueError(
            f"early_stopping.min_delta must be finite and not negative, got {stopping.min_delta}"
        )
    more_is_better = stopping.metric in (*METRICS_OF_CLASSES, "r2")
    return stopping._replace(mode="max" if more_is_better else "min") if stopping.mode == "auto" else stopping


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


def check_callbacks(callbacks: Any) -> None:
    """Refuse callbacks that are none."""
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks must be a sequence of functions, got {callbacks!r}")
    for index, callback in enumerate(callbacks):
        check_callable(callback, f"callbacks[{index}]")


def check_result(resume: Any, kind: type) -> None:
    """Refuse to resume what is no result of that kind."""
    if resume is not None and not isinstance(resume, kind):
        raise TypeError(f"resume must be a {kind.__name__}, as checkpoints.restore returns, got {resume!r}")


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
