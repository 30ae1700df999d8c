"""Runs of `jaxnet train` that die in every way, and what becomes of them."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnet import _tensors, checkpoints, cli

STEPS = 20_000
TRAIN = ["train", "--optimizer", "adam", "--steps", str(STEPS), "--eval-every", "250"]


pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def arguments(digits):
    def arguments(folder, *more, every=300):
        return [*TRAIN, *map(str, ["--data", digits, "--out", folder, "--checkpoint-every", every, *more])]

    return arguments


JAXNET = [sys.executable, "-m", "jaxnet"]


def state_of(folder, step=STEPS):
    data = (folder / "checkpoints" / f"{step}.safetensors").read_bytes()
    return _tensors.unpack(data, str(folder))[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits, compiled_once):
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main([*TRAIN, "--data", str(digits), "--out", str(folder)]) == 0
    return folder


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def assert_same(folder, whole):
    assert (folder / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert (folder / "params.safetensors").read_bytes() == (whole / "params.safetensors").read_bytes()
    expected, got = state_of(whole), state_of(folder)
    assert expected.keys() == got.keys() and "state.opt_state.0.mu.0.weight" in got
    for name, array in expected.items():
        assert array.dtype == got[name].dtype and array.tobytes() == got[name].tobytes(), name


@pytest.mark.parametrize("deaths", [3, pytest.param(10, marks=pytest.mark.rest)])
def test_sigkill_at_random_moments(deaths, tmp_path, arguments, whole, start):
    moments, damaged = random.Random(4), None
    for death in range(deaths):
        # Another stretch length in each life, often so short that a checkpoint is always being written.
        resume = ["--resume"] if death else []
        process = start([*JAXNET, *arguments(tmp_path, *resume, every=moments.choice([100, 300, 1000]))])
        for _ in range(moments.randint(1, 5)):
            assert process.stdout.readline(), process.stderr.read()
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, err
        passed_over = err.splitlines()[:-1]
        assert len(passed_over) == bool(damaged)
        assert all(line.startswith(f"{damaged}: expected checksum ") for line in passed_over)
        damaged = None
        if death == deaths // 2 and len(checkpoints.steps(tmp_path)) > 1:
            damaged = tmp_path / "checkpoints" / f"{checkpoints.steps(tmp_path)[-1]}.safetensors"
            flip_a_bit(damaged)
    assert 0 < checkpoints.steps(tmp_path)[-1] < STEPS
    assert cli.main(arguments(tmp_path, "--resume")) == 0
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_ends(number, code, tmp_path, arguments, whole, capsys, start):
    process = start([*JAXNET, *arguments(tmp_path, every=10_000)])
    assert process.stdout.readline().split()[:1] == ["step"]
    # The folder is this process's own.
    assert cli.main(arguments(tmp_path, "--resume")) == 2
    assert f"{tmp_path} is in use by another run" in capsys.readouterr().err
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "") and "(interrupted)" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    done = summary["steps"]
    assert summary["interrupted"] and done == checkpoints.steps(tmp_path)[-1] < STEPS
    lines = (whole / "history.csv").read_text().splitlines()
    assert (tmp_path / "history.csv").read_text().splitlines() == lines[: done + 1]
    # Its options are the run's, unless they are given anew.
    assert cli.main(["train", "--resume", "--out", str(tmp_path), "--steps", str(done + 300)]) == 0
    got = (tmp_path / "history.csv").read_text().splitlines()
    assert got[:-1] == lines[: done + 300]
    assert got[-1].split(",")[:2] == lines[done + 300].split(",")[:2]  # and the metrics, of the end
    assert f"resumed after {done} steps" in capsys.readouterr().err


def test_a_signal_while_compiling(tmp_path, arguments, monkeypatch, start):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    process = start([*JAXNET, *arguments(tmp_path, "--optimizer", "sgd")])
    while not (tmp_path / "config.json").exists():  # written right before
        assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "jaxnet: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


IN_A_COLLECTION = """
import gc, os, sys, threading
from pathlib import Path
from jaxnet import cli

number, config, told = int(sys.argv[1]), Path(sys.argv[2]) / "config.json", sys.argv[3] == "told"

