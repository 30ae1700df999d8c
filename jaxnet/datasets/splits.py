"""Splits into train and test, and folds."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from jaxnet import _arrays
from jaxnet.datasets.arrays import Array, Split, StrPath, rows_of


def split(
    examples: tuple[ArrayLike, ArrayLike],
    fraction: float,
    seed: int = 0,
    *,
    stratify: ArrayLike | None = None,
) -> Split:
    """Split examples `(x, t)` at random into the rest and a `fraction` of them, held out for validation.

    The same seed gives the same split, in NumPy arrays; rows of x and t belong together by their position.
    stratify: labels [n] (or rows), such as t itself, whose classes keep their shares in both parts: each
    class's number is rounded by the largest remainder, as scikit-learn's `train_test_split` does.

    Raises ValueError for a fraction that is not between 0 and 1 or leaves either part empty, for x, t and
    stratify that are not as long, and for a class to stratify by with a single example; TypeError for what is
    not numbers.

    >>> train, validation = split((np.arange(10.0), np.arange(10)), 0.2)
    >>> len(train[0]), validation[1]
    (8, array([0, 5]))
    >>> t = np.arange(10) // 8
    >>> split((np.arange(10.0), t), 0.5, stratify=t)[1][1].tolist()
    [0, 1, 0, 0, 0]
    """
    x, t = map(np.asarray, _arrays.as_pair(examples, "examples"))
    held_out = round(len(x) * fraction) if 0 < fraction < 1 else 0
    if not 0 < held_out < len(x):
        raise ValueError(
            f"fraction must be between 0 and 1 and leave examples in both parts, got {fraction} of {len(x)}"
        )
    if stratify is None:
        return _parts(x, t, held_out, seed)
    rows = _shuffled_by_class(stratify, len(x), 2, seed)
    shares = np.array([len(of_class) for of_class in rows]) * held_out / len(x)
    counts = shares.astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: held_out - counts.sum()]] += 1
    chosen = np.concatenate([of_class[:count] for of_class, count in zip(rows, counts, strict=True)])
    return _held_out(x, t, chosen, seed)


def folds(
    examples: tuple[ArrayLike, ArrayLike], k: int = 5, seed: int = 0, *, stratify: ArrayLike | None = None
) -> Iterator[Split]:
    """Yield k splits of examples `(x, t)`, each as `split` returns one, that hold out every example once.

    Their sizes differ by one at most, and with `stratify` those of each class too, as those of scikit-learn's
    `StratifiedKFold` do; the same seed gives the same folds.

    Raises ValueError for a k below 2 or above the number of examples, or of those of a class to stratify by,
    and what `split` raises.

    >>> [held_out[1].tolist() for _, held_out in folds((np.arange(5.0), np.arange(5)), 2)]
    [[2, 1, 4], [0, 3]]
    """
    x, t = map(np.asarray, _arrays.as_pair(examples, "examples"))
    if not 2 <= k <= len(x):
        raise ValueError(f"k must be in 2..{len(x)}, the number of examples, got {k}")
    classes = np.zeros(len(x), int) if stratify is None else stratify
    # Dealt out one after the other, class after class.
    dealt = np.concatenate(_shuffled_by_class(classes, len(x), k, seed))
    return (_held_out(x, t, dealt[i::k], seed) for i in range(k))


def _shuffled_by_class(labels: ArrayLike, num_examples: int, at_least: int, seed: int) -> list[Array]:
    """Return the shuffled rows of each class, each with as many examples as that at least."""
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != num_examples:
        raise ValueError(f"stratify must be a label of each of {num_examples} examples, got {labels.shape}")
    names, classes = np.unique(labels, axis=0, return_inverse=True)
    order = np.random.RandomState(seed).permutation(num_examples)
    classes = classes.reshape(-1)[order]  # NumPy 2.0 alone gives [n, 1]
    rows = [order[classes == index] for index in range(len(names))]
    fewest = min(range(len(rows)), key=lambda index: len(rows[index]))
    if len(rows[fewest]) < at_least:
        raise ValueError(
            f"stratify must have {at_least} examples of each class or more, got {len(rows[fewest])} of class "
            f"{names[fewest].tolist()}"
        )
    return rows


def four_to_one(x: Array, t: Array, path: StrPath = "digits") -> Split:
    """Shuffle and split, four fifths to one fifth, always alike."""
    if len(x) < 2:
        raise ValueError(f"{path}: expected 2 rows or more to split into train and test, got {len(x)}")
    return _parts(x, t, len(x) - len(x) * 4 // 5, 0)


def _parts(x: Array, t: Array, held_out: int, seed: int) -> Split:
    # RandomState's stream never changes between NumPy versions; a Generator's may (NEP 19).
    return _held_out(x, t, np.random.RandomState(seed).permutation(len(x))[len(x) - held_out :], seed)


def _held_out(x: Array, t: Array, chosen: Array, seed: int) -> Split:
    """Return the other rows and the chosen ones, both shuffled."""
    order = np.random.RandomState(seed).permutation(len(x))
    held = np.isin(order, chosen)
    rest, chosen = order[~held], order[held]
    return (rows_of(x, rest), t[rest]), (rows_of(x, chosen), t[chosen])
