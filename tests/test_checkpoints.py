import json
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import checkpoints, network, training


def loss(params, x, t):
    return jnp.mean((x @ params["w"] + params["b"] - t) ** 2)


def distance(params, x, t):
    return jnp.mean(jnp.abs(x @ params["w"] + params["b"] - t))


PARAMS = {"w": jnp.zeros(3), "b": jnp.zeros(())}
# Its state holds a key, counts and moments.
OPTIMIZER = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(5)), optax.adam(0.05))
STOPPING = jaxnet.training.EarlyStopping("distance", part="test", patience=1000)


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    return x, (x @ np.array([1, -2, 3], np.float32) + 1).astype(np.float32)


def start():
    return training.init_state(PARAMS, OPTIMIZER, jax.random.key(3))


def fit(steps=60, **options):
    defaults = {"metrics": {"distance": distance}, "eval_every": 7, "early_stopping": STOPPING}
    return jaxnet.fit(
        loss,
        PARAMS,
        data(),
        test=data(),
        optimizer=OPTIMIZER,
        key=jax.random.key(3),
        batch_size=8,
        steps=steps,
        progress=False,
        **(defaults | options),
    )


def run(folder, steps=60, every=10, **options):
    with checkpoints.Checkpointer(folder, every=every, **options) as saver:
        result = fit(steps, stretch=every, callbacks=[saver], resume=saver.restore(start()))
        saver.save(result)
    return result


def assert_same(got, expected):
    """Bit for bit, timings apart."""

    def leaves(result):
        tree = (result.state, result.history, result.best)
        raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
        return [np.asarray(leaf) for leaf in raw]

    assert jax.tree.structure(got.state) == jax.tree.structure(expected.state)
    for one, other in zip(leaves(got), leaves(expected), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) if hasattr(leaf, "dtype") else False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of 60 steps, its folder, and the result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def test_checkpoints_do_not_change_the_run(whole):
    assert_same(whole[1], fit())


def test_a_restored_run_is_the_one_that_was_saved(whole):
    folder, result = whole
    assert checkpoints.steps(folder) == [40, 50, 60]
    restored = checkpoints.restore(folder, start())
    assert_same(restored, result)
    assert restored.train_seconds == result.train_seconds and not restored.interrupted
    assert_same(checkpoints.restore(folder, start(), step=40), fit(40))


@pytest.mark.parametrize(("first", "every"), [(1, 10), (8, 10), (30, 7), (45, 25)])
def test_a_resumed_run_is_the_uninterrupted_one(first, every, tmp_path, whole):
    run(tmp_path, first)
    assert_same(run(tmp_path, 60, every), whole[1])
    assert (tmp_path / "history.csv").read_bytes() == (whole[0] / "history.csv").read_bytes()


def test_history_of_a_run_without_metrics_in_bfloat16(tmp_path):
    def low(params, x, t):
        return loss(params, x, t).astype(jnp.bfloat16)

    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        result = jaxnet.fit(low, PARAMS, data(), batch_size=8, steps=25, callbacks=[saver], progress=False)
        saver.save(result)
    history = checkpoints.restore(tmp_path, training.init_state(PARAMS)).history
    assert (
        history.loss.dtype == ml_dtypes.bfloat16 and history.loss.tobytes() == result.history.loss.tobytes()
    )
    assert (history.train, history.test, len(history.eval_step)) == ({}, {}, 0)


def test_the_best_checkpoint_outlives_the_last_ones(tmp_path):
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {30: 12.0}))  # good, then far too high
    with checkpoints.Checkpointer(tmp_path, every=10, keep=2, best="train_loss", mode="min") as saver:
        result = jaxnet.fit(
            loss, PARAMS, data(), optimizer=optimizer, steps=60, batch_size=8, eval_every=7, stretch=10,
            metrics={"loss": loss}, callbacks=[saver], progress=False,
        )  # fmt: skip
        saver.save(result)
    best = int(result.history.eval_step[np.argmin(result.history.train["loss"])]) + 1
    assert 20 < best < 40 and checkpoints.steps(tmp_path) == [50, 60]
    like = training.init_state(PARAMS, optimizer)
    restored = checkpoints.restore(tmp_path, like, step="best")
    assert int(restored.state.step) == len(restored.history.loss) == best
    resumed = jaxnet.fit(
        loss, PARAMS, data(), optimizer=optimizer, steps=60, batch_size=8, eval_every=7,
        metrics={"loss": loss}, resume=restored, progress=False,
    )  # fmt: skip
    assert_same(resumed, result)
    path = tmp_path / "checkpoints" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"best.safetensors: expected a safetensors file, got a damaged one"):
        checkpoints.restore(tmp_path, like, step="best")


