"""Model cards: what saved weights are, how they are used, and what is known of how they came about."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from feataug._version import __version__
from feataug.core.measures import TITLES
from feataug.errors import ConfigError, message

# The last line of a card; it is how we know our own.
MARK = "<!-- Written by feataug, and written anew when the model is saved again, unless this line is taken out. -->"

_UNKNOWN_LICENSE = "unknown: ask the data's owners"
_QUALITIES = {"frechet": "Fréchet distance", "precision": "precision", "recall": "recall"}


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(_number(value.get(name)) for name in names)


# What a card can say: by name what is needed, how that is seen, and which parts of a dictionary are kept.
_FACTS: dict[str, tuple[str, Callable[[Any], bool], tuple[str, ...]]] = {
    "data": ("a text: what the model was trained on", _text, ()),
    "data_license": ("a text: the licence of the data", _text, ()),
    "classes": (
        "the classes' names",
        lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_text, value)),
        (),
    ),
    "images": (
        "how many images training saw, an integer",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        (),
    ),
    "recognition": (
        "the recognition score: a dictionary with the numbers real, synthetic, ratio, and perhaps diversity",
        _numbers("real", "synthetic", "ratio"),
        ("real", "synthetic", "ratio", "diversity"),
    ),
    "teaching": (
        "the teaching score: a dictionary with the numbers real, synthetic, score, and perhaps gaussians",
        _numbers("real", "synthetic", "score"),
        ("real", "synthetic", "score", "gaussians"),
    ),
    "quality": (
        "what feataug.feature_quality returns: a dictionary with the numbers precision and recall, and perhaps frechet, reference, memory",
        _numbers("precision", "recall"),
        tuple(_QUALITIES),
    ),
    "measures": (
        "a dictionary with the numbers pixel_acc, class_acc, miou and fw_iou, in percent",
        _numbers(*TITLES),
        tuple(TITLES),
    ),
    "license": ("a text: the licence of the weights", _text, ()),
}


def check_facts(who: str, card: Any, num_classes: int | None = None) -> dict[str, Any]:
    """The facts of a card in JSON's types.

    Raises:
        ConfigError: a fact is unknown, or not what it has to be.
    """
    if not isinstance(card, Mapping):
        raise ConfigError(message(f"{who}: card is no dictionary.", given=repr(card)[:200], needed=", ".join(_FACTS)))
    for name, value in card.items():
        if name not in _FACTS:
            raise ConfigError(message(f"{who}: a fact of the card is unknown.", given=repr(name), needed=", ".join(_FACTS)))
        if not _FACTS[name][1](value):
            raise ConfigError(message(f"{who}: {name} of the card does not fit.", given=repr(value)[:200], needed=_FACTS[name][0]))
    if num_classes is not None and "classes" in card and len(card["classes"]) != num_classes:
        names = card["classes"]
        raise ConfigError(message(f"{who}: classes of the card do not fit.", given=f"{len(names)} names", needed=f"{num_classes}"))
    return known_facts(card)


def known_facts(card: Any) -> dict[str, Any]:
    """The facts of a card in a file that anybody may have written: what is no fact is left out."""
    if not isinstance(card, Mapping):
        return {}
    facts = {name: value for name, value in card.items() if name in _FACTS and _FACTS[name][1](value)}
    for name, value in facts.items():
        if keys := _FACTS[name][2]:
            facts[name] = {key: value[key] for key in keys if _number(value.get(key))} | _absent(value.get("absent"), name)
            if name == "quality":
                facts[name] |= _quality(value)
        elif name == "classes":
            facts[name] = list(value)
    return facts


def _absent(value: Any, name: str) -> dict[str, list[Any]]:
    """Classes without a pixel in the masks that were measured on, by number or name."""
    kept = (
        [x for x in value if _text(x) or (isinstance(x, int) and not isinstance(x, bool))]
        if isinstance(value, (list, tuple))
        else []
    )
    return {"absent": kept} if kept and name == "measures" else {}


def _quality(value: Mapping[str, Any]) -> dict[str, Any]:
    """Of a generator's quality: what real features get, and whether it copies."""
    reference, memory = (x if isinstance(x, Mapping) else {} for x in (value.get("reference"), value.get("memory")))
    numbers = {name: reference[name] for name in _QUALITIES if _number(reference.get(name))}
    # In config.json it stands by itself.
    copies = value.get("copies", memory.get("copies"))
    return ({"reference": numbers} if numbers else {}) | ({"copies": copies} if isinstance(copies, bool) else {})


