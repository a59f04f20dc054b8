"""Synthetic light curves of one field: constant stars, and variable ones of four kinds whose truth is known.

All objects are observed at the same visits, as by a camera that returns to one field. Shapes and periods look
like those of real stars; no population is modelled.
"""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

KINDS: Final = {"constant": 0.88, "pulsator": 0.03, "eclipsing": 0.04, "rotator": 0.04, "microlensing": 0.01}
"""The kinds of objects and their fractions."""

PERIODS_DAYS: Final = {"pulsator": (0.3, 0.95), "eclipsing": (0.5, 8.0), "rotator": (1.0, 20.0)}
"""Shortest and longest period of each periodic kind."""

MAGNITUDE_LIMITS: Final = (15.5, 20.5)
_MAGNITUDE_SLOPE: Final = 0.2
_NOISE_FLOOR_MAG: Final = 0.006
_NOISE_AT_20_MAG: Final = 0.05
_LOST_FRACTION: Final = 0.03
"""Of single measurements: bad pixels, cosmic rays, edges."""

_FOURIER_TERMS: Final = ((1, 1.0, 0.0), (2, 0.45, 2.0), (3, 0.22, 4.1))
"""Order, amplitude and phase of the sines that make a pulsator's steep rise and slow decline."""


def make_light_curves(
    rng: np.random.Generator, n_objects: int, n_visits: int, duration_days: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw objects, and observe each at `n_visits` random times within `duration_days`.

    Returns two tables. Objects: `object_id`, `mean_mag` (AB, without the variation), and the truth: `kind` (a key
    of `KINDS`), `period_days` (NaN where there is none), `amplitude_mag` (from brightest to faintest),
    `peak_days` and `einstein_days` (time of the peak and Einstein time of a microlensing event, else NaN).
    Observations, sorted by object and time: `object_id`, `time_days`, `mag`, `mag_err`.
    """
    times = np.sort(rng.uniform(0.0, duration_days, n_visits))
    kind = rng.choice(list(KINDS), n_objects, p=list(KINDS.values()))
    low, high = (10 ** (_MAGNITUDE_SLOPE * limit) for limit in MAGNITUDE_LIMITS)
    mean_mag = np.log10(rng.uniform(low, high, n_objects)) / _MAGNITUDE_SLOPE
    objects = pd.DataFrame(
        {
            "object_id": np.arange(n_objects),
            "mean_mag": mean_mag,
            "kind": kind,
            "period_days": np.nan,
            "amplitude_mag": 0.0,
            "peak_days": np.nan,
            "einstein_days": np.nan,
        }
    )
    change = np.zeros((n_objects, n_visits))
    for name, make in (("pulsator", _pulsators), ("eclipsing", _eclipses), ("rotator", _rotators)):
        rows = np.flatnonzero(kind == name)
        period = _log_uniform(rng, PERIODS_DAYS[name], rows.size)
        phase = (times / period[:, np.newaxis] + rng.random((rows.size, 1))) % 1.0
        change[rows] = make(rng, phase)
        objects.loc[rows, "period_days"] = period
    rows = np.flatnonzero(kind == "microlensing")
    peak = rng.uniform(0.15, 0.85, rows.size) * duration_days
    einstein = _log_uniform(rng, (0.03 * duration_days, 0.15 * duration_days), rows.size)
    change[rows] = _microlensing(rng, (times - peak[:, np.newaxis]) / einstein[:, np.newaxis])
    objects.loc[rows, "peak_days"], objects.loc[rows, "einstein_days"] = peak, einstein
    objects["amplitude_mag"] = np.ptp(change, axis=1)

    error = np.hypot(_NOISE_FLOOR_MAG, _NOISE_AT_20_MAG * 10 ** (0.3 * (mean_mag[:, np.newaxis] + change - 20.0)))
    observed = mean_mag[:, np.newaxis] + change + error * rng.standard_normal(change.shape)
    kept = rng.random(change.shape) >= _LOST_FRACTION
    row, column = np.nonzero(kept)
    observations = pd.DataFrame(
        {"object_id": row, "time_days": times[column], "mag": observed[kept], "mag_err": error[kept]}
    )
    return objects, observations


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], count: int) -> NDArray[np.float64]:
    """Values between two limits, as many in each octave."""
    return np.asarray(np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), count)))


def _pulsators(rng: np.random.Generator, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """A fast rise and a slow decline, in magnitudes."""
    fine = np.linspace(0.0, 1.0, 256)
    scale = rng.uniform(0.15, 0.5, (len(phase), 1)) / np.ptp(_pulse(fine))
    return scale * _pulse(phase)


def _pulse(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    terms = [size * np.sin(2 * np.pi * order * phase + angle) for order, size, angle in _FOURIER_TERMS]
    return np.asarray(sum(terms))


def _eclipses(rng: np.random.Generator, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two eclipses a period, the second shallower, and the tides' smooth change between them."""
    depth = rng.uniform(0.1, 0.7, (len(phase), 1))
    second = depth * rng.uniform(0.2, 0.9, depth.shape)
    width = rng.uniform(0.025, 0.06, depth.shape)
    tides = rng.uniform(0.0, 0.08, depth.shape)
    primary = np.exp(-((np.minimum(phase, 1 - phase) / width) ** 4))
    secondary = np.exp(-(((phase - 0.5) / width) ** 4))
    return np.asarray(depth * primary + second * secondary + tides * np.cos(4 * np.pi * phase))


def _rotators(rng: np.random.Generator, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spots that come and go with the rotation."""
    amplitude = rng.uniform(0.01, 0.06, (len(phase), 1))
    return np.asarray(amplitude * np.sin(2 * np.pi * phase))


def _microlensing(rng: np.random.Generator, einstein_times: NDArray[np.float64]) -> NDArray[np.float64]:
    """A point lens before a point source (Paczynski 1986), in magnitudes: brighter is negative."""
    impact = rng.uniform(0.05, 0.9, (len(einstein_times), 1))
    squared = impact**2 + einstein_times**2
    magnification = (squared + 2) / np.sqrt(squared * (squared + 4))
    return np.asarray(-2.5 * np.log10(magnification))