def files_of(folder, step):
    return [path for path in (folder / "checkpoints" / str(step)).rglob("*") if path.is_file()]


def test_any_damage_to_a_checkpoint_is_seen(whole, tmp_path, caplog):
    folder, moments = tmp_path / "run", random.Random(0)
    shutil.copytree(whole[0], folder)
    files = files_of(folder, 60)
    assert {"state.safetensors", "SHA256SUMS", "_CHECKPOINT_METADATA"} <= {file.name for file in files}
    for file in files:
        data = file.read_bytes()
        damages = [data[: moments.randrange(len(data))], data[:-1], data + b"\0"]
        for _ in range(20):
            flipped = bytearray(data)
            flipped[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
            damages.append(bytes(flipped))
        for damage in damages:
            file.write_bytes(damage)
            caplog.clear()
            assert int(checkpoints.restore(folder, start()).state.step) == 50
            (record,) = caplog.records
            assert "checkpoints/60 is damaged in " in record.message
            assert file.name == "SHA256SUMS" or file.name in record.message
            with pytest.raises(ValueError, match="is damaged in"):
                checkpoints.restore(folder, start(), step=60)
        file.unlink()
        assert int(checkpoints.restore(folder, start()).state.step) == 50
        file.write_bytes(data)
    assert int(checkpoints.restore(folder, start()).state.step) == 60


def test_a_damaged_history_is_seen(whole, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    lines = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join([*lines[:52], lines[52].replace(".", "1"), *lines[53:]]))
    assert int(checkpoints.restore(folder, start()).state.step) == 50
    assert "history.csv is not what it was, up to step 59" in caplog.text
    assert_same(run(folder), whole[1])
    (folder / "history.csv").unlink()
    with pytest.raises(ValueError, match=r"expected a whole checkpoint in .*, got none"):
        run(folder)


def test_a_folder_is_locked_against_another_process(tmp_path):
    code = "import sys; from jaxnet import checkpoints; checkpoints.Checkpointer(sys.argv[1]).__enter__()"
    with checkpoints.Checkpointer(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert f"ValueError: {tmp_path} is in use by another run" in done.stderr
    with checkpoints.Checkpointer(tmp_path):  # free again
        pass


def test_a_folder_with_a_run_is_not_begun_anew_unasked(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    message = r"holds a run: expected restore\(\) to be called, or overwrite=True"
    with checkpoints.Checkpointer(folder, every=10) as saver, pytest.raises(ValueError, match=message):
        fit(callbacks=[saver])
    assert checkpoints.steps(folder) == [40, 50, 60]
    run(folder, 20, overwrite=True)
    assert checkpoints.steps(folder) == [10, 20]
    assert len((folder / "history.csv").read_text().splitlines()) == 21


def test_a_gap_in_the_history_is_refused(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    saver = checkpoints.Checkpointer(folder, every=1)
    later = training.Stretch(
        whole[1].state._replace(step=jnp.int32(70)), np.zeros(5, np.float32), {}, {}, 0.0, {}
    )
    with pytest.raises(ValueError, match=r"history.csv ends with step 59, got step 65"), saver:
        saver.restore(start())
        saver(later)
    assert (folder / "history.csv").read_bytes() == (whole[0] / "history.csv").read_bytes()


def test_what_differs_from_the_run_to_restore_is_named(whole):
    folder = whole[0]
    other = PARAMS | {"w": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"expected \S+\.w to be float32\[4\], got float32\[3\]"):
        checkpoints.restore(folder, training.init_state(other, OPTIMIZER))
    with pytest.raises(ValueError, match=r"expected no leaf state.opt_state"):
        checkpoints.restore(folder, training.init_state(PARAMS))
    with pytest.raises(ValueError, match=r"expected a leaf best\.params\.c, got best\.params\.b, "):
        checkpoints.restore(folder, training.init_state(PARAMS | {"c": jnp.zeros(1)}, OPTIMIZER))
    with pytest.raises(ValueError, match="expected a key of rbg, got threefry2x32"):
        checkpoints.restore(folder, training.init_state(PARAMS, OPTIMIZER, jax.random.key(0, impl="rbg")))
    with pytest.raises(ValueError, match=r"expected a step among \[40, 50, 60\], got 7"):
        checkpoints.restore(folder, start(), step=7)
    with pytest.raises(ValueError, match="expected a run that keeps its best evaluation, got none"):
        checkpoints.restore(folder, start(), step="best")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be positive, got 0"),
        ({"keep": 1}, "keep must be at least 2, .* got 1"),
        ({"mode": "most"}, "mode must be 'min' or 'max', got 'most'"),
    ],
)
def test_bad_settings(options, message, tmp_path, unchecked):
    with pytest.raises(ValueError, match=message):
        checkpoints.Checkpointer(tmp_path, **options)


def test_a_metric_that_the_run_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="best must be one of train_distance, test_distance, got 'loss'"):
        run(tmp_path, best="loss")


@pytest.mark.parametrize("module", ["orbax", "safetensors.numpy"])
def test_a_missing_extra_is_named(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'jaxnet\[checkpoints\]'"):
        checkpoints.Checkpointer(tmp_path).__enter__()


def test_importing_jaxnet_imports_neither_extra():
    code = "import sys, jaxnet; print([name for name in ('orbax', 'safetensors') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Exported weights


def test_params_of_a_network_come_back(tmp_path):
    params = network.init(jax.random.key(0), (6, 5, 4, 3))
    path = tmp_path / "net.safetensors"
    checkpoints.save_params(path, params, activation="relu", input_scale=1 / 255, class_names=["a", "b", "c"])
    exported = checkpoints.load_params(path)
    assert exported[1:] == ((6, 5, 4, 3), "relu", 1 / 255, ("a", "b", "c"))
    for got in (exported.params, checkpoints.load_params(path, params).params):
        assert jax.tree.structure(got) == jax.tree.structure(params)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(one, other, strict=True)
    assert path.read_bytes()[:2] != b"\x80\x04"
    before = path.read_bytes()
    checkpoints.save_params(path, params, activation="relu", input_scale=1 / 255, class_names=["a", "b", "c"])
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_params_of_any_pytree_and_dtype(tmp_path):
    tree = {
        "half": [np.array([1, 2.5], ml_dtypes.bfloat16), np.float16([[np.nan]])],
        "double": np.array(1 / 3),
        "counts": (np.arange(3), np.array([True])),
        "empty": np.zeros((0, 2), np.uint8),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    checkpoints.save_params(tmp_path / "tree.safetensors", tree)
    flat = checkpoints.load_params(tmp_path / "tree.safetensors").params
    assert sorted(flat) == ["counts.0", "counts.1", "double", "empty", "half.0", "half.1", "transposed"]
    got = checkpoints.load_params(tmp_path / "tree.safetensors", tree).params
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_the_leaf_that_differs_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    params = network.init(jax.random.key(0), (4, 3, 2))
    checkpoints.save_params(path, params)
    wider = network.init(jax.random.key(0), (4, 5, 2))
    with pytest.raises(
        ValueError, match=r"net.safetensors: expected 0.weight to be float32\[4, 5\], got float32\[4, 3\]"
    ):
        checkpoints.load_params(path, wider)
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with pytest.raises(ValueError, match=r"expected 0.weight to be bfloat16\[4, 3\], got float32"):
        checkpoints.load_params(path, halves)
    with pytest.raises(ValueError, match=r"expected a leaf 2.weight"):
        checkpoints.load_params(path, network.init(jax.random.key(0), (4, 3, 2, 2)))
    with pytest.raises(ValueError, match=r"expected no leaf 1\.bias"):
        checkpoints.load_params(path, params[:1])
    with pytest.raises(ValueError, match="expected leaves of different names"):
        checkpoints.save_params(path, {"a": {"b": 1.0}, "a.b": 2.0})
    with pytest.raises(TypeError, match="expected dtypes that safetensors has, got value complex128"):
        checkpoints.save_params(path, np.zeros(2, np.complex128))


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path, moments = tmp_path / "net.safetensors", random.Random(1)
    checkpoints.save_params(path, network.init(jax.random.key(0), (4, 3, 2)), class_names=["no", "yes"])
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(100):
        flipped = bytearray(data)
        # In the arrays or the description of them; the header's padding with blanks means nothing.
        flipped[
            moments.choice([moments.randrange(end, len(data)), moments.randrange(len(data[:end].rstrip()))])
        ] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"net.safetensors: expected "):
            checkpoints.load_params(path)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="expected a safetensors file, got a damaged one"):
        checkpoints.load_params(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="expected a file that jaxnet saved, got one without its checksum"):
        checkpoints.load_params(path)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_params(tmp_path / "none.safetensors")


def test_pytorch_reads_the_file(tmp_path):
    torch = pytest.importorskip(
        "torch", reason="PyTorch is not installed, and not among jaxnet's requirements"
    )
    from safetensors.torch import load_file

    params = network.init(jax.random.key(0), (4, 3, 2), weight_std=1.0)
    checkpoints.save_params(tmp_path / "net.safetensors", params, activation="sigmoid")
    tensors = load_file(tmp_path / "net.safetensors")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 2))
    names = {"0.weight": "0.weight", "0.bias": "0.bias", "1.weight": "2.weight", "1.bias": "2.bias"}
    model.load_state_dict(
        {names[name]: tensor.mT if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    )
    x = np.random.default_rng(0).random((5, 4), np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), network.logits(params, x), rtol=1e-5)
