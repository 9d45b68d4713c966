"""Samples get the covariance of real features: against the formula, on planted covariances, and what is refused."""

from __future__ import annotations

import pytest
import torch

import feataug
from feataug.errors import ConfigError, DataError, ShapeError
from feataug.generation.covariance_map import CovarianceMap, Moments
from tests.support.generator_trainings import loader, make, settings


def gaussian(covariance, count, mean=0.0, seed=0):
    """Cells ``(1, channels, 1, count)``."""
    root = torch.linalg.cholesky(covariance)
    white = torch.randn(len(root), count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (root @ white + mean)[None, :, None]


def moments(*parts):
    found = Moments(parts[0].shape[1])
    for part in parts:
        found.add(part)
    return found


WANTED = torch.tensor([[2.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)
FOUND = torch.tensor([[1.0, -0.4, 0.1], [-0.4, 2.0, 0.0], [0.1, 0.0, 0.02]], dtype=torch.float64)


def test_moments_are_those_of_all_parts():
    parts = [torch.randn(2, 3, 4, 5) + 1, torch.randn(1, 3, 2, 2)]
    cells = torch.cat([part.movedim(1, 0).flatten(1) for part in parts], dim=1).double()
    found = moments(*parts)
    torch.testing.assert_close(found.mean, cells.mean(1))
    torch.testing.assert_close(found.covariance, torch.cov(cells, correction=0))
    assert found.count == cells.shape[1]


def test_the_map_gives_samples_the_wanted_mean_and_covariance():
    real, samples = gaussian(WANTED, 5_000, mean=0.5), gaussian(FOUND, 5_000, mean=-1.0, seed=1)
    own = CovarianceMap().double()
    own.fit({0: (moments(real), moments(samples))})
    expected = torch.full_like(samples, 3.0)
    # In float32, as a generator keeps it.
    (mapped,) = own([samples + 3.0], [expected])
    after = moments(mapped - expected)
    torch.testing.assert_close(after.mean, moments(real).mean, rtol=1e-4, atol=1e-4)
    # The ridge shows where the samples vary least.
    torch.testing.assert_close(after.covariance, moments(real).covariance, rtol=0.02, atol=0.05)
    assert (after.covariance - moments(samples).covariance).abs().max() > 0.5, "nothing to match"
    # No other map with that covariance is symmetric: it changes the samples least.
    matrix = own.matrix_0
    torch.testing.assert_close(matrix, matrix.T)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_samples_that_have_the_covariance_stay():
    real = gaussian(WANTED, 500)
    matrix = moments(real).map_from(moments(real))
    torch.testing.assert_close(matrix, torch.eye(3, dtype=torch.float64))


def test_directions_without_variance_do_no_harm():
    flat = WANTED.clone()
    flat[2], flat[:, 2] = 0, 0
    parts = [gaussian(matrix + 1e-12 * torch.eye(3, dtype=torch.float64), 500, seed=seed) for seed, matrix in enumerate((WANTED, flat))]
    for wanted, found in (parts, parts[::-1]):
        matrix = moments(wanted).map_from(moments(found))
        assert torch.isfinite(matrix).all()
        # Where samples do not vary there is nothing to map: noise of rounding is not blown up by more than the ridge allows.
        assert matrix.abs().max() < 50


def trained():
    trainer = make(settings(num_images=24, colored_noise=False))
    trainer.fit(loader())
    return trainer


def spread(generator, cut):
    """Covariances of samples and of real features about the means of their masks, computed image by image."""
    rng, parts = torch.Generator().manual_seed(5), [[], []]
    with torch.no_grad():
        for pictures, masks in loader():
            mean = generator.encode_masks(masks).expected[0]
            parts[0].append(generator.standardize(cut.encode(pictures))[0] - mean)
            parts[1].append(generator(masks, generator.draw_z(masks, rng), standardized=True)[0] - mean)
    return [torch.cov(torch.cat(part).movedim(1, 0).flatten(1)) for part in parts]


def test_a_generator_is_matched_saved_and_trained_again(tmp_path):
    trainer = trained()
    generator, cut = trainer.generator, trainer.cut
    cut.model.eval()
    real, before = spread(generator, cut)
    shares = feataug.match_covariance(generator, cut, loader(), images=1_000)
    _, after = spread(generator, cut)
    assert shares == [pytest.approx(float(before.trace() / real.trace()), rel=0.1)]
    assert float((after - real).norm()) < 0.3 * float((before - real).norm())
    generator.save_pretrained(tmp_path)
    again = feataug.FeatureGenerator.from_pretrained(tmp_path)
    masks = next(iter(loader()))[1]
    z = generator.draw_z(masks, torch.Generator().manual_seed(1))
    assert torch.equal(generator(masks, z)[0], again(masks, z)[0])
    # The map belongs to the weights for which it was made.
    feataug.GeneratorTrainer(generator, cut, settings(num_images=8), device="cpu", progress=False).fit(loader())
    assert not generator.covariance_map.fitted
    assert again.covariance_map.fitted


def test_matching_twice_starts_from_the_samples_themselves():
    trainer = trained()
    first = feataug.match_covariance(trainer.generator, trainer.cut, loader())
    matrix = trainer.generator.covariance_map.matrix_0.clone()
    assert feataug.match_covariance(trainer.generator, trainer.cut, loader()) == first
    assert torch.equal(trainer.generator.covariance_map.matrix_0, matrix)
    feataug.match_covariance(trainer.generator, trainer.cut, loader(), seed=1)
    assert not torch.equal(trainer.generator.covariance_map.matrix_0, matrix)


def test_the_model_keeps_its_modes():
    trainer = trained()
    trainer.cut.model.train()
    feataug.match_covariance(trainer.generator, trainer.cut, loader(), images=4)
    assert trainer.cut.model.training


def test_what_is_refused():
    trainer = trained()
    cut = trainer.cut
    gan = feataug.FeatureGenerator(trainer.generator.num_classes, cut.spec, "bicyclegan", mask_widths=(8,), width=8, depth=0)
    fresh = feataug.FeatureGenerator(trainer.generator.num_classes, cut.spec, width=32, depth=1)
    other = feataug.FeatureGenerator(trainer.generator.num_classes, feataug.FeatureSpec((feataug.LevelSpec("x", 3, 8),)), width=32, depth=1)
    other.fitted.fill_(True)
    cases = [
        (gan, loader(), ConfigError, "match_covariance: the generator is no flow.\n  given:   preset 'bicyclegan'\n"),
        (fresh, loader(), ConfigError, "match_covariance: the generator is not trained.\n  given:   no statistics of features\n"),
        (other, loader(), ShapeError, "match_covariance: the generator was made for another cut.\n"),
        (trainer.generator, [], DataError, "match_covariance: "),
    ]
    for generator, given, kind, text in cases:
        with pytest.raises(kind) as error:
            feataug.match_covariance(generator, cut, given)
        assert str(error.value).startswith(text)
    images, masks = next(iter(loader()))
    with pytest.raises(DataError) as error:
        feataug.match_covariance(trainer.generator, cut, [(images[:1], masks[:1])])
    assert str(error.value) == (
        "match_covariance: too few cells of features.\n  given:   1 images, 96 cells\n  needed:  20 cells for each channel\n"
        "Pass a loader of more images."
    )
    with pytest.raises(DataError, match=r"^match_covariance: features are not finite\.\n  given:   NaN or infinity in 4 images\n"):
        feataug.match_covariance(trainer.generator, cut, [(images * torch.nan, masks)])
    # Nothing is left of a matching that failed.
    assert not trainer.generator.covariance_map.fitted
