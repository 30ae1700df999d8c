"""Mini-batch training of any pure loss, one network or many, whole stretches of steps as one program."""

from jaxnet.training.examples import balanced_class_weight
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
from jaxnet.training.task import EarlyStopping
from jaxnet.training.validate import CrossValidation, Halving, Rung, cross_validate, successive_halving

__all__ = [
    "BATCH_SIZE",
    "LEARNING_RATE",
    "STEPS",
    "Best",
    "CrossValidation",
    "EarlyStopping",
    "FitManyResult",
    "FitResult",
    "Halving",
    "History",
    "NonFiniteError",
    "Rung",
    "Stretch",
    "TrainState",
    "averaged",
    "balanced_class_weight",
    "cross_validate",
    "draw_batches",
    "fit",
    "fit_many",
    "init_state",
    "init_states",
    "step_key",
    "successive_halving",
    "train_step",
]
