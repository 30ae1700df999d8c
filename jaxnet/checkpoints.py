"""Run checkpoints, from which a run continues bit for bit, and exported weights, in one file without pickle.

A run folder holds `checkpoints/STEP.safetensors`, each a whole run up to that step: state, best evaluation,
history and settings, with a checksum over all; and `checkpoints/best.safetensors`, the run up to its best
evaluation, where one is asked for. `history.csv` beside them is an export, which nothing is read from.
"""

import csv
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import jax.export
import numpy as np
from jax import Array

from jaxnet import _old_checkpoints, _tensors
from jaxnet._extras import require
from jaxnet._tensors import Arrays, Exported, load_params, save_params
from jaxnet.training import Best, FitManyResult, FitResult, History, Stretch, TrainState
from jaxnet.training.state import weights_of

_Path = str | os.PathLike[str]
Result = FitResult | FitManyResult
_HISTORY, _CHECKPOINTS, _SUFFIX, _BEST = "history.csv", "checkpoints", ".safetensors", "best.safetensors"
_PARTS = History._fields[2:5]
_log = logging.getLogger(__name__)

__all__ = [
    "Checkpointer",
    "Exported",
    "export_stablehlo",
    "load_history",
    "load_params",
    "restore",
    "save_params",
    "steps",
]


def steps(folder: _Path) -> list[int]:
    """Return the steps of which a run folder holds checkpoints, whole or not, in order.

    Of many networks they are the steps of all together.
    """
    names = [path.stem for path in Path(folder, _CHECKPOINTS).glob(f"*{_SUFFIX}")]
    return sorted({int(name) for name in names if name.isdecimal()} | set(_old_checkpoints.steps(folder)))


def restore(folder: _Path, like: TrainState, *, step: int | Literal["best"] | None = None) -> Result | None:
    """Return the run up to its latest checkpoint, to be handed to `fit(..., resume=...)`; None without any.

    folder: the run folder; nothing in it is changed. like: the state before the first step, of
    `training.init_state(params, optimizer, key)`, or of `training.init_states(...)` for `fit_many`, which
    says how the arrays hang together. step: that of another checkpoint, or "best": that of the best
    evaluation, where the run keeps it.

    A checkpoint of which a byte was changed or cut off is named on the log (one line on stderr), and the one
    before it used.

    Raises:
        ValueError: no checkpoint is whole, or the one of `step` is not there or damaged, or a leaf differs
            from that of `like` in name, shape or dtype; the message names it.
        ImportError: safetensors is not installed.
    """
    _tensors.require()
    if step == "best":
        if not Path(folder, _CHECKPOINTS, _BEST).exists():
            raise ValueError(f"{folder}: expected a run that keeps its best evaluation, got none there")
        return _read(Path(folder), "best", like)
    if step is not None:
        if step not in steps(folder):
            raise ValueError(f"{folder}: expected a step among {steps(folder)}, got {step}")
        return _read(Path(folder), step, like)
    content = _latest(Path(folder))
    return None if content is None else _result(*content, like)


def load_history(folder: _Path) -> History:
    """Return what the run in a folder recorded up to its latest checkpoint, damaged ones passed over.

    Raises:
        ValueError: there is no checkpoint, or none is whole.
        ImportError: safetensors is not installed.
    """
    _tensors.require()
    content = _latest(Path(folder))
    if content is None:
        raise ValueError(f"{folder}: expected a run with checkpoints, got none there")
    return _history(dict(content[0]), content[1])


def export_stablehlo(path: _Path, model: Callable[[Array], Array], features: int) -> None:
    """Write a model as a StableHLO program, which `jax.export` loads in a process without jaxnet.

    model: a pure function of x, float32 [n, features], such as `partial(network.predict, params)`, whose
    parameters become part of the program. It runs for any n, on CPU, NVIDIA GPU and TPU:
    `jax.export.deserialize(bytearray(open(path, "rb").read())).call(x)`. The file is there whole or not at
    all.

    Raises what the model does for such an x, OSError where the file cannot be written, and ImportError
    without flatbuffers, of the extra `[export]`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_stablehlo(f"{folder}/model.stablehlo", lambda x: x.sum(axis=1), 3)
    ...     program = jax.export.deserialize(bytearray(Path(folder, "model.stablehlo").read_bytes()))
    >>> program.call(np.ones((2, 3), np.float32))
    Array([3., 3.], dtype=float32)
    """
    require("flatbuffers", "exported programs need", "export")
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, features), np.float32)
    exported = jax.export.export(jax.jit(model), platforms=("cpu", "cuda", "tpu"))(x)
    _tensors.write(Path(path), bytes(exported.serialize()))


