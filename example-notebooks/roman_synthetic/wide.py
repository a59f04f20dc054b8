"""A synthetic catalogue over a large part of the sky, made part by part so that it need not fit in memory.

Galaxies follow a smooth random density field and fade behind the dust; stars crowd towards the plane of the
Galaxy; strips of the survey differ in depth, as they do when visits are missing.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

RA_LIMITS_DEG: Final = (-30.0, 75.0)
DEC_LIMITS_DEG: Final = (-55.0, -15.0)

MAGNITUDE_LIMITS: Final = (16.0, 25.0)
STAR_FRACTION: Final = 0.12
_GALAXY_COUNT_SLOPE: Final = 0.30
_STAR_COUNT_SLOPE: Final = 0.12
_EXTINCTION_AT_POLE_MAG: Final = 0.02
"""In F158; it grows as the cosecant of the latitude."""
_WAVES: Final = 40
_WAVELENGTHS_DEG: Final = (4.0, 30.0)
_GRID_DEG: Final = 0.25
_CONTRAST: Final = 0.15
"""Standard deviation of the logarithm of the galaxies' density."""
SHALLOW_STRIPS_RA_DEG: Final = ((12.0, 17.0), (41.0, 44.0))
SHALLOWER_MAG: Final = 0.6
"""The strips lost this much depth: two visits of three."""


def make_wide_catalogue(rng: np.random.Generator, n_rows: int, n_parts: int) -> Iterator[pd.DataFrame]:
    """Yield `n_parts` tables with `n_rows` rows in all, each a strip of declination, from south to north.

    Columns: `source_id`; `ra`, `dec` (ICRS degrees); `mag_f158` (AB, extinguished, as observed);
    `half_light_radius` (arcsec); `true_is_star`.
    """
    waves = _Waves(rng)
    sine = np.sin(np.deg2rad(DEC_LIMITS_DEG))
    edges = np.linspace(sine[0], sine[1], n_parts + 1)
    sizes = np.diff(np.linspace(0, n_rows, n_parts + 1).astype(int))
    first = 0
    for south, north, size in zip(edges[:-1], edges[1:], sizes, strict=True):
        yield _strip(rng, waves, (float(south), float(north)), int(size), first)
        first += int(size)


def _strip(
    rng: np.random.Generator, waves: "_Waves", sine_limits: tuple[float, float], size: int, first_id: int
) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    held = 0
    while held < size:
        drawn = _draw(rng, waves, sine_limits, 2 * (size - held) + 1000)
        parts.append(drawn)
        held += len(drawn)
    table = pd.concat(parts, ignore_index=True).iloc[:size]
    table.insert(0, "source_id", np.arange(first_id, first_id + size))
    return table


def _draw(rng: np.random.Generator, waves: "_Waves", sine_limits: tuple[float, float], count: int) -> pd.DataFrame:
    """Candidates uniform over a strip, of which those are kept that the densities and the depth allow."""
    ra = rng.uniform(*RA_LIMITS_DEG, count)
    dec = np.rad2deg(np.arcsin(rng.uniform(*sine_limits, count)))
    sine_latitude = np.abs(_unit_vectors(ra, dec) @ _GALACTIC_POLE)
    is_star = rng.random(count) < 2 * STAR_FRACTION
    mag = np.where(is_star, _magnitudes(rng, count, _STAR_COUNT_SLOPE), _magnitudes(rng, count, _GALAXY_COUNT_SLOPE))
    mag = mag + np.where(is_star, 0.0, _EXTINCTION_AT_POLE_MAG / np.maximum(sine_latitude, 0.1))
    limit = np.full(count, MAGNITUDE_LIMITS[1])
    for low, high in SHALLOW_STRIPS_RA_DEG:
        limit[(ra > low) & (ra < high)] -= SHALLOWER_MAG
    density = np.where(is_star, np.exp(-2.2 * sine_latitude), 0.5 * waves.density(ra, dec))
    kept = (rng.random(count) < density) & (mag < limit)
    radius = np.where(is_star, 0.10, np.hypot(0.10, 0.30 * 10 ** (-0.06 * (mag - 23.0))))
    radius *= rng.lognormal(0.0, 0.06, count)
    table = pd.DataFrame(
        {"ra": ra % 360, "dec": dec, "mag_f158": mag, "half_light_radius": radius, "true_is_star": is_star}
    )
    return table[kept].astype({"mag_f158": "float32", "half_light_radius": "float32"})


def _magnitudes(rng: np.random.Generator, count: int, slope: float) -> NDArray[np.float64]:
    low, high = (10 ** (slope * limit) for limit in MAGNITUDE_LIMITS)
    return np.log10(rng.uniform(low, high, count)) / slope


class _Waves:
    """A smooth random field on the sphere: plane waves through space, of random directions and phases."""

    def __init__(self, rng: np.random.Generator) -> None:
        directions = rng.standard_normal((3, _WAVES))
        directions /= np.linalg.norm(directions, axis=0)
        shortest, longest = np.log(np.deg2rad(_WAVELENGTHS_DEG))
        wavelength = np.exp(rng.uniform(shortest, longest, _WAVES))
        self._vectors = 2 * np.pi * directions / wavelength
        self._phases = rng.uniform(0.0, 2 * np.pi, _WAVES)
        # On a grid much finer than the shortest wave: a lookup is quicker than a sum of waves for each source.
        self._ra = np.arange(RA_LIMITS_DEG[0], RA_LIMITS_DEG[1] + _GRID_DEG, _GRID_DEG)
        self._dec = np.arange(DEC_LIMITS_DEG[0], DEC_LIMITS_DEG[1] + _GRID_DEG, _GRID_DEG)
        self._grid = self._sum(*np.meshgrid(self._ra, self._dec))

    def density(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
        """Relative density at positions in degrees: around one, at most two."""
        place = ((dec - self._dec[0]) / _GRID_DEG, (ra - self._ra[0]) / _GRID_DEG)
        return np.asarray(map_coordinates(self._grid, place, order=1, mode="nearest"))

    def _sum(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
        field = np.cos(_unit_vectors(ra, dec) @ self._vectors + self._phases).sum(axis=-1) / np.sqrt(_WAVES / 2)
        return np.asarray(np.clip(np.exp(_CONTRAST * field - _CONTRAST**2 / 2), 0.0, 2.0))


def _unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions in degrees as vectors along a new last axis."""
    alpha, delta = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


_GALACTIC_POLE: Final = _unit_vectors(np.array(192.85948), np.array(27.12825))
