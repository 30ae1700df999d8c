"""The run folder: whose it is, and what of it survives a command that fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxnet import _tensors, checkpoints, cli, datasets, plots, training
from jaxnet.cli import run_folder

pytestmark = pytest.mark.usefixtures("compiled_once")
JAXNET = [sys.executable, "-m", "jaxnet"]
QUICK = ["--steps", "40", "--eval-every", "20", "--checkpoint-every", "20"]


@pytest.fixture
def train(digits, capsys):
    """Run the command in this process; return its exit code and its lines on stderr."""

    def train(*arguments):
        code = cli.main(list(map(str, ["train", "--data", digits, *QUICK, *arguments])))
        return code, capsys.readouterr().err.splitlines()

    return train


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory, digits, compiled_once):
    folder = tmp_path_factory.mktemp("finished")
    assert cli.main(["train", "--data", str(digits), *QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(finished_once, tmp_path):
    """A folder with a run that came to its end."""
    return shutil.copytree(finished_once, tmp_path / "run")


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("config", [b'{"model": "other", "versions": [1]}', b"{", b"[" * 10**5, None])
def test_a_folder_of_another_tool_is_refused(command, overwrite, config, digits, tmp_path, capsys):
    (tmp_path / "checkpoints" / "epoch_3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch_3" / "weights").write_text("theirs")
    (tmp_path / "params.safetensors").write_text("theirs")
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    before = content_of(tmp_path)
    options = ["--data", str(digits), "--steps", "20", "--out", str(tmp_path)]
    assert cli.main([command, *options, *overwrite]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} holds what is not of a jaxnet run, checkpoints, " in line
    assert line.endswith(": choose another --out") and content_of(tmp_path) == before


def test_what_jaxnet_did_not_write_stays(finished, train):
    theirs = {
        "notes.txt": b"mine",
        "checkpoints/epoch_3/weights": b"theirs",
        "checkpoints/keep.txt": b"theirs",
    }
    for name, data in theirs.items():
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_bytes(data)
    assert train("--overwrite", "--seed", 1, "--out", finished) == (0, [])
    after = content_of(finished)
    assert theirs.items() <= after.items() and not (finished / "previous").exists()
    assert json.loads(after["config.json"])["seed"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--momentum", 0.5], "--momentum is of momentum and nesterov"),
        (["--sampling", "shuffle", "--batch-size", 5000], "batch_size must be at most the 1437 training"),
        (["--class-weights", 1, 2], "--class-weights must be 'balanced' or 10 numbers"),
        (["--data", "none.npz"], "No such file or directory: 'none.npz'"),
    ],
)
def test_overwriting_with_a_wrong_option_changes_nothing(finished, train, options, message):
    before = content_of(finished)
    code, (line,) = train("--overwrite", "--out", finished, *options)
    assert code == 2 and message in line and content_of(finished) == before


def test_a_run_is_replaced_only_by_a_whole_one(finished, train, start, digits):
    before = content_of(finished)
    options = ["--data", digits, "--steps", 10**8, "--checkpoint-every", 20, "--out", finished]
    forever = [*JAXNET, "train", "--overwrite", *map(str, options)]

    def killed(number):
        process = start(forever)
        assert process.stdout.readline().split()[:1] == ["step"], process.communicate()
        while len(checkpoints.steps(finished)) < 3:
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert content_of(finished / "previous") == before

    killed(signal.SIGKILL)
    assert "holds a run that did not end: --resume it" in train("--out", finished)[1][0]
    killed(signal.SIGINT)  # what replaces it is the same, tried again
    done = json.loads((finished / "summary.json").read_text())["steps"]
    assert cli.main(["train", "--resume", "--out", str(finished), "--steps", str(done + 10)]) == 0
    assert json.loads((finished / "summary.json").read_text())["steps"] == done + 10
    assert not (finished / "previous").exists()


def test_a_run_that_diverges_does_not_replace_another(finished, train):
    before = content_of(finished)
    diverges = ["--activation", "relu", "--learning-rate", 1e20]
    code, (line,) = train("--overwrite", *diverges, "--out", finished)
    assert code == 2 and line.endswith(f"; {finished} holds the run up to there")
    assert content_of(finished / "previous") == before
    assert json.loads((finished / "config.json").read_text())["activation"] == "relu"


def test_a_finished_run_survives_an_attempt_to_resume_it(finished, train):
    before = content_of(finished)
    assert train("--resume", "--out", finished, "--steps", 30) == (
        2,
        [f"jaxnet train: error: {finished} has done 40 steps: expected --steps 40 or more, got 30"],
    )
    assert content_of(finished) == before
    (finished / "history.csv").write_bytes(before["history.csv"].replace(b",", b", ", 1))
    train("--resume", "--out", finished, "--steps", 60)
    exported = checkpoints.load_params(finished / "params.safetensors")
    assert exported.sizes == (64, 50, 10) and (finished / "summary.json").exists()


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(finished, train):
    shutil.rmtree(finished / "checkpoints")
    before = content_of(finished)
    code, (line,) = train("--resume", "--out", finished, "--steps", 60)
    assert (code, content_of(finished)) == (2, before)
    assert f"{finished} holds a run that ended, without checkpoints: expected one to go on from" in line


def test_a_run_that_died_before_its_first_checkpoint(finished, train, capsys):
    for path in finished.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = content_of(finished)
    assert "holds a run that did not end: --resume it" in train("--out", finished)[1][0]
    assert content_of(finished) == before
    assert train("--resume", "--out", finished) == (0, [f"{finished}: nothing to resume"])
    assert (finished / "summary.json").exists()


CHANGES = {
    "unknown optimizer": ({"optimizer": "sdg"}, "argument --optimizer: invalid choice: 'sdg' (choose from"),
    "unknown option": ({"lr": 0.1}, "unrecognized arguments: --lr=0.1"),
    "missing": ({"steps": None}, "expected 'steps' among the options, got none"),
    "steps in words": ({"steps": "many"}, "argument --steps: expected a positive integer, got 'many'"),
    "half a step": ({"steps": 20.5}, "argument --steps: expected a positive integer, got '20.5'"),
    "a list": ({"steps": [20, 30]}, "unrecognized arguments: 30"),
    "an object": ({"seed": {}}, "argument --seed: expected an integer in 0..4294967295, got '{}'"),
    "NaN": (
        {"learning_rate": float("nan")},
        "argument --learning-rate: expected a positive number, got 'nan'",
    ),
    "true": ({"hidden": True}, "argument --hidden: expected at least one argument"),
    "units in words": (
        {"hidden": [50, "many"]},
        "argument --hidden: expected a positive integer, got 'many'",
    ),
    "an option's name": (
        {"activation": "--overwrite"},
        "argument --activation: invalid choice: '--overwrite'",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_saved_option_is_checked_as_the_command_lines(change, finished, train, capsys):
    changes, message = CHANGES[change]
    config = json.loads((finished / "config.json").read_text())
    options = {name: value for name, value in (config["options"] | changes).items() if value is not None}
    (finished / "config.json").write_text(json.dumps(config | {"options": options}))
    before = content_of(finished)
    assert cli.main(["train", "--resume", "--out", str(finished)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"jaxnet train: error: {finished / 'config.json'}: {message}")
    assert content_of(finished) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10**5 + "]" * 10**5, "config.json: expected JSON, got a damaged file (maximum recursion"),
        ("[]", "config.json: expected a JSON object, got list"),
        ("{}", "config.json: expected a JSON object under 'options', got None"),
        ('{"options": [1]}', "config.json: expected a JSON object under 'options', got [1]"),
        ("\x80", "config.json: expected JSON, got a damaged file ('utf-8' codec"),
    ],
)
def test_a_configuration_that_is_none(text, message, finished, capsys):
    (finished / "config.json").write_bytes(text.encode("latin-1"))
    assert cli.main(["train", "--resume", "--out", str(finished)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_setting_that_is_missing_is_a_difference(finished, train):
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if name not in ("sizes", "device")})
    )
    code, (line,) = train("--resume", "--out", finished)
    assert code == 2 and "sizes: expected None, got [64, 50, 10]" in line


@pytest.mark.parametrize(
    ("module", "environment", "message"),
    [
        ("matplotlib.figure", {}, "plots need matplotlib: pip install 'jaxnet[plots]'"),
        ("safetensors.numpy", {}, "saved parameters need safetensors: pip install 'jaxnet[checkpoints]'"),
        (None, {"MPLBACKEND": "no_such"}, "plots need matplotlib, which is there but fails: ValueError: "),
    ],
)
def test_extras_are_checked_before_the_training(module, environment, message, digits, tmp_path):
    code = f"import sys; sys.modules[{module!r}] = None; from jaxnet.cli import entry; entry()"
    command = [sys.executable, "-c", code, "train", "--data", str(digits), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "run").exists()
    (line,) = done.stderr.splitlines()
    assert message in line


def test_a_picture_that_fails_is_a_warning(train, tmp_path, monkeypatch):
    def fails(loss):
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "loss_curve", fails)
    code, (line,) = train("--out", tmp_path)
    assert (code, line) == (0, f"jaxnet: warning: no {tmp_path / 'loss.png'}: RuntimeError: no font")
    assert {"params.safetensors", "summary.json", "accuracy.png"} <= content_of(tmp_path).keys()


def test_the_data_may_go_away_while_training(digits, train, tmp_path, monkeypatch):
    mine = shutil.copy(digits, tmp_path / "mine.npz")
    fit = training.fit

    def fit_without_the_file(*arguments, **options):
        mine.unlink()
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", fit_without_the_file)
    assert train("--data", mine, "--out", tmp_path / "run") == (0, [])
    assert checkpoints.load_params(tmp_path / "run" / "params.safetensors").input_scale == 1.0


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_training_with_closed_streams(closed, digits, tmp_path):
    options = [*QUICK, "--data", str(digits), "--out", str(tmp_path)]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *JAXNET, "train", *options], timeout=120)
    assert done.returncode == 0 and (tmp_path / "accuracy.png").exists()


def test_the_fingerprint_is_of_values_shapes_and_dtypes():
    train, test = datasets.load("digits")
    changed = train[0].copy()
    changed[0, 0] += 1
    prints = [
        run_folder.fingerprint(split)
        for split in ((train, test), ((changed, train[1]), test), ((train[0], train[1].astype(float)), test))
    ]
    assert len(set(prints)) == 3


def test_a_folder_is_held_where_posix_is_not(tmp_path):
    code = """
import sys, warnings; sys.modules["fcntl"] = None
from pathlib import Path
from jaxnet import checkpoints
warnings.simplefilter("ignore")  # filelock's, that it has other means
with checkpoints.lock(Path(sys.argv[1])):
    try:
        with checkpoints.lock(Path(sys.argv[1])): pass
    except ValueError as error: print(error)
with checkpoints.lock(Path(sys.argv[1])): print("free")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{tmp_path} is in use by another run\nfree\n", done.stderr


def test_a_file_is_written_where_a_folder_cannot_be_opened(tmp_path, monkeypatch):
    def refuses(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(os, "open", refuses)
        _tensors.write(tmp_path / "file", b"data")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"data")]
