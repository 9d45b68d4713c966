"""Labels that do not mean what their user thinks: binary masks of 0 and 255, void that is a class, classes without a pixel."""

import warnings

import pytest
import torch
from torch import nn

import feataug
from feataug.core.label_checks import FirstLabels, check_labels, listed, one_class
from feataug.data import MaskFolder, seeded_loader
from feataug.errors import ConfigError, DataError, FeatAugWarning
from feataug.inference.evaluate import evaluate
from tests.support.label_folders import NAMES, SPEC, always, data, error_of, folder


@pytest.mark.parametrize("label", [0, 1])
def test_a_score_over_one_class_and_void_is_an_error(tmp_path, label):
    folder(tmp_path, (label, 255), (label,))
    loader = seeded_loader(data(tmp_path), 1, shuffle=False)
    assert error_of(lambda: evaluate(always(label), loader, 2)) == (
        "evaluate: the masks hold one class and void only, so that the measures say nothing.\n"
        f"  given:   96 pixels of class {label}, 32 of void (255), none of the other 1\n"
        "  needed:  pixels of two classes or more\n"
        "If 255 is a class in the files, say so: the readers take ids={0: 0, 255: 1}. To measure such a set all the same, "
        "use feataug.SegmentationMetrics."
    )
    found = evaluate(always(0), seeded_loader(data(tmp_path, ids={label: label, 255: 1 - label}), 1, shuffle=False), 2)
    assert found["absent"] == []


@pytest.mark.parametrize(("masks", "absent"), [(((0, 1, 255),), []), (((0,),), [1]), (((255,),), [0, 1]), (((1, 0),), [])])
def test_other_sets_have_their_figures(tmp_path, masks, absent):
    folder(tmp_path, *masks)
    assert evaluate(always(0), seeded_loader(data(tmp_path), 1, shuffle=False), 2)["absent"] == absent


def test_recognition_says_so_too(tmp_path):
    folder(tmp_path, (0, 255))
    model = nn.Sequential()
    model.body, model.head = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 2, 1)
    cut = feataug.split(model, "body", example=torch.zeros(1, 3, 8, 8))
    generator = feataug.FeatureGenerator(2, cut.spec, width=4, depth=1)
    loader = seeded_loader(data(tmp_path), 1, shuffle=False)
    assert error_of(lambda: feataug.recognition(cut, generator, loader)).startswith("recognition: the masks hold one class and void only")


def test_readers_count_labels(tmp_path):
    folder(tmp_path, *[(0, 255)] * 9, (1,))
    reader = MaskFolder(tmp_path / "m", NAMES)
    counts = reader.label_counts()
    assert (counts.classes, counts.void, counts.masks, counts.of, counts.absent, counts.complete) == ((288, 64), 288, 10, 10, (), True)
    assert reader.label_counts(1000) is counts  # looked at once
    few = reader.label_counts(3)
    assert (few.masks, few.of, few.complete) == (3, 10, False)
    # Evenly spaced, the last one among them.
    assert few.classes == (64, 64)
    assert error_of(lambda: reader.label_counts(0), ConfigError) == (
        "MaskFolder.label_counts: limit is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"
    )


def test_a_look_before_training(tmp_path):
    folder(tmp_path, *[(0, 255)] * 20)
    reader = data(tmp_path)
    text = (
        'x: the masks hold one class and void only.\n  given:   label 0 ("background") and label 255, which was taken for void, in 20 of 20 '
        "masks; no pixel of lesion\n  needed:  pixels of two classes or more\n"
        'If 255 stands for "lesion", pass ids={0: 0, 255: 1} to MaskedImages (--ids 0=0 255=1).\n'
        "If it is void, say so: ids={0: 0, 1: 1, 255: 255}."
    )
    loader = seeded_loader(reader, 4)
    for source in (reader, loader, feataug.DatasetMasks(reader), feataug.HardNegativeSampler(reader), torch.utils.data.Subset(reader, [0])):
        assert error_of(lambda source=source: check_labels("x", source)) == text
    model = nn.Conv2d(3, 2, 1)
    tuner = feataug.Finetuner(model, feataug.FinetuneConfig(num_steps=1), device="cpu", progress=False)
    before = model.weight.clone()
    for call in (lambda: tuner.fit(loader), lambda: tuner.fit([], loader, num_classes=2)):
        assert error_of(call) == text.replace("x:", "Finetuner:", 1)
    assert torch.equal(model.weight, before)
    # One mask that shows the class, among those that are not looked at first: no error.
    folder(tmp_path, *[(0, 255)] * 5, (0, 1))
    check_labels("x", data(tmp_path), [1, 2], None, object())
    # Said by ids: the user knows.
    folder(tmp_path, *[(0, 255)] * 20)
    check_labels("x", data(tmp_path, ids={0: 0, 1: 1, 255: 255}), data(tmp_path, ids={0: 0, 255: 1}))


