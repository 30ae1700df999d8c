"""The verdict on every element of every estimate of a gradient, from the numerical estimate's error bar."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnet import estimates, findings
from jaxnet._probe import CHUNK_BYTES, Directions, Probe, is_float64
from jaxnet.estimates import Estimate
from jaxnet.findings import DIRECTIONS, ERROR_BARS
from jaxnet.report import (
    Checked,
    GradientReport,
    Lines,
    Method,
)

PyTree = Any
LIMIT = 10_000  # elements that are all looked at, one by one, ...
_CHEAP_LIMIT = 100_000  # ... or these, where that is no more work than so many evaluations of f
_SAMPLE = 2_000  # elements of a larger pytree
_FORWARD_SAMPLE = 256  # elements
_COMPLEX_SAMPLE = 256  # elements, and all that the central difference does not decide
_RESOLUTION = 2e-3  # of an element, and ...
_LEAF_RESOLUTION = 1e-4  # ... of its leaf's largest: an error bar wider than both decides nothing


def compare(problem: Any, methods: list[Method], limit: int | None, seed: int) -> GradientReport:
    """Judge every method against the numerical estimate, where x64 is enabled, and report."""
    total = int(problem.starts[-1])
    probe = Probe(problem.evaluate, problem.point)
    contexts = problem.weights()
    probe.context = contexts[0]
    with problem.running("the numerical estimates"):
        probe.trace()
    if limit is None:
        cheap = total <= _CHEAP_LIMIT and probe.work <= LIMIT
        limit = total if cheap else LIMIT
    exhaustive = total <= limit
    index = np.arange(total) if exhaustive else _sample(problem, methods, limit, seed)
    rounds: list[Checked] = []
    lines: list[list[Lines]] = []
    for number, weights in enumerate(contexts):
        probe.context = weights
        with problem.running("the numerical estimates"):
            for method in methods:
                if method.sampled:
                    _forward_some(problem, method, index, weights)
            rounds.append(_judge(problem, probe, methods, index, number))
            if not exhaustive or any(method.sampled for method in methods):
                lines.append(_directions(problem, probe, methods, rounds[-1], number, seed))
    leaves = [
        findings.leaf_report(problem, methods, rounds, lines, leaf, exhaustive)
        for leaf in range(len(problem.sizes))
    ]
    return findings.gradient_report(problem, methods, rounds, leaves)


def _sample(problem: Any, methods: list[Method], limit: int, seed: int) -> np.ndarray:
    """Return the elements of a large pytree to look at: random ones, and those the methods disagree about."""
    rng = np.random.default_rng(seed)
    quota = max(1, min(_SAMPLE, limit) // len(problem.sizes))
    known = [method for method in methods if method.own]
    chosen = []
    for start, size in zip(problem.starts, problem.sizes, strict=False):
        leaf = slice(start, start + size)
        chosen.append(start + rng.permutation(size)[:quota])
        for method in known:
            apart = np.abs(method.best(0)[leaf] - known[0].best(0)[leaf])
            chosen.append(start + np.argsort(np.where(np.isnan(apart), np.inf, apart))[-8:])
            chosen.append(start + np.argsort(np.abs(method.best(0)[leaf]))[-8:])
    return np.unique(np.concatenate(chosen))


def _forward_some(problem: Any, method: Method, index: np.ndarray, weights: PyTree) -> None:
    """Run forward autodiff in float64 for as many of the elements as is affordable."""
    flat, unravel = ravel_pytree(problem.point)
    some = np.sort(np.random.default_rng(0).permutation(index)[:_FORWARD_SAMPLE])

    def derivatives(point: PyTree, some: Array) -> Array:
        def derivative(i: Array) -> Array:
            direction = unravel(jnp.zeros_like(flat).at[i].set(1))
            return jax.jvp(lambda p: problem.evaluate(p, weights), (point,), (direction,))[1]

        return jax.lax.map(derivative, some, batch_size=batch)

    batch = max(1, min(64, CHUNK_BYTES // (8 * flat.nbytes)))
    values = np.full(flat.size, np.nan)
    values[some] = jax.jit(derivatives)(problem.point, jnp.asarray(some))
    method.looked = np.isin(np.arange(flat.size), some)
    method.own.append(values)


class _Judge:
    """The tolerance of each method for some elements, and who is outside it."""

    def __init__(self, problem: Any, methods: list[Method], index: np.ndarray, number: int, center: float):
        self.index, self.number, self.center = index, number, center
        self.leaf_of = np.searchsorted(problem.starts, index, side="right") - 1
        self.leaves = len(problem.sizes)
        self.methods = [method for method in methods if method.own]
        self.inside = {method.name: self._computes_inside(method) for method in self.methods}

    def _computes_inside(self, method: Method) -> bool:
        """Whether a method computes in its own type inside even where it is given float64."""
        if method.wide is None:
            return False
        values = method.wide[self.number]
        types = {dtype for dtype in method.dtypes if not is_float64(dtype)}
        return bool(values.any()) and any(
            np.array_equal(values.astype(t).astype(float), values) for t in types
        )

    def scale(self, found: Estimate) -> np.ndarray:
        """Return, for each element, the largest derivative of its leaf, or slope where that vanishes."""
        largest = np.zeros(self.leaves)
        size = np.maximum(np.abs(np.nan_to_num(found.value)), found.slope)
        np.maximum.at(largest, self.leaf_of, np.where(np.isfinite(size), size, 0))
        return largest[self.leaf_of]

    def allowance(self, method: Method, found: Estimate, scale: np.ndarray, *, wide: bool) -> np.ndarray:
        """Return what rounding explains of a method's own values, or of its values in float64."""
        epsilon, tiny = _rounding(method.dtypes, self.leaf_of)
        size = np.abs(found.value)
        if wide:
            narrow = 4 * epsilon * size + epsilon / 4 * scale
        else:
            narrow = 4 * epsilon * size + 2 * epsilon * scale + 8 * method.noise[self.index] + 8 * tiny
        return np.where(epsilon < 1e-15, 1e-11 * (size + scale), narrow)

    def failures(self, found: Estimate) -> dict[str, np.ndarray]:
        """Return, by method, the elements that are wrong."""
        scale, result = self.scale(found), {}
        for method in self.methods:
            own = method.own[self.number][self.index]
            wrong = _outside(own, found, self.allowance(method, found, scale, wide=False))
            if method.wide is not None and not self.inside[method.name]:
                values = method.wide[self.number][self.index]
                wrong |= _outside(values, found, self.allowance(method, found, scale, wide=True))
            wrong &= np.isfinite(found.error) | (~np.isfinite(own) & np.isfinite(self.center))
            result[method.name] = wrong & method.looked[self.index] if method.sampled else wrong
        return result


