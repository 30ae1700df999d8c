"""What a long check is doing, told on a terminal."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_AFTER, _EVERY = 3.0, 0.5  # seconds
_doing: ContextVar[list[str] | None] = ContextVar("_doing", default=None)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say on standard error, if that is a terminal, what is being done and for how long: after 3 s."""
    if _doing.get() is not None or not getattr(sys.stderr, "isatty", bool)():
        yield
        return
    stack, ended, start = [what], threading.Event(), time.monotonic()

    def tell() -> None:
        wait = _AFTER
        while not ended.wait(wait):
            seconds, wait = time.monotonic() - start, _EVERY
            sys.stderr.write(f"\r\x1b[K{': '.join(stack)} ({seconds:.0f} s)")
            sys.stderr.flush()
        if wait == _EVERY:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    token, thread = _doing.set(stack), threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _doing.reset(token)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Do something that a longer check may be told to be doing."""
    stack = _doing.get()
    if stack is None:
        yield
        return
    stack.append(what)
    try:
        yield
    finally:
        stack.pop()
