"""The synthetic data: coordinates invert, rendering keeps the light, catalogues and files are what they say."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from roman_datamodels import datamodels
from roman_datamodels.dqflags import pixel
from roman_synthetic import (
    CatalogueFlag,
    Pointing,
    PointSpreadFunction,
    ab_zero_point,
    make_external_catalogue,
    make_level2_model,
    make_sources,
    make_survey_catalogue,
    make_wcs,
    render_sources,
)

SEED = 11
FULL_DETECTOR = 4088
SMALL = 320


# The model that was made, and the same model opened from its file.
Reopened = tuple[datamodels.ImageModel, datamodels.ImageModel]


def generator() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.fixture(scope="module")
def psf() -> PointSpreadFunction:
    return PointSpreadFunction("F158")


@pytest.fixture(scope="module")
def survey() -> pd.DataFrame:
    return make_survey_catalogue(generator(), 30_000)


@pytest.fixture(scope="module")
def reopened(psf: PointSpreadFunction, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reopened]:
    rng = generator()
    rate = render_sources(make_sources(rng, 5, 20, SMALL), psf, SMALL)
    path = tmp_path_factory.mktemp("image") / "image.asdf"
    made = make_level2_model(rng, rate, Pointing(), Time("2027-05-01T00:00:00", scale="utc"))
    made.save(path)
    with datamodels.open(path) as opened:
        yield made, opened


def one_source(**changes: float) -> pd.DataFrame:
    """A star of unit flux in the middle of a small image, with some columns changed."""
    row = {
        "x": SMALL / 2,
        "y": SMALL / 2,
        "flux": 1.0,
        "half_light_radius": 0.0,
        "axis_ratio": 1.0,
        "position_angle": 0.0,
    }
    return pd.DataFrame([row | changes])


class TestWCS:
    @pytest.mark.parametrize("npix", [SMALL, FULL_DETECTOR])
    @pytest.mark.parametrize("pointing", [Pointing(), Pointing(0.01, 89.0, 0.0), Pointing(359.99, -5.0, 300.0)])
    def test_sky_to_pixel_inverts_pixel_to_sky_to_a_thousandth_of_a_pixel(self, pointing: Pointing, npix: int) -> None:
        x, y = generator().uniform(-0.5, npix - 0.5, (2, 2000))
        wcs = make_wcs(pointing, npix)

        x_back, y_back = wcs.invert(*wcs(x, y))

        assert np.max(np.hypot(x_back - x, y_back - y)) < 1e-3

    def test_the_middle_of_the_detector_looks_at_the_pointing(self) -> None:
        pointing = Pointing(150.0, 2.2, 40.0)
        middle = SkyCoord(*make_wcs(pointing)(2043.5, 2043.5), unit="deg")

        assert middle.separation(SkyCoord(150.0, 2.2, unit="deg")).arcsec < 1e-6

    def test_roll_turns_the_sky_and_pixels_are_0_11_arcsec_apart(self) -> None:
        for roll in (0.0, 75.0):
            wcs = make_wcs(Pointing(150.0, 2.2, roll))
            sky = SkyCoord(*wcs([2043.5, 2044.5, 2043.5], [2043.5, 2043.5, 2044.5]), unit="deg")
            along_x, along_y = sky[0].position_angle(sky[1:]).deg

            assert sky[0].separation(sky[1:]).arcsec == pytest.approx([0.11, 0.11], rel=1e-3)
            # The y axis lies 60 degrees from V3; x points west where y points north, as on the sky.
            assert along_y == pytest.approx((roll - 60) % 360, abs=0.1)
            assert (along_y - along_x) % 360 == pytest.approx(90, abs=0.1)

    def test_the_distortion_is_not_linear(self) -> None:
        wcs = make_wcs(Pointing())
        corner = SkyCoord(*wcs([0, 1], [0, 0]), unit="deg")
        opposite = SkyCoord(*wcs([4086, 4087], [4087, 4087]), unit="deg")

        difference = corner[0].separation(corner[1]) - opposite[0].separation(opposite[1])

        assert abs(difference.arcsec) > 1e-4


class TestRendering:
    @pytest.mark.parametrize(
        "source",
        [
            one_source(flux=500.0),
            one_source(flux=500.0, x=160.37, y=158.81),
            one_source(flux=500.0, x=160.5, half_light_radius=0.4, axis_ratio=0.3, position_angle=30.0),
        ],
        ids=["star on a pixel", "star between pixels", "galaxy"],
    )
    def test_a_bright_source_keeps_all_of_its_flux(self, psf: PointSpreadFunction, source: pd.DataFrame) -> None:
        assert render_sources(source, psf, SMALL).sum() == pytest.approx(500.0, rel=1e-9)

    def test_a_faint_source_keeps_all_but_the_outermost_hundredth(self, psf: PointSpreadFunction) -> None:
        kept = render_sources(one_source(x=160.3), psf, SMALL).sum()

        assert 0.98 < kept < 1.0

    def test_bright_and_faint_sources_have_the_same_core(self, psf: PointSpreadFunction) -> None:
        middle = slice(SMALL // 2 - 10, SMALL // 2 + 11)
        faint = render_sources(one_source(flux=1.0), psf, SMALL)[middle, middle]
        bright = render_sources(one_source(flux=1000.0), psf, SMALL)[middle, middle] / 1000

        assert np.max(np.abs(bright - faint)) < 1e-3 * faint.max()

    def test_the_light_is_centred_on_the_position_between_pixels(self, psf: PointSpreadFunction) -> None:
        image = render_sources(one_source(x=160.37, y=158.81, half_light_radius=0.3), psf, SMALL)
        rows, columns = np.indices(image.shape)

        assert (image * columns).sum() / image.sum() == pytest.approx(160.37, abs=0.02)
        assert (image * rows).sum() / image.sum() == pytest.approx(158.81, abs=0.02)

    def test_half_of_a_large_disc_is_within_its_half_light_radius(self, psf: PointSpreadFunction) -> None:
        image = render_sources(one_source(flux=500.0, half_light_radius=1.5), psf, SMALL)
        rows, columns = np.indices(image.shape)
        radius_arcsec = 0.11 * np.hypot(columns - SMALL / 2, rows - SMALL / 2)

        # A little less than half: the PSF carries some of the light further out.
        assert 0.94 * 250 < image[radius_arcsec < 1.5].sum() < 250

    def test_a_source_off_the_edge_is_cut_and_not_wrapped_around(self, psf: PointSpreadFunction) -> None:
        image = render_sources(one_source(x=-0.5), psf, SMALL)

        assert image.sum() == pytest.approx(0.5, abs=0.02)
        assert image[:, SMALL // 2 :].max() == 0

    @pytest.mark.parametrize("stamp_pixels", [63, 258, 0])
    def test_a_stamp_that_the_grid_cannot_hold_is_refused(self, psf: PointSpreadFunction, stamp_pixels: int) -> None:
        with pytest.raises(ValueError, match="stamp_pixels must be even"):
            psf.transfer_function(stamp_pixels)


class TestLevel2Image:
    def test_the_file_opens_and_validates_with_the_arrays_that_were_saved(self, reopened: Reopened) -> None:
        made, opened = reopened

        opened.validate()
        assert isinstance(opened, datamodels.ImageModel)
        for name in ("data", "err", "dq", "var_poisson"):
            assert np.array_equal(np.asarray(opened[name]), made[name])

    def test_the_coordinates_survive_the_file(self, reopened: Reopened) -> None:
        made, opened = reopened

        assert opened.meta.wcs(12.3, 200.1) == pytest.approx(made.meta.wcs(12.3, 200.1), abs=1e-12)
        x, y = opened.meta.wcs.invert(*opened.meta.wcs(12.3, 200.1))
        assert (x, y) == pytest.approx((12.3, 200.1), abs=1e-3)

    def test_the_noise_is_what_err_says(self, reopened: Reopened) -> None:
        data, err, dq = (np.asarray(reopened[1][name]) for name in ("data", "err", "dq"))
        faintest = (err <= np.percentile(err, 50)) & (dq == 0)

        assert np.std(data[faintest]) == pytest.approx(np.median(err[faintest]), rel=0.05)
        assert np.median(data) == pytest.approx(0.34 / 1.8, rel=0.02)

    def test_every_disturbed_pixel_is_flagged(self, reopened: Reopened) -> None:
        dq = np.asarray(reopened[1].dq)

        for flag in (pixel.DEAD, pixel.HOT, pixel.JUMP_DET):
            flagged = (dq & flag) > 0
            assert 0 < flagged.mean() < 0.01
            assert np.all(dq[flagged] & pixel.DO_NOT_USE)
        dead = (dq & (pixel.DEAD | pixel.JUMP_DET)) == pixel.DEAD
        assert np.all(np.asarray(reopened[1].data)[dead] == 0)

    def test_the_photometry_metadata_give_the_zero_point(self, reopened: Reopened) -> None:
        photometry = reopened[1].meta.photometry
        janskys = photometry.conversion_megajanskys * 1e6 * photometry.pixel_area

        assert -2.5 * np.log10(janskys / 3631) == pytest.approx(ab_zero_point("F158"), abs=1e-6)


class TestCatalogues:
    def test_the_survey_has_its_columns_in_their_units(self, survey: pd.DataFrame) -> None:
        assert list(survey.columns) == [
            "source_id",
            "ra",
            "dec",
            *(f"mag{kind}_{band}" for band in ("f106", "f129", "f158", "f184") for kind in ("", "_err")),
            "z_phot",
            "z_phot_err",
            "half_light_radius",
            "flags",
            "true_z",
            "true_is_star",
        ]
        assert survey["source_id"].is_unique
        assert survey["ra"].between(9, 11).all()
        assert survey["dec"].between(-44.5, -43.5).all()
        assert survey["mag_f158"].dropna().between(15, 28).all()
        assert survey["half_light_radius"].between(0.03, 5).all()
        assert survey["z_phot"].between(0, 10).all()
        assert survey["flags"].max() < 2 * max(CatalogueFlag)

    def test_errors_describe_the_scatter_of_colours_of_similar_stars(self) -> None:
        stars = make_survey_catalogue(generator(), 60_000).query("true_is_star and 25 < mag_f158 < 25.5")
        bright = make_survey_catalogue(generator(), 60_000).query("true_is_star and mag_f158 < 22")
        colour = "mag_f129 - mag_f158"
        expected = np.hypot(stars["mag_err_f129"], stars["mag_err_f158"]).median()

        added = np.sqrt(stars.eval(colour).var() - bright.eval(colour).var())

        assert added == pytest.approx(expected, rel=0.25)

    def test_stars_are_smaller_than_galaxies_and_keep_to_a_narrow_locus(self, survey: pd.DataFrame) -> None:
        bright = survey[survey["mag_f158"] < 22]
        stars, galaxies = bright[bright["true_is_star"]], bright[~bright["true_is_star"]]

        assert stars["half_light_radius"].quantile(0.99) < galaxies["half_light_radius"].quantile(0.01)
        locus = np.polynomial.Polynomial.fit(
            stars["mag_f129"] - stars["mag_f158"], stars["mag_f106"] - stars["mag_f129"], 2
        )
        distance = stars["mag_f106"] - stars["mag_f129"] - locus(stars["mag_f129"] - stars["mag_f158"])
        assert distance.std() < 0.06

    def test_the_external_catalogue_is_displaced_and_scattered_as_asked(self, survey: pd.DataFrame) -> None:
        external = make_external_catalogue(
            generator(), survey, 4000, offset_arcsec=(0.3, -0.2), unmatched_fraction=0.25
        )
        assert (external["true_source_id"] == -1).sum() == 1000
        real = external[external["true_source_id"] >= 0]
        origin = survey.set_index("source_id").loc[real["true_source_id"]]
        east, north = SkyCoord(origin["ra"], origin["dec"], unit="deg").spherical_offsets_to(
            SkyCoord(real["ra"], real["dec"], unit="deg")
        )

        assert np.mean(east.arcsec) == pytest.approx(0.3, abs=0.004)
        assert np.mean(north.arcsec) == pytest.approx(-0.2, abs=0.004)
        for noise in (east.arcsec - 0.3, north.arcsec + 0.2):
            assert np.std(noise / real["position_err"].to_numpy()) == pytest.approx(1.0, abs=0.05)

    def test_an_external_catalogue_larger_than_the_survey_is_refused(self, survey: pd.DataFrame) -> None:
        with pytest.raises(ValueError, match="need as many survey sources"):
            make_external_catalogue(generator(), survey, 40_000)

    def test_the_seed_alone_decides(self, survey: pd.DataFrame) -> None:
        again = make_survey_catalogue(generator(), len(survey))
        other = make_survey_catalogue(np.random.default_rng(SEED + 1), len(survey))

        pd.testing.assert_frame_equal(survey, again)
        assert not survey["ra"].equals(other["ra"])
        pd.testing.assert_frame_equal(
            make_external_catalogue(generator(), survey, 100), make_external_catalogue(generator(), survey, 100)
        )
        pd.testing.assert_frame_equal(make_sources(generator(), 5, 5, SMALL), make_sources(generator(), 5, 5, SMALL))


def test_sources_without_a_magnitude_in_h_have_positions_all_the_same() -> None:
    rng = np.random.default_rng(3)
    external = make_external_catalogue(rng, make_survey_catalogue(rng, 5_000), 4_000)
    assert external["mag_h"].isna().any()
    assert external[["ra", "dec", "position_err"]].notna().all(axis=None)
