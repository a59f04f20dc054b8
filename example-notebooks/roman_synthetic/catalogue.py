"""Synthetic catalogues: one like the High Latitude Imaging Survey, and a ground-based one to match it with.

Galaxies get their colours from a simple spectrum (a continuum, the 4000 Angstrom break and the 1.6 micron
bump) shifted to their redshift; stars from a blackbody with the H- opacity minimum. Colours, counts and sizes
look plausible together, but nothing is clustered on the sky.
"""

from enum import IntFlag
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from roman_synthetic.instrument import BANDS

SOURCES_PER_SQ_DEG: Final = 160_000
"""About 45 an arcmin squared to the magnitude limit."""
FIELD_CENTRE_DEG: Final = (10.0, -44.0)

MAGNITUDE_LIMITS: Final = (15.5, 26.2)
"""True F158 magnitudes of the survey's sources."""
SATURATION_MAGNITUDE: Final = 17.0

STAR_FRACTION: Final = 0.06
_COOL_STAR_FRACTION: Final = 0.6
_STAR_COUNT_SLOPE: Final = 0.12
_GALAXY_COUNT_SLOPE: Final = 0.33

_DEPTH_AB: Final = {"F106": 26.9, "F129": 26.9, "F158": 26.8, "F184": 26.2}
"""Magnitudes of a source measured at five standard deviations."""
_CALIBRATION_FLOOR_MAG: Final = 0.005
_DETECTION_SIGMAS: Final = 2.0

_NEAR_EDGE_FRACTION: Final = 0.02
_BLENDED_FRACTION: Final = 0.05

_PSF_HALF_LIGHT_ARCSEC: Final = 0.10
_CATASTROPHIC_PHOTO_Z_FRACTION: Final = 0.04
_PHOTO_Z_SCATTER: Final = 0.035

_EXTERNAL_DEPTH_AB: Final = 23.6
_EXTERNAL_SEEING_SIGMA_ARCSEC: Final = 0.34
_EXTERNAL_ASTROMETRIC_FLOOR_ARCSEC: Final = 0.03


class CatalogueFlag(IntFlag):
    """Bits of the survey catalogue's `flags`; a row with none of them set is clean."""

    SATURATED = 1
    NEAR_BRIGHT_STAR = 2
    NEAR_DETECTOR_EDGE = 4
    BLENDED = 8


def make_survey_catalogue(rng: np.random.Generator, n_rows: int) -> pd.DataFrame:
    """Draw a survey catalogue of `n_rows` sources over a square field of the survey's own density.

    Columns: `source_id`; `ra`, `dec` (ICRS degrees); `mag_f106`, `mag_f129`, `mag_f158`, `mag_f184` (AB, NaN
    where the source is not detected in that band) with `mag_err_...`; `z_phot`, `z_phot_err` (also given,
    wrongly, for stars, as a photometric redshift code would); `half_light_radius` (arcsec, as observed);
    `flags` (`CatalogueFlag`). Two columns no survey has serve as truth: `true_z` (NaN for a star) and
    `true_is_star`.
    """
    is_star = rng.random(n_rows) < STAR_FRACTION
    mag_f158 = np.where(
        is_star,
        _magnitudes(rng, n_rows, _STAR_COUNT_SLOPE),
        _magnitudes(rng, n_rows, _GALAXY_COUNT_SLOPE),
    )
    redshift = _redshifts(rng, mag_f158)
    spectra = np.where(is_star[:, np.newaxis], _star_colours(rng, n_rows), _galaxy_colours(rng, redshift))
    ra, dec = _positions(rng, n_rows, _field_side_deg(n_rows))
    columns: dict[str, NDArray[np.generic]] = {"source_id": np.arange(n_rows), "ra": ra, "dec": dec}
    for index, band in enumerate(BANDS):
        observed, error = _observe(rng, mag_f158 + spectra[:, index], _DEPTH_AB[band])
        columns[f"mag_{band.lower()}"] = observed
        columns[f"mag_err_{band.lower()}"] = error
    columns["z_phot"], columns["z_phot_err"] = _photo_z(rng, redshift, mag_f158)
    columns["half_light_radius"] = _observed_radii(rng, mag_f158, is_star)
    columns["flags"] = _flags(rng, ra, dec, mag_f158, is_star)
    columns["true_z"] = np.where(is_star, np.nan, redshift)
    columns["true_is_star"] = is_star
    return pd.DataFrame(columns)


