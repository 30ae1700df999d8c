"""Run checkpoints, from which a run continues bit for bit, and exported weights, in one file without pickle.

A run folder holds `history.csv`, a line for each step, and `checkpoints/STEP/`, each with the state in a
safetensors file and the `SHA256SUMS` of all its files, which are written last: a folder without them is a
save that did not finish. A checkpoint counts only if the history up to its step is also what it was.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxnet import _history, _tensors
from jaxnet._history import HistoryFile, Mark
from jaxnet._tensors import Exported, load_params, save_params
from jaxnet.training import Best, FitResult, History, Stretch, TrainState

PyTree = Any
_Path = str | os.PathLike[str]
_HISTORY, _CHECKPOINTS, _SUMS = "history.csv", "checkpoints", "SHA256SUMS"
_STATE = Path("default", "state.safetensors")
_log = logging.getLogger(__name__)

__all__ = ["Checkpointer", "Exported", "load_params", "restore", "save_params", "steps"]


class _Snapshot(NamedTuple):
    """A state to be written."""

    step: int
    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


class _Found(NamedTuple):
    """A checkpoint that proved whole."""

    step: int
    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]
    history: History


def steps(folder: _Path) -> list[int]:
    """Return the steps of which a run folder holds checkpoints, whole or not, in order."""
    root = Path(folder, _CHECKPOINTS)
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal()) if root.is_dir() else []


def restore(
    folder: _Path, like: TrainState, *, step: int | Literal["best"] | None = None
) -> FitResult | None:
    """Return the run up to its latest checkpoint, to be handed to `fit(..., resume=...)`; None without any.

    folder: the run folder; nothing in it is changed. like: the state before the first step,
    `training.init_state(params, optimizer, key)`, which says how the arrays hang together. step: that of
    another checkpoint, or "best": the one of the best evaluation, where the run kept it.

    A checkpoint of which a byte was changed or cut off is named on the log (one line on stderr), and the one
    before it used.

    Raises:
        ValueError: no checkpoint is whole, or the one of `step` is not there or damaged, or a leaf differs
            from that of `like` in name, shape or dtype; the message names it.
    """
    if step is None:
        found = _latest(Path(folder))
    else:
        if step == "best":
            latest = _latest(Path(folder))
            step = latest and latest.metadata["best_step"]
        if step is None or step not in steps(folder):
            raise ValueError(f"{folder}: expected a step among {steps(folder)}, got {step}")
        found = _read(Path(folder), int(step))
    return None if found is None else _result(found, like, str(Path(folder, _CHECKPOINTS, str(found.step))))


class Checkpointer:
    """A callback of `fit` that writes the history and checkpoints of a run into a folder.

    folder: made where there is none, and locked for this process while in use. every: steps between two
    checkpoints; `fit(..., stretch=every)` ends a stretch exactly there, otherwise each comes at the end of
    the first stretch past its step. keep: how many of the last are kept, at least 2, as the last may be
    damaged. best: a metric such as "test_accuracy", of which the best evaluation so far (mode "max" or "min")
    is kept as well. overwrite: forget the run that the folder holds.

    Everything is written by one thread beside the training, at most one checkpoint behind: first the history,
    forced onto the disk, then the checkpoint, atomically, then its checksums.

    Raises:
        ValueError: every or keep out of range, best no metric of the run; a folder in use by another process,
            or that holds another run; what `restore` raises.
        ImportError: orbax-checkpoint or safetensors is not installed.
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
        self._best_step: int | None = None
        self._best_value = -np.inf
        self._history: HistoryFile | None = None
        self._seconds = [0.0, 0.0]  # of compilation and training
        self._queue: list[tuple[int, History, _Snapshot | None]] = []  # since the last checkpoint
        self._taken = 0  # the step of the last checkpoint handed over
        self._written: int | None = None  # and of the last one on disk
        self._job: Future[Any] | None = None
        self._manager: Any = None

    def __enter__(self) -> "Checkpointer":
        _tensors.require()
        if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("orbax.checkpoint") is None:
            raise ImportError("checkpoints need orbax-checkpoint: pip install 'jaxnet[checkpoints]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        self._worker = ThreadPoolExecutor(1, "jaxnet-checkpoints")
        self._worker.submit(
            importlib.import_module, "jaxnet._orbax"
        )  # takes half a second: beside the compilation
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True)
        if self._manager is not None:
            self._manager.close()
        os.close(self._lock)
        if error is None and self._job is not None:
            self._job.result()

    def restore(self, like: TrainState) -> FitResult | None:
        """Return the run that the folder holds, up to its latest whole checkpoint, and continue from there.

        None if it holds none. What came after that checkpoint is removed, from the history too.
        """
        found = None if self._overwrite else _latest(self.folder)
        if found is None:
            self._begin()
            return None
        result = _result(found, like, str(self.folder / _CHECKPOINTS / str(found.step)))
        self._begin(found)
        return result

    def __call__(self, stretch: Stretch) -> None:
        """Take note of a stretch; hand over a checkpoint when `every` steps have passed."""
        self._prepare()
        first, history = _history.piece(stretch)
        step = int(stretch.state.step)
        self._seconds[1] += stretch.seconds
        snapshot = None
        if self._improves(stretch, step):
            snapshot = self._snapshot(stretch.state, stretch.best)
            self._queue = [(*entry[:2], None) for entry in self._queue]  # no longer the best
        due = step // self._every > self._taken // self._every
        if due and snapshot is None:
            snapshot = self._snapshot(stretch.state, stretch.best)
        self._queue.append((first, history, snapshot))
        if due:
            self._hand_over(step)

    def save(self, result: FitResult) -> None:
        """Write the checkpoint of a result, such as the end of a run, and wait until all is on the disk."""
        self._prepare()
        step = int(result.state.step)
        self._seconds = [result.compile_seconds, result.train_seconds]
        if step > self._taken:
            self._queue.append((0, result.history, self._snapshot(result.state, result.best)))
            self._hand_over(step)
        if self._job is not None:
            self._job.result()

    def _prepare(self) -> None:
        if self._history is None:
            if steps(self.folder) and not self._overwrite:
                raise ValueError(
                    f"{self.folder} holds a run: expected restore() to be called, or overwrite=True"
                )
            self._begin()

    def _begin(self, found: _Found | None = None) -> None:
        """Take the folder to what it was at that checkpoint, or empty it."""
        for step in steps(self.folder):
            if found is None or step > found.step:
                shutil.rmtree(self.folder / _CHECKPOINTS / str(step))
        self._history = HistoryFile(self.folder / _HISTORY, None if found is None else _mark(found.metadata))
        if found is not None:
            self._taken = self._written = found.step
            self._seconds = [found.metadata["compile_seconds"], found.metadata["train_seconds"]]
            if self._best is not None:
                values = self._sign * _curve(found.history, self._best)
                if not np.isnan(values).all():
                    index = int(np.nanargmax(values))
                    self._best_value, self._best_step = values[index], int(found.history.eval_step[index]) + 1

    def _improves(self, stretch: Stretch, step: int) -> bool:
        if self._best is None or not stretch.train:
            return False
        (value,) = self._sign * _curve(_history.piece(stretch)[1], self._best)
        if not value > self._best_value:
            return False
        self._best_value, self._best_step = value, step
        return True

    def _snapshot(self, state: TrainState, best: Best | None) -> _Snapshot:
        arrays = _tensors.flatten({"state": state} | ({} if best is None else {"best": best}))
        metadata = {
            "key": str(jax.random.key_impl(state.key)),
            "best_step": self._best_step,
            "compile_seconds": self._seconds[0],
            "train_seconds": self._seconds[1],
        }
        return _Snapshot(int(state.step), arrays, metadata)

    def _hand_over(self, step: int) -> None:
        if self._job is not None:
            self._job.result()  # one at a time, and its error as soon as may be
        queue, self._queue = self._queue, []
        self._taken = step
        self._job = self._worker.submit(self._write, queue)

    def _write(self, queue: Sequence[tuple[int, History, _Snapshot | None]]) -> None:
        from jaxnet import _orbax

        assert self._history is not None
        try:
            if self._manager is None:
                self._manager = _orbax.manager(
                    self.folder / _CHECKPOINTS, self._keep, lambda: self._best_step
                )
            marked = [(self._history.append(first, history), snapshot) for first, history, snapshot in queue]
            self._history.sync()
            for mark, snapshot in marked:
                if snapshot is not None and snapshot.step != self._written:
                    data = _tensors.pack(snapshot.arrays, snapshot.metadata | mark._asdict())
                    _orbax.save(self._manager, snapshot.step, data)
                    path = self.folder / _CHECKPOINTS / str(snapshot.step)
                    _tensors.write(path / _SUMS, _sums(path))
                    self._written = snapshot.step
        except OSError as error:
            last = "there is none" if self._written is None else f"the last is of step {self._written}"
            raise OSError(
                error.errno, f"cannot write a checkpoint, {last}: {error.strerror}", error.filename
            ) from None


