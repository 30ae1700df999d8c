"""Many networks trained at once by one compiled program: seeds, starts, hyperparameters on a first axis.

On CPU each core runs that program on its share of the networks.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Bool, Int, Num

from jaxnet.sharding import (
    alike,
    check_mesh,
    first_process,
    over_all,
    place,
    replicated,
    several_processes,
    together,
)
from jaxnet.training.body import Optimizer, Record, init_networks, merged, share_of
from jaxnet.training.examples import check_positive_int
from jaxnet.training.placing import described, placed_task
from jaxnet.training.program import compile_evaluate, compile_train, on_device, program
from jaxnet.training.run import (
    PARTS,
    Best,
    History,
    Run,
    Stretch,
    Train,
    bar,
    check_recorded,
    fetched_run,
    history_of,
    longest_cut,
    resumed,
    stretches,
    told_to_stop,
    with_nan,
)
from jaxnet.training.state import (
    AnyKey,
    Loss,
    Metric,
    PyTree,
    Sampling,
    TrainState,
    num_examples,
    unwrapped,
    weights_of,
)
from jaxnet.training.task import (
    EarlyStopping,
    OnNonFinite,
    Part,
    Task,
    check_aux,
    check_callbacks,
    check_factory,
    check_first_gradient,
    check_hyperparameters,
    check_key,
    check_metrics,
    check_model_state,
    check_opt_state,
    check_params,
    check_result,
    check_resumable,
    check_settings,
    check_stacked,
    check_task,
    task_options,
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
    best: Best | None = None
    """With early stopping, each network's best evaluation so far; its step is -1 where there is none."""
    stopped_early: Bool[np.ndarray, " networks"] | None = None
    """With early stopping, which networks it ended."""
    scheduled: Best | None = None
    """The best apart from an evaluation that only this end had: what resumed runs go on from."""

    @property
    def params(self) -> PyTree:
        """The parameters after the last step, or the best with early stopping; with `averaged` their mean."""
        return unwrapped(self._weights()[0])

    @property
    def model_state(self) -> PyTree:
        """What the loss carries from step to step, as it was with these parameters."""
        return self._weights()[1]

    def _weights(self) -> tuple[PyTree, PyTree]:
        last = weights_of(self.state)
        return last if self.best is None else merged(np.asarray(self.best.step) >= 0, self.best[2:], last)


