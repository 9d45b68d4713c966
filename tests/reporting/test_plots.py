import pytest
import torch
from torchvision.io import ImageReadMode, decode_image

from feataug.data import Scenes, eval_transforms
from feataug.errors import ShapeError
from feataug.reporting.plots import color_images, color_masks, draw_grid, feature_colors, save_grid

PALETTE = ((255, 0, 0), (0, 255, 0), (10, 20, 30))


def test_masks_take_the_palettes_colours_and_void_is_black():
    masks = torch.tensor([[[0, 1], [2, 255]], [[-1, 3], [1, 0]]])
    colours = color_masks(masks, PALETTE)
    assert (colours.shape, colours.dtype) == ((2, 2, 2, 3), torch.uint8)
    for index in torch.cartesian_prod(*map(torch.arange, (2, 2, 2))).tolist():
        label = int(masks[tuple(index)])
        expected = PALETTE[label] if 0 <= label < 3 else (0, 0, 0)
        assert tuple(colours[tuple(index)].tolist()) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_masks_of_any_integer_kind(dtype):
    masks = torch.tensor([[[0, 1, 2, 200 if dtype is torch.uint8 else -5]]], dtype=dtype)
    assert torch.equal(color_masks(masks, PALETTE), color_masks(masks.long(), PALETTE))


@pytest.mark.parametrize("channels", [2, 3, 16])
def test_features_become_colours(channels):
    torch.manual_seed(0)
    features = [torch.randn(2, channels, 5, 7) * 100 + 3, torch.randn(3, channels, 4, 4) * 1000]
    before = [feature.clone() for feature in features]
    colours = feature_colors(features)
    assert [tuple(picture.shape) for picture in colours] == [(2, 5, 7, 3), (3, 4, 4, 3)]
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in colours)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))
    # The quantiles leave little at the ends: the picture uses the range.
    assert (colours[0][..., 0] > 0.9).any()
    assert (colours[0][..., 0] < 0.1).any()


def test_equal_features_have_equal_colours():
    torch.manual_seed(0)
    first = torch.randn(2, 6, 4, 4)
    alone, beside = feature_colors([first]), feature_colors([first, first[1:], torch.randn(1, 6, 9, 9)])
    assert torch.equal(beside[0], alone[0])
    torch.testing.assert_close(beside[1], beside[0][1:])


def test_constant_features_do_not_break():
    (colours,) = feature_colors([torch.ones(1, 8, 4, 4)])
    assert torch.isfinite(colours).all()


def test_a_grid_is_a_png_that_can_be_read(tmp_path):
    columns = {
        "mask": color_masks(torch.full((2, 12, 16), 0), PALETTE),
        "features": torch.full((2, 6, 8, 3), 0.5),  # another resolution
    }
    path = save_grid(tmp_path / "grid.png", columns)
    assert path == tmp_path / "grid.png"
    picture = decode_image(str(path), mode=ImageReadMode.RGB)
    assert min(picture.shape[1:]) > 50
    colours = {tuple(pixel) for pixel in picture.flatten(1).T.tolist()}
    assert (255, 0, 0) in colours
    assert colours & {(127, 127, 127), (128, 128, 128)}
    assert save_grid(str(path), columns) == path  # a string will do


@pytest.mark.parametrize(
    ("columns", "given"),
    [
        ({"a": torch.zeros(2, 4, 4, 3), "b": torch.zeros(3, 4, 4, 3)}, "[2, 3] rows"),
        ({"a": torch.zeros(2, 3, 4, 4)}, "a: [2, 3, 4, 4] float32 on cpu"),
        ({"a": torch.zeros(2, 4, 4, 3), "b": torch.zeros(2, 4, 4).byte()}, "b: [2, 4, 4] uint8 on cpu"),
    ],
)
def test_refuses_columns_that_do_not_fit(tmp_path, columns, given):
    with pytest.raises(ShapeError) as error:
        save_grid(tmp_path / "grid.png", columns)
    assert str(error.value) == (f"save_grid: columns do not fit.\n  given:   {given}\n  needed:  (B, H, W, 3), equal B")
    assert not list(tmp_path.iterdir())


def test_images_become_colours_again():
    images = Scenes(2, (16, 24))
    plain = torch.stack([images[index][0] for index in range(2)])
    normalised = torch.stack([eval_transforms()(*images[index])[0] for index in range(2)])
    assert torch.equal(color_images(plain), plain.movedim(1, -1))
    torch.testing.assert_close(color_images(normalised), plain.movedim(1, -1) / 255, atol=1e-6, rtol=0)


def test_a_figure_is_what_would_be_saved_and_shows_itself(tmp_path):
    columns = {"mask": color_masks(torch.zeros(2, 12, 16), PALETTE)}
    figure = draw_grid(columns)
    assert figure._repr_png_() == save_grid(tmp_path / "grid.png", columns).read_bytes()
    assert repr(figure).startswith("<Shown size 242x")