def _quality_text(quality: Mapping[str, Any]) -> list[str]:
    """At most three lines."""
    reference = quality.get("reference", {})
    figures = [
        f"{title} {quality[name]:.2f}" + (f" (real features: {reference[name]:.2f})" if name in reference else "")
        for name, title in _QUALITIES.items()
        if name in quality
    ]
    lines = ["Synthetic features against real features of held-out images, cell by cell:", ", ".join(figures) + "."]
    if "copies" in quality:
        lines.append(f"Memory test: {'the generator copies training features' if quality['copies'] else 'no sign of copying'}.")
    return ["", *lines]


def data_facts(data: Any, split: str, license: str | None, folder: Path | None, **more: Any) -> dict[str, Any]:
    """What a reader of ``feataug.data`` knows for a card: name, size, classes, and its licence where that is certain.

    Nothing in it is an error: it is asked for when a long training is over.

    Args:
        data: The reader.
        split: What was read.
        license: Instead of the reader's.
        folder: Of the data; its last part is the name of data that has none.
        more: Further facts.
    """
    name = type(data).__name__
    if name == "MaskedImages":
        name = f"the folder {folder.name}" if folder is not None and folder.name else "a folder of images and masks"
    facts = {"data": f"{name}, split {split}, {len(data)} images", "classes": list(data.classes)}
    return known_facts(facts | {"data_license": license or getattr(data, "license", None)} | more)


def plain(value: Any) -> str:
    """Somebody's text as one line of Markdown that shows it and does nothing else.

    Example:
        >>> print(plain("<b>a|b</b>"))
        \\<b\\>a\\|b\\</b\\>
    """
    text = "".join(character for character in " ".join(str(value).split()) if character.isprintable())
    return re.sub(r"([\\`*_{}\[\]<>|#!&~$])", r"\\\1", text[:500])


def quoted(value: Any) -> str:
    """A text as Python and JSON write it, on one line whatever is in it."""
    return json.dumps(value)


def local_name(folder: str | Path) -> str:
    """How code calls a folder: as it was given, without what lies above it on this machine."""
    path = Path(folder)
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def generator_text(name: str, spec: Any, num_classes: int, latent_dim: int, ignore_index: int) -> str:
    """The first half of a generator's card: what it is, how it is used, and for which cut it was made."""
    rows = "\n".join(f"| {plain(x.name)} | {x.channels} | {x.reduction or '-'} | {x.tokens or '-'} |" for x in spec)
    return f"""\
# Features from label masks, {num_classes} classes

From label masks and noise this generator makes what the encoder of a segmentation model would have made of images with those masks. It serves to
train the decoder of such a model further, on batches of which a part is synthetic (He, Schiele and Fritz, *Synthetic Convolutional Features for
Improved Semantic Segmentation*). By itself it segments nothing.

## Use

```python
import torch
import feataug

generator = feataug.FeatureGenerator.from_pretrained({quoted(name)})
masks = torch.randint({num_classes}, (2, 64, 96))  # label maps: classes 0 .. {num_classes - 1}, {ignore_index} for void
features = generator(masks)  # one tensor for each level below
```

With the `model` that it was made for, and a `train_set` of `(image, mask)`:

```python
cut = feataug.split(model, at={quoted(list(spec.layers))})
generator = feataug.FeatureGenerator.from_pretrained({quoted(name)}, cut=cut, num_classes={num_classes})  # an error if it does not fit
mixer = feataug.FeatureMixer(generator, feataug.DatasetMasks(train_set), cut=cut)
```

## Made for this cut

| level | channels | stride | tokens |
|---|---|---|---|
{rows}

Noise: {latent_dim} numbers for each sample.
"""


