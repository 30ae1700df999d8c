"""Stratified splits and folds, tables and folders of images."""

import sys
from importlib import import_module

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold, train_test_split

from jaxnet import datasets

LABELS = np.random.default_rng(0).choice(4, size=203, p=[0.6, 0.25, 0.1, 0.05])
X = np.arange(203.0)


def counts(labels):
    return np.bincount(labels, minlength=4).tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_stratified_split_has_the_classes_of_scikit_learns(fraction):
    held_out = round(203 * fraction)
    rest, chosen = datasets.split((X, LABELS), fraction, seed=3, stratify=LABELS)
    theirs = train_test_split(LABELS, test_size=held_out, stratify=LABELS, random_state=0)
    assert [counts(rest[1]), counts(chosen[1])] == [counts(t) for t in theirs]
    assert sorted(np.concatenate([rest[0], chosen[0]])) == X.tolist()
    for x, t in (rest, chosen):
        np.testing.assert_array_equal(LABELS[x.astype(int)], t)
    again = datasets.split((X, LABELS), fraction, seed=3, stratify=LABELS)
    np.testing.assert_array_equal(again[1][0], chosen[0])
    other = datasets.split((X, LABELS), fraction, seed=4, stratify=np.eye(4)[LABELS])
    assert counts(other[1][1]) == counts(chosen[1]) and set(other[1][0]) != set(chosen[0])


