"""Small networks with gradients you can trust, in pure-functional JAX."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxnet import checkpoints, datasets, metrics, network, optimizers, plots, sharding, shards, training
    from jaxnet.activations import relu, relu_grad, sigmoid, sigmoid_grad, softmax, tanh, tanh_grad
    from jaxnet.differentiation import (
        complex_step_gradient,
        gradient_descent,
        numerical_diff,
        numerical_gradient,
        richardson_gradient,
        tangent_line,
    )
    from jaxnet.gradcheck.check import check_gradients
    from jaxnet.gradcheck.locate import locate
    from jaxnet.losses import (
        cross_entropy_error,
        cross_entropy_error0,
        cross_entropy_label,
        mean_squared_error,
        softmax_cross_entropy,
    )
    from jaxnet.training.fit import fit
    from jaxnet.training.many import fit_many
    from jaxnet.training.state import train_step

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
    "sharding",
    "shards",
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

# Where each name is: imported when it is first used (PEP 562), as JAX alone takes half a second.
_FUNCTIONS = {
    "activations": ("relu", "relu_grad", "sigmoid", "sigmoid_grad", "softmax", "tanh", "tanh_grad"),
    "differentiation": (
        "complex_step_gradient",
        "gradient_descent",
        "numerical_diff",
        "numerical_gradient",
        "richardson_gradient",
        "tangent_line",
    ),
    "gradcheck": ("check_gradients", "locate"),
    "losses": (
        "cross_entropy_error",
        "cross_entropy_error0",
        "cross_entropy_label",
        "mean_squared_error",
        "softmax_cross_entropy",
    ),
    "training": ("fit", "fit_many", "train_step"),
}
_MODULE_OF = {name: module for module, names in _FUNCTIONS.items() for name in names}
_MODULES = {*_FUNCTIONS, *__all__} - _MODULE_OF.keys()

if not TYPE_CHECKING:  # which would let type checkers believe in any name

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_MODULE_OF})
