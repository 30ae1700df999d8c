"""MNIST and Fashion-MNIST: real files in temporary folders, loopback HTTP mirrors, MNIST itself."""

import gzip
import hashlib
import http.server
import logging
import os
import signal
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import flip, message_of

from jaxnet import datasets
from jaxnet.datasets import published

SHAPES = {
    "train-images-idx3-ubyte": (50, 4, 3),
    "train-labels-idx1-ubyte": (50,),
    "t10k-images-idx3-ubyte": (20, 4, 3),
    "t10k-labels-idx1-ubyte": (20,),
}
NAMES = list(SHAPES)
IMAGES, LABELS = NAMES[:2]
RNG = np.random.default_rng(7)
ARRAYS = {name: RNG.integers(0, 256 if len(shape) == 3 else 10, shape) for name, shape in SHAPES.items()}
IDX = {
    name: struct.pack(f">I{len(a.shape)}I", 0x800 + a.ndim, *a.shape) + a.astype(np.uint8).tobytes()
    for name, a in ARRAYS.items()
}
ARCHIVES = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in IDX.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def use_mirrors(monkeypatch, *mirrors: str) -> None:
    """Publish the small arrays above as both datasets."""
    by_data = tuple(published._IdxFile(n, SHAPES[n], sha256=sha256(IDX[n])) for n in NAMES)
    by_archive = tuple(
        published._IdxFile(n, SHAPES[n], archive_sha256=sha256(ARCHIVES[f"{n}.gz"])) for n in NAMES
    )
    monkeypatch.setitem(published.SOURCES, "mnist", published._Source(mirrors, by_data))
    monkeypatch.setitem(published.SOURCES, "fashion-mnist", published._Source(mirrors, by_archive))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, no JAXNET_DATA_DIR, and the small datasets without a mirror."""
    monkeypatch.delenv("JAXNET_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(published, "_cache_folder", lambda name: tmp_path / "cache" / name)
    use_mirrors(monkeypatch)
    return tmp_path / "cache"


class Mirror:
    """A loopback HTTP server of `files` (bytes, or an int status); `asked` lists the requests in order."""

    def __init__(self, files, stall=False):
        self.files, self.asked = files, []
        self.release = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                mirror.asked.append(name)
                content = mirror.files.get(name, 404)
                if isinstance(content, int):
                    self.send_error(content)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if stall:
                    self.wfile.write(content[: len(content) // 2])
                    self.wfile.flush()
                    mirror.release.wait(20)
                else:
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/data/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def dead_url():
    """An address at which nobody listens."""
    with Mirror({}) as mirror:
        return mirror.url


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def check_small(split) -> None:
    """The split is ARRAYS, divided by 255."""
    (x_train, t_train), (x_test, t_test) = split
    for x, images in ((x_train, IMAGES), (x_test, NAMES[2])):
        expected = (ARRAYS[images].reshape(len(x), 12).astype(np.float32) / np.float32(255)).astype(
            np.float32
        )
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, expected)
    for t, labels in ((t_train, LABELS), (t_test, NAMES[3])):
        assert t.dtype == np.int32
        np.testing.assert_array_equal(t, ARRAYS[labels])


def test_a_missing_library_names_the_extra(monkeypatch, tmp_path):
    whole = datasets.load_digits()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for one, other in zip(sum(whole, ()), sum(datasets.load_digits(), ()), strict=True):
        assert one.tobytes() == other.tobytes()  # its file does, and scikit-learn is not imported
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("JAXNET_DATA_DIR", raising=False)
    with pytest.raises(ImportError) as error:
        datasets.load_digits()
    assert message_of(error) == "digits needs scikit-learn: pip install 'jaxnet[data]'"
    with pytest.raises(ImportError) as error:
        datasets.load_mnist()
    assert message_of(error) == "downloading needs pooch: pip install 'jaxnet[data]'"
    use_mirrors(monkeypatch)
    folder = write_folder(tmp_path / "mnist", ARCHIVES)
    check_small(datasets.load_mnist(folder))
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    check_small(datasets.load_mnist())


@pytest.fixture(scope="session")
def mnist(mnist):
    return datasets.load_mnist(one_hot_label=True)


def test_mnist_golden_values(mnist):
    (x_train, t_train), (x_test, t_test) = mnist
    assert [a.shape for a in (x_train, t_train, x_test, t_test)] == [
        (60000, 784),
        (60000, 10),
        (10000, 784),
        (10000, 10),
    ]
    assert {a.dtype for a in (x_train, t_train, x_test, t_test)} == {np.dtype(np.float32)}
    assert (x_train.min(), x_train.max(), x_test.min(), x_test.max()) == (0.0, 1.0, 0.0, 1.0)
    # Published mean and standard deviation of the training pixels, counts and first labels.
    assert x_train.mean(dtype=np.float64) == pytest.approx(0.1306604762738429, rel=1e-7)
    assert x_train.std(dtype=np.float64) == pytest.approx(0.30810780717887876, rel=1e-7)
    assert t_train.sum(0).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert t_test.sum(0).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert t_train[:5].argmax(1).tolist() == [5, 0, 4, 1, 9]
    assert t_test[:5].argmax(1).tolist() == [7, 2, 1, 0, 4]


def test_mnist_equals_an_independent_parse(mnist):
    root = os.environ.get("JAXNET_DATA_DIR")
    folder = Path(root) / "mnist" if root else published._cache_folder("mnist")
    path = folder / "t10k-images-idx3-ubyte.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there to compare with")
    with gzip.open(path) as file:
        assert struct.unpack(">4I", file.read(16)) == (0x803, 10000, 28, 28)
        pixels = np.frombuffer(file.read(), np.uint8)
    (_, _), (x_test, _) = mnist
    np.testing.assert_array_equal(x_test.ravel(), pixels.astype(np.float32) / np.float32(255))
    assert x_test.sum(dtype=np.float64) == pytest.approx(pixels.sum(dtype=np.int64) / 255, rel=1e-7)


def test_mnist_loads_in_reasonable_time(mnist):
    start = time.perf_counter()
    datasets.load_mnist()
    assert time.perf_counter() - start < 5  # about 0.4 s; the limit leaves room for a busy machine


@pytest.mark.parametrize(
    "files",
    [
        ARCHIVES,
        IDX,
        {f"{name}.gz": gzip.compress(data, 1) for name, data in IDX.items()},
        {name.replace("-idx", ".idx"): data for name, data in IDX.items()},
        {name.replace("-idx", ".idx"): data for name, data in ARCHIVES.items()},
        IDX | {f"{IMAGES}.gz": b"never read: the plain file is there"},
    ],
    ids=["archives", "plain", "recompressed", "dotted", "dotted archives", "both"],
)
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_files_load_from_a_directory_and_from_the_data_dir(cache, monkeypatch, tmp_path, files, name):
    folder = write_folder(tmp_path / "data" / name, files)
    check_small(datasets.load(name, folder))
    check_small(datasets.load(name, str(folder)))
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path / "data"))
    check_small(datasets.load(name))
    assert not cache.exists()


def test_a_folder_in_home_may_be_written_with_a_tilde(cache, monkeypatch, tmp_path):
    write_folder(tmp_path / "mnist", IDX)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    check_small(datasets.load_mnist("~/mnist"))
    monkeypatch.setenv("JAXNET_DATA_DIR", "~")
    check_small(datasets.load_mnist())


def test_without_normalize_bytes_stay_and_arrays_are_writable(cache, tmp_path):
    folder = write_folder(tmp_path / "mnist", IDX)
    (x_train, t_train), _ = datasets.load_mnist(folder, normalize=False, one_hot_label=True)
    assert x_train.dtype == np.uint8
    np.testing.assert_array_equal(x_train, ARRAYS[IMAGES].reshape(50, 12))
    np.testing.assert_array_equal(t_train, np.eye(10, dtype=np.float32)[ARRAYS[LABELS]])
    x_train += 1
    t_train += 1


def test_a_given_directory_is_the_only_place_looked_at(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    write_folder(tmp_path / "mnist", IDX)
    with Mirror(ARCHIVES) as mirror:
        use_mirrors(monkeypatch, mirror.url)
        folder = write_folder(tmp_path / "mine", {IMAGES: IDX[IMAGES], LABELS: IDX[LABELS]})
        with pytest.raises(FileNotFoundError) as error:
            datasets.load_mnist(folder)
        assert f"{folder} holds no t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte" in message_of(error)
        with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
            datasets.load_mnist(tmp_path / "nowhere")
        assert mirror.asked == []


BAD_IMAGES = {
    "truncated gzip": (".gz", ARCHIVES[f"{IMAGES}.gz"][:-20], r"expected a whole gzip archive.*cut short"),
    "gzip header only": (".gz", b"\x1f\x8b", r"expected a whole gzip archive.*cut short"),
    "flipped in the archive": (
        ".gz",
        flip(ARCHIVES[f"{IMAGES}.gz"], 300),
        r"expected a whole gzip .*damaged",
    ),
    "other compression": (".gz", b"\x1f\x8b\x07" + bytes(40), r"expected a whole gzip .*damaged"),
    "flipped pixel": (
        "",
        flip(IDX[IMAGES], 100),
        r"expected sha256 [0-9a-f]{64} of the decompressed bytes, got",
    ),
    "wrong magic": ("", IDX[LABELS], "expected the IDX magic number 0x00000803, got 0x00000801"),
    "floats": ("", b"\0\0\x0d\x03" + IDX[IMAGES][4:], "magic number 0x00000803, got 0x00000d03"),
    "a web page": ("", b"<html>not found</html>", "expected the IDX magic number 0x00000803, got 0x3c68746d"),
    "empty": ("", b"", "magic number 0x00000803, got a file of 0 bytes"),
    "half a header": ("", IDX[IMAGES][:10], "expected an IDX header of 16 bytes, got 10 bytes"),
    "wrong count": (
        "",
        struct.pack(">4I", 0x803, 49, 4, 3) + IDX[IMAGES][16:-12],
        "expected 50 x 4 x 3 images, its header says 49 x 4 x 3 images",
    ),
    "too short": ("", IDX[IMAGES][:-1], "expected 616 bytes for 50 x 4 x 3 images, got 615"),
    "too long": ("", IDX[IMAGES] + b"x", "expected 616 bytes for 50 x 4 x 3 images, got 617"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_file_of_the_user_is_named_and_left_alone(cache, monkeypatch, tmp_path, case):
    suffix, content, expected = BAD_IMAGES[case]
    files = {name: data for name, data in IDX.items() if name != IMAGES}
    folder = write_folder(tmp_path / "mnist", files | {IMAGES + suffix: content})
    with pytest.raises(ValueError, match=expected) as error:
        datasets.load_mnist(folder)
    assert message_of(error).startswith(f"{folder / IMAGES}{suffix}: ")
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=expected):
        datasets.load_mnist()
    assert (folder / f"{IMAGES}{suffix}").read_bytes() == content


def test_fashion_files_of_the_user_are_checked_by_their_form(cache, tmp_path):
    changed = IDX | {IMAGES: flip(IDX[IMAGES], 100)}
    (x_train, _), _ = datasets.load_fashion_mnist(write_folder(tmp_path / "changed", changed))
    assert x_train.shape == (50, 12)
    for k, wrong in ((1, "train-labels-idx1-ubyte"), (3, "t10k-labels-idx1-ubyte")):
        bad = IDX | {NAMES[k]: IDX[NAMES[k]][:-1] + b"\x0b"}
        row = len(ARRAYS[NAMES[k]]) - 1
        with pytest.raises(ValueError, match=f"{wrong}: expected labels 0 to 9, got 11 in row {row}"):
            datasets.load_fashion_mnist(write_folder(tmp_path / wrong, bad))


def test_published_sizes_are_the_real_ones():
    for name in ("mnist", "fashion-mnist"):
        shapes = [file.shape for file in published.SOURCES[name].files]
        assert shapes == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
        assert len(datasets.CLASS_NAMES[name]) == 10


def test_read_idx_reads_any_sizes_and_checks_what_it_is_asked_to(tmp_path):
    path = tmp_path / "some"
    path.write_bytes(IDX[IMAGES])
    array = datasets.read_idx(path, sha256=sha256(IDX[IMAGES]))
    assert (array.dtype, array.flags.writeable) == (np.uint8, False)
    np.testing.assert_array_equal(array, ARRAYS[IMAGES])
    path.write_bytes(struct.pack(">2I", 0x801, 0))
    assert datasets.read_idx(str(path)).shape == (0,)
    path.write_bytes(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ValueError, match="expected 79228162458924105385300197391 bytes"):
        datasets.read_idx(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="0x00000801 or 0x00000803, got 0x47494638"):
        datasets.read_idx(path)
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        datasets.read_idx(tmp_path / "no-such-file")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_download_happens_once(cache, monkeypatch, name, capfd):
    with Mirror(ARCHIVES) as mirror:
        use_mirrors(monkeypatch, mirror.url)
        check_small(datasets.load(name))
        assert mirror.asked == [f"{n}.gz" for n in NAMES]
        check_small(datasets.load(name))
        assert len(mirror.asked) == 4
    check_small(datasets.load(name))  # and needs no mirror any more
    assert sorted(p.name for p in (cache / name).iterdir()) == sorted(ARCHIVES)
    assert capfd.readouterr() == ("", "")


def replaced(content):
    return dict.fromkeys(ARCHIVES, content)


BAD_MIRRORS = {
    "404": ({}, "HTTP 404"),
    "503": (replaced(503), "HTTP 503"),
    "garbage": (replaced(b"<html>log in first</html>"), "got 0x3c68746d"),
    "empty": (replaced(b""), "a file of 0 bytes"),
    "truncated": ({n: a[:-9] for n, a in ARCHIVES.items()}, "cut short"),
    "flipped byte": ({n: flip(a, len(a) - 1) for n, a in ARCHIVES.items()}, "damaged"),
}


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("case", BAD_MIRRORS)
def test_a_bad_mirror_is_followed_by_the_next(cache, monkeypatch, case, name):
    files, reason = BAD_MIRRORS[case]
    with Mirror(files) as bad, Mirror(ARCHIVES) as good:
        use_mirrors(monkeypatch, bad.url)
        with pytest.raises(FileNotFoundError) as error:
            datasets.load(name)
        text = message_of(error)
        assert f"{bad.url} (" in text
        assert reason in text
        assert not list((cache / name).iterdir())  # nothing half or wrong stays
        bad.asked.clear()
        use_mirrors(monkeypatch, bad.url, good.url)
        check_small(datasets.load(name))
        assert bad.asked == [f"{IMAGES}.gz"]  # a mirror that failed is not waited for again
        assert len(good.asked) == 4


def test_a_mirror_that_breaks_off_or_hangs_is_followed_by_the_next(cache, monkeypatch, dead_url):
    monkeypatch.setattr(published, "_CONNECT_READ_TIMEOUT_S", (1.0, 0.2))
    with Mirror(ARCHIVES, stall=True) as hung, Mirror(ARCHIVES) as good:
        use_mirrors(monkeypatch, dead_url, hung.url, good.url)
        check_small(datasets.load_mnist())
        assert len(hung.asked) == 1
        assert len(good.asked) == 4


def test_recompressed_archives_of_a_mirror_load_where_the_data_are_checked(cache, monkeypatch):
    recompressed = {f"{n}.gz": gzip.compress(data, 1, mtime=5) for n, data in IDX.items()}
    with Mirror(recompressed) as mirror:
        use_mirrors(monkeypatch, mirror.url)
        check_small(datasets.load_mnist())
        with pytest.raises(FileNotFoundError, match=r"expected sha256 [0-9a-f]{64} of the archive"):
            datasets.load_fashion_mnist()


def test_only_what_is_missing_or_damaged_in_the_cache_is_fetched(cache, monkeypatch):
    for name in ("mnist", "fashion-mnist"):
        damaged = gzip.compress(flip(IDX[IMAGES], 100))
        kept = {LABELS + ".gz": ARCHIVES[LABELS + ".gz"]}
        folder = write_folder(cache / name, {f"{IMAGES}.gz": damaged} | kept)
        with Mirror(ARCHIVES) as mirror:
            use_mirrors(monkeypatch, mirror.url)
            check_small(datasets.load(name))
            assert mirror.asked == [f"{n}.gz" for n in NAMES if n != LABELS]
        assert (folder / f"{IMAGES}.gz").read_bytes() == ARCHIVES[f"{IMAGES}.gz"]


def test_a_damaged_cache_without_a_mirror_says_so(cache, monkeypatch, dead_url):
    use_mirrors(monkeypatch, dead_url)
    write_folder(cache / "mnist", ARCHIVES | {f"{IMAGES}.gz": b"rubbish"})
    with pytest.raises(FileNotFoundError, match=r"cached copy, now removed .*magic number") as error:
        datasets.load_mnist()
    assert f"{dead_url} (ConnectionError)" in message_of(error)


def test_offline_without_data_is_one_clear_sentence(cache, monkeypatch, tmp_path, dead_url):
    with Mirror({}) as empty:
        use_mirrors(monkeypatch, dead_url, empty.url)
        with pytest.raises(FileNotFoundError) as error:
            datasets.load_mnist()
    text = message_of(error)
    for part in (
        "mnist: ",
        "JAXNET_DATA_DIR is not set",
        f"{cache / 'mnist'} holds no good {IMAGES}.gz",
        f"{dead_url} (ConnectionError), {empty.url} (HTTP 404)",
        "directory=",
        *NAMES,
    ):
        assert part in text
    monkeypatch.setenv("JAXNET_DATA_DIR", str(tmp_path))
    write_folder(tmp_path / "mnist", {IMAGES: IDX[IMAGES], LABELS: IDX[LABELS], NAMES[2]: IDX[NAMES[2]]})
    use_mirrors(monkeypatch)
    with pytest.raises(FileNotFoundError) as error:
        datasets.load_mnist()
    assert f"{tmp_path / 'mnist'} holds no {NAMES[3]} (with or without .gz)" in message_of(error)
    assert "no mirror is known" in message_of(error)


def test_a_cache_that_cannot_be_written_is_named(cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    with Mirror(ARCHIVES) as mirror:
        use_mirrors(monkeypatch, mirror.url)
        with pytest.raises(FileNotFoundError) as error:
            datasets.load_mnist()
        assert str(cache) in message_of(error)
        assert mirror.asked == []


def test_the_log_level_of_pooch_is_put_back(cache, monkeypatch, dead_url):
    import pooch

    use_mirrors(monkeypatch, dead_url)
    logger = pooch.get_logger()
    monkeypatch.setattr(logger, "level", logging.ERROR)
    with pytest.raises(FileNotFoundError):
        datasets.load_mnist()
    assert logger.level == logging.ERROR


def test_the_cache_is_the_users_folder_for_jaxnet():
    assert published._cache_folder("mnist").parts[-2:] == ("jaxnet", "mnist") or sys.platform == "win32"


def test_ctrl_c_in_a_download_leaves_no_half_file(tmp_path, start):
    program = (
        "import sys, pathlib; from jaxnet.datasets import published as d\n"
        "d.SOURCES['mnist'] = d.SOURCES['mnist']._replace(mirrors=(sys.argv[1],))\n"
        "d._cache_folder = lambda name: pathlib.Path(sys.argv[2])\n"
        "d.load_mnist()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAXNET_DATA_DIR"} | {"NO_PROXY": "127.0.0.1"}
    with Mirror({f"{IMAGES}.gz": bytes(1 << 20)}, stall=True) as mirror:
        command = [sys.executable, "-c", program, mirror.url, str(tmp_path / "cache")]
        process = start(command, env=environment)
        give_up = time.monotonic() + 30
        while not any(p.stat().st_size for p in (tmp_path / "cache").glob("*")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < give_up
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_gzip_that_would_fill_the_memory_is_refused_at_once(tmp_path):
    start = time.perf_counter()

    def flushed(data):
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)

    zeros = flushed(bytes(2**20)) * 4096  # 4 GB in 4 MB
    images = gzip.compress(b"")[:10] + flushed(struct.pack(">4I", 0x803, 4096, 1024, 1024)) + zeros
    (tmp_path / "images.gz").write_bytes(images)
    with pytest.raises(ValueError, match=r"images.gz: expected data, got \d+ bytes .* unpack to 4294967312"):
        datasets.read_idx(tmp_path / "images.gz")
    (tmp_path / "long.gz").write_bytes(images[:10] + flushed(IDX[IMAGES]) + zeros)
    with pytest.raises(ValueError, match="expected 616 bytes for 50 x 4 x 3 images, got more"):
        datasets.read_idx(tmp_path / "long.gz")
    assert time.perf_counter() - start < 2


def test_load_takes_a_name_or_a_path(cache, tmp_path):
    folder = write_folder(tmp_path / "files", IDX)
    check_small(datasets.load("mnist", folder))
    check_small(datasets.load("fashion-mnist", directory=folder))
    (x_train, t_train), _ = datasets.load("digits", normalize=False, one_hot_label=True)
    assert (x_train.dtype, t_train.shape) == (np.uint8, (1437, 10))
