"""The run folder of `jaxnet train` and `sweep`: whose it is, what it holds, whether that can be resumed."""

import hashlib
import io
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnet import _tensors, checkpoints, network, plots, shards
from jaxnet.cli.settings import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONFIG, _HISTORY, _SUMMARY = "config.json", "history.csv", "summary.json"
_LOCK, _PREVIOUS = ".lock", "previous"
# All that jaxnet writes there, and so all that it ever moves or deletes, beside the checkpoints.
_FILES = (
    *(_HISTORY, "params.safetensors", "networks.csv", "model.safetensors", "model.stablehlo"),
    *("loss.png", "accuracy.png", "r2.png", "map.png", "curves.png"),
    *("confusion.png", "mistakes.png", "weights.png"),
    *(_CONFIG, _SUMMARY),
)
# What may differ when a run is resumed, beside options that may change.
_FREE = ("options", "device", "versions")


def path(options: Training) -> Path:
    """Return the run folder, made and seen to be jaxnet's to write into before anything is computed."""
    _tensors.require()
    if not options.no_plots:
        plots.require()
    folder = options.out
    try:
        if folder is None:
            folder = _new(Path("runs") / f"{Path(options.data).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted({path.name for path in folder.iterdir()} - {_LOCK, _PREVIOUS})
        if others and not _is_own(folder):
            raise ValueError(
                f"{folder} holds what is not of a jaxnet run, {', '.join(others[:5])}: choose another --out"
            )
        (folder / _LOCK).touch()
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written, got {folder}: {error.strerror}"
        ) from None
    return folder


