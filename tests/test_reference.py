"""The NumPy reference gives the note's own values, shapes and side effects."""

import ast
import gzip
import re
from pathlib import Path

import numpy as np
import pytest

import reference_numpy as ref

Y1 = np.array([0.1, 0.05, 0.6, 0.0, 0.05, 0.1, 0.0, 0.1, 0.0, 0.0])
Y2 = np.array([0.1, 0.05, 0.1, 0.0, 0.05, 0.1, 0.0, 0.6, 0.0, 0.0])
T = np.eye(10)[2]


def small_problem(rng, n=20, d=4, c=3):
    return rng.random((n, d)), ref.one_hot(rng.integers(c, size=n), c)


def corrected_net(rng, sizes=(4, 5, 3), weight_std=1.0):
    return ref.TwoLayerNet(
        *sizes, weight_std, softmax=ref.softmax_by_row, sigmoid=ref.sigmoid_stable, rng=rng
    )


def test_imports_numpy_and_the_standard_library_alone():
    allowed = {"numpy", "collections", "typing", "gzip", "os", "pathlib", "__future__"}
    for path in Path(ref.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        at_import_time = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        everywhere = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert {root for node in at_import_time for root in roots(node)} <= allowed
        assert {root for node in everywhere for root in roots(node)} <= allowed | {"matplotlib"}


def roots(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [] if node.level else [node.module.split(".")[0]]


def test_everything_in_all_is_there():
    assert sorted(ref.__all__) == ref.__all__
    assert all(hasattr(ref, name) for name in ref.__all__)


# 4.1


@pytest.mark.parametrize(
    ("loss", "of_y1", "of_y2"),
    [
        (ref.mean_squared_error, 0.09750000000000003, 0.5975),
        (ref.cross_entropy_error0, 0.510825457099338, 2.302584092994546),
        (ref.cross_entropy_error, 0.510825457099338, 2.302584092994546),
    ],
)
def test_losses_give_the_published_values(loss, of_y1, of_y2):
    assert loss(Y1, T) == of_y1
    assert loss(Y2, T) == of_y2


def test_label_loss_of_one_example_equals_the_one_hot_loss():
    assert ref.cross_entropy_label(Y1, 2) == 0.510825457099338
    assert ref.cross_entropy_label(Y1, np.array([2])) == 0.510825457099338


def test_squared_error_is_summed_and_cross_entropy_averaged_over_the_batch():
    y, t = np.stack([Y1, Y2]), np.stack([T, T])
    assert ref.mean_squared_error(y, t) == pytest.approx(0.0975 + 0.5975, rel=1e-14)
    mean = (0.510825457099338 + 2.302584092994546) / 2
    assert ref.cross_entropy_error(y, t) == pytest.approx(mean, rel=1e-14)
    assert ref.cross_entropy_label(y, np.array([2, 2])) == pytest.approx(mean, rel=1e-14)


def test_exact_loss_is_minus_the_log_of_the_true_class():
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])) + np.array([[5.0], [-3.0]])
    t = ref.one_hot(np.array([1, 0]), 3)
    assert ref.cross_entropy_from_logits(logits, t) == pytest.approx(-np.log(0.3 * 0.7) / 2, rel=1e-14)
    assert ref.cross_entropy_from_logits(logits[0], t[0]) == pytest.approx(-np.log(0.3), rel=1e-14)


def test_mini_batch_is_drawn_uniformly_with_replacement(rng):
    x = np.arange(5.0)[:, None]
    drawn, targets = ref.mini_batch(x, np.arange(5), 10_000, rng)
    assert drawn.shape == (10_000, 1)
    assert np.array_equal(drawn[:, 0], targets)
    # 2000 expected of each, with a standard deviation of 40.
    assert np.all(np.abs(np.bincount(targets) - 2000) < 5 * 40)


