"""The points at which the audit looks: ordinary ones, and what is special of each kind of argument."""

from typing import Any

import numpy as np

Points = dict[str, tuple[Any, ...]]
"""Arguments by what to call the point; those that are not floating-point are not differentiated."""

# The points.


def at(*tuples: Any) -> Points:
    """Points named by their values; a bare number is a tuple of one."""
    points = [values if isinstance(values, tuple) else (values,) for values in tuples]
    return {", ".join(f"{value:g}" for value in values): values for values in points}


def paired(first: Points, second: Points) -> Points:
    """Points with the arguments of both, one to one by name."""
    return {name: first[name] + second[name] for name in first if name in second}


def crossed(points: Points, *tuples: tuple[Any, ...]) -> Points:
    """Each point with further arguments."""
    return {
        f"{name}; {', '.join(map(str, more))}": args + more
        for name, args in points.items()
        for more in tuples
    }


INF = float("inf")
ORDINARY = (0.3, -0.7, 1.7, -2.3, 3.6)
LINE = at(
    *ORDINARY, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 0.5, -0.5, 1.5, 1e-8, -1e-8, 1e-30, -1e-30, 1 - 1e-7, 30.0,
    -30.0, 700.0, -700.0, 1e30, -1e30,
)  # fmt: skip
UNIT = at(0.0, 0.3, 0.5, 0.7, 1.0, 1e-8, 1e-30, 1 - 1e-7)
PAIRS = at(
    (0.3, 0.7), (-0.3, 0.7), (2.6, 1.4), (0.3, -1.2), (-2.3, -1.6), (0.0, 0.0), (1.0, 1.0), (-1.0, -1.0),
    (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.0, 2.0), (0.0, 0.5), (0.0, -1.0), (-1.0, 0.0), (2.0, 0.0),
        (2.0, 3.0),
    (-2.0, 3.0), (-2.0, 2.0), (3.0, 2.0), (4.0, 2.0), (1.0, -1.0), (-1.0, 1.0), (0.0, 1.5), (-0.5, 0.5),
    (1e-30, 1.0), (1.0, 1e-30), (1e-30, 1e-30), (1e30, 1.0), (1.0, 1e30), (1e30, 1e30), (700.0, 1.0),
        (-700.0, 1.0),
    (1.0, 700.0), (1.0, -700.0), (700.0, 700.0), (-700.0, -700.0), (-INF, 0.5), (0.5, -INF), (INF, 0.5),
        (0.5, INF),
)  # fmt: skip
TRIPLES = at(
    (0.3, 0.7, 0.4), (1.3, 2.6, 0.4), (1.0, 1.0, 0.5), (2.0, 3.0, 0.0), (2.0, 3.0, 1.0), (0.5, 0.5, 0.5),
    (0.5, 0.5, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0.0, 1.0, 2.0), (-1.0, 2.0, 0.5),
    (30.0, 40.0, 0.5), (700.0, 1.0, 0.5), (1e-30, 1.0, 0.5),
)  # fmt: skip
V = np.array([0.3, -1.2, 2.1, 0.7])
VECTORS: Points = {
    "ordinary": (V,),
    "ties": (np.array([1.0, 2.0, 1.0, 2.0]),),
    "zeros": (np.zeros(4),),
    "one zero": (np.array([0.0, 2.0, -1.0, 3.0]),),
    "two zeros": (np.array([0.0, 2.0, 0.0, 3.0]),),
    "equal": (np.ones(4),),
    "tiny": (1e-30 * V,),
    "huge": (1e30 * V,),
    "large": (np.array([700.0, -700.0, 0.5, 1.0]),),
}
W = np.array([1.1, 0.4, -0.6, 1.9])
OTHERS: Points = {
    "ordinary": (W,),
    "ties": (np.array([1.0, 2.0, 1.0, 2.0]),),
    "zeros": (np.zeros(4),),
    "one zero": (np.array([1.0, 0.0, 2.0, -1.0]),),
    "equal": (np.ones(4),),
    "tiny": (1e-30 * W,),
    "large": (np.array([1.0, 700.0, -700.0, 0.5]),),
}
VECTOR_PAIRS = paired(VECTORS, OTHERS)
VECTOR_TRIPLES = paired(VECTOR_PAIRS, {name: (args[0][::-1].copy(),) for name, args in OTHERS.items()})
M = np.array([[1.3, -0.4, 0.7], [0.2, 2.1, -0.9], [-0.6, 0.5, 1.7]])
MATRICES: Points = {
    "ordinary": (M,),
    "identity": (np.eye(3),),
    "zeros": (np.zeros((3, 3)),),
    "rank 2": (np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]),),
    "rank 1": (np.outer([1.0, 2.0, -1.0], [1.0, 0.5, 3.0]),),
    "permutation": (np.eye(3)[[1, 2, 0]],),
    "diagonal 2, 2, 1": (np.diag([2.0, 2.0, 1.0]),),
    "triangular": (np.triu(M),),
    "1e-30": (1e-30 * M,),
    "1e30": (1e30 * M,),
}
N = np.array([[0.8, 0.3, -1.1], [1.4, -0.2, 0.6], [-0.5, 0.9, 1.2]])
MATRIX_PAIRS = {name: (*args, N) for name, args in MATRICES.items()}
MATRIX_TRIPLES = {name: (*args, N.T + 1) for name, args in MATRIX_PAIRS.items()}
SYMMETRIC: Points = {
    "ordinary": (M @ M.T,),
    "identity": (np.eye(3),),
    "zeros": (np.zeros((3, 3)),),
    "diagonal 2, 2, 1": (np.diag([2.0, 2.0, 1.0]),),
    "eigenvalues 4, 1, 1": (np.ones((3, 3)) + np.eye(3),),
    "rank 1": (np.ones((3, 3)),),
    "indefinite": (M + M.T - 3 * np.eye(3),),
    "1e-30": (1e-30 * M @ M.T,),
    "1e30": (1e30 * M @ M.T,),
}
POSITIVE = {name: args for name, args in SYMMETRIC.items() if name not in ("zeros", "rank 1", "indefinite")}
ONE_MATRIX = {"ordinary": (M,)}
ONE_VECTOR = {"ordinary": (V,)}
IMAGE = {
    "ordinary": (np.cos(np.arange(32.0)).reshape(1, 2, 4, 4), np.sin(np.arange(24.0)).reshape(3, 2, 2, 2))
}

# Arguments of the distributions in jax.scipy.stats by name; the second choice is special.
PARAMETERS = {
    "a": (2.5, 1.0), "b": (3.2, 1.0), "df": (4.3, 2.0), "beta": (1.7, 1.0), "kappa": (1.3, 0.0),
        "c": (0.4, 0.5),
    "p": (0.3, 1.0), "mu": (2.4, 1.0), "n": (5, 1), "loc": (0.2, 0.0), "scale": (1.4, 1.0),
}  # fmt: skip
SUPPORT = (0.9, -1.3, 3.4, 0.0, 1.0, 0.5, -1.0, 2.0, 1e-30, 30.0, -30.0, 700.0)
