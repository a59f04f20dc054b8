"""The numbers that describe the telescope and one WFI detector.

They are round values close to the published ones, good for exercising software; they are not a calibration.
"""

from dataclasses import dataclass
from math import log10, pi
from typing import Final

PIXEL_SCALE_ARCSEC: Final = 0.11
PIXEL_AREA_SR: Final = (PIXEL_SCALE_ARCSEC * pi / 648_000) ** 2
DETECTOR_PIXELS: Final = 4088
"""Science pixels along each side of a detector, without the border of reference pixels."""

MIRROR_DIAMETER_M: Final = 2.36
CENTRAL_OBSCURATION: Final = 0.32
"""Diameter of the secondary mirror's shadow over that of the primary mirror."""

GAIN_ELECTRONS_PER_DN: Final = 1.8
READ_NOISE_ELECTRONS: Final = 6.0
"""Read noise of a whole fitted ramp, not of one read."""
DARK_CURRENT_ELECTRONS_PER_S: Final = 0.005
FRAME_TIME_S: Final = 3.16
READS: Final = 44
EXPOSURE_TIME_S: Final = READS * FRAME_TIME_S


@dataclass(frozen=True)
class Band:
    """One imaging filter: its edges in metres, and what it measures in electrons."""

    blue_edge_m: float
    red_edge_m: float
    zero_point_ab: float
    """AB magnitude that gives one electron a second."""
    sky_electrons_per_s: float
    """Zodiacal light and thermal background in one pixel at high ecliptic latitude."""

    @property
    def centre_m(self) -> float:
        """Middle of the band, in metres."""
        return (self.blue_edge_m + self.red_edge_m) / 2


BANDS: Final = {
    "F106": Band(0.927e-6, 1.192e-6, 26.4, 0.33),
    "F129": Band(1.131e-6, 1.454e-6, 26.4, 0.32),
    "F158": Band(1.380e-6, 1.774e-6, 26.4, 0.34),
    "F184": Band(1.683e-6, 2.000e-6, 25.9, 0.42),
}


def ab_zero_point(band: str) -> float:
    """AB magnitude of a source of one DN/s in `band`."""
    return BANDS[band].zero_point_ab + 2.5 * log10(GAIN_ELECTRONS_PER_DN)


def megajanskys_per_sr(band: str) -> float:
    """Surface brightness in MJy/sr of one DN/s in a pixel of nominal area, in `band`."""
    janskys = 3631.0 * 10 ** (-0.4 * ab_zero_point(band))
    return janskys / PIXEL_AREA_SR / 1e6
