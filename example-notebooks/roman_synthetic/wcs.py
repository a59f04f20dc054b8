"""The world coordinate system of one WFI detector: detector -> V2V3 -> sky, as a gwcs object.

The steps, their names and their rotation conventions are those of the Roman calibration pipeline.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from astropy import coordinates, units
from astropy.modeling import CompoundModel, fitting, models, rotations
from gwcs import coordinate_frames, geometry
from gwcs.wcs import WCS

from roman_synthetic.instrument import DETECTOR_PIXELS, PIXEL_SCALE_ARCSEC

APERTURE_NAME: Final = "WFI01_FULL"
V2_REF_ARCSEC: Final = 1312.9
V3_REF_ARCSEC: Final = -1040.8
V_PARITY: Final = -1
V3_Y_ANGLE_DEG: Final = -60.0
"""Angle from the V3 axis to the detector's y axis."""

_DETECTOR_ROWS, _DETECTOR_COLUMNS = 3, 6
_DETECTOR_STEP_DEG: Final = 0.135
"""From one detector to the next, gap included."""

INVERSE_DEGREE: Final = 5
"""Degree of the fitted inverse distortion; it keeps the round trip far below 1e-3 pixel."""

# Distortion in pixels over a full detector, by the powers (i, j) of x**i * y**j, where x and y run from
# -1 to 1. A keystone, a slight change of scale and cubic terms: about one part in a thousand at the edges.
_DISTORTION_X: Final = {(1, 0): 2044.0, (1, 1): 3.1, (2, 0): 1.9, (0, 2): -0.8, (3, 0): 0.12, (1, 2): 0.07}
_DISTORTION_Y: Final = {(0, 1): 2044.0, (0, 2): 2.6, (1, 1): -1.4, (2, 0): 0.9, (0, 3): 0.10, (2, 1): 0.05}


@dataclass(frozen=True)
class Pointing:
    """Where the middle of the detector looks: position and V3 roll angle (east of north), all in degrees."""

    ra_deg: float = 10.0
    dec_deg: float = -44.0
    roll_deg: float = 75.0


def detector_pointing(boresight: Pointing, detector: str) -> Pointing:
    """Where the middle of a detector looks, `WFI01` to `WFI18`, when the middle of the focal plane is at `boresight`.

    The detectors stand in three rows of six, as close as the real ones but without the curve of their rows.

    Raises
    ------
    ValueError
        There is no such detector.
    """
    number = int(detector.removeprefix("WFI")) if detector.removeprefix("WFI").isdecimal() else 0
    if not 1 <= number <= _DETECTOR_ROWS * _DETECTOR_COLUMNS:
        message = f"there is no detector {detector}: they are WFI01 to WFI{_DETECTOR_ROWS * _DETECTOR_COLUMNS}"
        raise ValueError(message)
    column, row = divmod(number - 1, _DETECTOR_ROWS)
    x = (column - (_DETECTOR_COLUMNS - 1) / 2) * _DETECTOR_STEP_DEG
    y = (row - (_DETECTOR_ROWS - 1) / 2) * _DETECTOR_STEP_DEG
    middle = coordinates.SkyCoord(boresight.ra_deg, boresight.dec_deg, unit="deg")
    angle = coordinates.Angle(boresight.roll_deg + V3_Y_ANGLE_DEG, "deg") + coordinates.Angle(np.arctan2(-x, y), "rad")
    place = middle.directional_offset_by(angle, coordinates.Angle(np.hypot(x, y), "deg"))
    return Pointing(float(place.ra.deg), float(place.dec.deg), boresight.roll_deg)


