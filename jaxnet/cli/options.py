"""The command line: every command's options, their defaults and their help; nothing here loads JAX."""

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxnet import _names

Add = Callable[..., Any]  # argparse's add_argument
_DTYPES = ("float32", "float64", "bfloat16")
_METRICS = ("loss", *(name for name in _names.METRICS_OF_CLASSES if name != "confusion_matrix"))
_DATA = "digits, mnist, fashion-mnist, an .npz or .csv file, or a folder of images by class"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += _meant(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what is not known here, where the command's own options are, and not one parser above."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            own = re.findall(r"--[a-z-]+", self.format_usage())
            self.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0].split('=')[0], own)}")
        return options, unknown


def _meant(given: str, known: Sequence[str]) -> str:
    """Return `, did you mean ...?` of a similar name, or of one whose words begin with these letters."""
    initials = [name for name in known if "".join(re.findall(r"\b[a-z]", name)) == given.strip("-")]
    close = difflib.get_close_matches(given, known, n=1) or initials
    return f", did you mean {close[0]}?" if close else ""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with defaults as one would type them."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        # By identity: 0 is a default to tell, and equals False.
        told = all(default is not nothing for nothing in (None, False, argparse.SUPPRESS))
        if action.help is None or not told or not action.option_strings:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        return f"{action.help} (default: {shown})"


def _positive(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value: float
        try:
            value = kind(text)
        except ValueError:
            value = 0
        # No further than what int32 and float32 hold.
        if not 0 < value < (2**31 if kind is int else 3e38):
            what = "integer" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"expected a positive {what}, got {text!r}")
        return value

    return parse


number, whole = _positive(float), _positive(int)


