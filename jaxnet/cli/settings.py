"""The settings of every command: a frozen dataclass each, of which all that tells of them is read off.

That is the command line with its help (`parser.py`), `--config` and `--print-config`, what `config.json`
holds, and what `--resume` may change. A new option is a new field. Nothing here loads JAX.
"""

import dataclasses
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from jaxnet import _names

_METRICS = ("loss", *(name for name in _names.METRICS_OF_CLASSES if name != "confusion_matrix"))
_DATA = "digits, mnist, fashion-mnist, an .npz or .csv file, or a folder of images by class"


def _number(kind: type, what: str, low: float, end: float) -> Callable[[str], Any]:
    """Return a parser of numbers from low up to the end, which is excluded."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value < end:
            raise ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return parse


# No further than what int32 and float32 hold; seeds beyond 2**32 would repeat.
whole = _number(int, "a positive integer", 1, 2**31)
number = _number(float, "a positive number", 5e-324, 3e38)
not_negative = _number(float, "a number that is not negative", 0, 3e38)
_share = _number(float, "a number between 0 and 1", 5e-324, 1)
_seed = _number(int, f"an integer in 0..{2**32 - 1}", 0, 2**32)


_process = _number(int, "an integer from 0", 0, 2**31)


class Range(str):
    """Two positive numbers `LOW:HIGH`, between which a sweep draws; in `config.json` it is its text."""

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers."""
        low, high = map(number, self.split(":"))
        return low, high


def _ranged(parse: Callable[[str], float], text: str) -> float | Range:
    """Parse a range, or what another parses."""
    if ":" not in text:
        return parse(text)
    try:
        low, high = Range(text).ends
    except (ValueError, ArgumentTypeError):
        low = high = 0.0
    if not low < high:
        what = "a range LOW:HIGH of two positive numbers, the lower first"
        raise ArgumentTypeError(f"expected {what}, got {text!r}")
    return Range(text)


class Option(NamedTuple):
    """What a field is on the command line, beside its name, type and default."""

    group: str
    """Of which the help has a section each; an option of "this call" is in no configuration."""
    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    """By default by the field's type."""
    choices: tuple[str, ...] | None = None
    """By default a Literal's."""
    may_change: bool = False
    """With `--resume`; the dataset its name and place, but not its content."""

    @property
    def is_saved(self) -> bool:
        """Whether `config.json` holds it, so that `--resume` has it."""
        return self.group in ("data", "network", "training")


def _option(group: str, default: Any, *told: Any, **more: Any) -> Any:
    return field(default=default, metadata={"option": Option(group, *told, **more)})


