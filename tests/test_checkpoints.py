import hashlib
import json
import random
import shutil
import subprocess
import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import jaxnet
from jaxnet import _tensors, checkpoints, network, training
from tests.helpers import assert_same_bits


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
    assert jax.tree.structure(got.state) == jax.tree.structure(expected.state)
    names = ("state", "history", "best", "scheduled")
    assert_same_bits([getattr(got, n) for n in names], [getattr(expected, n) for n in names])


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
    at_40, end_at_40 = checkpoints.restore(folder, start(), step=40), fit(40)
    assert_same_bits((at_40.state, at_40.history.loss), (end_at_40.state, end_at_40.history.loss))
    np.testing.assert_array_equal(at_40.history.eval_step, end_at_40.history.eval_step[:-1])  # of the end


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


def test_any_damage_to_a_checkpoint_is_seen(whole, tmp_path, caplog):
    folder, moments = tmp_path / "run", random.Random(0)
    shutil.copytree(whole[0], folder)
    file = folder / "checkpoints" / "60.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    damages = [data[: moments.randrange(len(data))], data[:-1], data + b"\0", b"", data[:header]]
    for place in [*range(8), *(moments.randrange(header) for _ in range(60)), *range(header, len(data), 7)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << moments.randrange(8)
        damages.append(bytes(flipped))
    for damage in damages:
        file.write_bytes(damage)
        caplog.clear()
        assert int(checkpoints.restore(folder, start()).state.step) == 50
        (record,) = caplog.records
        assert f"{file}: expected " in record.message and record.message.endswith(": passed over")
        with pytest.raises(ValueError, match=r"60.safetensors: expected "):
            checkpoints.restore(folder, start(), step=60)
    file.write_bytes(data)
    assert int(checkpoints.restore(folder, start()).state.step) == 60
    for step in (40, 50, 60):
        (folder / "checkpoints" / f"{step}.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a whole checkpoint in .*, got none"):
        run(folder)


def test_a_changed_history_makes_nothing_unusable(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "history.csv").write_text("step,loss\n \n")
    assert_same(run(folder), whole[1])
    assert (folder / "history.csv").read_bytes() == (whole[0] / "history.csv").read_bytes()
    (folder / "history.csv").unlink()
    assert_same(run(folder), whole[1])
    assert (folder / "history.csv").read_bytes() == (whole[0] / "history.csv").read_bytes()


def test_nothing_is_deleted_that_jaxnet_did_not_write(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    others = [folder / "checkpoints" / "epoch_3" / "weights", folder / "checkpoints" / "last.pt"]
    others += [folder / "checkpoints" / "7" / "mine"]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("another tool's")
    run(folder, 20, overwrite=True)
    assert checkpoints.steps(folder) == [10, 20] and all(other.exists() for other in others)


def test_a_run_goes_only_when_the_next_has_a_whole_checkpoint(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    with checkpoints.Checkpointer(folder, every=10, overwrite=True) as saver:
        assert saver.restore(start()) is None
    assert_same(checkpoints.restore(folder, start()), whole[1])


def test_one_checkpointer_is_of_one_run(tmp_path):
    message = "holds a run up to step 20, got steps 0 to 1: .* a Checkpointer for each run"
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        saver.save(fit(20, callbacks=[saver]))
        with pytest.raises(ValueError, match=message):
            fit(20, callbacks=[saver])
        with pytest.raises(ValueError, match="holds a run up to step 20, got steps 0 to 10"):
            saver.save(fit(10))
        rest = fit(40, callbacks=[saver], resume=checkpoints.restore(tmp_path, start()))
    assert checkpoints.steps(tmp_path)[-1] == 40 and int(rest.state.step) == 40


def test_many_networks_resume_to_the_same_bits(tmp_path):
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1, leaf - 1]), PARAMS)
    rates = {"learning_rate": [0.1, 1e5, 0.2]}
    keys = jax.random.split(jax.random.key(0), 3)

    options = {
        "optimizer": optax.adam,
        "hyperparameters": rates,
        "key": keys,
        "batch_size": 8,
        "eval_every": 7,
    }
    options |= {"test": data(), "metrics": {"distance": distance}, "max_networks": 2, "progress": False}
    train = partial(jaxnet.fit_many, loss, params, data(), **options)

    class Death(Exception):
        pass

    def dies_at(number):
        def die(stretch):
            seen.append(stretch)
            if len(seen) == number:
                raise Death

        seen = []
        return die

    whole = train(steps=60)
    for number in (1, 3, 9, 11):
        with pytest.raises(Death), checkpoints.Checkpointer(tmp_path, every=10) as saver:
            resume = saver.restore(training.init_states(params, optax.adam, rates, keys))
            train(steps=60, stretch=10, callbacks=[saver, dies_at(number)], resume=resume)
    assert len(checkpoints.steps(tmp_path)) == 3
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        resume = saver.restore(training.init_states(params, optax.adam, rates, keys))
        assert 0 < int(resume.state.step.sum()) < int(whole.state.step.sum())
        saver.save(result := train(steps=60, callbacks=[saver], resume=resume))
    assert_same_bits((result.state, result.history), (whole.state, whole.history))
    np.testing.assert_array_equal(result.diverged, whole.diverged)
    restored = checkpoints.restore(tmp_path, training.init_states(params, optax.adam, rates, keys))
    assert_same_bits((restored.state, restored.history), (whole.state, whole.history))
    saver = checkpoints.Checkpointer(tmp_path, overwrite=True, best="test_distance")
    with pytest.raises(ValueError, match="best must be None for many networks, got 'test_distance'"), saver:
        train(steps=5, callbacks=[saver])


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
    with pytest.raises(ValueError, match=r"holds a run up to step 60, got steps 65 to 70"), saver:
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


