"""Numerical differentiation and gradient descent (section 4.2): in place as published, and pure."""

from collections.abc import Callable
from typing import Any

import numpy as np

H = 1e-4


def func(x: np.ndarray | float) -> np.ndarray | float:
    """The demonstration's parabola is returned: 0.01 x**2 + 0.1 x, elementwise (4.2)."""
    return 0.01 * x**2 + 0.1 * x


def func_2(x: np.ndarray) -> float:
    """The demonstration's bowl is returned: the sum of squares of an array of any shape (4.2)."""
    return float(np.sum(x**2))


def numerical_diff(f: Callable[..., Any], x: float) -> float:
    """The central difference of a scalar function at a scalar is returned (4.2).

    Formula: (f(x + h) - f(x - h)) / 2h, h = 1e-4.

    >>> round(numerical_diff(func, 10), 6)
    0.3
    """
    result: float = (f(x + H) - f(x - H)) / (2 * H)
    return result


def tangent_line(f: Callable[..., Any], x: float) -> Callable[..., Any]:
    """The tangent to `f` at `x` is returned as a function of one scalar or array (4.2).

    Formula: t -> d t + (f(x) - d x), d = numerical_diff(f, x).

    >>> round(tangent_line(func, 10)(0.0), 6)
    -1.0
    """
    slope = numerical_diff(f, x)
    intercept = f(x) - slope * x
    return lambda t: slope * t + intercept


def numerical_gradient(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """The central difference of every element of `x` is returned, `x` being perturbed in place (4.2).

    `x` has any shape, the result has its shape and dtype; each element is restored before the next one moves.
    An integer array truncates the perturbation, and the result, without a word.

    >>> numerical_gradient(func_2, np.array([3.0, 4.0])).round(6)
    array([6., 8.])
    """
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + H
        above = f(x)
        x[index] = kept - H
        below = f(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * H)
    return gradient


def numerical_gradient_pure(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """The same central differences are taken on a float64 copy of `x` (correction of 4.2).

    `f` must use its argument: one that reads the caller's array instead sees no change and gets zeros.

    >>> numerical_gradient_pure(func_2, np.array([3, 4])).round(6)
    array([6., 8.])
    """
    return numerical_gradient(f, np.array(x, dtype=np.float64))


def gradient_descent(
    f: Callable[[np.ndarray], float], init_x: np.ndarray, lr: float = 0.01, step_num: int = 1000
) -> np.ndarray:
    """The caller's own array is moved down the numerical gradient and returned (4.2).

    Repeats `step_num` times: x -= lr * numerical_gradient(f, x).

    >>> start = np.array([-3.0, 4.0])
    >>> gradient_descent(func_2, start, lr=0.1) is start
    True
    """
    x = init_x
    for _ in range(step_num):
        x -= lr * numerical_gradient(f, x)
    return x


def gradient_descent_pure(
    f: Callable[[np.ndarray], float], init_x: np.ndarray, lr: float = 0.01, step_num: int = 1000
) -> np.ndarray:
    """The same descent is run on a float64 copy, leaving the starting point alone (correction of 4.2).

    >>> start = np.array([-3.0, 4.0])
    >>> _ = gradient_descent_pure(func_2, start, lr=0.1)
    >>> start
    array([-3.,  4.])
    """
    return gradient_descent(f, np.array(init_x, dtype=np.float64), lr, step_num)
