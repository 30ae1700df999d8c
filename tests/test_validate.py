"""Cross-validation and successive halving."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_score

import jaxnet
from jaxnet import training
from tests.helpers import compilations

X = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
T = (X @ [1.0, -2.0, 0.5] + np.random.default_rng(1).standard_normal(23)).astype(np.float32)


def square(w, x, t):
    return jnp.mean((x @ w - t) ** 2)


def cross_validate(**options):
    common = {"steps": 300, "batch_size": 18, "optimizer": optax.sgd(0.1), "sampling": "shuffle"}
    return training.cross_validate(square, jnp.zeros(3), (X, T), **common | {"progress": False} | options)


def test_folds_are_fit_on_each_and_score_as_scikit_learn():
    """Of 5, 5, 5, 4 and 4 examples; what is trained on 18 ends at the least squares."""
    folds = list(KFold(5, shuffle=True, random_state=0).split(X))
    found = cross_validate(folds=folds, metrics={"loss": square, "mean": lambda w, x, t: x.mean(axis=0)})
    expected = -cross_val_score(
        LinearRegression(fit_intercept=False), X, T, cv=folds, scoring="neg_mean_squared_error"
    )
    full = [len(rows) == 18 for rows, _ in folds]
    np.testing.assert_allclose(found.scores["loss"][full], expected[full], rtol=1e-4)
    assert found.scores["mean"].shape == (5, 3) and not found.diverged.any()
    np.testing.assert_allclose(found.scores["mean"][4], X[folds[4][1]].mean(axis=0), rtol=1e-5)
    assert float(found.mean["loss"]) == pytest.approx(found.scores["loss"].mean())
    assert float(found.std["loss"]) == pytest.approx(np.std(found.scores["loss"], ddof=1))
    rows = folds[4][0]
    alone = jaxnet.fit(
        square, jnp.zeros(3), (X[rows], T[rows]), steps=300, batch_size=18, sampling="shuffle",
        optimizer=optax.sgd(0.1), progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(found.loss[4], alone.history.loss, rtol=1e-4)
    np.testing.assert_allclose(found.params[4], alone.params, rtol=1e-4)


@pytest.mark.rest
def test_folds_by_number_hold_out_every_example_once_and_carry_state():
    def loss(w, state, x, t, key):
        noise = 0.1 * jax.random.normal(key, x.shape)
        return square(w, x + noise, t), state + 1

    seen = {"scored": lambda w, state, x, t: jnp.zeros(23).at[x[:, 0].astype(int)].add(1.0)}
    x = np.c_[np.arange(23.0), np.ones(23)].astype(np.float32)
    found = training.cross_validate(
        loss, jnp.zeros(2), (x, T), folds=4, metrics=seen, steps=5, batch_size=4, progress=False,
        optimizer=optax.adam(0.01), has_state=True, state=jnp.zeros(()), key=7,
    )  # fmt: skip
    np.testing.assert_array_equal(found.scores["scored"].sum(axis=0), 1)
    np.testing.assert_array_equal(found.model_state, [5] * 4)


@pytest.mark.rest
def test_a_fold_that_diverges_has_no_score():
    found = cross_validate(optimizer=optax.sgd(1e20), steps=20, folds=3, batch_size=5)
    assert found.diverged.all() and np.isnan(found.scores["loss"]).all()


RATES = [1e-4, 0.1, 1e-3, 1e20, 0.05, 1e-2, 3e-4, 3e-3]


def test_what_ends_a_rung_ends_the_halving():
    found = halving(callbacks=[lambda stretch: "stop"])
    assert [rung.steps for rung in found.rungs] == [1] and len(found.rungs[0].networks) == 8


def test_halving_takes_metrics_in_any_order():
    metrics = {"squared": square, "loss": square}
    found = halving(metrics=metrics, metric="loss", part="validation", rungs=(1, 2))
    assert [rung.steps for rung in found.rungs] == [1, 2]
    assert list(found.result.history.validation) == ["squared", "loss"]


def halving(**options):
    common = {"rungs": (10, 20, 40), "validation": (X, T), "optimizer": optax.sgd, "batch_size": 5, "key": 3}
    common |= {"hyperparameters": {"learning_rate": RATES}, "progress": False, "stretch": 10}
    return training.successive_halving(square, jnp.zeros((8, 3)), (X, T), **common | options)


@pytest.mark.rest
def test_the_better_half_goes_on_from_rung_to_rung():
    found = halving()
    with compilations() as more:
        halving()
    assert more == [0]
    losses = []  # the rule by itself, with `fit`
    for rung in (10, 20, 40):
        row = []
        for rate in RATES:
            try:
                rule = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)  # to compile once
                run = jaxnet.fit(
                    square, jnp.zeros(3), (X, T), optimizer=rule, steps=rung, batch_size=5, key=3,
                    progress=False, stretch=10,
                )  # fmt: skip
                row.append(float(square(run.params, X, T)))
            except training.NonFiniteError:
                row.append(np.nan)
        losses.append(np.array(row))
    going = np.arange(8)
    for rung, values, count in zip(found.rungs, losses, (8, 4, 2), strict=True):
        going = going[:count]
        assert set(rung.networks) == set(going)
        np.testing.assert_allclose(rung.values, values[rung.networks], rtol=1e-4)
        going = going[np.argsort(values[going])]
    assert found.best == going[0] and int(found.result.state.step[0]) == 40
    assert [rung.steps for rung in found.rungs] == [10, 20, 40]


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (cross_validate, {"folds": 1}, "folds must be from 2 to the 23 examples, got 1"),
        (cross_validate, {"folds": 24}, "folds must be from 2 to the 23 examples, got 24"),
        (cross_validate, {"folds": [(np.arange(9), np.arange(3))]}, "two or more pairs of rows .* got 1"),
        (cross_validate, {"folds": [([0], [23]), ([1], [0])]}, r"folds must index 0\.\.22, got 23\.\.23"),
        (cross_validate, {"hyperparameters": {}}, "what all folds share, got hyperparameters"),
        (cross_validate, {"folds": 2.5}, "folds must be a number, or pairs of rows .* got 2.5"),
        (cross_validate, {"folds": KFold(3)}, "folds must be a number, or pairs of rows .* got KFold"),
        (cross_validate, {"folds": [((X, T), (X, T))]}, "folds must be a number, or pairs of rows"),
        (cross_validate, {"validation": (X, T)}, "what all folds share, got validation"),
        (halving, {"rungs": 10}, "rungs must be increasing numbers of steps, got 10"),
        (halving, {"metrics": {"loss": lambda w, x, t: x[0]}}, r"a scalar, got 'loss' of shape \[3\]"),
        (halving, {"rungs": (20, 10)}, r"increasing numbers of steps, got \[20, 10\]"),
        (halving, {"rungs": (0, 10)}, "rungs must be positive, got 0"),
        (halving, {"keep": 1.0}, "keep must be between 0 and 1, got 1.0"),
        (halving, {"mode": "least"}, "mode must be 'min' or 'max', got 'least'"),
        (halving, {"steps": 5}, "such as all rungs can have, got steps"),
        (halving, {"metric": "score"}, "metric must be 'loss', got 'score'"),
        (halving, {"part": "rest"}, "part must be 'train' or 'validation', got 'rest'"),
    ],
)  # fmt: skip
def test_bad_input(unchecked, train, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(**options)
