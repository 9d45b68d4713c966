"""Colour-coded masks against a loop over pixels, palettes that have to agree, and every error as a whole text."""

import numpy as np
import pytest
import torch
from PIL import Image

from feataug.data import MaskedImages, MaskFolder
from feataug.errors import ConfigError, DataError

CLASSES = ("road", "sky", "car")
COLORS = [(128, 64, 128), (70, 130, 180), (0, 0, 142)]
VOID = (0, 0, 0)
NEEDED = "a colour (red, green, blue), 0 .. 255, for each class: a sequence in the order of the classes, or {class: colour, or several}"


def draw(labels, colors, mode="RGB"):
    """A picture of labels, pixel by pixel."""
    size = len(mode)
    pixels = np.zeros((*labels.shape, size), np.uint8)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            pixels[row, column, :3] = colors[int(labels[row, column])]
    if size == 4:
        pixels[..., 3] = 255
    return Image.fromarray(pixels)


def labels(seed=0, values=(0, 1, 2, 255)):
    return np.random.default_rng(seed).choice(np.array(values), (7, 9))


def error_of(call, kind=DataError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    "given",
    [
        {"colors": COLORS, "void": VOID},
        {"colors": dict(enumerate(COLORS)) | {255: VOID}},
        {"colors": dict(zip(CLASSES, COLORS, strict=True)) | {255: [VOID, (1, 1, 1)]}},
        {"colors": np.array(COLORS), "void": VOID},
    ],
)
def test_colours_are_read_as_the_loop_drew_them(tmp_path, mode, given):
    expected = labels()
    draw(expected, dict(enumerate(COLORS)) | {255: VOID}, mode).save(tmp_path / "a.png")
    data = MaskFolder(tmp_path, CLASSES, **given)
    assert data.mask(0).dtype == torch.int64
    assert np.array_equal(data.mask(0).numpy(), expected)
    assert data.palette == tuple(COLORS)
    # Planted: two colours exchanged.
    swapped = MaskFolder(tmp_path, CLASSES, colors=[COLORS[1], COLORS[0], COLORS[2]], void=VOID)
    assert not np.array_equal(swapped.mask(0).numpy(), expected)


def test_several_colours_of_one_class_and_another_void(tmp_path):
    expected = labels(values=(0, 1, 2, 3))
    draw(expected, [*COLORS, (9, 9, 9)]).save(tmp_path / "a.png")
    table = {"road": [COLORS[0], COLORS[1]], "sky": COLORS[2], -1: (9, 9, 9)}
    data = MaskFolder(tmp_path, ("road", "sky"), colors=table, ignore_index=-1)
    assert np.array_equal(data.mask(0).numpy(), np.array([0, 0, 1, -1])[expected])
    assert data.palette == (COLORS[0], COLORS[2])


def test_colours_of_grey_one_bit_and_palette_files(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "b.png")
    for name, order in (("c", (0, 1)), ("d", (1, 0))):  # palettes in another order in each file
        picture = Image.fromarray(np.array([order], np.uint8), "P")
        picture.putpalette([c for k in np.argsort(order) for c in ((0, 0, 0), (255, 255, 255))[k]])
        picture.save(tmp_path / f"{name}.png")
    data = MaskFolder(tmp_path, ("no", "yes"), colors=[(0, 0, 0), (255, 255, 255)])
    assert [data.mask(index).tolist() for index in range(4)] == [[[0, 1]]] * 4


def test_alpha_is_part_of_a_colour_of_four(tmp_path):
    pixels = np.array([[[0, 0, 0, 0], [255, 0, 0, 255]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert MaskFolder(tmp_path, "ab", colors=[(0, 0, 0, 0), (255, 0, 0)]).mask(0).tolist() == [[0, 1]]
    assert error_of(lambda: MaskFolder(tmp_path, "ab", colors=[(0, 0, 0), (255, 0, 0)]).mask(0)) == (
        f"MaskFolder: a mask holds colours that are no class.\n  given:   (0, 0, 0, 0) at 1 pixels in {tmp_path / 'a.png'}\n"
        "  needed:  (0, 0, 0), (255, 0, 0)"
    )


def test_another_colour_is_named_with_its_file(tmp_path):
    drawn = labels()
    picture = draw(drawn, dict(enumerate(COLORS)) | {255: (1, 2, 3)})
    picture.save(tmp_path / "a.png")
    given = f"(1, 2, 3) at {(drawn == 255).sum()} pixels in {tmp_path / 'a.png'}"
    needed = "(128, 64, 128), (70, 130, 180), (0, 0, 142)"
    text = f"MaskFolder: a mask holds colours that are no class.\n  given:   {given}\n  needed:  {needed}"
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, colors=COLORS)[0]) == text
    # Resized with interpolation: many colours between those of classes.
    picture.resize((90, 70), Image.Resampling.BILINEAR).save(tmp_path / "a.png")
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, colors=COLORS)[0]).endswith(
        "\nMany colours near those of classes come from JPEG or from resizing with interpolation: such masks cannot be used."
    )


