import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxnet
from jaxnet import plots


def drawn(figure):
    """The pixels of a figure, to see that something was drawn."""
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_accuracy_is_solid_for_train_and_dashed_for_test():
    figure = plots.accuracy_curves(np.arange(3), np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.4, 0.8]))
    (axes,) = figure.axes
    train, test = axes.lines
    assert (train.get_linestyle(), test.get_linestyle()) == ("-", "--")
    np.testing.assert_array_equal(test.get_ydata(), [0.1, 0.4, 0.8])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs", "accuracy")
    assert [text.get_text() for text in axes.get_legend().texts] == ["train", "test"]
    assert drawn(figure).std() > 0


def test_loss_curve_has_a_running_mean_that_is_a_mean(rng):
    loss = rng.random(250)
    (axes,) = plots.loss_curve(loss, window=100).axes
    raw, mean = axes.lines
    np.testing.assert_array_equal(raw.get_ydata(), loss)
    np.testing.assert_allclose(mean.get_ydata()[0], loss[:100].mean())
    np.testing.assert_allclose(mean.get_ydata()[-1], loss[-100:].mean())
    assert (mean.get_xdata()[0], mean.get_xdata()[-1]) == (99, 249)
    assert len(plots.loss_curve(loss[:3]).axes[0].lines) == 1
    assert len(plots.loss_curve(loss[:0]).axes[0].lines) == 1


def test_accuracy_bands_are_mean_and_standard_deviation():
    networks = np.array([[0.1, 0.5, np.nan], [0.3, 0.7, 0.9]])
    (axes,) = plots.accuracy_bands(np.arange(3), {"a": networks, "b": networks[:1] * np.nan}).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.2, 0.6, 0.9])
    corners = axes.collections[0].get_paths()[0].vertices
    spread = np.sqrt(0.02)  # of 0.1, 0.3 and of 0.5, 0.7
    for x, y in ((0, 0.2 - spread), (0, 0.2 + spread), (1, 0.6 + spread), (2, 0.9)):
        assert np.isclose(corners, (x, y)).all(axis=1).any()
    assert [text.get_text() for text in axes.get_legend().texts] == ["a", "b"]


def test_the_other_figures_are_drawn(rng):
    x = np.linspace(0, 20, 50)
    for figure in (
        plots.lines(x, {"f": x**2, "tangent": x}, xlabel="x", ylabel="f(x)"),
        plots.step_size_error(10.0 ** -np.arange(8), rng.random(8) + 0.1, chosen=1e-4),
        plots.descent(x, x, np.add.outer(x**2, x**2), rng.random((5, 2)) * 20),
        plots.images(rng.random((3, 64)), np.array([1, 2, 3])),
    ):
        assert drawn(figure).std() > 0


def test_a_map_of_a_sweep_has_its_scores_and_crosses_out_what_diverged():
    scores = np.array([[0.9, 0.5, np.nan], [0.8, 0.95, 0.1]])
    figure = plots.sweep_map([0.0, 0.9], [0.01, 0.1, 1.0], scores, ylabel="momentum", xlabel="learning rate")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.900", "0.500", "x", "0.800", "0.950", "0.100"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert axes.get_ylabel() == "momentum"


def test_agreement_tells_the_largest_relative_difference_of_each_two():
    gradients = {"one": {"w": np.array([1.0, -4.0])}, "two": {"w": np.array([1.0, -4.0])}}
    gradients["wrong"] = {"w": np.array([1.0, -4.4])}
    texts = [text.get_text() for text in plots.agreement(gradients).axes[0].texts]
    assert texts == ["0", "0", "9e-02", "0", "0", "9e-02", "9e-02", "9e-02", "0"]


def test_what_was_located_is_told_with_its_line():
    origins = jaxnet.locate(lambda x: jnp.sqrt(x).sum(), jnp.array([0.0, 4.0]))
    figure = plots.located(origins)
    told = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "test_plots.py" in told
    assert "sqrt: not finite" in told
    assert plots.located(()).axes[0].get_title(loc="left") == "no operation is wrong"


def test_images_that_are_not_square():
    with pytest.raises(ValueError, match="images must be square, got 60 pixels each"):
        plots.images(np.zeros((3, 60)), np.array([1, 2, 3]))


def test_without_matplotlib_the_extra_is_named():
    code = """
import sys; sys.modules["matplotlib.figure"] = None
import numpy as np, jaxnet
try: jaxnet.plots.loss_curve(np.ones(3))
except ImportError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "plots need matplotlib: pip install 'jaxnet[plots]'\n"
