"""One small input of each kind on which a checker goes wrong: silent passes, false alarms, exceptions."""

import pytest
from kinds import KINDS

from jaxnet.gradcheck import GradientReport


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
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
