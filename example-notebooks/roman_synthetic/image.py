"""A synthetic WFI Level 2 image: sources, noise and data quality, assembled as a `roman_datamodels` model."""

from typing import Final

import numpy as np
import pandas as pd
from astropy.time import Time, TimeDelta
from numpy.typing import NDArray
from roman_datamodels.datamodels import DataModel, ImageModel
from roman_datamodels.dqflags import pixel
from scipy import fft

from roman_synthetic import instrument
from roman_synthetic.psf import GRID_PIXELS, OVERSAMPLING, PointSpreadFunction, stamp_frequencies
from roman_synthetic.wcs import (
    APERTURE_NAME,
    V2_REF_ARCSEC,
    V3_REF_ARCSEC,
    V3_Y_ANGLE_DEG,
    V_PARITY,
    Pointing,
    make_wcs,
    sky_footprint,
)

STAR_MAGNITUDES: Final = (18.0, 25.5)
GALAXY_MAGNITUDES: Final = (19.0, 25.5)

# Slopes of the logarithm of the counts with magnitude, away from the plane of the Galaxy.
_STAR_COUNT_SLOPE: Final = 0.12
_GALAXY_COUNT_SLOPE: Final = 0.32

_STAMP_PIXELS: Final = 64
_BRIGHT_DN_PER_S: Final = 100.0
"""From this flux on (about magnitude 22), the outer PSF shows above the noise and gets the largest stamp."""

_HALF_LIGHT_OVER_SCALE_LENGTH: Final = 1.6783469900166605
"""Of an exponential disc: the root of (1 + x) exp(-x) = 1/2."""

_BAD_PIXEL_FRACTION: Final = 5e-4
"""Of dead pixels, and as many hot ones again."""
_COSMIC_RAYS_PER_PIXEL: Final = 6e-5
"""Hits that the ramp fit could not repair; about a thousand on a full detector."""
_COSMIC_RAY_STEPS: Final = 24
_COSMIC_RAY_LONGEST_PIXELS: Final = 8.0


def make_sources(
    rng: np.random.Generator, n_stars: int, n_galaxies: int, npix: int, band: str = "F158"
) -> pd.DataFrame:
    """Draw sources uniformly over a detector of `npix` by `npix` pixels.

    Returns one row per source: `source_id`; `x`, `y` (zero-based pixels); `mag` (AB); `flux` (DN/s);
    `half_light_radius` (arcsec along the major axis, 0 for a star); `axis_ratio` (minor over major);
    `position_angle` (degrees from the x axis towards the y axis); `is_star`. Galaxies are inclined
    exponential discs, smaller when fainter.
    """
    n_sources = n_stars + n_galaxies
    is_star = np.arange(n_sources) < n_stars
    mag = np.concatenate(
        [
            _magnitudes(rng, n_stars, STAR_MAGNITUDES, _STAR_COUNT_SLOPE),
            _magnitudes(rng, n_galaxies, GALAXY_MAGNITUDES, _GALAXY_COUNT_SLOPE),
        ]
    )
    typical_arcsec = 0.28 * 10 ** (-0.08 * (mag - 23))
    radius_arcsec = np.clip(typical_arcsec * rng.lognormal(0.0, 0.35, n_sources), 0.06, 0.9)
    return pd.DataFrame(
        {
            "source_id": np.arange(n_sources),
            "x": rng.uniform(-0.5, npix - 0.5, n_sources),
            "y": rng.uniform(-0.5, npix - 0.5, n_sources),
            "mag": mag,
            "flux": 10 ** (-0.4 * (mag - instrument.ab_zero_point(band))),
            "half_light_radius": np.where(is_star, 0.0, radius_arcsec),
            "axis_ratio": np.where(is_star, 1.0, rng.uniform(0.25, 1.0, n_sources)),
            "position_angle": np.where(is_star, 0.0, rng.uniform(0.0, 180.0, n_sources)),
            "is_star": is_star,
        }
    )


def render_sources(sources: pd.DataFrame, psf: PointSpreadFunction, npix: int) -> NDArray[np.float64]:
    """Render sources without noise or sky: an image of `npix` by `npix` pixels in DN/s.

    `sources` has the columns that `make_sources` gives. Each source is drawn on a square stamp, 64 pixels
    wide or, when it is bright, as wide as the PSF's grid. The grid holds exactly the source's flux; the
    small stamp leaves out the outermost hundredth of it, and what falls off the image is lost.
    """
    image = np.zeros((npix, npix))
    for source in sources.itertuples(index=False):
        stamp_pixels = GRID_PIXELS if source.flux > _BRIGHT_DN_PER_S else _STAMP_PIXELS
        column, row = round(source.x), round(source.y)
        transform = psf.transfer_function(stamp_pixels) * _shift(source.x - column, source.y - row, stamp_pixels)
        if source.half_light_radius > 0:
            transform = transform * _disc(
                source.half_light_radius, source.axis_ratio, source.position_angle, stamp_pixels
            )
        # Taking every third fine sample gives the pixels: the pixel's response is in the transform already.
        fine = fft.irfft2(transform)
        stamp = fft.fftshift(fine[::OVERSAMPLING, ::OVERSAMPLING]) * OVERSAMPLING**2
        _add(image, source.flux * stamp, row, column)
    return image