def _lock(folder: Path) -> int:
    import fcntl

    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"{folder} is in use by another run") from None
    return descriptor


def _sums(folder: Path) -> bytes:
    """Return the checksums of every file in a checkpoint, as sha256sum writes them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SUMS)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files
    ]
    return "".join(lines).encode()


def _latest(folder: Path) -> _Found | None:
    """Return the latest checkpoint that is whole, and name those passed over on the log."""
    damaged = []
    for step in reversed(steps(folder)):
        path = folder / _CHECKPOINTS / str(step)
        if not (path / _SUMS).exists():
            _log.warning("%s: not finished when the run ended, passed over", path)
            continue
        try:
            return _read(folder, step)
        except ValueError as error:
            damaged.append(str(error))
            _log.warning("%s: passed over", error)
    if damaged:
        raise ValueError(f"expected a whole checkpoint in {folder}, got none: {damaged[0]}")
    return None


def _read(folder: Path, step: int) -> _Found:
    """Read a checkpoint and the history up to it; ValueError where it is not what was written."""
    path = folder / _CHECKPOINTS / str(step)
    expected = (path / _SUMS).read_bytes() if (path / _SUMS).exists() else b""
    got = _sums(path)
    if expected != got:
        lines = set(expected.splitlines()) ^ set(got.splitlines())
        names = sorted({line[66:].decode(errors="replace") for line in lines})
        raise ValueError(f"{path} is damaged in {', '.join(names) or _SUMS}")
    arrays, metadata = _tensors.unpack((path / _STATE).read_bytes(), str(path / _STATE))
    try:
        history = _history.read(folder / _HISTORY, _mark(metadata))
    except ValueError as error:
        raise ValueError(f"{path} does not count: {error}") from None
    return _Found(step, arrays, metadata, history)


def _mark(metadata: dict[str, Any]) -> Mark:
    return Mark(**{name: metadata[name] for name in Mark._fields})


def _result(found: _Found, like: TrainState, source: str) -> FitResult:
    expected = str(jax.random.key_impl(like.key))
    if found.metadata["key"] != expected:
        raise ValueError(f"{source}: expected a key of {expected}, got {found.metadata['key']}")
    wanted: dict[str, Any] = {"state": like}
    if any(name.startswith("best.") for name in found.arrays):
        value = found.arrays["best.value"]
        wanted["best"] = Best(np.int64(0), value, like.params)  # type: ignore[arg-type]
    tree = _tensors.unflatten(found.arrays, wanted, source)
    best = tree.get("best")
    if best is not None:
        best = Best(int(best.step), best.value[()], best.params)
    seconds = found.metadata["compile_seconds"], found.metadata["train_seconds"]
    return FitResult(tree["state"], found.history, False, *seconds, best)


def _curve(history: History, column: str) -> np.ndarray:
    """Return the metric that `history.csv` has under that name."""
    columns = {
        f"{part}_{name}": curve for part in _history.PARTS for name, curve in getattr(history, part).items()
    }
    if column not in columns:
        raise ValueError(f"best must be one of {', '.join(columns) or '(no metrics)'}, got {column!r}")
    return columns[column].astype(np.float64)
