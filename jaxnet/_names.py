"""Names and numbers that the command line tells without loading JAX."""

from typing import Literal, TypeAlias, get_args

STEPS, BATCH_SIZE, LEARNING_RATE = 10_000, 100, 0.1  # the source's (4.3)
ActivationName: TypeAlias = Literal["sigmoid", "relu", "tanh"]
Sampling: TypeAlias = Literal["replacement", "shuffle", "blocks"]
Task: TypeAlias = Literal["classification", "regression"]
ACTIVATIONS = get_args(ActivationName)
SCHEDULES = ("constant", "cosine", "warmup_cosine")
OWN_OPTIMIZERS = ("sgd", "momentum", "nesterov")  # of which optax has one function
_OPTAX = (
    "adam adamw adabelief adadelta adafactor adagrad adamax adamaxw adan amsgrad fromage lamb lars lbfgs "
    "lion nadam nadamw noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam "
    "rmsprop rprop sign_sgd sm3 yogi"
)
OPTIMIZERS = (*OWN_OPTIMIZERS, *_OPTAX.split())
LEARNING_RATES = dict.fromkeys(OPTIMIZERS, 0.001) | {
    "sgd": 0.1,
    **dict.fromkeys(("momentum", "nesterov", "noisy_sgd", "optimistic_gradient_descent", "adagrad"), 0.01),
    **{"adadelta": 1.0, "lbfgs": 1.0, "polyak_sgd": 1.0, "sm3": 0.1, "lion": 1e-4},
}
_OF_CLASSES = ("precision", "recall", "f1")
METRICS_OF_CLASSES = (
    *("accuracy", "top_k_accuracy", "confusion_matrix"),
    *_OF_CLASSES,
    *(f"{name}_{average}" for name in _OF_CLASSES for average in ("micro", "macro", "weighted")),
    "roc_auc",
)
METRICS_OF_NUMBERS = ("mean_squared_error", "mean_absolute_error", "r2")
