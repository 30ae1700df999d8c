"""Many networks trained at once by one compiled program: seeds, starts, hyperparameters on a first axis.

On CPU each core runs that program on its share of the networks.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Num

from jaxnet.training.program import (
    Optimizer,
    compile_evaluate,
    compile_train,
    init_networks,
    on_device,
    program,
    share_of,
)
from jaxnet.training.run import (
    PARTS,
    History,
    Run,
    Stretch,
    Train,
    bar,
    history_of,
    longest_cut,
    resumed,
    stretches,
)
from jaxnet.training.state import AnyKey, Loss, PyTree, Sampling, TrainState
from jaxnet.training.task import (
    OnNonFinite,
    Part,
    Task,
    check_factory,
    check_hyperparameters,
    check_key,
    check_metrics,
    check_params,
    check_positive_int,
    check_resumable,
    check_settings,
    check_stacked,
    check_task,
)

_CACHE = 2**20  # bytes of a core's own cache


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
    settings: Mapping[str, Any] = {}
    """What must be the same in runs that go on from here; nothing is compared where it is empty."""

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
    key: AnyKey = None,
    sampling: Sampling = "replacement",
    batches: Int[ArrayLike, "steps batch"] | None = None,
    metrics: Mapping[str, Loss] | None = None,
    eval_every: int | None = None,
    eval_parts: Sequence[Part] | None = None,
    eval_batch: int | None = None,
    loss_after_update: bool = False,
    on_nonfinite: OnNonFinite = "stop",
    callbacks: Sequence[Callable[[Stretch], object]] = (),
    stretch: int | None = None,
    resume: FitManyResult | None = None,
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
    what is done. max_networks: at most so many at a time, one group after the other, which bounds the memory;
    callbacks are told of each group's stretches. batches: indices that all networks share. resume: a result
    of the same networks, in the same groups; the end is bit for bit that of runs never interrupted. All else
    is as in `fit`.

    Raises:
        ValueError, TypeError: as `fit`; also leaves of params, keys or hyperparameters that are not as many.

    >>> import optax
    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> rates = {"learning_rate": [0.01, 0.1, 10.0]}
    >>> train = np.ones(8), np.full(8, 3.0)
    >>> result = fit_many(square, jnp.zeros(3), train, optimizer=optax.sgd, hyperparameters=rates, steps=50)
    >>> result.params[:2].round(2), result.diverged
    (Array([1.91, 3.  ], dtype=float32), array([False, False,  True]))
    """
    with jax.transfer_guard("allow"):
        task = check_task(
            loss,
            {"train": train, "validation": validation, "test": test},
            batches=batches,
            steps=steps,
            batch_size=batch_size,
            sampling=sampling,
            metrics=metrics,
            eval_every=eval_every,
            eval_parts=eval_parts,
            eval_batch=eval_batch,
            loss_after_update=loss_after_update,
            on_nonfinite=on_nonfinite,
            stretch=stretch,
        )
        params, networks = check_stacked(params)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        check_metrics(task, one)
        check_params(params)
        hyper = check_hyperparameters(hyperparameters or {}, networks, params)
        optimizer = check_factory(optimizer, hyper)
        if key is None and resume is not None:
            key = resume.state.key[0] if resume.settings.get("shared_key") else resume.state.key
        shared = check_key(key, networks)
        state = _first_state(params, optimizer, hyper, shared)
        if resume is not None:
            check_settings(resume.settings, task, shared_key=not shared.ndim)
            state = check_resumable(resume.state, state, key)
        at_most = networks if max_networks is None else check_positive_int(max_networks, "max_networks")
        groups = np.array_split(np.arange(networks), -(-networks // at_most))
        runs = [_first_run(share_of(state, rows), rows, task, shared.ndim == 0, resume) for rows in groups]

    def result(interrupted: bool = False) -> FitManyResult:
        return _result(runs, task, not shared.ndim, interrupted)

    try:
        done = sum(run.done * len(rows) for run, rows in zip(runs, groups, strict=True))
        with (
            ThreadPoolExecutor(_num_lanes(), "jaxnet-lane") as pool,
            bar(task.steps * networks, done, progress) as tell,
        ):
            for index, rows in enumerate(groups):
                if runs[index].done == task.steps or not runs[index].alive.any():
                    continue
                start = time.perf_counter()
                with jax.transfer_guard("allow"):
                    own = share_of(hyper, rows)
                    train_group, max_steps = _lanes(runs[index].state, own, optimizer, task, pool)
                measure = compile_evaluate(task, runs[index].state.params, many=True)
                train_group(runs[index].state, runs[index].done, 0)
                spent = runs[index].compile_seconds + time.perf_counter() - start
                runs[index] = runs[index]._replace(compile_seconds=spent)
                for run, told in stretches(runs[index], train_group, measure, task, max_steps):
                    num_steps, runs[index] = run.done - runs[index].done, run
                    tell(run, num_steps * len(rows))
                    if told is not None:
                        told = told._replace(result=result)
                        for callback in callbacks:
                            callback(told)
    except KeyboardInterrupt:
        return result(interrupted=True)
    return result()


def init_states(
    params: PyTree,
    optimizer: Optimizer | None = None,
    hyperparameters: Mapping[str, Num[ArrayLike, " networks"] | list] | None = None,
    key: AnyKey = None,
) -> TrainState:
    """Return the state of `fit_many` before the first step, as `init_state` does of one network.

    Raises:
        ValueError, TypeError: as `fit_many`.
    """
    params, networks = check_stacked(params)
    hyper = check_hyperparameters(hyperparameters or {}, networks, params)
    return _first_state(params, check_factory(optimizer, hyper), hyper, check_key(key, networks))


def _first_state(params: PyTree, optimizer: Optimizer, hyper: dict[str, Array], key: Array) -> TrainState:
    networks = len(jax.tree.leaves(params)[0])
    opt_state = program(init_networks, params, hyper, optimizer=optimizer).result()(params, hyper)
    return TrainState(params, opt_state, jnp.zeros(networks, jnp.int32), jnp.broadcast_to(key, networks))


def _first_run(
    state: TrainState, rows: np.ndarray, task: Task, shared: bool, resume: FitManyResult | None
) -> Run:
    """Return the run of a group before its first step here, of its share of the state."""
    alive = np.ones(len(rows), bool) if resume is None else ~resume.diverged[rows]
    state = state._replace(key=state.key[0]) if shared else state
    run = Run(state, alive)
    if resume is None:
        return run
    steps = np.asarray(state.step)
    done = int(steps[alive].max()) if alive.any() else task.steps
    loss, eval_step, *curves = resume.history
    if loss.shape[-1] < done:  # none of them is left
        filler = np.full((len(loss), done - loss.shape[-1]), np.nan, loss.dtype)
        loss = np.concatenate([loss, filler], axis=-1)
    own = History(loss[rows], eval_step, *({n: curve[rows] for n, curve in part.items()} for part in curves))
    run = resumed(own, run, task, state, done, (None, None))
    if rows[0]:
        return run
    return run._replace(compile_seconds=resume.compile_seconds, train_seconds=resume.train_seconds)


def _num_lanes() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lanes(
    state: TrainState, hyper: dict[str, Array], optimizer: Optimizer, task: Task, pool: ThreadPoolExecutor
) -> tuple[Train, int]:
    """Return what trains a group, each core a share of its networks, and the most steps it takes in a call.

    A step of one program leaves cores idle between its products, and those of small networks do not divide
    well among threads: two programs side by side take two thirds of the time of one twice as wide.
    """
    networks, own = len(state.step), state.key.ndim == 1 and task.batches is None
    width = -(-networks // _num_lanes())
    rows = _lane_rows(networks, width)
    at_once = _at_once(state, task, width) if own else width
    max_steps = longest_cut(task, width if own else 1)
    shares = [share_of(hyper, lane) for lane in rows]
    # Compiled in this thread, whose contexts (such as enable_x64) the others do not have.
    take = compile_train(task, optimizer, share_of(state, rows[0]), shares[0], max_steps, at_once)

    def train(state: TrainState, first: int, num_steps: int) -> tuple[TrainState, np.ndarray, np.ndarray]:
        window = on_device(first), on_device(num_steps)
        jobs = [(part, *window, own) for part, own in zip(_split(state, width), shares, strict=True)]
        states, *found = zip(*pool.map(lambda job: jax.block_until_ready(take(*job)), jobs), strict=True)
        losses, finite = (np.concatenate(jax.device_get(lanes))[:networks] for lanes in found)
        return _join(states, networks), losses[:, :num_steps], finite

    return train, max_steps


def _lane_rows(networks: int, width: int) -> np.ndarray:
    """Return the networks of each lane: of one shape, to compile once; the last may be repeated."""
    return np.minimum(np.arange(-(-networks // width) * width), networks - 1).reshape(-1, width)


@partial(jax.jit, static_argnums=1)
def _split(state: TrainState, width: int) -> list[TrainState]:
    return [share_of(state, lane) for lane in _lane_rows(len(state.step), width)]


@partial(jax.jit, static_argnums=1)
def _join(states: tuple[TrainState, ...], networks: int) -> TrainState:
    def joined(*leaves: Array) -> Array:
        # A key that all share has no first axis.
        return jnp.concatenate(leaves)[:networks] if leaves[0].ndim else leaves[0]

    return jax.tree.map(joined, *states)


def _at_once(state: TrainState, task: Task, width: int) -> int:
    """Return how many of a lane's networks take their steps together: what lies well in a core's cache."""
    if jax.default_backend() != "cpu":
        return width
    x, t = task.parts["train"]
    batch = task.batch_size * (x.nbytes + t.nbytes) // len(x)
    held = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state)))
    return max(n for n in range(1, width + 1) if width % n == 0 and n <= max(1, _CACHE // (batch + 2 * held)))


def _result(runs: Sequence[Run], task: Task, shared: bool, interrupted: bool) -> FitManyResult:
    """Return the groups' runs as one result, with NaN where a group has not come to or was not evaluated."""
    histories = [history_of(run, task) for run in runs]
    eval_step = max((history.eval_step for history in histories), key=len)
    done = max(run.done for run in runs) if interrupted else task.steps

    def joined(curves: Sequence[np.ndarray], length: int) -> np.ndarray:
        short = [(curve[:, :length], length - curve.shape[1]) for curve in curves]
        return np.concatenate(
            [np.pad(curve, ((0, 0), (0, max(0, gap))), constant_values=np.nan) for curve, gap in short]
        )

    def part(name: str) -> dict[str, np.ndarray]:
        curves = [getattr(history, name) for history in histories]
        return {metric: joined([c[metric] for c in curves], len(eval_step)) for metric in curves[0]}

    history = History(joined([h.loss for h in histories], done), eval_step, *map(part, PARTS))
    keyed = [run.state._replace(key=jnp.broadcast_to(run.state.key, run.state.step.shape)) for run in runs]
    return FitManyResult(
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *keyed),
        history,
        ~np.concatenate([run.alive for run in runs]),
        interrupted,
        sum(run.compile_seconds for run in runs),
        sum(run.train_seconds for run in runs),
        task.settings() | {"shared_key": shared},
    )