@pytest.mark.parametrize("stratify", [None, LABELS])
def test_folds_hold_every_example_out_once(stratify):
    folds = list(datasets.folds((X, LABELS), 5, seed=1, stratify=stratify))
    assert sorted(np.concatenate([held_out[0] for _, held_out in folds])) == X.tolist()
    assert sorted(len(held_out[0]) for _, held_out in folds) == [40, 40, 41, 41, 41]
    for train, held_out in folds:
        assert sorted(np.concatenate([train[0], held_out[0]])) == X.tolist()
        np.testing.assert_array_equal(LABELS[held_out[0].astype(int)], held_out[1])
    if stratify is not None:
        theirs = [counts(LABELS[rows]) for _, rows in StratifiedKFold(5).split(X, LABELS)]
        ours = [counts(held_out[1]) for _, held_out in folds]
        assert [sorted(of_class) for of_class in zip(*ours, strict=True)] == [
            sorted(of_class) for of_class in zip(*theirs, strict=True)
        ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.folds((X, X), 1), r"k must be in 2\.\.203, the number of examples, got 1"),
        (lambda: datasets.folds((X, X), 204), r"k must be in 2\.\.203, the number of examples, got 204"),
        (lambda: datasets.split((X, X), 0.2, stratify=LABELS[1:]), r"each of 203 examples, got \(202,\)"),
        (
            lambda: datasets.split((X, X), 0.2, stratify=X),
            "2 examples of each class or more, got 1 of class 0",
        ),
        (lambda: datasets.folds((X, X), 20, stratify=LABELS), r"20 examples .* or more, got \d+ of class 3"),
    ],
)
def test_bad_splits(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Tables


@pytest.fixture
def table(tmp_path):
    """A function that writes a .csv file, and the table that it writes by default."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.standard_normal((20, 3)), columns=["a", "b", "price"])
    frame["many"], frame["kind"] = range(20), ["dog", "cat", "eel", "cat"] * 5

    def write(content=frame):
        path = tmp_path / "mine.csv"
        path.write_text(content) if isinstance(content, str) else content.to_csv(path, index=False)
        return path

    return write, frame


def rows_of(split):
    """Return the rows of both parts together, x and t side by side, in their order."""
    (x, t), (x_test, t_test) = split
    assert (len(x), len(x_test)) == (16, 4) and x.dtype == np.float32
    rows = np.column_stack([np.concatenate([x, x_test]), np.concatenate([t, t_test])])
    return rows[np.argsort(rows[:, 3])]


def test_a_table_of_classes(table):
    write, frame = table
    split = datasets.load(write())
    labels = [["cat", "dog", "eel"].index(kind) for kind in frame["kind"]]
    expected = np.column_stack([frame[["a", "b", "price", "many"]], labels]).astype(np.float32)
    np.testing.assert_array_equal(rows_of(split), expected)
    assert split[0][1].dtype == np.int32
    assert datasets.class_names(write()) == ("cat", "dog", "eel") and datasets.input_scale(write()) == 1
    one_hot = datasets.load(write(), one_hot_label=True)
    np.testing.assert_array_equal(one_hot[0][1], np.eye(3)[split[0][1]])


def test_a_table_of_a_regression(table):
    write, frame = table
    split = datasets.load(write(frame[["price", "a", "b", "many"]]), target="price", task="regression")
    (x, t), _ = split
    assert x.shape == (16, 3) and t.dtype == np.float32
    by_row = dict(zip(frame["many"], frame["price"], strict=True))
    np.testing.assert_allclose(t, [by_row[int(row)] for row in x[:, 2]], rtol=1e-6)


@pytest.mark.parametrize(("outputs", "shape"), [((), (8,)), ((1,), (8,)), ((2,), (8, 2))])
def test_arrays_of_a_regression(outputs, shape, tmp_path):
    t = np.arange(10 * np.prod(outputs, dtype=int)).reshape(10, *outputs).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=np.arange(10.0)[:, None], t_train=t)
    (x, found), _ = datasets.load(tmp_path / "mine.npz", task="regression")
    assert (found.shape, found.dtype) == (shape, np.float32)
    np.testing.assert_array_equal(found, t[x[:, 0].astype(int)].reshape(shape))


def without(frame, column):
    return frame.assign(**{column: frame[column].where(frame["many"] != 7)})


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"target": "c"}, ValueError, r"a column 'c', got 'a', 'b', 'price', 'many', 'kind'"),
        (None, {"target": "a"}, TypeError, "numbers in all columns but 'a', the target, got text in 'kind'"),
        (None, {"task": "regression"}, TypeError, "mine.csv: kind: expected real numbers, got"),
        (None, {"task": "sorting"}, ValueError, "'classification' or 'regression', got 'sorting'"),
        (
            None,
            {"task": "regression", "one_hot_label": True},
            ValueError,
            "one_hot_label is of classes, got it with task 'regression'",
        ),
        (
            lambda f: f.assign(kind=np.arange(1000, 1020)),
            {},
            ValueError,
            "several examples each, got 20 different ones from 1000 to 1019 in 20 rows",
        ),
        (lambda f: without(f, "b"), {}, ValueError, "a value in each row, got none in row 7 of 'b'"),
        (lambda f: without(f, "kind"), {}, ValueError, "each row of the target, 'kind', got none in row 7"),
        (
            lambda f: f[["a", "price"]],
            {},
            TypeError,
            "price: expected classes, got 20 different float64; number",
        ),
        (
            lambda f: f[["a"]],
            {},
            ValueError,
            "expected two columns or more, parted by commas, and rows, got 20 of 'a'",
        ),
        (
            lambda f: f[["a", "kind"]][:1],
            {},
            ValueError,
            "2 rows or more to split into train and test, got 1",
        ),
        (lambda f: "", {}, ValueError, "comma-separated values, got what cannot be read"),
        (lambda f: "a,b\n1,2\n1,2,3\n", {}, ValueError, "comma-separated values, got what cannot be read"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_tables(change, options, error, message, table):
    write, frame = table
    path = write(frame if change is None else change(frame))
    with pytest.raises(error, match=message):
        datasets.load(path, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "digits",
            {"task": "regression"},
            "task 'regression' is of .npz and .csv files, got it with 'digits'",
        ),
        ("digits", {"target": "a"}, "target is of .csv files, got it with 'digits'"),
    ],
)
def test_what_a_dataset_does_not_take(name, options, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(name, **options)


# Images


@pytest.fixture
def pictures(tmp_path):
    """Write images into folders by their class; return the function and the folder."""

    def write(name, pixels, mode=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(path)

    return write, tmp_path


@pytest.mark.parametrize("colours", [(), (3,)], ids=["grey", "colour"])
def test_a_folder_of_images(colours, pictures):
    write, folder = pictures
    pixels = np.random.default_rng(0).integers(256, size=(10, 4, 3, *colours))
    for i, image in enumerate(pixels):
        write(f"{'cat' if i < 6 else 'dog'}/{i}.png", image)
    (folder / "cat" / ".hidden").write_text("")
    (x, t), (x_test, t_test) = datasets.load(folder, normalize=False)
    assert (x.shape, x.dtype, x_test.shape, t.dtype) == (
        (8, pixels[0].size),
        np.uint8,
        (2, x.shape[1]),
        np.int32,
    )
    found = {image.tobytes(): label for image, label in zip([*x, *x_test], [*t, *t_test], strict=True)}
    assert found == {np.uint8(image).tobytes(): int(i >= 6) for i, image in enumerate(pixels)}
    np.testing.assert_array_equal(datasets.load(folder)[0][0], np.float32(x) / np.float32(255))
    assert datasets.class_names(folder) == ("cat", "dog") and datasets.input_scale(folder) == 1 / 255


def test_a_folder_that_says_what_is_to_test(pictures):
    write, folder = pictures
    for name, shade in (("train/a/0", 1), ("train/a/1", 2), ("train/b/0", 3), ("test/b/0", 4)):
        write(f"{name}.png", np.full((2, 2), shade))
    (x, t), (x_test, t_test) = datasets.load(folder, normalize=False)
    assert (x[:, 0].tolist(), t.tolist()) == ([1, 2, 3], [0, 0, 1])
    assert (x_test[:, 0].tolist(), t_test.tolist()) == ([4], [1])


def test_bad_folders_of_images(pictures):
    write, folder = pictures
    write("a/0.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="expected a folder for each class, got a"):
        datasets.load(folder)
    write("b/0.png", np.zeros((2, 3)))
    with pytest.raises(
        ValueError, match=r"0\.png: expected 2 x 2 grey pixels, as 0.png has, got 2 x 3 grey pixels"
    ):
        datasets.load(folder)
    write("b/0.png", np.zeros((2, 2)), "RGB")
    with pytest.raises(ValueError, match=r"expected 2 x 2 grey pixels, as 0\.png has, got 2 x 2 x 3 pixels"):
        datasets.load(folder)
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(folder / "b" / "0.png")
    with pytest.raises(ValueError, match="expected an image of 8 bits, got one of uint16"):
        datasets.load(folder)
    (folder / "b" / "0.png").write_text("text")
    with pytest.raises(ValueError, match=r"0\.png: expected a picture, got a file of no known format"):
        datasets.load(folder)
    for path in (folder / "a" / "0.png", folder / "b" / "0.png"):
        path.unlink()
    with pytest.raises(ValueError, match="expected images in the folders of its classes, got none"):
        datasets.load(folder)
    write("train/a/0.png", np.zeros((2, 2)))
    for name in ("a", "b"):
        (folder / name).rmdir()
    write("train/b/0.png", np.zeros((2, 2)))
    write("test/c/0.png", np.zeros((2, 2)))
    with pytest.raises(ValueError, match="expected the classes of train, a, b, got c"):
        datasets.load(folder)


@pytest.mark.parametrize(
    ("module", "use", "message"),
    [
        ("pandas", datasets.load_csv, ".csv files need pandas: pip install 'jaxnet[tables]'"),
        ("PIL.Image", datasets.load_images, "folders of images need pillow: pip install 'jaxnet[images]'"),
        ("sklearn.base", None, "jaxnet.sklearn needs scikit-learn: pip install 'jaxnet[sklearn]'"),
    ],
)
def test_what_is_not_installed_names_its_extra(module, use, message, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "jaxnet.sklearn", raising=False)
    with pytest.raises(ImportError) as error:
        import_module("jaxnet.sklearn") if use is None else use(tmp_path)
    assert str(error.value) == message


def test_images_by_class_are_read_as_a_picture_to_predict_is(tmp_path):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = Image.fromarray(np.rot90(upright))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    for name in ("a/0.png", "b/0.png"):
        (tmp_path / name).parent.mkdir()
        turned.save(tmp_path / name, exif=exif)
    (x, _), (x_test, _) = datasets.load(tmp_path, normalize=False)
    assert x.tolist() == x_test.tolist() == [upright.ravel().tolist()]
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0, 0] = 0, 0, 0, 255
    for name in ("a/0.png", "b/0.png"):
        Image.fromarray(clear).save(tmp_path / name)
    (x, _), _ = datasets.load(tmp_path, normalize=False)
    assert x.tolist() == [[0, 255, 255, 255, 255, 255]]  # what is transparent is white
