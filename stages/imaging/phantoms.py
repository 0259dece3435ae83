"""Procedural dermoscopy phantoms: drawings with the classes, the long tail and the nuisances of HAM10000.

A lesion is drawn in two steps, so that several images can show the same lesion:

* `draw_lesion` samples what belongs to the lesion: 14 latent dermoscopic features from a Gaussian around
  its class mean (the classes overlap), its geometry, its skin and its patient's age, sex and site;
* `render` samples what belongs to one photograph (pose, light, hair, vignette, ruler, sensor noise)
  and paints the pixels. None of these nuisances depends on the class.

Colour follows absorption (Beer-Lambert): skin reflectance times exp(-melanin - haemoglobin), so lesions
look right on every skin tone. Every shape is an analytic function of lesion coordinates in units of half
the image side, hence independent of the resolution. The source and the parameters are frozen by a hash
(`tests/test_phantoms.py`): they are never tuned so that synthesis wins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

VERSION = 1
COMMON = ("akiec", "bcc", "bkl", "mel", "nv")
RARE = ("df", "vasc")
CLASSES = tuple(sorted(COMMON + RARE))
FEATURES = (
    "size", "asymmetry", "border", "melanin", "blood", "variegation", "network",
    "globules", "veil", "keratin", "vessels", "scale", "white_centre", "lacunae",
)  # fmt: skip
SEPARATION = 1.0  # class means are scaled by this; the frozen overlap of the classes
#: Class means of the latent features, in standard deviations (the noise has unit variance).
MEANS: dict[str, tuple[float, ...]] = {
    #         size  asym  bord  mela  bloo  vari  netw  glob  veil  kera  vess  scal  whit  lacu
    "nv":    (-0.3, -0.6, -0.5,  0.8, -0.8, -0.2,  1.6,  0.8, -0.8, -0.6, -0.7, -0.8, -0.8, -0.8),
    "mel":   ( 0.8,  1.2,  1.1,  1.6, -0.2,  1.4,  0.9,  0.8,  1.3, -0.5, -0.1, -0.6, -0.5, -0.4),
    "bkl":   ( 0.3,  0.0,  0.3,  0.9, -0.6,  0.4, -0.3, -0.2, -0.5,  1.9, -0.5,  0.3, -0.4, -0.7),
    "bcc":   ( 0.0,  0.3,  0.2, -0.6,  0.1,  0.0, -0.8,  0.4,  0.7, -0.4,  2.0, -0.2, -0.4, -0.1),
    "akiec": ( 0.2,  0.3,  0.4, -0.8,  0.9,  0.0, -0.8, -0.5, -0.8,  0.5,  0.1,  1.9, -0.3, -0.4),
    "vasc":  (-0.3, -0.5, -0.5, -1.0,  1.0,  0.2, -0.8, -0.5,  0.2, -0.6, -0.2, -0.5, -0.7,  2.1),
    "df":    (-0.6, -0.4, -0.3,  0.3, -0.2,  0.0,  0.9, -0.3, -0.7, -0.4, -0.4,  0.2,  2.1, -0.6),
}  # fmt: skip
SITES = ("back", "face", "lower leg", "trunk", "upper arm")
SEXES = ("female", "male")
#: Mean age and site odds differ a little between classes, as in HAM10000; skin tone never does.
AGES = {"nv": 44, "mel": 60, "bkl": 63, "bcc": 65, "akiec": 66, "vasc": 50, "df": 50}
SITE_ODDS: dict[str, tuple[float, ...]] = {
    "nv": (3, 1, 2, 3, 2), "mel": (3, 1, 2, 2, 2), "bkl": (2, 3, 2, 2, 1), "bcc": (2, 3, 1, 2, 1),
    "akiec": (1, 4, 2, 1, 2), "vasc": (2, 2, 2, 3, 1), "df": (1, 1, 4, 1, 3),
}  # fmt: skip
SKIN_TONES = ("very light", "light", "medium", "tan", "brown", "dark")
#: Reflectance of the six skin tones (linear in display RGB, 0..1), light to dark.
SKIN = np.array(
    [[0.93, 0.78, 0.70], [0.89, 0.71, 0.61], [0.82, 0.63, 0.51], [0.72, 0.52, 0.40], [0.57, 0.39, 0.29], [0.43, 0.28, 0.20]]
)
MELANIN = np.array([0.55, 0.95, 1.30])
BLOOD = np.array([0.22, 1.25, 1.05])
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Lesion:
    """One lesion: `latents` (14,) in standard deviations, patient attributes and a seed for its geometry."""

    label: str
    latents: Array
    age: int
    sex: str
    site: str
    skin_tone: str
    skin: Array = field(repr=False)
    seed: int = 0

    def amplitude(self, name: str) -> float:
        """Strength in 0..1 of a feature: a logistic of its latent."""
        return float(1 / (1 + np.exp(-1.7 * (self.latents[FEATURES.index(name)] - 0.4))))


@dataclass(frozen=True)
class Photograph:
    """One image: `pixels` (size, size, 3) uint8 RGB, `mask` (size, size) bool, `box` (x0, y0, x1, y1) px, hair count."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    hairs: int


