"""The point spread function (PSF) of the telescope, kept as a Fourier transform.

In Fourier space a shift by a fraction of a pixel, the pixel's own square response and the convolution with a
galaxy are all products, and none of them loses flux.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from roman_synthetic.instrument import BANDS, CENTRAL_OBSCURATION, MIRROR_DIAMETER_M, PIXEL_SCALE_ARCSEC

OVERSAMPLING: Final = 3
"""Fine samples along a pixel. Three satisfy the sampling theorem down to the blue edge of F106."""

GRID_PIXELS: Final = 256
"""Detector pixels along the side of the grid on which the PSF is computed, and of the largest stamp."""

STRUT_WIDTH_M: Final = 0.03
STRUT_ANGLES_DEG: Final = (15.0, 45.0, 135.0, 165.0, 255.0, 285.0)
"""Six supports of the secondary mirror, no two opposite each other: twelve diffraction spikes."""

_WAVELENGTHS_IN_BAND: Final = 7


class PointSpreadFunction:
    """Diffraction of an obscured circular mirror over the width of a band, with pointing jitter and pixels.

    Parameters
    ----------
    band
        Filter name, a key of `instrument.BANDS`.
    jitter_arcsec
        Standard deviation of the pointing jitter along each axis, in arcsec.
    """

    def __init__(self, band: str, jitter_arcsec: float = 0.012) -> None:
        self.band = band
        self.jitter_arcsec = jitter_arcsec
        self._optical = _optical_image(band)
        self._transfer_by_size: dict[int, NDArray[np.complex128]] = {}

    def transfer_function(self, stamp_pixels: int) -> NDArray[np.complex128]:
        """Transform of the pixel-integrated PSF for a stamp, laid out as `scipy.fft.rfft2` lays it out.

        `stamp_pixels` is even and at most `GRID_PIXELS`; the fine grid has `OVERSAMPLING` times as many
        samples along each side. The first element is the part of the light that falls on the stamp: exactly
        one for the largest stamp, about 0.99 for one of 64 pixels.

        Raises
        ------
        ValueError
            The stamp is odd or larger than the grid.
        """
        if stamp_pixels % 2 or not 0 < stamp_pixels <= GRID_PIXELS:
            message = f"stamp_pixels must be even and at most {GRID_PIXELS}, got {stamp_pixels}"
            raise ValueError(message)
        if stamp_pixels not in self._transfer_by_size:
            self._transfer_by_size[stamp_pixels] = self._make_transfer_function(stamp_pixels)
        return self._transfer_by_size[stamp_pixels]

    def _make_transfer_function(self, stamp_pixels: int) -> NDArray[np.complex128]:
        fine = stamp_pixels * OVERSAMPLING
        first = (self._optical.shape[0] - fine) // 2
        core = self._optical[first : first + fine, first : first + fine]
        optical: NDArray[np.complex128] = fft.rfft2(fft.ifftshift(core))
        ky, kx = stamp_frequencies(stamp_pixels)
        pixel = np.sinc(kx) * np.sinc(ky)
        jitter_pixels = self.jitter_arcsec / PIXEL_SCALE_ARCSEC
        jitter = np.exp(-2 * (np.pi * jitter_pixels) ** 2 * (kx**2 + ky**2))
        transfer: NDArray[np.complex128] = optical * pixel * jitter
        return transfer


def stamp_frequencies(stamp_pixels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spatial frequencies (ky as a column, kx as a row) of a stamp's fine grid, in cycles per pixel."""
    fine = stamp_pixels * OVERSAMPLING
    ky: NDArray[np.float64] = fft.fftfreq(fine, d=1 / OVERSAMPLING)
    kx: NDArray[np.float64] = fft.rfftfreq(fine, d=1 / OVERSAMPLING)
    return ky[:, np.newaxis], kx[np.newaxis, :]


def _optical_image(band: str) -> NDArray[np.float64]:
    """Intensity of the diffraction pattern on the fine grid, averaged over the band, with a sum of one."""
    edges = BANDS[band]
    samples = GRID_PIXELS * OVERSAMPLING
    total: NDArray[np.float64] = np.zeros((samples, samples))
    for wavelength_m in np.linspace(edges.blue_edge_m, edges.red_edge_m, _WAVELENGTHS_IN_BAND):
        amplitude = fft.fftshift(fft.fft2(fft.ifftshift(_pupil(samples, float(wavelength_m)))))
        intensity: NDArray[np.float64] = np.abs(amplitude) ** 2
        total += intensity / intensity.sum()
    return total / _WAVELENGTHS_IN_BAND


def _pupil(samples: int, wavelength_m: float) -> NDArray[np.float64]:
    """Transmission of the telescope's entrance, between 0 and 1, with edges softened over one sample.

    The step of the pupil grid in metres is the one that makes its Fourier transform have the step of the
    fine grid on the sky.
    """
    fine_step_rad = np.deg2rad(PIXEL_SCALE_ARCSEC / OVERSAMPLING / 3600)
    step_m = wavelength_m / (samples * fine_step_rad)
    axis_m = (np.arange(samples) - samples // 2) * step_m
    x, y = axis_m[np.newaxis, :], axis_m[:, np.newaxis]
    radius = np.hypot(x, y)

    def inside(distance_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 where the signed distance to an edge is positive, 0 where it is negative."""
        return np.asarray(np.clip(distance_m / step_m + 0.5, 0.0, 1.0))

    outer_m = MIRROR_DIAMETER_M / 2
    transmission = inside(outer_m - radius) * inside(radius - CENTRAL_OBSCURATION * outer_m)
    for angle in np.deg2rad(STRUT_ANGLES_DEG):
        along = x * np.cos(angle) + y * np.sin(angle)
        across = np.abs(y * np.cos(angle) - x * np.sin(angle))
        # A strut narrower than a sample dims that sample by the part of it that it covers.
        covered = np.minimum(inside(STRUT_WIDTH_M / 2 - across), STRUT_WIDTH_M / step_m)
        transmission *= 1 - covered * (along > 0)
    return transmission
