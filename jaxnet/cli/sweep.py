"""The command `jaxnet sweep`."""

import csv
import itertools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import checkpoints, plots, sharding, training
from jaxnet.cli import machines, problem, run_folder, signals, table
from jaxnet.cli.settings import Range, Sweep

_MAX_BANDS = 8


def run(options: Sweep) -> int:
    """Train all, write the run folder, print the table; return the exit code."""
    clock = table.Clock(options.started)
    task = problem.read(options)
    varied = options.hyperparameters().items()
    grid = {name: values if isinstance(values, tuple) else (values,) for name, values in varied}
    for name, given in grid.items():
        if len(set(given)) < len(given) and not options.resume:  # one of yesterday may have them
            flag, got = name.replace("_", "-"), " ".join(map(str, given))
            raise ValueError(f"--{flag}: expected different values, got {got}")
    settings = _settings(grid, options.samples, options.seed)
    hyperparameters = [name for name in grid if name != "weight_std"]
    for setting in settings:  # what is wrong with one of them is said before anything is computed
        problem.optimizer(options, **{name: float(setting[name]) for name in hyperparameters})
    if options.seed + options.seeds > 2**32:
        raise ValueError(f"seeds must be below 2**32, got {options.seeds} of them from {options.seed}")
    seeds = range(options.seed, options.seed + options.seeds)
    networks = [(setting, seed) for setting in settings for seed in seeds]

    if options.dry_run:
        told = f"{len(settings)} settings of {options.optimizer} x {len(seeds)} seeds"
        print(problem.plan(options, task, told))
        return 0
    mesh = machines.mesh(options)
    is_first = sharding.first_process(mesh)
    callbacks: list[Callable[[training.Stretch], object]] = [signals.heed]
    keys = {seed: jax.random.split(jax.random.key(seed)) for seed in seeds}  # as in `jaxnet train`
    starts = [
        problem.init(options, task.sizes, keys[seed][0], setting["weight_std"]) for setting, seed in networks
    ]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    optimizer = partial(problem.optimizer, options)
    values = {name: [float(setting[name]) for setting, _ in networks] for name in hyperparameters}
    key = keys[options.seed][1] if options.share_batches else jnp.stack([keys[s][1] for _, s in networks])
    like = training.init_states(params, optimizer, values, key)
    with ExitStack() as ending, ExitStack() as writing:
        with sharding.alike(mesh) as same:
            if is_first:
                folder = run_folder.path(options)
                saver = writing.enter_context(
                    checkpoints.Checkpointer(folder, every=options.checkpoint_every)
                )
                configuration = run_folder.configuration(
                    options, task.fingerprint, **task.settings, settings=settings
                )
                ending.push(run_folder.begin(folder, options, configuration))
                run_folder.write_config(folder, configuration)
                resume, callbacks = saver.restore(like), [saver, signals.heed]
                run_folder.tell_resumed(
                    folder, options, 0 if resume is None else resume.history.loss.shape[1]
                )
            else:
                resume = checkpoints.restore(options.out, like) if options.resume and options.out else None
            same |= machines.alike(options, done=None if resume is None else resume.state.step.tolist())
        before = (0.0, 0.0) if resume is None else (resume.compile_seconds, resume.train_seconds)
        clock.lap("loading")
        result = training.fit_many(
            task.loss,
            params,
            task.parts["train"],
            optimizer=optimizer,
            hyperparameters=values,
            key=key,
            max_networks=options.max_networks,
            callbacks=callbacks,
            **problem.arguments(options, task, resume, mesh),
        )
        spent = result.compile_seconds - before[0], result.train_seconds - before[1]
        clock.lap("evaluation", compilation=spent[0], training=spent[1])
        with sharding.alike(mesh):  # the others wait until the first has written all
            if is_first:
                saver.save(result)
                _write(folder, options, task, settings, networks, result, clock)
    return 130 if result.interrupted else 0


def _settings(grid: dict[str, tuple[Any, ...]], samples: int | None, seed: int) -> list[dict[str, Any]]:
    """Return every combination of the values, or where there are ranges as many drawn ones as samples."""
    ranges = [name for name, values in grid.items() if any(isinstance(value, Range) for value in values)]
    if (samples is None) != (not ranges):
        got = f"got {', '.join(ranges)}" if ranges else "got none"
        raise ValueError(f"--samples is of sweeps with a range LOW:HIGH, and they need it: {got}")
    if samples is None:
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    rng = np.random.default_rng(seed)

    def draw(values: tuple[Any, ...]) -> Any:
        value = values[rng.integers(len(values))]
        return float(np.exp(rng.uniform(*np.log(value.ends)))) if isinstance(value, Range) else value

    return [{name: draw(values) for name, values in grid.items()} for _ in range(samples)]


