"""One's own arrays in npz files."""

import io
import struct
import time
import zipfile

import numpy as np
import pytest
from helpers import flip, message_of

from jaxnet import datasets

RNG = np.random.default_rng(7)


def mine(**changes):
    """Good arrays for an npz file, with changes; None leaves one out."""
    arrays = {
        "x_train": RNG.random((6, 2, 2)),
        "t_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": RNG.random((3, 2, 2)),
        "t_test": np.array([2, 1, 3]),
    }
    return {name: a for name, a in (arrays | changes).items() if a is not None}


def test_npz_with_test_arrays(tmp_path):
    arrays = mine()
    np.savez(tmp_path / "mine.npz", **arrays)
    (x_train, t_train), (x_test, t_test) = datasets.load_npz(tmp_path / "mine.npz")
    np.testing.assert_array_equal(x_train, arrays["x_train"].reshape(6, 4).astype(np.float32))
    np.testing.assert_array_equal(x_test, arrays["x_test"].reshape(3, 4).astype(np.float32))
    assert {x_train.dtype, x_test.dtype} == {np.dtype(np.float32)}
    assert {t_train.dtype, t_test.dtype} == {np.dtype(np.int32)}
    assert t_test.tolist() == [2, 1, 3]
    _, (_, one_hot) = datasets.load(tmp_path / "mine.npz", one_hot_label=True)
    np.testing.assert_array_equal(
        one_hot, np.eye(4, dtype=np.float32)[[2, 1, 3]]
    )  # a label only in test counts


def test_arrays_that_are_not_used_are_named(tmp_path, caplog):
    arrays = mine(x_test=None, t_test=None)
    np.savez(tmp_path / "mine.npz", **arrays, x_tset=np.ones(2), t_tset=np.array("text"))
    datasets.load_npz(tmp_path / "mine.npz")
    assert caplog.messages == [f"{tmp_path / 'mine.npz'}: not used: x_tset, t_tset"]


@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_labels_that_are_whole_numbers_of_another_type(tmp_path, dtype, shape):
    labels = np.array([0, 1, 1, 0, 1, 0])
    np.savez(tmp_path / "mine.npz", **mine(t_train=labels.reshape(shape).astype(dtype)))
    (_, t_train), _ = datasets.load_npz(tmp_path / "mine.npz")
    assert t_train.dtype == np.int32
    np.testing.assert_array_equal(t_train, labels)


@pytest.mark.parametrize("labels", [np.arange(200) % 100, np.arange(3000) % 1000, [0, 99] * 100])
def test_many_classes(tmp_path, labels):
    np.savez(tmp_path / "mine.npz", x_train=np.ones((len(labels), 2)), t_train=labels)
    (_, t_train), (_, t_test) = datasets.load_npz(tmp_path / "mine.npz")
    np.testing.assert_array_equal(np.sort([*t_train, *t_test]), np.sort(labels))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_keras_has_it(tmp_path, save):
    images = RNG.integers(0, 256, (5, 3, 3), dtype=np.uint8)
    save(
        tmp_path / "k.npz",
        x_train=images,
        y_train=np.arange(5, dtype=np.uint8)[:, None],
        x_test=images,
        y_test=np.arange(5, dtype=np.uint8),
    )
    (x_train, t_train), (_, t_test) = datasets.load_npz(str(tmp_path / "k.npz"))
    np.testing.assert_array_equal(x_train, images.reshape(5, 9).astype(np.float32) / np.float32(255))
    assert t_train.tolist() == t_test.tolist() == [0, 1, 2, 3, 4]
    (raw, _), _ = datasets.load_npz(tmp_path / "k.npz", normalize=False)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, images.reshape(5, 9))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 101])
