"""Audit the ecosystem's derivatives with the gradient checker: `python -m benchmarks.audit`.

Every differentiable function that jax.numpy, jax.scipy, jax.nn, jax.lax, optax.losses and optax.projections
make public, at ordinary and at special points, by reverse and forward autodiff. The functions are found from
the modules' names, so that those of a new release are audited too; RULES says how to call the ones that need
more than arrays, LEFT_OUT why the others are not looked at.

What the checker accuses is settled by ORACLES, the same functions in mpmath's arithmetic: their slopes on
both sides of the point, from steps far below what float64 resolves. A gradient is right if it lies between
the two; infinity is right where one of them is infinite. Listed as wrong is only what an oracle confirms. An
accusation that it refutes, and a wrong derivative that passes, are faults of the checker.
"""

import argparse
import contextlib
import fnmatch
import functools
import importlib
import inspect
import itertools
import multiprocessing
import pkgutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy
import jax.scipy.spatial.transform
import mpmath as mp  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import optax
from jax import lax

from jaxnet import check_gradients

Points = dict[str, tuple[Any, ...]]
"""Arguments by what to call the point; those that are not floating-point are not differentiated."""

MODULES = [
    *("jax.numpy", "jax.numpy.linalg", "jax.numpy.fft"),
    *(module.name for module in pkgutil.walk_packages(jax.scipy.__path__, "jax.scipy.")),
    *("jax.nn", "jax.lax", "jax.lax.linalg", "optax.losses", "optax.projections"),
]


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


# The functions that need more than arrays.


class Rule(NamedTuple):
    names: str
    """Patterns of public names."""
    points: Points
    call: Callable[..., Any] = lambda f, *args: f(*args)
    note: str = ""
    """What is special about the call; a function may have several."""


def symmetric(x: Any) -> Any:
    return (x + jnp.swapaxes(x, -1, -2)) / 2


def lower(x: Any) -> Any:
    return jnp.tril(x)


