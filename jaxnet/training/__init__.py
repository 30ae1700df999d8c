"""Mini-batch training of any pure loss, one network or many, whole stretches of steps as one program."""

from jaxnet.training.fit import FitResult, NonFiniteError, fit
from jaxnet.training.many import FitManyResult, fit_many, init_states
from jaxnet.training.run import Best, History, Stretch
from jaxnet.training.state import (
    BATCH_SIZE,
    LEARNING_RATE,
    STEPS,
    TrainState,
    averaged,
    draw_batches,
    init_state,
    step_key,
    train_step,
)
from jaxnet.training.task import EarlyStopping, balanced_class_weight

__all__ = [
    "BATCH_SIZE",
    "LEARNING_RATE",
    "STEPS",
    "Best",
    "EarlyStopping",
    "FitManyResult",
    "FitResult",
    "History",
    "NonFiniteError",
    "Stretch",
    "TrainState",
    "averaged",
    "balanced_class_weight",
    "draw_batches",
    "fit",
    "fit_many",
    "init_state",
    "init_states",
    "step_key",
    "train_step",
]
