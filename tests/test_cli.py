import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.datasets import load_diabetes, load_iris
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, r2_score

import reference_numpy
from jaxnet import checkpoints, cli, datasets, network
from jaxnet.cli import settings

pytestmark = pytest.mark.usefixtures("compiled_once")
QUICK = ["--data", "digits", "--steps", "300", "--eval-every", "100"]


def in_readme(pattern):
    """Return the figures that README gives where a pattern stands."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    return [float(figure) for figure in re.search(pattern, text).groups()]


def run(*arguments, **options):
    command = [sys.executable, "-m", "jaxnet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def history_of(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_train_leaves_everything_in_the_run_folder(tmp_path, capsys):
    folder = tmp_path / "new" / "run"
    assert cli.main(["train", *QUICK, "--seed", "3", "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].split()[:5] == ["step", "epoch", "loss", "train", "accuracy"]
    assert [line.split()[0] for line in lines[1:5]] == ["1", "101", "201", "300"]
    assert lines[5].startswith("64-50-10, sgd at 0.1, 300 steps: test accuracy 0.")
    assert "steps/s in training" in lines[6]
    assert lines[7] == f"written to {folder}"

    config = json.loads((folder / "config.json").read_text())
    assert (config["seed"], config["steps"], config["sizes"]) == (3, 300, [64, 50, 10])
    assert config["versions"]["jax"] == jax.__version__
    rows = history_of(folder)
    assert [int(row["step"]) for row in rows] == list(range(300))
    accuracies = [[row[f"{part}_accuracy"] for part in ("train", "test")] for row in rows]
    told = [[f"{float(value):.4f}" for value in pair] for pair in accuracies if pair[1]]
    assert told == [line.split()[3:5] for line in lines[1:5]]
    losses = [float(row["loss"]) for row in rows]
    means = [np.mean(part) for part in np.split(losses, [1, 101, 201])]
    np.testing.assert_allclose([float(line.split()[2]) for line in lines[1:5]], means, atol=6e-5)

    # The saved parameters are those of the summary, and of the same run through the library.
    exported = checkpoints.load_params(folder / "params.safetensors")
    assert exported[1:] == ((64, 50, 10), "sigmoid", 1 / 16, tuple("0123456789"))
    _, test = datasets.load_digits()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] == pytest.approx(float(network.accuracy(exported.params, *test)))
    for name in ("loss.png", "accuracy.png"):
        assert imread(folder / name).std() > 0.01


def test_defaults_are_the_source_run():
    options = settings.Train()
    assert (options.data, options.hidden, options.steps, options.batch_size) == ("mnist", (50,), 10_000, 100)
    assert (options.optimizer, options.activation, options.sampling) == ("sgd", "sigmoid", "replacement")


def test_the_source_run_on_mnist_from_one_command(mnist, tmp_path):
    done = run("train", "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1 + 18 + 3  # one of them of the end
    accuracy = json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"]
    assert accuracy >= 0.94
    # One processor rounds otherwise than another.
    assert accuracy == pytest.approx(in_readme(r"test accuracy (0\.\d+) with the default seed")[0], abs=1e-3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam", "adamw"])
def test_several_hidden_layers_and_other_optimizers_learn(optimizer, tmp_path, capsys):
    arguments = ["--data", "digits", "--steps", "1500", "--eval-every", "1500", "--optimizer", optimizer]
    deep = ["--hidden", "40", "30", "--activation", "relu", "--sampling", "shuffle", "--out", str(tmp_path)]
    assert cli.main(["train", *arguments, *deep]) == 0
    assert json.loads((tmp_path / "summary.json").read_text())["test_accuracy"] > 0.9
    assert "64-40-30-10" in capsys.readouterr().out


def test_a_run_is_not_overwritten_unasked(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--out", str(tmp_path)]) == 0
    before = (tmp_path / "history.csv").read_bytes()
    assert cli.main(["train", *QUICK, "--seed", "1", "--out", str(tmp_path)]) == 2
    assert "already holds a run: choose another --out, or --overwrite it" in capsys.readouterr().err
    assert (tmp_path / "history.csv").read_bytes() == before
    assert cli.main(["train", *QUICK, "--seed", "1", "--out", str(tmp_path), "--overwrite"]) == 0
    assert (tmp_path / "history.csv").read_bytes() != before


def test_the_default_folder_is_named_after_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--data", "digits", "--steps", "10"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-") and (folder / "accuracy.png").exists()


def test_your_own_arrays(tmp_path, rng, capsys):
    labels = rng.integers(3, size=200)
    x = np.eye(3)[labels] + 0.1 * rng.standard_normal((200, 3))
    np.savez(tmp_path / "mine.npz", x_train=x, t_train=labels)
    arguments = ["--data", str(tmp_path / "mine.npz"), "--steps", "2000", "--batch-size", "20"]
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert "3-50-3, sgd at 0.1, 2000 steps: test accuracy 1.0000" in capsys.readouterr().out


@pytest.fixture
def diabetes(tmp_path):
    """A table of scikit-learn's diabetes in its own units, beside a column that says nothing."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame.insert(0, "constant", 7.0)
    frame.to_csv(tmp_path / "diabetes.csv", index=False)
    return tmp_path / "diabetes.csv"


