"""What the audit looks at: public functions, how to call those that need more than arrays; what not."""

import fnmatch
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy
import jax.scipy.spatial.transform
import numpy as np
from jax import lax

from benchmarks.audit.points import (
    IMAGE,
    LINE,
    MATRICES,
    MATRIX_PAIRS,
    ONE_MATRIX,
    ONE_VECTOR,
    OTHERS,
    PAIRS,
    POSITIVE,
    SYMMETRIC,
    TRIPLES,
    VECTOR_PAIRS,
    VECTOR_TRIPLES,
    VECTORS,
    M,
    N,
    Points,
    V,
    W,
    at,
    crossed,
    paired,
)

MODULES = [
    *("jax.numpy", "jax.numpy.linalg", "jax.numpy.fft"),
    *(module.name for module in pkgutil.walk_packages(jax.scipy.__path__, "jax.scipy.")),
    *("jax.nn", "jax.lax", "jax.lax.linalg", "optax.losses", "optax.projections"),
]


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
    "sets, which jump where numbers become equal": (
        "jax.numpy.unique* jax.numpy.union1d jax.numpy.intersect1d jax.numpy.setdiff1d jax.numpy.setxor1d"
    ),
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
