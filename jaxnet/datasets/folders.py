"""Folders of images by class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet import _extras
from jaxnet.datasets.arrays import Array, Split, StrPath, class_targets, scaled
from jaxnet.datasets.images import read_image
from jaxnet.datasets.splits import four_to_one


def load_images(folder: StrPath, *, normalize: bool = True, one_hot_label: bool = False) -> Split:
    """Load a folder that has one of images for each class (needs Pillow, extra `[images]`).

    The classes are numbered in the alphabetical order of their folders: `class_names` says which. x is [n,
    rows · columns] of grey images and [n, rows · columns · 3] of coloured ones: float32 in 0..1, or uint8
    without `normalize`. A folder that has only `train` and `test`, each with one for each class, says which
    images are which; else a fixed shuffle puts four fifths in train.

    Raises ValueError (no classes or images, a file that is no image of 8 bits, images of different sizes) and
    ImportError without Pillow; each message names the file.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat/0", "cat/1", "dog/0"):
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (4, 4)).save(f"{folder}/{name}.png")
    ...     (x_train, t_train), (x_test, t_test) = load_images(folder)
    >>> x_train.shape, x_test.shape
    ((2, 48), (1, 48))
    """
    _extras.require("PIL.Image", "folders of images need", "images")
    parts, names = image_folders(Path(folder).expanduser())
    first: tuple[Path, tuple[int, ...]] | None = None
    found: dict[Path, tuple[list[Array], list[int]]]
    first, found = None, {part: ([], []) for part in parts}
    for part, label, path, image in images_of(folder):
        first = first or (path, image.shape)
        if image.shape != first[1]:
            expected, got = _shape(first[1]), _shape(image.shape)
            raise ValueError(f"{path}: expected {expected}, as {first[0].name} has, got {got}")
        images, labels = found[part]
        images.append(image.reshape(-1))
        labels.append(label)
    examples = []
    for images, labels in found.values():
        x = scaled(np.stack(images), 255, normalize)
        examples.append((x, class_targets(np.array(labels), len(names), one_hot_label)))
    return (examples[0], examples[1]) if len(examples) == 2 else four_to_one(*examples[0], folder)


def images_of(folder: StrPath) -> Iterator[tuple[Path, int, Path, Array]]:
    """Yield each image of a folder by class: its part, that folder or one in it, label, path and bytes."""
    parts, names = image_folders(Path(folder).expanduser())
    for part in parts:
        count = 0
        for label, name in enumerate(names):
            for path in sorted((part / name).iterdir()) if (part / name).is_dir() else ():
                if not path.name.startswith("."):
                    count += 1
                    image = read_image(path)
                    if image.dtype != np.uint8:
                        raise ValueError(f"{path}: expected an image of 8 bits, got one of {image.dtype}")
                    yield part, label, path, image
        if not count:
            raise ValueError(f"{part}: expected images in the folders of its classes, got none")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + (" grey" if len(shape) == 2 else "") + " pixels"


def image_folders(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the folder, or those of train and test in it, and the names of the classes."""

    def folders(path: Path) -> list[str]:
        return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))

    found = folders(folder)
    parts = [folder / "train", folder / "test"] if found == ["test", "train"] else [folder]
    names = folders(parts[0])
    if len(names) < 2:
        raise ValueError(f"{parts[0]}: expected a folder for each class, got {', '.join(names) or 'none'}")
    if unknown := sorted(set(folders(parts[-1])) - set(names)):
        raise ValueError(f"{parts[-1]}: expected the classes of train, {', '.join(names)}, got {unknown[0]}")
    return parts, names
