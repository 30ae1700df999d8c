"""Many networks compared: k-fold cross-validation, and successive halving."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Num, Shaped

from jaxnet.training.body import share_of
from jaxnet.training.examples import check_choice, check_positive_int, check_rows
from jaxnet.training.many import FitManyResult, fit_many, padded, share_of_result
from jaxnet.training.program import compile_evaluate
from jaxnet.training.run import kept_where
from jaxnet.training.state import AnyKey, Loss, Metric, PyTree, as_params, unwrapped, weights_of
from jaxnet.training.task import Part, check_key, check_stacked, check_task

Folds = Sequence[tuple[Int[ArrayLike, "..."] | list[Any], Int[ArrayLike, "..."] | list[Any]]]


class CrossValidation(NamedTuple):
    """The folds of a cross-validation; every array has them on the first axis."""

    scores: dict[str, Shaped[np.ndarray, "folds ..."]]
    """Each metric on what the fold held out; NaN of a network that diverged."""
    loss: Float[np.ndarray, "folds steps"]
    """Of each step's batch."""
    params: PyTree
    model_state: PyTree
    diverged: Bool[np.ndarray, " folds"]

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """The mean score of each metric."""
        return {name: np.asarray(values.mean(axis=0)) for name, values in self.scores.items()}

    @property
    def std(self) -> dict[str, np.ndarray]:
        """The standard deviation of the scores of each metric, with n - 1 degrees of freedom."""
        return {name: np.asarray(values.std(axis=0, ddof=1)) for name, values in self.scores.items()}


def cross_validate(
    loss: Loss,
    params: PyTree,
    train: tuple[PyTree, PyTree],
    *,
    folds: int | Folds = 5,
    metrics: Mapping[str, Metric] | None = None,
    key: AnyKey = None,
    has_state: bool = False,
    state: PyTree = None,
    has_aux: bool = False,
    **options: Any,
) -> CrossValidation:
    """Train one network for each fold on the others, all as one program, and score it on its own.

    folds: how many, drawn by key, or pairs of rows to train on and rows to score, such as
    `sklearn.model_selection.StratifiedKFold(5).split(x, t)` yields. Folds that are trained on different
    numbers of examples take one program for each number. params, state: of one network; each fold starts from
    them. metrics: as of `fit`; the loss by default. options: of `fit_many`, such as optimizer, steps and
    batch_size. A fold ends where `fit` with that key on its rows does, to float tolerance.

    Raises:
        ValueError, TypeError: as `fit_many`; fewer than two folds, more than examples, rows out of range.

    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> x = np.linspace(1, 2, 20)
    >>> found = cross_validate(square, jnp.array(0.0), (x, 3 * x), folds=4, steps=50, batch_size=5)
    >>> found.scores["loss"].shape, bool(found.mean["loss"] < 1e-6)
    ((4,), True)
    """
    options |= {"has_state": has_state, "has_aux": has_aux}
    if alone := {
        *("hyperparameters", "subsets", "batches", "test", "validation", "early_stopping", "resume")
    } & set(options):
        raise ValueError(f"options must be what all folds share, got {', '.join(sorted(alone))}")
    key = check_key(key)
    measured = {"loss": loss} if metrics is None else metrics
    task = check_task(loss, {"train": train}, metrics=measured, has_state=has_state, has_aux=has_aux)
    split = _rows_of(folds, task.num_examples, key)
    params, state = as_params(params), jax.tree.map(jnp.asarray, state)

    lengths = np.array([len(rows) for rows, _ in split])
    same_length = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    results = [
        fit_many(
            loss,
            unwrapped(_copies(params, len(own))),
            train,
            state=_copies(state, len(own)),
            subsets=np.stack([split[index][0] for index in own]),
            metrics={},
            key=key,
            **options,
        )
        for own in same_length
    ]
    back = np.argsort(np.concatenate(same_length))
    last = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *(result.state for result in results))
    diverged = np.concatenate([result.diverged for result in results])[back]
    length = max(result.history.loss.shape[1] for result in results)
    losses = np.concatenate([padded(result.history.loss, length) for result in results])[back]

    def score(fold: int) -> dict[str, Any]:
        held_out = jax.tree.map(lambda leaf: leaf[split[fold][1]], task.parts["train"])
        scored = task._replace(parts={"test": held_out}, eval_parts=("test",))
        own = share_of(last, fold)
        return compile_evaluate(scored, own, many=False)(own)["test"]

    each = [score(fold) for fold in range(len(split))]
    scores = {name: kept_where(~diverged, np.stack([found[name] for found in each])) for name in task.metrics}
    weights = weights_of(last)
    return CrossValidation(scores, losses, unwrapped(weights[0]), weights[1], diverged)