def test_mnist_has_the_published_shapes():
    try:
        (x_train, t_train), (x_test, t_test) = ref.load_mnist(normalize=True, one_hot_label=True)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert (x_train.shape, t_train.shape) == ((60000, 784), (60000, 10))
    assert (x_test.shape, t_test.shape) == ((10000, 784), (10000, 10))
    assert (x_train.min(), x_train.max()) == (0.0, 1.0)
    assert np.all(t_train.sum(axis=1) == 1)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def write_small_mnist(folder, zipped):
    folder.mkdir(parents=True)
    images = np.array([[[0, 255], [51, 102]], [[1, 2], [3, 4]]], dtype=np.uint8)
    labels = np.array([7, 0], dtype=np.uint8)
    for prefix in ("train", "t10k"):
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            if zipped:
                (folder / f"{prefix}-{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
            else:
                (folder / f"{prefix}-{name}").write_bytes(idx_bytes(array))


@pytest.mark.parametrize("zipped", [True, False])
def test_load_mnist_reads_idx_files(tmp_path, zipped):
    write_small_mnist(tmp_path / "files", zipped)
    (x, t), (x_test, t_test) = ref.load_mnist(data_dir=tmp_path / "files")
    assert x.dtype == np.float32
    assert np.array_equal(x[0], np.array([0, 255, 51, 102], dtype=np.float32) / np.float32(255))
    assert t.tolist() == t_test.tolist() == [7, 0]
    assert np.array_equal(x, x_test)
    (raw, one_hot), _ = ref.load_mnist(normalize=False, one_hot_label=True, data_dir=tmp_path / "files")
    assert raw.tolist() == [[0, 255, 51, 102], [1, 2, 3, 4]]
    assert np.array_equal(one_hot, np.eye(10)[[7, 0]])


def test_load_mnist_looks_in_the_folder_of_the_environment(tmp_path, monkeypatch):
    write_small_mnist(tmp_path / "mnist", zipped=True)
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    assert ref.load_mnist()[0][0].shape == (2, 4)


def test_load_mnist_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXNET_DATA_DIR", raising=False)
    with pytest.raises(FileNotFoundError, match="set JAXNET_DATA_DIR"):
        ref.load_mnist()
    with pytest.raises(FileNotFoundError, match=r"neither train-images-idx3-ubyte\.gz nor"):
        ref.load_mnist(data_dir=tmp_path)


# 4.2


def test_numerical_diff_gives_the_published_value():
    assert ref.numerical_diff(ref.func, 10) == 0.2999999999986347


def test_tangent_line_touches_the_curve_with_its_slope():
    line = ref.tangent_line(ref.func, 10)
    assert line(10) == pytest.approx(ref.func(10), abs=1e-12)
    assert line(11) - line(10) == pytest.approx(0.2999999999986347, abs=1e-12)


def test_numerical_gradient_gives_the_published_value():
    gradient = ref.numerical_gradient(ref.func_2, np.array([3.0, 4.0]))
    np.testing.assert_allclose(gradient, [6, 8], atol=1e-10)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (0,)])
@pytest.mark.parametrize("gradient", [ref.numerical_gradient, ref.numerical_gradient_pure])
def test_numerical_gradient_takes_any_rank(rng, gradient, shape):
    x = np.array(rng.random(shape))
    result = gradient(ref.func_2, x)
    assert result.shape == shape
    np.testing.assert_allclose(result, 2 * x, atol=1e-10)


def test_numerical_gradient_perturbs_the_callers_array_and_restores_it():
    x = np.array([3.0, 4.0])
    seen = []
    ref.numerical_gradient(lambda arg: seen.append((arg is x, x.tolist())) or 0.0, x)
    assert seen == [
        (True, [3.0 + 1e-4, 4.0]),
        (True, [3.0 - 1e-4, 4.0]),
        (True, [3.0, 4.0 + 1e-4]),
        (True, [3.0, 4.0 - 1e-4]),
    ]
    assert x.tolist() == [3.0, 4.0]


def test_pure_numerical_gradient_leaves_the_callers_array_alone():
    x = np.array([3.0, 4.0])
    x.flags.writeable = False
    np.testing.assert_allclose(ref.numerical_gradient_pure(ref.func_2, x), [6, 8], atol=1e-10)


@pytest.mark.parametrize("descend", [ref.gradient_descent, ref.gradient_descent_pure])
def test_gradient_descent_shrinks_the_bowl_by_a_fixed_factor(descend):
    # Each step multiplies x by 1 - 2 lr; the roundoff of a central difference is about 1e-16 / h per step.
    end = descend(ref.func_2, np.array([-3.0, 4.0]), lr=0.1, step_num=20)
    np.testing.assert_allclose(end, 0.8**20 * np.array([-3.0, 4.0]), atol=1e-10)


def test_softmax_of_one_row_is_the_same_both_ways(rng):
    x = 100 * rng.standard_normal(5)
    np.testing.assert_allclose(ref.softmax(x), ref.softmax_by_row(x), rtol=1e-14)
    np.testing.assert_allclose(ref.softmax(np.log([1.0, 2.0, 5.0])), [1 / 8, 2 / 8, 5 / 8], rtol=1e-14)