def test_a_regression_of_a_table(diabetes, tmp_path, capsys):
    options = ["train", "--data", str(diabetes), "--task", "regression", "--eval-every", "100"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main([*options, "--steps", "300", "--out", str(whole)]) == 0
    out = capsys.readouterr().out
    assert "train r2   test r2" in out.splitlines()[0] and "11-50-1, sgd at 0.1, 300 steps: test r2 0." in out
    assert (whole / "r2.png").exists()
    assert cli.main([*options, "--steps", "150", "--out", str(cut)]) == 0
    assert cli.main(["train", "--resume", "--out", str(cut), "--steps", "300"]) == 0
    summary = json.loads((whole / "summary.json").read_text())
    again = json.loads((cut / "summary.json").read_text())
    scores = {"test_r2": r2_score, "test_mean_squared_error": mean_squared_error}
    scores["test_mean_absolute_error"] = mean_absolute_error
    assert {name: again[name] for name in scores} == {name: summary[name] for name in scores}
    # What is saved takes inputs as they are in the table, and answers in units of its target.
    _, (x, t) = datasets.load(diabetes, task="regression")
    exported = checkpoints.load_params(whole / "params.safetensors")
    assert exported[1:] == ((11, 50, 1), "sigmoid", 1.0, None)
    predicted = np.asarray(network.logits(exported.params, x))[:, 0]
    assert summary["test_r2"] > 0.5
    for name, score in scores.items():
        assert summary[name] == pytest.approx(score(t, predicted), rel=1e-4)


def test_a_sweep_of_regressions_is_ranked_by_r2(diabetes, tmp_path, capsys):
    options = ["--data", str(diabetes), "--task", "regression", "--steps", "200", "--seeds", "2"]
    folder = tmp_path / "sweep"
    assert cli.main(["sweep", *options, "--learning-rate", "0.1", "0.001", "--out", str(folder)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()[:3]
    assert "test r2" in header and " 0.1 " in first and " 0.001 " in second
    assert (folder / "r2.png").exists() and not (folder / "accuracy.png").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["ranking"][0]["test_r2_mean"] > 0.3 > summary["ranking"][1]["test_r2_mean"]
    _, (x, t) = datasets.load(diabetes, task="regression")
    best = checkpoints.load_params(folder / "params.safetensors").params
    with (folder / "networks.csv").open() as file:
        scores = [float(row["test_r2"]) for row in csv.DictReader(file)]
    assert r2_score(t, np.asarray(network.logits(best, x))[:, 0]) == pytest.approx(max(scores), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "regression", "--class-weights", "balanced"], "--class-weights and --metrics are of cl"),
        (
            ["--task", "regression", "--metrics", "f1"],
            "--class-weights and --metrics are of classes, got them",
        ),
        (["--task", "regression", "--target", "size"], "expected a column 'size', got 'constant', 'age', "),
        ([], "target: expected classes, got 214 different float64; number the classes"),
    ],
)
def test_options_that_do_not_fit_a_table(options, message, diabetes, tmp_path, capsys):
    assert cli.main(["train", "--data", str(diabetes), "--out", str(tmp_path / "run"), *options]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_table_of_classes_and_metrics_by_name(tmp_path, capsys):
    frame = load_iris(as_frame=True).frame
    frame.insert(0, "kind", np.array(["one", "two", "three"])[frame.pop("target")])
    frame.to_csv(tmp_path / "iris.csv", index=False)
    options = ["--data", str(tmp_path / "iris.csv"), "--target", "kind", "--metrics", "f1_macro"]
    more = ["--steps", "200", "--eval-every", "100", "--hidden", "10", "--activation", "tanh"]
    assert cli.main(["train", *options, *more, "--out", str(tmp_path / "run")]) == 0
    exported = checkpoints.load_params(tmp_path / "run" / "params.safetensors")
    assert exported.class_names == ("one", "three", "two")
    _, (x, t) = datasets.load(tmp_path / "iris.csv", target="kind")
    shares = np.asarray(network.predict(exported.params, x, activation="tanh"))
    last = history_of(tmp_path / "run")[-1]
    assert float(last["test_f1_macro"]) == pytest.approx(f1_score(t, shares.argmax(axis=1), average="macro"))


def test_output_into_a_closed_pipe(tmp_path, digits):
    options = f"--data {digits} --eval-every 20 --steps 2000 --out {tmp_path}"
    command = f"{sys.executable} -m jaxnet train {options} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[:2] == ["step", "epoch"] and done.stderr == ""


def one_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["learn"], "invalid choice: 'learn'"),
        (["train", "--hidden"], "argument --hidden: expected at least one argument"),
        (["train", "--hidden", "50", "0"], "argument --hidden: expected a positive integer, got '0'"),
        (["train", "--steps", "many"], "argument --steps: expected a positive integer, got 'many'"),
        (["train", "--batch-size", "-1"], "argument --batch-size: expected a positive integer, got '-1'"),
        (["train", "--learning-rate", "0"], "argument --learning-rate: expected a positive number, got '0'"),
        (
            ["train", "--learning-rate", "nan"],
            "argument --learning-rate: expected a positive number, got 'nan'",
        ),
        (["train", "--optimizer", "sdg"], "argument --optimizer: invalid choice: 'sdg' (choose from "),
        (["train", "--seed", "x"], "argument --seed: expected an integer in 0..4294967295, got 'x'"),
        (["train", "--seed", "4294967296"], "argument --seed: expected an integer in 0..4294967295"),
        (["train", "--batch-size", "99999999999"], "argument --batch-size: expected a positive integer"),
        (["train", "--learning-rate", "1e300"], "argument --learning-rate: expected a positive number"),
        (["train", "--lr", "0.1"], "unrecognized arguments: --lr 0.1"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    line = one_line(capsys)
    assert line.startswith("jaxnet") and ": error: " in line and message in line


def test_a_run_that_failed_does_not_block_the_next(tmp_path, capsys):
    shuffled = ["--sampling", "shuffle", "--batch-size", "5000", "--out", str(tmp_path)]
    assert cli.main(["train", *QUICK, *shuffled]) == 2
    assert "batch_size must be at most the 1437 training examples" in one_line(capsys)
    assert cli.main(["train", *QUICK, "--out", str(tmp_path)]) == 0


def test_parity_of_more_batches_than_memory(capsys):
    assert cli.main(["parity", "--data", "digits", "--steps", "300000000"]) == 2
    assert "draws all batches at once" in one_line(capsys)


# Of the platforms that JAX knows one that this machine has not.
@pytest.mark.parametrize("platform", ["nonsense", "rocm" if shutil.which("nvidia-smi") else "cuda"])
def test_a_platform_that_is_not_there(platform):
    done = run("train", "--data", "digits", env=os.environ | {"JAX_PLATFORMS": platform})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "no usable device" in done.stderr and platform in done.stderr


def test_unknown_data(capsys):
    assert cli.main(["train", "--data", "digit"]) == 2
    assert "a path ending in .npz or .csv, or a folder of images, got 'digit'" in one_line(capsys)


def test_data_that_is_not_there(tmp_path, capsys):
    assert cli.main(["train", "--data", str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in one_line(capsys)


def test_nan_in_your_own_arrays(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", x_train=np.full((9, 3), np.nan), t_train=np.zeros(9, int))
    assert cli.main(["train", "--data", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "run")]) == 2
    assert "mine.npz" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_corrupt_idx_file(tmp_path, monkeypatch, capsys):
    header = bytes([0, 0, 8, 3, 0, 0, 0xEA, 0x60, 0, 0, 0, 28, 0, 0, 0, 28])  # 60000 x 28 x 28, and no pixel
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{name}-ubyte").write_bytes(header)
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    assert cli.main(["train"]) == 2
    line = one_line(capsys)
    assert "train-images-idx3-ubyte: expected 47040016 bytes" in line and "got 16" in line


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_folder_that_cannot_be_made(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["train", *QUICK, "--out", str(tmp_path / name)]) == 2
    assert "--out must be a folder that can be written, got " in one_line(capsys)


def test_no_traceback_from_the_command_line():
    done = run("train", "--data", "none.npz")
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_and_version(capsys):
    for arguments in (["--help"], ["--version"], ["train", "--help"], ["parity", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
    assert "--hidden N [N ...]" in capsys.readouterr().out


def test_parity_over_a_long_run_on_mnist(mnist, capsys):
    assert cli.main(["parity", "--steps", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("step   1000: params ")
    assert lines[-1] == "pass at 1e-10"


@pytest.mark.rest
def test_parity_is_what_the_readme_says(mnist, capsys):
    assert cli.main(["parity"]) == 0
    printed = re.search(r"differ at most by (\S+), losses by (\S+);", capsys.readouterr().out).groups()
    told = in_readme(r"differ at most by (\S+), losses by (\S+) \|")
    for one, other in zip(map(float, printed), told, strict=True):
        assert other / 5 < one < 5 * other


def test_parity_sees_a_wrong_reference(monkeypatch, capsys):
    right = reference_numpy.network.sigmoid_grad
    monkeypatch.setattr(reference_numpy.network, "sigmoid_grad", lambda *args: right(*args) * (1 + 1e-6))
    assert cli.main(["parity", "--data", "digits", "--steps", "200"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL at 1e-10"


SQUARE = "import numpy as np\ndef f(x): return (x ** 2).sum()\ndef f_args(): return (np.ones(3),)\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (SQUARE + "import sys\nsys.exit(0)\n", "cannot be imported: SystemExit: 0"),
        (SQUARE + "def f_args(): raise SystemExit('done')\n", "mine.py:f: SystemExit: done"),
        (SQUARE.replace("return (x", "exit(); return (x"), "mine.py:f: SystemExit: None"),
    ],
)
def test_a_checked_file_that_ends_the_process(code, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(code)
    assert cli.main(["check", f"{tmp_path / 'mine.py'}:f"]) == 2
    assert message in one_line(capsys)


def test_a_checked_file_is_a_module_of_its_own(tmp_path, capsys):
    (tmp_path / "numpy.py").write_text(SQUARE)
    assert cli.main(["check", f"{tmp_path / 'numpy.py'}:f"]) == 0
    assert "numpy.py" in sys.modules["jaxnet_check_numpy"].__file__ and sys.modules["numpy"] is np