def make_level2_model(
    rng: np.random.Generator,
    rate: NDArray[np.float64],
    pointing: Pointing,
    start_time: Time,
    band: str = "F158",
    detector: str = "WFI01",
) -> ImageModel:
    """Observe a noiseless image `rate` (DN/s, without sky) and return a Level 2 model in DN/s.

    The model carries the WCS that `make_wcs` makes for `pointing`.

    Adds the sky, dark current, photon noise and read noise of one exposure, then dead and hot pixels and
    cosmic rays, all of them flagged in `dq`. The sky is not subtracted, as in real Level 2 images. `err` and
    `var_poisson` come from the noiseless signal.
    """
    npix = rate.shape[0]
    electrons_per_rate = instrument.GAIN_ELECTRONS_PER_DN * instrument.EXPOSURE_TIME_S
    background = instrument.BANDS[band].sky_electrons_per_s + instrument.DARK_CURRENT_ELECTRONS_PER_S
    signal = rate + background / instrument.GAIN_ELECTRONS_PER_DN
    electrons = np.clip(signal, 0.0, None) * electrons_per_rate
    data = rng.poisson(electrons).astype(np.float32)
    data += instrument.READ_NOISE_ELECTRONS * rng.standard_normal(data.shape, dtype=np.float32)
    data /= np.float32(electrons_per_rate)
    # The dark current is calibrated away; its noise stays.
    data -= np.float32(instrument.DARK_CURRENT_ELECTRONS_PER_S / instrument.GAIN_ELECTRONS_PER_DN)

    model = ImageModel.create_fake_data(shape=(npix, npix))
    model.data = data
    model.var_poisson = (electrons / electrons_per_rate**2).astype(np.float16)
    model.err = (np.sqrt(electrons + instrument.READ_NOISE_ELECTRONS**2) / electrons_per_rate).astype(np.float16)
    model.chisq = np.ones(data.shape, dtype=np.float16)
    model.dq = np.zeros(data.shape, dtype=np.uint32)
    _add_bad_pixels(rng, model.data, model.dq)
    _add_cosmic_rays(rng, model.data, model.dq)
    _describe(model, pointing, start_time, band, detector)
    return model


def _magnitudes(rng: np.random.Generator, count: int, limits: tuple[float, float], slope: float) -> NDArray[np.float64]:
    """Magnitudes between two limits whose counts rise as 10**(slope * magnitude)."""
    low, high = (10 ** (slope * limit) for limit in limits)
    return np.log10(rng.uniform(low, high, count)) / slope


def _shift(dx: float, dy: float, stamp_pixels: int) -> NDArray[np.complex128]:
    """Transform of a shift by (dx, dy) pixels."""
    ky, kx = stamp_frequencies(stamp_pixels)
    column: NDArray[np.complex128] = np.exp(-2j * np.pi * ky * dy)
    row: NDArray[np.complex128] = np.exp(-2j * np.pi * kx * dx)
    return column * row


def _disc(half_light_arcsec: float, axis_ratio: float, angle_deg: float, stamp_pixels: int) -> NDArray[np.float64]:
    """Transform of an inclined exponential disc of unit flux."""
    ky, kx = stamp_frequencies(stamp_pixels)
    angle = np.deg2rad(angle_deg)
    scale_pixels = half_light_arcsec / _HALF_LIGHT_OVER_SCALE_LENGTH / instrument.PIXEL_SCALE_ARCSEC
    major = kx * np.cos(angle) + ky * np.sin(angle)
    minor = (ky * np.cos(angle) - kx * np.sin(angle)) * axis_ratio
    squared = (2 * np.pi * scale_pixels) ** 2 * (major**2 + minor**2)
    disc: NDArray[np.float64] = 1 / ((1 + squared) * np.sqrt(1 + squared))
    return disc


