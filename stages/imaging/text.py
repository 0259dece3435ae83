"""Burned-in text: does a picture carry letters that somebody wrote into its pixels (a name, a date, a hospital)?

A warning for a person who then looks, and no de-identification: nothing is removed, and a picture without a warning may
still carry a name. It looks for five or more letter-like parts of one height in a level row, brighter or darker than what
surrounds them. It misses, by construction: words under five letters ("R", "LT", "Lee"), letters under about 8 px, upright
or slanted lines, handwriting, scripts whose letters join (Arabic, Devanagari), letters that fuse with each other or with what
lies under them, and letters that differ little from the background.

`make bench` draws lines where they can be seen, saves them as JPEG and counts what is found (`reports/bench.md`): most from 12 px on in
dermoscopic images of 200 x 150 px, and about half on brain MRI, which has edges and labels of its own under the text.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

LONGEST = 1000  # px; a larger picture is reduced by a whole factor first
STEP = 36  # least difference between neighbours at the edge of a letter, of 255
CONTRAST = 32  # least difference between a letter and the mean of the 31 x 31 px around it, of 255
MIN_EDGES = 60  # pixels: fewer edges than in a small word
LETTERS = 5  # letters that make a word
MAX_PARTS = 5000  # more is texture
HEIGHTS = (5, 80)  # px of a letter


def burned_in_text(picture: Image.Image, grey: Image.Image | None = None) -> bool:
    """Whether an RGB picture of any size shows a row of letters.

    Luminance is looked at, and in a coloured picture blue too, for there yellow letters stand out from skin. Most dermoscopic
    images are done after counting edges. `grey`: its luminance, if it is at hand.
    """
    if max(picture.size) > LONGEST:
        picture, grey = picture.reduce(-(-max(picture.size) // LONGEST)), None
    red, blue = (np.asarray(picture.getchannel(band)) for band in "RB")
    planes = [np.asarray(grey or picture.convert("L")), *([] if np.array_equal(red, blue) else [blue])]
    return any(_has_word(plane) for plane in planes)


def _has_word(plane: NDArray[np.uint8]) -> bool:
    left, right = plane[:, :-1], plane[:, 1:]
    edges = np.maximum(left, right) - np.minimum(left, right) > STEP
    if np.count_nonzero(edges) < MIN_EDGES:
        return False
    rows = np.flatnonzero(np.count_nonzero(edges, axis=1) >= LETTERS)  # a row of pixels through a word meets an edge in each letter
    if rows.size < HEIGHTS[0]:
        return False
    band = plane[max(rows[0] - 12, 0) : rows[-1] + 13]
    around = np.asarray(Image.fromarray(band).filter(ImageFilter.BoxBlur(15))).astype(np.int16)
    return _row_of_letters(band > around + CONTRAST) or _row_of_letters(band < around - CONTRAST)


def _row_of_letters(mask: NDArray[np.bool_]) -> bool:
    """Whether among the connected parts of `mask` (H, W) enough stand beside each other like letters of a word."""
    from scipy import ndimage  # here, for it takes longer to load than a hundred images, and only a process that looks for text needs it
    from scipy.sparse.csgraph import connected_components

    labels, count = ndimage.label(mask)
    if not LETTERS <= count <= MAX_PARTS:
        return False
    boxes = np.array([(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels)])
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    filled = np.bincount(labels.ravel(), minlength=count + 1)[1:] / (height * width)
    # Small letters fuse, so a part may be several letters wide; "l" and "1" are narrow.
    letter = (height >= HEIGHTS[0]) & (height <= HEIGHTS[1]) & (width <= 4 * height) & (8 * width >= height) & (filled > 0.15)
    if np.count_nonzero(letter) < LETTERS:
        return False
    (_, bottom, left, right), height, width, filled = boxes[letter].T, height[letter], width[letter], filled[letter]
    tall, short = np.maximum(height[:, None], height), np.minimum(height[:, None], height)
    level = (np.abs(bottom[:, None] - bottom) <= np.maximum(1, 0.15 * tall)) & (tall <= 1.6 * short)
    gap = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)
    beside = (gap <= 0.8 * tall) & (gap >= -0.2 * tall)
    neighbours = level & beside
    if np.count_nonzero(neighbours) < 2 * (LETTERS - 1):  # each pair counts twice; most pictures without text end here
        return False
    word = connected_components(neighbours, directed=False)[1]
    for number in np.flatnonzero(np.bincount(word) >= LETTERS):
        own = word == number
        # The ticks of a ruler are full and narrow; most letters are neither.
        shaped = np.count_nonzero((filled[own] < 0.8) & (width[own] >= 0.35 * height[own]))
        if shaped >= LETTERS - 1 and right[own].max() - left[own].min() >= 2.5 * np.median(height[own]):
            return True
    return False
