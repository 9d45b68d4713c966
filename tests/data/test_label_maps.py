"""What labels in files mean: tables of ids against a slow oracle, planted faults, and every error as a whole text."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from feataug import ClassBalancedMasks, DatasetMasks, LayoutComposer, MaskMixture, pseudo_masks
from feataug.data import Images, MaskedImages, MaskFolder, Scenes, eval_transforms, seeded_loader, train_transforms
from feataug.errors import ConfigError, DataError, MissingDataError, ShapeError

CLASSES = ("road", "sky", "car")
IDS = {7: 0, 11: 2, 23: 1, 24: 255, 300: 1}


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(file)
    return file


def labels(size=(6, 8), values=(7, 11, 23, 24, 255), seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).choice(np.array(values, dtype), size)


def slow(pixels, ids, void=255, ignore_index=255):
    """Pixel by pixel, as one would say it."""
    mask = torch.zeros(pixels.shape, dtype=torch.long)
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            label = int(pixels[row, column])
            mask[row, column] = ids[label] if label in ids else {void: ignore_index}[label]
    return mask


def same(mask, expected):
    return mask.dtype == torch.int64 and torch.equal(mask.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("void", [255, 0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_are_mapped_as_the_loop_maps_them(tmp_path, dtype, void):
    values = (7, 11, 23, 24, void) + ((300,) if dtype is np.uint16 else ())
    pixels = labels(values=values, dtype=dtype)
    save(tmp_path / "a.png", pixels)
    data = MaskFolder(tmp_path, CLASSES, ids=IDS, void=void)
    expected = slow(pixels, IDS, void)
    assert same(data.mask(0), expected)
    # Planted faults that the oracle has to find: two classes exchanged, one label for its neighbour, void taken for a class.
    for fault in (
        {**IDS, 7: 2, 11: 0},
        {label - (label == 11): number for label, number in IDS.items()} | {11: 0},
        {**IDS, void: 0},
    ):
        assert not same(MaskFolder(tmp_path, CLASSES, ids=fault, void=void).mask(0), expected)


def test_ids_as_a_sequence_and_of_other_kinds(tmp_path):
    pixels = labels(values=(0, 1, 2, 3))
    save(tmp_path / "a.png", pixels)
    expected = slow(pixels, {0: 255, 1: 0, 2: 2, 3: 2})
    for ids in ([255, 0, 2, 2], (255, 0, 2, 2), np.array([255, 0, 2, 2]), torch.tensor([255, 0, 2, 2])):
        assert same(MaskFolder(tmp_path, CLASSES, ids=ids).mask(0), expected)
    shifted = MaskFolder(tmp_path, CLASSES, ids=[0, 2, 2, 255])
    assert not same(shifted.mask(0), expected)


def test_ids_decide_what_void_is_and_what_comes_out(tmp_path):
    pixels = labels(values=(7, 255))
    save(tmp_path / "a.png", pixels)
    assert same(MaskFolder(tmp_path, CLASSES, ids={7: 0, 255: 1}).mask(0), slow(pixels, {7: 0, 255: 1}))
    assert same(MaskFolder(tmp_path, CLASSES, ids={7: 0}, ignore_index=-1).mask(0), slow(pixels, {7: 0}, ignore_index=-1))


def test_images_and_masks_take_the_same_table(tmp_path):
    pixels = labels()
    save(tmp_path / "masks" / "a.png", pixels)
    save(tmp_path / "images" / "a.png", np.zeros((6, 8, 3), np.uint8))
    data = MaskedImages(tmp_path / "images", tmp_path / "masks", CLASSES, ids=IDS)
    assert same(data[0][1], slow(pixels, IDS))
    assert torch.equal(data.mask(0), MaskFolder(tmp_path / "masks", CLASSES, ids=IDS).mask(0))


def test_a_label_that_the_table_does_not_have(tmp_path):
    file = save(tmp_path / "a.png", labels(values=(8, 11, 9)))
    with pytest.raises(DataError) as error:
        MaskFolder(tmp_path, CLASSES, ids=[0, 1, 2, *([255] * 4), 0]).mask(0)
    assert str(error.value) == (
        f"MaskFolder: a mask holds labels that are no class.\n  given:   [8, 9, 11] in {file}\n  needed:  0 .. 7, or 255 for void"
    )
    with pytest.raises(DataError) as error:
        MaskFolder(tmp_path, CLASSES, ids={7: 0, 8: 1, 11: 2, 24: 255}, void=0)[0]
    assert str(error.value).endswith(f"given:   [9] in {file}\n  needed:  7 .. 8, 11, 24, or 0 for void")


def test_instance_ids_are_no_labels(tmp_path):
    file = save(tmp_path / "a.png", labels(values=(7, 26000, 26001), dtype=np.uint16))
    with pytest.raises(DataError) as error:
        MaskFolder(tmp_path, CLASSES, ids=IDS)[0]
    assert str(error.value) == (
        "MaskFolder: a mask holds labels that are no class.\n"
        f"  given:   [26000, 26001] in {file}\n"
        "  needed:  7, 11, 23 .. 24, 300, or 255 for void\n"
        "The file has 16 bits a pixel, as instance ids have: labels of classes are in another file."
    )


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("LA", 2)])
def test_pictures_of_masks_are_no_masks(tmp_path, mode, channels):
    file = tmp_path / "a.png"
    Image.new(mode, (8, 6)).save(file)
    with pytest.raises(DataError) as error:
        MaskFolder(tmp_path, CLASSES)[0]
    assert str(error.value) == (
        f"MaskFolder: a mask has {channels} channels.\n"
        f"  given:   {file}, ({channels}, 6, 8)\n"
        "  needed:  one channel with the class of every pixel\n"
        "If colours stand for classes, pass colors=: a colour for each class, such as [(0, 0, 0), (255, 0, 0)]."
    )


def test_a_palette_gives_its_indices_and_one_bit_is_enough(tmp_path):
    pixels = labels(values=(0, 1))
    picture = Image.fromarray(pixels, "P")
    picture.putpalette([200, 10, 10, 0, 0, 90])
    picture.save(tmp_path / "a.png")
    Image.fromarray(pixels.astype(bool)).save(tmp_path / "b.png")
    data = MaskFolder(tmp_path, CLASSES, ids=[2, 0])
    assert [Image.open(file).mode for file in data.mask_files] == ["P", "1"]
    assert all(same(data.mask(index), slow(pixels, {0: 2, 1: 0})) for index in range(2))


NEEDED = "{label in the files: class, 0 .. 2, or 255 for void}, or the classes of labels 0, 1, 2, ..."


@pytest.mark.parametrize(
    ("ids", "given", "advice"),
    [
        ({7: 3}, "7: 3", ""),
        ({7: 0, 8: -100}, "8: -100", ""),
        ({-1: 255, 0: 0}, "-1: 255", "\nA label of -1 is 255 in an 8-bit file."),
        ({2**16: 0}, "65536: 0", ""),
        ({1.5: 0}, "{1.5: 0}", ""),
        ({1: None}, "{1: None}", ""),
        ((), "()", ""),
        ("abc", "'abc'", ""),
        (7, "7", ""),
    ],
)
def test_what_is_no_table(tmp_path, ids, given, advice):
    save(tmp_path / "a.png", labels())
    with pytest.raises(ConfigError) as error:
        MaskFolder(tmp_path, CLASSES, ids=ids)
    text = f"MaskFolder: ids is not a table of labels and classes.\n  given:   {given}\n  needed:  {NEEDED}{advice}"
    assert str(error.value) == text


def test_masks_alone_serve_every_mask_source(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):  # of several sizes, in folders
        size = (40 + 8 * number, 60 + 4 * number)
        save(tmp_path / str(number % 2) / f"{number}_ids.png", rng.choice(np.array([7, 11, 23, 24], np.uint8), size))
        save(tmp_path / str(number % 2) / f"{number}_color.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "0" / "._0_ids.png").write_bytes(b"what macOS leaves beside a file")
    data = MaskFolder(tmp_path, CLASSES, ending="_ids", ids=IDS, transforms=train_transforms((24, 32)))
    assert [file.name for file in data.mask_files] == [f"{number}_ids.png" for number in (0, 2, 4, 1, 3, 5)]
    assert (len(data), data.num_classes, data.ignore_index, data.classes, len(data.palette)) == (6, 3, 255, CLASSES, 3)
    assert data.mask(1).shape == (56, 68)
    assert data[1].shape == (24, 32)
    balanced = ClassBalancedMasks(data, 3)
    sources = [
        DatasetMasks(data), balanced, LayoutComposer(DatasetMasks(data), balanced, [2]),
        MaskMixture([Scenes(4, (24, 32), transforms=train_transforms((24, 32))), data], (3, 1)),
    ]  # fmt: skip
    for source in sources:
        masks = source.draw(8, torch.Generator().manual_seed(0))
        assert masks.shape == (8, 24, 32)
        assert torch.equal(masks, source.draw(8, torch.Generator().manual_seed(0)))
    drawn = sources[0].draw(8, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0, 1, 2, 255}
    with pytest.raises(ShapeError, match=r"^DatasetMasks: the masks differ in size\."):
        DatasetMasks(MaskFolder(tmp_path, CLASSES, ending="_ids", ids=IDS)).draw(8, torch.Generator().manual_seed(0))


def test_readers_are_mask_sources_without_their_images(tmp_path):
    save(tmp_path / "masks" / "a.png", labels((30, 40)))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    data = MaskedImages(tmp_path / "images", tmp_path / "masks", CLASSES, ids=IDS, transforms=train_transforms((16, 24)))
    assert DatasetMasks(data).draw(2, torch.Generator().manual_seed(0)).shape == (2, 16, 24)
    with pytest.raises(DataError, match="a file cannot be decoded"):
        data[0]


def test_images_of_several_sizes(tmp_path):
    for number, size in enumerate([(30, 40), (40, 30), (36, 36)]):
        save(tmp_path / "masks" / f"{number}.png", labels(size))
        save(tmp_path / "images" / f"{number}.png", np.full((*size, 3), 50 * number, np.uint8))
    folders = tmp_path / "images", tmp_path / "masks", CLASSES
    loader = seeded_loader(MaskedImages(*folders, ids=IDS, transforms=train_transforms((16, 24))), 3)
    images, masks = next(iter(loader))
    assert (images.shape, masks.shape) == ((3, 3, 16, 24), (3, 16, 24))
    plain = MaskedImages(*folders, ids=IDS, transforms=eval_transforms())
    assert [masks.shape[1:] for _, masks in seeded_loader(plain, 1, shuffle=False)] == [(30, 40), (40, 30), (36, 36)]
    with pytest.raises(ShapeError) as error:
        next(iter(seeded_loader(plain, 2, shuffle=False)))
    assert str(error.value) == (
        "seeded_loader: the items of a batch differ.\n  given:   (3, 30, 40) and (30, 40), (3, 40, 30) and (40, 30)\n"
        "  needed:  images of one size, and masks of one size\n"
        "Give the data set transforms that make all sizes equal, such as eval_transforms((512, 512)), or use batch_size=1."
    )


def test_images_alone_are_labelled_by_a_model(tmp_path):
    for number, name in enumerate(("ulm/b_left.png", "ulm/a_left.jpg", "aachen/c_left.png", "aachen/c_right.png")):
        save(tmp_path / name, np.full((12, 16, 3), 80 * number, np.uint8))
    data = Images(tmp_path, ending="_left")
    assert [file.name for file in data.image_files] == ["c_left.png", "a_left.jpg", "b_left.png"]
    assert (data[0].shape, data[0].dtype) == ((3, 12, 16), torch.uint8)
    assert [int(image.float().mean().round()) for image in data] == [160, 80, 0]
    for transforms in (eval_transforms((6, 8)), train_transforms((6, 8))):
        (batch,) = torch.utils.data.DataLoader(Images(tmp_path, ending="_left", transforms=transforms), 3)
        assert (batch.shape, batch.dtype) == ((3, 3, 6, 8), torch.float32)
    loader = torch.utils.data.DataLoader(Images(tmp_path, ending="_left", transforms=eval_transforms()), 2)
    masks = pseudo_masks(lambda images: torch.cat([images[:, :1] * 9, -images[:, :1] * 9], 1), loader)
    # 80 is below ImageNet's mean red.
    assert [int(mask.float().mean()) for mask in masks] == [0, 1, 1]


@pytest.mark.parametrize(
    ("reader", "what", "names"),
    [
        (lambda folder: MaskFolder(folder, CLASSES, ending="_x"), "masks", "*_x.png, *_x.tif, *_x.tiff, *_x.bmp, *_x.webp"),
        (lambda folder: Images(folder, ending="_x"), "images", "*_x.png, *_x.jpg, *_x.jpeg, *_x.tif, *_x.tiff, *_x.bmp, *_x.webp"),
    ],
)
def test_a_folder_that_is_not_there_or_empty(tmp_path, reader, what, names):
    who = {"masks": "MaskFolder", "images": "Images"}[what]
    with pytest.raises(MissingDataError) as error:
        reader(tmp_path / "nowhere")
    assert str(error.value) == f"{who}: the folder is missing.\n  given:   {tmp_path / 'nowhere'}\n  needed:  a folder of {what}"
    save(tmp_path / "y.png", labels())
    with pytest.raises(DataError) as error:
        reader(str(tmp_path))
    assert str(error.value) == (
        f"{who}: the folder holds no {what}.\n  given:   {tmp_path}, where these were skipped: 1 with another ending, such as y.png\n"
        f"  needed:  files named {names}\nOther files are there: is the ending right ('_x')?"
    )


SHORT_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 4) + b"IHDR" + bytes(4) + struct.pack(">I", zlib.crc32(b"IHDR" + bytes(4)))


@pytest.mark.parametrize("content", [b"this is no picture", b"", SHORT_HEADER])
def test_a_file_that_cannot_be_read(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for data, read in ((MaskFolder(tmp_path, CLASSES), "MaskFolder"), (Images(tmp_path), "Images")):
        with pytest.raises(DataError) as error:
            data[0]
        assert str(error.value).startswith(f"{read}: a file cannot be decoded.\n  given:   {tmp_path / 'a.png'} (")
