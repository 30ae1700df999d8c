"""What a trained network is used for from the command line: evaluate, predict, plot, export, runs."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas
import pytest
from helpers import error_of, output
from matplotlib.image import imread
from PIL import Image
from sklearn import metrics as sk

from jaxnet import checkpoints, cli, datasets, network, plots
from jaxnet.cli import plot, run_folder

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, compiled_once):
    """A folder with two runs on the digits, which differ in the seed and the optimizer, and a sweep."""
    folder = tmp_path_factory.mktemp("runs")
    quick = ["--data", "digits", "--eval-every", "100", "--quiet", "--no-plots"]
    for name, more in {"one": [], "two": ["--optimizer", "adam", "--seed", "1"]}.items():
        assert cli.main(["train", *quick, "--steps", "600", *more, "--out", str(folder / name)]) == 0
    sweep = ["--steps", "20", "--seeds", "2", "--out", str(folder / "sweep")]
    assert cli.main(["sweep", *quick, *sweep]) == 0
    return folder


@pytest.fixture(scope="module")
def regression(tmp_path_factory, compiled_once):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (200, 3))
    folder = tmp_path_factory.mktemp("regression")
    np.savez(folder / "mine.npz", x_train=x, t_train=x @ [1.0, -2.0, 0.5] + 7)
    arguments = ["--data", str(folder / "mine.npz"), "--task", "regression", "--steps", "300"]
    assert cli.main(["train", *arguments, "--quiet", "--no-plots", "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_loss_of_confident_mistakes_is_not_cut_off(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--data", "digits", "--steps", "60", "--learning-rate", "3", "--weight-std", "100"]
    options += ["--metrics", "loss", "--quiet", "--no-plots", "--out", str(run)]
    assert cli.main(["train", *options]) == 0
    capsys.readouterr()
    found = json.loads(output(capsys, "evaluate", run, "--json"))["scores"]["loss"]
    recorded = (run / "history.csv").read_text().splitlines()[-1].split(",")[-1]
    assert found == pytest.approx(float(recorded), rel=1e-5) and found > 90


def test_evaluate_is_what_scikit_learn_says(runs, capsys):
    found = json.loads(output(capsys, "evaluate", runs / "two", "--json"))
    _, (x, t) = datasets.load("digits")
    y = np.asarray(network.predict(checkpoints.load_params(runs / "two/params.safetensors").params, x), float)
    y, predicted = y / y.sum(axis=1, keepdims=True), y.argmax(axis=1)
    assert found["examples"] == len(t) == 360
    assert found["confusion_matrix"] == sk.confusion_matrix(t, predicted).tolist()
    scores = {
        "loss": sk.log_loss(t, y),
        "accuracy": sk.accuracy_score(t, predicted),
        "top_k_accuracy": sk.top_k_accuracy_score(t, y, k=2),
        "f1_macro": sk.f1_score(t, predicted, average="macro"),
        "precision_weighted": sk.precision_score(t, predicted, average="weighted"),
        "recall_micro": sk.recall_score(t, predicted, average="micro"),
        "roc_auc": sk.roc_auc_score(t, y, multi_class="ovr"),
    }
    for name, score in scores.items():
        assert found["scores"][name] == pytest.approx(score, rel=1e-4), name
    each = sk.precision_recall_fscore_support(t, predicted)
    for column, name in enumerate(("precision", "recall", "f1", "examples")):
        values = [found["classes"][label][name] for label in "0123456789"]
        np.testing.assert_allclose(values, each[column], rtol=1e-5)
    text = output(capsys, "evaluate", runs / "two", "--part", "train")
    assert "1,437 train examples of digits" in text and re.search(r"^accuracy +0\.9\d{3}$", text, re.M)


def test_evaluate_on_a_file(runs, tmp_path, capsys):
    _, (x, t) = datasets.load("digits")
    wrong = np.where(np.arange(len(t)) < 90, (t + 1) % 10, t)
    np.savez(tmp_path / "mine.npz", x_train=x[:20], t_train=np.arange(20) % 10, x_test=x, t_test=wrong)
    own = json.loads(output(capsys, "evaluate", runs / "two", "--json"))["scores"]["accuracy"]
    found = json.loads(output(capsys, "evaluate", runs / "two", "--data", tmp_path / "mine.npz", "--json"))
    assert found["data"] == str(tmp_path / "mine.npz")
    assert own - 0.26 < found["scores"]["accuracy"] < own - 0.2


def test_evaluate_and_predict_numbers(regression, tmp_path, capsys):
    found = json.loads(output(capsys, "evaluate", regression, "--json"))
    assert list(found["scores"]) == ["r2", "mean_absolute_error", "mean_squared_error"]
    assert found["scores"]["r2"] > 0.9
    rows = np.array([[5.0, 5.0, 5.0], [6.0, 5.0, 5.0]])
    np.save(tmp_path / "rows.npy", rows)
    (one, other) = json.loads(output(capsys, "predict", regression, tmp_path / "rows.npy", "--json"))
    expected = network.logits(checkpoints.load_params(regression / "params.safetensors").params, rows)[:, 0]
    np.testing.assert_allclose([one["prediction"], other["prediction"]], expected, rtol=1e-5)
    assert one["input"].endswith("rows.npy[0]")


def photographs(x, rng):
    """Dark digits of 200 pixels, shifted, on grey paper that is lighter on one side, with noise."""
    for row in x:
        image = Image.fromarray((row.reshape(28, 28) * 255).astype(np.uint8)).resize((200, 200))
        down, right = rng.integers(0, 41, 2)
        ink = np.pad(np.asarray(image, float) / 255, 20)[down : down + 200, right : right + 200]
        paper = 0.7 + 0.1 * np.linspace(-1, 1, 200)
        noisy = paper - 0.5 * ink + rng.normal(0, 0.06, ink.shape)
        yield (np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def test_predict_keeps_the_accuracy_on_photographs(mnist, tmp_path, rng, capsys):
    folder, few = tmp_path / "run", 300
    train = ["--steps", "3000", "--learning-rate", "0.3", "--eval-every", "3000", "--quiet", "--no-plots"]
    assert cli.main(["train", *train, "--out", str(folder)]) == 0
    _, (x, t) = datasets.load("mnist")
    x, t = x[:few], t[:few]
    np.save(tmp_path / "photos.npy", np.stack(list(photographs(x, rng))))
    np.save(tmp_path / "clean.npy", x)
    right = {}
    for name in ("clean", "photos"):
        found = json.loads(output(capsys, "predict", folder, tmp_path / f"{name}.npy", "--json"))
        right[name] = np.mean([one["class"] == str(label) for one, label in zip(found, t, strict=True)])
    print(f"accuracy on {few} clean images {right['clean']:.4f}, on photographs {right['photos']:.4f}")
    assert right["clean"] > 0.9 and right["photos"] >= 0.9 * right["clean"]


def test_a_centred_digit_is_the_digit(mnist):
    _, (x, _) = datasets.load("mnist")
    light = [datasets.centred((row.reshape(28, 28) * 255).astype(np.uint8)) for row in x[:20]]
    np.testing.assert_allclose(light, x[:20], atol=0.25)
    assert np.mean(np.abs(np.array(light) - x[:20])) < 0.02
    # Dark on light, in colour, larger and elsewhere, it is nearly the same.
    canvas = np.full((300, 260, 3), 230, np.uint8)
    image = Image.fromarray(255 - (x[0].reshape(28, 28) * 255).astype(np.uint8)).resize((84, 84))
    canvas[150:234, 20:104] = (np.asarray(image)[:, :, None] * (230 / 255)).astype(np.uint8)
    assert np.corrcoef(datasets.centred(canvas), x[0])[0, 1] > 0.97


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((20, 30), 7.0), "expected a picture with something on it, got one of a single colour"),
        (
            np.zeros((20, 30, 4)),
            r"expected a picture \[rows, columns\] or \[rows, columns, 3\], got \[20, 30, 4",
        ),
        (np.full((20, 30), np.nan), "expected a picture of finite numbers, got NaN or infinity"),
    ],
)
def test_pictures_that_cannot_be_centred(image, message):
    with pytest.raises(ValueError, match=message):
        datasets.centred(image)


def test_predict_takes_pictures_of_every_kind(runs, tmp_path, monkeypatch, capsys):
    _, (x, t) = datasets.load("digits")
    row = int(np.flatnonzero(t == 0)[0])
    grey = Image.fromarray(255 - (x[row].reshape(8, 8) * 255).astype(np.uint8)).resize((60, 60))
    folder = tmp_path / "pictures"
    folder.mkdir()
    grey.save(folder / "a.png")
    grey.convert("RGB").save(folder / "b.jpg", quality=90)
    transparent = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    transparent.putalpha(Image.fromarray(255 - np.asarray(grey)))
    transparent.save(folder / "c.png")
    np.save(folder / "d.npy", np.stack([np.asarray(grey)] * 2))
    np.savez(folder / "e.npz", x_test=x[row : row + 1])
    np.save(folder / "f.npy", np.rint(x[row] * 16).astype(np.uint8))
    found = json.loads(output(capsys, "predict", runs / "two", folder, "--json"))
    assert [Path(one["input"]).name for one in found] == [
        *("a.png", "b.jpg", "c.png", "d.npy[0]", "d.npy[1]", "e.npz[0]", "f.npy")
    ]
    assert {one["class"] for one in found} == {"0"}
    assert found[5]["probabilities"] == pytest.approx(found[6]["probabilities"], abs=1e-6)
    shares = network.predict(checkpoints.load_params(runs / "two/params.safetensors").params, x[row])
    np.testing.assert_allclose(list(found[5]["probabilities"].values()), shares, atol=1e-6)
    for name in ("a.png", "d.npy"):
        data = io.TextIOWrapper(io.BytesIO((folder / name).read_bytes()))
        monkeypatch.setattr(sys, "stdin", data)
        lines = output(capsys, "predict", runs / "two", "-").splitlines()
        assert lines[0].split() == ["input", "class", "probability", "then"] and lines[1].split()[1] == "0"


def test_rows_of_a_table(regression, tmp_path, capsys):
    x = np.random.default_rng(1).normal(5, 2, (4, 3))
    table = pandas.DataFrame(x, columns=["a", "b", "c"])
    for columns in (table, table.assign(t=0)):
        columns.to_csv(tmp_path / "rows.csv", index=False)
        found = json.loads(output(capsys, "predict", regression, tmp_path / "rows.csv", "--json"))
        expected = x @ [1.0, -2.0, 0.5] + 7
        assert [one["prediction"] for one in found] == pytest.approx(expected.tolist(), abs=0.5)
        assert found[3]["input"].endswith("rows.csv[3]")
    table[["a"]].to_csv(tmp_path / "rows.csv", index=False)
    message = error_of(capsys, "predict", regression, tmp_path / "rows.csv")
    assert "expected 3 columns of inputs, and one of targets or none, got 1" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a picture, an .npy, .npz or .csv file, a folder or -, got "),
        (b"text", "file.png: expected a picture, got a file of no known format"),
        (np.zeros(63), "expected 64 inputs, got 63"),
        (np.zeros((2, 8, 8)), "file.npy[0]: expected a picture with something on it"),
        (np.zeros((0, 8, 8)), "expected pictures or rows of 64 inputs, got [0, 8, 8]"),
        (np.array(["a"]), "expected real numbers, got <U1"),
        (np.full((2, 64), np.nan), "file.npy[0]: expected finite numbers, got NaN or infinity"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "expected one array, or x_test, got a, b"),
    ],
)
def test_inputs_that_are_none(content, message, runs, tmp_path, capsys):
    path = tmp_path / ("file.npz" if isinstance(content, dict) else "file.npy")
    if isinstance(content, bytes):
        path = tmp_path / "file.png"
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content)
    assert message in error_of(capsys, "predict", runs / "two", path)


def test_evaluate_on_data_that_does_not_fit(runs, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x_train=np.eye(4), t_train=np.arange(4) % 2)
    data = ["--data", tmp_path / "x.npz"]
    assert "expected 64 inputs, as the run has, got 4" in error_of(capsys, "evaluate", runs / "one", *data)
    x = np.random.default_rng(0).random((60, 64))
    np.savez(tmp_path / "x.npz", x_train=x, t_train=np.arange(60) % 12)
    assert "expected 10 classes, as the run has, got label 11" in error_of(
        capsys, "evaluate", runs / "one", *data
    )


def test_plot_draws_one_run_and_several(runs, regression, tmp_path, capsys):
    written = output(capsys, "plot", runs / "one", "--out", tmp_path / "one")
    names = ("curves", "confusion", "mistakes", "weights")
    assert written == f"written to {', '.join(str(tmp_path / 'one' / f'{name}.png') for name in names)}\n"
    for name in names:
        assert imread(tmp_path / "one" / f"{name}.png").std() > 0.01
    output(capsys, "plot", runs / "one", runs / "two", "--out", tmp_path)
    assert (tmp_path / "curves.png").exists()
    line = error_of(capsys, "plot", runs / "one", regression, "--out", tmp_path)
    assert "expected runs that record the same metric, got accuracy, r2" in line
    assert cli.main(["plot", str(runs / "sweep"), "--out", str(tmp_path)]) == 0
    assert "is a sweep, whose curves are in its pictures" in capsys.readouterr().err


def test_the_pictures_show_what_they_say(runs):
    history = checkpoints.load_history(runs / "one")
    with (runs / "one/history.csv").open() as file:
        assert len(history.loss) == len(file.readlines()) - 1 == 600
    left, right = plots.learning_curves({"one": history}).axes
    (means,) = left.lines
    np.testing.assert_allclose(means.get_ydata()[-1], history.loss[-6:].mean(), rtol=1e-5)
    train, test = right.lines
    assert (train.get_linestyle(), test.get_linestyle()) == ("--", "-")
    np.testing.assert_array_equal(test.get_ydata(), history.test["accuracy"])
    low, high = right.get_ylim()
    assert low < history.test["accuracy"][1:].min() and high > history.train["accuracy"].max()
    matrix = plots.confusion_matrix(np.array([[3, 1], [0, 4]]), ["a", "b"]).axes[0]
    assert {(text.get_position(), text.get_text()) for text in matrix.texts} == {
        ((0, 0), "3"), ((1, 0), "1"), ((1, 1), "4"),
    }  # fmt: skip
    weight = np.arange(64 * 12.0).reshape(64, 12) - 400
    panels = [axes for axes in plots.weights(weight).axes if axes.images]
    assert len(panels) == 12
    np.testing.assert_array_equal(panels[3].images[0].get_array(), weight[:, 3].reshape(8, 8))
    y = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    np.testing.assert_array_equal(plot.mistakes(y, np.array([0, 0, 0, 0])), [2, 1])


@pytest.mark.parametrize("kind", ["run", "regression"])
def test_an_exported_program_runs_without_jaxnet(kind, runs, regression, tmp_path, capsys):
    folder = runs / "two" if kind == "run" else regression
    out = output(capsys, "export", folder, "--out", tmp_path / "model")
    assert f"written to {tmp_path / 'model'}: takes x float32 [n, {64 if kind == 'run' else 3}]" in out
    trained = run_folder.trained(folder)
    x = np.random.default_rng(0).random((5, trained.saved.sizes[0])).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys, numpy as np, jax.export
program = jax.export.deserialize(bytearray(open("model", "rb").read()))
np.save("y.npy", program.call(np.load("x.npy")))
assert "jaxnet" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), trained.model(x), rtol=1e-5, atol=1e-6)


def test_exported_parameters_are_those_of_the_run(runs, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    output(capsys, "export", runs / "two", "--format", "safetensors", "--out", path)
    one, other = (checkpoints.load_params(p) for p in (path, runs / "two/params.safetensors"))
    assert one[1:] == other[1:]
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a, b)
    message = error_of(capsys, "export", runs / "two", "--out", path)
    assert f"{path} is there already: choose another --out, or --overwrite it" in message
    output(capsys, "export", runs / "two", "--out", path, "--overwrite")
    line = error_of(capsys, "export", runs / "two", "--out", tmp_path / "none" / "net")
    assert "--out must be a file in a folder that is there, got " in line


def test_runs_lists_and_compares(runs, tmp_path, monkeypatch, capsys):
    found = json.loads(output(capsys, "runs", runs, "--json"))
    assert [Path(one["run"]).name for one in found] == ["one", "sweep", "two"]
    summary = json.loads((runs / "two/summary.json").read_text())
    assert found[2]["summary"] == summary and found[2]["settings"]["seed"] == 1
    header, one, two = (
        line.split() for line in output(capsys, "runs", runs / "one", runs / "two").splitlines()
    )
    assert header == [
        "run",
        *["data", "sizes", "optimizer", "learning-rate", "seed", "steps", "test", "state"],
    ]
    assert two[1:] == [
        "digits",
        "64-50-10",
        "adam",
        "0.001",
        "1",
        "600",
        f"{summary['test_accuracy']:.4f}",
        "done",
    ]
    assert one[3:6] == ["sgd", "0.1", "0"]
    assert "expected a run folder, or a folder of them, got nowhere" in error_of(capsys, "runs", "nowhere")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("{")
    damaged = "config.json: expected JSON, got a damaged file"
    assert damaged in error_of(capsys, "runs", tmp_path / "damaged")
    shutil.copytree(runs / "one", tmp_path / "one")
    assert cli.main(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert str(tmp_path / "one") in out and err.startswith("note: passed over: ") and damaged in err
    monkeypatch.chdir(tmp_path)
    assert output(capsys, "runs") == "no runs in runs\n"
    file = str(Path(__file__))
    assert error_of(capsys, "runs", file).endswith("test_cli_runs.py: a file")
    assert "expected the folder of a run" in error_of(capsys, "predict", file, "one.png")
    assert output(capsys, "runs", Path(__file__).parent) == f"no runs in {Path(__file__).parent}\n"