GROUPS = ("arguments", "data", "network", "training", "output", "machine", "this call")
_argument, _data, _network, _training, _output, _machine, _call = (partial(_option, name) for name in GROUPS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every command has."""

    examples: ClassVar[tuple[str, ...]] = ()
    started: float = field(default_factory=time.perf_counter, compare=False)

    @classmethod
    def options(cls) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
        """Yield the fields that are options, or arguments, of the command line."""
        found = dataclasses.fields(cls)
        yield from ((field, field.metadata["option"]) for field in found if "option" in field.metadata)

    def saved(self) -> dict[str, Any]:
        """Return what `config.json` holds of the options: what was given or has a default."""
        found = {field.name: getattr(self, field.name) for field, option in self.options() if option.is_saved}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Computed(Settings):
    """What commands have that load data and compute."""

    data_dir: Path | None = _machine(None, "instead of JAXNET_DATA_DIR", "FOLDER")
    device: str | None = _machine(None, "cpu, gpu, tpu, or gpu:1; by default JAX's choice", "NAME")


@dataclass(frozen=True, kw_only=True)
class Configured(Computed):
    """What commands have that make networks."""

    data: str = _data("mnist", _DATA, "DATA", may_change=True)
    batch_size: int = _training(_names.BATCH_SIZE, "examples per update, or of the loss to check", "N")
    seed: int = _training(0, "of the initial weights and of the batches", "N", _seed)
    config: Path | None = _call(None, "options in TOML, which those given here override", "FILE")
    print_config: bool = _call(False, "print all options in TOML, as --config takes them, and end")
    quiet: bool = _call(False, "print nothing but errors")


_STD = "of the initial weights; by default 0.01, or 1/sqrt(inputs) for several hidden layers"
_RATE = "by default 0.001, but " + "; ".join(
    f"{rate:g} for {', '.join(name for name, own in _names.LEARNING_RATES.items() if own == rate)}"
    for rate in (0.1, 0.01, 1.0, 1e-4)
)
_MOMENTUM, _DECAY = "of momentum and nesterov; by default 0.9", "by default 0, and 0.0001 for adamw"
_RULE = f"the rule of the updates: {', '.join(_names.OPTIMIZERS)}"
_COORDINATOR = "process 0 of a run of several, which all start alike; Slurm and Open MPI tell it"
_EVALUATED = f"what to evaluate, beside accuracy, or the errors and R² of a regression: {', '.join(_METRICS)}"


@dataclass(frozen=True, kw_only=True)
class Training(Configured):
    """What `train` and `sweep` have in common."""

    target: str | None = _data(None, "the column of a .csv file to predict; by default the last", "COLUMN")
    task: _names.Task | None = _data(None, "by default classification; a regression predicts numbers")
    validation: float | None = _data(None, "share of the training examples to hold out", "SHARE", _share)
    class_weights: tuple[str, ...] | None = _data(None, "'balanced', or of each class in the loss", "WEIGHT")
    hidden: tuple[int, ...] = _network((50,), "units of each hidden layer", "N")
    activation: _names.ActivationName = _network("sigmoid", "of the hidden layers")
    dtype: Literal["float32", "float64", "bfloat16"] = _network("float32", "bfloat16: not of the params")
    steps: int = _training(_names.STEPS, "mini-batch updates", "N", may_change=True)
    optimizer: str = _training("sgd", _RULE, "NAME", choices=_names.OPTIMIZERS)
    schedule: str = _training("constant", "of the learning rate, over --steps", choices=_names.SCHEDULES)
    warmup_steps: int | None = _training(None, "of warmup_cosine; by default a twentieth of --steps", "N")
    sampling: _names.Sampling = _training(
        "replacement", "draw each batch anew, or shuffle once per epoch, each example or blocks of 32"
    )
    eval_every: int | None = _training(None, "steps between two evaluations; by default an epoch's", "N")
    metrics: tuple[str, ...] = _training(("accuracy",), _EVALUATED, "NAME", choices=_METRICS)
    checkpoint_every: int = _training(1000, "steps from checkpoint to checkpoint", "N", may_change=True)
    devices: int | None = _machine(None, "spread the run over so many; a CPU simulates them", "N")
    coordinator: str | None = _machine(None, _COORDINATOR, "HOST:PORT")
    num_processes: int | None = _machine(None, "of the run in all", "N")
    process_id: int | None = _machine(None, "of this process, from 0", "N", _process)
    out: Path | None = _output(None, "the run folder; by default runs/DATA-DATE-TIME", "FOLDER")
    no_plots: bool = _output(False, "draw no pictures")
    overwrite: bool = _call(False, "write over the run that --out holds")
    resume: bool = _call(False, "continue what --out holds, with its options, up to --steps in all")
    dry_run: bool = _call(False, "load the data, say what would be trained on them, and end")

    def hyperparameters(self) -> dict[str, Any]:
        """Return what a sweep can go over, where it was given, but the first two in any case."""
        names = ("weight_std", "learning_rate", "momentum", "weight_decay")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        # With the source's, deeper networks do not learn: None is of each layer's own.
        std = 0.01 if len(self.hidden) == 1 else None
        return {"weight_std": std, "learning_rate": _names.LEARNING_RATES[self.optimizer]} | given


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """Train a network; the defaults are the source's run (4.4)."""

    examples = "--data digits", "--hidden 100 50 --optimizer adam --out runs/deep", "--resume --out runs/deep"
    weight_std: float | None = _network(None, _STD, "STD")
    model_devices: int = _machine(1, "split hidden layers over so many of --devices", "N")
    learning_rate: float | None = _training(None, _RATE, "RATE")
    momentum: float | None = _training(None, _MOMENTUM, "SHARE", not_negative)
    weight_decay: float | None = _training(None, _DECAY, "RATE", not_negative)
    patience: int | None = _training(
        None, "end after N evaluations without a better validation loss, and keep the best parameters", "N"
    )


_Several = tuple[float | Range, ...] | None
_positive, _from_0 = partial(_ranged, number), partial(_ranged, not_negative)


@dataclass(frozen=True, kw_only=True)
class Sweep(Training):
    """Train a network for every setting and seed, all as one program, and rank the settings."""

    examples = "--seeds 16 --learning-rate 0.03 0.1 0.3", "--learning-rate 0.01:1 --samples 20"
    weight_std: _Several = _network(None, _STD, "STD", _positive)
    learning_rate: _Several = _training(None, _RATE, "RATE", _positive)
    momentum: _Several = _training(None, _MOMENTUM, "SHARE", _from_0)
    weight_decay: _Several = _training(None, _DECAY, "RATE", _from_0)
    seeds: int = _training(4, "how many for each setting: --seed and those above", "N")
    samples: int | None = _training(None, "settings to draw from ranges LOW:HIGH, log-uniformly", "N")
    share_batches: bool = _training(False, "the batches of --seed for all: faster, only their starts vary")
    max_networks: int = _training(64, "how many to train at a time", "N", may_change=True)


@dataclass(frozen=True, kw_only=True)
class Parity(Configured):
    """Train the NumPy reference and jaxnet side by side in float64 and print how far apart they ever are."""

    examples = ("--data digits --steps 1000",)
    hidden: int = _network(50, "units of the hidden layer", "N")
    weight_std: float = _network(0.01, "of the initial weights", "STD")
    steps: int = _training(_names.STEPS, "mini-batch updates", "N")
    learning_rate: float = _training(_names.LEARNING_RATE, "of stochastic gradient descent", "RATE")


@dataclass(frozen=True, kw_only=True)
class Check(Configured):
    """Check a gradient by all estimates of it: of the network on real data, or of your own function."""

    examples = "", "--published-softmax", "mine.py:loss"
    target: str | None = _argument(
        None,
        "a function of yours; its arguments are the tuple that NAME_args() returns, its hand-written "
        "gradient is NAME_gradient, if there is one; without it, the network's loss is checked",
        "FILE.py:NAME",
    )
    hidden: tuple[int, ...] = _network((50,), "units of each hidden layer", "N")
    activation: _names.ActivationName = _network("sigmoid", "of the hidden layers")
    weight_std: float = _network(0.01, "of the weights", "STD")
    published_softmax: bool = _network(False, "the source's, over the whole batch, and its backpropagation")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Computed):
    """Evaluate a trained network: every metric, the confusion matrix, precision and recall of each class."""

    examples = "runs/demo", "runs/demo --data mine.npz --json"
    folder: Path = _argument(MISSING, "the run folder", "RUN")
    data: str | None = _data(None, f"{_DATA}; by default what the run was trained on", "DATA")
    part: Literal["test", "train"] = _data("test", "the examples to evaluate on")
    target: str | None = _data(None, "the column of a .csv file to predict; by default the run's", "COLUMN")
    json: bool = _output(False, "print JSON")


