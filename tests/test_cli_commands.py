"""What every command has in common: options, help, configuration, errors, output."""

import dataclasses
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jax
import optax
import pytest
from helpers import error_of, output

import jaxnet
from jaxnet import _names, activations, cli, metrics, network, optimizers
from jaxnet.cli import parser, problem, run_folder, settings, table

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.mark.parametrize("command", ["evaluate", "predict", "plot", "export"])
def test_a_folder_that_is_no_run(command, tmp_path, capsys):
    more = [tmp_path] if command == "predict" else []
    line = error_of(capsys, command, tmp_path, *more)
    assert str(tmp_path) in line and ": expected " in line


def test_a_long_run_is_a_table_of_forty_lines(tmp_path, capsys):
    arguments = ["--data", "digits", "--steps", "1000", "--eval-every", "2", "--no-plots"]
    *rows, last, seconds, _ = output(capsys, "train", *arguments, "--out", tmp_path / "run").splitlines()
    assert 30 < len(rows) <= 41 and len({len(row) for row in rows}) == 1
    assert rows[-1].split()[0] == "1,000" and "test accuracy" in last
    whole, parts = re.search(r"; ([\d.]+) s: (.*)$", seconds).groups()
    named = {name: float(value) for value, name in (part.split() for part in parts.split(", "))}
    assert list(named) == ["loading", "compilation", "training", "evaluation", "saving"]
    assert float(whole) == pytest.approx(sum(named.values()), abs=1e-6)
    assert min(named.values()) >= 0
    assert not list((tmp_path / "run").glob("*.png"))