def _outside(values: np.ndarray, found: Estimate, allowance: np.ndarray) -> np.ndarray:
    slack = ERROR_BARS * found.error + allowance
    return ~((values >= found.low - slack) & (values <= found.high + slack))


def _rounding(dtypes: list[Any], leaf_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    info = [jnp.finfo(dtype) for dtype in dtypes]
    epsilon, tiny = ([float(getattr(i, name)) for i in info] for name in ("eps", "smallest_subnormal"))
    return np.array(epsilon)[leaf_of], np.array(tiny)[leaf_of]


def _judge(problem: Any, probe: Probe, methods: list[Method], index: np.ndarray, number: int) -> Checked:
    """Return the numerical estimates of the elements, and each method's verdict on them."""
    sigma, center = estimates.noise(probe), probe.center
    judge = _Judge(problem, methods, index, number, center)
    natural = abs(center) / estimates.scales(probe.flat, probe.sizes)[index]

    def resolved(found: Estimate, scale: np.ndarray) -> np.ndarray:
        fine = found.error <= np.maximum(_RESOLUTION * np.abs(found.value), _LEAF_RESOLUTION * scale)
        return fine | (found.flat & (found.error <= 1e-6 * natural))

    def unsettled(found: Estimate) -> np.ndarray:
        suspicious = np.any(list(judge.failures(found).values()) or [np.zeros(len(index), bool)], axis=0)
        return ~resolved(found, judge.scale(found)) | (suspicious & ~found.confirmed)

    found = estimates.richardson(probe, index, sigma, unsettled)
    scale = judge.scale(found)
    good = resolved(found, scale)
    wrong = np.any([np.zeros(len(index), bool), *judge.failures(found).values()], axis=0)
    # Where the central difference does not decide, where something is wrong, and some of the rest.
    order = np.lexsort((np.random.default_rng(0).permutation(len(index)), ~wrong, good))
    some = np.sort(order[: max(_COMPLEX_SAMPLE, int((~good).sum()))])
    values, reason = _complex_step(probe, index, found, some)
    if values is not None and good.any():
        # Verified wherever the central difference is sharp, it decides where that is not.
        rescued = ~good & np.isfinite(values) & np.isfinite(found.error)
        for bound in (found.value, found.low, found.high):
            bound[rescued] = values[rescued]
        found.error[rescued] = 1e-9 * scale[rescued]
        good = good | rescued
    return Checked(
        index=index,
        leaf_of=judge.leaf_of,
        estimate=found,
        scale=scale,
        resolved=good,
        failed=judge.failures(found),
        margins={m.name: judge.allowance(m, found, scale, wide=False) for m in judge.methods},
        complex_values=values,
        complex_looked=np.isin(np.arange(len(index)), some),
        complex_reason=reason,
        sigma=sigma,
        finite_center=bool(np.isfinite(center)),
        curve=_step_curve(probe, index, found, judge.failures(found)),
    )


def _complex_step(
    probe: Probe, index: np.ndarray, found: Estimate, some: np.ndarray
) -> tuple[np.ndarray | None, str | None]:
    """Return the complex step of some of the rows, NaN in the others, or why there is none."""
    values = np.full(len(index), np.nan)
    try:
        values[some] = estimates.complex_step(probe, index[some])
    except TypeError as error:
        return None, str(error)
    wrong = some[(estimates.mismatch(found, values) & np.isfinite(found.error))[some]]
    if wrong.size:
        first = wrong[0]
        return None, (
            f"f is not analytic: {values[first]:.6g} for element {index[first]}, "
            f"where the central difference is {found.value[first]:.6g}"
        )
    return values, None


def _directions(
    problem: Any, probe: Probe, methods: list[Method], checked: Checked, number: int, seed: int
) -> list[Lines]:
    """Compare slopes along random directions of each leaf.

    All elements of a leaf move by as much, in random senses: an error in any single one shows in each.
    """
    rng = np.random.default_rng(seed + 1)
    weights = problem.weights()[number]
    slope = jax.jit(lambda p, v: jax.jvp(lambda q: problem.evaluate(q, weights), (p,), (v,))[1])
    result = []
    for leaf_number, (start, size) in enumerate(zip(problem.starts, problem.sizes, strict=False)):
        leaf = slice(start, start + size)
        looked = int((checked.leaf_of == leaf_number).sum())
        if not size:
            result.append(Lines(0, [], 0.0))
            continue
        unit = float(estimates.scales(probe.flat, probe.sizes)[leaf].min())
        signs = unit * rng.choice([-1.0, 1.0], (DIRECTIONS, size))

        def direction(row: int, leaf: slice = leaf, signs: np.ndarray = signs) -> np.ndarray:
            full = np.zeros_like(probe.flat)
            full[leaf] = signs[row]
            return full

        found = estimates.richardson(
            Directions(probe, direction, DIRECTIONS),
            np.arange(DIRECTIONS),
            checked.sigma,
            lambda found: ~found.confirmed | (found.error > 1e-8 * np.abs(found.value)),
        )
        failed, resolution = [], 0.0
        for method in methods:
            if method.unavailable is not None or (looked == size and not method.sampled):
                continue
            if method.sampled:
                moves = (probe.unravel(jnp.asarray(direction(row))) for row in range(DIRECTIONS))
                mine = np.array([float(slope(problem.point, move)) for move in moves])
                rounding = 1e-11 * np.abs(found.value) + 1e-13 * unit * size
            else:
                best = method.best(number)[leaf]
                mine = signs @ best
                epsilon = float(jnp.finfo(method.dtypes[leaf_number]).eps)
                noise = method.noise[leaf] if method.wide is None else np.zeros(size)
                rounding = 8 * unit * np.sqrt(((epsilon * best) ** 2 + noise**2).sum())
            allowed = ERROR_BARS * found.error + rounding
            if (~(np.abs(mine - found.value) <= allowed)).any():
                failed.append(method.name)
            resolution = max(resolution, float(np.min(allowed)) / unit)
        result.append(Lines(size - looked, failed, resolution))
    return result


def _step_curve(
    probe: Probe, index: np.ndarray, found: Estimate, failed: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Return the central difference of the worst element over many steps, for `GradientReport.plot`."""
    size = np.abs(np.nan_to_num(found.value))
    failures = np.sum([np.zeros(len(index)), *failed.values()], axis=0)
    row = int(np.argmax(size + failures * (1 + size.max())))
    x = probe.flat[index[row]]
    steps = float(estimates.scales(probe.flat, probe.sizes)[index[row]]) * 2.0 ** -np.arange(0.0, 44.0)
    values = probe.elements(index[row : row + 1], np.concatenate([x + steps, x - steps])[None])[0]
    central = (values[: len(steps)] - values[len(steps) :]) / ((x + steps) - (x - steps))
    return {
        "element": int(index[row]),
        "steps": steps,
        "central": central,
        "value": float(found.value[row]),
        "chosen": float(found.step[row]),
    }