MASK = np.array([True, False, True, True])
BOX = lax.conv_dimension_numbers((1, 2, 4, 4), (3, 2, 2, 2), ("NCHW", "OIHW", "NCHW"))
ROWS = lax.ScatterDimensionNumbers((), (0,), (0,))
PICK = lax.GatherDimensionNumbers((), (0,), (0,))
INDICES = np.array([[1], [3], [1]])
NO_TIES = {name: VECTORS[name] for name in ("ordinary", "one zero", "tiny", "huge", "large")}
PROBABILITIES = {
    "ordinary": (V, np.array([0.1, 0.4, 0.3, 0.2])),
    "one-hot": (V, np.array([0.0, 0.0, 1.0, 0.0])),
    "ties": (np.array([1.0, 2.0, 1.0, 2.0]), np.array([0.25, 0.25, 0.25, 0.25])),
    "large": (np.array([700.0, -700.0, 0.5, 1.0]), np.array([0.0, 0.5, 0.5, 0.0])),
}
SIGNS = at(*((x, t) for x in (0.3, -0.7, 2.2, 0.0, 1.0, -1.0, 0.5, 30.0, 700.0, -700.0) for t in (1.0, -1.0)))
BITS = at(*((x, t) for x in (0.3, -0.7, 2.2, 0.0, 1.0, 30.0, 700.0, -700.0) for t in (0.0, 1.0)))
RULES = [
    # jax.numpy
    Rule("jax.numpy.apply_along_axis", ONE_MATRIX, lambda f, x: f(lambda row: (row**2).sum(), 0, x)),
    Rule("jax.numpy.apply_over_axes", ONE_MATRIX, lambda f, x: f(jnp.sum, x**2, [0])),
    Rule("jax.numpy.array_split jax.numpy.split", ONE_VECTOR, lambda f, x: f(x, 2)),
    Rule("jax.numpy.hsplit jax.numpy.vsplit", ONE_MATRIX, lambda f, x: f(x, 3)),
    Rule("jax.numpy.dsplit", ONE_MATRIX, lambda f, x: f(x[None], 3)),
    Rule("jax.numpy.astype", LINE, lambda f, x: f(x, x.dtype)),
    Rule("jax.numpy.block", ONE_MATRIX, lambda f, x: f([[x, x], [x, 2 * x]])),
    Rule("jax.numpy.broadcast_to", ONE_VECTOR, lambda f, x: f(x, (3, 4))),
    Rule("jax.numpy.choose", VECTOR_PAIRS, lambda f, x, y: f(np.array([0, 1, 1, 0]), [x, y])),
    Rule("jax.numpy.clip", TRIPLES | at((0.5, 0.5, 1.0), (1.0, 0.5, 1.0), (0.5, 1.0, 0.0))),
    Rule("jax.numpy.compress jax.numpy.extract", ONE_VECTOR, lambda f, x: f(MASK, x)),
    Rule("jax.numpy.concat* jax.numpy.*[hvdmn_]stack jax.numpy.stack", VECTOR_PAIRS,
        lambda f, x, y: f([x, y])),
    Rule("jax.numpy.cross jax.numpy.linalg.cross", VECTOR_PAIRS, lambda f, x, y: f(x[:3], y[:3])),
    Rule("jax.numpy.cov jax.numpy.corrcoef", VECTORS | MATRICES),
    Rule("jax.numpy.delete", ONE_VECTOR, lambda f, x: f(x, 1)),
    Rule("jax.numpy.divmod jax.numpy.power jax.numpy.pow jax.lax.pow jax.numpy.float_power", PAIRS),
    Rule("jax.numpy.power jax.lax.integer_pow", LINE, lambda f, x: f(x, 3), "y=3"),
    Rule("jax.numpy.power jax.lax.integer_pow", LINE, lambda f, x: f(x, -2), "y=-2"),
    Rule("jax.numpy.power jax.lax.integer_pow", LINE, lambda f, x: f(x, 0), "y=0"),
    Rule("jax.numpy.power", LINE, lambda f, x: f(x, 0.5), "y=0.5"),
    Rule("jax.numpy.einsum", MATRIX_PAIRS, lambda f, x, y: f("ij,kj->ik", x, y)),
    Rule("jax.numpy.expand_dims", ONE_VECTOR, lambda f, x: f(x, 0)),
    Rule("jax.numpy.fill_diagonal", ONE_MATRIX, lambda f, x: f(x, x[0], inplace=False)),
    Rule("jax.numpy.from_dlpack jax.numpy.frombuffer", {}),
    Rule("jax.numpy.frompyfunc", PAIRS,
        lambda f, x, y: f(lambda a, b: a * b, nin=2, nout=1, identity=1)(x, y)),
    Rule("jax.numpy.frexp jax.numpy.modf jax.scipy.special.fresnel jax.scipy.special.sici", LINE),
    Rule("jax.numpy.full", LINE, lambda f, x: f((3,), x)),
    Rule("jax.lax.full", LINE, lambda f, x: f((3,), x)),
    Rule("jax.lax.full_like", LINE, lambda f, x: f(V, x)),
    Rule("jax.numpy.geomspace jax.numpy.linspace jax.numpy.logspace", PAIRS, lambda f, x, y: f(x, y, 5)),
    Rule("jax.numpy.gradient", VECTORS, lambda f, x: f(x, 0.5)),
    Rule("jax.numpy.gradient", VECTORS, lambda f, x: f(V**2, x), "coordinates"),
    Rule("jax.numpy.histogram", VECTORS, lambda f, x: f(V, np.linspace(-2, 3, 4), weights=x), "weights"),
    Rule("jax.numpy.histogram2d", VECTORS, lambda f, x: f(V, W, 3, weights=x)[0], "weights"),
    Rule("jax.numpy.histogramdd", VECTORS, lambda f, x: f(np.c_[V, W], 3, weights=x)[0], "weights"),
    Rule("jax.numpy.bincount", VECTORS,
        lambda f, x: f(np.array([0, 1, 1, 2]), weights=x, length=3), "weights"),
    Rule("jax.numpy.insert", ONE_VECTOR, lambda f, x: f(x, 1, x[0] * x[1])),
    Rule(
        "jax.numpy.interp",
        {
            f"x={x}": (x, np.array([-1.0, 0.5, 2.0]), np.array([0.3, 1.4, -0.2]))
            for x in (0.1, 1.3, 0.5, -1.0, 2.0, -3.0, 4.0)
        }
        | {"equal knots": (0.7, np.array([0.0, 0.5, 0.5, 1.0]), np.array([0.0, 1.0, 2.0, 3.0]))},
    ),
    Rule("jax.numpy.kaiser", LINE, lambda f, x: f(5, x)),
    Rule("jax.numpy.ldexp", LINE, lambda f, x: f(x, 3)),
    Rule("jax.numpy.moveaxis jax.numpy.swapaxes", ONE_MATRIX, lambda f, x: f(x, 0, 1)),
    Rule("jax.numpy.rollaxis", ONE_MATRIX, lambda f, x: f(x, 1)),
    Rule("jax.numpy.permute_dims", ONE_MATRIX, lambda f, x: f(x, (1, 0))),
    Rule("jax.numpy.nancum* jax.numpy.nanm* jax.numpy.nanprod jax.numpy.nans* jax.numpy.nanvar",
        VECTORS, lambda f, x: f(jnp.where(MASK, x, jnp.nan)), "one-NaN"),
    *(
        Rule("jax.numpy.pad", VECTORS, lambda f, x, mode=mode: f(x, 2, mode=mode), mode)
        for mode in (
            *("constant", "edge", "linear_ramp", "maximum", "mean", "median", "minimum"),
            *("reflect", "symmetric", "wrap"),
        )
    ),
    Rule("jax.numpy.partition", VECTORS, lambda f, x: f(x, 1)[1]),
    *(
        Rule("jax.numpy.*percentile", crossed(VECTORS, *qs), lambda f, x, q, m=m: f(x, q, method=m), m)
        for m, qs in (
            ("linear", [(40.0,), (50.0,), (0.0,), (100.0,)]),
            *((m, [(40.0,)]) for m in ("midpoint", "nearest", "lower", "higher")),
        )
    ),
    Rule("jax.numpy.*quantile", crossed(VECTORS, (0.4,), (0.5,), (0.0,), (1.0,))),
    Rule("jax.numpy.*quantile jax.numpy.*median", {"five": (np.array([0.3, -1.2, 2.1, 0.7, 1.1]), 0.5)},
        lambda f, x, q: f(x, q) if "quantile" in f.__name__ else f(x), "five"),
    Rule("jax.numpy.piecewise", LINE, lambda f, x: f(x, [x < 0, x >= 1], [jnp.exp, jnp.sin, lambda x: x])),
    Rule("jax.numpy.place", VECTORS, lambda f, x: f(x, MASK, x[:2] ** 2, inplace=False)),
    Rule("jax.numpy.put", VECTORS, lambda f, x: f(x, np.array([0, 2]), x[:2] ** 2, inplace=False)),
    Rule(
        "jax.numpy.put_along_axis",
        ONE_VECTOR,
        lambda f, x: f(x, np.array([0, 2]), x[:2] ** 2, axis=0, inplace=False),
    ),
    Rule("jax.numpy.polyfit", VECTOR_PAIRS, lambda f, x, y: f(x, y, 2)),
    Rule("jax.numpy.polydiv", paired(NO_TIES, OTHERS), lambda f, u, v: f(u, v[:2])),
    Rule("jax.numpy.roots", {"1, -6, 11, -6": (np.array([1.0, -6.0, 11.0, -6.0]),)},
        lambda f, x: f(x, strip_zeros=False)),
    Rule("jax.numpy.poly", VECTORS | SYMMETRIC),
    Rule("jax.numpy.repeat jax.numpy.tile", ONE_VECTOR, lambda f, x: f(x, 2)),
    Rule("jax.numpy.reshape jax.numpy.resize", ONE_VECTOR, lambda f, x: f(x, (2, 2))),
    Rule("jax.numpy.roll", ONE_VECTOR, lambda f, x: f(x, 1)),
    Rule("jax.numpy.round jax.numpy.around", LINE, lambda f, x: f(x, 1), "decimals=1"),
    Rule("jax.numpy.select", VECTOR_PAIRS, lambda f, x, y: f([x > 0, y > 0], [x, x * y], -y)),
    Rule("jax.numpy.sort_complex", paired(NO_TIES, OTHERS), lambda f, x, y: f(x + 1j * y)),
    Rule("jax.numpy.take jax.numpy.take_along_axis", ONE_VECTOR, lambda f, x: f(x, np.array([2, 0, 2]))),
    Rule("jax.numpy.trapezoid jax.scipy.integrate.trapezoid", VECTOR_PAIRS),
    Rule("jax.numpy.unique*", VECTORS, lambda f, x: f(x, size=4)),
    Rule("jax.numpy.union1d", VECTOR_PAIRS, lambda f, x, y: f(x, y, size=8)),
    Rule("jax.numpy.intersect1d jax.numpy.setdiff1d jax.numpy.setxor1d", VECTOR_PAIRS,
        lambda f, x, y: f(x, y, size=4)),
    Rule("jax.numpy.trim_zeros", {}),
    Rule("jax.numpy.vectorize", LINE, lambda f, x: f(jnp.sin)(x)),
    Rule("jax.numpy.where", VECTOR_PAIRS, lambda f, x, y: f(x > y, x, x * y)),
    Rule("jax.numpy.angle jax.numpy.abs jax.numpy.conj* jax.numpy.imag jax.numpy.real jax.numpy.sign"
         " jax.numpy.exp jax.numpy.log jax.numpy.sqrt jax.numpy.tanh jax.numpy.reciprocal jax.numpy.square",
         at((0.3, 0.7), (-1.2, 0.4), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, 0.0)),
         lambda f, x, y: f(lax.complex(x, y)), "complex"),
    *(
        Rule(f"jax.numpy.{name}", VECTORS, lambda f, x, k=kind: getattr(f, k)(x), kind)
        for name in ("add", "multiply", "maximum", "minimum", "logaddexp")
        for kind in ("reduce", "accumulate")
    ),
    Rule("jax.numpy.multiply jax.numpy.maximum", VECTOR_PAIRS, lambda f, x, y: f.outer(x, y), "outer"),
    Rule("jax.numpy.add", VECTORS, lambda f, x: f.at(x, np.array([1, 1]), x[:2], inplace=False), "at"),
    Rule("jax.numpy.var jax.numpy.std", VECTORS, lambda f, x: f(x, ddof=1), "ddof=1"),
    Rule("jax.numpy.average", VECTOR_PAIRS, lambda f, x, w: f(x, weights=w), "weights"),
    # jax.numpy.linalg, jax.scipy.linalg, jax.lax.linalg
    *(
        Rule("jax.numpy.linalg.norm jax.numpy.linalg.vector_norm", VECTORS,
            lambda f, x, o=o: f(x, ord=o), f"ord={o}")
        for o in (0, 1, 2, 3, 0.5, -1, np.inf, -np.inf)
    ),
    *(
        Rule("jax.numpy.linalg.norm jax.numpy.linalg.matrix_norm", MATRICES,
            lambda f, x, o=o: f(x, ord=o), f"matrix,ord={o}")
        for o in ("fro", "nuc", 1, 2, np.inf, -1, -2, -np.inf)
    ),
    *(
        Rule("jax.numpy.linalg.cond", MATRICES, lambda f, x, o=o: f(x, p=o), f"p={o}")
        for o in (2, 1, "fro", np.inf, -2)
    ),
    Rule("*linalg.eigvalsh", SYMMETRIC, lambda f, x: f(symmetric(x))),
    Rule("*linalg.eigh", {"ordinary": SYMMETRIC["ordinary"]}, lambda f, x: f(symmetric(x))),
    Rule(
        "*linalg.eigh",
        SYMMETRIC,
        lambda f, x: (lambda pair: sum(v.sum() ** 2 for v in pair if v.ndim == 1))(f(symmetric(x))),
        "squared-trace",
    ),
    Rule("*linalg.eig *linalg.eigvals", ONE_MATRIX),
    Rule("*linalg.svd jax.numpy.linalg.svdvals", MATRICES,
        lambda f, x: f(x, compute_uv=False) if f is not jnp.linalg.svdvals else f(x), "values"),
    Rule("*linalg.svd", ONE_MATRIX, lambda f, x: f(x, full_matrices=False)),
    Rule("*linalg.cholesky jax.scipy.linalg.cho_factor", POSITIVE, lambda f, x: f(symmetric(x))),
    Rule("jax.scipy.linalg.cho_solve", paired(POSITIVE, {k: (V[:3],) for k in POSITIVE}),
        lambda f, a, b: f((jnp.linalg.cholesky(symmetric(a)), True), b)),
    Rule("*linalg.qr *linalg.hessenberg *linalg.schur jax.scipy.linalg.polar jax.lax.linalg.qdwh",
        ONE_MATRIX),
    Rule("jax.lax.linalg.tridiagonal", ONE_MATRIX, lambda f, x: f(symmetric(x))),
    Rule("jax.numpy.linalg.lstsq",
        {"ordinary": (M, V[:3]), "rank 2": (*MATRICES["rank 2"], V[:3]),
            "tall": (np.c_[M, N].T, np.r_[V, W[:2]]), "wide": (M[:2], V[:2])}, lambda f, a, b: f(a, b)[0]),
    *(Rule("jax.numpy.linalg.matrix_power", MATRICES,
        lambda f, x, n=n: f(x, n), f"n={n}") for n in (0, 1, 3, -2)),
    Rule("jax.numpy.linalg.multi_dot", MATRIX_PAIRS, lambda f, x, y: f([x, y, x])),
    Rule("jax.numpy.linalg.tensorinv", ONE_MATRIX, lambda f, x: f(x, ind=1)),
    Rule("jax.numpy.linalg.tensorsolve", ONE_MATRIX, lambda f, x: f(x, V[:3])),
    Rule("jax.scipy.linalg.lu_solve", ONE_MATRIX, lambda f, x: f(jax.scipy.linalg.lu_factor(x), V[:3])),
    Rule("jax.scipy.linalg.convolution_matrix", ONE_VECTOR, lambda f, x: f(x, 3)),
    Rule("jax.scipy.linalg.eigh_tridiagonal", {"ordinary": (V, W[:3])},
        lambda f, d, e: f(d, e, eigvals_only=True)),
    Rule("jax.scipy.linalg.funm", ONE_MATRIX, lambda f, x: f(x, jnp.exp, disp=False)[0]),
    Rule("jax.scipy.linalg.leslie", ONE_VECTOR, lambda f, x: f(x, x[:3])),
    Rule("jax.scipy.linalg.sqrtm", {"ordinary": SYMMETRIC["ordinary"]}, lambda f, x: f(symmetric(x))),
    Rule("jax.scipy.linalg.rsf2csf", ONE_MATRIX, lambda f, x: f(*jax.scipy.linalg.schur(x))),
    Rule("*linalg.expm", MATRICES),
    Rule("*linalg.solve_triangular", MATRIX_PAIRS, lambda f, a, b: f(jnp.triu(a), b)),
    Rule("jax.lax.linalg.triangular_solve", MATRIX_PAIRS, lambda f, a, b: f(jnp.triu(a), b, left_side=True)),
    Rule("jax.lax.linalg.cholesky_update", {"ordinary": (M @ M.T, V[:3])},
        lambda f, r, w: f(jnp.linalg.cholesky(symmetric(r)).T, w)),
    Rule("jax.lax.linalg.householder_product", {"ordinary": (M, V[:3])}),
    Rule("jax.lax.linalg.ormqr", {"ordinary": (M, V[:3], N)}),
    Rule("jax.lax.linalg.symmetric_product", {"ordinary": (M, N)},
        lambda f, a, c: f(a, symmetric(c), symmetrize_output=True)),
    Rule("jax.lax.linalg.tridiagonal_solve", {"ordinary": (W, V + 4, W[::-1].copy(), V[:, None])}),
    # jax.scipy
    Rule("jax.scipy.cluster.vq.vq", {"ordinary": (M, N)}),
    Rule("jax.scipy.interpolate.RegularGridInterpolator",
        {k: (np.array([0.2, 1.4, -0.3, 2.0]), np.array([x])) for k,
            x in (("inside", 0.4), ("knot", 1.0), ("end", 0.0))}, lambda f, v, x: f((np.arange(4.0),), v)(x)),
    Rule("jax.scipy.ndimage.map_coordinates",
        {f"{x}": (M, np.array([x]), np.array([y])) for x,
            y in ((0.4, 1.3), (1.0, 1.0), (0.0, 2.0), (0.5, 0.5), (-0.6, 1.2))},
                lambda f, m, x, y: f(m, [x, y], 1, mode="nearest"), "order=1"),
    Rule("jax.scipy.ndimage.map_coordinates", {"0.4": (M, np.array([0.4]), np.array([1.3]))},
        lambda f, m, x, y: f(m, [x, y], 0), "order=0"),
    Rule("jax.scipy.optimize.minimize", {"ordinary": (V[:2],)},
        lambda f, c: f(lambda x: ((x - c) ** 2).sum(), V[:2], method="BFGS").x),
    Rule("jax.scipy.signal.detrend jax.scipy.signal.stft jax.scipy.signal.welch",
        {"ordinary": (np.cos(np.arange(16.0) ** 1.3),)}),
    Rule("jax.scipy.signal.csd",
        {"ordinary": (np.cos(np.arange(16.0) ** 1.3), np.sin(np.arange(16.0) ** 1.2))}),
    Rule("jax.scipy.signal.istft",
        {"ordinary": (np.cos(np.arange(15.0)).reshape(5, 3), np.sin(np.arange(15.0)).reshape(5, 3))},
            lambda f, x, y: f(lax.complex(x, y))),
    Rule("jax.scipy.sparse.linalg.*", {"ordinary": (M @ M.T, V[:3])},
        lambda f, a, b: f(symmetric(a), b, tol=1e-12)[0]),
    Rule("jax.scipy.spatial.transform.Rotation",
        {"ordinary": (V[:3],), "zeros": (np.zeros(3),), "half a turn": (np.array([np.pi, 0.0, 0.0]),),
            "tiny": (1e-30 * V[:3],)}, lambda f, v: f.from_rotvec(v).as_matrix(), "from_rotvec"),
    Rule("jax.scipy.spatial.transform.Rotation",
        {"ordinary": (V,), "identity": (np.array([0.0, 0.0, 0.0, 1.0]),)},
            lambda f, q: f.from_quat(q).as_rotvec(), "as_rotvec"),
    Rule("jax.scipy.spatial.transform.Rotation",
        {"ordinary": (V,), "identity": (np.array([0.0, 0.0, 0.0, 1.0]),)},
            lambda f, q: f.from_quat(q).as_euler("xyz"), "as_euler"),
    Rule("jax.scipy.spatial.transform.Rotation",
        {"ordinary": (V,), "identity": (np.array([0.0, 0.0, 0.0, 1.0]),)},
            lambda f, q: f.from_quat(q).magnitude(), "magnitude"),
    Rule("jax.scipy.spatial.transform.Slerp", at(0.3, 0.0, 1.0),
        lambda f, t: f.init(jnp.arange(2.0),
            jax.scipy.spatial.transform.Rotation.from_rotvec(jnp.stack([V[:3], W[:3]])))(t).as_quat()),
    Rule("jax.scipy.special.bessel_jn", LINE, lambda f, x: f(x, v=3)),
    Rule("jax.scipy.special.expn", crossed(LINE, (1,), (2,), (0,)), lambda f, x, n: f(n, x)),
    Rule("jax.scipy.special.polygamma", crossed(LINE, (0,), (1,), (2,)), lambda f, x, n: f(n, x)),
    Rule("jax.lax.polygamma jax.lax.zeta jax.scipy.special.zeta", PAIRS),
    Rule("jax.scipy.special.logsumexp",
        {"ordinary": (V, abs(W)), "one zero": (V, np.array([0.0, 0.4, 0.6, 1.9])), "signs": (V, W)},
            lambda f, x, b: f(x, b=b), "b"),
    Rule("jax.scipy.special.xlogy jax.scipy.special.xlog1py", LINE, lambda f, y: f(2, y), "integer-x"),
    Rule("jax.scipy.special.multigammaln", LINE, lambda f, x: f(x, 3)),
    Rule("jax.scipy.special.sph_harm_y", at((0.4, 0.9), (0.0, 0.3), (1.0, 0.0)),
        lambda f, t, p: f(np.array([2]), np.array([1]), jnp.array([t]), jnp.array([p]), n_max=3)),
    Rule("jax.scipy.special.hyp2f1",
        at((0.3, 0.7, 1.6, 0.4), (0.3, 0.7, 1.6, 0.0), (1.0, 2.0, 3.0, -0.5), (1.0, 1.0, 2.0, 0.9),
            (0.0, 1.0, 2.0, 0.5))),
    Rule("jax.scipy.stats.gaussian_kde", {"ordinary": (V, W), "at a datum": (V, V[:2])},
        lambda f, data, x: f(data)(x)),
    Rule("jax.scipy.stats.mode jax.scipy.stats.rankdata jax.scipy.stats.sem", VECTORS),
    Rule("jax.scipy.stats.dirichlet.*",
        {"ordinary": (np.array([0.2, 0.5, 0.3]), np.array([1.4, 0.6, 2.2])),
            "ones": (np.array([0.2, 0.5, 0.3]), np.ones(3))}),
    Rule("jax.scipy.stats.multinomial.*",
        {"ordinary": (np.array([0.2, 0.5, 0.3]),), "one zero": (np.array([0.5, 0.5, 0.0]),)},
            lambda f, p: f(np.array([2, 1, 0]), 3, p)),
    Rule("jax.scipy.stats.multivariate_normal.*",
        {k: (V[:3], W[:3], *POSITIVE[k]) for k in ("ordinary", "identity", "diagonal 2, 2, 1")},
            lambda f, x, m, c: f(x, m, symmetric(c))),
    # jax.nn
    Rule("jax.nn.dot_product_attention",
        {"ordinary": (np.cos(np.arange(12.0)).reshape(1, 3, 1, 4),
            np.sin(np.arange(12.0)).reshape(1, 3, 1, 4), np.cos(np.arange(12.0) ** 2).reshape(1, 3, 1, 4))}),
    Rule("jax.nn.gelu", LINE, lambda f, x: f(x, approximate=False), "exact"),
    Rule("jax.nn.log1mexp", at(1e-30, 1e-8, 0.3, np.log(2.0), 1.0, 3.0, 30.0, 700.0, 1e30)),
    Rule("jax.nn.one_hot", {}),
    # jax.lax
    Rule("jax.lax.associative_scan", VECTORS, lambda f, x: f(jnp.multiply, x)),
    Rule("jax.lax.batch_matmul", MATRIX_PAIRS, lambda f, x, y: f(x[None], y[None])),
    Rule("jax.lax.broadcast", ONE_VECTOR, lambda f, x: f(x, (2,))),
    Rule("jax.lax.broadcast_in_dim", ONE_VECTOR, lambda f, x: f(x, (2, 4), (1,))),
    Rule("jax.lax.broadcast_to_rank", ONE_VECTOR, lambda f, x: f(x, 2)),
    Rule("jax.lax.clamp", at((0.0, 0.5, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.0, 2.0, 1.0),
        (0.0, -1.0, 1.0))),
    Rule("jax.lax.collapse", ONE_MATRIX, lambda f, x: f(x, 0, 2)),
    Rule("jax.lax.composite", LINE, lambda f, x: f(jnp.sin, name="audit.sin")(x)),
    Rule("jax.lax.concatenate", VECTOR_PAIRS, lambda f, x, y: f([x, y], 0)),
    Rule("jax.lax.cond", LINE, lambda f, x: f(x > 0, jnp.sin, jnp.exp, x)),
    Rule("jax.lax.switch", LINE, lambda f, x: f(1, [jnp.sin, jnp.tanh], x)),
    Rule("jax.lax.convert_element_type", LINE, lambda f, x: f(x, x.dtype)),
    Rule("jax.lax.conv", IMAGE, lambda f, x, k: f(x, k, (1, 1), "SAME")),
    Rule("jax.lax.conv_general_dilated", IMAGE,
        lambda f, x, k: f(x, k, (2, 1), "VALID", rhs_dilation=(1, 2))),
    Rule("jax.lax.conv_transpose", IMAGE,
        lambda f, x, k: f(x, k, (2, 2), "SAME", dimension_numbers=("NCHW", "IOHW", "NCHW"),
            transpose_kernel=True)),
    Rule("jax.lax.conv_with_general_padding", IMAGE,
        lambda f, x, k: f(x, k, (1, 1), [(0, 1), (1, 0)], None, None)),
    Rule("jax.lax.conv_general_dilated_local",
        {"ordinary": (IMAGE["ordinary"][0], np.cos(np.arange(9.0 * 8 * 3)).reshape(3, 8, 3, 3))},
            lambda f, x, k: f(x, k, (1, 1), "VALID", (2, 2))),
    Rule("jax.lax.conv_general_dilated_patches", {"ordinary": IMAGE["ordinary"][:1]},
        lambda f, x: f(x, (2, 2), (1, 1), "VALID")),
    Rule("jax.lax.custom_linear_solve", {"ordinary": (M, V[:3])}, lambda f, a, b: f(lambda x: a @ x, b,
        lambda m, b: jnp.linalg.solve(a, b), lambda m, b: jnp.linalg.solve(a.T, b))),
    Rule("jax.lax.custom_root", at(0.4, 2.0), lambda f, a: f(lambda y: y * y - a, 1.0 + 0 * a,
        lambda g, y: lax.fori_loop(0, 60, lambda _, y: (y + a / y) / 2, y),
            lambda g, y: y / g(jnp.ones_like(y)))),
    Rule("jax.lax.dot_general", MATRIX_PAIRS, lambda f, x, y: f(x, y, (([1], [0]), ([], [])))),
    Rule("jax.lax.dynamic_index_in_dim jax.lax.index_in_dim", ONE_VECTOR, lambda f, x: f(x, 1)),
    Rule("jax.lax.dynamic_slice", ONE_VECTOR, lambda f, x: f(x, (1,), (2,))),
    Rule("jax.lax.dynamic_slice_in_dim", ONE_VECTOR, lambda f, x: f(x, 1, 2)),
    Rule("jax.lax.dynamic_update_index_in_dim", ONE_VECTOR, lambda f, x: f(x, x[0] * x[1], 1, 0)),
    Rule("jax.lax.dynamic_update_slice", ONE_VECTOR, lambda f, x: f(x, x[:2] ** 2, (1,))),
    Rule("jax.lax.dynamic_update_slice_in_dim", ONE_VECTOR, lambda f, x: f(x, x[:2] ** 2, 1, 0)),
    Rule("jax.lax.expand_dims", ONE_VECTOR, lambda f, x: f(x, (0,))),
    Rule("jax.lax.fft", ONE_VECTOR, lambda f, x: f(lax.complex(x, x[::-1]), "FFT", (4,))),
    Rule("jax.numpy.fft.[fh]fft* jax.numpy.fft.i[fr]*", {"ordinary": (M, N)},
        lambda f, x, y: f(lax.complex(x, y)), "complex"),
    Rule("jax.lax.fori_loop", LINE, lambda f, x: f(0, 3, lambda i, v: jnp.sin(v) + i, x)),
    Rule("jax.lax.while_loop", LINE, lambda f, x: f(lambda c: c[0] < 3,
        lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]),
    Rule("jax.lax.scan", VECTORS, lambda f, x: f(lambda c, v: (c * v, c + v), 1.0 + 0 * x[0], x)),
    Rule("jax.lax.map", VECTORS, lambda f, x: f(jnp.sin, x)),
    Rule("jax.lax.gather", VECTORS, lambda f, x: f(x, INDICES, PICK, (1,))),
    Rule("jax.lax.imag jax.lax.real jax.lax.conj", at((0.3, 0.7), (0.0, 0.0)),
        lambda f, x, y: f(lax.complex(x, y))),
    Rule("jax.lax.abs jax.lax.sign", at((0.3, 0.7), (0.0, 1.0), (0.0, 0.0)),
        lambda f, x, y: f(lax.complex(x, y)), "complex"),
    Rule("jax.lax.index_take", VECTORS, lambda f, x: f(x, np.array([[2, 0]]), (0,))),
    Rule("jax.lax.pad", VECTORS, lambda f, x: f(x, 0 * x[0], [(1, 2, 1)])),
    Rule("jax.lax.platform_dependent", LINE, lambda f, x: f(x, default=jnp.sin)),
    Rule("jax.lax.psum jax.lax.pmean jax.lax.pmax jax.lax.pmin jax.lax.all_gather", VECTORS,
        lambda f, x: jax.vmap(lambda v: f(v**2, "i"), axis_name="i")(x)),
    Rule("jax.lax.psum_scatter", ONE_MATRIX, lambda f, x: jax.vmap(lambda v: f(v, "i"), axis_name="i")(x)),
    Rule("jax.lax.ppermute", ONE_VECTOR,
        lambda f, x: jax.vmap(lambda v: f(v, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]), axis_name="i")(x)),
    Rule("jax.lax.pshuffle", ONE_VECTOR,
        lambda f, x: jax.vmap(lambda v: f(v, "i", [1, 2, 3, 0]), axis_name="i")(x)),
    Rule("jax.lax.pswapaxes", ONE_MATRIX, lambda f, x: jax.vmap(lambda v: f(v, "i", 0), axis_name="i")(x)),
    Rule("jax.lax.all_to_all", ONE_MATRIX,
        lambda f, x: jax.vmap(lambda v: f(v, "i", 0, 0), axis_name="i")(x)),
    Rule("jax.lax.ragged_dot", {"ordinary": (M, np.stack([M, N]))},
        lambda f, x, y: f(x, y, np.array([1, 2], np.int32))),
    Rule("jax.lax.reduce", VECTORS, lambda f, x: f(x, 0 * x[0], lax.add, (0,))),
    Rule("jax.lax.reduce_max jax.lax.reduce_min jax.lax.reduce_prod jax.lax.reduce_sum", VECTORS,
        lambda f, x: f(x, (0,))),
    Rule("jax.lax.cum*", VECTORS, lambda f, x: f(x, reverse=True), "reverse"),
    Rule("jax.lax.reduce_precision", LINE, lambda f, x: f(x, 11, 52)),
    *(Rule("jax.lax.reduce_window", VECTORS,
        lambda f, x, op=op, init=init: f(x, init, op, (2,), (1,), "VALID"), op.__name__) for op,
            init in ((lax.add, 0.0), (lax.max, -np.inf), (lax.min, np.inf))),
    Rule("jax.lax.reshape", ONE_VECTOR, lambda f, x: f(x, (2, 2))),
    Rule("jax.lax.rev", ONE_VECTOR, lambda f, x: f(x, (0,))),
    Rule("jax.lax.scatter", VECTORS, lambda f, x: f(x, INDICES[:2], x[:2] ** 2, ROWS, unique_indices=True)),
    Rule("jax.lax.scatter_add jax.lax.scatter_max jax.lax.scatter_min jax.lax.scatter_sub", VECTORS,
        lambda f, x: f(x, INDICES, x[:3] ** 2, ROWS)),
    Rule("jax.lax.scatter_mul", VECTORS,
        lambda f, x: f(x, INDICES[:2], x[:2] ** 2, ROWS, unique_indices=True)),
    Rule("jax.lax.scatter_apply", VECTORS,
        lambda f, x: f(x, INDICES[:2], jnp.sin, ROWS, update_shape=(2,), unique_indices=True)),
    Rule("jax.lax.select jax.lax.select_n", VECTOR_PAIRS, lambda f, x, y: f(MASK, x, y)),
    Rule("jax.lax.slice", ONE_VECTOR, lambda f, x: f(x, (1,), (3,))),
    Rule("jax.lax.slice_in_dim", ONE_VECTOR, lambda f, x: f(x, 1, 3)),
    Rule("jax.lax.split", ONE_VECTOR, lambda f, x: f(x, (1, 3))),
    Rule("jax.lax.squeeze", ONE_VECTOR, lambda f, x: f(x[None], (0,))),
    Rule("jax.lax.tile", ONE_VECTOR, lambda f, x: f(x, (2,))),
    Rule("jax.lax.top_k jax.lax.approx_max_k jax.lax.approx_min_k", VECTORS, lambda f, x: f(x, 2)),
    Rule("jax.lax.transpose", ONE_MATRIX, lambda f, x: f(x, (1, 0))),
    # optax.losses
    Rule("optax.losses.ctc_loss*",
        {k: (x,) for k, x in (("ordinary", np.cos(np.arange(20.0)).reshape(1, 5, 4)),
            ("equal", np.zeros((1, 5, 4))), ("large", 700 * np.cos(np.arange(20.0)).reshape(1, 5, 4)))},
                lambda f, x: f(x, np.zeros((1, 5)), np.array([[1, 2, 2]]), np.array([[0.0, 0.0, 1.0]]))),
    Rule("optax.losses.*kl_divergence", PROBABILITIES),
    Rule("optax.losses.*softmax_cross_entropy optax.losses.poly_* optax.losses.ranking_*", PROBABILITIES),
    Rule("optax.losses.*_with_integer_labels optax.losses.multiclass_[hp]*", VECTORS, lambda f, x: f(x, 2)),
    Rule("optax.losses.hinge_loss optax.losses.perceptron_loss optax.losses.sigmoid_focal_loss", SIGNS),
    Rule("optax.losses.sigmoid_* optax.losses.sparsemax_loss", BITS),
    Rule("optax.losses.huber_loss optax.losses.l2_loss optax.losses.log_cosh optax.losses.squared_error",
        PAIRS),
    Rule("optax.losses.make_fenchel_young_loss", PROBABILITIES, lambda f, x, t: f(jax.nn.logsumexp)(x, t)),
    Rule("optax.losses.ntxent",
        {"ordinary": (np.cos(np.arange(12.0)).reshape(4, 3),), "equal": (np.ones((4, 3)),),
            "one zero": (np.array([[0.0, 0.0], [1.0, 2.0], [0.5, -1.0], [2.0, 1.0]]),)},
                lambda f, x: f(x, np.array([0, 0, 1, 1]))),
    Rule("optax.losses.multiclass_sparsemax_loss", MATRICES, lambda f, x: f(x, np.array([0, 2, 1]))),
    Rule("optax.losses.smooth_labels", crossed({k: v for k, v in VECTORS.items()}, (0.1,), (0.0,))),
    Rule("optax.losses.triplet_margin_loss", VECTOR_TRIPLES),
    Rule("optax.losses.*dice_loss",
        {"ordinary": (M, np.abs(N) / 2), "zeros": (np.zeros((3, 3)), np.eye(3)),
            "both zero": (np.zeros((3, 3)), np.zeros((3, 3)))}),
    # optax.projections
    Rule("optax.projections.projection_box", TRIPLES | at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (2.0, 0.0, 1.0))),
    Rule("optax.projections.*hypercube optax.projections.*_l[12i]* optax.projections.*simplex",
        crossed(VECTORS, (1.0,), (2.0,))),
    Rule("optax.projections.projection_l[12i]* optax.projections.projection_simplex",
        {"on the boundary": (np.array([0.5, 0.5, 0.0, 0.0]), 1.0),
            "on the boundary of l2": (np.array([0.6, 0.8, 0.0, 0.0]), 1.0),
                "a corner": (np.array([1.0, 0.0, 0.0, 0.0]), 1.0)}, note="boundary"),
    Rule("optax.projections.projection_halfspace optax.projections.projection_hyperplane",
        crossed(VECTOR_PAIRS, (0.5,), (0.0,))),
    Rule("optax.projections.projection_vector", VECTOR_PAIRS),
]  # fmt: skip

