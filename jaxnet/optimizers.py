"""Optimizers and learning rate schedules by name, all of them optax's."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from jaxnet import _names
from jaxnet._names import SCHEDULES

OPTIMIZERS = tuple(
    name for name in _names.OPTIMIZERS if name in _names.OWN_OPTIMIZERS or hasattr(optax, name)
)
LEARNING_RATES = {name: _names.LEARNING_RATES[name] for name in OPTIMIZERS}
_WITHOUT_SCHEDULE = ("polyak_sgd", "rprop", "sm3")  # optax asks for a number there


def _function(name: str) -> Callable[..., optax.GradientTransformation]:
    """Return optax's function of that name; its first parameter is the learning rate."""
    if name in ("momentum", "nesterov"):
        return partial(optax.sgd, nesterov=name == "nesterov")
    function: Callable[..., optax.GradientTransformation] = getattr(optax, name)
    return function


def _default(name: str, parameter: str) -> Any:
    """Return what optax has for a parameter, None where it has no such."""
    found = inspect.signature(_function(name)).parameters.get(parameter)
    return None if found is None else found.default


WEIGHT_DECAYS: dict[str, float] = {name: _default(name, "weight_decay") or 0.0 for name in OPTIMIZERS}


def optimizer(
    name: str,
    learning_rate: ArrayLike | None = None,
    *,
    momentum: ArrayLike | None = None,
    weight_decay: ArrayLike | None = None,
    schedule: str = "constant",
    steps: int | None = None,
    warmup_steps: int | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Return the optax optimizer of that name; None stands for `LEARNING_RATES[name]`, `WEIGHT_DECAYS[name]`.

    name: one of `OPTIMIZERS`, optax's own names but for "momentum" and "nesterov", which are its `sgd` with a
    momentum of 0.9 by default. options: what else optax's function takes, such as `b1=0.95`.

    momentum: of those two, and of others of optax that have it. weight_decay: added, times the parameters, to
    the gradient, as L2 regularisation is; those that have one of their own, such as "adamw", apply it apart
    from the gradient, scaled by the learning rate alone.

    schedule: "constant"; "cosine", down to zero after `steps`; "warmup_cosine", up from zero over
    `warmup_steps` (a twentieth of `steps` by default), and then so. The learning rate, momentum and
    weight_decay may be traced: `partial(optimizer, "adam")` is what `fit_many` takes with hyperparameters.

    Raises:
        ValueError: an unknown name or schedule, a rate that is not positive, a momentum outside 0..1, a
            negative weight_decay, a schedule without `steps` or of an optimizer that takes none, or a warm-up
            not shorter than `steps`.
        TypeError: an option that optax's function does not take.

    >>> import jax.numpy as jnp
    >>> adam = optimizer("adam", 0.01, schedule="cosine", steps=100)
    >>> updates, _ = adam.update(jnp.array(5.0), adam.init(jnp.array(1.0)))
    >>> round(float(updates), 4)
    -0.01
    """
    for what, value, known in (("optimizer", name, OPTIMIZERS), ("schedule", schedule, SCHEDULES)):
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    rate = LEARNING_RATES[name] if learning_rate is None else learning_rate
    decay = WEIGHT_DECAYS[name] if weight_decay is None else weight_decay
    _check("learning_rate", rate, "positive", lambda value: 0 < value < float("inf"))
    if momentum is not None:
        _check("momentum", momentum, "in 0..1, without 1", lambda value: 0 <= value < 1)
    _check("weight_decay", decay, "finite and not negative", lambda value: 0 <= value < float("inf"))
    if schedule != "constant" and name in _WITHOUT_SCHEDULE:
        raise ValueError(f"schedule must be constant for {name}, got {schedule!r}")
    function = _function(name)
    parameters = inspect.signature(function).parameters
    if unknown := sorted(set(options) - set(parameters)):
        raise TypeError(
            f"{name} takes {', '.join(list(parameters)[1:]) or 'no options'}, got {', '.join(unknown)}"
        )
    if name in ("momentum", "nesterov"):
        options["momentum"] = 0.9 if momentum is None else momentum
    elif name != "sgd" and momentum is not None and "momentum" in parameters:
        options["momentum"] = momentum
    if "key" in parameters:
        options.setdefault("key", jax.random.key(0))
    own_decay = "weight_decay" in parameters
    if own_decay:
        options["weight_decay"] = decay
    chosen = function(_schedule(schedule, rate, steps, warmup_steps), **options)
    if own_decay or (not isinstance(decay, jax.core.Tracer) and decay == 0):
        return chosen
    return optax.chain(optax.add_decayed_weights(decay), chosen)


def _schedule(
    name: str, rate: ArrayLike, steps: int | None, warmup_steps: int | None
) -> optax.Schedule | ArrayLike:
    if warmup_steps is not None and name != "warmup_cosine":
        raise ValueError(f"warmup_steps is of the schedule warmup_cosine, got it with {name}")
    if name == "constant":
        return rate
    if steps is None or steps < 1:
        raise ValueError(f"steps must be positive for the schedule {name}, got {steps}")
    if name == "cosine":
        shape = optax.cosine_decay_schedule(1.0, steps)
    else:
        warmup = max(1, steps // 20) if warmup_steps is None else warmup_steps
        if not 0 < warmup < steps:
            raise ValueError(f"warmup_steps must be positive and below steps, {steps}, got {warmup}")
        shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, steps)
    return lambda count: rate * shape(count)  # not optax's own peak, which it compares: it may be traced


def _check(name: str, value: Any, expected: str, good: Callable[[Any], bool]) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, str) or not good(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