def _latest(folder: Path) -> tuple[Arrays, dict[str, Any], str] | None:
    """Return the content of the latest checkpoint that is whole; None where there is no checkpoint."""
    damaged = []
    for found in reversed(steps(folder)):
        try:
            return _content(folder, found)
        except _tensors.DamagedError as error:
            damaged.append(str(error))
            _log.warning("%s: passed over", error)
    if damaged:
        raise ValueError(f"expected a whole checkpoint in {folder}, got none: {damaged[0]}")
    return None


class Checkpointer:
    """A callback of `fit` or `fit_many` that writes checkpoints and the history of a run into a folder.

    folder: made where there is none, and locked for this process while in use. every: steps between two
    checkpoints; `fit(..., stretch=every)` ends a stretch exactly there, otherwise each comes at the end of
    the first stretch past its step. keep: how many of the last are kept, at least 2, as the last may be
    damaged. best: a metric such as "test_accuracy", of which the best evaluation so far (mode "max" or "min")
    is kept as well, of one network. overwrite: forget the run that the folder holds, once the first
    checkpoint of the new one is whole.

    Everything is written by one thread beside the training, at most one checkpoint behind: each file
    atomically, forced onto the disk, then what is new of the history as CSV.

    Raises:
        ValueError: every or keep out of range, best no metric of the run; a folder in use by another process,
            or that holds another run; a second run; what `restore` raises.
        ImportError: safetensors or filelock is not installed.
        OSError: the disk is full or the folder cannot be written. What was written before stays whole.

    >>> import tempfile
    >>> from jaxnet import fit, training
    >>> square, data = lambda w, x, t: ((w * x - t) ** 2).mean(), (np.ones(8), np.full(8, 3.0))
    >>> def run(folder, steps):
    ...     start = training.init_state(np.float32(0))
    ...     with Checkpointer(folder, every=20) as saver:
    ...         result = fit(square, start.params, data, batch_size=4, steps=steps, stretch=20,
    ...                      callbacks=[saver], resume=saver.restore(start))
    ...         saver.save(result)
    ...     return result
    >>> with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
    ...     _, whole, kept = run(one, 50), run(two, 100), steps(two)
    ...     resumed = run(one, 100)
    >>> bool(resumed.params == whole.params), kept
    (True, [60, 80, 100])
    """

    def __init__(
        self,
        folder: _Path,
        *,
        every: int = 1000,
        keep: int = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "max",
        overwrite: bool = False,
    ):
        if every < 1:
            raise ValueError(f"every must be positive, got {every}")
        if keep < 2:
            raise ValueError(f"keep must be at least 2, as the last checkpoint may be damaged, got {keep}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.folder = Path(folder)
        self._every, self._keep, self._best, self._overwrite = every, keep, best, overwrite
        self._sign = 1 if mode == "max" else -1
        self._best_value = -np.inf
        self._best_result: Result | None = None  # since the last checkpoint
        self._begun = False
        self._stale: list[Path] = []  # of another run, or after the checkpoint that this one goes on from
        self._seen = 0  # steps of the run so far
        self._taken = -1  # the step of the last checkpoint handed over
        self._written: int | None = None  # and of the last one on disk
        self._rows = 0  # of history.csv, as this process wrote it
        self._job: Future[None] | None = None
        self._held = ExitStack()

    def __enter__(self) -> "Checkpointer":
        _tensors.require()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(lock(self.folder))
        self._worker = ThreadPoolExecutor(1, "jaxnet-checkpoints")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True)
        self._held.close()
        if error is None and self._job is not None:
            self._job.result()

    def restore(self, like: TrainState) -> Any:  # what `resume` of either function takes
        """Return the run that the folder holds, up to its latest whole checkpoint, and continue from there.

        None if it holds none. What came after that checkpoint goes once the next one is whole.
        """
        result = None if self._overwrite else restore(self.folder, like)
        self._begin()
        if result is None:
            return None
        self._taken = self._written = self._seen = _step(result)
        self._stale = [path for path in self._stale if path.stem.isdecimal() and int(path.stem) > self._seen]
        if self._best is not None:
            values = self._sign * _metric(self._best, {p: getattr(result.history, p) for p in _PARTS}, 1)
            self._best_value = max(values[~np.isnan(values)], default=-np.inf)
        return result

    def __call__(self, stretch: Stretch) -> None:
        """Take note of a stretch; hand over a checkpoint where it passes a multiple of `every` steps."""
        self._prepare()
        step, length = int(np.max(stretch.state.step)), stretch.loss.shape[-1]
        if stretch.loss.ndim == 1:
            self._check_next(step - length, step)
            self._seen = step
        elif self._best is not None:
            raise ValueError(f"best must be None for many networks, got {self._best!r}")
        improves, passes = self._improves(stretch), step // self._every > (step - length) // self._every
        if (improves or passes) and stretch.result is not None:
            result = stretch.result()
            self._best_result = result if improves else self._best_result
            if passes:
                self._hand_over(result)

    def save(self, result: Result) -> None:
        """Write the checkpoint of a result, such as the end of a run, and wait until all is on the disk."""
        self._prepare()
        if _step(result) < self._taken:
            self._check_next(0, _step(result))
        if _step(result) > self._taken or not self._rows:
            self._hand_over(result)
        if self._job is not None:
            self._job.result()

    def _prepare(self) -> None:
        if not hasattr(self, "_worker"):
            raise RuntimeError("a Checkpointer must be entered first: with Checkpointer(folder) as saver")
        if not self._begun:
            if steps(self.folder) and not self._overwrite:
                raise ValueError(
                    f"{self.folder} holds a run: expected restore() to be called, or overwrite=True"
                )
            self._begin()

    def _begin(self) -> None:
        self._begun = True
        root = self.folder / _CHECKPOINTS
        root.mkdir(exist_ok=True)
        for unfinished in root.glob(f".*{_SUFFIX}.tmp"):
            unfinished.unlink()
        own = [root / f"{step}{_SUFFIX}" for step in steps(self.folder)]
        self._stale = [*own, root / _BEST, *_old_checkpoints.files(self.folder)]

    def _check_next(self, first: int, step: int) -> None:
        """Refuse steps that are not the next of this run."""
        if first != self._seen:
            raise ValueError(
                f"{self.folder} holds a run up to step {self._seen}, got steps {first} to {step}: expected "
                "restore() to be called, and a Checkpointer for each run"
            )

    def _improves(self, stretch: Stretch) -> bool:
        curves = {part: getattr(stretch, part) for part in _PARTS}
        if self._best is None or not any(curves.values()):
            return False
        value = self._sign * float(_metric(self._best, curves, 0))
        better = bool(value > self._best_value)
        self._best_value = value if better else self._best_value
        return better

    def _hand_over(self, result: Result) -> None:
        if self._job is not None:
            self._job.result()  # one at a time, and its error as soon as may be
        best, self._best_result = self._best_result, None
        self._taken = _step(result)
        self._job = self._worker.submit(self._write, result, best)

    def _write(self, last: Result, best: Result | None) -> None:
        root = self.folder / _CHECKPOINTS
        new = root / f"{_step(last)}{_SUFFIX}"
        try:
            if best is not None:
                _tensors.write(root / _BEST, _packed(best))
            _tensors.write(new, _packed(last))
            self._written = _step(last)
            stale, self._stale = self._stale, []
            for path in stale:
                if path != new and (path.name != _BEST or best is None):
                    path.unlink(missing_ok=True)
            for step in steps(self.folder)[: -self._keep]:
                (root / f"{step}{_SUFFIX}").unlink(missing_ok=True)
            if last.history.loss.ndim == 1:
                self._export(last.history)
        except OSError as error:
            latest = "there is none" if self._written is None else f"the last is of step {self._written}"
            raise OSError(
                error.errno, f"cannot write a checkpoint, {latest}: {error.strerror}", error.filename
            ) from None

    def _export(self, history: History) -> None:
        """Add what is new to history.csv; the first time, write all of it."""
        path = self.folder / _HISTORY
        curves = _columns({part: getattr(history, part) for part in _PARTS}, 1)
        evaluations = {int(step): row for step, *row in zip(history.eval_step, *curves.values(), strict=True)}
        blank = [""] * len(curves)
        try:
            with path.open("a" if self._rows else "w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if not self._rows:
                    writer.writerow(("step", "loss", *curves))
                for step, loss in enumerate(history.loss[self._rows :], self._rows):
                    writer.writerow((step, loss, *evaluations.get(step, blank)))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        self._rows = len(history.loss)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder that exists, or say that another run holds it."""
    filelock = require("filelock", "run folders need", "checkpoints")
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):  # gone with the process, however it ends
            yield
    except filelock.Timeout:
        raise ValueError(f"{folder} is in use by another run") from None


def _step(result: Result) -> int:
    return int(np.sum(result.state.step))


def _packed(result: Result) -> bytes:
    tree: dict[str, Any] = {"state": result.state}
    tree |= {"best": result.best} if result.best is not None else {}
    if result.scheduled is not None and not _same_step(result.scheduled, result.best):
        tree["scheduled"] = result.scheduled
    history = {f"history.{name}": getattr(result.history, name) for name in ("loss", "eval_step")}
    history |= {f"history.{p}.{name}": c for p in _PARTS for name, c in getattr(result.history, p).items()}
    history |= {f"history.aux.{name}": curve for name, curve in result.history.aux.items()}
    flags = {"diverged": result.diverged} if isinstance(result, FitManyResult) else {}
    metadata = {
        "key": str(jax.random.key_impl(result.state.key)),
        "compile_seconds": result.compile_seconds,
        "train_seconds": result.train_seconds,
        "metrics": {part: list(getattr(result.history, part)) for part in _PARTS},
        "settings": dict(result.settings),
    }
    metadata |= {"aux": list(result.history.aux)} if result.history.aux else {}
    return _tensors.pack(_tensors.flatten(tree) | history | flags, metadata)


def _same_step(one: Best, other: Best | None) -> bool:
    return other is not None and bool(np.all(np.asarray(one.step) == np.asarray(other.step)))


def _read(folder: Path, step: int | str, like: TrainState) -> Result:
    return _result(*_content(folder, step), like)


def _content(folder: Path, step: int | str) -> tuple[Arrays, dict[str, Any], str]:
    path = folder / _CHECKPOINTS / f"{step}{_SUFFIX}"
    if not path.exists():
        return _old_checkpoints.content(folder, int(step))
    return *_tensors.unpack(path.read_bytes(), str(path)), str(path)


def _result(arrays: Arrays, metadata: dict[str, Any], source: str, like: TrainState) -> Result:
    arrays = dict(arrays)
    expected = str(jax.random.key_impl(like.key))
    if metadata["key"] != expected:
        raise ValueError(f"{source}: expected a key of {expected}, got {metadata['key']}")
    history = _history(arrays, metadata)
    diverged = arrays.pop("diverged", None)
    wanted: dict[str, Any] = {"state": like}
    for kind in ("best", "scheduled"):
        if f"{kind}.step" in arrays:
            wanted[kind] = Best(arrays[f"{kind}.step"], arrays[f"{kind}.value"], *weights_of(like))
    tree = _tensors.unflatten(arrays, wanted, source)
    seconds, settings = (metadata["compile_seconds"], metadata["train_seconds"]), metadata["settings"]

    def best(kind: str) -> Best | None:
        found: Best | None = tree.get(kind)
        if found is None or diverged is not None:
            return found
        return found._replace(step=int(found.step), value=found.value[()])

    last, scheduled = best("best"), best("scheduled")
    scheduled = last if scheduled is None else scheduled
    if diverged is not None:
        return FitManyResult(
            tree["state"], history, diverged, False, *seconds, settings, last, None, scheduled
        )
    return FitResult(tree["state"], history, False, *seconds, last, False, scheduled, settings)


def _history(arrays: Arrays, metadata: dict[str, Any]) -> History:
    """Take a history out of the arrays of a checkpoint."""
    curves = [
        {name: arrays.pop(f"history.{part}.{name}") for name in metadata["metrics"][part]} for part in _PARTS
    ]
    aux = {name: arrays.pop(f"history.aux.{name}") for name in metadata.get("aux", ())}
    return History(arrays.pop("history.loss"), arrays.pop("history.eval_step"), *curves)._replace(aux=aux)


def _columns(curves: dict[str, dict[str, Any]], ndim: int) -> dict[str, Any]:
    """Return the metrics that `history.csv` has, by their names there: numbers, or curves of them."""
    columns = {f"{part}_{name}": curve for part in _PARTS for name, curve in curves[part].items()}
    return {name: curve for name, curve in columns.items() if np.ndim(curve) == ndim}


def _metric(column: str, curves: dict[str, dict[str, Any]], ndim: int) -> Any:
    """Return the metric that `history.csv` has under that name."""
    columns = _columns(curves, ndim)
    if column not in columns:
        raise ValueError(f"best must be one of {', '.join(columns) or '(no metrics)'}, got {column!r}")
    return columns[column].astype(np.float64)