def test_a_class_that_no_training_mask_holds_is_a_warning(tmp_path):
    folder(tmp_path, (0, 1), (0,))
    classes = ("road", "sky", "car")
    with pytest.warns(FeatAugWarning) as seen:
        check_labels("x", data(tmp_path, classes), training=True)
    assert [str(w.message) for w in seen] == [
        "x: no mask holds these classes: car (all 2 masks were read). They cannot be learned from these masks."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_labels("x", data(tmp_path, classes))  # to measure on: the figures say it
        folder(tmp_path, *[(0, 1)] * 65)
        check_labels("x", data(tmp_path, classes), training=True)  # not all masks were read: nothing is known
    (tmp_path / "m/000.png").write_bytes(b"")
    check_labels("x", data(tmp_path, classes), training=True)  # reading it in its turn raises


def test_helpers():
    assert [one_class(*case) for case in (((3, 0), 1), ((3, 0), 0), ((3, 1), 1), ((0, 0), 1), ((3,), 1))] == [True, *[False] * 4]
    assert listed("abc", 2) == "a, b and 1 more"


def test_a_mixer_takes_whatever_holds_masks(tmp_path):
    folder(tmp_path, (0, 1), (1, 0))
    generator = feataug.FeatureGenerator(2, SPEC, width=4, depth=1)
    plain = data(tmp_path)
    sources = (plain, MaskFolder(tmp_path / "m", NAMES), torch.zeros(3, 8, 8).long(), [torch.zeros(8, 8).long()], feataug.DatasetMasks(plain))
    for source in sources:
        mixer = feataug.FeatureMixer(generator, source, 0.5)
        assert hasattr(mixer.masks, "draw")
        assert mixer(torch.zeros(2, 8, 2, 2), torch.zeros(2, 8, 8).long()).masks.shape == (4, 8, 8)
    assert mixer.masks is sources[-1]
    for wrong in ({"a": 1}, 7, "masks"):
        assert error_of(lambda wrong=wrong: feataug.FeatureMixer(generator, wrong), ConfigError).startswith("FeatureMixer: masks cannot draw.")


def binary(count=8, size=16):
    """Labels of 0 and 255, in tensors of one's own."""
    masks = torch.zeros(count, size, size, dtype=torch.long)
    masks[:, 4:9, 4:9] = 255
    return torch.utils.data.DataLoader([(torch.rand(3, size, size), mask) for mask in masks], 4)


def learned_from(loader, steps=20, **changes):
    """Trainings that look at no file: the loader's batches are all they know."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.Upsample(scale_factor=2))
    cut = feataug.split(model, "1")
    generator = feataug.FeatureGenerator(2, cut.spec, width=8, depth=1)
    config = feataug.GeneratorConfig(num_images=4 * steps, **changes)
    yield lambda: feataug.GeneratorTrainer(generator, cut, config, device="cpu", progress=False).fit(loader)
    settings = feataug.FinetuneConfig(num_steps=steps)
    yield lambda: feataug.Finetuner(model, settings, device="cpu", progress=False).fit(loader, lambda model: {})
    yield lambda: feataug.deficit_weights(model, loader, 2)


@pytest.mark.filterwarnings("ignore::feataug.errors.FeatAugWarning")
def test_loaders_of_ones_own_are_looked_at_while_training_begins():
    effects = {
        "GeneratorTrainer": "so that nothing can be learned",
        "Finetuner": "so that nothing can be learned",
        "deficit_weights": "so that no class can be weighed against another",
    }
    for (who, effect), call in zip(effects.items(), learned_from(binary()), strict=True):
        with pytest.raises(DataError) as error:
            call()
        text = str(error.value)
        assert text.startswith(f"{who}: the masks hold one class and void only, {effect}.\n")
        assert "of class 0, " in text
        assert "none of the other 1\n" in text
    # Of fewer batches nothing is concluded; nor is a generator lost whose last batch is of one class.
    for call in list(learned_from(binary(), steps=3))[:2]:
        call()
    # Two classes in any of the first batches will do.
    loader = binary()
    loader.dataset[7][1][0, 0] = 1
    for call in learned_from(loader):
        call()


def test_first_labels_are_counted_until_two_classes_were_seen():
    def looked(*labels, num_classes=3, batches=2):
        seen = FirstLabels("x", 9, batches)
        for label in labels:
            seen.look(torch.tensor([[label]]), num_classes)
        return seen.left

    assert looked([0, 9]) == 1
    assert looked([0, 1]) == 0
    assert looked([0, 0], [0, 0]) == 0  # no void: a class of its own may be all there is
    assert looked([9, 9], [9, 9]) == 0
    assert looked([0, 9], [0, 9], num_classes=1) == 0
    with pytest.raises(DataError, match="2 of void"):
        looked([0, 9], [0, 9])
    with pytest.raises(DataError, match="pixels of class 5"):
        looked([5, 9], [5, 9], num_classes=None)
