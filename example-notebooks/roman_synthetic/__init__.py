"""Synthetic Roman data: catalogues, light curves, and Wide Field Instrument (WFI) images and ramps.

Everything is made on the spot from a numpy Generator that the caller passes in, without any download. The same
generator state gives the same data.
"""

from roman_synthetic.catalogue import CatalogueFlag, make_external_catalogue, make_survey_catalogue
from roman_synthetic.image import make_level2_model, make_sources, render_sources
from roman_synthetic.instrument import ab_zero_point
from roman_synthetic.light_curves import make_light_curves
from roman_synthetic.psf import PointSpreadFunction
from roman_synthetic.ramps import make_level1_model
from roman_synthetic.references import make_crds_cache
from roman_synthetic.wcs import Pointing, detector_pointing, make_wcs
from roman_synthetic.wide import make_wide_catalogue

__all__ = [
    "CatalogueFlag",
    "PointSpreadFunction",
    "Pointing",
    "ab_zero_point",
    "detector_pointing",
    "make_crds_cache",
    "make_external_catalogue",
    "make_level1_model",
    "make_level2_model",
    "make_light_curves",
    "make_sources",
    "make_survey_catalogue",
    "make_wcs",
    "make_wide_catalogue",
    "render_sources",
]
