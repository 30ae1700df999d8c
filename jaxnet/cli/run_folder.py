"""The run folder of `jaxnet train` and `sweep`: what run it holds, and whether that can be resumed."""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import _tensors, checkpoints, datasets

_CONFIG, _SUMMARY = "config.json", "summary.json"
_OUTPUTS = (_SUMMARY, "params.safetensors", "networks.csv", "loss.png", "accuracy.png")
_OF_THIS_CALL = ("command", "run", "resume", "overwrite", "out")
# What may differ when a run is resumed; the dataset is known by its content, whatever its name.
_FREE = ("data", "steps", "checkpoint_every", "options", "device", "versions")


def path(options: argparse.Namespace) -> Path:
    """Return the run folder, made and seen to be writable before anything is computed."""
    default = Path("runs") / f"{Path(options.data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder: Path = getattr(options, "out", default)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written, got {folder}: {error.strerror}"
        ) from None
    return folder


def saved_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the run to resume, which hold where the command line does not say otherwise."""
    if not hasattr(options, "out"):
        raise ValueError("--resume needs the run's folder: expected --out FOLDER, got none")
    if options.overwrite:
        raise ValueError("expected --resume or --overwrite, got both")
    return _read_config(options.out).get("options", {})


def configuration(options: argparse.Namespace, split: datasets.Split, **settings: Any) -> dict[str, Any]:
    """Return what `config.json` holds: the settings, the dataset, and the options that led to them."""
    given = {name: value for name, value in vars(options).items() if name not in _OF_THIS_CALL}
    content = {"data_sha256": fingerprint(split)} | settings | {"options": given}
    return json.loads(json.dumps(content, default=str))


def fingerprint(split: datasets.Split) -> str:
    """Return the SHA-256 of a dataset's arrays, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for array in (array for pair in split for array in pair):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check(folder: Path, options: argparse.Namespace, expected: dict[str, Any]) -> None:
    """Refuse a folder that holds another run, listing the differences if it is to be resumed."""
    if options.resume:
        saved = _read_config(folder)
        free = set(_FREE)
        if saved.get("schedule", "constant") != "constant":
            free.remove("steps")  # the learning rates depend on how many there are
        differences = [
            f"{name}: expected {saved.get(name)}, got {expected.get(name)}"
            for name in sorted((saved.keys() | expected.keys()) - free)
            if saved and saved.get(name) != expected.get(name)
        ]
        if differences:
            raise ValueError(
                f"{folder} holds another run, which cannot be resumed as this one: {'; '.join(differences)}"
            )
        for name in ("device", "versions"):
            if saved and saved[name] != expected[name]:
                print(
                    f"note: begun with {saved[name]}, resumed with {expected[name]}: bits may differ",
                    file=sys.stderr,
                )
    elif not options.overwrite:
        if (folder / _SUMMARY).exists():
            raise ValueError(f"{folder} already holds a run: choose another --out, or --overwrite it")
        if checkpoints.steps(folder):
            raise ValueError(
                f"{folder} holds a run that did not end: --resume it, choose another --out, or --overwrite it"
            )


def clear(folder: Path, options: argparse.Namespace) -> None:
    """Remove what an earlier run wrote at its end, and its configuration unless it is to be resumed."""
    for name in (*_OUTPUTS, *(() if options.resume else (_CONFIG,))):
        (folder / name).unlink(missing_ok=True)


def write_config(folder: Path, content: dict[str, Any]) -> None:
    """Write `config.json`, whole or not at all."""
    _write_json(folder / _CONFIG, content)


def write_params(folder: Path, options: argparse.Namespace, params: Any) -> None:
    """Write `params.safetensors`, with what is needed to use them."""
    checkpoints.save_params(
        folder / "params.safetensors",
        params,
        activation=options.activation,
        input_scale=datasets.input_scale(options.data),
        class_names=datasets.CLASS_NAMES.get(options.data),
    )


def write_summary(folder: Path, content: dict[str, Any]) -> None:
    """Write `summary.json`, which marks a run that came to its end."""
    _write_json(folder / _SUMMARY, content)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _CONFIG).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG}: expected JSON, got a damaged file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{folder / _CONFIG}: expected a JSON object, got {type(content).__name__}")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _tensors.write(path, (json.dumps(content, indent=2) + "\n").encode())