def make_external_catalogue(
    rng: np.random.Generator,
    survey: pd.DataFrame,
    n_rows: int,
    offset_arcsec: tuple[float, float] = (0.12, -0.08),
    unmatched_fraction: float = 0.1,
) -> pd.DataFrame:
    """Observe the survey's brighter sources from the ground in H, in `n_rows` rows in random order.

    Columns: `external_id`; `ra`, `dec` (ICRS degrees); `position_err` (arcsec along each axis); `mag_h`,
    `mag_h_err` (AB); and the truth, `true_source_id` (-1 where the survey has no such source). Positions
    scatter by the seeing over the signal-to-noise ratio and are all displaced by `offset_arcsec`, eastward
    and northward. Unmatched rows stand for artefacts and moving objects: they fall at random on the field.

    Raises
    ------
    ValueError
        The survey has too few sources with F158 photometry.
    """
    n_unmatched = round(unmatched_fraction * n_rows)
    n_matched = n_rows - n_unmatched
    # Fuzzy selection by brightness: the ground-based limit is not sharp in F158.
    rank = survey["mag_f158"].to_numpy() + rng.normal(0.0, 0.2, len(survey))
    if np.isfinite(rank).sum() < n_matched:
        message = f"{n_matched} matched rows need as many survey sources, of which there are {len(survey)}"
        raise ValueError(message)
    chosen = np.argsort(rank)[:n_matched]
    real = survey.iloc[chosen]
    false_ra, false_dec = _positions(rng, n_unmatched, _field_side_deg(len(survey)))
    false_mag = rng.choice(real["mag_f158"].to_numpy(), n_unmatched)

    ra = np.concatenate([real["ra"].to_numpy(), false_ra])
    dec = np.concatenate([real["dec"].to_numpy(), false_dec])
    mag_h, mag_err = _observe(rng, np.concatenate([real["mag_f158"].to_numpy(), false_mag]), _EXTERNAL_DEPTH_AB)
    # A source without a magnitude in H is detected barely, so its position is as uncertain as any.
    relative_err = np.clip(np.nan_to_num(mag_err, nan=0.3), 0.0, 0.3)
    position_err = np.hypot(_EXTERNAL_ASTROMETRIC_FLOOR_ARCSEC, _EXTERNAL_SEEING_SIGMA_ARCSEC * relative_err)
    east = offset_arcsec[0] + position_err * rng.standard_normal(n_rows)
    north = offset_arcsec[1] + position_err * rng.standard_normal(n_rows)
    table = pd.DataFrame(
        {
            "ra": ra + east / 3600 / np.cos(np.deg2rad(dec)),
            "dec": dec + north / 3600,
            "position_err": position_err,
            "mag_h": mag_h,
            "mag_h_err": mag_err,
            "true_source_id": np.concatenate([real["source_id"].to_numpy(), np.full(n_unmatched, -1, dtype=np.int64)]),
        }
    )
    table = table.iloc[rng.permutation(n_rows)].reset_index(drop=True)
    table.insert(0, "external_id", np.arange(n_rows))
    return table


def _field_side_deg(n_survey: int) -> float:
    return float(np.sqrt(n_survey / SOURCES_PER_SQ_DEG))