LEFT_OUT = {
    "integers or booleans": (
        "jax.numpy.bitwise_* jax.numpy.*shift jax.numpy.gcd jax.numpy.lcm jax.numpy.*packbits "
        "jax.numpy.invert jax.numpy.ix_ jax.numpy.unravel_index jax.numpy.ravel_multi_index "
        "jax.lax.bitwise_* jax.lax.shift_* jax.lax.clz jax.lax.mulhi jax.lax.population_count "
        "jax.lax.reduce_and jax.lax.reduce_or jax.lax.reduce_xor jax.lax.arg* jax.numpy.argpartition "
        "jax.numpy.logical_* jax.lax.linalg.lu_pivots_* jax.nn.one_hot jax.lax.bitcast_convert_type "
        "jax.scipy.special.bernoulli"
    ),
    "made from a size, not from numbers": (
        "jax.numpy.arange jax.numpy.bartlett jax.numpy.blackman jax.numpy.hamming jax.numpy.hanning "
        "jax.numpy.empty* jax.numpy.eye jax.numpy.identity jax.numpy.ones* jax.numpy.zeros* "
        "jax.numpy.tri jax.numpy.*_indices* jax.numpy.indices jax.numpy.fft.*freq jax.scipy.linalg.dft "
        "jax.scipy.linalg.hadamard jax.scipy.linalg.helmert jax.scipy.linalg.*hilbert "
        "jax.scipy.linalg.*pascal jax.lax.*iota jax.lax.empty"
    ),
    "shapes, types or text": (
        "jax.numpy.array_repr jax.numpy.array_str jax.numpy.broadcast_shapes jax.numpy.can_cast "
        "jax.numpy.einsum_path jax.numpy.isdtype jax.numpy.issubdtype jax.numpy.promote_types "
        "jax.numpy.result_type jax.numpy.*printoptions jax.lax.broadcast_shapes jax.lax.conv_*_tuple "
        "jax.lax.conv_dimension_numbers jax.lax.conv_general_permutations jax.lax.conv_shape_tuple "
        "jax.lax.padtype_to_pads jax.lax.shape_as_value jax.lax.reduce_window_shape_tuple "
        "jax.lax.ConvGeneral* jax.lax.DotDim* jax.lax.Precision* jax.nn.get_scaled_dot_general_config "
        "jax.lax.dtype"
    ),
    "files and foreign memory": ("jax.numpy.load jax.numpy.save* jax.numpy.from[!p]*"),
    "a shape that depends on values": ("jax.numpy.trim_zeros"),
    "effects, tokens or random bits": (
        "jax.lax.after_all jax.lax.create_token jax.lax.dce_sink jax.lax.rng_* jax.lax.stage"
    ),
    "needs several devices": (
        "jax.lax.psend jax.lax.precv jax.lax.ragged_all_to_all jax.lax.pcast jax.lax.axis_* "
        "jax.lax.with_sharding_constraint jax.lax.pbroadcast"
    ),
    "needs a GPU or 8-bit types": ("jax.nn.scaled_* jax.lax.scaled_dot"),
    "derivatives of their own, not meant to be differentiated": (
        "jax.lax.igamma_grad_a jax.lax.random_gamma_grad"
    ),
    "stops gradients on purpose": ("jax.lax.stop_gradient"),
    "as a function that is audited": ("jax.lax.ragged_dot_general jax.numpy.array jax.numpy.from_dlpack"),
}