def _new(path: Path) -> Path:
    """Make the folder, or one of the next names where there is one: of a run started in the same second."""
    for count in itertools.count(1):
        folder = path if count == 1 else path.with_name(f"{path.name}-{count}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


class Trained(NamedTuple):
    """What a run folder holds of a network that was trained."""

    saved: checkpoints.Exported
    config: dict[str, Any]
    model: Callable[[Any], Any]
    """Of inputs as `datasets.load` gives them: probabilities [n, classes], or numbers [n] of a regression."""
    logits: Callable[[Any], Any]
    is_regression: bool
    class_names: tuple[str, ...]
    """Their numbers, where they have none."""


def trained(folder: Path) -> Trained:
    """Read a run that came to its end; ValueError for a folder that holds none."""
    path = folder / "params.safetensors"
    if not _is_own(folder) or not path.exists():
        what = "a run that has no parameters yet: --resume it" if _is_own(folder) else "none"
        raise ValueError(f"expected the folder of a run, such as jaxnet train leaves, got {folder}: {what}")
    saved, config = checkpoints.load_params(path), read_config(folder)
    if saved.sizes is None or saved.activation is None:
        raise ValueError(f"{path}: expected the parameters of a network, got others")
    is_regression = config.get("task") == "regression"
    chosen: Any = {"params": saved.params, "activation": saved.activation}
    logits, probabilities = partial(network.logits, **chosen), partial(network.predict, **chosen)

    def model(x: Any) -> Any:
        return logits(x=x)[:, 0] if is_regression else probabilities(x=x)

    names = saved.class_names or tuple(map(str, range(saved.sizes[-1])))
    return Trained(saved, config, model, lambda x: logits(x=x), is_regression, names)


def saved_options(options: Training) -> tuple[Path, dict[str, Any]]:
    """Return where the run to resume says its options, and those."""
    needs = "--resume needs the run's folder: expected"
    if options.out is None:
        raise ValueError(f"{needs} --out FOLDER, got none")
    if options.overwrite:
        raise ValueError("expected --resume or --overwrite, got both")
    path = options.out / _CONFIG
    if not path.exists():
        raise ValueError(f"{needs} one that holds {_CONFIG}, got {options.out}")
    saved = read_config(options.out).get("options")
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: expected a JSON object under 'options', got {saved!r}")
    if missing := sorted(type(options)().saved().keys() - saved.keys()):
        raise ValueError(f"{path}: expected {missing[0]!r} among the options, got none")
    return path, saved


def configuration(options: Training, fingerprint: str, **settings: Any) -> dict[str, Any]:
    """Return what `config.json` holds: the settings, the dataset, and the options that led to them."""
    content = {"data_sha256": fingerprint} | settings | {"options": options.saved()}
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def fingerprint(split: Any) -> str:
    """Return the SHA-256 of a dataset's arrays, with their shapes and dtypes; on disk of its shards' own."""
    digest = hashlib.sha256()
    if isinstance(split[0], shards.OnDisk):
        told = [(shard.length, shard.sha256) for part in split for shard in part.shards]
        return hashlib.sha256(repr(told).encode()).hexdigest()
    for array in (array for pair in split for array in pair):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def begin(folder: Path, options: Training, expected: dict[str, Any]) -> Callable[..., None]:
    """Make room for a run in a folder that is locked; give back what is to be called at its end.

    Refuses a folder that holds another run, listing the differences if it is to be resumed. With --overwrite
    that run goes into `previous/`, from where it comes back if the new one ends with an error and nothing to
    show, and is removed once the new one is whole.
    """
    if options.resume:
        _check_same(folder, options, expected)
        if (folder / _SUMMARY).exists() and not checkpoints.steps(folder):
            raise ValueError(
                f"{folder} holds a run that ended, without checkpoints: expected one to go on from"
            )
        return lambda *error: None
    if options.overwrite:
        # What is beside a run put aside is an attempt to replace it.
        if (folder / _PREVIOUS / _SUMMARY).exists():
            _move(folder)
        _move(folder, folder / _PREVIOUS)
    elif (folder / _SUMMARY).exists():
        raise ValueError(f"{folder} already holds a run: choose another --out, or --overwrite it")
    elif _written(folder) or (folder / _PREVIOUS).exists():
        raise ValueError(
            f"{folder} holds a run that did not end: --resume it, choose another --out, or --overwrite it"
        )
    return partial(_end, folder, options.out is None)


def tell_resumed(folder: Path, options: Training, done: int) -> None:
    """Say after how many steps a run goes on, if it is to."""
    if options.resume and not options.quiet:
        at = f"resumed after {done} steps" if done else "nothing to resume"
        print(f"{folder}: {at}", file=sys.stderr)


def _end(folder: Path, is_new: bool, kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None and {path.name for path in _written(folder)} <= {_CONFIG, _HISTORY}:
        _move(folder)
        _move(folder / _PREVIOUS, folder)
        if is_new:
            with suppress(OSError):  # where the system lets nobody remove what is open
                (folder / _LOCK).unlink()
                folder.rmdir()


def _check_same(folder: Path, options: Training, expected: dict[str, Any]) -> None:
    saved = read_config(folder)
    free = {*_FREE, *(field.name for field, option in options.options() if option.may_change)}
    if saved.get("schedule", "constant") != "constant":
        free.remove("steps")  # the learning rates depend on how many there are
    differences = [
        f"{name}: expected {saved.get(name)}, got {expected.get(name)}"
        for name in sorted((saved.keys() | expected.keys()) - free)
        if saved.get(name) != expected.get(name)
    ]
    if differences:
        raise ValueError(
            f"{folder} holds another run, which cannot be resumed as this one: {'; '.join(differences)}"
        )
    for name in ("device", "versions"):
        if saved.get(name) != expected[name]:
            begun = f"note: begun with {saved.get(name)}"
            print(f"{begun}, resumed with {expected[name]}: bits may differ", file=sys.stderr)


def _written(folder: Path) -> list[Path]:
    """Return what jaxnet wrote into a run folder, by name."""
    saved = folder.glob("checkpoints/*")
    found = [path for path in saved if path.name.partition(".")[0].isdecimal() or path.stem == "best"]
    return found + [folder / name for name in _FILES if (folder / name).exists()]


def _move(source: Path, target: Path | None = None) -> None:
    """Move what jaxnet wrote from one folder to another, or delete it, and folders that this leaves empty."""
    # What marks a whole run comes last, and goes first.
    for path in _written(source) if target else reversed(_written(source)):
        if target:
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.replace(to)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in (source / "checkpoints", source):
        with suppress(OSError):  # it is not there, or holds something: the run folder its lock
            path.rmdir()


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Write `config.json`, whole or not at all."""
    _write_json(folder / _CONFIG, content)


def write_params(folder: Path, options: Training, exported: dict[str, Any]) -> None:
    """Write `params.safetensors`, with what is needed to use them."""
    checkpoints.save_params(folder / "params.safetensors", activation=options.activation, **exported)


def write_summary(folder: Path, content: dict[str, Any], *, whole: bool) -> None:
    """Write `summary.json`, the last of the results; whole: remove the run that they replace."""
    _write_json(folder / _SUMMARY, content)
    if whole:
        _move(folder / _PREVIOUS)


def write_picture(path: Path, draw: Callable[[], "Figure"], title: str = "") -> None:
    """Write what is drawn; where that fails, whatever it is, only say so: the results are there."""
    try:
        data = io.BytesIO()
        figure = draw()
        if title:
            figure.suptitle(title, fontsize="medium")
        figure.savefig(data, dpi=150)
        _tensors.write(path, data.getvalue())
    except Exception as error:  # the results are written: no fault of drawing may make a finished run fail
        print(f"jaxnet: warning: no {path}: {type(error).__name__}: {error}", file=sys.stderr)


def _is_own(folder: Path) -> bool:
    try:
        versions = read_config(folder).get("versions")
    except ValueError:
        return False
    return isinstance(versions, dict) and "jaxnet" in versions


def read_config(folder: Path, name: str = _CONFIG) -> dict[str, Any]:
    """Return what `config.json` says, {} where it is not there; ValueError where it is damaged."""
    try:
        content = json.loads((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / name}: expected JSON, got a damaged file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{folder / name}: expected a JSON object, got {type(content).__name__}")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _tensors.write(path, (json.dumps(content, indent=2) + "\n").encode())
