"""Small networks with gradients you can trust, in pure-functional JAX."""

from jaxnet import checkpoints, datasets, metrics, network, optimizers, plots, training
from jaxnet.activations import relu, relu_grad, sigmoid, sigmoid_grad, softmax, tanh, tanh_grad
from jaxnet.differentiation import (
    complex_step_gradient,
    gradient_descent,
    numerical_diff,
    numerical_gradient,
    richardson_gradient,
    tangent_line,
)
from jaxnet.gradcheck import check_gradients, locate
from jaxnet.losses import (
    cross_entropy_error,
    cross_entropy_error0,
    cross_entropy_label,
    mean_squared_error,
    softmax_cross_entropy,
)
from jaxnet.training import fit, fit_many, train_step

__version__ = "0.1.0"

__all__ = [
    "check_gradients",
    "checkpoints",
    "complex_step_gradient",
    "cross_entropy_error",
    "cross_entropy_error0",
    "cross_entropy_label",
    "datasets",
    "fit",
    "fit_many",
    "gradient_descent",
    "locate",
    "mean_squared_error",
    "metrics",
    "network",
    "numerical_diff",
    "numerical_gradient",
    "optimizers",
    "plots",
    "relu",
    "relu_grad",
    "richardson_gradient",
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