def make_wcs(pointing: Pointing, npix: int = DETECTOR_PIXELS) -> WCS:
    """Make the WCS of a square detector of `npix` pixels whose middle is at `pointing`.

    Pixel coordinates are zero-based with integers at pixel centres; the sky is ICRS in degrees. A smaller
    `npix` is the middle of a full detector. The analytic inverse agrees to better than 1e-3 pixel.
    """
    detector = coordinate_frames.Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    v2v3 = coordinate_frames.Frame2D(
        name="v2v3", axes_order=(0, 1), axes_names=("v2", "v3"), unit=(units.arcsec, units.arcsec)
    )
    world = coordinate_frames.CelestialFrame(
        name="world", reference_frame=coordinates.ICRS(), unit=(units.deg, units.deg)
    )
    wcs = WCS(
        [
            (detector, make_distortion(npix)),
            (v2v3, _make_v2v3_to_sky(pointing)),
            (world, None),
        ]
    )
    wcs.bounding_box = ((-0.5, npix - 0.5), (-0.5, npix - 0.5))
    return wcs


def sky_footprint(wcs: WCS, npix: int) -> str:
    """The outline of the detector on the sky, as the `s_region` polygon (ICRS, degrees) of the metadata."""
    low, high = -0.5, npix - 0.5
    ra, dec = wcs([low, high, high, low], [low, low, high, high], with_bounding_box=False)
    corners = " ".join(f"{a:.9f} {d:.9f}" for a, d in zip(ra, dec, strict=True))
    return f"POLYGON ICRS {corners}"


def make_distortion(npix: int) -> CompoundModel:
    """Pixels to (V2, V3) in arcsec, with its fitted inverse attached."""
    centre = (npix - 1) / 2
    half = DETECTOR_PIXELS / 2
    forward_x, forward_y = _polynomial(_DISTORTION_X), _polynomial(_DISTORTION_Y)

    # Fitted over a margin of five per cent, so that positions just off the detector invert well too.
    edge = 1.05 * npix / DETECTOR_PIXELS
    x, y = np.meshgrid(np.linspace(-edge, edge, 41), np.linspace(-edge, edge, 41))
    ideal_x, ideal_y = forward_x(x, y) / half, forward_y(x, y) / half
    fit = fitting.LinearLSQFitter()
    start = models.Polynomial2D(INVERSE_DEGREE)
    inverse_x, inverse_y = fit(start, ideal_x, ideal_y, x), fit(start, ideal_x, ideal_y, y)

    duplicate = models.Mapping((0, 1, 0, 1))
    rotate = models.AffineTransformation2D(_ideal_to_v2v3(), translation=(V2_REF_ARCSEC, V3_REF_ARCSEC))
    forward = (
        _each(models.Shift(-centre))
        | _each(models.Scale(1 / half))
        | duplicate
        | forward_x & forward_y
        | _each(models.Scale(PIXEL_SCALE_ARCSEC))
        | rotate
    )
    forward.inverse = (
        rotate.inverse
        | _each(models.Scale(1 / (PIXEL_SCALE_ARCSEC * half)))
        | duplicate
        | inverse_x & inverse_y
        | _each(models.Scale(half))
        | _each(models.Shift(centre))
    )
    return forward


def _make_v2v3_to_sky(pointing: Pointing) -> CompoundModel:
    """(V2, V3) in arcsec to ICRS in degrees, with the reference point at `pointing`."""
    v2_deg, v3_deg = V2_REF_ARCSEC / 3600, V3_REF_ARCSEC / 3600
    angles = [v2_deg, -v3_deg, pointing.roll_deg, pointing.dec_deg, -pointing.ra_deg]
    return (
        _each(models.Scale(1 / 3600))
        | geometry.SphericalToCartesian(wrap_lon_at=180)
        | rotations.RotationSequence3D(angles, axes_order="zyxyz")
        | geometry.CartesianToSpherical(wrap_lon_at=360)
    )


def _ideal_to_v2v3() -> list[list[float]]:
    """The rotation and the mirror image that turn detector axes into V2V3 axes."""
    angle = np.deg2rad(V3_Y_ANGLE_DEG)
    return [
        [float(V_PARITY * np.cos(angle)), float(np.sin(angle))],
        [float(-V_PARITY * np.sin(angle)), float(np.cos(angle))],
    ]


def _polynomial(terms: dict[tuple[int, int], float]) -> Any:
    return models.Polynomial2D(3, **{f"c{i}_{j}": value for (i, j), value in terms.items()})


def _each(model: Any) -> CompoundModel:
    """The same one-dimensional model on both axes."""
    return model & model.copy()
