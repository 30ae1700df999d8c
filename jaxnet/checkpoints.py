"""Run checkpoints, from which a run continues bit for bit, and exported weights, in one file without pickle.

A run folder holds `history.csv`, a line for each step, and `checkpoints/STEP/`, each with the state in a
safetensors file and the `SHA256SUMS` of all its files, which are written last: a folder without them is a
save that did not finish. A checkpoint counts only if the history up to its step is also what it was.
`checkpoints/best.safetensors` holds the state of the best evaluation, where one is asked for.
"""

import hashlib
import importlib
import importlib.util
import itertools
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from jaxnet import _history, _tensors
from jaxnet._history import HistoryFile, Mark
from jaxnet._tensors import Exported, load_params, save_params
from jaxnet.training import Best, FitResult, History, Stretch, TrainState

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy

PyTree = Any
_Path = str | os.PathLike[str]
_HISTORY, _CHECKPOINTS, _SUMS = "history.csv", "checkpoints", "SHA256SUMS"
_STATE, _BEST = "state.safetensors", "best.safetensors"
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
    source: str


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
    another checkpoint, or "best": that of the best evaluation, where the run keeps it.

    A checkpoint of which a byte was changed or cut off is named on the log (one line on stderr), and the one
    before it used.

    Raises:
        ValueError: no checkpoint is whole, or the one of `step` is not there or damaged, or a leaf differs
            from that of `like` in name, shape or dtype; the message names it.
    """
    if step is None:
        found = _latest(Path(folder))
        return None if found is None else _result(found, like)
    if step == "best":
        path = Path(folder, _CHECKPOINTS, _BEST)
        if not path.exists():
            raise ValueError(f"{folder}: expected a run that keeps its best evaluation, got none there")
        return _result(_parse(Path(folder), path), like)
    if step not in steps(folder):
        raise ValueError(f"{folder}: expected a step among {steps(folder)}, got {step}")
    return _result(_read(Path(folder), step), like)


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
        self._best_value = -np.inf
        self._best_snapshot: _Snapshot | None = None  # since the last checkpoint
        self._history: HistoryFile | None = None
        self._seconds = [0.0, 0.0]  # of compilation and training
        self._queue: list[tuple[int, History]] = []  # since the last checkpoint
        self._taken = 0  # the step of the last checkpoint handed over
        self._written: int | None = None  # and of the last one on disk
        self._job: Future[Any] | None = None

    def __enter__(self) -> "Checkpointer":
        _tensors.require()
        if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("orbax.checkpoint") is None:
            raise ImportError("checkpoints need orbax-checkpoint: pip install 'jaxnet[checkpoints]'")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder)
        self._worker = ThreadPoolExecutor(1, "jaxnet-checkpoints")
        self._worker.submit(
            importlib.import_module, "jaxnet._orbax"
        )  # takes half a second: beside the compilation
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True)
        self._lock.lock.release()
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
        result = _result(found, like)
        self._begin(found)
        return result

    def __call__(self, stretch: Stretch) -> None:
        """Take note of a stretch; hand over a checkpoint when `every` steps have passed."""
        self._prepare()
        first, history = _history.piece(stretch)
        step = int(stretch.state.step)
        self._seconds[1] += stretch.seconds
        self._queue.append((first, history))
        if self._improves(history):
            self._best_snapshot = self._snapshot(stretch.state, stretch.best)
        if step // self._every > self._taken // self._every:
            self._hand_over(self._snapshot(stretch.state, stretch.best))

    def save(self, result: FitResult) -> None:
        """Write the checkpoint of a result, such as the end of a run, and wait until all is on the disk."""
        self._prepare()
        step = int(result.state.step)
        self._seconds = [result.compile_seconds, result.train_seconds]
        if step > self._taken:
            self._queue.append((0, result.history))
            self._hand_over(self._snapshot(result.state, result.best))
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
        root = self.folder / _CHECKPOINTS
        root.mkdir(exist_ok=True)
        for path in root.iterdir():  # what orbax did not finish has other names
            step = path.name.partition(".")[0]
            if step.isdecimal() and (found is None or path.name != step or int(step) > found.step):
                shutil.rmtree(path)
        if found is None:
            (root / _BEST).unlink(missing_ok=True)
        self._history = HistoryFile(self.folder / _HISTORY, None if found is None else _mark(found.metadata))
        if found is not None:
            self._taken = self._written = found.step
            self._seconds = [found.metadata["compile_seconds"], found.metadata["train_seconds"]]
            if self._best is not None:
                values = self._sign * _curve(found.history, self._best)
                self._best_value = max(values[~np.isnan(values)], default=-np.inf)

    def _improves(self, history: History) -> bool:
        if self._best is None or not len(history.eval_step):
            return False
        (value,) = self._sign * _curve(history, self._best)
        if not value > self._best_value:
            return False
        self._best_value = value
        return True

    def _snapshot(self, state: TrainState, best: Best | None) -> _Snapshot:
        arrays = _tensors.flatten({"state": state} | ({} if best is None else {"best": best}))
        metadata = {
            "key": str(jax.random.key_impl(state.key)),
            "compile_seconds": self._seconds[0],
            "train_seconds": self._seconds[1],
        }
        return _Snapshot(int(state.step), arrays, metadata)

    def _hand_over(self, snapshot: _Snapshot) -> None:
        if self._job is not None:
            self._job.result()  # one at a time, and its error as soon as may be
        queue, self._queue = self._queue, []
        best, self._best_snapshot = self._best_snapshot, None
        self._taken = snapshot.step
        self._job = self._worker.submit(self._write, queue, snapshot, best)

    def _write(self, queue: Sequence[tuple[int, History]], last: _Snapshot, best: _Snapshot | None) -> None:
        from jaxnet import _orbax

        assert self._history is not None
        root = self.folder / _CHECKPOINTS
        try:
            marks = {mark.rows: mark for mark in itertools.starmap(self._history.append, queue)}
            self._history.sync()
            if best is not None and best.step in marks:
                _tensors.write(root / _BEST, _packed(best, marks[best.step]))
            path = root / str(last.step)
            _orbax.save(path, _packed(last, marks[last.step]))
            _tensors.write(path / _SUMS, _sums(path))
            self._written = last.step
            for step in steps(self.folder)[: -self._keep]:
                (root / str(step) / _SUMS).unlink(missing_ok=True)  # first: it no longer counts
                shutil.rmtree(root / str(step))
        except OSError as error:
            latest = "there is none" if self._written is None else f"the last is of step {self._written}"
            raise OSError(
                error.errno, f"cannot write a checkpoint, {latest}: {error.strerror}", error.filename
            ) from None


def _packed(snapshot: _Snapshot, mark: Mark) -> bytes:
    return _tensors.pack(snapshot.arrays, snapshot.metadata | mark._asdict())


def lock(folder: Path) -> "AcquireReturnProxy":
    """Hold a folder that exists until the context given back is left, or say that another run holds it."""
    from filelock import FileLock, Timeout

    try:
        return FileLock(folder / ".lock").acquire(timeout=0)  # gone with the process, however it ends
    except Timeout:
        raise ValueError(f"{folder} is in use by another run") from None


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
    return _parse(folder, path / _STATE)


def _parse(folder: Path, path: Path) -> _Found:
    arrays, metadata = _tensors.unpack(path.read_bytes(), str(path))
    mark = _mark(metadata)
    try:
        return _Found(mark.rows, arrays, metadata, _history.read(folder / _HISTORY, mark), str(path))
    except ValueError as error:
        raise ValueError(f"{path} does not count: {error}") from None


def _mark(metadata: dict[str, Any]) -> Mark:
    return Mark(**{name: metadata[name] for name in Mark._fields})


def _result(found: _Found, like: TrainState) -> FitResult:
    expected = str(jax.random.key_impl(like.key))
    if found.metadata["key"] != expected:
        raise ValueError(f"{found.source}: expected a key of {expected}, got {found.metadata['key']}")
    wanted: dict[str, Any] = {"state": like}
    if any(name.startswith("best.") for name in found.arrays):
        value = found.arrays["best.value"]
        wanted["best"] = {"step": np.int64(0), "value": value, "params": like.params}
    tree = _tensors.unflatten(found.arrays, wanted, found.source)
    best = None
    if "best" in tree:
        best = Best(int(tree["best"]["step"]), tree["best"]["value"][()], tree["best"]["params"])
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
