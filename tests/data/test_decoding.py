"""What is in image and label files is what comes out, or an error: modes, depths, alpha, orientation, compression."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from feataug.data import Images, MaskedImages, MaskFolder, eval_transforms, train_transforms
from feataug.data.decoding import decode_image, decode_labels, turned
from feataug.errors import DataError
from tests.support.image_files import png, tiff

SIZE = (9, 13)
RNG = np.random.default_rng(0)


def image_of(file, content=None, **saved):
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        content.save(file, **saved)
    return decode_image("Images", file).as_subclass(torch.Tensor).numpy().transpose(1, 2, 0)


def error_of(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_values_of_any_depth(tmp_path, depth, interlaced):
    values = RNG.integers(0, 2**depth, SIZE)
    file = tmp_path / "a.png"
    file.write_bytes(png(values, depth, 0, interlaced=interlaced))
    assert np.array_equal(decode_labels("MaskFolder", file).pixels, values)
    found = image_of(file)
    assert found.dtype == (np.float32 if depth == 16 else np.uint8)
    scale = 1 if depth == 16 else 255
    assert np.allclose(found / scale, np.repeat(values[..., None], 3, 2) / (2**depth - 1), atol=1e-7)


def test_two_bits_are_no_void(tmp_path):
    # Pillow shows label 3 of two bits as 255.
    values = np.array([[0, 1, 2, 3]])
    (tmp_path / "a.png").write_bytes(png(values, 2, 0))
    assert np.array(Image.open(tmp_path / "a.png")).tolist() == [[0, 85, 170, 255]]
    assert MaskFolder(tmp_path, "abcd").mask(0).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_keep_all_of_them(tmp_path, kind, channels, interlaced):
    values = RNG.integers(0, 2**16, (*SIZE, channels))
    if channels != 3:
        values[..., -1] = 65535
    found = image_of(tmp_path / "a.png", png(values, 16, kind, interlaced=interlaced))
    colours = values if channels == 3 else values[..., :-1]
    assert np.abs(found - colours / 65535).max() < 1e-7
    # A test of the test: with the upper bytes alone the same check fails.
    assert np.abs((values // 256 * 256)[..., : colours.shape[2]] / 65535 - colours / 65535).max() > 1e-3


def test_16_bits_with_alpha_lie_on_black(tmp_path):
    values = RNG.integers(0, 2**16, (*SIZE, 4))
    found = image_of(tmp_path / "a.png", png(values, 16, 6))
    assert np.abs(found - values[..., :3] * values[..., 3:] / 65535**2).max() < 2e-5


def test_tiff_of_16_bits(tmp_path):
    values = RNG.integers(0, 2**16, (*SIZE, 3))
    found = image_of(tmp_path / "a.tif", tiff(values))
    assert np.abs(found - values / 65535).max() < 1e-7
    assert len(Images(tmp_path)) == 1


@pytest.mark.parametrize("suffix", ["tif", "tiff", "png", "bmp", "webp", "TIF", "PNG"])
def test_lossless_formats_of_both(tmp_path, suffix):
    for folder in "im":
        (tmp_path / folder).mkdir()
    colours, labels = RNG.integers(0, 256, (*SIZE, 3), np.uint8), RNG.integers(0, 3, SIZE, np.uint8)
    Image.fromarray(colours).save(tmp_path / f"i/a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    if suffix == "webp":  # has no grey: such masks need colors=
        Image.fromarray(labels).convert("RGB").save(tmp_path / "m/a.webp", lossless=True)
        data = MaskedImages(tmp_path / "i", tmp_path / "m", "abc", colors=[(k, k, k) for k in range(3)])
    else:
        Image.fromarray(labels).save(tmp_path / f"m/a.{suffix}")
        data = MaskedImages(tmp_path / "i", tmp_path / "m", "abc")
    image, mask = data[0]
    assert np.array_equal(image.numpy().transpose(1, 2, 0), colours)
    assert np.array_equal(mask.numpy(), labels)


def test_grey_images_of_16_bits_and_transforms(tmp_path):
    values = np.linspace(0, 60000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    (image,) = [Images(tmp_path)[0]]
    assert image.shape == (3, 8, 8)
    assert len(image.unique()) == 64
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    expected = (torch.from_numpy(values.astype(np.float32) / 65535)[None] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(Images(tmp_path, transforms=eval_transforms())[0], expected)
    # Padding has the mean colour in floats as in bytes: zero after normalisation.
    padded = train_transforms((16, 16), scale=(0.4, 0.4), color=0)(image)
    assert padded.dtype == torch.float32
    assert padded.abs().max() < 3
    assert (padded.abs() < 1e-6).float().mean() > 0.5


def test_floats(tmp_path):
    values = RNG.random(SIZE, np.float32)
    file = tmp_path / "a.tif"
    found = image_of(file, Image.fromarray(values))
    assert np.array_equal(found, np.repeat(values[..., None], 3, 2))
    values[0, :2] = (-0.5, 1.25)
    Image.fromarray(values).save(file)
    text = error_of(lambda: Images(tmp_path)[0])
    assert text == (
        f"Images: an image of floats has values outside [0, 1].\n  given:   {file}, -0.5 .. 1.25\n"
        "  needed:  values in [0, 1], as eval_transforms and train_transforms take them\n"
        "Scale the images by the range that the whole set shares, not each by its own, and write them again."
    )
    values[0, 0] = np.nan
    Image.fromarray(values).save(file)
    assert f"given:   {file}, values that are not finite\n" in error_of(lambda: Images(tmp_path)[0])


def test_values_without_a_known_range(tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(np.full(SIZE, 70000, np.int32)).save(file)
    assert error_of(lambda: Images(tmp_path)[0]) == (
        f"Images: the values of an image have no known range.\n  given:   {file}, mode 'I'\n"
        "  needed:  8 or 16 bits without sign, or floats in [0, 1], as grey or RGB"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha(tmp_path, mode):
    pixels = RNG.integers(0, 256, (*SIZE, len(mode)), np.uint8)
    pixels[..., -1] = 255
    colours = np.broadcast_to(pixels[..., :-1], (*SIZE, 3))
    assert np.array_equal(image_of(tmp_path / "a.png", Image.fromarray(pixels, mode)), colours)
    pixels[2:5, :, -1], pixels[6:, :, -1] = 0, 128
    found = image_of(tmp_path / "a.png", Image.fromarray(pixels, mode))
    assert (found[2:5] == 0).all()
    assert np.array_equal(found[:2], colours[:2])
    assert np.abs(found[6:] - colours[6:] * (128 / 255)).max() <= 0.5


def test_palettes_and_cmyk(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert image_of(tmp_path / "a.png", picture).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert image_of(tmp_path / "b.png", picture, transparency=1).tolist() == [[[10, 20, 30], [0, 0, 0], [70, 80, 90]]]
    # Ink: none is white, all of it is black.
    inks = Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0]]], np.uint8), "CMYK")
    assert image_of(tmp_path / "c.tif", inks).tolist() == [[[255, 255, 255], [0, 0, 0], [0, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_orientation_of_images_and_of_masks(tmp_path, orientation, suffix):
    labels = RNG.integers(0, 3, SIZE, np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{suffix}"
    picture = Image.fromarray(labels * 100).convert("RGB")
    picture.save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    shown = np.array(ImageOps.exif_transpose(Image.open(file)))
    assert np.array_equal(image_of(file), shown)
    assert np.array_equal(turned(labels * 100, orientation), shown[..., 0])
    if suffix != "webp":
        Image.fromarray(labels).save(file, exif=exif)
        assert np.array_equal(MaskFolder(tmp_path, "abc").mask(0).numpy(), shown[..., 0] // 100)


def test_an_image_that_is_turned_and_a_mask_that_is_not(tmp_path):
    for folder in "im":
        (tmp_path / folder).mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(tmp_path / "i/a.jpg", exif=exif)
    Image.new("L", SIZE).save(tmp_path / "m/a.png")
    data = MaskedImages(tmp_path / "i", tmp_path / "m", "abc")
    assert error_of(lambda: data[0]) == (
        "MaskedImages: an image and its mask differ in size.\n"
        f"  given:   (9, 13) in {tmp_path / 'i/a.jpg'}, (13, 9) in {tmp_path / 'm/a.png'}\n"
        "  needed:  the same rows and columns\n"
        "EXIF rotates the image by 90 degrees, and the reader applies that. If the masks fit the images as stored, remove "
        "the orientation from the images: exiftool -Orientation= FILE."
    )


@pytest.mark.parametrize(
    ("name", "saved", "what"),
    [
        ("a.png", {"format": "JPEG"}, "JPEG"),  # by its content, whatever it is called
        ("a.webp", {"quality": 100}, "lossy WebP"),
        ("a.tif", {"compression": "jpeg"}, "TIFF with JPEG compression"),
    ],
)
def test_lossy_masks_are_refused(tmp_path, name, saved, what):
    file = tmp_path / name
    Image.new("RGB" if name.endswith("webp") else "L", (16, 16)).save(file, **saved)
    assert error_of(lambda: MaskFolder(tmp_path, "abc")[0]) == (
        f"MaskFolder: a mask is stored as {what}, which changes labels.\n  given:   {file}\n  needed:  a lossless format, such as PNG\n"
        "Write the masks again from the original labels: saving this file as PNG does not bring them back."
    )


def test_labels_that_are_no_integers_or_inverted(tmp_path):
    file = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 1, 2]], np.float32)).save(file)
    assert MaskFolder(tmp_path, "abc")[0].tolist() == [[0, 1, 2]]
    Image.fromarray(np.array([[0, 0.5, 2]], np.float32)).save(file)
    assert error_of(lambda: MaskFolder(tmp_path, "abc")[0]) == (
        f"MaskFolder: a mask holds fractions.\n  given:   {file}\n  needed:  integers, the class of every pixel"
    )
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(file, tiffinfo={262: 0})
    assert error_of(lambda: MaskFolder(tmp_path, "abc")[0]) == (
        f"MaskFolder: a mask says that zero is white.\n  given:   {file}, PhotometricInterpretation 0\n"
        "  needed:  stored values that are the labels: PhotometricInterpretation 1, or a palette"
    )


@pytest.mark.parametrize("mode", ["L", "1"])
def test_labels_of_one_bit_are_0_and_1(tmp_path, mode):
    for suffix in ("png", "tif", "bmp"):
        Image.fromarray(np.array([[False, True]])).convert(mode).save(tmp_path / f"{mode}{suffix}.{suffix}")
    data = MaskFolder(tmp_path, "ab", ids={0: 0, 255: 1} if mode == "L" else None)
    assert [data.mask(index).tolist() for index in range(3)] == [[[0, 1]]] * 3


def test_several_pictures_in_a_file(tmp_path):
    file = tmp_path / "a.tif"
    pages = [Image.new("L", (8, 6), k) for k in range(3)]
    pages[0].save(file, save_all=True, append_images=pages[1:])
    text = f"a file holds several pictures.\n  given:   {file}, 3 of 6 x 8\n  needed:  one picture in each file"
    assert error_of(lambda: MaskFolder(tmp_path, "abc")[0]) == f"MaskFolder: {text}"
    assert error_of(lambda: Images(tmp_path)[0]) == f"Images: {text}"
    # A thumbnail does no harm.
    pages[0].save(file, save_all=True, append_images=[Image.new("L", (2, 2))])
    assert MaskFolder(tmp_path, "abc")[0].shape == (6, 8)
