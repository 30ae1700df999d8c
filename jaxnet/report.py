"""What `check_gradients` found: verdicts, the worst element of each leaf, and the likely cause."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnet.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["pass", "fail", "inconclusive"]
RICHARDSON, COMPLEX = "Richardson", "complex step"


@dataclass
class Method:
    """One way to the gradient, flat in float64, for each projection of f."""

    name: str
    dtypes: list[Any] = field(default_factory=list)
    """Of each leaf."""
    own: list[np.ndarray] = field(default_factory=list)
    """As it is."""
    wide: list[np.ndarray] | None = None
    """Run in float64, where it has another type."""
    noise: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Its rounding error, measured."""
    exact: Callable[[Any, Any], Any] | None = None
    """What runs it in float64, for a point and a projection."""
    beside: list[tuple[Any, np.ndarray]] = field(default_factory=list)
    """Its own values at points beside the real one."""
    unavailable: str | None = None
    ready: bool = False
    """A pytree: it cannot be run again."""
    sampled: bool = False
    """Known for `looked` elements only."""
    looked: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def best(self, projection: int) -> np.ndarray:
        """Return the most precise values there are."""
        return (self.wide or self.own)[projection]


@dataclass
class Checked:
    """The elements that were looked at, for one projection of f."""

    index: np.ndarray
    leaf_of: np.ndarray
    estimate: Estimate
    scale: np.ndarray
    resolved: np.ndarray
    failed: dict[str, np.ndarray]
    margins: dict[str, np.ndarray]
    complex_values: np.ndarray | None
    complex_looked: np.ndarray
    complex_reason: str | None
    sigma: float
    finite_center: bool
    curve: dict[str, Any]


@dataclass
class Lines:
    """Random directions of one leaf, for one projection of f."""

    unlooked: int
    failed: list[str]
    resolution: float
    """The error of one element that could have escaped all of them."""


@dataclass(frozen=True)
class Element:
    """One element and every estimate of its derivative."""

    path: str
    values: dict[str, float]
    error_bar: float
    verdict: Verdict
    failed: list[str]
    reason: str


@dataclass(frozen=True)
class Leaf:
    """One array of what was differentiated."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    checked: int
    """Elements that were looked at one by one."""
    verdict: Verdict
    failed: list[str]
    counts: dict[str, int]
    worst: Element
    cause: str | None
    notes: list[str]


class GradientError(AssertionError):
    """A gradient that is wrong; the message is the report."""


@dataclass(frozen=True, repr=False)
class GradientReport:
    """The result of `check_gradients`; `print` it, or show it in a notebook."""

    verdict: Verdict
    function: str
    summary: str
    """Which estimates disagree with which."""
    leaves: list[Leaf]
    worst: Element
    methods: dict[str, str]
    """Every estimate: "available", or why not."""
    matrix: dict[str, dict[str, float]]
    """The largest difference of each two, relative to the largest derivative of its leaf."""
    notes: list[str]
    curve: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every element passed."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; numbers that are not finite as strings."""
        result: dict[str, Any] = _plain({k: v for k, v in asdict(self).items() if k != "curve"})
        return result | {"passed": self.passed}

    def raise_if_failed(self) -> None:
        """Raise a GradientError with the whole report if the verdict is "fail"."""
        if self.verdict == "fail":
            raise GradientError(str(self))

    def __str__(self) -> str:
        lines = [f"gradient of {self.function}: {self.verdict.upper()}", self.summary, ""]
        lines += _aligned(self._leaf_rows())
        for leaf in self.leaves:
            about = [f"likely cause: {leaf.cause}"] if leaf.cause else []
            about += [leaf.worst.reason] if leaf.worst.reason else []
            lines += [f"  {leaf.path}: {text}" for text in [*about, *leaf.notes]]
        lines += ["", "largest differences, relative to the leaf:", *_aligned(self._matrix_rows())]
        lines += [f"{name}: not available: {why}" for name, why in self.methods.items() if why != "available"]
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__

    def _leaf_rows(self) -> list[list[str]]:
        names = [name for name, why in self.methods.items() if why == "available"]
        rows = [["leaf", "verdict", "worst element", *names, "± error"]]
        for leaf in self.leaves:
            values = [_number(leaf.worst.values.get(name)) for name in names]
            rows.append(
                [leaf.path, leaf.verdict.upper(), leaf.worst.path, *values, f"{leaf.worst.error_bar:.1e}"]
            )
        return rows

    def _matrix_rows(self) -> list[list[str]]:
        names = list(self.matrix)
        cells = [[f"{self.matrix[a][b]:.1e}" if a != b else "" for b in names] for a in names]
        return [["", *names], *([name, *row] for name, row in zip(names, cells, strict=True))]

    def _repr_html_(self) -> str:
        def table(rows: list[list[str]]) -> str:
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows[1:]
            )
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

        about = [f"{leaf.path}: {leaf.cause}" for leaf in self.leaves if leaf.cause]
        about += [f"{leaf.path}: {note}" for leaf in self.leaves for note in leaf.notes]
        about += [leaf.worst.reason for leaf in self.leaves if leaf.worst.reason]
        about += [f"{name}: not available: {why}" for name, why in self.methods.items() if why != "available"]
        listed = "".join(f"<li>{html.escape(text)}</li>" for text in [*about, *self.notes])
        colour = {"pass": "green", "fail": "crimson", "inconclusive": "darkorange"}[self.verdict]
        return (
            f"<p>gradient of <code>{html.escape(self.function)}</code>: "
            f"<b style='color:{colour}'>{self.verdict.upper()}</b>. {html.escape(self.summary)}</p>"
            f"{table(self._leaf_rows())}<ul>{listed}</ul>{table(self._matrix_rows())}"
        )

    def plot(self) -> "Figure":
        """Return the central difference's error against the step, for the worst element (extra `[plots]`).

        Beside it the slopes of truncation and of round-off, and the step that was chosen.
        """
        from jaxnet import plots

        return plots.step_choice(**self.curve)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value


def listing(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