@dataclass(frozen=True, kw_only=True)
class Predict(Computed):
    """Say what a trained network sees in pictures."""

    examples = "runs/demo photo.jpg", "runs/demo scans/ --json", "runs/demo - < photo.png"
    folder: Path = _argument(MISSING, "the run folder", "RUN")
    images: tuple[str, ...] = _argument(
        MISSING,
        "a picture (PNG, JPEG ...) of any size, a folder of them, an .npy or .npz file of pictures or of "
        "rows of inputs, a .csv file of such rows, or - for a picture or array from stdin",
        "IMAGE",
    )
    prepare: Literal["digit", "resize"] | None = _data(
        None,
        "how pictures become inputs: digit finds what is drawn, light on dark or dark on light, and centres "
        "it as the dataset's are; resize only resizes; by default digit for mnist, fashion-mnist and digits",
    )
    json: bool = _output(False, "print JSON")


@dataclass(frozen=True, kw_only=True)
class Plot(Computed):
    """Draw learning curves, confusion matrix, mistakes and weights; of several runs the curves together."""

    examples = "runs/demo", "runs/one runs/other --out comparison"
    folders: tuple[Path, ...] = _argument(MISSING, "a run folder, or several, to draw together", "RUN")
    out: Path | None = _output(None, "where; by default the run's folder, or this one for several", "FOLDER")


@dataclass(frozen=True, kw_only=True)
class Export(Settings):
    """Write a trained network for other programs."""

    examples = "runs/demo", "runs/demo --format safetensors --out digits.safetensors"
    folder: Path = _argument(MISSING, "the run folder", "RUN")
    format: Literal["safetensors", "stablehlo"] = _output(
        "stablehlo", "the parameters, or a whole program, which jax.export reads without jaxnet"
    )
    out: Path | None = _output(None, "by default RUN/model.FORMAT", "FILE")
    overwrite: bool = _output(False, "replace FILE where there is one")


@dataclass(frozen=True, kw_only=True)
class Convert(Settings):
    """Write a dataset, however large, as a folder of shards, which --data takes and trains from disk."""

    examples = "mnist shards/mnist", "table.csv shards/table --target kind", "--verify shards/mnist"
    source: str = _argument(
        MISSING, f"{_DATA.removeprefix('digits, ')}; or to --verify, one of shards", "DATA"
    )
    folder: Path | None = _argument(None, "the new folder", "FOLDER")
    target: str | None = _data(None, "the column of a .csv file to predict; by default the last", "COLUMN")
    test: float = _data(0.2, "share to test on, where the data do not say which", "SHARE", _share)
    shard_size: int = _output(64, "MB of a shard, and so what is held in memory", "MB")
    verify: bool = _call(False, "compare every shard of a folder with its SHA-256, and end")


@dataclass(frozen=True, kw_only=True)
class Runs(Settings):
    """List the runs of folders, and compare them: the settings in which they differ, and the results."""

    examples = "", "runs/one runs/other"
    folders: tuple[Path, ...] = _argument((Path("runs"),), "run folders, or folders of them", "FOLDER")
    json: bool = _output(False, "print JSON")


_KINDS = Train, Sweep, Evaluate, Predict, Plot, Export, Convert, Runs, Check, Parity
COMMANDS: dict[str, type[Settings]] = {kind.__name__.lower(): kind for kind in _KINDS}
