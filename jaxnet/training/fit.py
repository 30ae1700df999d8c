"""Mini-batch training of any pure `loss(params, x, t)`, whole stretches of steps compiled as one program.

Source: 4.3 (the loop) and 4.4 (its evaluation). The batch of step s is a function of `(key, s)` alone, so
that a run does not depend on how it is cut into stretches.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Int, Num

from jaxnet.sharding import (
    Partition,
    Share,
    alike,
    check_mesh,
    first_process,
    several_processes,
    split_params,
    together,
)
from jaxnet.shards import OnDisk
from jaxnet.training.body import Record
from jaxnet.training.placing import described, placed_state, placed_task
from jaxnet.training.program import compile_evaluate, compile_train, on_device
from jaxnet.training.run import (
    Best,
    History,
    Run,
    Stretch,
    bar,
    check_recorded,
    fetched_run,
    history_of,
    longest_cut,
    resumed,
    stretches,
    told_to_stop,
)
from jaxnet.training.state import (
    AnyKey,
    Loss,
    Metric,
    PyTree,
    Sampling,
    TrainState,
    init_state,
    unwrapped,
    weights_of,
)
from jaxnet.training.task import (
    EarlyStopping,
    OnNonFinite,
    Part,
    Task,
    batch_error,
    check_aux,
    check_callbacks,
    check_first_gradient,
    check_key,
    check_metrics,
    check_model_state,
    check_opt_state,
    check_optimizer,
    check_params,
    check_result,
    check_resumable,
    check_settings,
    check_task,
    task_options,
)

_log = logging.getLogger(__name__)

Data = tuple[PyTree, PyTree] | Share | OnDisk


class FitResult(NamedTuple):
    """The end of a run: its last state, its history, and how it went."""

    state: TrainState
    history: History
    interrupted: bool
    """Ctrl-C ended the run early."""
    compile_seconds: float
    train_seconds: float
    """Compilation and evaluation apart."""
    best: Best | None = None
    """With early stopping, the best evaluation so far."""
    stopped_early: bool = False
    """Early stopping, or a callback that returned "stop", ended the run."""
    scheduled: Best | None = None
    """The best apart from an evaluation that only this end had: what a resumed run goes on from."""
    settings: Mapping[str, Any] = {}
    """What must be the same in a run that goes on from here; nothing is compared where it is empty."""

    @property
    def params(self) -> PyTree:
        """The parameters after the last step, or the best with early stopping; with `averaged` their mean."""
        return unwrapped(weights_of(self.state)[0] if self.best is None else self.best.params)

    @property
    def model_state(self) -> PyTree:
        """What the loss carries from step to step, as it was with these parameters."""
        return self.state.model_state if self.best is None else self.best.model_state


class NonFiniteError(FloatingPointError):
    """The loss or the parameters became NaN or infinite at `step`; `result` is the run up to that step."""

    def __init__(self, what: str, step: int, result: FitResult):
        self.what = what
        self.reason = f"{what} at step {step}"
        super().__init__(f"{self.reason}; .result holds the run up to there")
        self.step = step
        self.result = result

    def __reduce__(self) -> tuple[type, tuple[str, int, FitResult]]:
        return type(self), (self.what, self.step, self.result)


def fit(
    loss: Loss,
    params: PyTree,
    train: Data,
    *,
    test: Data | None = None,
    validation: Data | None = None,
    optimizer: optax.GradientTransformation | None = None,
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
    resume: FitResult | None = None,
    mesh: Mesh | None = None,
    partition: Partition | None = None,
    progress: bool = True,
) -> FitResult:
    """Train `params` by mini-batch steps of an optax optimizer and return the last state and the history.

    loss: pure `loss(params, x, t)`, a scalar, traceable by JAX. train, test, validation: `(x, t)`, each an
    array or a pytree of arrays, examples on the first axis; t may be None; or `shards.OnDisk`, which is read
    as it is needed and, to train on, evaluated only where eval_parts names it. Leaves of params that are not
    floating-point are left as they are. optimizer: SGD at 0.1 by default; batch_size: 100; steps: 10,000, or
    epochs of `max(n // batch_size, 1)` steps; key: `jax.random.key(0)`, or a seed: the source's (4.3).

    A loss with a parameter `key` is given a fresh one each step, `step_key(key, step)`. has_state: it is
    `loss(params, state, x, t) -> (value, state)` from the first `state` on, and metrics are `metric(params,
    state, x, t)`. has_aux: it returns `(value, aux)`, or `(value, state, aux)`; what is in the pytree aux of
    each step is in `history.aux`, up to 4 GiB in all.

    sample_weight, class_weight: weights for each example, and for each class or "balanced" (see
    `balanced_class_weight`), for a loss with parameters of these names, as `network.loss` has them; metrics
    take no sample weights. track: what else `history.aux` gets of each step: "gradient_norm", or a number
    that the optimizer's state holds by name, as `optax.inject_hyperparams(...)` does "learning_rate". check:
    run `check_gradients` on the loss of the next batch first. opt_state: the optimizer's first state.

    sampling: how `draw_batches` draws each batch; or batches: explicit indices [steps, batch] into train,
    which also set steps and batch_size.

    metrics: pure functions like the loss, numbers or arrays, by name, evaluated on the whole of each part
    right after the update of every step i with `i % eval_every == 0`, and of the last; eval_every: once per
    epoch, `max(n // batch_size, 1)`, as the source (4.4). Without metrics nothing is evaluated, or the loss
    if there is a test or validation set. One that needs a `key` always gets `jax.random.key(0)`. eval_parts:
    those to evaluate, such as `["test"]`; by default all. eval_batch: how many examples at a time; by default
    as many as keep every array of a metric within 64 MB. A metric that is no mean over examples is seen to be
    none, and evaluated on all at once.

    early_stopping: ends the run when a metric no longer gets better; the result's params are then the best.

    on_nonfinite: "stop" with an error where the loss or a parameter becomes NaN or infinite, or "continue",
    for a rule that deals with it, such as `optax.apply_if_finite`.

    loss_after_update: record the loss of each batch after its update, as the source does, which costs another
    forward pass; by default it is recorded before.

    callbacks: called with a `Stretch` after each stretch of steps. One ends at every evaluation, at the last
    step, and at each multiple of `stretch` steps, or, by default, every half a second or so. One that returns
    "stop" ends the run there. progress: a bar on stderr, where that is a terminal.

    Ctrl-C ends the run within about half a second; what is done is returned, with `interrupted` set.

    resume: a result of the same run to continue up to `steps` in all; params then only have to be like its
    own. The end is bit for bit that of the run that was never interrupted.

    mesh: devices, of one process or of several that `sharding.connect` joined, to spread the run over, as
    `sharding.mesh(data=4, model=2)` makes one: examples and batches are split over its axis `data`,
    parameters over `model` by their hidden width, or as `partition(path, leaf)` says, a PartitionSpec for a
    path such as "[0].weight". Nothing else changes: sums over a batch are only added in another order. Each
    process is given the same arrays, or a `sharding.Share` of them.

    Raises:
        ValueError: shapes or lengths that do not fit, an empty set, NaN or infinity in the data or params,
            sizes or steps that are not positive, an index in batches out of range, an unknown sampling, a
            result to resume that is not of such a run; or what the loss itself finds wrong with a batch, from
            a NonFiniteError as its cause.
        TypeError: batches or sizes that are not integers, params that hold nothing floating-point, an
            optimizer that is not optax's, a loss that does not return a real scalar or what has_state and
            has_aux say, a state that changes its structure, a metric that does not reduce.
        GradientError: with check, the gradient is wrong; the message is the report.
        NonFiniteError: the loss or a parameter became NaN or infinite; it holds the step, and the result up
            to the last finite state.

    >>> import jax.numpy as jnp
    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> result = fit(square, jnp.array(0.0), (np.ones(8), np.full(8, 3.0)), steps=100, batch_size=4)
    >>> round(float(result.params), 3), result.history.loss.shape
    (3.0, (100,))
    """
    # Not the program's own transfers, which are explicit: what users' optimizers make of Python's numbers.
    with jax.transfer_guard("allow"):
        mesh = None if mesh is None else check_mesh(mesh)
        check_callbacks(callbacks)
        check_result(resume, FitResult)
        if partition is not None and mesh is None:
            raise ValueError("partition must be given with a mesh, got none")
        with alike(mesh) as same:
            parts = {"train": train, "validation": validation, "test": test}
            task = check_task(loss, parts, **task_options(locals()))
            optimizer, model_state = check_optimizer(optimizer), check_model_state(state, has_state)
            first = init_state(params, optimizer, check_key(key), model_state)
            run = _first_run(first._replace(opt_state=check_opt_state(opt_state, first)), task, key, resume)
            task = check_aux(task, run.state)
            shardings = None if mesh is None else split_params(run.state.params, mesh, partition)
            if several_processes(mesh):
                same |= described(task, run.state)
        if mesh is not None:
            task, run = placed_task(task), run._replace(state=placed_state(run.state, mesh, shardings))
        if check and run.done < task.steps:
            check_first_gradient(run.state, task)
    try:
        with together(mesh) as agree:
            start = time.perf_counter()
            max_steps = longest_cut(task)
            take = compile_train(task, optimizer, run.state, {}, max_steps, None)
            measure = compile_evaluate(task, run.state, many=False)

            def advance(
                state: TrainState, done: int, num_steps: int
            ) -> tuple[TrainState, Record, np.ndarray]:
                state, record, finite = take(state, on_device(done, mesh), on_device(num_steps, mesh), {})
                record, finite = jax.device_get((record, finite))
                return state, jax.tree.map(lambda leaf: leaf[:num_steps], record), finite

            _, record, _ = advance(run.state, run.done, 0)
            check_recorded(run, record)
            run = run._replace(compile_seconds=run.compile_seconds + time.perf_counter() - start)
            with bar(task.steps, run.done, progress and first_process(mesh)) as tell:
                for after, told in stretches(run, advance, measure, task, max_steps, agree):
                    num_steps, run = after.done - run.done, fetched_run(after, mesh)
                    tell(run, num_steps)
                    if told is not None:
                        told = told._replace(result=partial(_result, run, task))
                        if agree(0.0, told_to_stop(callbacks, told))[1]:
                            run = run._replace(ended=True)
                            break
    except KeyboardInterrupt:
        return _result(run, task, interrupted=True)
    if run.failure:
        failure = NonFiniteError(run.failure, run.done, _result(run, task))
        if (error := batch_error(run.state, task)) is not None:
            raise error from failure
        raise failure
    return _result(run, task)


def _first_run(state: TrainState, task: Task, key: AnyKey, resume: FitResult | None) -> Run:
    """Return the run before its first step here, of the checked state or the result to resume."""
    check_params(state.params)
    check_metrics(task, weights_of(state))
    run = Run(state, np.array(True))
    if resume is None:
        return run
    state = check_resumable(resume.state, state, key)
    done = int(state.step)
    scheduled = resume.scheduled if resume.settings else resume.best
    run = resumed(resume.history, run, task, state, done, (scheduled, resume.best))
    check_settings(resume.settings, task)
    if run.stopped_early(task) and done < task.steps:
        _log.warning(
            "the run to resume was ended by early stopping after %d steps: a longer patience goes on", done
        )
    return run._replace(compile_seconds=resume.compile_seconds, train_seconds=resume.train_seconds)


def _result(run: Run, task: Task, interrupted: bool = False) -> FitResult:
    stopped = not interrupted and (run.ended or bool(run.stopped_early(task)))
    seconds = run.compile_seconds, run.train_seconds
    return FitResult(
        run.state,
        history_of(run, task),
        interrupted,
        *seconds,
        run.best,
        stopped,
        run.scheduled,
        task.settings(),
    )
