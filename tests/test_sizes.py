"""How much there is to read. It may shrink; what makes it grow says so here."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jaxnet"
CORE = [
    "__init__",
    "losses",
    "network",
    "differentiation",
    "gradcheck/check",
    "gradcheck/estimate",
    "gradcheck/judge",
    "gradcheck/problem",
    "training/state",
    "training/fit",
    "training/body",
    "training/program",
    "training/run",
]
# The aims are 7,000 and 2,500 lines: code, docstrings and blanks.
MOST, MOST_OF_THE_CORE = 18_216, 4_200


def lines(paths):
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_the_library_and_its_core_do_not_grow():
    assert lines(PACKAGE.rglob("*.py")) <= MOST
    assert lines(PACKAGE / f"{name}.py" for name in CORE) <= MOST_OF_THE_CORE
