"""Each error of the note is shown in the reference, and so is its correction.

`pytest tests/test_errata.py -s` prints the figures of `reference_numpy/ERRATA.md`, in its order.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

import reference_numpy as ref


@pytest.fixture(scope="module")
def mnist_arrays():
    try:
        return ref.load_mnist(normalize=True, one_hot_label=True)
    except FileNotFoundError as missing:
        pytest.skip(f"needs MNIST: {missing}")


def small_problem(n=20, d=4, c=3):
    rng = np.random.default_rng(0)
    return rng.random((n, d)), ref.one_hot(rng.integers(c, size=n), c)


def both_b2_gradients(net, x, t):
    """The gradient of the published loss in b2, by central differences and by backpropagation."""
    numerical = ref.numerical_gradient(lambda _: net.loss(x, t), net.params["b2"])
    return numerical, net.gradient(x, t)["b2"]


# 1. softmax over the whole array


def test_softmax_defect_rows_do_not_sum_to_one():
    y = ref.softmax(np.random.default_rng(0).standard_normal((100, 10)))
    sums = y.sum(axis=1)
    print(f"\nsoftmax: rows of a batch of 100 sum to {sums.min():.4f}..{sums.max():.4f}")
    assert sums.max() < 0.05
    assert y.sum() == pytest.approx(1, rel=1e-12)


def test_softmax_correction_rows_sum_to_one():
    y = ref.softmax_by_row(np.random.default_rng(0).standard_normal((100, 10)))
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-12)


def seven_of_class_zero():
    """A batch of 100 whose class 0 comes seven times, as one class does in the note's first batch."""
    labels = np.concatenate([np.zeros(7, int), 1 + np.arange(93) % 9])
    return np.random.default_rng(0).random((100, 784)), ref.one_hot(labels)


def test_softmax_defect_backprop_is_not_the_gradient():
    x, t = seven_of_class_zero()
    net = ref.TwoLayerNet(784, 50, 10, weight_std=0.0)
    numerical, backprop = both_b2_gradients(net, x, t)
    print(f"\nsoftmax: b2[0] numerical {numerical[0]:+.4f}, backprop {backprop[0]:+.4f}")
    # Every y is 1/1000: the slope of the loss is (100 y - 7/100) y / (y + 1e-7), backprop gives y - 7/100.
    assert numerical[0] == pytest.approx((0.1 - 0.07) / (1 + 1e-4), abs=1e-9)
    assert backprop[0] == pytest.approx(0.001 - 0.07, abs=1e-12)


def test_softmax_correction_backprop_is_the_gradient():
    x, t = seven_of_class_zero()
    net = ref.TwoLayerNet(784, 50, 10, weight_std=0.0, softmax=ref.softmax_by_row)
    numerical, backprop = both_b2_gradients(net, x, t)
    print(f"\nsoftmax_by_row: b2[0] numerical {numerical[0]:+.4f}, backprop {backprop[0]:+.4f}")
    assert numerical[0] == pytest.approx((0.1 - 0.07) / (1 + 1e-6), abs=1e-9)
    assert backprop[0] == pytest.approx(0.1 - 0.07, abs=1e-12)


def test_softmax_defect_the_published_network_does_not_learn(mnist_arrays):
    (x, t), (x_test, t_test) = mnist_arrays
    rng = np.random.default_rng(0)
    net = ref.TwoLayerNet(784, 50, 10, rng=rng)
    losses = ref.train(net, x, t, iters_num=6000, rng=rng)
    accuracy = net.accuracy(x_test, t_test)
    answers = np.unique(net.predict(x_test).argmax(axis=1))
    print(
        f"\nsoftmax: after 6,000 iterations test accuracy {accuracy:.2%}, answers {answers.tolist()}, "
        f"loss from {losses[0]:.2f} to {losses[-1]:.2f}"
    )
    assert accuracy < 0.12
    assert len(answers) == 1
    assert f"{100 * accuracy:.2f} %" in (Path(__file__).parents[1] / "README.md").read_text()
    assert losses[0] < 7 and losses[-1] > 10


def test_softmax_correction_the_network_learns(mnist_arrays):
    (x, t), (x_test, t_test) = mnist_arrays
    rng = np.random.default_rng(0)
    net = ref.TwoLayerNet(784, 50, 10, softmax=ref.softmax_by_row, rng=rng)
    losses = ref.train(net, x, t, iters_num=10_000, rng=rng)
    accuracy = net.accuracy(x_test, t_test)
    last = np.mean(losses[-100:])
    print(
        f"\nsoftmax_by_row: after 10,000 iterations test accuracy {accuracy:.2%}, "
        f"loss from {losses[0]:.2f} to {last:.2f} (mean of the last 100)"
    )
    assert accuracy >= 0.94
    assert last < 0.25


# 2. 1e-7 inside the logarithm, not in the backward pass


def improbable_true_class():
    """Logits of one example whose true class has probability 1e-7."""
    y = np.array([[1 - 1e-7, 1e-7]])
    return np.log(y), y, np.array([[0.0, 1.0]])


