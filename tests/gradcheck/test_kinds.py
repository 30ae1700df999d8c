"""One small input of each kind on which a checker goes wrong: silent passes, false alarms, exceptions."""

import pytest
from kinds import KINDS

from jaxnet.gradcheck import GradientReport

GROUPS = {row: [kind.name for kind in KINDS if kind.row == row] for row in {kind.row for kind in KINDS}}


def listed(kind):
    """Return a row of the table: of each group `make test` runs the first."""
    marks = () if kind.name == GROUPS[kind.row][0] else pytest.mark.rest
    return pytest.param(kind, id=kind.name, marks=marks)


@pytest.mark.parametrize("kind", list(map(listed, KINDS)))
def test_the_verdict_is_right_and_says_so(kind):
    if kind.verdict not in ("pass", "fail", "inconclusive"):
        with pytest.raises({"ValueError": ValueError, "TypeError": TypeError}[kind.verdict]) as caught:
            kind.call()
        assert "\n" not in str(caught.value) and str(caught.value)
        return
    report = kind.call()
    assert isinstance(report, GradientReport) and report.verdict == kind.verdict, str(report)
    for words in kind.says:
        assert words in str(report), str(report)
    for words in (*kind.never, "could not be found"):  # the search for a cause never fails
        assert words not in str(report), str(report)
