"""Datasets on disk: the same bits as in memory, bounded memory, and every damage named."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import optax
import pytest
from helpers import assert_same_bits

from jaxnet import datasets, fit, fit_many, network, sharding, shards
from jaxnet.cli import run_folder
from jaxnet.training import init_state, placing, task

RNG = np.random.default_rng(0)
X, T = RNG.integers(0, 256, (500, 12), np.uint8), RNG.integers(0, 4, 500).astype(np.int32)
PARAMS = network.init(jax.random.key(0), (12, 6, 4))
FLOATS = (X / np.float32(255)).astype(np.float32)


def npz(folder, x=X, t=T, test=100):
    path = folder / "mine.npz"
    np.savez(path, x_train=x[test:], t_train=t[test:], x_test=x[:test], t_test=t[:test])
    return path


@pytest.fixture
def folder(tmp_path):
    shards.convert(npz(tmp_path), tmp_path / "shards", shard_bytes=500)
    return tmp_path / "shards"


@pytest.mark.parametrize("sampling", ["replacement", "shuffle", "blocks"])
def test_a_run_from_disk_is_that_from_memory_bit_for_bit(folder, sampling):
    train, test = shards.load(folder)
    assert len(train.shards) > 10
    how = {"steps": 150, "batch_size": 16, "sampling": sampling, "eval_every": 40, "progress": False}
    how |= {"optimizer": optax.adam(0.01), "metrics": {"accuracy": network.accuracy}}
    in_memory = fit(network.loss, PARAMS, (FLOATS[100:], T[100:]), test=(FLOATS[:100], T[:100]), **how)
    on_disk = fit(network.loss, PARAMS, train, test=test, **how)
    assert_same_bits(in_memory.state, on_disk.state)
    assert in_memory.history.loss.tobytes() == on_disk.history.loss.tobytes()
    np.testing.assert_allclose(
        on_disk.history.test["accuracy"], in_memory.history.test["accuracy"], rtol=1e-6
    )
    assert not on_disk.history.train  # all of it is read only where that is asked for
    asked = fit(network.loss, PARAMS, train, eval_parts=["train"], **how)
    expected = in_memory.history.train["accuracy"]
    np.testing.assert_allclose(asked.history.train["accuracy"], expected, rtol=1e-6)


def test_a_run_from_disk_goes_on_exactly_wherever_it_was_cut(folder, monkeypatch):
    from jaxnet.training import disk

    monkeypatch.setattr(disk, "PIECE", 16 * 52 * 7)  # seven steps at a time
    train, _ = shards.load(folder)
    how = {"batch_size": 16, "progress": False}
    whole = fit(network.loss, PARAMS, train, steps=60, **how)
    for cut in (1, 7, 30):
        first = fit(network.loss, PARAMS, train, steps=cut, **how)
        assert_same_bits(fit(network.loss, PARAMS, train, steps=60, resume=first, **how).state, whole.state)
    memory = fit(network.loss, PARAMS, (FLOATS[100:], T[100:]), steps=60, **how)
    assert_same_bits(memory.state, whole.state)
    one = fit(network.loss, PARAMS, train, steps=60, mesh=sharding.mesh(1), **how)
    assert_same_bits(one.params, whole.params)


def test_weights_and_explicit_batches_are_those_of_memory(folder):
    train, _ = shards.load(folder)
    weight = RNG.random(400).astype(np.float32)
    how = {"sample_weight": weight, "class_weight": "balanced", "progress": False}
    how["batches"] = RNG.integers(0, 400, (20, 8))
    memory = fit(network.loss, PARAMS, (FLOATS[100:], T[100:]), **how)
    assert_same_bits(memory.state, fit(network.loss, PARAMS, train, **how).state)


def test_a_pair_of_files_of_ones_own_is_a_dataset(tmp_path):
    np.save(tmp_path / "x.npy", FLOATS.astype(np.float64))
    np.save(tmp_path / "t.npy", T.astype(np.int64))
    pair = shards.OnDisk.of(tmp_path / "x.npy", tmp_path / "t.npy")
    assert len(pair) == 500
    how = {"steps": 30, "batch_size": 16, "progress": False}
    memory = fit(network.loss, PARAMS, (FLOATS.astype(np.float64), T), **how)
    assert_same_bits(memory.state, fit(network.loss, PARAMS, pair, **how).state)
    np.save(tmp_path / "t.npy", T[:-1])
    with pytest.raises(ValueError, match=r"t\.npy: expected the 500 rows of x\.npy, got 499"):
        shards.OnDisk.of(tmp_path / "x.npy", tmp_path / "t.npy")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_come_in_the_order_that_they_are_asked_for(folder, dtype, nothing_is_held):
    train, test = shards.load(folder)
    rows = RNG.integers(0, 400, 300, dtype)
    x, t = train.rows(rows)
    np.testing.assert_array_equal(x, FLOATS[100:][rows])
    np.testing.assert_array_equal(t, T[100:][rows])
    np.testing.assert_array_equal(train.labels(), T[100:])
    np.testing.assert_array_equal(test.rows(np.arange(100))[0], FLOATS[:100])
    rows = np.concatenate([np.arange(a, a + 40) % 400 for a in (390, 7, 250, 7)] + [[3, 399, 398]])
    x, t = train.rows(rows.astype(dtype))  # runs of them, across the ends of shards
    np.testing.assert_array_equal(x, FLOATS[100:][rows])
    np.testing.assert_array_equal(t, T[100:][rows])


def test_what_was_read_stays_as_it_is_while_anything_views_it(folder, nothing_is_held, monkeypatch):
    monkeypatch.setattr(shards, "_LARGE", 1)
    train, _ = shards.load(folder)
    asked = [RNG.permutation(400)[:64] for _ in range(20)]
    views = [train.rows(rows)[0][3:].T[1:] for rows in asked]
    arrays = [jax.device_put(train.rows(rows)[0])[:5] for rows in asked]
    for rows, view, array in zip(asked, views, arrays, strict=True):
        np.testing.assert_array_equal(view, FLOATS[100:][rows][3:].T[1:])
        np.testing.assert_array_equal(array, FLOATS[100:][rows][:5])
    del views, view
    spare = {id(memory) for memory in train._spare}
    assert spare  # and read into again
    found = train.rows(asked[0])
    assert len({id(memory) for memory in train._spare} & spare) < len(spare)
    np.testing.assert_array_equal(found[0], FLOATS[100:][asked[0]])


def test_a_dataset_is_pickled_as_its_files_are_called(folder):
    train, _ = shards.load(folder)
    train.rows(np.arange(400))
    told = pickle.dumps(train)
    assert len(told) < 50 * len(train.shards) + 5_000
    np.testing.assert_array_equal(pickle.loads(told).rows(np.arange(9))[0], FLOATS[100:109])


@pytest.mark.parametrize("held", [0, 2**26])
def test_there_may_be_more_shards_than_files_that_may_be_open(tmp_path, monkeypatch, held):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(shards, "_HELD", held)
    monkeypatch.setattr(shards, "_OPEN", 20)
    train, _ = shards.convert(npz(tmp_path), tmp_path / "shards", shard_bytes=40)
    assert len(train.shards) > 100
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 60, limits[1]))
    try:
        for rows in (RNG.integers(0, 400, 300), np.arange(400)):
            np.testing.assert_array_equal(train.rows(rows)[0], FLOATS[100:][rows])
        fit(network.loss, PARAMS, train, steps=20, batch_size=16, progress=False)
        np.testing.assert_array_equal(train.labels(), T[100:])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_blocks_from_disk_train_as_from_memory_bit_for_bit(folder, nothing_is_held):
    how = {"steps": 80, "batch_size": 24, "sampling": "blocks", "progress": False}
    on_disk = fit(network.loss, PARAMS, shards.load(folder)[0], **how)
    assert_same_bits(on_disk.state, fit(network.loss, PARAMS, (FLOATS[100:], T[100:]), **how).state)


@pytest.fixture
def nothing_is_held(monkeypatch):
    """As of large datasets, though these are small; and a few rows at a time."""
    monkeypatch.setattr(shards, "_HELD", 0)
    monkeypatch.setattr(shards, "_REGIONS", 1)


def test_a_shard_that_is_cut_short_while_it_is_in_use_is_named(folder, nothing_is_held):
    train, _ = shards.load(folder)
    train.rows(np.arange(400))
    last = train.shards[-1]
    size = last.x.stat().st_size
    os.truncate(last.x, size - 8)
    train.rows(np.arange(400 - last.length))
    with pytest.raises(
        ValueError, match=rf"{last.x.name}: expected {size} bytes, got {size - 8}: it was cut"
    ):
        train.rows(np.array([0, 399]))
    with pytest.raises(
        ValueError, match=rf"{last.x.name}: expected {size} bytes, got {size - 8}: it was cut"
    ):
        train.rows(np.arange(350, 400))


def test_rows_far_into_a_file_are_found_by_numbers_of_any_type(tmp_path):
    wide = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (3 * 2**20, 1024))  # 3 GB, of holes
    rows = np.array([3 * 2**20 - 1, 5, 2**21 + 7, 5], np.int32)
    wide[rows] = rows[:, None] % 251
    wide.flush()
    np.save(tmp_path / "t.npy", np.zeros(len(wide), np.uint8))
    x, _ = shards.OnDisk.of(tmp_path / "x.npy", tmp_path / "t.npy").rows(rows)
    np.testing.assert_array_equal(x, np.broadcast_to(rows[:, None] % 251, (4, 1024)))


def test_processes_compare_what_is_on_disk_by_its_content(tmp_path):
    def described(x, top=None):
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "t.npy", T)
        pair = shards.OnDisk.of(tmp_path / "x.npy", tmp_path / "t.npy", top=top)
        what = task.check_task(network.loss, {"train": pair}, steps=5)
        return placing.described(what, init_state(PARAMS, None, 0))["data"]

    other = FLOATS.copy()
    other[-1, 0] += 1
    assert described(FLOATS) == described(FLOATS)
    assert len({described(FLOATS), described(other), described(FLOATS, 255.0)}) == 3


def test_a_metric_that_is_no_mean_is_refused(folder):
    _, test = shards.load(folder)

    def most(params, x, t):
        return network.logits(params, x).max()

    with pytest.raises(ValueError, match="'most' must be a mean over examples, since test is on disk"):
        fit(network.loss, PARAMS, (FLOATS, T), test=test, metrics={"most": most}, steps=5)


def test_a_row_that_is_not_finite_is_named(tmp_path):
    x = FLOATS.copy()
    x[321, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "t.npy", T)
    pair = shards.OnDisk.of(tmp_path / "x.npy", tmp_path / "t.npy")
    with pytest.raises(ValueError, match=r"inputs must be finite, got NaN or infinity in .*x\.npy, row 321"):
        fit(network.loss, PARAMS, pair, steps=500, batch_size=16)


def test_damaged_shards_are_named(folder):
    path = folder / "train" / "x-00003.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=rf"x-00003\.npy: expected a shard of {len(whole)} bytes"):
        shards.load(folder)
    path.write_bytes(whole[:-5] + b"\1\2\3\4\5")
    shards.load(folder)
    with pytest.raises(ValueError, match=r"x-00003\.npy: expected sha256 .* it is damaged"):
        shards.load(folder, verify=True)
    path.unlink()
    with pytest.raises(ValueError, match=r"x-00003\.npy: expected a shard of \d+ bytes, got no file"):
        shards.load(folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a folder that jaxnet convert wrote, got none"):
        shards.load(folder)


def test_shards_that_are_unlike_are_named(folder):
    path = folder / "train" / "x-00002.npy"
    x = np.load(path)
    index = json.loads((folder / "index.json").read_text())
    np.save(path, x[:, :6])
    index["parts"]["train"][2]["bytes"][0] = path.stat().st_size
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"x-00002\.npy: expected rows of uint8\[12\], as in the first shard, got uint8\[6\]"
    ):
        fit(network.loss, PARAMS, shards.load(folder)[0], steps=5)


def test_fit_many_says_that_it_needs_arrays(folder, unchecked):
    stacked = jax.tree.map(lambda leaf: leaf[None], PARAMS)
    with pytest.raises(TypeError, match=r"train must be a pair .* of arrays; a dataset on disk is for fit"):
        fit_many(network.loss, stacked, shards.load(folder)[0])


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_each_kind_of_source_is_converted(tmp_path):
    images = RNG.integers(0, 256, (60, 4, 5), np.uint8)
    labels = RNG.integers(0, 3, 60).astype(np.uint8)
    source = tmp_path / "idx"
    source.mkdir()
    for name, array in (("train-images-idx3", images[:40]), ("train-labels-idx1", labels[:40]),
                        ("t10k-images-idx3", images[40:]), ("t10k-labels-idx1", labels[40:])):  # fmt: skip
        idx(source / f"{name}-ubyte.gz", array)
    train, test = shards.convert(source, tmp_path / "from-idx", shard_bytes=300)
    np.testing.assert_array_equal(train.rows(np.arange(40))[0], images[:40].reshape(40, -1) / np.float32(255))
    np.testing.assert_array_equal(test.labels(), labels[40:])

    pandas, pillow = pytest.importorskip("pandas"), pytest.importorskip("PIL.Image")
    frame = pandas.DataFrame({"a": RNG.random(200), "b": RNG.random(200), "kind": ["cat", "dog"] * 100})
    frame.to_csv(tmp_path / "table.csv", index=False)
    train, test = shards.convert(tmp_path / "table.csv", tmp_path / "from-csv", shard_bytes=300)
    assert train.class_names == ("cat", "dog")
    together = np.concatenate([part.rows(np.arange(len(part)))[0] for part in (train, test)])
    np.testing.assert_allclose(np.sort(together[:, 0]), np.sort(frame["a"].to_numpy(np.float32)))
    assert 20 < len(test) < 60

    for index, image in enumerate(images):
        path = (
            tmp_path / "images" / ("train", "test")[index % 3 == 0] / f"class{labels[index]}" / f"{index}.png"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).save(path)
    train, test = shards.convert(tmp_path / "images", tmp_path / "from-images", shard_bytes=300)
    (x, t), (x_test, t_test) = datasets.load(tmp_path / "images")
    np.testing.assert_array_equal(train.rows(np.arange(len(x)))[0], x)
    np.testing.assert_array_equal(train.labels(), t)
    np.testing.assert_array_equal(test.rows(np.arange(len(x_test)))[0], x_test)
    np.testing.assert_array_equal(test.labels(), t_test)
    assert train.class_names == ("class0", "class1", "class2")


def test_mnist_is_converted_as_load_has_it(tmp_path):
    (x, t), (x_test, _) = datasets.load("mnist")
    train, test = shards.convert("mnist", tmp_path / "mnist")
    rows = RNG.integers(0, 60_000, 200)
    np.testing.assert_array_equal(train.rows(rows)[0], x[rows])
    np.testing.assert_array_equal(train.labels(), t)
    np.testing.assert_array_equal(test.rows(rows // 6)[0], x_test[rows // 6])


def test_a_process_reads_its_own_rows_of_mnist_and_holds_no_more():
    code = """
        from jaxnet import shards
        peak = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1024
        before = peak()
        parts, digest = shards.own_part("mnist", lambda length: (length // 2, length * 3 // 4))
        print(peak() - before, digest, parts["train"][0].sum(dtype=float), parts["test"][0].sum(dtype=float))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    grown, digest, *sums = done.stdout.split()
    (x, t), (x_test, t_test) = datasets.load("mnist")
    assert int(grown) < 17_500 * 784 * 4 / 2**20 + 40  # a quarter, of 209 MB in all
    assert digest == run_folder.fingerprint(((x, t), (x_test, t_test)))
    own = x[30_000:45_000], x_test[5_000:7_500]
    assert [float(s) for s in sums] == [array.sum(dtype=float) for array in own]


def test_what_cannot_be_converted_leaves_nothing(tmp_path):
    path = npz(tmp_path)
    before = sorted(tmp_path.iterdir())
    for source, message in (
        (tmp_path / "none.npz", "expected an npz file, got none"),
        (tmp_path / "none", "expected mnist, fashion-mnist, an .npz or .csv file, or a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            shards.convert(source, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="expected an npz file, got none"):
        shards.convert(path, tmp_path / "out")
    bad = FLOATS.copy()
    bad[400] = np.inf
    with pytest.raises(ValueError, match=r"x_train: expected finite float32 numbers"):
        shards.convert(npz(tmp_path, bad), tmp_path / "out")
    with pytest.raises(ValueError, match=r"t_train: expected labels from 0"):
        shards.convert(npz(tmp_path, X, T - 1), tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=r"expected a new folder, got .*there, which is there"):
        shards.convert(npz(tmp_path), tmp_path / "there")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "there"])


RUN = """
    import sys
    import jax, numpy as np
    from jaxnet import checkpoints, fit, network, shards, training

    x, t, folder, steps = sys.argv[1:5]
    pair, params = shards.OnDisk.of(x, t), network.init(jax.random.key(0), (500, 8, 3))
    peak = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
    before = peak()
    with checkpoints.Checkpointer(folder, every=20) as saver:
        resume = saver.restore(training.init_state(params))
        result = fit(network.loss, params, pair, steps=int(steps), batch_size=2000, stretch=20, resume=resume,
                     callbacks=[saver], progress=False)
        saver.save(result)
    print((peak() - before) // 1024)
"""


def test_memory_is_bounded_and_a_killed_run_goes_on_exactly(tmp_path):
    rows = 400_000  # 800 MB, of which the first are not zero
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 500))
    for start in range(0, 50_000, 10_000):
        x[start : start + 10_000] = RNG.random((10_000, 500), np.float32)
    del x
    np.save(tmp_path / "t.npy", RNG.integers(0, 3, rows).astype(np.int32))

    def run(name, steps):
        command = [sys.executable, "-c", textwrap.dedent(RUN), tmp_path / "x.npy", tmp_path / "t.npy"]
        return subprocess.Popen([*command, tmp_path / name, str(steps)], stdout=subprocess.PIPE, text=True)

    whole = run("whole", 200)
    assert int(whole.communicate(timeout=200)[0]) < 600  # MB, of which what is read ahead has 320
    killed = run("killed", 200)
    while not (tmp_path / "killed" / "checkpoints" / "40.safetensors").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert 40 <= checkpoints_of(tmp_path / "killed") < 200
    again = run("killed", 200)
    again.communicate(timeout=200)
    ends = [(tmp_path / name / "checkpoints" / "200.safetensors") for name in ("whole", "killed")]
    from safetensors.numpy import load_file

    one, other = map(load_file, ends)
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one if "seconds" not in name)