def test_delta_defect_loss_and_backward_pass_differ():
    logits, y, t = improbable_true_class()
    numerical = ref.numerical_gradient(lambda a: ref.cross_entropy_error(ref.softmax_by_row(a), t), logits)
    print(f"\ncross_entropy_error: numerical {numerical[0, 1]:+.4f}, (y - t)/n {(y - t)[0, 1]:+.4f}")
    np.testing.assert_allclose(numerical, (y - t) * 0.5, atol=1e-7)  # y / (y + 1e-7) is 1/2


def test_delta_correction_the_exact_loss_has_the_backward_pass_as_gradient():
    logits, y, t = improbable_true_class()
    numerical = ref.numerical_gradient(lambda a: ref.cross_entropy_from_logits(a, t), logits)
    print(f"\ncross_entropy_from_logits: numerical {numerical[0, 1]:+.4f}, (y - t)/n {(y - t)[0, 1]:+.4f}")
    np.testing.assert_allclose(numerical, y - t, atol=1e-8)
    assert ref.cross_entropy_from_logits(np.array([[0.0, -1000.0]]), t) == 1000.0
    assert ref.cross_entropy_error(np.array([[1.0, 0.0]]), t) == pytest.approx(16.118, abs=1e-3)


# 3. normal random targets in the gradient demonstration


def demonstration_gap(t):
    """The largest difference in b2 between backpropagation and the exact loss, both with row-wise softmax."""
    rng = np.random.default_rng(0)
    net = ref.TwoLayerNet(784, 100, 10, softmax=ref.softmax_by_row, rng=rng)
    x = rng.random((100, 784))
    numerical = ref.numerical_gradient(lambda _: net.exact_loss(x, t), net.params["b2"])
    return np.abs(numerical - net.gradient(x, t)["b2"]).max()


def test_target_defect_normal_random_rows_do_not_sum_to_one():
    t = np.random.default_rng(1).standard_normal((100, 10))
    gap = demonstration_gap(t)
    print(
        f"\nnormal targets: rows sum to {t.sum(axis=1).min():+.1f}..{t.sum(axis=1).max():+.1f}, gap {gap:.2e}"
    )
    assert gap > 0.05


def test_target_correction_one_hot_rows():
    gap = demonstration_gap(ref.one_hot(np.random.default_rng(1).integers(10, size=100)))
    print(f"\none-hot targets: gap {gap:.2e}")
    assert gap < 1e-8


# 4. numerical_gradient of an integer array


def test_integer_defect_the_step_is_truncated_without_a_word():
    gradient = ref.numerical_gradient(ref.func_2, np.array([3, 4]))
    print(f"\nnumerical_gradient: at the integers (3, 4) {gradient.tolist()}, at (3.0, 4.0) it is (6, 8)")
    assert gradient.dtype.kind == "i"
    # 3 - 1e-4 becomes 2, and 3 + 1e-4 stays 3: (9 - 4) / 2e-4, then (16 - 9) / 2e-4.
    np.testing.assert_allclose(gradient, [25_000, 35_000], atol=1)


def test_integer_correction_a_float_copy():
    np.testing.assert_allclose(ref.numerical_gradient_pure(ref.func_2, np.array([3, 4])), [6, 8], atol=1e-10)


# 5. gradient_descent moves the caller's starting point


def test_descent_defect_a_second_call_starts_from_the_end_of_the_first():
    start = np.array([-3.0, 4.0])
    first = ref.gradient_descent(ref.func_2, start, lr=0.1, step_num=20).copy()
    second = ref.gradient_descent(ref.func_2, start, lr=0.1, step_num=20)
    print(
        f"\ngradient_descent: first call ends at {first.round(6)}, the same call again at {second.round(6)}"
    )
    assert second is start
    np.testing.assert_allclose(second, 0.8**20 * first, atol=1e-10)
    assert np.abs(second - first).max() > 0.04


def test_descent_correction_a_second_call_repeats_the_first():
    start = np.array([-3.0, 4.0])
    first, second = (ref.gradient_descent_pure(ref.func_2, start, lr=0.1, step_num=20) for _ in range(2))
    assert start.tolist() == [-3.0, 4.0]
    assert np.array_equal(first, second)


# 6. sigmoid overflows