def fit_many(
    loss: Loss,
    params: PyTree,
    train: tuple[PyTree, PyTree],
    *,
    test: tuple[PyTree, PyTree] | None = None,
    validation: tuple[PyTree, PyTree] | None = None,
    optimizer: Optimizer | None = None,
    hyperparameters: Mapping[str, Num[ArrayLike, " networks"] | list[Any]] | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    key: AnyKey = None,
    sampling: Sampling = "replacement",
    batches: Int[ArrayLike, "steps batch"] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    eval_every: int | None = None,
    eval_parts: Sequence[Part] | None = None,
    eval_batch: int | None = None,
    early_stopping: EarlyStopping | None = None,
    loss_after_update: bool = False,
    on_nonfinite: OnNonFinite = "stop",
    callbacks: Sequence[Callable[[Stretch], object]] = (),
    stretch: int | None = None,
    has_state: bool = False,
    state: PyTree = None,
    has_aux: bool = False,
    sample_weight: Num[ArrayLike, " n"] | list[Any] | None = None,
    class_weight: Literal["balanced"] | Num[ArrayLike, " classes"] | list[Any] | None = None,
    track: Sequence[str] = (),
    check: bool = False,
    opt_state: optax.OptState | None = None,
    subsets: Int[ArrayLike, "networks m"] | None = None,
    resume: FitManyResult | None = None,
    max_networks: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> FitManyResult:
    """Train many networks as one program; each ends where `fit` alone would take it, to float tolerance.

    params: as of `fit`, every leaf with the networks on a new first axis, such as
    `jax.vmap(lambda key: network.init(key, sizes))(keys)`.

    key: one, whose batches all networks share, or an array of keys, one for each network. Sharing is faster:
    the first layers of all networks are then one wide matrix product.

    optimizer: an optax one for all; or, with hyperparameters, a function of them that returns one, such as
    `optax.sgd` with `{"learning_rate": [0.1, 0.3], "momentum": [0.5, 0.9]}`: one value for each network.
    Those that the loss has parameters for go to the loss instead.

    subsets: the rows of train that each network is trained on, as many for each; metrics are taken on all.

    A network whose loss or parameters become NaN or infinite stops there, as does one that early_stopping
    ends, and the others go on. Ctrl-C, or a callback that returns "stop", ends all. state, opt_state: with
    the networks on the first axis. check: the first network's gradient. max_networks: at most so many at a
    time, one group after the other, which bounds the memory; callbacks are told of each group's stretches.
    batches: indices that all networks share. resume: a result of the same networks, in the same groups; the
    end is bit for bit that of runs never interrupted. mesh: devices, of one process or several, that the
    networks are spread over, whatever its axes; each has the whole data. All else is as in `fit`.

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
        mesh = None if mesh is None else check_mesh(mesh)
        check_callbacks(callbacks)
        check_result(resume, FitManyResult)
        with alike(mesh) as same:
            parts = {"train": train, "validation": validation, "test": test}
            task = check_task(loss, parts, **task_options(locals()), many=True)
            params, networks = check_stacked(params)
            check_params(params)
            model_state = check_model_state(state, has_state, networks)
            hyper = check_hyperparameters(hyperparameters or {}, networks, params)
            optimizer = check_factory(optimizer, task.loss.bound(hyper)[1])
            if task.subsets is not None and len(task.subsets) != networks:
                raise ValueError(f"subsets must be of {networks} networks, got {len(task.subsets)}")
            if key is None and resume is not None:
                key = resume.state.key[0] if resume.settings.get("shared_key") else resume.state.key
            shared = check_key(key, networks)
            first = _first_state(params, optimizer, task.loss.bound(hyper)[1], shared, model_state)
            first = first._replace(opt_state=check_opt_state(opt_state, first))
            one = share_of(first, 0)
            check_metrics(task, weights_of(one))
            task = check_aux(task, one, share_of(hyper, 0), networks)
            if resume is not None:
                check_settings(resume.settings, task, **_more_settings(task, shared))
                first = check_resumable(resume.state, first, key)
            if several_processes(mesh):
                same |= described(task, first) | {
                    "hyperparameters": {n: np.asarray(v).tolist() for n, v in hyper.items()}
                }
            at_most = networks if max_networks is None else check_positive_int(max_networks, "max_networks")
        task = placed_task(task)
        if check and resume is None:
            check_first_gradient(one, _of_group(task, hyper, np.arange(networks)), 0)
        groups = np.array_split(np.arange(networks), -(-networks // at_most))
        if mesh is not None:  # of as many on every device: the last may be repeated
            wide = [np.arange(-(-len(rows) // mesh.size) * mesh.size) for rows in groups]
            groups = [np.minimum(w + rows[0], rows[-1]) for w, rows in zip(wide, groups, strict=True)]
        runs = [_first_run(share_of(first, rows), rows, task, shared.ndim == 0, resume) for rows in groups]

    def result(interrupted: bool = False) -> FitManyResult:
        return _result(runs, groups, task, _more_settings(task, shared), interrupted)

    try:
        done = sum(run.done * len(rows) for run, rows in zip(runs, groups, strict=True))
        with (
            ThreadPoolExecutor(_num_lanes(), "jaxnet-lane") as pool,
            together(mesh) as agree,
            bar(task.steps * networks, done, progress and first_process(mesh)) as tell,
        ):
            for index, rows in enumerate(groups):
                if not runs[index].active(task).any():
                    continue
                start = time.perf_counter()
                with jax.transfer_guard("allow"):
                    of_group = _of_group(task, hyper, rows)
                    own, run = share_of(hyper, rows), runs[index]
                    if mesh is not None:
                        run, own, of_group = _spread(run, own, of_group)
                    how = run.state, own, optimizer, of_group._replace(loss=task.loss)
                    train_group, max_steps = _lanes(*how, pool) if mesh is None else _devices(*how)
                measure = compile_evaluate(task, run.state, many=True)
                check_recorded(run, train_group(run.state, run.done, 0)[1])
                run = run._replace(compile_seconds=run.compile_seconds + time.perf_counter() - start)
                for after, told in stretches(run, train_group, measure, of_group, max_steps, agree):
                    num_steps, runs[index] = after.done - runs[index].done, fetched_run(after, mesh)
                    tell(after, num_steps * len(rows))
                    if told is not None:
                        told = told._replace(result=result)
                        if agree(0.0, told_to_stop(callbacks, told))[1]:
                            runs[index] = runs[index]._replace(ended=True)
                            return result(interrupted=False)
    except KeyboardInterrupt:
        return result(interrupted=True)
    return result()


def init_states(
    params: PyTree,
    optimizer: Optimizer | None = None,
    hyperparameters: Mapping[str, Num[ArrayLike, " networks"] | list[Any]] | None = None,
    key: AnyKey = None,
    model_state: PyTree = (),
) -> TrainState:
    """Return the state of `fit_many` before the first step, as `init_state` does of one network.

    hyperparameters: those of the optimizer alone.

    Raises:
        ValueError, TypeError: as `fit_many`.
    """
    params, networks = check_stacked(params)
    hyper = check_hyperparameters(hyperparameters or {}, networks, params)
    model_state = jax.tree.map(jnp.asarray, model_state)
    return _first_state(params, check_factory(optimizer, hyper), hyper, check_key(key, networks), model_state)


def _first_state(
    params: PyTree, optimizer: Optimizer, hyper: dict[str, Array], key: Array, model_state: PyTree
) -> TrainState:
    networks = len(jax.tree.leaves(params)[0])
    opt_state = program(init_networks, params, hyper, optimizer=optimizer).result()(params, hyper)
    step = jnp.zeros(networks, jnp.int32)
    return TrainState(params, opt_state, step, jnp.broadcast_to(key, networks), model_state)


def _of_group(task: Task, hyper: dict[str, Array], rows: np.ndarray) -> Task:
    """Return what the networks of a group are to do, with the loss of its first."""
    subsets = None if task.subsets is None else task.subsets[rows]
    return task._replace(loss=task.loss.bound(share_of(hyper, int(rows[0])))[0], subsets=subsets)


def _more_settings(task: Task, key: Array) -> dict[str, Any]:
    """Return what else must be the same in a run of many networks that goes on."""
    # Networks that it ended are behind the others: they could not go on without it, nor with more patience.
    stopping = None if task.early_stopping is None else list(task.early_stopping)
    return {"shared_key": not key.ndim, "early_stopping": stopping}


def _first_run(
    state: TrainState, rows: np.ndarray, task: Task, shared: bool, resume: FitManyResult | None
) -> Run:
    """Return the run of a group before its first step here, of its share of the state."""
    state = state._replace(key=state.key[0]) if shared else state
    if resume is None:
        return Run(state, np.ones(len(rows), bool))
    resume = share_of_result(resume, rows)
    alive, steps = ~resume.diverged, np.asarray(state.step)
    done = int(steps[alive].max()) if alive.any() else task.steps
    history = resume.history
    # Of a group of which none is left, to the end.
    aux = {name: padded(values, done) for name, values in history.aux.items()}
    own = history._replace(loss=padded(history.loss, done), aux=aux)
    run = resumed(own, Run(state, alive), task, state, done, (resume.scheduled, resume.best))
    if rows[0]:
        return run
    return run._replace(compile_seconds=resume.compile_seconds, train_seconds=resume.train_seconds)


def _num_lanes() -> int:
    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spread(run: Run, hyper: dict[str, Array], task: Task) -> tuple[Run, dict[str, Array], Task]:
    """Return what is of each network on the devices of the task's mesh, as many on each."""
    assert task.mesh is not None
    each, everywhere = over_all(task.mesh), replicated(task.mesh)

    def placed(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: place(leaf, each if np.ndim(leaf) else everywhere), tree)

    best, scheduled = (
        b and b._replace(**placed({n: getattr(b, n) for n in b._fields[2:]}))
        for b in (run.best, run.scheduled)
    )
    run = run._replace(state=placed(run.state), best=best, scheduled=scheduled)
    return run, placed(hyper), task._replace(subsets=placed(task.subsets))


def _devices(
    state: TrainState, hyper: dict[str, Array], optimizer: Optimizer, task: Task
) -> tuple[Train, int]:
    """Return what trains a group on a mesh, each device its share, and the most steps it takes in a call."""
    assert task.mesh is not None
    width, mesh = len(state.step) // task.mesh.size, task.mesh
    own = task.subsets is not None or (state.key.ndim == 1 and task.batches is None)
    at_once = _at_once(state, task, width) if own else width
    max_steps = longest_cut(task, width, own)
    take = compile_train(task, optimizer, state, hyper, max_steps, at_once)

    def train(state: TrainState, first: int, num_steps: int) -> tuple[TrainState, Record, np.ndarray]:
        window = on_device(first, mesh), on_device(num_steps, mesh)
        state, *found = take(state, *window, hyper, task.subsets)
        record, finite = jax.device_get(found)
        return state, jax.tree.map(lambda leaf: leaf[:, :num_steps], record), finite

    return train, max_steps


def _lanes(
    state: TrainState, hyper: dict[str, Array], optimizer: Optimizer, task: Task, pool: ThreadPoolExecutor
) -> tuple[Train, int]:
    """Return what trains a group, each core a share of its networks, and the most steps it takes in a call.

    A step of one program leaves cores idle between its products, and those of small networks do not divide
    well among threads: two programs side by side take two thirds of the time of one twice as wide.
    """
    networks = len(state.step)
    own = task.subsets is not None or (state.key.ndim == 1 and task.batches is None)
    width = -(-networks // _num_lanes())
    rows = _lane_rows(networks, width)
    at_once = _at_once(state, task, width) if own else width
    max_steps = longest_cut(task, width, own)
    shares = [share_of(hyper, lane) for lane in rows]
    subsets = [None if task.subsets is None else task.subsets[lane] for lane in rows]
    task = task._replace(subsets=subsets[0])
    # Compiled in this thread, whose contexts (such as enable_x64) the others do not have.
    take = compile_train(task, optimizer, share_of(state, rows[0]), shares[0], max_steps, at_once)

    def train(state: TrainState, first: int, num_steps: int) -> tuple[TrainState, Record, np.ndarray]:
        window = on_device(first), on_device(num_steps)
        jobs = [
            (part, *window, *own) for part, *own in zip(_split(state, width), shares, subsets, strict=True)
        ]
        states, *found = zip(*pool.map(lambda job: jax.block_until_ready(take(*job)), jobs), strict=True)
        records, finite = (
            jax.tree.map(lambda *leaves: np.concatenate(leaves)[:networks], *jax.device_get(lanes))
            for lanes in found
        )
        return _join(states, networks), jax.tree.map(lambda leaf: leaf[:, :num_steps], records), finite

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

    result: TrainState = jax.tree.map(joined, *states)
    return result


def _at_once(state: TrainState, task: Task, width: int) -> int:
    """Return how many of a lane's networks take their steps together: what lies well in a core's cache."""
    if jax.default_backend() != "cpu":
        return width
    examples = task.parts["train"]
    batch = task.batch_size * sum(leaf.nbytes for leaf in jax.tree.leaves(examples)) // num_examples(examples)
    held = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state)))
    return max(n for n in range(1, width + 1) if width % n == 0 and n <= max(1, _CACHE // (batch + 2 * held)))


def padded(values: np.ndarray, length: int) -> np.ndarray:
    """Return values [networks, n, ...] with the second axis cut to a length, or filled up with NaN."""
    missing = max(0, length - values.shape[1])
    if not missing:
        return values[:, :length]
    filler = np.full((len(values), missing, *values.shape[2:]), np.nan, with_nan(values.dtype))
    return np.concatenate([values, filler], axis=1)


def _result(
    runs: Sequence[Run], groups: Sequence[np.ndarray], task: Task, more: dict[str, Any], interrupted: bool
) -> FitManyResult:
    """Return the groups' runs as one result, with NaN where a group has not come to or was not evaluated."""
    histories = [history_of(run, task) for run in runs]
    eval_step = max((history.eval_step for history in histories), key=len)
    cut_short = interrupted or any(run.ended for run in runs)
    done = max(run.done for run in runs) if cut_short else task.steps

    def together(curves: Sequence[np.ndarray], length: int) -> np.ndarray:
        shape = max((curve.shape[2:] for curve in curves), key=len)  # which one without a value does not know
        whole = [curve.reshape(*curve.shape[:2], *shape) for curve in curves]
        return np.concatenate([padded(curve, length) for curve in whole])

    def part(name: str) -> dict[str, np.ndarray]:
        length = done if name == "aux" else len(eval_step)
        found = [getattr(history, name) for history in histories]
        names = max(found, key=len)
        none = [history.loss[:, :0] for history in histories]
        return {n: together([c.get(n, o) for c, o in zip(found, none, strict=True)], length) for n in names}

    def best(name: str) -> Best | None:
        found = [getattr(run, name) for run in runs]
        if not any(found):
            return None
        each = [
            one
            or Best(np.full(run.alive.shape, -1), np.full(run.alive.shape, np.nan), *weights_of(run.state))
            for one, run in zip(found, runs, strict=True)
        ]
        step, value = (np.concatenate([one[i] for one in each]) for i in (0, 1))
        return Best(
            step, value, *jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(b[2:] for b in each))
        )

    loss = together([history.loss for history in histories], done)
    keyed = [run.state._replace(key=jnp.broadcast_to(run.state.key, run.state.step.shape)) for run in runs]
    whole = FitManyResult(
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *keyed),
        History(loss, eval_step, *map(part, PARTS))._replace(aux=part("aux")),
        ~np.concatenate([run.alive for run in runs]),
        interrupted,
        sum(run.compile_seconds for run in runs),
        sum(run.train_seconds for run in runs),
        task.settings() | more,
        best("best"),
        np.concatenate([run.stopped_early(task) for run in runs]) if task.early_stopping else None,
        best("scheduled"),
    )
    kept = np.concatenate([np.append(True, np.diff(rows) > 0) for rows in groups])
    # Without those that filled up the devices.
    return whole if kept.all() else share_of_result(whole, kept)


def share_of_result(result: FitManyResult, rows: np.ndarray) -> FitManyResult:
    """Return what a result holds of those networks."""
    loss, eval_step, *curves = result.history
    # Not by `share_of`, which would sort the metrics by name.
    parts = [{name: curve[rows] for name, curve in part.items()} for part in curves]
    names = "state", "diverged", "best", "stopped_early", "scheduled"
    own = share_of({name: getattr(result, name) for name in names}, rows)
    return result._replace(history=History(loss[rows], eval_step, *parts), **own)
