"""What a check found: verdicts, the worst element of each leaf, the likely cause, and where it arises."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnet.gradcheck.locate import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["pass", "fail", "inconclusive"]
RICHARDSON, COMPLEX = "Richardson", "complex step"
_ORDER: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict: fail, then inconclusive."""
    return max(verdicts, key=_ORDER.__getitem__)


@dataclass(frozen=True)
class Element:
    """One element and every estimate of its derivative."""

    path: str
    values: dict[str, float]
    error_bar: float
    verdict: Verdict
    failed: list[str]
    reason: str
    allowed: dict[str, float]
    """How far each estimate may be from the numerical one, that is right."""
    low: float
    """The smaller one-sided slope at a kink, elsewhere the numerical estimate."""
    high: float


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
    precision: dict[str, str] = field(default_factory=dict)
    """In which types each estimate was verified, and to how many digits."""
    origins: tuple[Origin, ...] = ()
    """The operations in which a wrong or infinite derivative arises."""
    located: str = ""
    """The same in a sentence."""
    points: "tuple[GradientReport, ...]" = ()
    """The reports of several points, or orders; empty for one."""
    curve: Callable[[], dict[str, Any]] | None = None
    """What computes the central difference over many steps, for `plot`."""

    def __post_init__(self) -> None:
        """Refuse to say "pass" beside numbers that say otherwise."""
        for leaf in self.leaves:
            for name, value in leaf.worst.values.items():
                allowed = leaf.worst.allowed.get(name, math.inf)
                apart = max(leaf.worst.low - value, value - leaf.worst.high, 0.0)
                if self.verdict == "pass" and not apart <= allowed + 1e-290:
                    raise AssertionError(
                        f"jaxnet contradicts itself: {name} is {apart} off at {leaf.worst.path}, "
                        f"more than {allowed}"
                    )

    @property
    def passed(self) -> bool:
        """Whether every element passed."""
        return self.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; numbers that are not finite as strings."""
        points = [report.to_dict() for report in self.points]
        plain = asdict(replace(self, points=(), curve=None, origins=()))
        plain.pop("curve")
        result: dict[str, Any] = _plain(plain | {"origins": [origin._asdict() for origin in self.origins]})
        return result | {"points": points, "passed": self.passed}

    def raise_if_failed(self) -> None:
        """Raise GradientError with the report if anything failed."""
        if self.verdict == "fail":
            raise GradientError(str(self))

    def raise_unless_passed(self) -> None:
        """Raise GradientError with the report if anything failed or is inconclusive."""
        if self.verdict != "pass":
            raise GradientError(str(self))

    def __str__(self) -> str:
        lines = [f"gradient of {self.function}: {self.verdict.upper()}", self.summary]
        lines += [self.located] if self.located else []
        lines += ["", *_aligned(self._leaf_rows())]
        for leaf in self.leaves:
            about = [f"likely cause: {leaf.cause}"] if leaf.cause else []
            about += [leaf.worst.reason] if leaf.worst.reason else []
            lines += [f"  {leaf.path}: {text}" for text in [*about, *leaf.notes]]
        if len(self.matrix) > 1:
            lines += ["", "largest differences, relative to the leaf:", *_aligned(self._matrix_rows())]
        lines += self._about_methods()
        for report in self.points:
            lines += ["", *str(report).splitlines()]
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__

    def _about_methods(self) -> list[str]:
        lines = [f"{name}: not available: {why}" for name, why in self.methods.items() if why != "available"]
        return lines + [f"{name}: verified {text}" for name, text in self.precision.items()]

    def _leaf_rows(self) -> list[list[str]]:
        names = [name for name, why in self.methods.items() if why == "available"]
        rows = [["leaf", "verdict", "worst element", *names, "± error"]]
        for leaf in self.leaves:
            values = [_number(leaf.worst.values.get(name)) for name in names]
            bar = f"{leaf.worst.error_bar:.1e}"
            rows.append([leaf.path, leaf.verdict.upper(), leaf.worst.path, *values, bar])
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

        about = [self.located] if self.located else []
        about += [f"{leaf.path}: {leaf.cause}" for leaf in self.leaves if leaf.cause]
        about += [f"{leaf.path}: {note}" for leaf in self.leaves for note in leaf.notes]
        about += [leaf.worst.reason for leaf in self.leaves if leaf.worst.reason]
        about += self._about_methods()
        listed = "".join(f"<li>{html.escape(text)}</li>" for text in [*about, *self.notes])
        colour = {"pass": "green", "fail": "crimson", "inconclusive": "darkorange"}[self.verdict]
        more = "".join(report._repr_html_() for report in self.points)
        return (
            f"<p>gradient of <code>{html.escape(self.function)}</code>: "
            f"<b style='color:{colour}'>{self.verdict.upper()}</b>. {html.escape(self.summary)}</p>"
            f"{table(self._leaf_rows())}<ul>{listed}</ul>{table(self._matrix_rows())}{more}"
        )

    def plot(self) -> "Figure":
        """Return the central difference's error against the step, for the worst element (extra `[plots]`).

        Beside it the slopes of truncation and of round-off, and the step that was chosen. f is run for it.
        """
        from jaxnet import plots

        if self.curve is None:
            raise ValueError("there is nothing to plot: no element was looked at")
        return plots.step_choice(**self.curve())


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
