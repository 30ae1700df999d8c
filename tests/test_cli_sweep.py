import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread
from sklearn.utils.class_weight import compute_class_weight

from jaxnet import _tensors, checkpoints, cli, datasets, network
from jaxnet.cli import problem, settings, sweep

pytestmark = pytest.mark.usefixtures("compiled_once")
QUICK = ["--data", "digits", "--steps", "200", "--eval-every", "50"]


def test_a_sweep_is_its_networks_trained_alone(tmp_path, capsys):
    grid = ["--seeds", "2", "--learning-rate", "0.3", "0.9", "--weight-std", "0.1", "--seed", "5"]
    momentum = ["--optimizer", "nesterov", "--momentum", "0.5"]
    folder = tmp_path / "sweep"
    command = ["sweep", *QUICK, *grid, *momentum, "--out", str(folder)]
    assert cli.main(command) == 0
    out = capsys.readouterr().out.splitlines()
    with (folder / "networks.csv").open() as file:
        networks = list(csv.DictReader(file))
    assert [(row["learning_rate"], row["seed"]) for row in networks] == [
        ("0.3", "5"), ("0.3", "6"), ("0.9", "5"), ("0.9", "6"),
    ]  # fmt: skip
    alone = ["--learning-rate", "0.9", "--weight-std", "0.1", "--seed", "6", "--out", str(tmp_path / "train")]
    assert cli.main(["train", *QUICK, *alone, *momentum]) == 0
    summary = json.loads((tmp_path / "train" / "summary.json").read_text())
    assert float(networks[3]["test_accuracy"]) == pytest.approx(summary["test_accuracy"], abs=0.01)

    ranking = json.loads((folder / "summary.json").read_text())["ranking"]
    for row in ranking:
        own = [
            float(n["test_accuracy"]) for n in networks if float(n["learning_rate"]) == row["learning_rate"]
        ]
        assert row["test_accuracy_mean"] == pytest.approx(np.mean(own))
        assert row["test_accuracy_std"] == pytest.approx(np.std(own, ddof=1))
    assert ranking[0]["test_accuracy_mean"] >= ranking[1]["test_accuracy_mean"]
    assert out[0].split() == ["rank", "learning-rate", "test", "accuracy", "diverged"]
    best = ranking[0]
    mean, std = best["test_accuracy_mean"], best["test_accuracy_std"]
    assert out[1].split() == [
        "1",
        f"{best['learning_rate']:g}",
        f"{mean:.4f}",
        "±",
        f"{std:.4f}",
        *["0", "of", "2"],
    ]
    assert imread(folder / "accuracy.png").std() > 0.01
    saved = checkpoints.load_params(folder / "params.safetensors")
    x, t = datasets.load("digits")[1]
    accuracy = network.accuracy(saved.params, x, t, activation=saved.activation)
    assert float(accuracy) == max(float(n["test_accuracy"]) for n in networks)
    config = json.loads((folder / "config.json").read_text())
    assert (config["seeds"], config["options"]["learning_rate"]) == (2, [0.3, 0.9])

    assert cli.main(["sweep", *QUICK, *grid, "--out", str(folder)]) == 2
    assert "already holds a run: choose another --out, or --overwrite it" in capsys.readouterr().err
    # A terminal that has no ± gets the table nevertheless, and the folder the same network.
    params = (folder / "params.safetensors").read_bytes()
    command = [sys.executable, "-m", "jaxnet", *command, "--overwrite"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == out[1].replace("±", "?")
    assert (folder / "params.safetensors").read_bytes() == params


@pytest.mark.rest
def test_a_sweep_draws_settings_from_ranges(tmp_path, capsys):
    grid = ["--seeds", "1", "--learning-rate", "0.01:1", "--weight-std", "0.1", "0.2", "--samples", "6"]
    command = ["sweep", *QUICK, "--steps", "20", *grid, "--out", str(tmp_path / "one")]
    assert cli.main(command) == 0
    settings = json.loads((tmp_path / "one" / "config.json").read_text())["settings"]
    rates = [setting["learning_rate"] for setting in settings]
    assert len(set(rates)) == 6 and all(0.01 < rate < 1 for rate in rates)
    assert {setting["weight_std"] for setting in settings} == {0.1, 0.2}
    assert len(capsys.readouterr().out.splitlines()[0].split()) == 6  # rank, both, test accuracy, diverged
    assert cli.main(["sweep", "--out", str(tmp_path / "one"), "--resume", "--steps", "30"]) == 0
    again = json.loads((tmp_path / "one" / "config.json").read_text())
    assert again["settings"] == settings and again["steps"] == 30


def test_ranges_are_drawn_log_uniformly():
    drawn = sweep._settings({"rate": (settings.Range("1e-4:1"),), "std": (0.5,)}, 4000, 0)
    logs = np.log10([setting["rate"] for setting in drawn])
    assert scipy.stats.kstest(logs, scipy.stats.uniform(-4, 4).cdf).pvalue > 0.01
    assert {setting["std"] for setting in drawn} == {0.5}


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    with checkpoints.lock(tmp_path):
        assert cli.main(["sweep", *QUICK, "--out", str(tmp_path), "--overwrite"]) == 2
    assert capsys.readouterr().err == f"jaxnet sweep: error: {tmp_path} is in use by another run\n"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_settings_that_diverge_rank_last(tmp_path, capsys):
    grid = ["--seeds", "1", "--learning-rate", "1e20", "0.1", "--activation", "relu", "--share-batches"]
    assert cli.main(["sweep", *QUICK, *grid, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["1", "0.1"]
    assert lines[2].split() == ["2", "1e+20", "-", "1", "of", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rate", "0.1", "0"], "argument --learning-rate: expected a positive number, got '0'"),
        (["--momentum", "0.5"], "--momentum is of momentum and nesterov, got it with sgd"),
        (["--optimizer", "momentum", "--momentum", "1"], "momentum must be in 0..1, without 1, got 1.0"),
        (
            ["--weight-decay", "-1"],
            "--weight-decay: expected a number that is not negative, got '-1'",
        ),
        (["--schedule", "linear"], "argument --schedule: invalid choice: 'linear'"),
        (["--warmup-steps", "5"], "warmup_steps is of the schedule warmup_cosine, got it with constant"),
        (["--validation", "1"], "argument --validation: expected a number between 0 and 1, got '1'"),
        (
            ["--class-weights", "1", "2"],
            "--class-weights must be 'balanced' or 10 numbers",
        ),
        (
            ["--learning-rate", "1:0.1"],
            "expected a range LOW:HIGH of two positive numbers, the lower first, got '1:0.1'",
        ),
        (["--learning-rate", "0:1"], "expected a range LOW:HIGH of two positive numbers"),
        (["--learning-rate", "0.1:1"], "--samples is of sweeps with a range LOW:HIGH, and they need it: got"),
        (["--samples", "3"], "--samples is of sweeps with a range LOW:HIGH, and they need it: got none"),
        (["--seed", "4294967295"], "seeds must be below 2**32, got 4 of them from 4294967295"),
    ],
)
def test_wrong_options(arguments, message, tmp_path, capsys):
    command = ["sweep", *QUICK, "--out", str(tmp_path / "run"), *arguments]
    try:
        assert cli.main(command) == 2
    except SystemExit as error:
        assert error.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()


def test_train_holds_out_stops_early_and_gives_back_the_best(tmp_path, capsys):
    learning = ["--optimizer", "adamw", "--learning-rate", "0.05", "--schedule", "warmup_cosine"]
    stopping = ["--validation", "0.2", "--patience", "2", "--steps", "3000", "--eval-every", "20"]
    weights = ["--class-weights", "balanced", "--weight-decay", "0.01"]
    arguments = [*learning, *stopping, *weights, "--data", "digits", "--out", str(tmp_path)]
    assert cli.main(["train", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[3:-1] == ["train", "accuracy", "validation", "accuracy", "test", "accuracy"]
    with (tmp_path / "history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation_loss"]]
    losses = [float(row["validation_loss"]) for row in rows]
    summary = json.loads((tmp_path / "summary.json").read_text())
    best = int(np.argmin(losses))
    assert summary["stopped_early"] and summary["best_step"] == 20 * best
    assert len(losses) == best + 3 < 150
    assert summary["test_accuracy"] == pytest.approx(float(rows[best]["test_accuracy"]), abs=1e-6)
    assert f"stopped early, best after step {20 * best}: test accuracy" in lines[-3]


def test_patience_without_a_validation_set(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--patience", "2", "--out", str(tmp_path)]) == 2
    assert (
        "--patience watches the loss on held-out examples: expected --validation" in capsys.readouterr().err
    )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_train_in_another_dtype(dtype, tmp_path):
    from safetensors.numpy import load_file

    arguments = ["--dtype", dtype, "--metrics", "loss", "--out", str(tmp_path)]
    assert cli.main(["train", *QUICK, *arguments, "--learning-rate", "1"]) == 0
    stored = {array.dtype for array in load_file(tmp_path / "params.safetensors").values()}
    assert stored == {np.dtype("float64" if dtype == "float64" else "float32")}
    with (tmp_path / "history.csv").open() as file:
        losses = [row["loss"] for row in csv.DictReader(file)]
    assert float(losses[-1]) < 1.8 < float(losses[0])
    assert max(map(len, losses)) > 14 if dtype == "float64" else max(map(len, losses)) < 14


def test_balanced_class_weights_are_scikit_learns():
    labels = np.array([0, 0, 0, 1, 2, 2])
    weights = problem._class_weights(("balanced",), labels, 4)
    np.testing.assert_allclose(
        weights[:3] * 4 / 3, compute_class_weight("balanced", classes=np.arange(3), y=labels)
    )
    assert weights[3] == 0  # of a class that no example has
    _, (_, t) = datasets.load("digits")
    np.testing.assert_array_equal(problem._class_weights(("2",) * 10, t, 10), 2)


@pytest.mark.rest
def test_a_sweep_that_was_killed_resumes_to_the_same_bits(tmp_path, capsys):
    grid = ["--seeds", "2", "--learning-rate", "0.3", "1e20", "--activation", "relu", "--max-networks", "2"]
    sweep = ["sweep", "--data", "digits", "--steps", "3000", "--eval-every", "500", *grid]
    assert cli.main([*sweep, "--out", str(tmp_path / "whole")]) == 0
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "jaxnet", *sweep, "--checkpoint-every", "200", "--out", str(killed)]
    for count in (2, 6):  # in the first group of networks, and in the second
        more = ["--resume"] if killed.exists() else []
        process = subprocess.Popen(
            [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        before = checkpoints.steps(killed)[-1:]
        while len([step for step in checkpoints.steps(killed) if [step] > before]) < min(count, 3):
            assert process.poll() is None, process.stderr.read()
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    capsys.readouterr()
    assert cli.main([*sweep, "--resume", "--out", str(killed)]) == 0
    assert "resumed after " in capsys.readouterr().err
    for name in ("networks.csv", "params.safetensors"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    last = f"checkpoints/{checkpoints.steps(killed)[-1]}.safetensors"
    one, other = (
        _tensors.unpack((folder / last).read_bytes(), "") for folder in (killed, tmp_path / "whole")
    )
    assert one[0].keys() == other[0].keys() and "diverged" in one[0]
    for name, array in one[0].items():
        assert array.tobytes() == other[0][name].tobytes(), name
