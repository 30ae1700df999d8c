"""What the commands print: tables, rounded numbers, and where the seconds went."""

import time
from collections.abc import Callable, Sequence


def rounded(value: float) -> str:
    """Return a number with four decimals, and a large one with four digits."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Return rows of cells as lines, the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


class Clock:
    """Where the seconds of a command go: each belongs to one part, so that the parts sum to the whole."""

    def __init__(self, start: float) -> None:
        self._last = start
        self.parts: dict[str, float] = {}

    def lap(self, name: str, **within: float) -> None:
        """Give the seconds since the last call to a part, without those that others within it took."""
        now = time.perf_counter()
        for part, seconds in within.items():
            self.parts[part] = self.parts.get(part, 0.0) + seconds
        self.parts[name] = self.parts.get(name, 0.0) + now - self._last - sum(within.values())
        self._last = now

    def __str__(self) -> str:
        shown = {name: round(seconds, 1) for name, seconds in self.parts.items()}
        return f"{sum(shown.values()):.1f} s: " + ", ".join(f"{s:.1f} {name}" for name, s in shown.items())


def rows_of_a_run(columns: Sequence[str], write: Callable[[str], None]) -> Callable[[Sequence[str]], None]:
    """Return what writes one row of cells at a time, under a header that comes with the first."""
    widths = [max(len(name), 8) for name in columns]
    line = "  ".join
    headed = False

    def row(cells: Sequence[str]) -> None:
        nonlocal headed
        for texts in ([] if headed else [columns]) + [cells]:
            write(line(text.rjust(width) for text, width in zip(texts, widths, strict=True)))
        headed = True

    return row
