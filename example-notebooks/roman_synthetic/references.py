"""Reference files for the synthetic detector, and a CRDS cache that gives them to the calibration pipeline.

The pipeline asks CRDS, the observatory's server of reference files, for those that fit an exposure. With a cache of
one context it needs no server, and the pipeline runs unmodified: whoever has a real cache sets `CRDS_PATH` and
`CRDS_CONTEXT` to it instead. The files describe the detector that `ramps` simulates, so they calibrate it exactly.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from pprint import pformat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from roman_datamodels import datamodels
from roman_datamodels.dqflags import pixel
from scipy import fft

from roman_synthetic import instrument
from roman_synthetic.psf import GRID_PIXELS, OVERSAMPLING, PointSpreadFunction
from roman_synthetic.ramps import BORDER_PIXELS, SATURATION_DN, SINGLE_READ_NOISE_ELECTRONS
from roman_synthetic.wcs import make_distortion

CONTEXT: Final = "roman_0001.pmap"
NOT_NEEDED: Final = ("integralnonlinearity", "refpix")
"""Kinds of files that CRDS says do not apply, so that the pipeline skips their steps."""
_EPSF_HALF_PIXELS: Final = 45
_APERTURE_LARGEST_PIXELS: Final = 40.0

# A made-up server's answer, as CRDS keeps it in a cache that is never synchronised.
_SERVER: Final[dict[str, Any]] = {
    "observatory": "roman",
    "operational_context": CONTEXT,
    "latest_context": CONTEXT,
    "edit_context": CONTEXT,
    "force_remote_mode": False,
    "bad_files": "",
    "bad_files_list": [],
    "crds_version": {"str": "14.0.3"},
    "reference_url": {"unchecked": "file:///none"},
    "mapping_url": {"unchecked": "file:///none"},
    "last_synced": "2026-11-20 00:00:00",
    "status": "cache",
    "connected": False,
}


def make_crds_cache(path: Path, npix: int, band: str = "F158") -> dict[str, str]:
    """Write a CRDS cache for a detector with `npix` science pixels along each side.

    Returns the environment variables that make the pipeline use it; set them before romancal is imported.
    """
    references = path / "references" / "roman" / "wfi"
    mappings = path / "mappings" / "roman"
    configuration = path / "config" / "roman"
    for folder in (references, mappings, configuration):
        folder.mkdir(parents=True, exist_ok=True)
    (configuration / "server_config").write_text(pformat(_SERVER))

    selected: dict[str, str] = {kind.upper(): "N/A" for kind in NOT_NEEDED}
    for kind, make in _makers(npix, band).items():
        file_name, mapping_name = f"roman_wfi_{kind}_0001.asdf", f"roman_wfi_{kind}_0001.rmap"
        make().save(references / file_name)
        (mappings / mapping_name).write_text(_reference_mapping(kind, mapping_name, file_name))
        selected[kind.upper()] = mapping_name
    instrument_mapping = "roman_wfi_0001.imap"
    (mappings / instrument_mapping).write_text(
        _mapping({"instrument": "WFI", "mapping": "INSTRUMENT", "name": instrument_mapping, "parkey": ("REFTYPE",)})
        + f"selector = {pformat(selected)}\n"
    )
    (mappings / CONTEXT).write_text(
        _mapping({"mapping": "PIPELINE", "name": CONTEXT, "parkey": ("ROMAN.META.INSTRUMENT.NAME",)})
        + f"selector = {pformat({'WFI': instrument_mapping})}\n"
    )
    return {
        "CRDS_PATH": str(path.resolve()),
        "CRDS_CONTEXT": CONTEXT,
        "CRDS_OBSERVATORY": "roman",
        # A server that does not exist: CRDS then asks none.
        "CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu",
        "CRDS_READONLY_CACHE": "1",
        "CRDS_IGNORE_MAPPING_CHECKSUM": "1",
        "STPIPE_DISABLE_CRDS_STEPPARS": "true",
    }


def _mapping(header: Mapping[str, Any]) -> str:
    whole = {"observatory": "ROMAN", "derived_from": "synthetic", "sha1sum": "0", **header}
    return f"header = {pformat(whole)}\n"


def _reference_mapping(kind: str, mapping_name: str, file_name: str) -> str:
    """A mapping that gives the one file for every detector and time."""
    header = {
        "classes": ("Match", "UseAfter"),
        "filekind": kind.upper(),
        "instrument": "WFI",
        "mapping": "REFERENCE",
        "name": mapping_name,
        "parkey": (("ROMAN.META.INSTRUMENT.DETECTOR",), ("ROMAN.META.EXPOSURE.START_TIME",)),
        "reffile_format": "IMAGE",
        "reffile_required": "YES",
        "reffile_switch": "NONE",
        "rmap_relevance": "ALWAYS",
        "suffix": kind,
        "text_descr": kind,
    }
    selector = f"selector = Match({{('N/A',): UseAfter({{'2020-01-01 00:00:00': {file_name!r}}})}})\n"
    return _mapping(header) + selector


def _makers(npix: int, band: str) -> dict[str, Callable[[], Any]]:
    """For each kind of file that the pipeline asks for, what makes it."""
    side = npix + 2 * BORDER_PIXELS
    gain = instrument.GAIN_ELECTRONS_PER_DN
    good = np.zeros((side, side), dtype=np.uint32)
    border = np.full_like(good, np.uint32(pixel.REFERENCE_PIXEL))
    border[BORDER_PIXELS:-BORDER_PIXELS, BORDER_PIXELS:-BORDER_PIXELS] = 0
    # Coefficients of a polynomial in the counts: this detector is linear.
    linear = np.zeros((3, side, side), dtype=np.float32)
    linear[1] = 1.0
    dark_dn_per_s = instrument.DARK_CURRENT_ELECTRONS_PER_S / gain

    def full(value: float, pixels: int = side) -> NDArray[np.float32]:
        return np.full((pixels, pixels), value, dtype=np.float32)

    def make(model: str, **content: Any) -> Callable[[], Any]:
        return lambda: _make_reference(model, band, content)

    decay = {f"WFI{number:02d}": {"amplitude": 0.0, "time_constant": 23.0} for number in range(1, 19)}
    return {
        "mask": make("MaskRefModel", dq=border),
        "saturation": make("SaturationRefModel", data=full(SATURATION_DN), dq=good),
        "gain": make("GainRefModel", data=full(gain)),
        "readnoise": make("ReadnoiseRefModel", data=full(SINGLE_READ_NOISE_ELECTRONS / gain)),
        "dark": make(
            "DarkRefModel", dq=good, dark_slope=full(dark_dn_per_s), dark_slope_error=full(0.1 * dark_dn_per_s)
        ),
        "darkdecaysignal": make("DarkdecaysignalRefModel", decay_table=decay),
        "flat": make(
            "FlatRefModel", data=full(1.0, npix), err=full(1e-3, npix), dq=np.zeros((npix, npix), dtype=np.uint32)
        ),
        "linearity": make("LinearityRefModel", coeffs=linear, dq=good),
        "inverselinearity": make("InverselinearityRefModel", coeffs=linear, dq=good),
        "photom": make("WfiImgPhotomRefModel", phot_table={band: _photometry(band)}),
        "apcorr": lambda: _make_reference("ApcorrRefModel", band, {"data": {band: _aperture_corrections(band)}}),
        "distortion": make("DistortionRefModel", coordinate_distortion_transform=make_distortion(npix)),
        "epsf": lambda: _make_psf_reference(npix, band),
    }


def _make_reference(name: str, band: str, content: Mapping[str, Any]) -> Any:
    model = getattr(datamodels, name).create_fake_data()
    model.meta.instrument.detector = "WFI01"
    if "optical_element" in model.meta.instrument:
        model.meta.instrument.optical_element = band
    for key, value in content.items():
        model[key] = value
    return model


def _photometry(band: str) -> dict[str, Any]:
    edges = instrument.BANDS[band]
    wavelength = np.linspace(edges.blue_edge_m * 1e6, edges.red_edge_m * 1e6, 11, dtype=np.float32)
    return {
        "photmjsr": instrument.megajanskys_per_sr(band),
        "uncertainty": 0.0,
        "pixelareasr": instrument.PIXEL_AREA_SR,
        "collecting_area": 3.757,
        "wavelength": wavelength,
        "effective_area": np.ones(11, dtype=np.float32),
    }


def _psf_image(band: str) -> NDArray[np.float64]:
    """The PSF over pixels, on the fine grid, with a sum of one."""
    transfer = PointSpreadFunction(band).transfer_function(GRID_PIXELS)
    return np.asarray(fft.fftshift(fft.irfft2(transfer)))


def _aperture_corrections(band: str) -> dict[str, Any]:
    """The part of a star's light within circles, by their radius in pixels."""
    image = _psf_image(band)
    rows, columns = np.indices(image.shape) - image.shape[0] // 2
    distance = np.hypot(rows, columns).ravel() / OVERSAMPLING
    order = np.argsort(distance)
    radii = np.linspace(0.0, _APERTURE_LARGEST_PIXELS, 80)
    within = np.interp(radii, distance[order], np.cumsum(image.ravel()[order]))
    # Strictly increasing, as an inverse interpolation asks for.
    within = np.maximum.accumulate(within) + 1e-9 * np.arange(radii.size)
    return {
        "ap_corrections": 1 / np.maximum(within, 1e-3),
        "ee_fractions": within,
        "ee_radii": radii,
        "sky_background_rin": 2.4,
        "sky_background_rout": 2.8,
    }


def _make_psf_reference(npix: int, band: str) -> Any:
    """The same PSF everywhere on the detector and for stars of every colour."""
    image = _psf_image(band)
    middle, half = image.shape[0] // 2, _EPSF_HALF_PIXELS * OVERSAMPLING
    core = image[middle - half : middle + half + 1, middle - half : middle + half + 1]
    model = datamodels.EpsfRefModel.create_fake_data()
    model.meta.instrument.detector = "WFI01"
    model.meta.instrument.optical_element = band
    places = [0.0, npix / 2, npix - 1.0]
    spectral_types = ["A0V", "G2V", "M6V"]
    description = {
        "pixel_x": [x for _ in places for x in places],
        "pixel_y": [y for y in places for _ in places],
        "oversample": OVERSAMPLING,
        "jitter_major": 12.0,
        "jitter_minor": 12.0,
        "jitter_position_angle": 0.0,
        "spectral_type": spectral_types,
        "defocus": [0],
    }
    for key, value in description.items():
        model.meta[key] = value
    shape = (1, len(spectral_types), len(places) ** 2, *core.shape)
    model.psf = np.broadcast_to((core * OVERSAMPLING**2).astype(np.float32), shape).copy()
    return model