@pytest.mark.parametrize(
    ("colors", "text"),
    [
        (COLORS[:2], f"colors is not a table of colours.\n  given:   2 colours, 3 classes\n  needed:  {NEEDED}"),
        ("abc", f"colors is not a table of colours.\n  given:   'abc'\n  needed:  {NEEDED}"),
        (7, f"colors is not a table of colours.\n  given:   7\n  needed:  {NEEDED}"),
        ([(1, 2), (3, 4, 5), (6, 7, 8)], f"colors is not a table of colours.\n  given:   [1, 2]\n  needed:  {NEEDED}"),
        ([(1, 2, 256), (3, 4, 5), (6, 7, 8)], f"colors is not a table of colours.\n  given:   [1, 2, 256]\n  needed:  {NEEDED}"),
        ({0: (1, 2, 3)}, f"classes have no colour.\n  given:   1 (sky), 2 (car)\n  needed:  {NEEDED}"),
        (
            [(1, 2, 3), (1, 2, 3), (6, 7, 8)],
            "two classes have the same colour.\n  given:   (1, 2, 3) for 0 and 1\n  needed:  one class for each colour",
        ),
        (
            {"rode": (1, 2, 3)},
            "colors are for an unknown class.\n  given:   'rode'\n  needed:  a class, 0 .. 2 or its name, or 255 for void",
        ),
    ],
)
def test_what_is_no_table(tmp_path, colors, text):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, colors=colors), ConfigError) == f"MaskFolder: {text}"


def test_labels_or_colours(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    text = "MaskFolder: ids and colors exclude each other.\n  given:   ids and colors\n  needed:  one of the two"
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, colors=COLORS, ids=[0, 1, 2]), ConfigError) == text
    text = "MaskFolder: void is not a label.\n  given:   (0, 0, 0)\n  needed:  an integer, or colors="
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, void=VOID), ConfigError) == text
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    text = f"MaskFolder: a mask has no colours of 8 bits.\n  given:   {tmp_path / 'a.png'}, mode 'I;16'\n  needed:  RGB, RGBA, grey or a palette"
    assert error_of(lambda: MaskFolder(tmp_path, CLASSES, colors=COLORS)[0]) == text


def palette(file, indices, colors):
    picture = Image.fromarray(np.array([indices], np.uint8), "P")
    picture.putpalette([part for color in colors for part in color])
    picture.save(file)


def test_palettes_that_agree_in_what_is_used(tmp_path):
    black, red, green = (0, 0, 0), (200, 0, 0), (0, 200, 0)
    palette(tmp_path / "a.png", [0, 1], [black, red, green])
    palette(tmp_path / "b.png", [0, 2], [black, (9, 9, 9), green])  # its index 1 is not used
    palette(tmp_path / "c.png", [0], [black])
    palette(tmp_path / "d.png", [1, 1], [black, red])
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "e.png")  # no palette at all
    data = MaskFolder(tmp_path, CLASSES)
    for order in (range(5), reversed(range(5))):
        assert [data.mask(index).tolist() for index in order]


@pytest.mark.parametrize("first", [0, 1])
def test_palettes_that_every_file_renumbers(tmp_path, first):
    black, red, green = (0, 0, 0), (200, 0, 0), (0, 200, 0)
    palette(tmp_path / "a.png", [0, 1], [black, red])
    palette(tmp_path / "b.png", [0, 1], [black, green])  # tree is 1 here, as car is there
    data = MaskFolder(tmp_path, CLASSES)
    data.mask(0) if first == 0 else None  # compared with the first file, whatever was read before
    given = f"index 1 is (200, 0, 0) in {tmp_path / 'a.png'}, (0, 200, 0) in {tmp_path / 'b.png'}"
    assert error_of(lambda: data.mask(1)) == (
        f"MaskFolder: the palettes of two masks differ, so that one index means two classes.\n  given:   {given}\n"
        "  needed:  one palette for all masks\n"
        "If the colours are right, pass colors=, which reads them in place of the indices."
    )
    data = MaskFolder(tmp_path, CLASSES, colors=[black, red, green])
    assert [data.mask(index).tolist() for index in range(2)] == [[[0, 1]], [[0, 2]]]


def test_a_colour_under_another_index(tmp_path):
    black, red, green = (0, 0, 0), (200, 0, 0), (0, 200, 0)
    palette(tmp_path / "a.png", [0, 2], [black, green, red])
    palette(tmp_path / "b.png", [0, 1], [black, red])
    given = f"(200, 0, 0) is index 2 in {tmp_path / 'a.png'}, index 1 in {tmp_path / 'b.png'}"
    assert f"given:   {given}\n" in error_of(lambda: MaskFolder(tmp_path, CLASSES).mask(1))


def test_pairs_take_colours(tmp_path):
    for folder in "im":
        (tmp_path / folder).mkdir()
    draw(labels(values=(0, 1, 2)), COLORS).save(tmp_path / "m/a.png")
    Image.new("RGB", (9, 7)).save(tmp_path / "i/a.png")
    data = MaskedImages(tmp_path / "i", tmp_path / "m", CLASSES, colors=COLORS)
    assert np.array_equal(data[0][1].numpy(), labels(values=(0, 1, 2)))
