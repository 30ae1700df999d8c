"""The command `jaxnet runs`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnet.cli.run_folder import read_config
from jaxnet.cli.settings import Runs
from jaxnet.cli.table import aligned, rounded

_ALWAYS = ("data", "sizes", "optimizer", "learning_rate")
# What differs from run to run but says nothing of what was trained.
_LEFT_OUT = ("options", "versions", "data_sha256", "train_examples", "test_examples", "metrics", "settings")


def run(options: Runs) -> int:
    """Print the table, or JSON; return 0."""
    found = runs(options.folders)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(_table(found) if found else f"no runs in {', '.join(map(str, options.folders))}")
    return 0


def runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the settings and the summary of each run in these folders, or that they are."""
    found = []
    for folder in folders:
        if not folder.exists() and tuple(folders) == Runs().folders:
            continue  # nothing was trained here yet
        if not folder.is_dir():
            got = "a file" if folder.exists() else "not there"
            raise ValueError(f"expected a run folder, or a folder of them, got {folder}: {got}")
        own = [folder] if (folder / "config.json").exists() else sorted(folder.iterdir())
        for path in own:
            try:
                config = read_config(path) if path.is_dir() else {}
            except ValueError as error:
                if path == folder:
                    raise
                print(f"note: passed over: {error}", file=sys.stderr)
                continue
            if "jaxnet" not in (config.get("versions") or ()):
                continue
            settings = {name: value for name, value in config.items() if name not in _LEFT_OUT}
            summary = read_config(path, "summary.json") or None
            found.append({"run": str(path), "settings": settings, "summary": summary})
    return found


def _table(found: list[dict[str, Any]]) -> str:
    """Return a row a run: the settings that are always told, those that differ, and the result."""
    names = list(dict.fromkeys(name for one in found for name in one["settings"]))
    differing = [n for n in names if len({json.dumps(one["settings"].get(n)) for one in found}) > 1]
    told = [*_ALWAYS, *(name for name in differing if name not in (*_ALWAYS, "steps"))]
    rows = [["run", *(name.replace("_", "-") for name in told), "steps", "test", "state"]]
    for one in found:
        settings, summary = one["settings"], one["summary"] or {}
        steps = summary.get("steps", settings.get("steps"))
        cells = [_cell(settings.get(name)) for name in told]
        rows.append([one["run"], *cells, _cell(steps), *_result(one["summary"])])
    return aligned(rows, left=1)


def _result(summary: dict[str, Any] | None) -> tuple[str, str]:
    if summary is None:
        return "-", "not ended"
    best = summary["ranking"][0] if summary.get("ranking") else summary
    names = "test_accuracy", "test_accuracy_mean", "test_r2", "test_r2_mean"
    score = next((best[name] for name in names if name in best), None)
    return "-" if score is None else rounded(score), "interrupted" if summary.get("interrupted") else "done"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ("-" if all(isinstance(part, int) for part in value) else " ").join(map(_cell, value))
    return "-" if value is None else str(value)