def test_simple_net_has_the_gradient_of_a_linear_softmax(rng):
    x, t = np.array([0.6, 0.9]), np.array([0, 0, 1])
    net = ref.SimpleNet(rng)
    before = net.W.copy()
    assert net.W.shape == (2, 3)
    np.testing.assert_allclose(net.predict(x), 0.6 * net.W[0] + 0.9 * net.W[1], rtol=1e-14)
    y = np.exp(net.predict(x)) / np.exp(net.predict(x)).sum()
    assert net.loss(x, t) == pytest.approx(-np.log(y[2] + 1e-7), rel=1e-14)
    # The published 1e-7 scales the gradient by y / (y + 1e-7).
    expected = np.outer(x, y - t) * y[2] / (y[2] + 1e-7)
    np.testing.assert_allclose(net.gradient(x, t), expected, atol=1e-8)
    assert np.array_equal(net.W, before)


# 4.3


@pytest.mark.parametrize("sigmoid", [ref.sigmoid, ref.sigmoid_stable])
def test_sigmoid_and_its_derivative(sigmoid):
    x = np.array([[-2.0, 0.0, 3.0]])
    np.testing.assert_allclose(sigmoid(x), (1 + np.tanh(x / 2)) / 2, rtol=1e-14)
    np.testing.assert_allclose(ref.sigmoid_grad(x, sigmoid), 1 / (4 * np.cosh(x / 2) ** 2), rtol=1e-13)


def test_two_layer_net_has_the_published_shapes_and_initial_values(rng):
    net = ref.TwoLayerNet(784, 100, 10, rng=rng)
    shapes = {name: p.shape for name, p in net.params.items()}
    assert shapes == {"W1": (784, 100), "b1": (100,), "W2": (100, 10), "b2": (10,)}
    assert all(p.dtype == np.float64 for p in net.params.values())
    assert not net.params["b1"].any() and not net.params["b2"].any()
    # 78,400 draws: the standard error of their deviation is 0.01 / sqrt(2 * 78400) = 2.5e-5.
    assert net.params["W1"].std() == pytest.approx(0.01, abs=5 * 2.5e-5)
    assert net.params["W1"].mean() == pytest.approx(0, abs=5 * 0.01 / 280)
    assert net.predict(rng.random((100, 784))).shape == (100, 10)


def test_two_layer_net_is_a_function_of_its_generator():
    first, second = (ref.TwoLayerNet(4, 5, 3, rng=np.random.default_rng(7)).params for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["W1"], ref.TwoLayerNet(4, 5, 3).params["W1"])


def test_predict_loss_and_accuracy_written_out(rng):
    x, t = small_problem(rng)
    net = corrected_net(rng)
    p = net.params
    rows = []
    for example in x:
        hidden = 1 / (1 + np.exp(-(example @ p["W1"] + p["b1"])))
        exps = np.exp(hidden @ p["W2"] + p["b2"])
        rows.append(exps / exps.sum())
    y = np.array(rows)
    labels = t.argmax(axis=1)
    true_class = y[np.arange(len(x)), labels]
    np.testing.assert_allclose(net.predict(x), y, rtol=1e-13)
    assert net.loss(x, t) == pytest.approx(-np.log(true_class + 1e-7).mean(), rel=1e-13)
    assert net.exact_loss(x, t) == pytest.approx(-np.log(true_class).mean(), rel=1e-13)
    hits = sum(int(row.argmax() == label) for row, label in zip(y, labels, strict=True))
    assert 0 < hits < len(x)
    assert net.accuracy(x, t) == hits / len(x)


def test_published_network_normalises_the_whole_batch(rng):
    x, _ = small_problem(rng)
    net = ref.TwoLayerNet(4, 5, 3, 1.0, rng=rng)
    exps = np.exp(net.logits(x))
    np.testing.assert_allclose(net.predict(x), exps / exps.sum(), rtol=1e-13)


@pytest.mark.parametrize("name", ["W1", "b1", "W2", "b2"])
def test_backprop_is_the_numerical_gradient_with_the_corrected_softmax(rng, name):
    x, t = small_problem(rng)
    net = corrected_net(rng)
    backprop = net.gradient(x, t)[name]
    assert backprop.shape == net.params[name].shape
    assert np.abs(backprop).max() > 1e-3
    # What the published 1e-7 may change: a share of 1e-7 / y, and no y is below 0.01 here.
    assert net.predict(x).min() > 0.01
    np.testing.assert_allclose(net.numerical_gradient(x, t)[name], backprop, atol=1e-5)
    exact = ref.numerical_gradient(lambda _: net.exact_loss(x, t), net.params[name])
    np.testing.assert_allclose(exact, backprop, atol=1e-9)