def collected(phase, info):
    if threading.current_thread() is threading.main_thread() and config.exists():
        gc.callbacks.remove(collected)
        os.kill(os.getpid(), number)
        try:
            while True:  # until the signal's handler raises
                pass
        except KeyboardInterrupt:
            if told:
                raise

gc.callbacks.append(collected)
sys.argv[1:] = sys.argv[4:]
cli.entry()
"""


@pytest.mark.parametrize("told", ["told", "silently"])  # as Python does in a collection, or C code
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_where_what_it_raises_is_lost(number, code, told, tmp_path, arguments):
    script = [sys.executable, "-c", IN_A_COLLECTION, str(int(number)), str(tmp_path), told]
    command = [*script, *arguments(tmp_path, "--steps", 10**7)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "") and "(interrupted)" in done.stdout


def test_the_tests_processes_take_a_signal_that_the_shell_ignores():
    code = (
        "import conftest, signal\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    )
    command = ["sh", "-c", 'trap "" INT TERM; exec "$0" -c "$1"', sys.executable, code]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=60)


def test_a_file_size_limit_and_then_none(tmp_path, arguments, whole, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores its signal: a write fails
    try:
        assert cli.main(arguments(tmp_path)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capsys.readouterr().err.splitlines()
    last = checkpoints.steps(tmp_path)[-1]
    assert f"cannot write a checkpoint, the last is of step {last}: File too large" in line
    assert str(tmp_path / "history.csv") in line and 300 <= last < STEPS
    assert cli.main(arguments(tmp_path, "--resume")) == 0
    assert f"resumed after {last} steps" in capsys.readouterr().err
    assert_same(tmp_path, whole)


def test_another_run_is_not_resumed(tmp_path, digits, capsys):
    quick = ["--steps", "40", "--eval-every", "20", "--checkpoint-every", "20"]
    train = ["train", "--data", "digits", *quick, "--out", str(tmp_path)]
    assert cli.main(train) == 0
    x = np.random.default_rng(0).random((50, 64))
    np.savez(tmp_path / "other.npz", x_train=x, t_train=np.arange(50) % 10)
    before = (tmp_path / "config.json").read_bytes()
    capsys.readouterr()
    others = ["--hidden", "60", "--optimizer", "adam", "--seed", "2", "--data", str(tmp_path / "other.npz")]
    assert cli.main([*train, "--resume", *others]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for difference in (
        "sizes: expected [64, 50, 10], got [64, 60, 10]",
        "optimizer: expected sgd, got adam",
        "seed: expected 0, got 2",
        "data_sha256: expected ",
        "train_examples: expected 1437, got 40",
    ):
        assert difference in line
    assert (tmp_path / "config.json").read_bytes() == before
    # The same data by another name is the same data.
    same = ["--data", str(digits)]
    assert cli.main(["train", "--resume", "--out", str(tmp_path), "--steps", "60", *same]) == 0
    assert checkpoints.steps(tmp_path)[-1] == 60


def test_a_run_that_diverges_keeps_the_last_finite_checkpoint(tmp_path, capsys):
    options = ["--activation", "relu", "--learning-rate", "1e20", "--checkpoint-every", "1"]
    assert cli.main(["train", "--data", "digits", "--out", str(tmp_path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"; {tmp_path} holds the run up to there")
    step = int(line.split(" at step ")[1].split(";")[0])
    assert len((tmp_path / "history.csv").read_text().splitlines()) == step + 1
    assert checkpoints.steps(tmp_path)[-1] == step
    params = checkpoints.load_params(tmp_path / "params.safetensors").params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves([state_of(tmp_path, step), params]))


def test_what_cannot_be_resumed_says_so(tmp_path, capsys):
    def line(*options):
        assert cli.main(["train", "--data", "digits", "--steps", "20", *options]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    out = ["--out", str(tmp_path)]
    assert "--resume needs the run's folder: expected --out FOLDER" in line("--resume")
    assert "expected --resume or --overwrite, got both" in line("--resume", "--overwrite", *out)
    typo = ["--out", str(tmp_path / "typo")]
    assert f"expected one that holds config.json, got {tmp_path / 'typo'}" in line("--resume", *typo)
    assert not (tmp_path / "typo").exists()
    assert cli.main(["train", "--data", "digits", "--steps", "20", *out]) == 0
    (tmp_path / "summary.json").unlink()  # as if it had died
    assert "holds a run that did not end: --resume it" in line(*out)
