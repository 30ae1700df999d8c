"""What the commands' options have in common: parsers of values, shared options, and the dataset."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from jaxnet import datasets, training

Add = Callable[..., Any]  # argparse's add_argument


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (try {self.prog} --help)\n")


def shared() -> Parser:
    """Return a parser of the options that every training command has."""
    parser = Parser(add_help=False)
    add: Add = parser.add_argument
    add(
        "--data",
        default="mnist",
        help="digits, mnist, fashion-mnist, an .npz or .csv file, or a folder of images by class",
    )
    add("--steps", type=whole, default=training.STEPS, metavar="N", help="mini-batch updates")
    add("--batch-size", type=whole, default=training.BATCH_SIZE, metavar="N", help="examples per update")
    add("--seed", type=seed, default=0, metavar="N", help="of the initial weights and of the batches")
    return parser


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


def weight_std(add: Add, parse: Callable[[str], float | Range] = number, **several: str) -> None:
    """Add the option --weight-std."""
    help_ = "of the initial weights; by default 0.01, or 1/sqrt(inputs) for several hidden layers"
    add("--weight-std", type=parse, metavar="STD", default=argparse.SUPPRESS, help=help_, **several)


def seed(text: str) -> int:
    """Parse a seed."""
    if not text.isdecimal() or int(text) >= 2**32:  # beyond that, seeds would repeat
        raise argparse.ArgumentTypeError(f"expected an integer in 0..{2**32 - 1}, got {text!r}")
    return int(text)


def load(name: str) -> tuple[datasets.Split, int]:
    """Return the dataset and its number of classes."""
    train, test = datasets.load(name)
    return (train, test), int(max(train[1].max(), test[1].max())) + 1