def named(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split())


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of MODULES once, and the classes that a rule names."""
    seen = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for attribute in sorted(vars(module).keys() | set(dir(module))):
            value, name = getattr(module, attribute), f"{module_name}.{attribute}"
            wanted = not inspect.isclass(value) or any(named(name, rule.names) for rule in RULES)
            if attribute.startswith("_") or not callable(value) or not wanted or id(value) in seen:
                continue
            seen.add(id(value))
            yield name, value


# What a call computes, as one number.


def floating(value: Any) -> bool:
    return isinstance(value, float | np.ndarray) and np.issubdtype(np.asarray(value).dtype, np.floating)


def outputs(tree: Any) -> list[Any]:
    """The floating-point arrays of a result; of complex ones both parts."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    parts = [[leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf] for leaf in leaves]
    return [part for part in itertools.chain(*parts) if jnp.issubdtype(part.dtype, jnp.floating)]


def weights(number: int, size: int) -> np.ndarray:
    """The weights of an output's elements in the sum that is differentiated; 1 is the first."""
    return np.cos(number + np.arange(size)).astype(np.float32).astype(np.float64)


class Case(NamedTuple):
    """One function at one point."""

    function: str
    note: str
    point: str
    f: Callable[..., Any]
    """Returns one number: the sum of the outputs, weighted."""
    args: tuple[Any, ...]
    argnums: tuple[int, ...]


def summed(rule: Rule, fn: Callable[..., Any]) -> Callable[..., Any]:
    def f(*args: Any) -> Any:
        parts = outputs(rule.call(fn, *args))
        return sum(
            jnp.sum(part.ravel() * jnp.asarray(weights(k, part.size), part.dtype))
            for k, part in enumerate(parts)
        )

    f.__name__ = getattr(fn, "__name__", "f")
    return f


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function under jit, or as it is where it looks at values."""
    fast = jax.jit(f)

    def call(*args: Any) -> Any:
        try:
            return fast(*args)
        except Exception:
            return f(*args)

    return call


# What is tried on a function without a rule.


def automatic(name: str, fn: Callable[..., Any]) -> list[Rule] | str:
    """Rules for a function that takes arrays only, or why there are none."""
    if ".stats." in name and name.split(".")[-2] != "stats":
        return [distribution(name, fn)]
    with contextlib.suppress(TypeError, ValueError):
        required = [
            p
            for p in inspect.signature(fn).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    counts = [len(required)] if required else [2, 1]
    why = "takes no arrays"
    for count, kind in itertools.product(counts, ("scalars", "vectors", "matrices")):
        points = (
            {"scalars": LINE, "vectors": VECTORS, "matrices": MATRICES},
            {"scalars": PAIRS, "vectors": VECTOR_PAIRS, "matrices": MATRIX_PAIRS},
            {"scalars": TRIPLES, "vectors": VECTOR_TRIPLES, "matrices": MATRIX_TRIPLES},
        )[min(count, 3) - 1][kind]
        try:
            if not outputs(fn(*next(iter(points.values())))):
                return "returns no floating-point numbers"
            if kind == "scalars" and not elementwise(fn, count):
                continue
        except Exception as error:
            why = str(error).split("\n")[0]
            continue
        return [Rule(name, points)]
    return why


def elementwise(fn: Callable[..., Any], count: int) -> bool:
    columns = [np.array([0.4, 0.3, 0.5]) + 0.01 * number for number in range(count)]
    together, apart = fn(*columns), [fn(*row) for row in np.transpose(columns)]
    return np.shape(together) == (3,) and np.array_equal(np.ravel(together), np.ravel(apart), equal_nan=True)


def distribution(name: str, fn: Callable[..., Any]) -> Rule:
    """A distribution's function at points of its support, for two sets of its parameters."""
    names = list(inspect.signature(fn).parameters)
    discrete = "k" in names
    choices = [[PARAMETERS[p][i] for p in names[1:] if not (discrete and p == "loc")] for i in (0, 1)]
    first: Sequence[Any] = {"q": (0.3, 0.5, 0.8, 0.0, 1.0, 1e-30), "k": (2, 0, 1), "mu": ()}.get(
        names[0], SUPPORT
    )
    if names[0] == "mu":
        return Rule(name, at(2.4, 0.3, 1.0, 1e-30, 30.0, 700.0, 0.0), lambda f, mu: f(mu))
    if "truncnorm" in name:
        choices = [[-1.5, 2.5, *choices[0][2:]], [-1.0, 1.0, *choices[1][2:]]]
    points = at(*((x, *choices[0]) for x in first), *((x, *choices[1]) for x in first[:-2]))
    return Rule(name, points)