def share(text: str) -> float:
    """Parse a number from 0 to 1, both excluded."""
    value = number(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def not_negative(text: str) -> float:
    """Parse a number from 0 up."""
    if text in ("0", "0.0"):
        return 0.0
    try:
        return number(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a number that is not negative, got {text!r}") from None


class Range(str):
    """Two positive numbers `LOW:HIGH`, between which a sweep draws; in `config.json` it is its text."""

    @property
    def ends(self) -> tuple[float, float]:
        """The numbers."""
        low, high = map(number, self.split(":"))
        return low, high


def ranged(parse: Callable[[str], float]) -> Callable[[str], float | Range]:
    """Return a parser of what another parses, and of ranges."""

    def parse_either(text: str) -> float | Range:
        if ":" not in text:
            return parse(text)
        try:
            low, high = Range(text).ends
        except (ValueError, argparse.ArgumentTypeError):
            low = high = 0.0
        if not low < high:
            raise argparse.ArgumentTypeError(
                f"expected a range LOW:HIGH of two positive numbers, the lower first, got {text!r}"
            )
        return Range(text)

    return parse_either


def _weight_std(add: Add, parse: Callable[[str], float | Range] = number, **several: str) -> None:
    """Add the option --weight-std."""
    help_ = "of the initial weights; by default 0.01, or 1/sqrt(inputs) for several hidden layers"
    add("--weight-std", type=parse, metavar="STD", default=argparse.SUPPRESS, help=help_, **several)


def seed(text: str) -> int:
    """Parse a seed."""
    if not text.isdecimal() or int(text) >= 2**32:  # beyond that, seeds would repeat
        raise argparse.ArgumentTypeError(f"expected an integer in 0..{2**32 - 1}, got {text!r}")
    return int(text)


def _shared(add: Add) -> None:
    """Add the options that every training command has."""
    add("--data", default="mnist", metavar="DATA", help=_DATA)
    add("--steps", type=whole, default=_names.STEPS, metavar="N", help="mini-batch updates")
    add("--batch-size", type=whole, default=_names.BATCH_SIZE, metavar="N", help="examples per update")
    add("--seed", type=seed, default=0, metavar="N", help="of the initial weights and of the batches")
    add("--quiet", action="store_true", help="print nothing but errors")


def _training(add: Add, *, several: bool) -> None:
    """Add what trains networks; several: the options that a sweep goes over take one value or more."""
    _shared(add)
    more: dict[str, Any] = {"nargs": "+"} if several else {}
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    positive, at_least_0 = ((ranged(p) if several else p) for p in (number, not_negative))
    add("--hidden", type=whole, nargs="+", default=[50], metavar="N", help="units of each hidden layer")
    add("--activation", choices=_names.ACTIVATIONS, default="sigmoid", help="of the hidden layers")
    _weight_std(add, positive, **more)
    rule = f"the rule of the updates: {', '.join(_names.OPTIMIZERS)}"
    add("--optimizer", choices=_names.OPTIMIZERS, default="sgd", metavar="NAME", help=rule)
    others = {
        rate: [n for n, r in _names.LEARNING_RATES.items() if r == rate] for rate in (0.1, 0.01, 1.0, 1e-4)
    }
    rates = "by default 0.001, but " + "; ".join(
        f"{rate:g} for {', '.join(names)}" for rate, names in others.items()
    )
    add("--learning-rate", type=positive, metavar="RATE", help=rates, **absent, **more)
    momentum = "of momentum and nesterov; by default 0.9"
    add("--momentum", type=at_least_0, metavar="SHARE", help=momentum, **absent, **more)
    decay = "by default 0, and 0.0001 for adamw"
    add("--weight-decay", type=at_least_0, metavar="RATE", help=decay, **absent, **more)
    schedule = "of the learning rate, over --steps"
    add("--schedule", choices=_names.SCHEDULES, default="constant", help=schedule)
    warmup = "of warmup_cosine; by default a twentieth of --steps"
    add("--warmup-steps", type=whole, metavar="N", help=warmup, **absent)
    sampling = "draw each batch anew, or shuffle once per epoch"
    add("--sampling", choices=("replacement", "shuffle"), default="replacement", help=sampling)
    every = "steps between two evaluations; by default an epoch's"
    add("--eval-every", type=whole, metavar="N", help=every, **absent)
    known = ", ".join(_METRICS)
    evaluated = f"what to evaluate, beside accuracy, or the errors and R² of a regression: {known}"
    add("--metrics", nargs="+", choices=_METRICS, default=["accuracy"], metavar="NAME", help=evaluated)
    validation = "share of the training examples to hold out, drawn by --seed"
    add("--validation", type=share, metavar="SHARE", help=validation, **absent)
    weights = "'balanced', or the weight of each class in the loss"
    add("--class-weights", nargs="+", metavar="WEIGHT", help=weights, **absent)
    target = "the column of a .csv file to predict; by default the last"
    add("--target", metavar="COLUMN", help=target, **absent)
    task = "by default classification; a regression predicts numbers, by the mean squared error"
    add("--task", choices=("classification", "regression"), help=task, **absent)
    dtype = "of params and arithmetic; bfloat16: of the arithmetic alone"
    add("--dtype", choices=_DTYPES, default="float32", help=dtype)


def _run_folder(add: Add, what: str) -> None:
    out = "the run folder; by default runs/DATA-DATE-TIME"
    add("--out", type=Path, metavar="FOLDER", default=argparse.SUPPRESS, help=out)
    add("--overwrite", action="store_true", help="write over the run that the folder holds")
    resume = f"continue the {what} that --out holds, with its options, up to --steps in all"
    add("--resume", action="store_true", help=resume)
    checkpoint = f"steps between two checkpoints, from which a {what} can be resumed"
    add("--checkpoint-every", type=whole, default=1000, metavar="N", help=checkpoint)
    add("--no-plots", action="store_true", help="draw no pictures")


def _train(add: Add) -> None:
    _training(add, several=False)
    patience = "end after so many evaluations without a better validation loss, and keep the best parameters"
    add("--patience", type=whole, metavar="N", default=argparse.SUPPRESS, help=patience)
    _run_folder(add, "run")


def _sweep(add: Add) -> None:
    _training(add, several=True)
    seeds = "how many for each setting: --seed and those above"
    add("--seeds", type=whole, default=4, metavar="N", help=seeds)
    samples = "how many settings to draw, where an option has a range LOW:HIGH; log-uniform, by --seed"
    add("--samples", type=whole, metavar="N", default=argparse.SUPPRESS, help=samples)
    shared = "let all networks see the batches of --seed: much faster, but they vary only by their start"
    add("--share-batches", action="store_true", help=shared)
    add("--max-networks", type=whole, default=64, metavar="N", help="how many to train at a time")
    _run_folder(add, "sweep")


def _parity(add: Add) -> None:
    _shared(add)
    add("--hidden", type=whole, default=50, metavar="N", help="units of the hidden layer")
    _weight_std(add)
    rate = "of stochastic gradient descent"
    add("--learning-rate", type=number, default=_names.LEARNING_RATE, metavar="RATE", help=rate)


def _check(add: Add) -> None:
    target = (
        "a function of yours, FILE.py:NAME; its arguments are the tuple that NAME_args() returns, its "
        "hand-written gradient is NAME_gradient, if there is one; without it, the network's loss is checked"
    )
    add("target", nargs="?", metavar="FILE.py:NAME", help=target)
    add("--data", default="mnist", metavar="DATA", help=_DATA)
    add("--hidden", type=whole, nargs="+", default=[50], metavar="N", help="units of each hidden layer")
    add("--activation", choices=_names.ACTIVATIONS, default="sigmoid", help="of the hidden layers")
    add("--batch-size", type=whole, default=100, metavar="N", help="examples in the loss")
    add("--seed", type=seed, default=0, metavar="N", help="of the weights and of the batch")
    add("--weight-std", type=number, metavar="STD", default=0.01, help="of the weights")
    published = (
        "the source's network: its softmax over the whole batch and the backpropagation that it goes with"
    )
    add("--published-softmax", action="store_true", help=published)


def _evaluate(add: Add) -> None:
    add("folder", type=Path, metavar="RUN", help="the run folder")
    add("--data", metavar="DATA", help=f"{_DATA}; by default what the run was trained on")
    add("--part", choices=("test", "train"), default="test", help="the examples to evaluate on")
    add("--target", metavar="COLUMN", help="the column of a .csv file to predict; by default as in the run")
    add("--json", action="store_true", help="print JSON")


def _predict(add: Add) -> None:
    add("folder", type=Path, metavar="RUN", help="the run folder")
    images = (
        "a picture (PNG, JPEG ...) of any size, a folder of them, an .npy or .npz file of pictures or of "
        "rows of inputs, or - for one of these from stdin"
    )
    add("images", nargs="+", metavar="IMAGE", help=images)
    prepare = (
        "how pictures become inputs: digit finds what is drawn, light on dark or dark on light, and centres "
        "it as the dataset's are; resize only resizes; by default digit for mnist, fashion-mnist and digits"
    )
    add("--prepare", choices=("digit", "resize"), help=prepare)
    add("--json", action="store_true", help="print JSON")


def _plot(add: Add) -> None:
    runs = "a run folder; of one all pictures are drawn, of several their learning curves together"
    add("folders", nargs="+", type=Path, metavar="RUN", help=runs)
    out = "where to write the pictures; by default the run's folder, or this one for several"
    add("--out", type=Path, metavar="FOLDER", help=out)


def _export(add: Add) -> None:
    add("folder", type=Path, metavar="RUN", help="the run folder")
    kind = (
        "safetensors: the parameters; stablehlo: the whole network as a program, which jax.export reads "
        "without jaxnet"
    )
    add("--format", choices=("safetensors", "stablehlo"), default="stablehlo", help=kind)
    add("--out", type=Path, metavar="FILE", help="by default RUN/model.FORMAT")


def _runs(add: Add) -> None:
    folders = "run folders, or folders of them"
    add("folders", nargs="*", type=Path, default=[Path("runs")], metavar="FOLDER", help=folders)
    add("--json", action="store_true", help="print JSON")


class Command(NamedTuple):
    """What a command is, without what it does: that is `run` in the file of its name."""

    help: str
    add_options: Callable[[Add], None]
    examples: tuple[str, ...]


COMMANDS = {
    "train": Command(
        "Train a network; the defaults are the source's run (4.4).",
        _train,
        ("--data digits", "--hidden 100 50 --optimizer adam --out runs/deep", "--resume --out runs/deep"),
    ),
    "sweep": Command(
        "Train a network for every setting and seed, all as one program, and rank the settings.",
        _sweep,
        ("--seeds 16 --learning-rate 0.03 0.1 0.3", "--learning-rate 0.01:1 --samples 20"),
    ),
    "evaluate": Command(
        "Evaluate a trained network: every metric, the confusion matrix, precision and recall of each class.",
        _evaluate,
        ("runs/demo", "runs/demo --data mine.npz --json"),
    ),
    "predict": Command(
        "Say what a trained network sees in pictures.",
        _predict,
        ("runs/demo photo.jpg", "runs/demo scans/ --json", "runs/demo - < photo.png"),
    ),
    "plot": Command(
        "Draw learning curves, confusion matrix, mistakes and weights; of several runs the curves together.",
        _plot,
        ("runs/demo", "runs/one runs/other --out comparison"),
    ),
    "export": Command(
        "Write a trained network for other programs.",
        _export,
        ("runs/demo", "runs/demo --format safetensors --out digits.safetensors"),
    ),
    "runs": Command(
        "List the runs of folders, and compare them: the settings in which they differ, and the results.",
        _runs,
        ("", "runs/one runs/other"),
    ),
    "check": Command(
        "Check a gradient by all estimates of it: of the network on real data, or of your own function.",
        _check,
        ("", "--published-softmax", "mine.py:loss"),
    ),
    "parity": Command(
        "Train the NumPy reference and jaxnet side by side in float64 and print how far apart they ever are.",
        _parity,
        ("--data digits --steps 1000",),
    ),
}