def checkpoints_of(folder):
    from jaxnet import checkpoints

    return max(checkpoints.steps(folder))


def test_without_grain_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"datasets on disk need grain.*\[disk\]"):
        fit(network.loss, PARAMS, shards.load(folder)[0], steps=5)


def jaxnet(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "jaxnet", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=200,
    )


def test_a_converted_folder_trains_from_the_command_line(tmp_path):
    done = jaxnet("convert", npz(tmp_path), tmp_path / "folder", "--shard-size", "1")
    assert done.returncode == 0, done.stderr
    assert "400 training and 100 test examples" in done.stdout
    done = jaxnet("convert", "--verify", tmp_path / "folder")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "run"
    done = jaxnet("train", "--data", tmp_path / "folder", "--steps", 60, "--out", out, "--no-plots")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    memory = jaxnet(
        "train", "--data", npz(tmp_path), "--steps", 60, "--out", tmp_path / "memory", "--no-plots"
    )
    assert memory.returncode == 0, memory.stderr
    one, other = ((path / "params.safetensors").read_bytes() for path in (out, tmp_path / "memory"))
    assert one == other
    done = jaxnet("evaluate", out)
    assert done.returncode == 0, done.stderr

    (tmp_path / "folder" / "test" / "t-00000.npy").write_bytes(b"nothing")
    for command in (["convert", "--verify", tmp_path / "folder"], ["train", "--data", tmp_path / "folder"]):
        done = jaxnet(*command)
        assert done.returncode == 2
        assert "t-00000.npy: expected a shard of" in done.stderr
        assert "Traceback" not in done.stderr
