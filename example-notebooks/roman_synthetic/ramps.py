"""A synthetic WFI Level 1 exposure: the counts of a detector read again and again while they accumulate.

What the calibration pipeline starts from: sources, sky and dark current with their photon noise, read noise, cosmic
rays, a pedestal, and a border of reference pixels. Reads are averaged into resultants as on board.
"""

from typing import Final

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray
from roman_datamodels.datamodels import ScienceRawModel

from roman_synthetic import instrument
from roman_synthetic.image import cosmic_ray_tracks, describe_exposure
from roman_synthetic.wcs import Pointing

BORDER_PIXELS: Final = 4
"""Reference pixels along each edge, outside the science pixels."""

READ_PATTERN: Final = (
    (1,),
    (2,),
    (3, 4),
    tuple(range(5, 10)),
    tuple(range(10, 18)),
    tuple(range(18, 26)),
    tuple(range(26, 34)),
    tuple(range(34, 44)),
    (44,),
)
"""The reads averaged into each resultant, counted from one."""

PEDESTAL_DN: Final = 5000.0
SATURATION_DN: Final = 55_000.0
LARGEST_DN: Final = 65_535
SINGLE_READ_NOISE_ELECTRONS: Final = 12.0
_AMPLIFIER_COLUMNS: Final = 128
_LIKE_NORMAL_ELECTRONS: Final = 50.0
_COSMIC_RAYS_PER_PIXEL: Final = 5e-4
"""During the whole exposure: some eight thousand on a full detector."""
_COSMIC_RAY_ELECTRONS: Final = 1500.0
"""Mean charge that a hit leaves in each pixel of its track."""


def make_level1_model(
    rng: np.random.Generator,
    rate: NDArray[np.float64],
    pointing: Pointing,
    start_time: Time,
    band: str = "F158",
    detector: str = "WFI01",
) -> ScienceRawModel:
    """Observe a noiseless image `rate` (DN/s, without sky) and return the ramps of it as a Level 1 model.

    `rate` covers the science pixels; the model's `data` has a border of `BORDER_PIXELS` more on each side and one
    plane for each resultant, in DN. The model has no WCS: the pipeline assigns one from `pointing`.
    """
    side = rate.shape[0] + 2 * BORDER_PIXELS
    science = slice(BORDER_PIXELS, -BORDER_PIXELS)
    per_read = np.zeros((side, side), dtype=np.float32)
    background = instrument.BANDS[band].sky_electrons_per_s + instrument.DARK_CURRENT_ELECTRONS_PER_S
    electrons_per_s = np.clip(rate, 0.0, None) * instrument.GAIN_ELECTRONS_PER_DN + background
    per_read[science, science] = electrons_per_s * instrument.FRAME_TIME_S

    hits = _cosmic_rays(rng, rate.shape[0])
    collected = np.zeros((side, side), dtype=np.float32)
    data = np.empty((len(READ_PATTERN), side, side), dtype=np.uint16)
    for index, reads in enumerate(READ_PATTERN):
        total = np.zeros_like(collected)
        for read in reads:
            collected += _photons(rng, per_read)
            rows, columns, electrons = hits[read - 1]
            np.add.at(collected[science, science], (rows, columns), electrons)
            total += collected
        noise = SINGLE_READ_NOISE_ELECTRONS / np.sqrt(len(reads)) * rng.standard_normal(total.shape, dtype=np.float32)
        counts = (total / len(reads) + noise) / instrument.GAIN_ELECTRONS_PER_DN + PEDESTAL_DN
        data[index] = np.clip(np.rint(counts), 0, LARGEST_DN)

    model = ScienceRawModel.create_fake_data()
    model.data = data
    model.amp33 = np.full((len(READ_PATTERN), side, _AMPLIFIER_COLUMNS), PEDESTAL_DN, dtype=np.uint16)
    describe_exposure(model, pointing, start_time, band, detector)
    model.meta.filename = f"r0000101001001001001_0001_{detector.lower()}_{band.lower()}_uncal.asdf"
    model.meta.product_type = "l1"
    model.meta.exposure.nresultants = len(READ_PATTERN)
    model.meta.exposure.read_pattern = [list(reads) for reads in READ_PATTERN]
    model.meta.velocity_aberration.scale_factor = 1.0
    return model


def _photons(rng: np.random.Generator, expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Poisson noise; where many photons are expected, a normal distribution cannot be told from it, and is quicker."""
    drawn = rng.poisson(np.minimum(expected, _LIKE_NORMAL_ELECTRONS)).astype(np.float32)
    bright = expected >= _LIKE_NORMAL_ELECTRONS
    drawn[bright] = expected[bright] + np.sqrt(expected[bright]) * rng.standard_normal(int(bright.sum()))
    return drawn


def _cosmic_rays(
    rng: np.random.Generator, npix: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
    """For each read the pixels (rows, columns) that a particle crossed just before it, and the charge left there."""
    hits = []
    for _ in range(instrument.READS):
        count = rng.poisson(_COSMIC_RAYS_PER_PIXEL * npix**2 / instrument.READS)
        rows, columns = cosmic_ray_tracks(rng, count, npix)
        hits.append((rows, columns, rng.exponential(_COSMIC_RAY_ELECTRONS, rows.size).astype(np.float32)))
    return hits