def _rows_of(folds: int | Folds, length: int, key: Array) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows that each fold is trained on, and those that it is scored on."""
    if isinstance(folds, (int, np.integer)):
        if not 2 <= check_positive_int(folds, "folds") <= length:
            raise ValueError(f"folds must be from 2 to the {length} examples, got {folds}")
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 2**32 - 1), length))
        parts = np.array_split(order, folds)
        folds = [(np.sort(np.setdiff1d(order, part)), np.sort(part)) for part in parts]
    pairs: list[Any] = list(folds) if np.iterable(folds) else []
    if not all(np.iterable(pair) and all(map(_is_rows, pair)) for pair in pairs or [0]):
        raise TypeError(
            "folds must be a number, or pairs of rows to train on and rows to score, such as "
            f"StratifiedKFold(5).split(x, t) yields, got {folds!r:.60}"
        )
    found = [
        tuple(np.asarray(check_rows(np.asarray(rows)[None], "folds", "1, rows", length))[0] for rows in pair)
        for pair in pairs
    ]
    if len(found) < 2 or any(len(pair) != 2 for pair in found):
        raise ValueError(
            f"folds must be two or more pairs of rows to train on and to score, got {len(found)}"
        )
    return [(train, score) for train, score in found]


def _is_rows(rows: Any) -> bool:
    if hasattr(rows, "ndim"):
        return bool(rows.ndim == 1)
    return np.iterable(rows) and not any(map(np.iterable, rows))


def _copies(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)


class Rung(NamedTuple):
    """A step of successive halving, and the networks that came to it."""

    steps: int
    """That were taken, fewer than asked for where something ended the run."""
    networks: Int[np.ndarray, " networks"]
    values: Float[np.ndarray, " networks"]
    """The metric of each after these steps; NaN of one that diverged."""


class Halving(NamedTuple):
    """What became of many networks, of which fewer went on from rung to rung."""

    best: int
    """The network with the best metric on the last rung."""
    rungs: tuple[Rung, ...]
    result: FitManyResult
    """Of the networks of the last rung, in its order."""


def successive_halving(
    loss: Loss,
    params: PyTree,
    train: tuple[PyTree, PyTree],
    *,
    rungs: Sequence[int],
    metric: str = "loss",
    part: Part = "validation",
    mode: Literal["min", "max"] = "min",
    keep: float = 0.5,
    hyperparameters: Mapping[str, Num[ArrayLike, " networks"] | list[Any]] | None = None,
    max_networks: int | None = None,
    **options: Any,
) -> Halving:
    """Train many networks, of which at each rung the better part goes on (Jamieson and Talwalkar 2016).

    rungs: steps in all, increasing, such as (100, 200, 400). At each the share `keep` of the networks,
    rounded up, with the best value of `metric` on `part` goes on to the next; one that diverged comes last.
    Each ends where `fit` alone would take it, to float tolerance. max_networks: by default as many as come to
    the last rung; where the numbers of all rungs are multiples of it, one program serves them all. What ends
    a rung early, such as a callback that returns "stop", ends it all there. Else as `fit_many`.

    Raises:
        ValueError, TypeError: as `fit_many`; rungs that do not increase, a share that is not between 0 and 1,
            a metric or part that is not evaluated, or an option that many rungs cannot have.

    >>> import optax
    >>> square = lambda w, x, t: jnp.mean((w * x - t) ** 2)
    >>> data, rates = (np.ones(8), np.full(8, 3.0)), {"learning_rate": [1e-4, 1e-3, 1e-2, 1e-1]}
    >>> found = successive_halving(square, jnp.zeros(4), data, validation=data, rungs=(10, 20, 40),
    ...                            optimizer=optax.sgd, hyperparameters=rates)
    >>> found.best, [rung.networks.tolist() for rung in found.rungs]
    (3, [[0, 1, 2, 3], [3, 2], [3]])
    """
    if alone := {"early_stopping", "resume", "steps", "epochs", "batches", "check"} & set(options):
        raise ValueError(f"options must be such as all rungs can have, got {', '.join(sorted(alone))}")
    if not np.iterable(rungs):
        raise TypeError(f"rungs must be increasing numbers of steps, got {rungs!r}")
    steps = [check_positive_int(rung, "rungs") for rung in rungs]
    if not steps or steps != sorted(set(steps)):
        raise ValueError(f"rungs must be one or more increasing numbers of steps, got {steps}")
    if not 0 < keep < 1:
        raise ValueError(f"keep must be between 0 and 1, got {keep}")
    options["metrics"] = options.get("metrics") or {"loss": loss}
    parts = ["train", *(name for name in ("validation", "test") if options.get(name) is not None)]
    evaluated = [name for name in parts if name in (options.get("eval_parts") or parts)]
    for name, value, allowed in (
        ("metric", metric, list(options["metrics"])),
        ("part", part, evaluated),
        ("mode", mode, ["min", "max"]),
    ):
        check_choice(value, allowed, name)
    params, networks = check_stacked(params)
    counts = [networks]
    for _ in steps[1:]:
        counts.append(math.ceil(counts[-1] * keep))
    hyper = {name: np.asarray(values) for name, values in (hyperparameters or {}).items()}
    own = {name: options.pop(name) for name in ("state", "opt_state", "subsets") if name in options}
    going, order = np.arange(networks), np.arange(networks)
    results: list[FitManyResult] = []
    found: list[Rung] = []
    for rung, count in zip(steps, counts, strict=True):
        order = order[:count]
        going, resume = going[order], share_of_result(results[-1], order) if results else None
        shares = {name: share_of(tree, going) for name, tree in own.items()}
        result = fit_many(
            loss,
            unwrapped(share_of(params, going)),
            train,
            hyperparameters={name: values[going] for name, values in hyper.items()},
            steps=rung,
            resume=resume,
            max_networks=max_networks or counts[-1],
            **options | shares | ({"key": None} if results else {}),
        )
        results.append(result)
        curve = getattr(result.history, part)[metric]
        if curve.ndim != 2:
            raise ValueError(f"metric must be of a scalar, got {metric!r} of shape {list(curve.shape[2:])}")
        values = curve[:, -1] if curve.shape[1] else np.full(count, np.nan)
        done = int(np.max(result.state.step))
        found.append(Rung(done, going, values))
        order = np.argsort(values if mode == "min" else -values, kind="stable")  # NaN comes last
        if done < rung:  # a callback ended it, Ctrl-C, or all diverged
            break
    return Halving(int(going[order[0]]), tuple(found), results[-1])
