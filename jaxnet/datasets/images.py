"""Pictures of any kind as the inputs of a network."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from jaxnet import _extras

_Path = str | os.PathLike[str]
_LEAST_INK = 0.2  # of the darkest; what is fainter is background
_FINE = 4  # pixels of a picture for each of the input's, when looking for what is drawn


def read_image(source: Any) -> Num[np.ndarray, "rows columns *colours"]:
    """Return a picture, of a path or an open file, upright: [rows, columns] grey or [rows, columns, 3] RGB.

    Needs Pillow, extra `[images]`. What is transparent becomes white.

    Raises:
        ValueError: it is no picture.
        ImportError: Pillow is not installed.
    """
    pillow = _extras.require("PIL.Image", "pictures need", "images")
    operations = _extras.require("PIL.ImageOps", "pictures need", "images")
    try:
        with pillow.open(source) as image:
            image = operations.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                return np.asarray(image)
            if image.has_transparency_data:
                white = pillow.new("RGBA", image.size, "white")
                image = pillow.alpha_composite(white, image.convert("RGBA"))
                red, green, blue, _ = image.split()
                grey = red.tobytes() == green.tobytes() == blue.tobytes()
                return np.asarray(red if grey else image.convert("RGB"))
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError) as error:
        name = source if isinstance(source, (str, Path)) else "the input"
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        got = "a file of no known format" if unknown else " ".join(str(error).split())
        raise ValueError(f"{name}: expected a picture, got {got}") from None


def resized(
    image: Num[np.ndarray, "rows columns *colours"], side: int, *, colour: bool = False
) -> Float[np.ndarray, " inputs"]:
    """Return a picture of 8 bits, or of numbers from 0 to 1, as side · side (· 3 in colour) such numbers."""
    values = image / np.float32(255) if image.dtype.kind in "iu" else image.astype(np.float32)
    if colour:
        bands = np.moveaxis(values if values.ndim == 3 else np.stack([values] * 3, axis=2), 2, 0)
        return np.stack([_resize(band, (side, side)) for band in bands], axis=2).reshape(-1)
    return _resize(_grey(values), (side, side)).reshape(-1)


def centred(
    image: Num[np.ndarray, "rows columns *colours"], side: int = 28, box: int = 20
) -> Float[np.ndarray, " inputs"]:
    """Return what is drawn in a picture as the MNIST digits are: light on dark, of one size, in the middle.

    image: of any size, grey or RGB, dark on light or light on dark, on a background that may be grey, noisy
    and lighter on one side. Its background is the plane through its border, and what is drawn is what
    differs from that. It is cut out, scaled so that its longer side has `box` pixels, and put into a square
    of side · side with its centre of mass in the middle: the result has [side · side] numbers from 0 to 1.
    box=28 fills the square.

    Raises:
        ValueError: a picture that is no array [rows, columns] or [rows, columns, 3] of finite numbers, or on
            which there is nothing.
        ImportError: Pillow, of the extra `[images]`, is not installed.

    Source: LeCun, Bottou, Bengio and Haffner, *Gradient-based learning applied to document recognition*
    (1998), section III.A, for sizes and centre.

    >>> photo = np.full((300, 200), 180, np.uint8)
    >>> photo[40:160, 50:70] = 20  # a dark bar on grey paper
    >>> centred(photo).reshape(28, 28).sum(axis=0).nonzero()[0]
    array([13, 14, 15])
    """
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise ValueError(f"expected a picture [rows, columns] or [rows, columns, 3], got {list(image.shape)}")
    grey = _grey(image.astype(np.float32))
    if not np.isfinite(grey).all():
        raise ValueError("expected a picture of finite numbers, got NaN or infinity")
    for _ in range(2):  # the second time finer, where what is drawn is a small part of the picture
        shrunk = min(1.0, _FINE * side / max(grey.shape))
        rows, columns = (max(1, round(length * shrunk)) for length in grey.shape)
        ink = _ink(_resize(grey, (columns, rows)))
        where = [np.flatnonzero((ink > _LEAST_INK).any(axis=axis)) for axis in (1, 0)]
        (top, bottom), (left, right) = ((found[0], found[-1] + 1) for found in where)
        margin = max(bottom - top, right - left) / 4
        edges = [
            slice(max(0, int((low - margin) / shrunk)), int(np.ceil((high + margin) / shrunk)))
            for low, high in ((top, bottom), (left, right))
        ]
        grey = grey[edges[0], edges[1]]
    drawn = ink[top:bottom, left:right]
    scale = box / max(drawn.shape)
    height, width = (max(1, round(length * scale)) for length in drawn.shape)
    small = np.clip(_resize(drawn, (width, height)), 0, 1)
    field = np.zeros((side, side), np.float32)
    corner = []
    for axis, length in ((1, height), (0, width)):
        mass = small.sum(axis=axis)
        # Where MNIST has the centre of mass: in pixel 14 of 0 to 27.
        wanted = side / 2 + 0.5 - (mass * (np.arange(length) + 0.5)).sum() / mass.sum()
        start = (side - length) / 2 if box == side else wanted
        corner.append(int(np.clip(round(start), 0, side - length)))
    field[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = small
    return field.reshape(-1)


def _grey(values: Num[np.ndarray, "rows columns *colours"]) -> Float[np.ndarray, "rows columns"]:
    # What the eye sees of red, green and blue (ITU-R BT.601).
    return values if values.ndim == 2 else values @ np.array([0.299, 0.587, 0.114], np.float32)


def _resize(grey: Float[np.ndarray, "rows columns"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    pillow = _extras.require("PIL.Image", "pictures need", "images")
    # Pillow's widens the filter where it makes smaller, and so averages noise away.
    return np.asarray(pillow.fromarray(grey.astype(np.float32)).resize(size, pillow.Resampling.BILINEAR))


def _ink(grey: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Return how much each pixel differs from the background, 0 to 1."""
    rows, columns = (np.linspace(-1, 1, length) for length in grey.shape)
    plane = np.stack([np.ones_like(grey), *np.meshgrid(rows, columns, indexing="ij")], axis=2)
    width = max(1, min(grey.shape) // 25)
    border = np.ones(grey.shape, bool)
    border[width:-width, width:-width] = False
    level = np.median(grey[border])
    for _ in range(2):  # the second time without what of the drawing touches the border
        off = np.abs(grey - level)
        noise = 1.4826 * np.median(off[border])
        kept = border & (off <= 3 * noise)
        level = plane @ np.linalg.lstsq(plane[kept], grey[kept], rcond=None)[0]
    ink = grey - level
    ink = np.maximum(ink * np.sign((ink**3).sum()), 0)  # what is drawn is fewer and stronger than the noise
    peak = np.quantile(ink, 0.998)
    peak = np.median(ink[ink >= peak / 2])  # of a whole stroke, and not of its noisiest pixel
    if not peak > 1e-3 * max(1e-30, np.abs(grey).max()):
        raise ValueError("expected a picture with something on it, got one of a single colour")
    floor = min(0.6, max(_LEAST_INK, 5 * noise / peak))
    return np.where(ink < floor * peak, 0, np.clip(ink / peak, 0, 1)).astype(np.float32)
