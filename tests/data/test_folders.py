import pytest
import torch
from torchvision import tv_tensors
from torchvision.io import write_jpeg, write_png

from feataug.data import CamVid, MaskedImages
from feataug.data.label_maps import default_palette
from feataug.errors import ConfigError, DataError, MissingDataError
from tests.support import guards

CAMVID = guards.real("camvid")


def image(size=(6, 8), seed=0):
    return torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def write(folder, stem, *, size=(6, 8), mask_size=None, label=1, seed=0, suffix="png"):
    """An image and its mask, in ``folder/images`` and ``folder/masks``; returns both tensors."""
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    picture = image(size, seed)
    mask = torch.randint(3, mask_size or size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    mask[0, 0] = label
    if suffix == "png":
        write_png(picture, str(folder / "images" / f"{stem}.png"))
    else:
        write_jpeg(picture, str(folder / "images" / f"{stem}.{suffix}"), quality=95)
    write_png(mask[None], str(folder / "masks" / f"{stem}.png"))
    return picture, mask.long()


def read(folder, **kwargs):
    return MaskedImages(folder / "images", folder / "masks", ("a", "b", "c"), **kwargs)


def plain(tensor):
    return tensor.as_subclass(torch.Tensor)


def test_items_are_matched_by_stem_in_order(tmp_path):
    written = {stem: write(tmp_path, stem, seed=number) for number, stem in enumerate(["b", "a", "c.left"])}
    write_png(torch.zeros(1, 6, 8, dtype=torch.uint8), str(tmp_path / "masks" / "lonely.png"))  # no image: not asked for
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    data = read(tmp_path)
    assert len(data) == 3
    assert [file.stem for file in data.image_files] == ["a", "b", "c.left"]
    for index, stem in enumerate(["a", "b", "c.left"]):
        picture, mask = data[index]
        assert isinstance(picture, tv_tensors.Image)
        assert isinstance(mask, tv_tensors.Mask)
        assert (picture.dtype, mask.dtype) == (torch.uint8, torch.int64)
        assert torch.equal(plain(picture), written[stem][0])
        assert torch.equal(plain(mask), written[stem][1])
        assert torch.equal(data.mask(index), mask)
        assert torch.equal(data.image(index), picture)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_jpeg_images_with_png_masks(tmp_path, suffix):
    flat = torch.full((3, 6, 8), 90, dtype=torch.uint8)
    _, mask = write(tmp_path, "x", suffix=suffix)
    write_jpeg(flat, str(tmp_path / "images" / f"x.{suffix}"), quality=95)
    picture, found = read(tmp_path)[0]
    assert (plain(picture).int() - 90).abs().max() <= 2
    assert torch.equal(plain(found), mask)


def test_grey_images_become_rgb(tmp_path):
    write(tmp_path, "x")
    write_png(torch.full((1, 6, 8), 77, dtype=torch.uint8), str(tmp_path / "images" / "x.png"))
    assert torch.equal(plain(read(tmp_path)[0][0]), torch.full((3, 6, 8), 77, dtype=torch.uint8))


def test_void_becomes_ignore_index(tmp_path):
    _, mask = write(tmp_path, "x", label=9)
    found = plain(read(tmp_path, void=9, ignore_index=100).mask(0))
    assert found[0, 0] == 100
    mask[0, 0] = 100
    assert torch.equal(found, mask)


def test_transforms_get_the_pair(tmp_path):
    write(tmp_path, "x")
    bare = read(tmp_path)
    turned = read(tmp_path, transforms=lambda picture, mask: (picture.flip(-1), mask.flip(-1)))
    assert torch.equal(turned[0][0], plain(bare[0][0]).flip(-1))
    assert torch.equal(turned[0][1], plain(bare[0][1]).flip(-1))
    assert torch.equal(turned.mask(0), bare.mask(0))


@pytest.mark.parametrize("absent", ["images", "masks"])
def test_missing_folder(tmp_path, absent):
    write(tmp_path, "x")
    (tmp_path / absent).rename(tmp_path / "elsewhere")
    with pytest.raises(MissingDataError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"MaskedImages: a folder is missing.\n  given:   {tmp_path / absent}\n  needed:  a folder of images and one of masks\n"
        f"{tmp_path} holds the folders elsewhere, {'masks' if absent == 'images' else 'images'}."
    )


def test_empty_folder(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert str(error.value) == (
        f"MaskedImages: the folder holds no images.\n  given:   {tmp_path / 'images'}\n"
        "  needed:  files named *.png, *.jpg, *.jpeg, *.tif, *.tiff, *.bmp, *.webp"
    )


def test_images_without_masks(tmp_path):
    for number in range(8):
        write(tmp_path, f"x{number}")
    (tmp_path / "masks" / "x3.png").unlink()
    expected = (
        "MaskedImages: {} of 8 images have no mask.\n"
        "  given:   {}\n"
        f"  needed:  a file of the same name in {tmp_path / 'masks'}\n"
        "Add the masks, or list the images that have one: names= takes a list, or a file such as VOC's train.txt."
    )
    with pytest.raises(MissingDataError) as error:
        read(tmp_path)
    assert str(error.value) == expected.format(1, "x3.png; masks: 7, such as x0.png")
    for number in (0, 1, 2, 4, 5):
        (tmp_path / "masks" / f"x{number}.png").unlink()
    with pytest.raises(MissingDataError) as error:
        read(tmp_path)
    assert str(error.value) == expected.format(6, "x0.png, x1.png, x2.png, x3.png, x4.png, ...; masks: 2, such as x6.png")


def test_colour_coded_mask(tmp_path):
    write(tmp_path, "x")
    file = tmp_path / "masks" / "x.png"
    write_png(image(), str(file))
    with pytest.raises(DataError) as error:
        read(tmp_path)[0]
    assert str(error.value) == (
        "MaskedImages: a mask has 3 channels.\n"
        f"  given:   {file}, (3, 6, 8)\n"
        "  needed:  one channel with the class of every pixel\n"
        "If colours stand for classes, pass colors=: a colour for each class, such as [(0, 0, 0), (255, 0, 0)]."
    )


def test_size_mismatch(tmp_path):
    write(tmp_path, "x", size=(6, 8), mask_size=(8, 6))
    with pytest.raises(DataError) as error:
        read(tmp_path)[0]
    assert str(error.value) == (
        "MaskedImages: an image and its mask differ in size.\n"
        f"  given:   (6, 8) in {tmp_path / 'images' / 'x.png'}, (8, 6) in {tmp_path / 'masks' / 'x.png'}\n"
        "  needed:  the same rows and columns"
    )


@pytest.mark.parametrize("void", [255, 7])
def test_label_that_is_no_class(tmp_path, void):
    write(tmp_path, "x", label=40)
    data = read(tmp_path, void=void)
    for reading in (lambda: data[0], lambda: data.mask(0)):
        with pytest.raises(DataError) as error:
            reading()
        assert str(error.value) == (
            "MaskedImages: a mask holds labels that are no class.\n"
            f"  given:   [40] in {tmp_path / 'masks' / 'x.png'}\n"
            f"  needed:  0 .. 2, or {void} for void\n"
            "If it is void, pass void=; if labels in the files are other numbers than the classes, pass ids=."
        )


@pytest.mark.parametrize("name", ["images", "masks"])
@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty"])
def test_file_that_cannot_be_decoded(tmp_path, name, damage):
    write(tmp_path, "x", size=(60, 80))
    file = tmp_path / name / "x.png"
    content = file.read_bytes()
    file.write_bytes({"garbage": b"this is no picture", "truncated": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(DataError) as error:
        read(tmp_path)[0]
    first, given, *rest = str(error.value).split("\n")
    assert first == "MaskedImages: a file cannot be decoded."
    # What stands in the brackets is Pillow's, whose wording is not ours.
    assert given.startswith(f"  given:   {file} (")
    needed = {"images": "an image in one of the usual formats", "masks": "a PNG, TIFF, BMP or lossless WebP"}
    assert rest[-1] == f"  needed:  {needed[name]}"


def test_camvid_reads_its_split_and_maps_void(tmp_path):
    for split, label in (("train", 11), ("val", 10)):
        written = write(tmp_path, "0001", label=label)[1]
        (tmp_path / "images").rename(tmp_path / split)
        (tmp_path / "masks").rename(tmp_path / f"{split}annot")
        mask = CamVid(tmp_path, split).mask(0)
        written[written == 11] = 255
        assert torch.equal(plain(mask), written)
    data = CamVid(tmp_path)
    assert (data.num_classes, len(data.palette), data.ignore_index) == (11, 11, 255)
    assert len(data) == 1


def test_camvid_refuses(tmp_path):
    with pytest.raises(ConfigError) as error:
        CamVid(tmp_path, "training")
    assert str(error.value) == 'CamVid: no such split.\n  given:   \'training\'\n  needed:  "train", "val" or "test"'
    with pytest.raises(MissingDataError) as missing:
        CamVid(tmp_path, "test")
    assert str(missing.value) == (
        f"CamVid: folders are missing.\n  given:   {tmp_path}, which is empty\n  needed:  a folder that holds test and testannot"
    )


@guards.needs_real("camvid")
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_the_real_camvid(split, count):
    data = CamVid(CAMVID, split)
    assert len(data) == count
    labels = torch.cat([data.mask(index).unique() for index in range(0, count, 12)]).unique().tolist()
    assert labels == [*range(11), 255]
    picture, mask = data[0]
    assert picture.shape[1:] == mask.shape
    assert picture.float().std() > 10


def test_default_palette():
    # PASCAL VOC's map without its first colour, as its development kit lists it.
    assert default_palette(4) == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert len(set(default_palette(150))) == 150
    with pytest.raises(ConfigError) as error:
        default_palette(0)
    assert str(error.value) == "default_palette: num_classes is out of range.\n  given:   0\n  needed:  at least 1"