@pytest.mark.parametrize("module", ["filelock", "safetensors.numpy"])
def test_a_missing_extra_is_named(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'jaxnet\[checkpoints\]'"):
        checkpoints.Checkpointer(tmp_path).__enter__()


def test_importing_jaxnet_does_not_import_the_extra():
    code = "import sys, jaxnet; print('safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def write_as_release_0_1_did(folder, result):
    """A folder for each step, with checksums beside the state; the history as CSV, marked in the metadata."""
    from safetensors.numpy import save

    checkpoint = folder / "checkpoints" / str(len(result.history.loss))
    checkpoint.mkdir(parents=True)
    evaluations = dict(zip(result.history.eval_step.tolist(), result.history.test["distance"], strict=True))
    lines = [f"{i},{loss},{evaluations.get(i, '')}" for i, loss in enumerate(result.history.loss)]
    text = "\n".join(["step,loss,test_distance", *lines, ""]).encode()
    (folder / "history.csv").write_bytes(text + b"59,1.0,\n")  # what came after the checkpoint
    arrays = _tensors.flatten({"state": result.state, "best": result.best})
    metadata = {
        "key": "fry",
        "compile_seconds": 1.5,
        "train_seconds": 2.5,
        "rows": len(lines),
        "size": len(text),
    }
    metadata |= {
        "key": str(jax.random.key_impl(result.state.key)),
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    metadata["dtypes"] = {"loss": "float32", "train": {}, "test": {"distance": "float32"}, "validation": {}}
    described = [[name, str(arrays[name].dtype), arrays[name].shape] for name in sorted(arrays)]
    digest = hashlib.sha256(json.dumps([metadata, described], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    state = save(arrays, {"jaxnet": json.dumps({"checksum": digest.hexdigest()} | metadata)})
    (checkpoint / "state.safetensors").write_bytes(state)
    (checkpoint / "SHA256SUMS").write_text(f"{hashlib.sha256(state).hexdigest()}  state.safetensors\n")
    return checkpoint


def test_a_run_of_release_0_1_goes_on(tmp_path, caplog):
    train = partial(fit, eval_parts=["test"], eval_every=7)
    part, whole = train(steps=50), train()  # step 49 is on the schedule
    checkpoint = write_as_release_0_1_did(tmp_path, part)
    restored = checkpoints.restore(tmp_path, start())
    assert_same_bits((restored.state, restored.history, restored.best), (part.state, part.history, part.best))
    with checkpoints.Checkpointer(tmp_path, every=10) as saver:
        result = train(callbacks=[saver], resume=saver.restore(start()))
        saver.save(result)
    assert_same(result, whole)
    assert checkpoints.steps(tmp_path) == [50, 60]
    (checkpoint / "state.safetensors").write_bytes(b"damaged")
    (tmp_path / "checkpoints" / "60.safetensors").unlink()
    with pytest.raises(ValueError, match=r"got none: .*50 is damaged in state.safetensors"):
        checkpoints.restore(tmp_path, start())


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


def test_functions_of_a_module_are_not_saved_and_come_from_like(tmp_path):
    model, other = (eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(seed)) for seed in (0, 1))
    checkpoints.save_params(tmp_path / "mlp.safetensors", model)
    loaded = checkpoints.load_params(tmp_path / "mlp.safetensors", other).params
    assert loaded(jnp.ones(2)) == model(jnp.ones(2)) != other(jnp.ones(2))
    with pytest.raises(TypeError, match=r"that safetensors has, got b complex128$"):
        checkpoints.save_params(tmp_path / "c.safetensors", {"a": np.ones(2), "b": np.ones(2, complex)})


def test_a_checkpointer_must_be_entered(tmp_path):
    with pytest.raises(RuntimeError, match=r"with Checkpointer\(folder\) as saver"):
        fit(callbacks=[checkpoints.Checkpointer(tmp_path / "run")])


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