def model_text(name: str, encoder: str, num_classes: int) -> str:
    """The first half of a segmentation model's card."""
    return f"""\
# PSPNet on {plain(encoder)}, {num_classes} classes

A segmentation model: images to logits. The encoder is timm's.

## Use

```python
import torch
from feataug.models import PSPNet

model = PSPNet.from_pretrained({quoted(name)})
images = torch.zeros(1, 3, 96, 128)  # normalised by the mean and standard deviation of ImageNet
classes = model(images).argmax(1)  # 0 .. {num_classes - 1}
```
"""


def inference_text(name: str, settings: Mapping[str, Any]) -> str:
    """The part of a card that says how the model is predicted with; ``settings`` are those of ``inference.json``."""
    lines = []
    if size := settings.get("window"):
        lines.append(f"- By windows of {size[0]} x {size[1]}: the model does worse on whole images that are larger.")
    if "scales" in settings:
        lines.append(f"- Mean over the scales {', '.join(f'{scale:g}' for scale in settings['scales'])}.")
    if settings.get("flip"):
        lines.append("- Mean with the mirror image.")
    if "class_bias" in settings:
        lines.append("- A number is added for each class (class bias), fitted on training images. On other data it may not fit.")
    known = "\n".join(lines)
    return f"""\
## Predict

The measures below may have been taken without `inference.json`. Predict as it says:

{known}

```python
import feataug

predict = feataug.Inference.load(model, {quoted(name)})
classes = predict(images).argmax(1)
```
"""


def facts_text(facts: Mapping[str, Any]) -> str:
    """The second half of a card: what is known of the training, and what is not."""
    lines = ["## Trained on", "", f"- Data: {plain(facts['data']) if 'data' in facts else 'not stated'}"]
    lines.append(f"- Licence of the data: {plain(facts.get('data_license', _UNKNOWN_LICENSE))}")
    if "classes" in facts:
        lines.append(f"- Classes: {', '.join(f'{number} {plain(name)}' for number, name in enumerate(facts['classes']))}")
    if "images" in facts:
        lines.append(f"- Images that training saw: {facts['images']}")
    lines += ["", "## Measured", ""]
    measured = []
    if score := facts.get("recognition"):
        spread = f" Diversity: {score['diversity']:.2f} (1 is as varied as real features)." if "diversity" in score else ""
        measured.append(
            f"Recognition score (mIoU of the frozen decoder, in percent): real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, "
            f"ratio {score['ratio']:.2f}.{spread}"
        )
    if taught := facts.get("teaching"):
        other = f", class Gaussians {taught['gaussians']:.2f}" if "gaussians" in taught else ""
        # A paragraph of its own.
        measured += [""] * bool(measured) + [
            f"Teaching score (mIoU on real images of a fresh decoder trained on such features alone, in percent): real {taught['real']:.2f}, "
            f"synthetic {taught['synthetic']:.2f}{other}, score {taught['score']:.2f}."
        ]
    if quality := facts.get("quality"):
        measured += _quality_text(quality)
    if scores := facts.get("measures"):
        measured.append(", ".join(f"{title} {scores[name]:.2f}" for name, title in TITLES.items()) + " (percent).")
        names = facts.get("classes", [])
        if absent := [plain(names[x] if isinstance(x, int) and 0 <= x < len(names) else x) for x in scores.get("absent", ())]:
            measured.append(
                f"\nWithout a pixel in the masks that were measured on: {', '.join(absent)}. Nothing is known of these classes."
            )
    lines += measured or ["Not measured, or not stated."]
    lines += ["", "## Licence", "", f"Of the weights: {plain(facts.get('license', 'not stated'))}."]
    # By its name: the package stands above its modules, and imports them.
    version = __version__
    return "\n".join([*lines, "", f"Written by feataug {version}.", "", MARK, ""])


def model_card(text: str, facts: Mapping[str, Any], base: ModelCardData) -> ModelCard:
    """A card whose front matter the hub reads; huggingface_hub writes the YAML."""
    license = facts.get("license", "unknown")
    # The hub knows short names; all else is "other", with a name.
    named = {"license": license} if re.fullmatch(r"[a-z0-9.-]+", license) else {"license": "other", "license_name": license}
    data = ModelCardData(**base.to_dict() | named)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n{facts_text(facts)}")
