"""What several test files share."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import cli

_COMPILED = "/jax/core/compile/backend_compile_duration"
_events: list[str] = []
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: _events.append(event))


@contextmanager
def compilations() -> Iterator[list[int]]:
    """Put into the list given how many programs were compiled inside."""
    found: list[int] = []
    before = _events.count(_COMPILED)
    yield found
    found.append(_events.count(_COMPILED) - before)


def raw(leaf):
    """Return a leaf as NumPy's array, a key as its data."""
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same_bits(one, other):
    for a, b in zip(map(raw, jax.tree.leaves(one)), map(raw, jax.tree.leaves(other)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def press_ctrl_c_in_call(number, make):
    """Return what `make` does, but that the function it makes raises SIGINT at the start of that call."""
    calls = 0

    def made(*args, **options):
        f = make(*args, **options)

        def pressing(*args):
            nonlocal calls
            calls += 1
            if calls == number:
                signal.raise_signal(signal.SIGINT)
            return f(*args)

        return pressing

    return made


def message_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, which is one line and drags no other error along."""
    text = str(error.value)
    assert "\n" not in text
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return text


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def output(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def error_of(capsys, *arguments):
    try:
        assert cli.main([str(argument) for argument in arguments]) == 2
    except SystemExit as error:
        assert error.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
