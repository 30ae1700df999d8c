"""A NumPy reference of the study note that jaxnet implements, under the note's own names.

What the note publishes is kept as published, errors included, each beside its correction: see ERRATA.md.
"""

from .differentiation import (
    func,
    func_2,
    gradient_descent,
    gradient_descent_pure,
    numerical_diff,
    numerical_gradient,
    numerical_gradient_pure,
    tangent_line,
)
from .losses import (
    cross_entropy_error,
    cross_entropy_error0,
    cross_entropy_from_logits,
    cross_entropy_label,
    mean_squared_error,
)
from .mnist import load_mnist, one_hot
from .network import (
    SimpleNet,
    TwoLayerNet,
    sigmoid,
    sigmoid_grad,
    sigmoid_stable,
    simple_net_loss,
    softmax,
    softmax_by_row,
)
from .plots import plot_accuracy, plot_tangent
from .training import iterations_per_epoch, mini_batch, sgd_steps, train, train_and_evaluate

__all__ = [
    "SimpleNet",
    "TwoLayerNet",
    "cross_entropy_error",
    "cross_entropy_error0",
    "cross_entropy_from_logits",
    "cross_entropy_label",
    "func",
    "func_2",
    "gradient_descent",
    "gradient_descent_pure",
    "iterations_per_epoch",
    "load_mnist",
    "mean_squared_error",
    "mini_batch",
    "numerical_diff",
    "numerical_gradient",
    "numerical_gradient_pure",
    "one_hot",
    "plot_accuracy",
    "plot_tangent",
    "sgd_steps",
    "sigmoid",
    "sigmoid_grad",
    "sigmoid_stable",
    "simple_net_loss",
    "softmax",
    "softmax_by_row",
    "tangent_line",
    "train",
    "train_and_evaluate",
]
