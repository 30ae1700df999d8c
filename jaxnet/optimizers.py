"""Optimizers and learning rate schedules by name, all of them optax's."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "warmup_cosine")
LEARNING_RATES = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adam": 0.001, "adamw": 0.001}
WEIGHT_DECAYS = dict.fromkeys(OPTIMIZERS, 0.0) | {"adamw": 1e-4}  # optax's own defaults


def optimizer(
    name: str,
    learning_rate: ArrayLike | None = None,
    *,
    momentum: ArrayLike = 0.9,
    weight_decay: ArrayLike | None = None,
    schedule: str = "constant",
    steps: int | None = None,
    warmup_steps: int | None = None,
) -> optax.GradientTransformation:
    """Return the optax optimizer of that name; None stands for `LEARNING_RATES[name]`, `WEIGHT_DECAYS[name]`.

    momentum: of "momentum" and "nesterov". weight_decay: added, times the parameters, to the gradient, as L2
    regularisation is; "adamw" applies it apart from the gradient, scaled by the learning rate alone.

    schedule: "constant"; "cosine", down to zero after `steps`; "warmup_cosine", up from zero over
    `warmup_steps` (a twentieth of `steps` by default), and then so. The learning rate, momentum and
    weight_decay may be traced: `partial(optimizer, "adam")` is what `fit_many` takes with hyperparameters.

    Raises:
        ValueError: an unknown name or schedule, a rate that is not positive, a momentum outside 0..1, a
            negative weight_decay, a schedule without `steps`, or a warm-up not shorter than `steps`.

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
    _check("momentum", momentum, "in 0..1, without 1", lambda value: 0 <= value < 1)
    _check("weight_decay", decay, "finite and not negative", lambda value: 0 <= value < float("inf"))
    scheduled = _schedule(schedule, rate, steps, warmup_steps)
    if name == "adamw":
        return optax.adamw(scheduled, weight_decay=decay)
    if name == "adam":
        chosen = optax.adam(scheduled)
    elif name == "sgd":
        chosen = optax.sgd(scheduled)
    else:
        chosen = optax.sgd(scheduled, momentum=momentum, nesterov=name == "nesterov")
    if not isinstance(decay, jax.core.Tracer) and decay == 0:
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
    if not isinstance(value, jax.core.Tracer) and not good(value):
        raise ValueError(f"{name} must be {expected}, got {value}")