def test_the_seconds_are_those_of_the_clock(monkeypatch):
    now = iter([3.0, 10.0, 11.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = table.Clock(1.0)
    clock.lap("loading")
    clock.lap("evaluation", training=4.0, compilation=2.0)
    clock.lap("saving")
    assert clock.parts == {
        "loading": 2.0,
        "training": 4.0,
        "compilation": 2.0,
        "evaluation": 1.0,
        "saving": 1.0,
    }
    assert str(clock).startswith("10.0 s: 2.0 loading, 4.0 training, ")


def test_quiet_says_nothing(tmp_path, capsys):
    arguments = ["--data", "digits", "--steps", "20", "--quiet", "--out", tmp_path]
    assert output(capsys, "train", *arguments) == ""
    assert output(capsys, "train", "--resume", "--quiet", "--steps", "30", "--out", tmp_path) == ""
    assert {"loss.png", "accuracy.png", "summary.json"} <= {path.name for path in tmp_path.iterdir()}
    saved = json.loads((tmp_path / "config.json").read_text())["options"]
    assert not {"quiet", "no_plots", "started"} & saved.keys()  # so that runs of before resume


def test_two_runs_of_the_same_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    given = settings.Train(data="mine/digits.npz", no_plots=True)
    names = [run_folder.path(given).name for _ in range(3)]
    assert names == [f"digits-20260101-000000{end}" for end in ("", "-2", "-3")]


def test_values_that_a_sweep_has_twice(tmp_path, capsys):
    arguments = ["--data", "digits", "--out", tmp_path / "run", "--learning-rate", "0.1", "0.3", "0.10"]
    line = error_of(capsys, "sweep", *arguments)
    assert line.endswith("--learning-rate: expected different values, got 0.1 0.3 0.1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "train"),
        (["train", "--lr", "0.1"], "--learning-rate"),
        (["train", "--step=5"], "--steps"),
        (["train", "--optimizer", "sdg"], "sgd"),
        (["train", "--schedule", "cosin"], "cosine"),
        (["predict", "run", "a.png", "--jsn"], "--json"),
    ],
)
def test_what_was_probably_meant(arguments, meant, capsys):
    assert f", did you mean {meant}? (try jaxnet" in error_of(capsys, *arguments)


def test_nothing_similar_is_not_suggested(capsys):
    assert "did you mean" not in error_of(capsys, "train", "--zzz")


@pytest.mark.parametrize("command", ["", *settings.COMMANDS])
def test_every_help_has_defaults_as_one_would_type_them(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"] if command else ["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and not re.search(r"default: (\[|None|False)", out)
    assert f"jaxnet {command}" in out
    if command == "train":
        assert "(default: 50)" in out and "(default: 0)" in out
        said = " ".join(out.split())
        assert "by default 0.001, but 0.1 for sgd, sm3; 0.01 for momentum, nesterov, adagrad, " in said
        assert set(_names.LEARNING_RATES.values()) == {0.001, 0.1, 0.01, 1.0, 1e-4}  # those that it names


CONFIGURED = {
    "train": [
        "--data",
        "a b.npz",
        "--hidden",
        "100",
        "50",
        "--learning-rate",
        "1e-05",
        "--class-weights",
        "1",
        "2",
    ],
    "sweep": [
        "--learning-rate",
        "0.01:1",
        "0.2",
        "--samples",
        "3",
        "--share-batches",
        "--out",
        'runs/"Ä"\\x',
    ],
    "check": ["mine.py:loss", "--hidden", "7"],
    "parity": ["--seed", "0", "--data-dir", "data"],
}


@pytest.mark.parametrize("command", CONFIGURED)
def test_a_printed_configuration_is_read_again(command, tmp_path, capsys):
    text = output(capsys, command, *CONFIGURED[command], "--print-config")
    (tmp_path / "mine.toml").write_text(text)
    names = {name.replace("-", "_"): value for name, value in tomllib.loads(text).items()}
    given = parser.complete(*parser.parse([command, *CONFIGURED[command]]))
    read = parser.complete(*parser.parse([command, "--config", str(tmp_path / "mine.toml")]))
    assert dataclasses.replace(read, config=None) == given
    for name, value in names.items():
        kept = getattr(given, name)
        assert value == (
            list(kept) if isinstance(kept, tuple) else str(kept) if isinstance(kept, Path) else kept
        )
    assert output(capsys, command, "--config", tmp_path / "mine.toml", "--print-config") == text


def test_the_line_overrides_a_configuration_and_that_a_saved_run(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('data = "digits"\nsteps = 20\nhidden = [20, 10]\nno-plots = true\n')
    folder = tmp_path / "run"
    common = ["train", "--config", tmp_path / "mine.toml", "--quiet", "--out", folder]
    assert output(capsys, *common, "--hidden", "5") == ""
    config = json.loads((folder / "config.json").read_text())
    assert (config["sizes"], config["steps"]) == ([64, 5, 10], 20) and not list(folder.glob("*.png"))
    (tmp_path / "more.toml").write_text("steps = 30\n")
    assert (
        output(capsys, "train", "--resume", "--config", tmp_path / "more.toml", "--quiet", "--out", folder)
        == ""
    )
    assert json.loads((folder / "summary.json").read_text())["steps"] == 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 0", "mine.toml: argument --steps: expected a positive integer, got '0'"),
        ("stepz = 5", "mine.toml: unrecognized arguments: --stepz=5, did you mean --steps?"),
        ("hidden = 1.5", "mine.toml: argument --hidden: expected a positive integer, got '1.5'"),
        ("no-plots = 1", "mine.toml: argument --no-plots: expected true or false, got 1"),
        ("steps = ", "--config must be a file of options in TOML, got "),
        (None, "mine.toml: [Errno 2] No such file or directory"),
    ],
)
def test_a_configuration_that_is_wrong(text, message, tmp_path, capsys):
    if text is not None:
        (tmp_path / "mine.toml").write_text(text)
    assert message in error_of(capsys, "train", "--config", tmp_path / "mine.toml")


def test_a_dry_run_says_what_would_be_trained_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--data", "digits", "--hidden", "20", "10", "--validation", "0.2", "--dry-run"]
    lines = dict(line.split(maxsplit=1) for line in output(capsys, "train", *options).splitlines())
    assert lines["data"] == "digits: train [1150, 64], validation [287, 64], test [360, 64]"
    params = jax.tree.leaves(network.init(jax.random.key(0), (64, 20, 10, 10)))
    assert lines["network"].endswith(
        f"64-20-10-10, sigmoid, float32: {sum(p.size for p in params):,} parameters"
    )
    assert lines["training"] == "sgd at 0.1, 10,000 steps of 100 examples: 869.6 epochs"
    out = output(capsys, "sweep", *options, "--learning-rate", "0.1", "0.3", "--out", "here")
    assert "2 settings of sgd x 4 seeds" in out and "here" in out
    assert list(tmp_path.iterdir()) == []
    line = error_of(capsys, "train", "--data", "digits", "--momentum", "0.5", "--dry-run")
    assert "--momentum is of momentum and nesterov" in line


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_too_little_memory_names_the_options_and_leaves_no_folder(command, tmp_path, monkeypatch, capsys):
    def fails(*arguments):
        raise MemoryError("Unable to allocate 215. GiB")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(problem, "init", fails)
    line = error_of(capsys, command, "--data", "digits", "--steps", "5")
    several = "--max-networks, " if command == "sweep" else ""
    assert line.endswith(f"allocate 215. GiB (what decides is {several}--hidden, --batch-size)")
    assert list(tmp_path.glob("runs/*")) == []


def test_a_device_and_a_folder_of_data(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAXNET_DATA_DIR", "nowhere")  # and so that it is there again after this test
    device = str(jax.devices("cpu")[0])
    assert f"device    {device}" in output(
        capsys, "train", "--data", digits, "--device", "cpu:0", "--dry-run"
    )
    line = error_of(capsys, "train", "--data", digits, "--device", "cpu:99")
    assert "--device must be one of " in line and device in line and line.endswith("got cpu:99")
    assert "no usable device: Unknown backend" in error_of(capsys, "train", "--device", "nonsense")
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    (tmp_path / "mnist").mkdir()
    for name in names:
        (tmp_path / "mnist" / f"{name}-ubyte").write_bytes(b"")
    line = error_of(capsys, "train", "--data-dir", tmp_path)
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte") in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_of_this_command_line(shell, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0 and "print-config" in script and "warmup_cosine" in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        ask = 'COMP_WORDS=(jaxnet train --optimizer nest); COMP_CWORD=3; _shtab_jaxnet; echo "$COMPREPLY"'
        command = ["bash", "-c", f"source {tmp_path}/script; {ask}"]
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "nesterov\n"


def test_the_options_of_a_help_are_in_groups(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    titles = re.findall(r"^([a-z ]+):$", capsys.readouterr().out, re.M)
    assert titles == ["options", "data", "network", "training", "output", "machine", "this call", "examples"]


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import jaxnet; dir(jaxnet); jaxnet.__version__",
        "import jaxnet.cli\n"
        "for name in ['', *jaxnet.cli.settings.COMMANDS]:\n"
        "    try: jaxnet.cli.main([name, '--help'] if name else ['--help'])\n"
        "    except SystemExit: pass",
    ],
)
def test_the_import_and_the_help_load_no_library(code):
    heavy = {"jax", "jaxlib", "numpy", "optax", "matplotlib", "pandas", "sklearn", "PIL", "tqdm", "scipy"}
    assert not modules_after(code) & heavy


def test_names_are_there_when_they_are_used():
    assert "jax" in modules_after("from jaxnet import fit; fit.__call__")
    assert set(jaxnet.__all__) <= set(dir(jaxnet))
    for name in jaxnet.__all__:
        assert getattr(jaxnet, name) is not None
    assert jaxnet.fit is jaxnet.training.fit and jaxnet.losses is sys.modules["jaxnet.losses"]
    with pytest.raises(AttributeError, match="module 'jaxnet' has no attribute 'fitt'"):
        jaxnet.fitt  # noqa: B018
    tree = Path(jaxnet.__file__).read_text().partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    # What type checkers are told is what there is.
    names = set(re.findall(r"\w+", re.sub(r"from [\w.]+ import", "", tree)))
    assert set(jaxnet.__all__) == names


def test_the_names_told_without_jax_are_those_of_the_library():
    assert set(metrics.METRICS) == {*_names.METRICS_OF_CLASSES, *_names.METRICS_OF_NUMBERS}
    assert tuple(activations.ACTIVATIONS) == _names.ACTIVATIONS
    assert set(optimizers.OPTIMIZERS) == {name for name in _names.OPTIMIZERS if hasattr(optax, name)} | set(
        _names.OWN_OPTIMIZERS
    )
