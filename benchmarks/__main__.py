"""Time jaxnet beside what a user would pick instead, each in its own process: `make bench`.

Every round runs each contender once, in turn; quoted are medians over the rounds, of ratios too. A whole run
writes benchmarks/RESULTS.md and its plots, and leaves there what another run wrote of devices that this one
does not measure; `--only` and `--quick` print, and write where --out says.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import BATCH_SIZE, CONTENDERS, HIDDEN, SEED
from benchmarks.limit import SIZE, step_flops
from benchmarks.proofs import TESTS
from benchmarks.scaling import SERIES, flops
from jaxnet import __version__

HERE = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "scikit-learn", "torch", "flax")
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
PROOFS = "proofs"
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
TOLERANCE = 1e-3  # between the mean last losses of runs that differ by rounding alone
METHOD = """\
One round runs each contender once, in turn, in a process of its own; given are the medians over the rounds.
All train 784-50-10 by SGD at 0.1 on the same batches of 100 from the same weights, record every loss
(scikit-learn: the mean of every 100) and must end at the same ones. *seconds* is the second call, nothing
left to compile; *first call adds* what the first took longer, per the steps it did; *start-up* imports and
prepares. *peak MB* is the process's largest resident memory (VmHWM, else getrusage's ru_maxrss) after the
first call, *held* the same with its library imported and the data loaded once, before anything else. *limit*
is the step's products, {flops:.2f} MFLOP, at the best rate of NumPy or XLA on float32 {size} x {size}
matrices, the median of the rounds: {rate:.0f} GFLOP/s, so {limit} us a step."""

Results = Mapping[str, list[dict[str, Any]]]  # of every contender, by round


def child(module: str, *arguments: object, device: str, **environment: str) -> dict[str, Any]:
    """Run a module in a fresh process on a device and return what it prints last, as JSON."""
    inherited = {name: value for name, value in os.environ.items() if name not in THREAD_LIMITS}
    devices = (
        {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {"JAX_PLATFORMS": device}
    )
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, env=inherited | devices | environment, cwd=HERE.parent, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed on {device}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def gpu() -> str | None:
    """Return the kind of the GPU that JAX can use, if any."""
    probe = "import jax; print(jax.devices('cuda')[0].device_kind)"
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True)
    return None if done.returncode else done.stdout.strip()


def write_problem(folder: Path, steps: int, quick: bool) -> str:
    """Write the arrays that every contender loads, and return what they are."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process leaves the devices to the others
    import jax

    from jaxnet import datasets, network, training

    rng = np.random.default_rng(SEED)

    def random(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.random((n, 784), np.float32), rng.integers(10, size=n).astype(np.int32)

    try:
        train, test = (random(1000), random(200)) if quick else datasets.load_mnist()
        data = "random pixels" if quick else "MNIST"
    except FileNotFoundError:
        train, test, data = random(60_000), random(10_000), "random pixels of MNIST's shape"
    key = jax.random.key(SEED)
    (w1, b1), (w2, b2) = network.init(key, (784, HIDDEN, 10))
    arrays: dict[str, Any] = {"x": train[0], "t": train[1], "x_test": test[0], "t_test": test[1]}
    arrays |= {"W1": w1, "b1": b1, "W2": w2, "b2": b2}
    arrays["batches"] = training.draw_batches(key, 0, steps, BATCH_SIZE, len(train[0]))
    (folder / "problem").mkdir()
    for name, array in arrays.items():
        np.save(folder / "problem" / name, np.asarray(array))
    return data


def measure(
    names: Iterable[str], folder: Path, device: str, rounds: int, limit_size: int
) -> tuple[Results, list[float]]:
    """Return what each contender measured in every round, and the machine's rate in each."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    rates = []
    contender = "benchmarks.contenders"
    for round_ in range(rounds):
        rates.append(max(child("benchmarks.limit", limit_size, device=device).values()))
        for name in names:
            results[name].append(child(contender, name, folder, "--device", device, device=device))
            print(f"{device}, round {round_ + 1}, {name}: {results[name][-1]['seconds']:.2f} s", flush=True)
        if "fit" in results:
            with tempfile.TemporaryDirectory() as cache:
                for name in ("cold cache", "warm cache"):
                    arguments = "fit", folder, "--device", device, "--calls", 1
                    found = child(
                        contender, *arguments, device=device, JAX_COMPILATION_CACHE_DIR=cache, **CACHE
                    )
                    results.setdefault(name, []).append(found)
    return results, rates


def check_agreement(losses: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of each contender's last losses, if those that should be alike are."""
    final = {}
    for name, values in losses.items():
        alike = [other for other in losses if CONTENDERS[other].loss == CONTENDERS[name].loss]
        first = next(other for other in alike if len(losses[other]) >= len(values))
        expected, got = (np.mean(array[: len(values)][-100:]) for array in (losses[first], values))
        if not abs(got - expected) <= TOLERANCE:
            raise SystemExit(
                f"{name} does not do the work of {first}: its losses end at {got}, not {expected}"
            )
        final[name] = float(got)
    return final


def per_step(results: Results, name: str) -> np.ndarray:
    """Return the seconds of one network's step in every round."""
    return np.array([r["seconds"] / r["steps"] / CONTENDERS[name].networks for r in results[name]])


def median(results: Results, name: str, value: Callable[[dict[str, Any]], float]) -> float:
    return float(np.median([value(found) for found in results[name]]))


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    def cell(value: object) -> str:
        return format(value, ".0f" if value >= 100 else ".3g") if isinstance(value, float) else str(value)

    lines = [tuple(header), *(tuple(map(cell, row)) for row in rows)]
    lines.insert(1, ("---",) + ("---:",) * (len(lines[0]) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-5 else f"{seconds * 1e6:.2g}"


def contenders_table(results: Results, final: Mapping[str, float], limit: float) -> str:
    rows: list[tuple[object, ...]] = []
    for name in final:
        seconds = per_step(results, name)
        rows.append((
            CONTENDERS[name].label, median(results, name, lambda r: r["seconds"]), results[name][0]["steps"],
            f"{microseconds(np.median(seconds))} "
            f"({microseconds(seconds.min())} to {microseconds(seconds.max())})",
            float(np.median(seconds)) / limit,
            float(np.median(seconds / per_step(results, "fit"))) if "fit" in final else "",
            median(results, name, lambda r: r["startup"]),
            median(results, name, lambda r: r["first"] - r["seconds"] * r["first_steps"] / r["steps"]),
            f"{median(results, name, lambda r: r['peak_mb']):.0f}",
            f"{median(results, name, lambda r: r['held_mb']):.0f}", f"{final[name]:.5f}",
        ))  # fmt: skip
    header = (
        "", "seconds", "steps", "us per step and network (min to max)", "x limit", "x fit", "start-up s",
        "first call adds s", "peak MB", "held MB", "last 100 losses",
    )  # fmt: skip
    return table(header, rows)


def targets_table(results: Results, limit: float) -> str:
    """Return issue 4's targets, each with what was measured, or what it would need."""

    def slower(name: str) -> Callable[[], float]:
        return lambda: float(np.median(per_step(results, name) / per_step(results, "fit")))

    def added(name: str) -> Callable[[], float]:
        return lambda: 100 * (slower(name)() - 1)

    def against_limit(name: str) -> Callable[[], float]:
        return lambda: float(np.median(per_step(results, name))) / limit

    def against_best(name: str) -> Callable[[], float]:
        peers = [per_step(results, peer) for peer in CONTENDERS if CONTENDERS[peer].peer and peer in results]
        return lambda: float(np.median(min(peers, key=np.median) / per_step(results, name)))

    def compiling(name: str) -> Callable[[], float]:
        return lambda: median(results, name, lambda r: r["compile"])

    rows: list[tuple[str, str, float, str, Callable[[], float]]] = [
        (f"`fit` is faster than: {CONTENDERS[name].label}", ">=", bound, "x", slower(name))
        for names, bound in ((("numpy", "sklearn", "torch", "flax"), 3.2), (("torch_hand", "step"), 1.8))
        for name in names
    ]
    rows += [
        ("`fit` against the limit", "<=", 2.5, "x", against_limit("fit")),
        ("evaluation on all 70,000 images each epoch adds", "<=", 25, "%", added("fit_evaluated")),
        *(
            (f"{CONTENDERS[name].label}, against the limit", "<=", 1.5, "x", against_limit(name))
            for name in ("fit_many_16", "fit_many_16_separate")
        ),
        ("the same, shared, is faster than the best peer", ">=", 3.5, "x", against_best("fit_many_16")),
        ("compilation of the run", "<=", 2, "s", compiling("cold cache")),
        ("compilation in a new process with the cache", "<=", 0.5, "s", compiling("warm cache")),
        ("checkpoint every 600 steps adds", "<=", 5, "%", added("fit_checkpointed")),
        (
            "peak memory of the evaluated run above jax and the data once", "<=", 150, "MB",
            lambda: median(results, "fit_evaluated", lambda r: r["peak_mb"] - r["held_mb"]),
        ),
    ]  # fmt: skip
    lines: list[tuple[str, str, str, str]] = []
    for what, sign, bound, unit, measured in rows:
        try:
            value = measured()
        except (KeyError, ValueError):
            lines.append((what, f"{sign} {bound:g} {unit}", "not measured", ""))
            continue
        met = value >= bound if sign == ">=" else value <= bound
        lines.append((what, f"{sign} {bound:g} {unit}", f"{value:.3g} {unit}", "met" if met else "missed"))
    return table(("", "target", "measured", ""), lines)


def scaling_section(name: str, device: str, rate: float, options: argparse.Namespace) -> str:
    """Measure one series and return its table, with its plot where the results are written."""
    series = SERIES[name]
    quick = ["--quick"] if options.quick else []
    found = child("benchmarks.scaling", name, "--rounds", options.rounds, *quick, device=device)
    values = [int(value) for value in found]
    seconds = np.array([np.median(taken) for taken in found.values()])
    limits = np.array([flops(series, value) for value in values]) / rate
    rows = zip(values, seconds * 1e6, limits * 1e6, seconds / limits, strict=True)
    text = table((series.label, "us per step and network", "limit us", "x limit"), rows)
    print(f"{device}\n{text}", flush=True)
    if options.out is None:
        return text
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.loglog(values, seconds * 1e6, "o-", label="measured")
    axes.loglog(values, limits * 1e6, "k--", label="matrix-product limit")
    axes.set(xlabel=series.label, ylabel="µs per step and network")
    axes.grid(alpha=0.3)
    axes.legend()
    path = options.out.parent / "plots" / f"{name}-{device}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return f"{text}\n\n![{series.label}](plots/{path.name})"


def proofs_table(device: str, folder: Path) -> str:
    """Run what proves the source's network right on a device, and return what came out."""
    found = child("benchmarks.proofs", folder, device=device)
    rows = [
        ("the source's run: accuracy at its end on the test images", f"{100 * found['accuracy']:.2f} %"),
        (
            f"`check_gradients` of its loss, all {found['elements']:,} elements",
            f"{found['verdict']}; {found['check 0']:.1f} s, again {found['check 1']:.1f} s",
        ),
        (f"`pytest {' '.join(TESTS)}`", found["parity"]),
    ]
    return table((f"on {found['arrays']}", ""), rows)


def kept(path: Path, measured: Iterable[str]) -> dict[str, str]:
    """Return the sections of a file of results on devices that this run does not measure."""
    if not path.exists():
        return {}
    sections = (f"## {text.strip()}" for text in path.read_text().split("\n## ")[1:])
    names = {device: name for device, name in DEVICES.items() if device not in measured}
    return {
        device: section for section in sections for device, name in names.items()
        if section.startswith(f"## {name}: ")
    }  # fmt: skip


def machine() -> str:
    """Return the processor and the cores that this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (FileNotFoundError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {platform.system()}"


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=[PROOFS, *CONTENDERS, *SERIES], metavar="NAME")
    parser.add_argument("--device", nargs="+", choices=DEVICES, help="default: all that JAX finds")
    parser.add_argument("--quick", action="store_true", help="random data, 50 steps, one round: does it run?")
    parser.add_argument("--out", type=Path, help="default: benchmarks/RESULTS.md for a whole run")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.steps = 1, 50
    if min(options.rounds, options.steps) < 1:
        parser.error(f"expected positive --rounds and --steps, got {options.rounds} and {options.steps}")
    if options.out is None and not (options.only or options.quick):
        options.out = HERE / "RESULTS.md"
    present = {"cpu": machine()} | ({"cuda": found} if (found := gpu()) else {})
    if absent := set(options.device or ()) - {*present}:
        parser.error(f"JAX finds no {', '.join(absent)} here")
    devices = {name: present[name] for name in options.device or present}
    wanted = options.only or [PROOFS, *CONTENDERS, *SERIES]
    sections = {} if options.out is None else kept(options.out, devices)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_problem(folder, options.steps, options.quick)
        for device, description in devices.items():
            parts = section(device, data, folder, wanted, options)
            sections[device] = "\n\n".join([f"## {DEVICES[device]}: {description}", *parts])
    title = "# Benchmark results\n\nWritten by `make bench`; not edited by hand."
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        texts = [sections[device] for device in DEVICES if device in sections]
        options.out.write_text("\n\n".join([title, *texts]) + "\n")
        print(f"written to {options.out}")


def section(
    device: str, data: str, folder: Path, wanted: Iterable[str], options: argparse.Namespace
) -> list[str]:
    """Measure all that is wanted on a device and return its tables."""
    told = [f"--device {device}"] if options.device else []
    told += [f"--only {' '.join(options.only)}"] if options.only else []
    told += ["--quick"] if options.quick else []
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    able = [name for name in CONTENDERS if name in wanted and (device == "cpu" or CONTENDERS[name].gpu)]
    missing = [
        name for name in able
        if not all(importlib.util.find_spec(module.split(".")[0]) for module in CONTENDERS[name].imports)
    ]  # fmt: skip
    names = [name for name in able if name not in missing]
    size = 256 if options.quick else SIZE
    results, rates = measure(names, folder, device, options.rounds, size)
    rate = float(np.median(rates))
    limit = step_flops((784, HIDDEN, 10), BATCH_SIZE) / rate
    final = check_agreement({name: np.load(folder / f"{name}-{device}.npy") for name in names})
    tables = [
        f"`{' '.join(['python -m benchmarks', *told])}`, {datetime.date.today().isoformat()}; "
        f"{data}, {options.steps} steps, {options.rounds} rounds{load}; "
        f"Python {platform.python_version()}, jaxnet {__version__}, {', '.join(map(installed, PACKAGES))}.",
        METHOD.format(flops=limit * rate / 1e6, size=size, rate=rate / 1e9, limit=microseconds(limit)),
    ]
    if names:
        tables.append(contenders_table(results, final, limit))
    tables += [f"{CONTENDERS[name].label}: not installed, pip install 'jaxnet[bench]'" for name in missing]
    if names and device == "cpu":
        tables += ["### Targets", targets_table(results, limit)]
    if PROOFS in wanted:
        tables += ["### Proofs", proofs_table(device, folder)]
    print("\n\n".join(tables), flush=True)
    return tables + [
        f"### By {SERIES[name].label}\n\n{scaling_section(name, device, rate, options)}"
        for name in SERIES if name in wanted
    ]  # fmt: skip


if __name__ == "__main__":
    main()