# The checker, and what jax returns.

Verdict = Literal["pass", "fail", "inconclusive", "exception", "no derivative", "not callable"]


def judge(f: Callable[..., Any], args: tuple[Any, ...], argnums: tuple[int, ...]) -> tuple[Verdict, str]:
    """The checker's verdict on f at args, and what it says about it."""
    try:
        report = check_gradients(f, *args, argnums=argnums)
    except Exception:
        return "exception", traceback.format_exc(limit=-2)
    return report.verdict, report.summary + (f" {report.worst.reason}" if report.worst.reason else "")


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


@functools.lru_cache(8)
def gradient(f: Callable[..., Any], mode: str, argnums: tuple[int, ...]) -> Callable[..., Any]:
    return compiled(jax.grad(f, argnums) if mode == "reverse" else jax.jacfwd(f, argnums))


def derivatives(case: Case) -> dict[str, np.ndarray | str]:
    """The gradient by each mode of autodiff, or why there is none."""
    found: dict[str, np.ndarray | str] = {}
    for mode in ("reverse", "forward"):
        try:
            found[mode] = flat(gradient(case.f, mode, case.argnums)(*case.args))
        except Exception as error:
            found[mode] = str(error).split("\n")[0]
    return found


# The truth.

Oracle = Callable[..., Any]
DIGITS = 400
ORACLE_PATIENCE = 20  # seconds for one case


class Truth(NamedTuple):
    """Of every differentiated element, the slopes on both sides, the smaller one first."""

    value: float
    low: np.ndarray
    high: np.ndarray
    jump: np.ndarray
    """Whether the function jumps there, and has no derivative."""


def truth_of(oracle: Oracle, case: Case, beside: int = 0) -> Truth:
    """One-sided difference quotients in mpmath's arithmetic, at steps that leave no error in float64.

    beside: at a point a little off in all elements, another one for each number but 0.
    """
    exact = [np.vectorize(mp.mpf, otypes=[object])(arg) if floating(arg) else arg for arg in case.args]
    for number in case.argnums if beside else ():
        rng = np.random.default_rng([beside, number])
        for index in np.ndindex(np.shape(exact[number])):
            exact[number][index] += unit(exact[number][index]) * mp.mpf(10) ** -15 * mp.mpf(rng.normal())
    rows = []
    for number in case.argnums:
        for index in np.ndindex(np.shape(exact[number])):
            x = exact[number][index]

            def along(step: Any, number: int = number, index: tuple[int, ...] = index, x: Any = x) -> Any:
                moved = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in exact]
                moved[number][index] = x + step
                return value(oracle, moved)

            sides = [one_sided(along, sign * unit(x)) for sign in (-1, 1)]
            known = [float(slope) for slope, _ in sides if slope is not None] or [float("nan")]
            rows.append((min(known), max(known), any(jump for _, jump in sides)))
    here = value(oracle, exact)
    low, high, jump = np.array(rows).T
    return Truth(float("nan") if here is None else float(here), low, high, jump.astype(bool))


def unit(x: Any) -> Any:
    """What a step is a small part of."""
    return min(abs(x), mp.mpf(1)) if x else mp.mpf(10) ** -15


def value(oracle: Oracle, args: Sequence[Any]) -> Any:
    """The sum of an oracle's outputs that Case.f takes; None outside of its domain."""
    try:
        found = oracle(*(arg[()] if isinstance(arg, np.ndarray) else arg for arg in args))
    except (ValueError, ZeroDivisionError, mp.libmp.NoConvergence):
        return None
    parts = [np.ravel(np.asarray(part, object)) for part in (found if isinstance(found, tuple) else (found,))]
    total = mp.mpmathify(sum(sum(part * weights(k, part.size)) for k, part in enumerate(parts)))
    return None if (isinstance(total, mp.mpc) and total.imag) or not mp.isfinite(total) else mp.re(total)


def one_sided(along: Callable[[Any], Any], towards: Any) -> tuple[Any, bool]:
    """The slope at 0 towards another number, and whether there is a jump: then it is that beyond it.

    From two difference quotients: a limit that they creep to by a power of the step is 0 or infinite.
    """
    steps = [towards * mp.mpf(10) ** -40, towards * mp.mpf(10) ** -80]
    here, far, near, after = (along(step) for step in (mp.mpf(0), *steps, 2 * steps[1]))
    if here is None or far is None or near is None or after is None:
        return None, False
    if near != here and abs(near - here) > abs(far - here) / 2:
        return (after - near) / steps[1], True
    outer, inner = (far - here) / steps[0], (near - here) / steps[1]
    if abs(inner) > 1.2 * abs(outer) and abs(inner) > 10:
        return mp.sign(inner) * mp.inf, False
    return (inner if abs(inner) > 0.8 * abs(outer) else mp.mpf(0)), False


Kind = Literal["right", "wrong", "rounding", "tie", "value"]
"""Of a gradient: `rounding`, off by no more than the last bits of 1 or of its argument's slopes; `tie`, not
between the slopes along each argument, but between those beside the point, where several arguments tie;
`value`, off because the function's value is."""


def within(gradient: np.ndarray, low: np.ndarray, high: np.ndarray, rtol: float) -> np.ndarray:
    """Which elements are between the slopes, or infinite where one of them is; true where none is known."""
    finite = (np.where(np.isfinite(side), abs(side), 0) for side in (low, high))
    slack = rtol * np.maximum(*finite) + 1e-300
    steep = np.isinf(gradient) & (np.isinf(low) | np.isinf(high))
    inside: np.ndarray = steep | np.isnan(low) | (low - slack <= gradient) & (gradient <= high + slack)
    return inside


def kind_of(
    gradient: np.ndarray, truth: Truth, case: Case, oracle: Oracle, dtype: str
) -> tuple[Kind, np.ndarray]:
    """How a gradient compares with the truth, and which of its elements are wrong."""
    rtol = {"float64": 1e-6, "float32": 1e-3}[dtype]
    wrong = ~within(gradient, truth.low, truth.high, rtol) & ~(truth.jump & np.isnan(gradient))
    if not wrong.any():
        return "right", wrong
    got = float(case.f(*case.args))
    if not np.isnan(truth.value) and abs(got - truth.value) > rtol * max(abs(truth.value), 1e-300):
        return "value", wrong
    leaf = np.repeat(np.arange(len(case.argnums)), [np.size(case.args[n]) for n in case.argnums])
    known = np.maximum(*(np.where(np.isfinite(side), abs(side), 1) for side in (truth.low, truth.high)))
    size = np.array([max(1.0, known[leaf == n].max()) for n in leaf])
    off = np.minimum(abs(gradient - truth.low), abs(gradient - truth.high))
    if (off < 100 * np.finfo(dtype).eps * size)[wrong].all():
        return "rounding", wrong
    if gradient.size > 1 and np.isfinite(gradient).all():
        near = [truth_of(oracle, case, beside) for beside in range(1, 25)]
        low, high = np.nanmin([t.low for t in near], axis=0), np.nanmax([t.high for t in near], axis=0)
        if within(gradient, low, high, rtol)[wrong].all():
            return "tie", wrong
    return "wrong", wrong


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in Python code that takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def xlogy(x: Any, y: Any) -> Any:
    return x * mp.log(y) if x else mp.mpf(0)


def log_gamma(x: Any) -> Any:
    return mp.log(abs(mp.gamma(x)))


def incomplete_beta(a: Any, b: Any, x: Any) -> Any:
    return mp.betainc(a, b, 0, x, regularized=True) if 0 <= x <= 1 else mp.nan


def log_sum_exp(x: Any) -> Any:
    return mp.log(sum(mp.exp(v) for v in x))


def softmax(x: Any) -> Any:
    return np.array([mp.exp(v) for v in x]) / sum(mp.exp(v) for v in x)


def power_norm(p: float) -> Oracle:
    return lambda x: sum(abs(v) ** p for v in np.ravel(x)) ** (1 / mp.mpf(p))


def variance(x: Any, ddof: int = 0) -> Any:
    return ((x - x.mean()) ** 2).sum() / (len(x) - ddof)


def matrix(x: Any) -> Any:
    return mp.matrix(x.tolist())


def singular_values(x: Any) -> np.ndarray:
    return np.array(mp.svd_r(matrix(x), compute_uv=False).T.tolist()[0])


def simplex(x: Any, size: Any) -> Any:
    """The nearest point that is not negative and sums to size."""
    ordered = np.sort(x)[::-1]
    levels = [(sum(ordered[:n]) - size) / n for n in range(1, len(x) + 1)]
    level = [level for level, v in zip(levels, ordered, strict=True) if v > level][-1]
    return np.maximum(x - level, mp.mpf(0))


def l1_sphere(x: Any, size: Any) -> Any:
    return np.array([mp.sign(v) for v in x]) * simplex(abs(x), size)


def plane(x: Any, a: Any, b: Any, half: bool) -> Any:
    """x's projection on the plane a · x = b, or on the half-space below it."""
    excess = np.dot(x, a) - b
    return x if half and excess <= 0 else x - excess / np.dot(a, a) * a


def cross_entropy(x: Any, t: Any) -> Any:
    return -np.dot(t, x - log_sum_exp(x))


def focal(x: Any, t: Any) -> Any:
    p = 1 / (1 + mp.exp(-x))
    return -(t * mp.log(p) + (1 - t) * mp.log(1 - p)) * (1 - p * t - (1 - p) * (1 - t)) ** 2


def quantile(x: Any, q: Any) -> Any:
    if not 0 <= q <= 1:
        raise ValueError
    place, ordered = q * (len(x) - 1), np.sort(x)
    below = int(min(max(mp.floor(place), 0), len(x) - 2))
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


