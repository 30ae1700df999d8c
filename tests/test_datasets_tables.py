"""Stratified splits and folds, tables and folders of images."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, train_test_split

from jaxnet import datasets

LABELS = np.random.default_rng(0).choice(4, size=203, p=[0.6, 0.25, 0.1, 0.05])
X = np.arange(203.0)


def counts(labels):
    return np.bincount(labels, minlength=4).tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_stratified_split_has_the_classes_of_scikit_learns(fraction):
    held_out = round(203 * fraction)
    rest, chosen = datasets.split((X, LABELS), fraction, seed=3, stratify=LABELS)
    theirs = train_test_split(LABELS, test_size=held_out, stratify=LABELS, random_state=0)
    assert [counts(rest[1]), counts(chosen[1])] == [counts(t) for t in theirs]
    assert sorted(np.concatenate([rest[0], chosen[0]])) == X.tolist()
    for x, t in (rest, chosen):
        np.testing.assert_array_equal(LABELS[x.astype(int)], t)
    again = datasets.split((X, LABELS), fraction, seed=3, stratify=LABELS)
    np.testing.assert_array_equal(again[1][0], chosen[0])
    other = datasets.split((X, LABELS), fraction, seed=4, stratify=np.eye(4)[LABELS])
    assert counts(other[1][1]) == counts(chosen[1]) and set(other[1][0]) != set(chosen[0])


@pytest.mark.parametrize("stratify", [None, LABELS])
def test_folds_hold_every_example_out_once(stratify):
    folds = list(datasets.folds((X, LABELS), 5, seed=1, stratify=stratify))
    assert sorted(np.concatenate([held_out[0] for _, held_out in folds])) == X.tolist()
    assert sorted(len(held_out[0]) for _, held_out in folds) == [40, 40, 41, 41, 41]
    for train, held_out in folds:
        assert sorted(np.concatenate([train[0], held_out[0]])) == X.tolist()
        np.testing.assert_array_equal(LABELS[held_out[0].astype(int)], held_out[1])
    if stratify is not None:
        theirs = [counts(LABELS[rows]) for _, rows in StratifiedKFold(5).split(X, LABELS)]
        ours = [counts(held_out[1]) for _, held_out in folds]
        assert [sorted(of_class) for of_class in zip(*ours, strict=True)] == [
            sorted(of_class) for of_class in zip(*theirs, strict=True)
        ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.folds((X, X), 1), r"k must be in 2\.\.203, the number of examples, got 1"),
        (lambda: datasets.folds((X, X), 204), r"k must be in 2\.\.203, the number of examples, got 204"),
        (lambda: datasets.split((X, X), 0.2, stratify=LABELS[1:]), r"each of 203 examples, got \(202,\)"),
        (
            lambda: datasets.split((X, X), 0.2, stratify=X),
            "2 examples of each class or more, got 1 of class 0",
        ),
        (lambda: datasets.folds((X, X), 20, stratify=LABELS), r"20 examples .* or more, got \d+ of class 3"),
    ],
)
def test_bad_splits(call, message):
    with pytest.raises(ValueError, match=message):
        call()
