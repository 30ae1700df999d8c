"""Several devices and several processes: equal to one, no more than a share each, and none that hangs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxnet import checkpoints, fit, fit_many, network, sharding, shards

SCRIPT = Path(__file__).with_name("spread.py")
SMALL = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def told(process, timeout=200):
    out, err = process.communicate(timeout=timeout)
    assert out, err[-3000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def together(count, what, **environment):
    port = free_port()
    processes = [started("process", port, count, own, what) for own in range(count)]
    return [told(process) for process in processes]


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.rest)])
def test_several_devices_end_where_one_does(which):
    found = told(started("devices", which))
    assert len(found) == {"some": 2, "all": 12}[which]
    for line in found:
        data, model = line["mesh"]
        assert line["devices"] == data * model
        assert line["columns"] == 50 // model
        limit = 1e-12 if line["dtype"] == "float64" else 1e-5
        assert line["difference"] <= limit, line
        assert line["metrics"] <= limit, line
    assert any(line["difference"] for line in found)  # sums over a batch are in another order: it was split


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.rest)])
def test_networks_on_four_devices_end_where_they_do_on_one(which):
    found = told(started("many", which))
    assert len(found) == {"some": 1, "all": 6}[which]
    for line in found:
        assert line["shapes"], line
        assert line["alike"], line
        assert max(line["difference"], line["loss"]) <= 1e-5, line


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.rest)])
def test_processes_end_where_one_does_and_hold_their_share(count):
    found = together(count, "fit")
    rows = [lines[0]["rows"] for lines in found]
    assert [start for start, _ in rows] == [0, *(stop for _, stop in rows[:-1])]
    assert rows[-1][1] == 20_000
    for lines in found:
        assert lines[1]["steps"] == 300
        assert lines[1]["evaluations"] == [0, 100, 200, 299]
        # Its share of train and test, the batches under way, and a few copies of the parameters.
        share = (20_000 + 10_000) * (784 * 4 + 4) / count
        assert lines[1]["held"] < share + 2**24 + 2**21, lines[1]
    assert found[0][2]["difference"] <= 1e-5


@pytest.mark.rest
def test_networks_of_several_processes_end_where_they_do_in_one():
    found = together(2, "many")
    assert found[0][0] == found[1][0] | {"held": found[0][0]["held"]}
    assert found[0][1]["difference"] <= 1e-5


@pytest.mark.rest
def test_processes_read_a_dataset_on_disk_together(tmp_path):
    shards.convert("mnist", tmp_path / "mnist")
    found = together(2, f"disk:{tmp_path / 'mnist'}")
    assert found[0][0]["steps"] == 300
    assert 0 < found[0][1]["difference"] <= 1e-5


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        pytest.param("other data", "data", marks=pytest.mark.rest),
        pytest.param("other settings", "settings", marks=pytest.mark.rest),
        ("nan", "finite"),
    ],
)
def test_processes_that_differ_all_say_so(what, kind):
    first, second = (lines[-1]["error"] for lines in together(2, what))
    assert kind in second
    if what == "nan":
        assert first == "ConnectionError: process 1 of the run ended with an error of its own: see its output"
    else:
        assert first.startswith(f"ValueError: {kind} must be the same on every process")


CONNECT = "from jaxnet import sharding\nsharding.connect({!r}, {}, {}, timeout={})"


def connected(coordinator, count, own, timeout=3):
    code = CONNECT.format(coordinator, count, own, timeout)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def last_line(process):
    return process.communicate(timeout=60)[1].strip().splitlines()[-1]


def test_a_coordinator_that_is_not_there_is_named():
    port = free_port()
    process = connected(f"127.0.0.1:{port}", 2, 1)
    assert f"ConnectionError: no coordinator at 127.0.0.1:{port} for 3 s" in last_line(process)


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as door:
        port = door.getsockname()[1]
        assert f"cannot listen at port {port}" in last_line(connected(f"127.0.0.1:{port}", 2, 0))


def test_a_process_that_does_not_come_is_named_on_all():
    address = f"127.0.0.1:{free_port()}"
    first, second = (connected(address, 3, own, timeout=4) for own in (0, 1))
    assert "process 2 of 3 did not come in 4 s" in last_line(first)
    assert "process 2 of 3 did not come" in last_line(second)


@pytest.mark.rest
def test_two_processes_of_one_id_are_told():
    address = f"127.0.0.1:{free_port()}"
    processes = [connected(address, 3, own, timeout=20) for own in (0, 1, 1)]
    lines = [last_line(process) for process in processes]
    assert all("two processes have the id 1" in line for line in lines)


@pytest.mark.rest
def test_processes_that_count_differently_are_told():
    address = f"127.0.0.1:{free_port()}"
    processes = [connected(address, count, own, timeout=20) for count, own in ((2, 0), (4, 1))]
    assert all("says there are 4 processes" in last_line(process) for process in processes)


@pytest.mark.rest
def test_a_stranger_at_the_port_is_not_a_process():
    port = free_port()
    first = connected(f"127.0.0.1:{port}", 2, 0, timeout=20)
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    second = connected(f"127.0.0.1:{port}", 2, 1, timeout=20)
    for process in (first, second):
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 0, err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", 2, 0), "coordinator must be HOST:PORT, got 'nowhere'"),
        (("localhost:0", 2, 0), "coordinator must be HOST:PORT"),
        (("localhost:1234", 2, 2), r"process_id must be in 0\.\.1, got 2"),
        (("localhost:1234", None, 0), "coordinator needs num_processes and process_id, got None and 0"),
    ],
)
def test_connect_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharding.connect(*arguments)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.rest)])
def test_a_killed_process_ends_the_others(victim):
    port = free_port()
    processes = [started("endless", port, 2, own) for own in range(2)]
    for process in processes:
        assert any(line.startswith("{") for line in process.stdout), process.stderr.read()
    processes[victim].send_signal(signal.SIGKILL)
    start = time.monotonic()
    out, err = processes[1 - victim].communicate(timeout=60)
    processes[victim].communicate()
    assert time.monotonic() - start < 30
    messages = ["ProcessLostError: another process of the run"]
    if jax.__version_info__ < (0, 9):  # whose client may end the process first, with a message of its own
        messages.append("another task died")
    assert any(message in out + err for message in messages), err


# One process: what needs none beside it.


def test_a_mesh_says_when_devices_do_not_suffice(unchecked):
    with pytest.raises(ValueError, match=r"data=4, model=2 needs 8 devices, got 1 \(cpu, or .*simulate more"):
        sharding.mesh(data=4, model=2)
    with pytest.raises(ValueError, match="data must be a positive whole number of devices, got 0"):
        sharding.mesh(data=0)
    with pytest.raises(ValueError, match=r"model must be a positive whole number of devices, got 1\.5"):
        sharding.mesh(model=1.5)


def test_meshes_of_others_are_checked(unchecked):
    one = jax.devices()[:1]
    rows = jax.make_mesh((1,), ("rows",), (AxisType.Auto,), devices=one)
    explicit = jax.make_mesh((1,), ("data",), (AxisType.Explicit,), devices=one)
    params = network.init(jax.random.key(0), (6, 4, 3))
    for f in (fit, fit_many):
        with pytest.raises(ValueError, match=r"axes 'data' and perhaps 'model', got \('rows',\)"):
            f(network.loss, params, SMALL, mesh=rows)
        with pytest.raises(ValueError, match="axes of type Auto"):
            f(network.loss, params, SMALL, mesh=explicit)
        with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
            f(network.loss, params, SMALL, mesh=4)


def test_a_mesh_of_one_device_changes_no_bit():
    params = network.init(jax.random.key(0), (6, 4, 3))
    how = {"steps": 30, "batch_size": 7, "test": SMALL, "eval_every": 10, "check": True}
    alone, spread = (fit(network.loss, params, SMALL, mesh=m, **how) for m in (None, sharding.mesh(1)))
    assert jax.tree.all(jax.tree.map(np.array_equal, alone.params, spread.params))
    assert alone.history.test["loss"].tolist() == spread.history.test["loss"].tolist()


@pytest.mark.rest
def test_a_run_goes_on_with_another_mesh():
    params = network.init(jax.random.key(0), (6, 4, 3))
    how = {"batch_size": 7, "mesh": sharding.mesh(1)}
    half = fit(network.loss, params, SMALL, steps=15, **how)
    end = fit(network.loss, params, SMALL, steps=30, resume=half, batch_size=7)
    back = fit(network.loss, params, SMALL, steps=45, resume=end, **how)
    whole = fit(network.loss, params, SMALL, steps=45, batch_size=7)
    assert jax.tree.all(jax.tree.map(np.array_equal, back.params, whole.params))


def abstract(data, model):
    return jax.sharding.AbstractMesh((data, model), ("data", "model"), (AxisType.Auto, AxisType.Auto))


def specs(sizes, model, partition=None):
    params = network.init(jax.random.key(0), sizes)
    found = sharding.split_params(params, abstract(1, model), partition)
    return [leaf.spec for leaf in jax.tree.leaves(found)]


def test_hidden_widths_are_split_over_model():
    model = PartitionSpec(None, "model"), PartitionSpec("model")
    assert specs((784, 50, 10), 2) == [*model, PartitionSpec("model"), PartitionSpec()]
    assert specs((784, 51, 10), 1) == [PartitionSpec()] * 4
    # Of two hidden widths the one that can be.
    assert specs((784, 51, 100, 10), 4) == [
        PartitionSpec(), PartitionSpec(), *model, PartitionSpec("model"), PartitionSpec(),
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r"model=4 must divide a hidden width of the network, got widths \[50\]"
    ):
        specs((784, 50, 10), 4)


def test_a_rule_of_the_user_splits_parameters(unchecked):
    def rule(path, leaf):
        return PartitionSpec("model") if path == "[0].weight" else PartitionSpec()

    assert specs((784, 50, 10), 8, rule) == [PartitionSpec("model"), *[PartitionSpec()] * 3]
    with pytest.raises(ValueError, match=r"partition must fit params\[0\]\.weight of shape \[783, 50\]"):
        specs((783, 50, 10), 8, rule)
    with pytest.raises(TypeError, match="partition must return a PartitionSpec, got 'model'"):
        specs((784, 50, 10), 8, lambda path, leaf: "model")
    params = network.init(jax.random.key(0), (6, 4, 3))
    with pytest.raises(ValueError, match="partition must be given with a mesh"):
        fit(network.loss, params, SMALL, partition=rule)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 60), parts=st.integers(1, 9))
def test_every_row_lies_where_its_layout_says(length, parts):
    layout = sharding.Layout(length, NamedSharding(abstract(parts, 1), PartitionSpec("data")))
    rows = np.arange(length)
    bounds = [layout.start(part) for part in range(parts + 1)]
    assert bounds[0] == 0
    assert bounds[-1] == length
    assert {stop - start for start, stop in pairwise(bounds)} <= {
        layout.width,
        layout.width - 1,
    }
    expected = [
        part * layout.width + row - bounds[part]
        for part in range(parts)
        for row in range(bounds[part], bounds[part + 1])
    ]
    assert np.asarray(layout.places(jax.numpy.asarray(rows))).tolist() == expected


def test_a_share_of_the_wrong_length_is_refused():
    params = network.init(jax.random.key(0), (6, 4, 3))
    x, t = SMALL
    mesh = sharding.mesh(1)
    with pytest.raises(ValueError, match=r"share of 50 examples, rows 0\.\.49 of 50, got 40"):
        fit(network.loss, params, sharding.Share(x, t, 50), mesh=mesh)
    with pytest.raises(TypeError, match="a Share is for fit with a mesh"):
        fit(network.loss, params, sharding.Share(x, t, 40))
    result = fit(network.loss, params, sharding.Share(x, t, 40), mesh=mesh, steps=5)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, result.params, fit(network.loss, params, SMALL, steps=5).params)
    )


# The command line.


def train(port, own, folder, *more):
    together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", str(own)]
    every = "--batch-size 20 --eval-every 100 --checkpoint-every 50 --no-plots"
    command = [sys.executable, "-m", "jaxnet", "train", "--data", "digits", *every.split()]
    return subprocess.Popen(
        [*command, "--out", str(folder), *more, *(together if port else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(folder, *more):
    port = free_port()
    return [train(port, own, folder, *more) for own in range(2)]


def ended(processes, code):
    outputs = [process.communicate(timeout=150) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), outputs
    return outputs


def params_of(folder):
    leaves = jax.tree.leaves(checkpoints.load_params(folder / "params.safetensors").params)
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def wait_for(path, process):
    for _ in range(1000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


@pytest.mark.rest
def test_a_killed_run_of_two_processes_goes_on_to_the_same_end(tmp_path):
    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))
    (out, _), (other, _) = ended(both(whole, "--steps", "300"), 0)
    assert "written to" in out
    assert "test accuracy" not in other  # one process prints

    processes = both(killed, "--steps", "300")
    wait_for(killed / "checkpoints" / "100.safetensors", processes[0])
    processes[1].kill()
    start = time.monotonic()
    ((_, err),) = ended(processes[:1], 4)
    assert time.monotonic() - start < 30
    assert (
        "error: another process of the run ended or can no longer be reached: start all of them again" in err
    )
    assert "Traceback" not in err
    processes[1].communicate()

    shutil.copytree(killed, alone)
    ended(both(killed, "--resume", "--steps", "300"), 0)
    ended([train(None, 0, alone, "--resume", "--steps", "300")], 0)
    assert params_of(killed).tobytes() == params_of(whole).tobytes()
    assert np.abs(params_of(alone) - params_of(whole)).max() < 1e-5
    for folder in (whole, killed, alone):
        rows = (folder / "history.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(300))


@pytest.mark.rest
def test_ctrl_c_in_one_process_ends_both_after_the_same_step(tmp_path):
    processes = both(tmp_path / "run", "--steps", "1000000")
    wait_for(tmp_path / "run" / "checkpoints" / "100.safetensors", processes[0])
    processes[1].send_signal(signal.SIGINT)
    (out, err), (_, other) = ended(processes, 130)
    assert "(interrupted)" in out
    assert "Traceback" not in err + other


@pytest.mark.rest
def test_processes_with_other_options_all_say_so(tmp_path):
    port = free_port()
    processes = [train(port, own, tmp_path / "run", "--steps", "100", "--seed", str(own)) for own in range(2)]
    for _, err in ended(processes, 2):
        assert "error: options must be the same on every process" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run" / "params.safetensors").exists()


@pytest.mark.rest
def test_an_error_of_the_first_process_ends_the_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (_, first), (_, second) = ended(both(tmp_path, "--steps", "100"), 2)
    assert "holds what is not of a jaxnet run, notes.txt" in first
    assert "error: process 0 of the run ended with an error of its own: see its output" in second


@pytest.mark.rest
def test_devices_of_the_command_line_are_simulated_on_a_cpu(tmp_path):
    one, four = tmp_path / "one", tmp_path / "four"
    ended([train(None, 0, one, "--steps", "60"), train(None, 0, four, "--steps", "60", "--devices", "4")], 0)
    assert 0 < np.abs(params_of(one) - params_of(four)).max() < 1e-5
    ((_, err),) = ended([train(None, 0, four, "--devices", "3", "--model-devices", "2")], 2)
    assert "error: --model-devices must divide the 3 devices, got 2" in err


@pytest.mark.parametrize("scheduler", ["slurm", pytest.param("openmpi", marks=pytest.mark.rest)])
def test_a_scheduler_tells_the_processes(scheduler):
    job = np.random.default_rng().integers(4096)

    def environment(own):
        if scheduler == "slurm":
            told = {
                "JOB_ID": job,
                "STEP_NODELIST": "localhost",
                "NTASKS": 2,
                "STEP_NUM_TASKS": 2,
                "PROCID": own,
            }
            return {f"SLURM_{name}": str(value) for name, value in (told | {"LOCALID": own}).items()}
        told = {"SIZE": 2, "RANK": own, "LOCAL_RANK": own}
        uri = {"OMPI_MCA_orte_hnp_uri": f"{job * 4096}.0;tcp://127.0.0.1:34911"}
        return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in told.items()} | uri

    code = """
        from jaxnet.cli import machines, settings
        machines.connect(settings.Train())
        import jax
        parts = machines.mesh(settings.Train()).shape["data"]
        print("found", jax.process_index(), jax.process_count(), parts)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment(own),
        )
        for own in range(2)
    ]
    outputs = ended(processes, 0)
    assert [f"found {own} 2 2" in out for own, (out, _) in enumerate(outputs)] == [True, True]
