"""Many networks trained at once by one compiled program: seeds, starts, hyperparameters on a first axis.

On CPU each core runs that program on its share of the networks.
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key, Num

from jaxnet._checks import (
    Task,
    batch_error,
    check_factory,
    check_hyperparameters,
    check_metrics,
    check_params,
    check_positive_int,
    check_stacked,
    check_task,
)
from jaxnet._steps import (
    Loss,
    PyTree,
    Sampling,
    TrainState,
    all_finite,
    draw_batches,
    longest_cut,
    next_cut,
    update,
)
from jaxnet._turned import turned, turned_products
from jaxnet.differentiation import _check_scalar
from jaxnet.training import History

Optimizer = Any  # a GradientTransformation, or a function of hyperparameters that returns one
_CACHE = 2**20  # bytes of a core's own cache
Evaluation = tuple[int, dict[str, dict[str, np.ndarray]]]  # the step; by part and metric, [networks]


class FitManyResult(NamedTuple):
    """The end of many runs; every array but `history.eval_step` has the networks on its first axis."""

    state: TrainState
    """Each network's last state, step and key included; of a diverged one the last that was finite, so that
    its `step` is the one that failed. `fit` can resume `jax.tree.map(lambda leaf: leaf[i], state)`."""
    history: History
    """`loss` [networks, steps], metrics [networks, evals]; NaN from where a network diverged, and in what
    an interrupt left undone."""
    diverged: Bool[np.ndarray, " networks"]
    interrupted: bool
    """Ctrl-C ended the runs early."""
    compile_seconds: float
    train_seconds: float
    """Compilation and evaluation apart."""

    @property
    def params(self) -> PyTree:
        """The parameters after the last step."""
        return self.state.params


def fit_many(
    loss: Loss,
    params: PyTree,
    train: tuple[Num[ArrayLike, "n ..."], Num[ArrayLike, "n ..."]],
    *,
    test: tuple[Num[ArrayLike, "m ..."], Num[ArrayLike, "m ..."]] | None = None,
    validation: tuple[Num[ArrayLike, "v ..."], Num[ArrayLike, "v ..."]] | None = None,
    optimizer: Optimizer | None = None,
    hyperparameters: Mapping[str, Num[ArrayLike, " networks"] | list] | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    key: Key[Array, "..."] | None = None,
    sampling: Sampling = "replacement",
    metrics: Mapping[str, Loss] | None = None,
    eval_every: int | None = None,
    loss_after_update: bool = False,
    max_networks: int | None = None,
    progress: bool = True,
) -> FitManyResult:
    """Train many networks as one program; each ends where `fit` alone would take it, to float tolerance.

    params: as of `fit`, every leaf with the networks on a new first axis, such as
    `jax.vmap(lambda key: network.init(key, sizes))(keys)`.

    key: one, whose batches all networks share, or an array of keys, one for each network. Sharing is faster:
    the first layers of all networks are then one wide matrix product.

    optimizer: an optax one for all; or, with hyperparameters, a function of them that returns one, such as
    `optax.sgd` with `{"learning_rate": [0.1, 0.3], "momentum": [0.5, 0.9]}`: one value for each network.

    A network whose loss or parameters become NaN or infinite stops there and the others go on. Ctrl-C returns
    what is done. max_networks: at most so many at a time, one group after the other, which bounds the memory.
    All else is as in `fit`.

    Raises:
        ValueError, TypeError: as `fit`; also leaves of params, keys or hyperparameters that are not as many.

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> rates = {"learning_rate": [0.01, 0.1, 10.0]}
    >>> train = np.ones(8), np.full(8, 3.0)
    >>> result = fit_many(square, jnp.zeros(3), train, optimizer=optax.sgd, hyperparameters=rates, steps=50)
    >>> result.params[:2].round(2), result.diverged
    (Array([1.91, 3.  ], dtype=float32), array([False, False,  True]))
    """
    task = check_task(
        loss,
        {"train": train, "validation": validation, "test": test},
        batches=None,
        steps=steps,
        batch_size=batch_size,
        sampling=sampling,
        metrics=metrics,
        eval_every=eval_every,
    )
    params, networks = check_stacked(params)
    check_metrics(task, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params))
    check_params(params)
    hyper = check_hyperparameters(hyperparameters or {}, networks, params)
    optimizer = check_factory(optimizer, hyper)
    key = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in ((), (networks,)):
        raise ValueError(
            f"key must be one of jax.random.key, or {networks} of them, got {key.dtype}{list(key.shape)}"
        )
    at_most = networks if max_networks is None else check_positive_int(max_networks, "max_networks")
    groups = []
    for rows in np.array_split(np.arange(networks), -(-networks // at_most)):
        part, own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (params, hyper))
        opt_state = jax.vmap(lambda params, hyper: _optimizer(optimizer, hyper).init(params))(part, own)
        steps_done = jnp.zeros(len(rows), jnp.int32)
        groups.append(_Group(TrainState(part, opt_state, steps_done, key[rows] if key.ndim else key), own))

    from tqdm import tqdm

    settings = {
        "loss": loss,
        "optimizer": optimizer,
        "batch_size": task.batch_size,
        "sampling": sampling,
        "loss_after_update": loss_after_update,
    }
    total = task.steps * networks
    bar = tqdm(total=total, unit="step", disable=None if progress else True, dynamic_ncols=True)
    interrupted = False
    try:
        with ThreadPoolExecutor(_num_lanes(), "jaxnet-lane") as pool:
            for group in groups:
                _train_group(group, _Lanes(settings, group, task, pool), loss, task, sampling, bar)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        bar.close()
    return _result(groups, task, interrupted)


@dataclass
class _Group:
    """Networks that train together, and how far they are."""

    state: TrainState
    hyper: dict[str, Array]
    done: int = 0
    losses: list[np.ndarray] = field(default_factory=list)  # [networks, steps]
    evaluations: list[Evaluation] = field(default_factory=list)
    compile_seconds: float = 0.0
    train_seconds: float = 0.0


def _num_lanes() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Lanes:
    """The program of a group, run on a share of its networks for each core, all shares at once.

    A step of one program leaves cores idle between its products, and those of small networks do not divide
    well among threads: two programs side by side take two thirds of the time of one twice as wide.
    """

    def __init__(self, settings: dict[str, Any], group: _Group, task: Task, pool: ThreadPoolExecutor):
        networks, own = len(group.state.step), group.state.key.ndim == 1
        width = -(-networks // _num_lanes())
        # Lanes of one shape, so that one compilation serves all: the last may repeat the last network.
        rows = np.minimum(np.arange(-(-networks // width) * width), networks - 1).reshape(-1, width)
        at_once = _at_once(group.state, task, width) if own else width
        self.max_steps = longest_cut(task.batch_size * (at_once if own else 1), task.steps, task.eval_every)
        self._settings = settings | {"max_steps": self.max_steps, "at_once": at_once}
        self._rows, self._pool = rows, pool
        self._hyper = [_networks(group.hyper, lane) for lane in rows]
        self._data = task.parts["train"]
        self._programs: dict[bool, Any] = {}

    def __call__(
        self, state: TrainState, first_step: int, num_steps: int, *, careful: bool
    ) -> tuple[TrainState, np.ndarray, np.ndarray]:
        """Return the state after those steps, the losses [networks, num_steps] and which are finite."""
        window = jnp.int32(first_step), jnp.int32(num_steps)
        lanes = [
            (_networks(state, lane), *window, hyper, *self._data)
            for lane, hyper in zip(self._rows, self._hyper, strict=True)
        ]
        if careful not in self._programs:
            # Compiled in this thread, whose contexts (such as enable_x64) the others do not have.
            lowered = _run_stretch.lower(*lanes[0], **self._settings, careful=careful)
            self._programs[careful] = lowered.compile()
        program = self._programs[careful]
        done = list(self._pool.map(lambda lane: jax.block_until_ready(program(*lane)), lanes))
        networks = len(state.step)

        def joined(*leaves: Array) -> Array:
            return (
                jnp.concatenate(leaves)[:networks] if leaves[0].ndim else leaves[0]
            )  # the key that all share

        losses, finite = (np.concatenate([np.asarray(lane[i]) for lane in done])[:networks] for i in (1, 2))
        return jax.tree.map(joined, *(state for state, _, _ in done)), losses[:, :num_steps], finite


def _at_once(state: TrainState, task: Task, width: int) -> int:
    """Return how many of a lane's networks take their steps together: what lies well in a core's cache."""
    if jax.default_backend() != "cpu":
        return width
    x, t = task.parts["train"]
    batch = task.batch_size * (x.nbytes + t.nbytes) // len(x)
    held = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state)))
    return max(n for n in range(1, width + 1) if width % n == 0 and n <= max(1, _CACHE // (batch + 2 * held)))


def _train_group(group: _Group, run: _Lanes, loss: Loss, task: Task, sampling: Sampling, bar: Any) -> None:
    networks = len(group.state.step)
    start = time.perf_counter()
    run(group.state, 0, 0, careful=False)
    group.compile_seconds = time.perf_counter() - start
    alive, pace, shown = np.ones(networks, bool), 0.0, {}
    while group.done < task.steps and alive.any():
        cut = next_cut(
            group.done,
            pace,
            steps=task.steps,
            max_steps=run.max_steps,
            eval_every=task.eval_every,
            stretch=None,
        )
        start = time.perf_counter()
        state, losses, finite = run(group.state, group.done, cut.num_steps, careful=not alive.all())
        if alive.all() and not (finite.all() and np.isfinite(losses).all()):
            # Once more, now looking at every step, and so from here on: the usual run need not pay for it.
            state, losses, _ = run(group.state, group.done, cut.num_steps, careful=True)
        seconds = time.perf_counter() - start
        pace = seconds / cut.num_steps
        done = group.done + cut.num_steps
        still_alive = np.asarray(state.step) == done
        for index in np.flatnonzero(alive & ~still_alive):
            last = _networks(state, int(index))
            if (error := batch_error(loss, last, int(last.step), task, sampling)) is not None:
                raise error
        alive = still_alive
        group.losses.append(losses)
        if cut.evaluates:
            measured = _measure(state.params, alive, task)
            group.evaluations.append((done - 1, measured))
            shown = {
                f"{part} {name}": f"{values[alive].mean():.4g}"
                for part, curves in measured.items()
                for name, values in curves.items()
                if alive.any()
            }
        group.train_seconds += seconds
        group.state = state
        group.done = done
        bar.update(cut.num_steps * networks)
        if alive.any():
            bar.set_postfix({"loss": f"{losses[alive, -1].mean():.4g}"} | shown, refresh=False)


@partial(
    jax.jit,
    static_argnames=(
        "loss", "optimizer", "batch_size", "sampling", "loss_after_update", "max_steps", "careful", "at_once",
    ),
)  # fmt: skip
def _run_stretch(
    state: TrainState,
    first_step: Int[Array, ""],
    num_steps: Int[Array, ""],
    hyper: dict[str, Array],
    x: Array,
    t: Array,
    *,
    loss: Loss,
    optimizer: Optimizer,
    batch_size: int,
    sampling: Sampling,
    loss_after_update: bool,
    max_steps: int,
    careful: bool,
    at_once: int,
) -> tuple[TrainState, Float[Array, "networks max_steps"], Bool[Array, " networks"]]:
    """Run num_steps ≤ max_steps updates of every network; return as `_steps.run_stretch`, for each.

    careful: a network whose loss or params would not be finite keeps its state from then on, and its losses
    are NaN. It is one whose `step` has fallen behind. at_once: of networks with batches of their own, how
    many take a step together; one such group after the other goes the whole stretch.
    """
    own = state.key.ndim == 1
    turned_loss = turned_products(loss)

    def one(state: TrainState, hyper: dict[str, Array]) -> tuple[TrainState, Array, Array]:
        rows = draw_batches(state.key, first_step, max_steps, batch_size, x.shape[0], sampling)

        def body(index: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, losses = turned(carry[0]), carry[1]
            x_batch, t_batch = (array.at[rows[index]].get(mode="promise_in_bounds") for array in (x, t))
            new, value = update(
                state, x_batch, t_batch, loss=turned_loss, optimizer=_optimizer(optimizer, hyper)
            )
            if loss_after_update:
                value = loss(new.params, x_batch, t_batch)
            if careful:
                good = (state.step == first_step + index) & jnp.isfinite(value) & all_finite(new.params)
                new = jax.tree.map(partial(jnp.where, good), new, state)._replace(key=state.key)
                value = jnp.where(good, value, jnp.nan)
            return turned(new), losses.at[index].set(value)

        dtype = _check_scalar(loss, state.params, x[rows[0]], t[rows[0]], name="the loss").dtype
        losses = jnp.full(max_steps, jnp.nan, dtype)
        state, losses = jax.lax.fori_loop(0, num_steps, body, (turned(state), losses))
        state = turned(state)
        return state, losses, all_finite(state.params)

    if own:
        return jax.lax.map(lambda network: one(*network), (state, hyper), batch_size=at_once)
    axes = TrainState._make((0, 0, 0, None))
    return jax.vmap(one, (axes, 0), (axes, 0, 0))(state, hyper)


@partial(jax.jit, static_argnames=("metrics",))
def _evaluate(
    params: PyTree, x: Array, t: Array, metrics: tuple[tuple[str, Loss], ...]
) -> dict[str, Float[Array, " networks"]]:
    # One network after the other: what lies between its layers is already many times the size of x.
    return jax.lax.map(
        lambda one: {name: turned_products(metric)(one, x, t) for name, metric in metrics}, params
    )


def _measure(
    params: PyTree, alive: Bool[np.ndarray, " networks"], task: Task
) -> dict[str, dict[str, np.ndarray]]:
    """Return every metric on every part, NaN for networks that diverged."""
    measured = {}
    for part, examples in task.parts.items():
        values = _evaluate(params, *examples, metrics=tuple(task.metrics.items()))
        measured[part] = {
            name: np.where(alive, value, np.asarray(np.nan, value.dtype)) for name, value in values.items()
        }
        for name, value in measured[part].items():
            for index in np.flatnonzero(alive & np.isnan(value))[:1]:
                one = jax.tree.map(lambda leaf, index=index: leaf[index], params)
                task.metrics[name](one, *examples)  # not compiled, it can say what is wrong
    return measured


def _networks(tree: PyTree, index: int | np.ndarray) -> PyTree:
    """Return those networks of a tree; the one key that all share stays as it is."""
    return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, tree)


def _result(groups: list[_Group], task: Task, interrupted: bool) -> FitManyResult:
    done = max(group.done for group in groups) if interrupted else task.steps
    eval_step = max(
        ([step for step, _ in group.evaluations if step < group.done] for group in groups), key=len
    )

    def joined(curves: list[np.ndarray], length: int) -> np.ndarray:
        """Join [at most length, networks of a group] to [networks, length], with NaN where nothing is."""
        joined = [np.full((length, curve.shape[1]), np.nan, curve.dtype) for curve in curves]
        for whole, curve in zip(joined, curves, strict=True):
            whole[: len(curve)] = curve
        return np.concatenate(joined, axis=1).T

    def recorded(group: _Group) -> np.ndarray:
        empty = np.zeros((len(group.state.step), 0), np.float32)
        return (np.concatenate(group.losses, axis=1)[:, : group.done] if group.losses else empty).T

    def curves(part: str) -> dict[str, np.ndarray]:
        if part not in task.parts:
            return {}
        return {
            name: joined(
                [
                    np.array(
                        [measured[part][name] for _, measured in group.evaluations[: len(eval_step)]]
                    ).reshape(-1, len(group.state.step))
                    for group in groups
                ],
                len(eval_step),
            )
            for name in task.metrics
        }

    history = History(
        joined([recorded(group) for group in groups], done),
        np.array(eval_step, int),
        curves("train"),
        curves("test"),
        curves("validation"),
    )
    keyed = [
        group.state._replace(key=jnp.broadcast_to(group.state.key, group.state.step.shape))
        for group in groups
    ]
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *keyed)
    diverged = np.concatenate([np.asarray(group.state.step) < group.done for group in groups])
    return FitManyResult(
        state,
        history,
        diverged,
        interrupted,
        sum(group.compile_seconds for group in groups),
        sum(group.train_seconds for group in groups),
    )


def _optimizer(optimizer: Optimizer, hyper: Mapping[str, Array]) -> optax.GradientTransformation:
    return optimizer(**hyper) if hyper else optimizer
