"""What a long check says it is doing, on a terminal and nowhere else."""

import io
import sys
import time

import numpy as np
import pytest

from jaxnet import check_gradients
from jaxnet.gradcheck import progress


class Screen(io.StringIO):
    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def make_screen(request, monkeypatch):
    def make():  # within the test: before it, pytest puts its own in its place
        monkeypatch.setattr(sys, "stderr", Screen(request.param))
        return sys.stderr

    monkeypatch.setattr(progress, "_AFTER", 0.01)
    monkeypatch.setattr(progress, "_EVERY", 0.01)
    return make


def waits_for(screen, words):
    """A function that returns only when the screen shows the words, or has had time enough to."""

    def f(x):
        x, start = np.asarray(x), time.monotonic()
        calls.append(1)
        while len(calls) > 20 and words not in screen.getvalue() and time.monotonic() < start + 10:
            if not screen.isatty():
                break
            time.sleep(0.01)
        return (x**2).sum()

    calls: list[int] = []
    return f


def test_a_long_check_says_what_it_is_doing_and_wipes_it(make_screen):
    screen = make_screen()
    f = waits_for(screen, "differences of 2 elements")
    report = check_gradients(f, np.array([1.0, 2.0]), candidates={"by hand": lambda x: 2 * np.asarray(x)})
    assert report.verdict == "pass"
    shown = screen.getvalue()
    if screen.isatty():
        assert "\x1b[Kcheck_gradients: the numerical estimates: differences of 2 elements (" in shown
        assert shown.endswith("\r\x1b[K")
    else:
        assert shown == ""


def test_it_is_wiped_where_the_check_raises(make_screen):
    screen = make_screen()

    def f(x):
        time.sleep(0.1)
        raise RuntimeError("no value")

    with pytest.raises(RuntimeError, match="no value"):
        check_gradients(f, np.array([1.0]))
    assert screen.getvalue() == "" or screen.getvalue().endswith("\r\x1b[K")
    with pytest.raises(RuntimeError, match="no value"):
        check_gradients(f, np.array([1.0]))  # what was being done is forgotten