def _positions(
    rng: np.random.Generator, count: int, side_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (ICRS degrees) uniform over a field bounded by two parallels and two meridians."""
    ra_centre, dec_centre = FIELD_CENTRE_DEG
    sine = np.sin(np.deg2rad([dec_centre - side_deg / 2, dec_centre + side_deg / 2]))
    dec = np.rad2deg(np.arcsin(rng.uniform(sine[0], sine[1], count)))
    half_ra = side_deg / 2 / np.cos(np.deg2rad(dec_centre))
    return rng.uniform(ra_centre - half_ra, ra_centre + half_ra, count), dec


def _magnitudes(rng: np.random.Generator, count: int, slope: float) -> NDArray[np.float64]:
    """Magnitudes within the survey's limits whose counts rise as 10**(slope * magnitude)."""
    low, high = (10 ** (slope * limit) for limit in MAGNITUDE_LIMITS)
    return np.log10(rng.uniform(low, high, count)) / slope


def _redshifts(rng: np.random.Generator, mag_f158: NDArray[np.float64]) -> NDArray[np.float64]:
    """Redshifts from z**2 exp(-(z / z0)**1.5), with z0 growing with magnitude."""
    scale = np.clip(0.12 + 0.135 * (mag_f158 - 19.0), 0.06, None)
    return np.asarray(scale * rng.gamma(2.0, 1.0, mag_f158.size) ** (1 / 1.5))


def _galaxy_colours(rng: np.random.Generator, redshift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitudes in each band less that in F158, one row per galaxy."""
    count = redshift.size
    quiescent = rng.random(count) < 0.28 * np.exp(-0.55 * redshift)
    ultraviolet_slope = np.where(quiescent, 2.6, rng.normal(0.35, 0.35, count))
    optical_slope = np.where(quiescent, 1.0, 0.55) + rng.normal(0.0, 0.15, count)
    break_dex = np.where(quiescent, rng.normal(0.32, 0.04, count), np.abs(rng.normal(0.12, 0.05, count)))
    flux = np.empty((count, len(BANDS)))
    for index, band in enumerate(BANDS.values()):
        micron = band.centre_m * 1e6 / (1 + redshift)
        from_break = np.log10(micron / 0.4)
        past_bump = np.log10(micron / 1.6)
        flux[:, index] = (
            ultraviolet_slope * np.minimum(from_break, 0.0)
            + break_dex * 0.5 * np.tanh(from_break / 0.05)
            + optical_slope * np.clip(from_break, 0.0, np.log10(4.0))
            - 1.2 * np.maximum(past_bump, 0.0)
        )
    return _relative_magnitudes(10**flux)


def _star_colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Magnitudes in each band less that in F158: mostly cool dwarfs, then stars of the disc and halo."""
    cool = rng.random(count) < _COOL_STAR_FRACTION
    kelvin = np.where(cool, rng.normal(3300.0, 280.0, count), rng.normal(5200.0, 650.0, count)).clip(2400.0)
    flux = np.empty((count, len(BANDS)))
    for index, band in enumerate(BANDS.values()):
        micron = band.centre_m * 1e6
        bump = 0.16 * np.clip((5000.0 - kelvin) / 2000.0, 0.0, 1.0) * np.exp(-(((micron - 1.62) / 0.16) ** 2))
        flux[:, index] = micron**-3.0 / np.expm1(14_388.0 / (micron * kelvin)) * (1 + bump)
    scatter = rng.normal(0.0, 0.012, flux.shape)
    return _relative_magnitudes(flux * 10 ** (-0.4 * scatter))


def _relative_magnitudes(flux: NDArray[np.float64]) -> NDArray[np.float64]:
    reference = flux[:, list(BANDS).index("F158")]
    return np.asarray(-2.5 * np.log10(flux / reference[:, np.newaxis]))


def _observe(
    rng: np.random.Generator, mag: NDArray[np.float64], depth_ab: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add noise in flux and give magnitudes with errors; NaN below two standard deviations."""
    noise = 10 ** (-0.4 * depth_ab) / 5
    flux = 10 ** (-0.4 * mag) + noise * rng.standard_normal(mag.size)
    flux = np.where(flux > _DETECTION_SIGMAS * noise, flux, np.nan)
    observed = -2.5 * np.log10(flux) + rng.normal(0.0, _CALIBRATION_FLOOR_MAG, mag.size)
    error = np.hypot(2.5 / np.log(10) * noise / flux, _CALIBRATION_FLOOR_MAG)
    return observed, error


def _photo_z(
    rng: np.random.Generator, redshift: NDArray[np.float64], mag_f158: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Photometric redshifts: scatter in proportion to 1 + z, wider when faint, and a few catastrophes."""
    count = redshift.size
    error = _PHOTO_Z_SCATTER * (1 + redshift) * (1 + 0.6 * np.clip(mag_f158 - 24.0, 0.0, None))
    estimate = np.abs(redshift + error * rng.standard_normal(count))
    catastrophic = rng.random(count) < _CATASTROPHIC_PHOTO_Z_FRACTION
    return np.where(catastrophic, rng.uniform(0.0, 4.0, count), estimate), error


def _observed_radii(
    rng: np.random.Generator, mag_f158: NDArray[np.float64], is_star: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Half light radii in arcsec, convolved with the PSF and noisier when faint."""
    intrinsic = 0.28 * 10 ** (-0.08 * (mag_f158 - 23.0)) * rng.lognormal(0.0, 0.35, mag_f158.size)
    observed = np.hypot(np.where(is_star, 0.0, intrinsic), _PSF_HALF_LIGHT_ARCSEC)
    relative_error = 0.015 + 0.05 * 10 ** (0.2 * (mag_f158 - 25.0))
    return np.asarray(observed * np.exp(relative_error * rng.standard_normal(mag_f158.size)))


def _flags(
    rng: np.random.Generator,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    mag_f158: NDArray[np.float64],
    is_star: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """Bits of `CatalogueFlag`; each saturated star spoils a disc that grows with its brightness."""
    saturated = mag_f158 < SATURATION_MAGNITUDE
    flags = np.where(saturated, np.int32(CatalogueFlag.SATURATED), np.int32(0))
    near_edge = rng.random(mag_f158.size) < _NEAR_EDGE_FRACTION
    blended = rng.random(mag_f158.size) < _BLENDED_FRACTION
    flags[near_edge] |= np.int32(CatalogueFlag.NEAR_DETECTOR_EDGE)
    flags[blended] |= np.int32(CatalogueFlag.BLENDED)
    # Flat coordinates around the field's centre serve here: the discs are far smaller than the field.
    flat = np.column_stack([ra * np.cos(np.deg2rad(dec)), dec])
    bright = np.flatnonzero(saturated & is_star)
    radius_deg = 15.0 / 3600 * 10 ** (0.15 * (SATURATION_MAGNITUDE - mag_f158[bright]))
    neighbours = cKDTree(flat).query_ball_point(flat[bright], radius_deg)
    for star, rows in zip(bright, neighbours, strict=True):
        spoiled = np.asarray(rows)
        flags[spoiled[spoiled != star]] |= np.int32(CatalogueFlag.NEAR_BRIGHT_STAR)
    return flags
