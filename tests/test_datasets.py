"""The digits, `load` of any dataset, and `split`."""

import jax
import numpy as np
import pytest
from helpers import message_of

from jaxnet import datasets


def test_digits_shapes_ranges_and_determinism():
    (x_train, t_train), (x_test, t_test) = datasets.load_digits()
    assert (x_train.shape, t_train.shape, x_test.shape, t_test.shape) == (
        (1437, 64),
        (1437,),
        (360, 64),
        (360,),
    )
    assert (x_train.dtype, t_train.dtype) == (np.float32, np.int32)
    assert (x_train.min(), x_train.max()) == (0.0, 1.0)
    assert t_test[:10].tolist() == [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]  # the same on every machine, for good
    again = datasets.load_digits()
    np.testing.assert_array_equal(again[0][0], x_train)
    np.testing.assert_array_equal(again[1][1], t_test)


def test_digits_are_those_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    (x_train, t_train), (x_test, t_test) = datasets.load_digits(normalize=False)
    assert x_train.dtype == np.uint8
    ours = np.column_stack([np.concatenate([x_train, x_test]), np.concatenate([t_train, t_test])])
    theirs = np.column_stack([pixels, labels])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    (scaled, one_hot), _ = datasets.load_digits(one_hot_label=True)
    np.testing.assert_array_equal(scaled * 16, x_train)
    assert (one_hot.shape, one_hot.dtype) == ((1437, 10), np.float32)
    np.testing.assert_array_equal(one_hot.argmax(1), t_train)
    np.testing.assert_array_equal(one_hot.sum(1), 1)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar", ""),
        ("fashion_mnist", "fashion-mnist"),
        ("MNIST", "mnist"),
        ("digit", "digits"),
        ("a.tsv", ""),
    ],
)
def test_load_of_an_unknown_name_lists_the_choices(name, hint):
    with pytest.raises(
        ValueError, match=r"'digits', 'mnist', 'fashion-mnist' or a path ending in \.npz"
    ) as error:
        datasets.load(name)
    text = message_of(error)
    assert f"got {name!r}" in text
    assert (f"did you mean {hint!r}?" in text) if hint else ("did you mean" not in text)


@pytest.mark.parametrize("name", ["digits", "mine.npz"])
def test_load_refuses_a_directory_that_means_nothing(name, tmp_path):
    with pytest.raises(ValueError, match="directory is for 'mnist' and 'fashion-mnist' only"):
        datasets.load(name, tmp_path)


class Labelled:
    """An array with rows known by their labels, as those of a pandas Series are."""

    def __init__(self, values, labels):
        self.values, self.labels = values, labels

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, labels):
        return self.values[[self.labels.index(label) for label in labels]]


def test_split_knows_rows_by_their_position():
    x, t = np.arange(20.0).reshape(10, 2), np.arange(10)
    expected = datasets.split((x, t), 0.3)
    backwards = Labelled(t, list(range(9, -1, -1)))
    for other in ((x, backwards), (Labelled(x, list(range(9, -1, -1))), t), (x.tolist(), t.tolist())):
        for part, got in zip(expected, datasets.split(other, 0.3), strict=True):
            np.testing.assert_array_equal(part[0], got[0])
            np.testing.assert_array_equal(part[1], got[1])


@pytest.mark.parametrize(
    ("examples", "kind", "message"),
    [
        (
            (np.ones((10, 2)), np.ones(9)),
            ValueError,
            r"as many inputs as targets, got shapes \[10, 2\] and \[9\]",
        ),
        ((np.ones((10, 2)), 1), ValueError, r"as many inputs as targets, got shapes \[10, 2\] and \[\]"),
        (np.ones((2, 2)), ValueError, r"must be a pair \(x, t\) of arrays, got ndarray"),
        ((np.ones((0, 2)), np.ones(0)), ValueError, "at least one example"),
        ((np.full(10, "a"), np.ones(10)), TypeError, "must be two arrays of numbers, got"),
        (([[1.0], [1.0, 2.0]], [1, 2]), TypeError, "must be two arrays of numbers, got"),
    ],
)
def test_split_of_what_are_no_examples(examples, kind, message, unchecked):
    with pytest.raises(kind, match=message):
        datasets.split(examples, 0.3)


def test_split_parts_the_examples_alike_for_a_seed():
    x, t = np.arange(20.0).reshape(10, 2), np.arange(10)
    (x_rest, t_rest), (x_held, t_held) = datasets.split((x, t), 0.3, seed=1)
    assert sorted([*t_rest, *t_held]) == list(range(10)) and len(t_held) == 3
    np.testing.assert_array_equal(x[t_held], x_held)
    np.testing.assert_array_equal(x[t_rest], x_rest)
    np.testing.assert_array_equal(datasets.split((x, t), 0.3, seed=1)[1][1], t_held)
    assert not np.array_equal(datasets.split((x, t), 0.3, seed=2)[1][1], t_held)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.01, 0.99, float("nan")])
def test_split_that_leaves_a_part_empty(fraction):
    with pytest.raises(ValueError, match="fraction must be between 0 and 1 and leave examples in both"):
        datasets.split((np.zeros((10, 2)), np.zeros(10, int)), fraction)


@pytest.mark.parametrize("normalize", [True, False])
def test_jax_takes_the_inputs_without_a_copy(normalize, tmp_path):
    pixels = np.arange(300 * 7, dtype=np.uint8).reshape(300, 7)
    file = tmp_path / "own.npz"
    np.savez(file, x_train=pixels, t_train=np.arange(300) % 3, x_test=pixels, t_test=np.arange(300) % 3)
    (whole, t), _ = datasets.load_npz(file, normalize=normalize)
    rest, held_out = datasets.split((whole, t), 0.3)
    for x in (whole, rest[0], held_out[0], datasets.load_digits(normalize=normalize)[0][0]):
        assert jax.device_put(x, jax.devices("cpu")[0]).unsafe_buffer_pointer() == x.ctypes.data
