"""Ctrl-C and SIGTERM, either of which ends a command once, wherever it arrives."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_came: list[int] = []


@contextmanager
def handled() -> Iterator[list[int]]:
    """Make SIGTERM raise KeyboardInterrupt as Ctrl-C does, but only once, and tell which of them came."""

    def end(number: int, frame: object) -> None:
        first = number not in _came
        _came.append(number)
        if first or number == signal.SIGINT:
            raise KeyboardInterrupt

    def unraisable(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not KeyboardInterrupt:  # which `heed` raises again
            hook(lost)

    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield _came
        return
    # What the caller ignores, as nohup does Ctrl-C, stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield _came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        _came.clear()


def heed(stretch: object) -> None:
    """End a run, as a callback of `fit`, if a signal came whose exception was lost.

    One that is raised in a garbage collection, or under C code that drops errors, reaches nobody.
    """
    if _came:
        raise KeyboardInterrupt