ORACLES: dict[str, Oracle] = {
    # arrays: NumPy computes with mpmath's numbers too
    **{
        name: getattr(np, name)
        for name in ("sum", "prod", "cumsum", "cumprod", "sort", "convolve", "dot", "mean")
    },
    "max": lambda *x: np.max(x),
    "min": lambda *x: np.min(x),
    "maximum fmax": max,
    "minimum fmin": min,
    "polymul": np.convolve,
    "cumlogsumexp": lambda x: np.array([log_sum_exp(x[: n + 1]) for n in range(len(x))]),
    "cumlogsumexp[reverse]": lambda x: np.array([log_sum_exp(x[n:]) for n in range(len(x))]),
    "cumsum[reverse]": lambda x: np.cumsum(x[::-1])[::-1],
    "cumprod[reverse]": lambda x: np.cumprod(x[::-1])[::-1],
    "cummax[reverse]": lambda x: np.maximum.accumulate(x[::-1])[::-1],
    "cummin[reverse]": lambda x: np.minimum.accumulate(x[::-1])[::-1],
    "quantile[five] nanquantile[five]": quantile,
    "logsumexp[b]": lambda x, b: mp.log(sum(w * mp.exp(v) for v, w in zip(x, b, strict=True))),
    "xlogy[integer-x]": lambda y: 2 * mp.log(y),
    "xlog1py[integer-x]": lambda y: 2 * mp.log(1 + y),
    "cummax": lambda x: np.maximum.accumulate(x),
    "cummin": lambda x: np.minimum.accumulate(x),
    "logsumexp": log_sum_exp,
    "logmeanexp": lambda x: log_sum_exp(x) - mp.log(len(x)),
    "softmax": softmax,
    "log_softmax": lambda x: x - log_sum_exp(x),
    "standardize": lambda x: (x - x.mean()) / mp.sqrt(variance(x) + mp.mpf(1e-5)),
    "var nanvar": variance,
    "std nanstd": lambda x: mp.sqrt(variance(x)),
    "var[ddof=1]": lambda x: variance(x, 1),
    "std[ddof=1]": lambda x: mp.sqrt(variance(x, 1)),
    "sem": lambda x: mp.sqrt(variance(x, 1) / len(x)),
    "median nanmedian": lambda x: quantile(x, mp.mpf(1) / 2),
    "quantile nanquantile": quantile,
    "percentile[linear] nanpercentile[linear]": lambda x, q: quantile(x, q / 100),
    "linalg.norm linalg.vector_norm": power_norm(2),
    **{
        f"norm[ord={p}] vector_norm[ord={p}]": power_norm(p) for p in (1, 2, 3, 0.5, -1)
    },
    "norm[ord=inf] vector_norm[ord=inf]": lambda x: max(abs(x)),
    "norm[ord=-inf] vector_norm[ord=-inf]": lambda x: min(abs(x)),
    "matrix_norm norm[matrix,ord=fro] matrix_norm[matrix,ord=fro]": power_norm(2),
    "norm[matrix,ord=nuc] matrix_norm[matrix,ord=nuc]": lambda x: sum(singular_values(x)),
    "norm[matrix,ord=2] matrix_norm[matrix,ord=2]": lambda x: max(singular_values(x)),
    "norm[matrix,ord=-2] matrix_norm[matrix,ord=-2]": lambda x: min(singular_values(x)),
    "norm[matrix,ord=1] matrix_norm[matrix,ord=1]": lambda x: max(abs(x).sum(0)),
    "norm[matrix,ord=inf] matrix_norm[matrix,ord=inf]": lambda x: max(abs(x).sum(1)),
    "norm[matrix,ord=-1] matrix_norm[matrix,ord=-1]": lambda x: min(abs(x).sum(0)),
    "norm[matrix,ord=-inf] matrix_norm[matrix,ord=-inf]": lambda x: min(abs(x).sum(1)),
    "svdvals svd[values]": singular_values,
    "eigvalsh": lambda x: np.array(sorted(mp.eigsy(matrix((x + x.T) / 2), eigvals_only=True))),
    "eigh[squared-trace]": lambda x: np.trace(x) ** 2,
    "det": lambda x: mp.det(matrix(x)),
    "slogdet": lambda x: (mp.sign(mp.det(matrix(x))), mp.log(abs(mp.det(matrix(x))))),
    "inv": lambda x: np.array((matrix(x) ** -1).tolist()),
    "cond cond[p=2]": lambda x: max(singular_values(x)) / min(singular_values(x)),
    "expm": lambda x: np.array(mp.expm(matrix(x)).tolist()),
    **{f"matrix_power[n={n}]": lambda x, n=n: np.array((matrix(x) ** n).tolist()) for n in (0, 1, 3, -2)},
    # elementwise
    "abs absolute fabs": abs,
    "acos arccos": mp.acos,
    "acosh arccosh": mp.acosh,
    "add": lambda x, y: x + y,
    "asin arcsin": mp.asin,
    "asinh arcsinh": mp.asinh,
    "atan arctan": mp.atan,
    "atan2 arctan2": lambda y, x: mp.atan2(y, x),
    "atanh arctanh": mp.atanh,
    "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)),
    "ceil": mp.ceil,
    "clip": lambda x, a, b: min(max(x, a), b),
    "clamp": lambda a, x, b: min(max(x, a), b),
    "copysign": lambda x, y: abs(x) * (1 if y >= 0 else -1),
    "cos": mp.cos,
    "cosh": mp.cosh,
    "deg2rad radians": mp.radians,
    "rad2deg degrees": mp.degrees,
    "divide true_divide div": lambda x, y: x / y,
    "divmod": lambda x, y: (mp.floor(x / y), x - y * mp.floor(x / y)),
    "exp": mp.exp,
    "exp2": lambda x: mp.mpf(2) ** x,
    "expm1": mp.expm1,
    "floor": mp.floor,
    "floor_divide": lambda x, y: mp.floor(x / y),
    "fmod rem": lambda x, y: x - y * (mp.floor(x / y) if x / y > 0 else mp.ceil(x / y)),
    "mod remainder": lambda x, y: x - y * mp.floor(x / y),
    "hypot": lambda x, y: mp.sqrt(x * x + y * y),
    "log": mp.log,
    "log10": mp.log10,
    "log1p": lambda x: mp.log(1 + x),
    "log2": lambda x: mp.log(x, 2),
    "logaddexp": lambda x, y: mp.log(mp.exp(x) + mp.exp(y)),
    "logaddexp2": lambda x, y: mp.log(mp.mpf(2) ** x + mp.mpf(2) ** y, 2),
    "multiply mul": lambda x, y: x * y,
    "negative neg": lambda x: -x,
    "positive": lambda x: x,
    "power pow float_power": lambda x, y: mp.mpf(0) if x == 0 and y > 0 else x**y,
    "power[y=3]": lambda x: x**3,
    "power[y=-2]": lambda x: x**-2,
    "power[y=0]": lambda x: mp.mpf(1),
    "power[y=0.5]": mp.sqrt,
    "integer_pow[y=3]": lambda x: x**3,
    "integer_pow[y=-2]": lambda x: x**-2,
    "integer_pow[y=0]": lambda x: mp.mpf(1),
    "reciprocal": lambda x: 1 / x,
    "rint round around": mp.nint,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "sign": mp.sign,
    "sin": mp.sin,
    "sinc": mp.sincpi,
    "sinh": mp.sinh,
    "sqrt": mp.sqrt,
    "square": lambda x: x * x,
    "subtract sub": lambda x, y: x - y,
    "tan": mp.tan,
    "tanh": mp.tanh,
    "trunc": lambda x: mp.floor(x) if x > 0 else mp.ceil(x),
    "ldexp": lambda x: 8 * x,
    "kaiser": lambda x: (np.array([mp.besseli(0,
        x * mp.sqrt(1 - (mp.mpf(n) / 2 - 1) ** 2)) for n in range(5)]) / mp.besseli(0, x),),
    # jax.scipy.special
    "bessel_jn": lambda x: (np.array([mp.besselj(n, x) for n in range(4)]),),
    "beta": mp.beta,
    "betainc": incomplete_beta,
    "betaln": lambda a, b: log_gamma(a) + log_gamma(b) - log_gamma(a + b),
    "boxcox": lambda x, y: (x**y - 1) / y if y else mp.log(x),
    "boxcox1p": lambda x, y: ((1 + x) ** y - 1) / y if y else mp.log(1 + x),
    "comb": mp.binomial,
    "dawsn": lambda x: mp.sqrt(mp.pi) / 2 * mp.exp(-x * x) * mp.erfi(x),
    "digamma": mp.digamma,
    "entr": lambda x: -xlogy(x, x),
    "erf": mp.erf,
    "erfc": mp.erfc,
    "erfcx": lambda x: mp.exp(x * x) * mp.erfc(x),
    "erfinv erf_inv": mp.erfinv,
    "exp1": lambda x: mp.e1(x),
    "expi": lambda x: mp.ei(x),
    "expit logistic sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "expn": lambda x, n: mp.expint(n, x),
    "factorial": lambda x: mp.factorial(x) if x >= 0 else mp.mpf(0),
    "fresnel": lambda x: (mp.fresnels(x), mp.fresnelc(x)),
    "gamma": mp.gamma,
    "gammainc igamma": lambda a, x: mp.gammainc(a, 0, x, regularized=True),
    "gammaincc igammac": lambda a, x: mp.gammainc(a, x, regularized=True),
    "gammaln loggamma lgamma": log_gamma,
    "gammasgn": lambda x: mp.sign(mp.gamma(x)),
    "hyp1f1": mp.hyp1f1,
    "hyp2f1": mp.hyp2f1,
    "i0": lambda x: mp.besseli(0, x),
    "i0e bessel_i0e": lambda x: mp.exp(-abs(x)) * mp.besseli(0, x),
    "i1": lambda x: mp.besseli(1, x),
    "i1e bessel_i1e": lambda x: mp.exp(-abs(x)) * mp.besseli(1, x),
    "kl_div": lambda p, q: xlogy(p, p / q) - p + q,
    "log_ndtr": lambda x: mp.log(mp.erfc(-x / mp.sqrt(2)) / 2),
    "logit": lambda x: mp.log(x / (1 - x)),
    "multigammaln": lambda x: mp.log(mp.pi) * 1.5 + sum(log_gamma(x - mp.mpf(j) / 2) for j in range(3)),
    "ndtr": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
    "ndtri": lambda x: mp.sqrt(2) * mp.erfinv(2 * x - 1),
    "owens_t": lambda h, a: mp.quad(lambda t: mp.exp(-h * h * (1 + t * t) / 2) / (1 + t * t),
        [0, a]) / (2 * mp.pi),
    "poch": mp.rf,
    "polygamma": lambda x, n: mp.psi(n, x),
    "rel_entr": lambda p, q: xlogy(p, p / q),
    "sici": lambda x: (mp.si(x), mp.ci(x)),
    "spence": lambda x: mp.polylog(2, 1 - x),
    "wofz": lambda x: (mp.exp(-x * x), mp.exp(-x * x) * mp.erfi(x)),
    "xlog1py": lambda x, y: xlogy(x, 1 + y),
    "xlogy": xlogy,
    "zeta": lambda x, q: mp.zeta(x, q),
    # optax
    "kl_divergence": lambda p, t: sum(map(xlogy, t, t)) - np.dot(t, p),
    "convex_kl_divergence generalized_kl_divergence": lambda p, t: sum(map(xlogy, t, t)) - np.dot(t, p)
        + sum(mp.exp(v) for v in p) - sum(t),
    "kl_divergence_with_log_targets": lambda p,
        t: sum(mp.exp(v) * (v - u) for u, v in zip(p, t, strict=True)),
    "cosine_similarity": lambda x, y: np.dot(x, y) / mp.sqrt(np.dot(x, x) * np.dot(y, y)),
    "cosine_distance": lambda x, y: 1 - np.dot(x, y) / mp.sqrt(np.dot(x, x) * np.dot(y, y)),
    "sigmoid_focal_loss": focal,
    "sigmoid_binary_cross_entropy": lambda x, t: mp.log(1 + mp.exp(x)) - t * x,
    "softmax_cross_entropy safe_softmax_cross_entropy": cross_entropy,
    "poly_loss_cross_entropy": lambda x, t: cross_entropy(x, t) + 2 * np.dot(t, 1 - softmax(x)),
    "hinge_loss": lambda x, t: max(1 - x * t, mp.mpf(0)),
    "perceptron_loss": lambda x, t: max(-x * t, mp.mpf(0)),
    "huber_loss": lambda x, y: (x - y) ** 2 / 2 if abs(x - y) <= 1 else abs(x - y) - mp.mpf(1) / 2,
    "l2_loss": lambda x, y: (x - y) ** 2 / 2,
    "squared_error": lambda x, y: (x - y) ** 2,
    "log_cosh": lambda x, y: mp.log(mp.cosh(x - y)),
    "projection_box": lambda x, a, b: min(max(x, a), b),
    "projection_halfspace": lambda x, a, b: plane(x, a, b, True),
    "projection_hyperplane": lambda x, a, b: plane(x, a, b, False),
    "projection_vector": lambda x, a: np.dot(x, a) / np.dot(a, a) * a,
    "projection_simplex projection_simplex[boundary]": simplex,
    "projection_l1_sphere projection_l1_sphere[boundary]": l1_sphere,
    "projection_l1_ball projection_l1_ball[boundary]": lambda x,
        s: x if sum(abs(x)) <= s else l1_sphere(x, s),
    "projection_l2_sphere projection_l2_sphere[boundary]": lambda x, s: s * x / mp.sqrt(np.dot(x, x)),
    "projection_l2_ball projection_l2_ball[boundary]": lambda x, s: s * x / max(mp.sqrt(np.dot(x, x)), s),
    "projection_linf_ball projection_linf_ball[boundary]": lambda x, s: np.minimum(np.maximum(x, -s), s),
    "projection_non_negative": lambda x: max(x, mp.mpf(0)),
    # jax.nn
    "celu": lambda x: x if x > 0 else mp.expm1(x),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "gelu": lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
    "gelu[exact]": lambda x: x / 2 * mp.erfc(-x / mp.sqrt(2)),
    "hard_sigmoid": lambda x: min(max(x / 6 + mp.mpf(1) / 2, 0), 1) * mp.mpf(1),
    "hard_silu": lambda x: x * min(max(x / 6 + mp.mpf(1) / 2, 0), 1),
    "hard_tanh": lambda x: min(max(x, mp.mpf(-1)), mp.mpf(1)),
    "leaky_relu": lambda x: x if x > 0 else mp.mpf(0.01) * x,
    "log1mexp": lambda x: mp.log(-mp.expm1(-x)),
    "log_sigmoid": lambda x: -mp.log(1 + mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(mp.log(1 + mp.exp(x))),
    "relu": lambda x: max(x, mp.mpf(0)),
    "relu6": lambda x: min(max(x, mp.mpf(0)), mp.mpf(6)),
    "selu": lambda x: mp.mpf("1.0507009873554804934193349852946")
        * (x if x > 0 else mp.mpf("1.6732632423543772848170429916717") * mp.expm1(x)),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "soft_sign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: mp.log(1 + mp.exp(x)),
    "sparse_plus": lambda x: mp.mpf(0) if x <= -1 else x if x >= 1 else (x + 1) ** 2 / 4,
    "sparse_sigmoid": lambda x: min(max((x + 1) / 2, mp.mpf(0)), mp.mpf(1)),
    "squareplus": lambda x: (x + mp.sqrt(x * x + 4)) / 2,
}  # fmt: skip


def located(log_density: Oracle) -> Oracle:
    """The log-density with the arguments loc and scale added."""

    def shifted(x: Any, *args: Any) -> Any:
        *shape, loc, scale = args
        return log_density((x - loc) / scale, *shape) - mp.log(scale)

    return shifted


def moved(cdf: Oracle) -> Oracle:
    return lambda x, *args: cdf((x - args[-2]) / args[-1], *args[:-2])


def on(holds: Any, log_density: Callable[[], Any]) -> Any:
    """A log-density on its support."""
    return log_density() if holds else -mp.inf


def normal_cdf(x: Any) -> Any:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def lower_gamma(a: Any, x: Any) -> Any:
    return mp.gammainc(a, 0, max(x, mp.mpf(0)), regularized=True)


# Of the standard distributions: log-density and distribution function.
DISTRIBUTIONS: dict[str, tuple[Oracle, Oracle | None]] = {
    "beta": (
        lambda x, a, b: on(0 <= x <= 1,
            lambda: xlogy(a - 1, x) + xlogy(b - 1, 1 - x) - mp.log(mp.beta(a, b))),
        lambda x, a, b: incomplete_beta(a, b, min(max(x, mp.mpf(0)), mp.mpf(1))),
    ),
    "cauchy": (lambda x: -mp.log(mp.pi * (1 + x * x)), lambda x: mp.atan(x) / mp.pi + mp.mpf(1) / 2),
    "chi2": (
        lambda x, k: on(x >= 0, lambda: xlogy(k / 2 - 1, x) - x / 2 - log_gamma(k / 2) - k / 2 * mp.log(2)),
        lambda x, k: lower_gamma(k / 2, x / 2),
    ),
    "expon": (lambda x: on(x >= 0, lambda: -x), lambda x: -mp.expm1(-max(x, mp.mpf(0)))),
    "gamma": (lambda x, a: on(x >= 0, lambda: xlogy(a - 1, x) - x - log_gamma(a)),
        lambda x, a: lower_gamma(a, x)),
    "gumbel_l": (lambda x: x - mp.exp(x), lambda x: -mp.expm1(-mp.exp(x))),
    "gumbel_r": (lambda x: -x - mp.exp(-x), lambda x: mp.exp(-mp.exp(-x))),
    "laplace": (lambda x: -abs(x) - mp.log(2), lambda x: (1 + mp.sign(x) * -mp.expm1(-abs(x))) / 2),
    "logistic": (lambda x: -x - 2 * mp.log(1 + mp.exp(-x)), lambda x: 1 / (1 + mp.exp(-x))),
    "norm": (lambda x: -(x * x + mp.log(2 * mp.pi)) / 2, normal_cdf),
    "pareto": (
        lambda x, b: on(x >= 1, lambda: mp.log(b) - (b + 1) * mp.log(x)),
        lambda x, b: 1 - max(x, mp.mpf(1)) ** -b,
    ),
    "t": (
        lambda x, n: log_gamma((n + 1) / 2) - log_gamma(n / 2) - mp.log(n * mp.pi) / 2
        - (n + 1) / 2 * mp.log(1 + x * x / n),
        None,
    ),
    "truncnorm": (
        lambda x, a, b: on(
            a <= x <= b, lambda: -(x * x + mp.log(2 * mp.pi)) / 2 - mp.log(normal_cdf(b) - normal_cdf(a))
        ),
        lambda x, a, b: (normal_cdf(min(max(x, a), b)) - normal_cdf(a)) / (normal_cdf(b) - normal_cdf(a)),
    ),
    "uniform": (lambda x: on(0 <= x <= 1, lambda: mp.mpf(0)), lambda x: min(max(x, mp.mpf(0)), mp.mpf(1))),
}  # fmt: skip
for _name, (_log_density, _cdf) in DISTRIBUTIONS.items():
    _log = located(_log_density)
    ORACLES[f"{_name}.logpdf"] = _log
    ORACLES[f"{_name}.pdf"] = lambda *args, log=_log: mp.exp(log(*args))
    if _cdf is not None:
        _at = moved(_cdf)
        ORACLES[f"{_name}.cdf"] = _at
        ORACLES[f"{_name}.sf"] = lambda *args, cdf=_at: 1 - cdf(*args)
        ORACLES[f"{_name}.logcdf"] = lambda *args, cdf=_at: mp.log(cdf(*args))
        ORACLES[f"{_name}.logsf"] = lambda *args, cdf=_at: mp.log(1 - cdf(*args))
QUANTILES: dict[str, Oracle] = {
    "cauchy": lambda q: mp.tan(mp.pi * (q - mp.mpf(1) / 2)),
    "expon": lambda q: -mp.log(1 - q),
    "gumbel_l": lambda q: mp.log(-mp.log(1 - q)),
    "gumbel_r": lambda q: -mp.log(-mp.log(q)),
    "logistic": lambda q: mp.log(q / (1 - q)),
    "norm": lambda q: mp.sqrt(2) * mp.erfinv(2 * q - 1),
    "pareto": lambda q, b: (1 - q) ** (-1 / b),
    "uniform": lambda q: q,
}
for _name, _quantile in QUANTILES.items():
    ORACLES[f"{_name}.ppf"] = lambda q, *args, f=_quantile: f(q, *args[:-2]) * args[-1] + args[-2]
    ORACLES[f"{_name}.isf"] = lambda q, *args, f=_quantile: f(1 - q, *args[:-2]) * args[-1] + args[-2]


def log_binomial(n: Any, k: Any) -> Any:
    return log_gamma(n + 1) - log_gamma(k + 1) - log_gamma(n - k + 1)


MASSES: dict[str, Oracle] = {
    "bernoulli": lambda k, p: xlogy(k, p) + xlogy(1 - k, 1 - p),
    "betabinom": lambda k, n, a, b: (
        log_binomial(mp.mpf(n), k) + mp.log(mp.beta(k + a, n - k + b) / mp.beta(a, b))
    ),
    "binom": lambda k, n, p: log_binomial(mp.mpf(n), k) + xlogy(k, p) + xlogy(n - k, 1 - p),
    "geom": lambda k, p: xlogy(k - 1, 1 - p) + mp.log(p),
    "nbinom": lambda k, n, p: (
        log_gamma(k + n) - log_gamma(mp.mpf(n)) - log_gamma(k + 1) + n * mp.log(p) + xlogy(k, 1 - p)
    ),
    "poisson": lambda k, mu: xlogy(k, mu) - log_gamma(k + 1) - mu,
}
for _name, _log_mass in MASSES.items():
    ORACLES[f"{_name}.logpmf"] = _log_mass
    ORACLES[f"{_name}.pmf"] = lambda *args, log=_log_mass: mp.exp(log(*args))
ORACLES |= {
    "gennorm.logpdf": lambda x, b: mp.log(b / 2) - log_gamma(1 / b) - abs(x) ** b,
    "gennorm.pdf": lambda x, b: b / 2 / mp.gamma(1 / b) * mp.exp(-(abs(x) ** b)),
    "gennorm.cdf": lambda x, b: (1 + mp.sign(x) * lower_gamma(1 / b, abs(x) ** b)) / 2,
    "vonmises.logpdf": lambda x, k: k * mp.cos(x) - mp.log(2 * mp.pi * mp.besseli(0, k)),
    "vonmises.pdf": lambda x, k: mp.exp(k * mp.cos(x)) / (2 * mp.pi * mp.besseli(0, k)),
    "wrapcauchy.logpdf": lambda x, c: on(
        0 <= x <= 2 * mp.pi, lambda: mp.log((1 - c * c) / (2 * mp.pi * (1 + c * c - 2 * c * mp.cos(x))))
    ),
    "wrapcauchy.pdf": lambda x, c: (
        (1 - c * c) / (2 * mp.pi * (1 + c * c - 2 * c * mp.cos(x))) * (0 <= x <= 2 * mp.pi)
    ),
}
ORACLE = {name: oracle for names, oracle in ORACLES.items() for name in names.split()}


def oracle_of(function: str, rule: Rule) -> tuple[Oracle | None, str]:
    """The oracle under the longest ending of the function's name, or NumPy's function on mpmath's numbers."""
    words = function.split(".")
    endings = (".".join(words[start:]) for start in range(len(words)))
    found = next(
        (ORACLE[key] for e in endings if (key := e + f"[{rule.note}]" * bool(rule.note)) in ORACLE), None
    )
    if found is not None:
        return found, "mpmath"
    same = getattr(np, words[-1], None)
    if same is None or function != f"jax.numpy.{words[-1]}" or isinstance(same, np.ufunc):
        return None, ""

    def oracle(*args: Any) -> Any:
        found = jax.tree.leaves(rule.call(same, *(np.asarray(arg) for arg in args)))
        if any(np.asarray(part).dtype != object for part in found):
            raise TypeError  # it computed in float64
        return tuple(found)

    return oracle, "NumPy with mpmath's numbers"


# The release in which it was seen first, of those that a public report names.
SEEN = {
    "jax.scipy.special.i0": "2026-09, jax #40628",
    "jax.numpy.ldexp": "0.10.1, jax #37992",
    "jax.numpy.sinc": "2026-01, jax #34139",
    "jax.scipy.special.logsumexp[[]b]": "0.4.30, jax #22398",
    "jax.numpy.linalg.*norm*": "0.1.64, jax #3058; held to be intended",
    "jax.numpy.*std*": "0.3.14, jax #11716; held to be intended",
    "jax.scipy.special.boxcox*": "the function's first, jax #37564",
}


# The audit.


class Finding(NamedTuple):
    """What came of one function at one point."""

    function: str
    """Its name, and in brackets what is special about the call."""
    point: str
    verdict: Verdict
    detail: str = ""
    """What the checker says, or the exception."""
    gradients: Mapping[str, np.ndarray | str] = {}
    truth: Truth | None = None
    how: str = ""
    """What the truth was computed with."""
    kinds: Mapping[str, tuple[Kind, np.ndarray]] = {}
    """By mode of autodiff."""

    @property
    def kind(self) -> Kind | None:
        """The worst of both modes; None where no oracle says."""
        order: tuple[Kind, ...] = ("wrong", "value", "tie", "rounding", "right")
        found = [kind for kind, _ in self.kinds.values()]
        return next((kind for kind in order if kind in found), None)


def cases(name: str, fn: Callable[..., Any], rule: Rule, dtype: str) -> Iterator[Case]:
    """A function at the points of a rule where it is finite, by the arguments that are."""
    f = summed(rule, fn)
    value_of = compiled(f)
    for point, values in rule.points.items():
        args = tuple(np.asarray(v, dtype) if floating(v) else v for v in values)
        argnums = tuple(n for n, arg in enumerate(args) if floating(arg) and np.isfinite(arg).all())
        if argnums and np.isfinite(value_of(*args)):
            yield Case(name, rule.note, point, f, args, argnums)


def ordinary(case: Case, gradients: Mapping[str, np.ndarray | str]) -> bool:
    """Whether nothing about a case is special, so that it can be checked together with others."""
    values = [abs(g) for g in gradients.values() if isinstance(g, np.ndarray)]
    numbers = all(np.ndim(arg) == 0 and floating(arg) for arg in case.args)
    return (
        numbers
        and len(case.argnums) == len(case.args)
        and all(((v > 1e-3) & (v < 1e3)).all() for v in values)
    )


def able(found: Sequence[Case]) -> tuple[set[int], str]:
    """The arguments that jax differentiates by in either mode, and what it says of the others."""
    can: set[int] = set()
    why: dict[str, None] = {}
    for case in found[:1]:
        if any(isinstance(g, np.ndarray) for g in derivatives(case).values()):
            return {n for case in found for n in case.argnums}, ""
        for n in case.argnums:
            tried = derivatives(case._replace(argnums=(n,))).values()
            if any(isinstance(g, np.ndarray) for g in tried):
                can.add(n)
            else:
                why[str(next(iter(tried)))] = None
    return can, "; ".join(why)


def examine(
    name: str, fn: Callable[..., Any], dtype: str, skip: set[str], say: Callable[[str], None]
) -> Iterator[Finding]:
    """Check one function everywhere; say what begins, and skip what has not ended before."""
    rules: list[Rule] = [rule for rule in RULES if named(name, rule.names)]
    if all(rule.note for rule in rules):
        auto = automatic(name, fn)
        if isinstance(auto, str) and not rules:
            raise NotImplementedError(auto)
        rules += [] if isinstance(auto, str) else auto
    for rule in rules:
        full = name + f"[{rule.note}]" * bool(rule.note)
        say(f"{rule.note} values")
        try:
            all_cases = list(cases(name, fn, rule, dtype))
        except Exception as error:
            yield Finding(full, "", "not callable", str(error).split("\n")[0])
            continue
        can, why = able(all_cases)
        if why:
            yield Finding(full, "", "no derivative", why)
        found = {
            case.point: (case, derivatives(case))
            for case in (
                case._replace(argnums=tuple(n for n in case.argnums if n in can)) for case in all_cases
            )
            if case.argnums
        }
        usual = {point: case for point, (case, gradients) in found.items() if ordinary(case, gradients)}
        if (what := f"{rule.note} ordinary points") in skip:
            usual = {}
        elif usual:
            say(what)
            columns = tuple(
                np.stack(column) for column in zip(*(case.args for case in usual.values()), strict=True)
            )
            if judge(jax.vmap(summed(rule, fn)), columns, tuple(range(len(columns))))[0] != "pass":
                usual = {}
        for point, (case, gradients) in found.items():
            if (what := f"{rule.note} {point}") in skip:
                yield Finding(full, point, "exception", f"does not end in {PATIENCE} s", gradients)
                continue
            say(what)
            verdict, detail = judge(case.f, case.args, case.argnums) if point not in usual else ("pass", "")
            yield Finding(full, point, verdict, detail, gradients, *settled(case, gradients, rule, dtype))


def settled(
    case: Case, gradients: Mapping[str, np.ndarray | str], rule: Rule, dtype: str
) -> tuple[Truth | None, str, dict[str, tuple[Kind, np.ndarray]]]:
    """What the oracle says of a case: the truth, what it was computed with, and what the gradients are."""
    oracle, how = oracle_of(case.function, rule)
    if oracle is None:
        return None, "", {}
    try:
        with at_most(ORACLE_PATIENCE):
            truth = truth_of(oracle, case)
            arrays = {mode: g for mode, g in gradients.items() if isinstance(g, np.ndarray)}
            return truth, how, {mode: kind_of(g, truth, case, oracle, dtype) for mode, g in arrays.items()}
    except (TimeoutError, TypeError, AttributeError, OverflowError):
        return None, "", {}  # not for these arguments


PATIENCE = 60  # seconds for one check: a loop may never end at a point that the checker tries


def serve(connection: Connection, dtype: str) -> None:
    """Examine the functions whose names arrive, in a process that can be ended when one does not end."""
    warnings.simplefilter("ignore")
    mp.mp.dps = DIGITS
    functions, served = dict(public_functions()), 0
    with jax.enable_x64(dtype == "float64"), np.errstate(all="ignore"):
        while True:
            name, skip = connection.recv()
            try:
                found = list(examine(name, functions[name], dtype, skip, connection.send))
                connection.send(found)
            except Exception as error:
                connection.send(
                    error
                    if isinstance(error, NotImplementedError)
                    else RuntimeError(traceback.format_exc(limit=-3))
                )
            served += 1
            if served % 20 == 0:
                jax.clear_caches()  # type: ignore[no-untyped-call, unused-ignore]


def audit(only: str, dtype: str) -> tuple[list[Finding], dict[str, str]]:
    """Every case of every function, and why the others were left out."""
    findings: list[Finding] = []
    left_out: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    child = None
    for name, _ in public_functions():
        reason = next((reason for reason, names in LEFT_OUT.items() if named(name, names)), "")
        if reason:
            left_out[name] = reason
        if reason or not name.startswith(only):
            continue
        begin, skip, found = time.perf_counter(), set[str](), None
        while found is None:
            if child is None:
                connection, theirs = context.Pipe()
                child = context.Process(target=serve, args=(theirs, dtype), daemon=True)
                child.start()
                theirs.close()
            connection.send((name, skip))
            what = ""
            with contextlib.suppress(EOFError):  # the child has died
                while found is None and connection.poll(PATIENCE):
                    message = connection.recv()
                    if isinstance(message, str):
                        what = message
                    else:
                        found = message
            if found is None:
                print(f"{name}: {what} does not end, or its process died", flush=True)
                skip.add(what)
                child.kill()
                child = None
                if len(skip) > 3 or what.endswith("values"):
                    found = RuntimeError(f"does not end: {', '.join(sorted(skip))}")
        seconds = f"{time.perf_counter() - begin:.1f} s"
        if isinstance(found, list):
            findings += found
            counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(f.verdict for f in found).items())
            counts += f", {wrong} wrong" if (wrong := sum(f.kind == "wrong" for f in found)) else ""
        else:
            left_out[name] = counts = str(found)
        print(
            f"{time.perf_counter() - start:5.0f} s  {name}: {counts or 'finite nowhere'} ({seconds})",
            flush=True,
        )
    if child is not None:
        child.kill()
    return findings, left_out