@pytest.mark.parametrize(
    ("dtype", "last_good", "first_bad"), [(np.float32, -88, -89), (np.float64, -709, -710)]
)
def test_sigmoid_defect_overflow_far_below_zero(dtype, last_good, first_bad):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ref.sigmoid(np.array([last_good], dtype)) > 0
    with pytest.warns(RuntimeWarning, match="overflow encountered in exp"):
        value = ref.sigmoid(np.array([first_bad], dtype))
    print(f"\nsigmoid: {dtype.__name__} overflows at {first_bad}, not yet at {last_good}; value {value[0]}")
    assert value == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_correction_no_overflow(dtype):
    x = np.array([-1e4, -710, -89, -1, 0, 1, 89, 710, 1e4], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = ref.sigmoid_stable(x)
    assert value.dtype == dtype
    # exp turns a relative error eps of its argument into |x| eps, |x| <= 89 but where the result is denormal.
    np.testing.assert_allclose(value, expit(x), rtol=100 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)


# 7. the SimpleNet demonstration's f(W) ignores W


SIMPLE_X, SIMPLE_T = np.array([0.6, 0.9]), np.array([0, 0, 1])


def test_simple_net_defect_f_ignores_its_argument():
    net = ref.SimpleNet(np.random.default_rng(0))
    f = net.f(SIMPLE_X, SIMPLE_T)
    on_a_copy = ref.numerical_gradient_pure(f, net.W)
    in_place = ref.numerical_gradient(f, net.W)
    print(
        f"\nSimpleNet: f(1) {f(1):.6f}, f(2) {f(2):.6f}; largest gradient {np.abs(in_place).max():.3f}",
        end="",
    )
    print(f" in place, {np.abs(on_a_copy).max():.3f} on a copy")
    assert f(1) == f(2) == f(10 * net.W)
    assert not on_a_copy.any()
    assert np.abs(in_place).max() > 0.1


def test_simple_net_correction_the_weights_are_an_argument():
    net = ref.SimpleNet(np.random.default_rng(0))
    gradient = ref.numerical_gradient_pure(lambda W: ref.simple_net_loss(W, SIMPLE_X, SIMPLE_T), net.W)
    y = ref.softmax(SIMPLE_X @ net.W)
    assert ref.simple_net_loss(net.W, SIMPLE_X, SIMPLE_T) != ref.simple_net_loss(
        10 * net.W, SIMPLE_X, SIMPLE_T
    )
    np.testing.assert_allclose(gradient, np.outer(SIMPLE_X, y - SIMPLE_T), atol=2e-6)  # 1e-7 / y[2]
    assert y[2] > 0.05


# 8. plain lists in the losses

LIST_Y, LIST_T = [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]


@pytest.mark.parametrize("loss", [ref.mean_squared_error, ref.cross_entropy_error0, ref.cross_entropy_error])
def test_list_defect_type_error(loss):
    with pytest.raises(TypeError):
        loss(LIST_Y, LIST_T)


def test_list_defect_type_error_with_labels():
    with pytest.raises(TypeError):
        ref.cross_entropy_label([LIST_Y], [2])


def test_list_correction_the_exact_loss_takes_lists():
    logits = [0.0, 0.0, np.log(2.0)]
    assert ref.cross_entropy_from_logits(logits, LIST_T) == pytest.approx(-np.log(0.5), rel=1e-14)
    assert ref.mean_squared_error(np.asarray(LIST_Y), np.asarray(LIST_T)) == pytest.approx(0.07, rel=1e-14)


# 9. a misspelt target batch, and a training size used before it is defined: no behaviour to keep, the
# snippets do not run.


def test_snippet_correction_inputs_and_targets_come_from_the_same_rows():
    x = np.random.default_rng(0).random((50, 3))
    batch, targets = ref.mini_batch(x, 2 * x[:, 0], 200, np.random.default_rng(1))
    assert np.array_equal(targets, 2 * batch[:, 0])


@pytest.mark.parametrize(("train_size", "expected"), [(20, [0, 4, 8]), (40, [0, 8])])
def test_snippet_correction_the_training_size_is_that_of_the_data(train_size, expected):
    assert evaluated_at(train_size, batch_size=5, iters_num=9) == expected


# 10. a training set that is no multiple of the batch


def evaluated_at(train_size, batch_size, iters_num, interval=None):
    """The iterations at which train_and_evaluate evaluates."""
    x, t = small_problem(n=train_size)
    net = ref.TwoLayerNet(4, 5, 3, softmax=ref.softmax_by_row, rng=np.random.default_rng(0))
    iterations = []
    calls = 0

    def counted_loss(x, t):
        nonlocal calls
        calls += 1
        return 0.0

    net.loss = counted_loss  # called once an iteration, just before the evaluation
    ref.train_and_evaluate(
        net,
        x,
        t,
        x,
        t,
        iters_num=iters_num,
        batch_size=batch_size,
        interval=interval,
        printer=lambda _: iterations.append(calls - 1),
    )
    return iterations


def test_interval_defect_a_fraction_divides_almost_no_iteration():
    published = evaluated_at(1437, batch_size=100, iters_num=2000)
    print(f"\ninterval {1437 / 100}: evaluated at {published} in 2,000 iterations, which are 139 epochs")
    assert published == [0]


def test_interval_correction_a_whole_number_of_iterations():
    interval = ref.iterations_per_epoch(1437, 100)
    corrected = evaluated_at(1437, batch_size=100, iters_num=2000, interval=interval)
    print(f"\ninterval {interval}: evaluated {len(corrected)} times in 2,000 iterations")
    assert corrected == list(range(0, 2000, 14))
    assert ref.iterations_per_epoch(60000, 100) == 600
    assert ref.iterations_per_epoch(50, 100) == 1
