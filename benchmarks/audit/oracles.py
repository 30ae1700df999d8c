"""The functions in mpmath's arithmetic."""

from collections.abc import Callable
from typing import Any

import jax
import jax.scipy
import jax.scipy.spatial.transform
import mpmath as mp
import numpy as np

from benchmarks.audit.rules import Rule
from benchmarks.audit.truth import Oracle


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
    "sign[complex]": lambda x, y: (x / mp.hypot(x, y), y / mp.hypot(x, y)),
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
    "comb": lambda n, k: mp.binomial(n, k) if 0 <= k <= n else mp.mpf(0),
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