def rng_for(*key: object) -> np.random.Generator:
    """A generator that depends on `key` alone, never on the order of calls or the number of processes."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def draw_lesion(label: str, rng: np.random.Generator, latents: Array | None = None) -> Lesion:
    """Sample one lesion of class `label`; `latents` (14,) overrides its features (for class-free drawings).

    Raises `KeyError` for a label outside `CLASSES`.
    """
    mean = np.array(MEANS[label])
    drawn = SEPARATION * mean + rng.standard_normal(len(FEATURES))
    tone = int(rng.choice(6, p=(0.2, 0.25, 0.2, 0.15, 0.1, 0.1)))
    # Between two neighbouring tones, so that skin is a continuum with a named level.
    skin = SKIN[tone] + rng.uniform(-0.5, 0.5) * (SKIN[min(tone + 1, 5)] - SKIN[max(tone - 1, 0)]) / 2
    odds = np.array(SITE_ODDS[label], float)
    age = int(np.clip(5 * round(rng.normal(AGES[label], 16) / 5), 5, 90))
    return Lesion(
        label=label,
        latents=drawn if latents is None else latents,
        age=age,
        sex=str(rng.choice(SEXES)),
        site=str(rng.choice(SITES, p=odds / odds.sum())),
        skin_tone=SKIN_TONES[tone],
        skin=skin + rng.normal(0, 0.012, 3),
        seed=int(rng.integers(2**62)),
    )


def class_free_lesion(rng: np.random.Generator) -> Lesion:
    """A lesion with features drawn uniformly, of no class: what the autoencoder may see."""
    return draw_lesion(str(rng.choice(COMMON)), rng, latents=rng.uniform(-1.5, 3.0, len(FEATURES)))


def _waves(x: Array, y: Array, rng: np.random.Generator, frequency: float, n: int = 4) -> Array:
    """A smooth random field of unit variance: `n` plane waves of about `frequency` cycles per unit."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, n))
    k = 2 * np.pi * frequency * rng.uniform(0.7, 1.3, n)
    total = np.zeros_like(x)
    for a, p, f in zip(angle, phase, k, strict=True):
        total += np.cos(float(f * np.cos(a)) * x + float(f * np.sin(a)) * y + float(p))
    return total * float(np.sqrt(2 / n))


def _soft(distance: Array, edge: float) -> Array:
    """1 inside (distance > 0), 0 outside, with a logistic edge of width `edge`."""
    return expit(distance / np.float32(edge))