def test_npz_without_test_arrays_is_split_always_alike(tmp_path, n):
    x, t = np.arange(n)[:, None] * [1, 10], np.arange(n)
    np.savez(tmp_path / "m.npz", x_train=x, t_train=np.eye(n)[t])
    (x_train, t_train), (x_test, t_test) = datasets.load_npz(tmp_path / "m.npz")
    assert (len(x_train), len(x_test)) == (n * 4 // 5, n - n * 4 // 5)
    assert sorted([*t_train, *t_test]) == list(range(n))
    np.testing.assert_array_equal(x_train, x[t_train])
    np.testing.assert_array_equal(x_test, x[t_test])
    np.testing.assert_array_equal(datasets.load_npz(tmp_path / "m.npz")[0][1], t_train)
    if n == 10:
        assert t_test.tolist() == [0, 5]  # RandomState(0).permutation(10) ends so, in every version of NumPy


ONE_HOT = np.eye(3)[[0, 1, 2, 0, 1, 2]]
BAD_ARRAYS = {
    "no t_train": (mine(t_train=None), ValueError, "expected t_train, got only x_train, x_test, t_test"),
    "nothing": ({}, ValueError, "expected x_train and t_train, got only nothing"),
    "others": ({"a": np.ones(2)}, ValueError, "expected x_train and t_train, got only a"),
    "no t_test": (mine(t_test=None), ValueError, "expected t_test, got only"),
    "no x_test": (mine(x_test=None), ValueError, "expected x_test, got only"),
    "t and y": (mine(y_train=np.arange(6)), ValueError, "expected t_train or y_train, got both"),
    "short t": (mine(t_train=np.arange(5)), ValueError, "expected t_train as long as x_train, 6 rows, got 5"),
    "long t_test": (mine(t_test=np.arange(5)), ValueError, "t_test as long as x_test, 3 rows, got 5"),
    "no rows": (mine(x_train=np.ones((0, 4))), ValueError, r"x_train: .*not empty, got shape \(0, 4\)"),
    "no columns": (mine(x_test=np.ones((3, 0))), ValueError, r"x_test: .*not empty, got shape \(3, 0\)"),
    "scalar x": (mine(x_train=np.float32(1)), ValueError, r"x_train: .*got shape \(\)"),
    "no labels": (mine(t_train=np.ones(0, int)), ValueError, r"t_train: .*got shape \(0,\)"),
    "3-d labels": (mine(t_train=np.ones((6, 1, 1), int)), ValueError, r"t_train: .*got shape \(6, 1, 1\)"),
    "one row": (
        mine(x_train=np.ones((1, 4)), t_train=np.zeros(1, int), x_test=None, t_test=None),
        ValueError,
        "expected 2 rows or more to split into train and test, got 1",
    ),
    "NaN": (
        mine(x_train=np.where(np.arange(24).reshape(6, 4) % 9 == 8, np.nan, 1)),
        ValueError,
        "x_train: expected finite float32 numbers, got 2 NaN or infinite, in 2 rows, the first in row 2",
    ),
    "infinity": (
        mine(x_test=np.full((3, 4), -np.inf)),
        ValueError,
        "x_test: .*got 12 .* in 3 rows, the first in row 0",
    ),
    "too large": (
        mine(x_train=np.full((6, 4), 1e300)),
        ValueError,
        "x_train: expected finite float32 numbers, got 24",
    ),
    "text": (mine(x_train=np.full((6, 4), "a")), TypeError, "x_train: expected real numbers, got <U1"),
    "complex": (
        mine(x_train=np.full((6, 4), 1j)),
        TypeError,
        "x_train: expected real numbers, got complex128",
    ),
    "float labels": (
        mine(t_train=np.arange(6) / 2),
        TypeError,
        r"t_train: expected integer .*got float64 \(6,\); number .*, or, for a regression, load with task=",
    ),
    "NaN labels": (mine(t_train=np.full(6, np.nan)), TypeError, "t_train: expected integer .*got float64"),
    "labels from 1": (
        mine(t_train=np.array([1, 2, 3, 1, 2, 3]), t_test=np.array([1, 2, 4])),
        ValueError,
        "t_train: expected labels from 0, got 1 to 4: subtract 1 from each",
    ),
    "prices": (
        mine(t_train=np.array([15000, 448440, 25900, 31800, 25900, 15000])),
        ValueError,
        "t_train: expected labels 0, 1, 2 .*, got 7 different ones from 1 to 448440 in 9 rows; number the "
        r"classes that occur, as np.unique\(t, return_inverse=True\)\[1\] does, or, for a regression, ",
    ),
    "IDs": (
        {"x_train": np.ones((300, 2)), "t_train": np.arange(300)},
        ValueError,
        "got 300 different ones from 0 to 299 in 300 rows",
    ),
    "text labels": (mine(t_train=np.full(6, "a")), TypeError, "t_train: expected integer labels.* got <U1"),
    "text rows": (
        mine(t_train=np.full((6, 2), "a")),
        TypeError,
        "t_train: expected integer labels.* got <U1",
    ),
    "negative": (
        mine(t_train=np.array([0, 1, -1, 0, -2, 0])),
        ValueError,
        "t_train: .*from 0 .*got -2 in row 4",
    ),
    "negative in test": (
        mine(t_test=np.array([0, -1, 0])),
        ValueError,
        "t_test: expected labels .*got -1 in row 1",
    ),
    "huge": (mine(t_test=np.array([0, 2**40, 0])), ValueError, "t_test: .*got 1099511627776 in row 1"),
    "empty row": (
        mine(t_train=ONE_HOT * [1, 1, 0]),
        ValueError,
        r"one-hot rows.*got \[0.0, 0.0, 0.0\] in row 2",
    ),
    "two ones": (
        mine(t_train=ONE_HOT + [0, 0, 1] * (ONE_HOT == 0)),
        ValueError,
        r"got \[1.0, 0.0, 1.0\] in row 0",
    ),
    "soft rows": (mine(t_train=np.full((6, 2), 0.5)), ValueError, r"t_train: .*got \[0.5, 0.5\] in row 0"),
    "NaN row": (mine(t_train=np.full((6, 2), np.nan)), ValueError, r"t_train: .*got \[nan, nan\] in row 0"),
    "features": (
        mine(x_test=np.ones((3, 5))),
        ValueError,
        "expected x_test with the 4 features of x_train, got 5",
    ),
    "scales": (
        mine(x_test=np.ones((3, 4), np.uint8)),
        TypeError,
        "both uint8 or neither, got float64 and uint8",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_in_an_npz_file_are_named(tmp_path, case):
    arrays, kind, expected = BAD_ARRAYS[case]
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(kind, match=expected) as error:
        datasets.load_npz(path)
    assert message_of(error).startswith(str(path))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_npz_files_that_are_none(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **mine())
    good = path.read_bytes()
    np.save(tmp_path / "one.npy", np.ones(3))
    for content, expected in (
        (b"", "expected an npz file, got an empty file"),
        (b"x,y\n1,2\n", r"expected an npz file, got a file that starts with b'x,y\\n'"),
        ((tmp_path / "one.npy").read_bytes(), "expected an npz file, got a file that starts with"),
        (good[: len(good) // 2], "expected a whole npz file of plain arrays, got one that cannot be read"),
        (flip(good, 200), "expected a whole npz file of plain arrays, got one that cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=expected) as error:
            datasets.load_npz(path)
        assert message_of(error).startswith(f"{path}: ")
    np.savez(path, **mine(x_train=np.array([Bomb()], dtype=object)))
    with pytest.raises(ValueError, match=r"plain arrays, got one that cannot be read .*Object arrays"):
        datasets.load_npz(path)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        datasets.load_npz(tmp_path / "none.npz")


def test_an_npz_file_that_would_fill_the_memory_is_refused_at_once(tmp_path):
    start = time.perf_counter()
    np.savez_compressed(tmp_path / "mine.npz", **mine(x_train=np.zeros((6, 1000))))
    data = bytearray((tmp_path / "mine.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "mine.npz") as archive:
        entry = data.index(b"PK\x01\x02", archive.start_dir)
    assert data[entry + 46 :].startswith(b"x_train.npy")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)  # the size unpacked
    (tmp_path / "mine.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"mine.npz: x_train: expected data, .* unpack to 4294967294"):
        datasets.load_npz(tmp_path / "mine.npz")
    assert time.perf_counter() - start < 2


HEADERS = [
    *("[" * 90, "(" * 300 + ")" * 300, "{1: 2}", "\0"),
    *(
        f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"
        for descr, order, shape in [
            *(
                ("'<f4'", "False", shape)
                for shape in (
                    "(-5,)",
                    "(True,)",
                    "(2, 'a')",
                    "(10**9,)",
                    f"({10**13},)",
                    "(1" + 30 * "0" + ",)",
                )
            ),
            *(
                (descr, "False", "(5,)")
                for descr in ("'|O'", "'<M8[xx]'", "[(1, 2)]", "[()]", "{}", "('<f4', (3,))")
            ),
            ("'<f4'", "1", "(5,)"),
        ]
    ),
]


@pytest.mark.parametrize(
    "packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_of_any_kind_is_one_line(packing, tmp_path):
    path, rng = tmp_path / "mine.npz", np.random.default_rng(packing)

    def entry(header, data=b"abcd" * 10):
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header + b"\n" + data

    def packed(first):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", packing) as archive:
            archive.writestr("x_train.npy", first)
            archive.writestr(
                "t_train.npy", entry(b"{'descr': '<i4', 'fortran_order': False, 'shape': (5,)}", bytes(20))
            )
        return held.getvalue()

    good = entry(b"{'descr': '<f4', 'fortran_order': False, 'shape': (5, 2)}")
    damaged = [packed(entry(header.encode())) for header in HEADERS]
    for _ in range(150):
        header, whole = bytearray(good), bytearray(packed(good))
        header[rng.integers(len(header))] = rng.integers(256)
        whole[rng.integers(4, len(whole))] ^= 1 << int(rng.integers(8))
        damaged += [packed(bytes(header)), bytes(whole), packed(good)[: rng.integers(4, len(whole))]]
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            datasets.load_npz(path)  # some damage is none
        except (ValueError, TypeError, MemoryError) as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            assert error.__context__ is None or error.__suppress_context__
    assert refused > 0.7 * len(damaged)
