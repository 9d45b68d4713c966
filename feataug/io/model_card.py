"""Model cards: what saved weights are, how to use them, and what is known of their training."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from feataug._version import __version__
from feataug.core.measures import TITLES
from feataug.io.card_facts import QUALITIES

# The last line of a card, by which we recognise our own. Cards of earlier versions end with it: do not change it.
MARK = "<!-- Written by feataug, and written anew when the model is saved again, unless this line is taken out. -->"

_UNKNOWN_LICENSE = "unknown: ask the data's owners"


def plain(value: Any) -> str:
    """Escape a text from elsewhere as one line of Markdown without any markup.

    Example:
        >>> print(plain("<b>a|b</b>"))
        \\<b\\>a\\|b\\</b\\>
    """
    text = "".join(character for character in " ".join(str(value).split()) if character.isprintable())
    return re.sub(r"([\\`*_{}\[\]<>|#!&~$])", r"\\\1", text[:500])


def quoted(value: Any) -> str:
    """Quote a text as in Python and JSON, always on one line."""
    return json.dumps(value)


def local_name(folder: str | Path) -> str:
    """Return a folder's name for code in a card, without the absolute path on this machine."""
    path = Path(folder)
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()


def generator_text(name: str, spec: Any, num_classes: int, latent_dim: int | None, ignore_index: int) -> str:
    """Write the first half of a generator's card: what it is, how to use it, and its cut."""
    rows = "\n".join(f"| {plain(x.name)} | {x.channels} | {x.reduction or '-'} | {x.tokens or '-'} |" for x in spec)
    return f"""\
# Features from label masks, {num_classes} classes

From label masks and noise this generator makes features like those that the encoder of a segmentation model computes from images with these masks.
They serve to train the model's decoder further, on batches that are partly synthetic (He, Schiele and Fritz, *Synthetic Convolutional Features for
Improved Semantic Segmentation*). The generator itself segments nothing.

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

Noise: {latent_dim or "as many"} numbers for each sample{"" if latent_dim else ", as its features have"}.
"""


def model_text(name: str, encoder: str, num_classes: int) -> str:
    """Write the first half of a segmentation model's card."""
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
    """Write the part of a card that shows how to predict with the ``settings`` of ``inference.json``."""
    lines = []
    if size := settings.get("window"):
        lines.append(f"- Windows of {size[0]} x {size[1]}: the model does worse on larger whole images.")
    if "scales" in settings:
        lines.append(f"- Mean over the scales {', '.join(f'{scale:g}' for scale in settings['scales'])}.")
    if settings.get("flip"):
        lines.append("- Mean with the prediction of the mirror image.")
    if "class_bias" in settings:
        lines.append("- A class bias, fitted on training images. It may not suit other data.")
    known = "\n".join(lines)
    return f"""\
## Predict

`inference.json` holds the settings. The measures below may have been taken without them.

{known}

```python
import feataug

predict = feataug.Inference.load(model, {quoted(name)})
classes = predict(images).argmax(1)
```
"""


def _quality_text(quality: Mapping[str, Any]) -> list[str]:
    reference = quality.get("reference", {})
    figures = [
        f"{title} {quality[name]:.2f}" + (f" (real features: {reference[name]:.2f})" if name in reference else "")
        for name, title in QUALITIES.items()
        if name in quality
    ]
    lines = ["Synthetic features against real features of held-out images, cell by cell:", ", ".join(figures) + "."]
    if "copies" in quality:
        lines.append(f"Memory test: {'the generator copies training features' if quality['copies'] else 'no sign of copying'}.")
    return ["", *lines]


def facts_text(facts: Mapping[str, Any]) -> str:
    """Write the second half of a card: what is known of the training, and what is not."""
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
            measured.append(f"\nWithout a pixel in the measured masks: {', '.join(absent)}. Nothing is known of these classes.")
    lines += measured or ["Not measured, or not stated."]
    lines += ["", "## Licence", "", f"Of the weights: {plain(facts.get('license', 'not stated'))}."]
    return "\n".join([*lines, "", f"Written by feataug {__version__}.", "", MARK, ""])


def model_card(text: str, facts: Mapping[str, Any], base: ModelCardData) -> ModelCard:
    """Make a card with front matter for the hub; huggingface_hub writes the YAML."""
    license = facts.get("license", "unknown")
    # The hub accepts short names; any other licence is "other" with a name.
    named = {"license": license} if re.fullmatch(r"[a-z0-9.-]+", license) else {"license": "other", "license_name": license}
    data = ModelCardData(**base.to_dict() | named)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n{facts_text(facts)}")