def _add(image: NDArray[np.float64], stamp: NDArray[np.float64], row: int, column: int) -> None:
    """Add the part of a stamp that falls on the image; (row, column) is where the stamp's middle goes."""
    npix, half = image.shape[0], stamp.shape[0] // 2
    top, left = row - half, column - half
    rows = slice(max(top, 0), min(top + stamp.shape[0], npix))
    columns = slice(max(left, 0), min(left + stamp.shape[1], npix))
    image[rows, columns] += stamp[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _add_bad_pixels(rng: np.random.Generator, data: NDArray[np.float32], dq: NDArray[np.uint32]) -> None:
    """Mark dead pixels (zero) and hot pixels (a large extra rate); both are not to be used."""
    count = round(_BAD_PIXEL_FRACTION * data.size)
    dead, hot = np.split(rng.choice(data.size, 2 * count, replace=False), 2)
    data.flat[dead] = 0.0
    dq.flat[dead] = pixel.DEAD | pixel.DO_NOT_USE
    data.flat[hot] += rng.exponential(20.0, count).astype(np.float32)
    dq.flat[hot] = pixel.HOT | pixel.DO_NOT_USE


def _add_cosmic_rays(rng: np.random.Generator, data: NDArray[np.float32], dq: NDArray[np.uint32]) -> None:
    """Draw straight tracks at random places and angles, and flag every pixel that they touch."""
    npix = data.shape[0]
    count = rng.poisson(_COSMIC_RAYS_PER_PIXEL * data.size)
    rows, columns = _tracks(rng, count, npix)
    on_image = (rows >= 0) & (rows < npix) & (columns >= 0) & (columns < npix)
    deposit = np.broadcast_to(rng.exponential(1.0, (count, 1)), rows.shape)
    np.add.at(data, (rows[on_image], columns[on_image]), deposit[on_image].astype(np.float32))
    dq[rows[on_image], columns[on_image]] |= np.uint32(pixel.JUMP_DET | pixel.DO_NOT_USE)


def cosmic_ray_tracks(rng: np.random.Generator, count: int, npix: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels (rows, columns) on a detector of `npix` by `npix` that `count` straight tracks cross, each once."""
    rows, columns = _tracks(rng, count, npix)
    on_image = (rows >= 0) & (rows < npix) & (columns >= 0) & (columns < npix)
    crossed = np.unique(rows[on_image] * npix + columns[on_image])
    return crossed // npix, crossed % npix


def _tracks(rng: np.random.Generator, count: int, npix: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the steps along each of `count` tracks; some leave the detector."""
    start = rng.uniform(0, npix - 1, (2, count, 1))
    angle = rng.uniform(0, 2 * np.pi, (count, 1))
    length = rng.uniform(0, _COSMIC_RAY_LONGEST_PIXELS, (count, 1)) * np.linspace(0, 1, _COSMIC_RAY_STEPS)
    rows = np.rint(start[0] + length * np.sin(angle)).astype(np.intp)
    columns = np.rint(start[1] + length * np.cos(angle)).astype(np.intp)
    return rows, columns


def _describe(model: ImageModel, pointing: Pointing, start_time: Time, band: str, detector: str) -> None:
    """Fill in the metadata that a reader of the image needs."""
    npix = model.data.shape[0]
    wcs = make_wcs(pointing, npix)
    describe_exposure(model, pointing, start_time, band, detector)
    meta = model.meta
    meta.filename = f"r0000101001001001001_0001_{detector.lower()}_{band.lower()}_cal.asdf"
    meta.product_type = "l2"
    meta.wcsinfo.s_region = sky_footprint(wcs, npix)
    meta.photometry.conversion_megajanskys = instrument.megajanskys_per_sr(band)
    meta.photometry.conversion_megajanskys_uncertainty = 0.0
    meta.photometry.pixel_area = instrument.PIXEL_AREA_SR
    meta.wcs = wcs


def describe_exposure(model: DataModel, pointing: Pointing, start_time: Time, band: str, detector: str) -> None:
    """Fill in what exposures of both levels say about themselves."""
    meta = model.meta
    meta.file_date = start_time
    meta.instrument.detector = detector
    meta.instrument.optical_element = band
    meta.exposure.start_time = start_time
    meta.exposure.end_time = start_time + TimeDelta(instrument.EXPOSURE_TIME_S, format="sec")
    meta.exposure.frame_time = instrument.FRAME_TIME_S
    meta.exposure.exposure_time = instrument.EXPOSURE_TIME_S
    meta.exposure.effective_exposure_time = instrument.EXPOSURE_TIME_S
    meta.exposure.nresultants = instrument.READS
    meta.program.title = "Synthetic image made by roman_synthetic"
    meta.pointing.target_aperture = APERTURE_NAME
    meta.pointing.target_ra, meta.pointing.target_dec = pointing.ra_deg, pointing.dec_deg
    meta.wcsinfo.aperture_name = APERTURE_NAME
    meta.wcsinfo.v2_ref, meta.wcsinfo.v3_ref = V2_REF_ARCSEC, V3_REF_ARCSEC
    meta.wcsinfo.vparity, meta.wcsinfo.v3yangle = V_PARITY, V3_Y_ANGLE_DEG
    meta.wcsinfo.ra_ref, meta.wcsinfo.dec_ref = pointing.ra_deg, pointing.dec_deg
    meta.wcsinfo.roll_ref = pointing.roll_deg