def test_train_records_the_loss_of_the_same_batch_after_the_update(rng):
    x, t = small_problem(rng)
    batches = rng.integers(len(x), size=(5, 6))
    net, twin = (corrected_net(np.random.default_rng(1)) for _ in range(2))
    expected = []
    for rows in batches:
        gradient = twin.gradient(x[rows], t[rows])
        twin.params = {name: p - 0.1 * gradient[name] for name, p in twin.params.items()}
        expected.append(twin.loss(x[rows], t[rows]))
    assert ref.train(net, x, t, batches=batches) == expected
    assert all(np.array_equal(net.params[name], twin.params[name]) for name in net.params)


def test_explicit_batches_make_a_run_reproducible_whatever_the_generator(rng):
    x, t = small_problem(rng)
    batches = rng.integers(len(x), size=(5, 6))
    runs = [ref.train(corrected_net(np.random.default_rng(1)), x, t, batches=batches) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 5
    assert runs[0] != ref.train(corrected_net(np.random.default_rng(1)), x, t, batches=batches[::-1])


def test_a_run_with_drawn_batches_is_a_function_of_its_generator(rng):
    x, t = small_problem(rng)
    settings = {"iters_num": 7, "batch_size": 3, "learning_rate": 0.5}
    runs = [
        ref.train(corrected_net(np.random.default_rng(1)), x, t, rng=np.random.default_rng(seed), **settings)
        for seed in (2, 2, 3)
    ]
    assert len(runs[0]) == 7
    assert runs[0] == runs[1] != runs[2]


def test_sgd_steps_yields_after_each_update(rng):
    x, t = small_problem(rng)
    net = corrected_net(rng)
    before = net.params["b2"].copy()
    steps = ref.sgd_steps(net, x, t, iters_num=2, batch_size=len(x), rng=rng)
    assert np.array_equal(net.params["b2"], before)
    assert next(steps)[0] == 0
    assert not np.array_equal(net.params["b2"], before)
    assert [i for i, _ in steps] == [1]


# 4.4


def test_train_and_evaluate_prints_the_published_line(rng):
    x, t = small_problem(rng)
    x_test, t_test = small_problem(rng, n=8)
    net = corrected_net(rng)
    lines = []
    losses, train_accs, test_accs = ref.train_and_evaluate(
        net, x, t, x_test, t_test, iters_num=9, batch_size=5, rng=rng, printer=lines.append
    )
    assert len(losses) == 9
    assert lines == [f"train acc, test acc | {a} , {b}" for a, b in zip(train_accs, test_accs, strict=True)]
    assert all(re.fullmatch(r"train acc, test acc \| [01]\.\d+ , [01]\.\d+", line) for line in lines)
    assert len(lines) == 3  # 20 examples in batches of 5: at 0, 4 and 8


def test_train_and_evaluate_prints_by_default_and_evaluates_after_the_update(rng, capsys):
    x, t = small_problem(rng)
    net = corrected_net(rng)
    batches = rng.integers(len(x), size=(1, 6))
    ref.train_and_evaluate(net, x, t, x[:8], t[:8], batches=batches)
    expected = f"train acc, test acc | {net.accuracy(x, t)} , {net.accuracy(x[:8], t[:8])}\n"
    assert capsys.readouterr().out == expected


def test_train_and_evaluate_takes_the_interval_from_explicit_batches(rng):
    x, t = small_problem(rng)
    _, train_accs, _ = ref.train_and_evaluate(
        corrected_net(rng), x, t, x, t, batches=rng.integers(len(x), size=(4, 10)), printer=lambda _: None
    )
    assert len(train_accs) == 2  # 20 examples in batches of 10: at 0 and 2


def test_train_and_evaluate_trains_as_train_does(rng):
    x, t = small_problem(rng)
    batches = rng.integers(len(x), size=(5, 6))
    losses = ref.train(corrected_net(np.random.default_rng(1)), x, t, batches=batches)
    evaluated = ref.train_and_evaluate(
        corrected_net(np.random.default_rng(1)), x, t, x, t, batches=batches, printer=lambda _: None
    )
    assert evaluated[0] == losses


def test_plots_draw_what_the_note_shows():
    pytest.importorskip("matplotlib")
    (axes,) = ref.plot_tangent().axes
    curve, tangent = axes.lines
    xs = np.arange(0.0, 20.0, 0.1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "f(x)")
    assert np.array_equal(curve.get_ydata(), ref.func(xs))
    assert np.array_equal(tangent.get_ydata(), ref.tangent_line(ref.func, 10)(xs))

    (axes,) = ref.plot_accuracy([0.1, 0.8, 0.9], [0.1, 0.7, 0.8]).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs", "accuracy")
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.1, 0.8, 0.9], [0.1, 0.7, 0.8]]
    assert len(axes.get_legend().get_texts()) == 2
