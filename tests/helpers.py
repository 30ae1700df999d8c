"""What several test files share."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

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
