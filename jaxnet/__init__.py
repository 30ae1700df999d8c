"""Small networks with gradients you can trust, in pure-functional JAX."""

from jaxnet import checkpoints, datasets, network, optimizers, plots, training
from jaxnet.activations import relu, relu_grad, sigmoid, sigmoid_grad, softmax, tanh, tanh_grad
from jaxnet.differentiation import gradient_descent, numerical_diff, numerical_gradient, tangent_line
from jaxnet.losses import (
    cross_entropy_error,
    cross_entropy_error0,
    cross_entropy_label,
    mean_squared_error,
    softmax_cross_entropy,
)
from jaxnet.many import fit_many
from jaxnet.training import fit, train_step

__version__ = "0.1.0"

__all__ = [
    "checkpoints",
    "cross_entropy_error",
    "cross_entropy_error0",
    "cross_entropy_label",
    "datasets",
    "fit",
    "fit_many",
    "gradient_descent",
    "mean_squared_error",
    "network",
    "numerical_diff",
    "numerical_gradient",
    "optimizers",
    "plots",
    "relu",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "softmax",
    "softmax_cross_entropy",
    "tangent_line",
    "tanh",
    "tanh_grad",
    "train_step",
    "training",
]