def _spots(x: Array, y: Array, rng: np.random.Generator, n: int, reach: float, radius: tuple[float, float], edge: float) -> Array:
    """The union of `n` soft discs, scattered within `reach` of the origin; values 0..1."""
    r, a = reach * np.sqrt(rng.uniform(0, 1, n)), rng.uniform(0, 2 * np.pi, n)
    size = rng.uniform(*radius, n)
    nearest = np.full_like(x, np.inf)  # signed distance to the nearest disc
    for cx, cy, own in zip(r * np.cos(a), r * np.sin(a), size, strict=True):
        np.minimum(nearest, np.sqrt((x - float(cx)) ** 2 + (y - float(cy)) ** 2) - float(own), out=nearest)
    return _soft(-nearest, edge)


def _lines(field_: Array, width: float) -> Array:
    """Curves of about constant `width` (in pixels of the grid) along the zero level of a smooth field."""
    dy, dx = np.gradient(field_)
    return np.asarray(np.exp(-((field_ / (np.hypot(dx, dy) + 1e-3) / width) ** 2)))


def render(lesion: Lesion, rng: np.random.Generator, size: int = 64) -> Photograph:
    """Paint one photograph of `lesion`, `size` px square; about 5 ms at 64 px.

    `rng` decides what belongs to the photograph; the lesion's own seed decides its geometry.
    """
    amplitude = {name: lesion.amplitude(name) for name in FEATURES}
    # --- the photograph's pose: the lesion's coordinates (x, y) of every pixel
    grid = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    u, v = np.meshgrid(grid, grid)
    turn, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.12)
    shift_x, shift_y = rng.normal(0, 0.07, 2)
    x = zoom * ((u - shift_x) * np.cos(turn) + (v - shift_y) * np.sin(turn))
    y = zoom * (-(u - shift_x) * np.sin(turn) + (v - shift_y) * np.cos(turn))
    if rng.random() < 0.5:
        y = -y
    pixel = 2 / size  # width of a pixel in lesion units

    # --- the lesion's outline
    shape = rng_for("geometry", lesion.seed)
    radius = 0.40 + 0.30 * amplitude["size"]
    stretch = 1 + 0.55 * amplitude["asymmetry"] * shape.uniform(0.4, 1)
    px, py = x * np.sqrt(stretch), y / np.sqrt(stretch)
    theta, rho = np.arctan2(py, px), np.hypot(px, py)
    outline = np.full_like(x, radius)
    for k in range(2, 8):
        wobble = (0.10 * amplitude["asymmetry"] if k < 4 else 0.07 * amplitude["border"]) + 0.012
        outline += radius * wobble * shape.normal() * np.cos(k * theta + shape.uniform(0, 2 * np.pi))
    depth = outline - rho
    inside = _soft(depth, 0.02 + 0.05 * (1 - amplitude["border"]))

    # --- absorption: melanin and blood, patterned by the structures
    melanin = 0.10 + 1.15 * amplitude["melanin"]
    blood = 0.05 + 0.80 * amplitude["blood"]
    tint = _waves(x, y, shape, 0.9)
    melanin_map = melanin * (1 + 0.42 * amplitude["variegation"] * tint)
    warp_x, warp_y = 0.06 * _waves(x, y, shape, 0.8), 0.06 * _waves(x, y, shape, 0.8)
    pitch, lattice = shape.uniform(4.6, 5.6), shape.uniform(0, np.pi)
    honeycomb = sum(
        np.cos(2 * np.pi * pitch * ((x + warp_x) * np.cos(lattice + a) + (y + warp_y) * np.sin(lattice + a)))
        for a in (0, np.pi / 3, 2 * np.pi / 3)
    )
    # The honeycomb's holes are its peaks; the lines between them hold the pigment.
    melanin_map = melanin_map + 0.75 * amplitude["network"] * (_soft(-np.asarray(honeycomb), 0.5) - 0.35)
    dots = _spots(x, y, shape, 9, radius * 0.85, (0.035, 0.06), 0.012)
    melanin_map = melanin_map + 1.1 * amplitude["globules"] * dots
    vessels = _lines(_waves(x, y, shape, 0.8, 5), 1.0 * size / 64) * _soft(_waves(x, y, shape, 0.7) + 0.6, 0.3)
    lacunae = _spots(x, y, shape, int(shape.integers(6, 12)), radius * 0.75, (0.08, 0.17), 0.025)
    lacuna_tone = shape.uniform(0.0, 0.45)  # some are dark with thrombosed blood
    blood_map = blood + 1.5 * amplitude["lacunae"] * lacunae
    melanin_map = melanin_map * (1 - 0.7 * amplitude["lacunae"] * lacunae) + lacuna_tone * amplitude["lacunae"] * lacunae
    absorbed = np.clip(melanin_map, 0, None)[..., None] * MELANIN + np.clip(blood_map, 0, None)[..., None] * BLOOD
    skin_pattern = 1 + 0.03 * _waves(x, y, shape, 1.3) + 0.015 * _waves(x, y, shape, 5.0)
    image = lesion.skin * skin_pattern[..., None] * np.exp(-absorbed * inside[..., None])

    # --- what lies over the pigment: veil, keratin, scale, scar
    def cover(weight: Array, colour: tuple[float, float, float]) -> None:
        nonlocal image
        image = image + (weight * inside)[..., None] * (np.array(colour) - image)

    cover(0.75 * amplitude["veil"] * _soft(_waves(x, y, shape, 0.75) - 0.25, 0.25), (0.36, 0.43, 0.58))
    cysts = _spots(x, y, shape, 8, radius * 0.85, (0.03, 0.055), 0.012)
    cover(0.85 * amplitude["keratin"] * cysts, (0.95, 0.90, 0.72))
    plates = _soft(_waves(x, y, shape, 2.4, 5) - 0.55, 0.15)
    cover(0.75 * amplitude["scale"] * plates, (0.96, 0.92, 0.86))
    cover(0.90 * amplitude["vessels"] * vessels, (0.60, 0.10, 0.13))
    scar = _soft(radius * 0.50 * (1 + 0.25 * _waves(x, y, shape, 1.2)) - rho, 0.05)
    cover(0.80 * amplitude["white_centre"] * scar, (0.95, 0.88, 0.86))

    # --- the photograph: hair, light, vignette, ruler, sensor
    hairs = int(rng.choice(5, p=(0.55, 0.2, 0.13, 0.08, 0.04)))
    for _ in range(hairs):
        a, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8), rng.normal(0, 0.25)
        along, across = u * np.cos(a) + v * np.sin(a), -u * np.sin(a) + v * np.cos(a)
        gap = (across - offset - bend * along**2) / np.sqrt(1 + (2 * bend * along) ** 2)
        strand = np.exp(-((gap / (0.7 * pixel * size / 64)) ** 2)) * rng.uniform(0.5, 0.85)
        image = image * (1 - strand[..., None]) + strand[..., None] * np.array([0.16, 0.11, 0.08])
    gain = rng.normal(1, 0.05) * (1 + rng.normal(0, 0.02, 3))
    slope = 1 + rng.normal(0, 0.03) * u + rng.normal(0, 0.03) * v
    image = image * gain * slope[..., None]
    if rng.random() < 0.25:
        vignette = _soft(rng.uniform(1.05, 1.3) - np.hypot(u, v), 0.05)
        image = image * vignette[..., None] + 0.03 * (1 - vignette[..., None])
    if rng.random() < 0.12:
        ticks = ((np.abs(v - 0.93) < 0.05) & (np.cos(2 * np.pi * 4 * u + rng.uniform(0, 6)) > 0.92)).astype(float)
        image = image * (1 - 0.7 * ticks[..., None])
    image = image + 0.006 * rng.standard_normal(image.shape, dtype=np.float32)

    mask = depth > 0
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1) if rows.size else (0, 0, 0, 0)
    return Photograph(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), mask, box, hairs)