def _write(
    folder: Path,
    options: Sweep,
    task: problem.Problem,
    settings: list[dict[str, Any]],
    networks: list[tuple[dict[str, Any], int]],
    result: training.FitManyResult,
    clock: table.Clock,
) -> None:
    """Print the table; write it, the curves, every network's outcome and the best one's parameters."""
    seeds = options.seeds
    judge = "validation" if "validation" in task.parts else "test"
    headline = task.summary[0]
    final = {part: _final_scores(task, result, part) for part in dict.fromkeys((judge, "test"))}
    values = {name: {setting[name] for setting in settings} for name in settings[0]}
    varying = [name for name in values if len(values[name]) > 1] or ["learning_rate"]
    rows = _table(settings, seeds, headline, final, result.diverged)
    rows = sorted(rows, key=lambda row: (row["diverged"], -(row[f"{judge}_{headline}_mean"] or 0)))
    _write_networks(folder / "networks.csv", networks, result, headline, final)
    if not np.isnan(final[judge]).all():
        best = int(np.nanargmax(final[judge]))
        params = jax.tree.map(lambda leaf: leaf[best], result.params)
        run_folder.write_params(folder, options, task.export(params))
    curves = getattr(result.history, judge)[headline].reshape(len(settings), seeds, -1)
    epochs = result.history.eval_step * options.batch_size / len(task.parts["train"][0])
    bands = {
        ", ".join(f"{name.replace('_', ' ')} {row[name]:g}" for name in varying): curves[row["setting"]]
        for row in rows[:_MAX_BANDS]
    }
    shown = {"r2": "R²"}.get(headline, headline)
    ylabel = f"{judge} {shown}, mean ± std of {seeds} seeds"
    summary = {
        "interrupted": result.interrupted,
        "networks": len(networks),
        "network_steps_per_second": float(np.sum(result.state.step)) / max(result.train_seconds, 1e-9),
        "train_seconds": result.train_seconds,
        "compile_seconds": result.compile_seconds,
        "ranking": rows,
    }
    run_folder.write_summary(folder, summary, whole=not result.interrupted)
    clock.lap("saving")
    if not options.no_plots:
        picture = folder / f"{headline}.png"
        run_folder.write_picture(picture, lambda: plots.accuracy_bands(epochs, bands, ylabel=ylabel))
        names = [name for name in varying if settings[0][name] is not None]
        axes = [sorted(values[name]) for name in names]
        if len(names) == 2 and len(settings) == len(axes[0]) * len(axes[1]):
            place = {(row[names[0]], row[names[1]]): row[f"{judge}_{headline}_mean"] for row in rows}
            scores = np.array([[place[a, b] for b in axes[1]] for a in axes[0]], float)
            ylabel, xlabel = (name.replace("_", " ") for name in names)
            told = {"ylabel": ylabel, "xlabel": xlabel, "label": f"{judge} {shown}"}
            drawing = partial(plots.sweep_map, axes[0], axes[1], scores, **told)
            run_folder.write_picture(folder / "map.png", drawing)
        clock.lap("plots")
    print(_text(rows, varying, headline, final.keys(), seeds))
    print(
        f"{len(networks)} networks{' (interrupted)' if result.interrupted else ''}: "
        f"{summary['network_steps_per_second']:,.0f} network-steps/s in training; {clock}\n"
        f"written to {folder}"
    )


def _final_scores(task: problem.Problem, result: training.FitManyResult, part: str) -> np.ndarray:
    """Return each network's accuracy, or R², after its last step, NaN if it diverged or did not begin."""
    score = jax.jit(task.metrics[task.summary[0]])
    values = [
        score(jax.tree.map(lambda leaf, index=index: leaf[index], result.params), *task.parts[part])
        for index in range(len(result.diverged))
    ]
    return np.where(result.diverged | (np.asarray(result.state.step) == 0), np.nan, np.array(values, float))


def _table(
    settings: list[dict[str, Any]],
    seeds: int,
    headline: str,
    final: dict[str, np.ndarray],
    diverged: np.ndarray,
) -> list[dict[str, Any]]:
    """Return a row per setting: mean and standard deviation over the seeds that did not diverge."""
    rows = []
    for index, setting in enumerate(settings):
        own = slice(index * seeds, (index + 1) * seeds)
        row: dict[str, Any] = {"setting": index, **setting, "diverged": int(diverged[own].sum())}
        for part, values in final.items():
            kept = values[own][~np.isnan(values[own])]
            row[f"{part}_{headline}_mean"] = float(kept.mean()) if len(kept) else None
            row[f"{part}_{headline}_std"] = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
        rows.append(row)
    return rows


def _text(
    rows: list[dict[str, Any]], varying: list[str], headline: str, parts: Iterable[str], seeds: int
) -> str:
    told = [name.replace("_", "-") for name in varying]
    lines = [["rank", *told, *(f"{part} {headline}" for part in parts), "diverged"]]
    for rank, row in enumerate(rows, 1):
        scores = [[row[f"{part}_{headline}_{of}"] for of in ("mean", "std")] for part in parts]
        shown = ["-" if mean is None else f"{mean:.4f} ± {std:.4f}" for mean, std in scores]
        values = [f"{row[name]:g}" for name in varying]
        lines.append([str(rank), *values, *shown, f"{row['diverged']} of {seeds}"])
    return table.aligned(lines)


def _write_networks(
    path: Path,
    networks: list[tuple[dict[str, Any], int]],
    result: training.FitManyResult,
    headline: str,
    final: dict[str, np.ndarray],
) -> None:
    header = [*networks[0][0], "seed", "steps", "diverged", *(f"{part}_{headline}" for part in final)]
    ends = zip(result.state.step.tolist(), result.diverged.tolist(), *final.values(), strict=True)
    rows = ([*setting.values(), seed, *end] for (setting, seed), end in zip(networks, ends, strict=True))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
