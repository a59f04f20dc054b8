"""Synthetic Roman data: survey catalogues and Wide Field Instrument (WFI) Level 2 images.

Everything is made on the spot from a numpy Generator that the caller passes in: no download, no reference
files. The same generator state gives the same data.
"""

from roman_synthetic.catalogue import CatalogueFlag, make_external_catalogue, make_survey_catalogue
from roman_synthetic.image import make_level2_model, make_sources, render_sources
from roman_synthetic.instrument import ab_zero_point
from roman_synthetic.psf import PointSpreadFunction
from roman_synthetic.wcs import Pointing, make_wcs

__all__ = [
    "CatalogueFlag",
    "PointSpreadFunction",
    "Pointing",
    "ab_zero_point",
    "make_external_catalogue",
    "make_level2_model",
    "make_sources",
    "make_survey_catalogue",
    "make_wcs",
    "render_sources",
]