def numbers(values: np.ndarray, where: np.ndarray) -> str:
    """A few elements as text, wrong ones first."""
    chosen = np.flatnonzero(where)[:2] if where.any() else np.arange(len(values))[:2]
    return ", ".join(f"{values[i]:.6g}" for i in chosen) + (", ..." if len(values) > len(chosen) else "")


def texts(f: Finding) -> tuple[str, str]:
    """What jax returns, by mode where they differ, and what is true."""
    wrong = [where for kind, where in f.kinds.values() if kind != "right"]
    shown = wrong[0] if wrong else np.zeros(1, bool)
    got = {mode: numbers(g, shown) if isinstance(g, np.ndarray) else g for mode, g in f.gradients.items()}
    said = "; ".join(f"{mode}: {text}" for mode, text in got.items())
    if f.truth is None:
        return said, ""
    low, high = numbers(f.truth.low, shown), numbers(f.truth.high, shown)
    same = len(set(got.values())) == 1
    return next(iter(got.values())) if same else said, low if low == high else f"{low} to {high}"


def row(f: Finding) -> str:
    got, true = texts(f)
    return f"{f.function} | {f.point} | {got} | {true} | {f.kind or ''} | {f.verdict} {f.detail}"


def table(findings: Sequence[Finding]) -> str:
    """What is wrong as a table in Markdown; functions with the same rows in one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for f in findings:
        got, true = texts(f)
        seen = next((text for patterns, text in SEEN.items() if named(f.function, patterns)), "")
        names.setdefault((f.point, got, true, f.how, seen), []).append(f.function)
    rows = [[", ".join(f"`{name}`" for name in found), *cells] for cells, found in names.items()]
    head = ["function", "at", "jax returns", "true", "according to", "seen since"]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *sorted(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="MODULE", default="", help="only names that begin like this")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write what is wrong as a table")
    options = parser.parse_args()
    findings, left_out = audit(options.only, options.dtype)
    checked = [f for f in findings if f.verdict not in ("no derivative", "not callable")]
    functions = {f.function.split("[")[0] for f in checked}
    known = [f for f in checked if f.kind is not None]
    releases = f"jax {jax.__version__}, optax {optax.__version__}, {options.dtype}"
    summary = f"{releases}: {len(functions)} functions at {len(checked)} points, {len(known)} with an oracle"
    lists: dict[str, list[Finding]] = {
        "wrong": [f for f in known if f.kind == "wrong"],
        "wrong, yet passed by the checker": [f for f in known if f.kind == "wrong" and f.verdict == "pass"],
        "not confirmed: right by the oracle, failed by the checker": [
            f for f in known if f.verdict == "fail" and f.kind in ("right", "rounding")
        ],
        "failed by the checker, without an oracle": [
            f for f in checked if f.verdict == "fail" and f.kind is None
        ],
        "between the slopes beside a tie, not at it": [f for f in known if f.kind == "tie"],
        "off with the function's own value": [f for f in known if f.kind == "value"],
        "off by the last bits of 1": [f for f in known if f.kind == "rounding"],
        "inconclusive": [f for f in checked if f.verdict == "inconclusive"],
        "exceptions of the checker": [f for f in checked if f.verdict == "exception"],
        "no derivative": [f for f in findings if f.verdict == "no derivative"],
        "not callable as the rules say": [f for f in findings if f.verdict == "not callable"],
    }
    for name, found in lists.items():
        print(f"\n{name}: {len(found)}")
        for f in found:
            print("  " + row(f))
    print("\nleft out:")
    for reason, some in itertools.groupby(sorted(left_out, key=lambda n: left_out[n]), lambda n: left_out[n]):
        print(f"  {reason}: {', '.join(some)}")
    print(f"\n{summary}; {len(lists['wrong'])} wrong")
    if options.out:
        options.out.write_text(f"{summary}.\n\n{table(lists['wrong'])}\n")


if __name__ == "__main__":
    main()
