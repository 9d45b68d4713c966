"""What each command of the command line does. What it needs is imported there: ``--help`` is to answer at once, and torch takes seconds."""

from __future__ import annotations

import argparse
from typing import Any

from feataug.cli.dry_run import training_config
from feataug.errors import ConfigError, FeatAugError, message

# Embedded scenes of each split.
SCENES = {"train": 256, "val": 64}
# Training images that the class bias of `feataug teach` is fitted to, at most.
BIAS_IMAGES = 64


def demo(args: argparse.Namespace) -> None:
    """``feataug demo``."""
    from feataug.cli.demo import run_demo, summary

    result = run_demo(args.output, seed=args.seed, device=args.device, progress=not args.quiet)
    print(summary(result) + f"\nwritten: {args.output / 'result.json'}, {args.output / 'demo.png'}")


def inspect(args: argparse.Namespace) -> None:
    """``feataug inspect``."""
    import sys

    import torch

    from feataug.cli.model_names import named_model
    from feataug.cli.user_models import code_file
    from feataug.cutting.cut_points import chosen, cuts
    from feataug.io.results import write_result
    from feataug.reporting.tables import places_table

    model = named_model(args.model)
    if (file := code_file(args.model)) is not None:
        # Several files can have the name; the standard output holds the table alone.
        print(f"{args.model}: {type(model).__name__} from {file}", file=sys.stderr)
    known = getattr(model, "default_cfg", None)  # timm's; a user's own model may have something else of that name
    native = (known if isinstance(known, dict) else {}).get("input_size", (args.channels, 256, 256))
    rows, columns = args.size or native[1:]
    try:
        images = torch.zeros(1, args.channels, rows, columns)
        found = cuts(model, images, max_levels=args.max_levels, everything=True)
    except FeatAugError:
        raise
    except Exception as error:
        given = f"{args.channels} x {rows} x {columns}: {type(error).__name__}: {error}"
        raise ConfigError(
            message("feataug inspect: the model does not take such images.", given=given, needed="another --size")
        ) from error
    places = found if args.all else chosen(found)
    print(places_table(places))
    rest = f"; {len(found) - len(places)} more with --all" if len(found) > len(places) else ""
    print(f"{len(places)} places where {args.model} can be cut whole, at {rows} x {columns}; `/` is the stride{rest}")
    if args.output is not None:
        write_result(args.output, {"model": args.model, "size": [rows, columns], "places": [place.to_dict() for place in places]})


def stages(args: argparse.Namespace) -> None:
    """``feataug stages``."""
    from feataug.data.loader import seeded_loader
    from feataug.data.transforms import eval_transforms, train_transforms
    from feataug.evaluation import stages as run
    from feataug.io.results import write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import stages_table
    from feataug.training.config import GeneratorConfig

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    loader = seeded_loader(train, args.batch_size, seed=args.seed, num_workers=args.workers)
    result = run(
        PSPNet.from_pretrained(args.model), loader, train.num_classes,
        at=[name.split(",") if "," in name else name for name in args.at] if args.at else None,
        num_images=args.num_images, min_cells=args.min_cells, generator_images=args.generator_images, config=GeneratorConfig(seed=args.seed),
        val_loader=seeded_loader(val, args.batch_size, shuffle=False, num_workers=args.workers),
        device=args.device, progress=not args.quiet,
    )  # fmt: skip
    write_result(args.output, result)
    _print_main(stages_table(result) + f"\nwritten: {args.output / 'result.json'}")


def fit_generator(args: argparse.Namespace) -> None:
    """``feataug fit-generator``."""
    import torch

    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.data.loader import seeded_loader
    from feataug.data.transforms import eval_transforms, train_transforms
    from feataug.generation.generator import FeatureGenerator
    from feataug.io.card_facts import data_facts
    from feataug.io.results import quality_summary, recognition_summary, write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import quality_table
    from feataug.training.generator_trainer import GeneratorTrainer

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    cut = split(PSPNet.from_pretrained(args.model), at=args.at)
    torch.manual_seed(args.seed)
    generator = FeatureGenerator(train.num_classes, cut.spec, args.preset)
    config = training_config(args)
    trainer = GeneratorTrainer(generator, cut, config, output=args.output / "run", device=args.device, progress=not args.quiet)
    val_loader = _eval_loader(args, val)
    loader = seeded_loader(train, args.batch_size, seed=args.seed, num_workers=args.workers)
    results = trainer.fit(loader, val_loader)
    if is_main():
        generator.save_pretrained(args.output, card=data_facts(train, args.split, args.data_license, args.data))
    _save_samples(args, val, val_loader, cut=cut, generator=generator)
    score = recognition_summary(results[-1], train.classes)
    result = {"recognition": score, "config": config.to_dict(), "at": args.at}
    if not args.skip_quality and is_main() and (found := _quality(args, trainer, loader, val_loader)):
        result["quality"] = quality_summary(found, train.classes)
        # Once more, with the new figures on the card.
        generator.save_pretrained(args.output, card={"quality": found})
        _print_main(quality_table(result["quality"]))
    write_result(args.output, result)
    _print_main(
        f"recognition score: real {score['real']:.2f}, synthetic {score['synthetic']:.2f}, ratio {score['ratio']:.2f}; "
        f"diversity {score['diversity']:.2f}\nwritten: {args.output}"
    )


def finetune(args: argparse.Namespace) -> None:
    """``feataug finetune``."""
    import torch

    from feataug.cli.saved_prediction import IMAGES, decided, measured, rows_of, some_of
    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.data.loader import seeded_loader
    from feataug.data.transforms import eval_transforms, train_transforms
    from feataug.generation.generator import FeatureGenerator
    from feataug.inference.evaluate import evaluate as measure
    from feataug.io.card_facts import data_facts
    from feataug.io.results import write_result
    from feataug.mixing.mixer import FeatureMixer
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.finetuner import Finetuner

    plain = eval_transforms(tuple(args.eval_size or args.size))
    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, plain, args.eval_size)
    if args.model is not None:
        model = PSPNet.from_pretrained(args.model)
    elif args.encoder is not None:
        torch.manual_seed(args.seed)
        model = PSPNet(args.encoder, train.num_classes, output_stride=args.output_stride, pretrained=args.pretrained)
    else:
        raise ConfigError(message("feataug finetune: no model.", given="neither", needed="--model FOLDER or --encoder NAME"))
    config = training_config(args)
    mixer = cut = generator = None
    if args.generator is not None:
        generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
        cut = split(model, at=generator.spec.layers)
        settings = _mixing(args, cut, train)
        mixer = FeatureMixer(generator, label_smoothing=args.label_smoothing, cut=cut, seed=args.seed, **settings)
    tuner = Finetuner(model, config, mixer=mixer, cut=cut, output=args.output / "run", device=args.device, progress=not args.quiet)
    loader, val_loader = seeded_loader(train, args.batch_size, seed=args.seed, num_workers=args.workers), _eval_loader(args, val)
    # Whole images or windows is decided below.
    figures = tuner.fit(loader, val_loader, num_classes=train.num_classes, crop_size=None)[-1]
    device = tuner.accelerator.device
    if mixer is not None:
        # Running statistics that have seen synthetic features are no longer those of real ones.
        tuner.update_bn(loader)
        figures = measure(model, val_loader, train.num_classes, device=device, crop_size=None)
    some = _eval_loader(args, some_of(_dataset(args, args.split, plain, args.eval_size), IMAGES))
    options: dict[str, Any] = {"crop_size": tuple(args.size), "class_bias": not args.skip_bias, "device": device}
    predict = decided(model, some, train.num_classes, **options)
    result = measured(predict, val_loader, train.classes, device, figures)
    if is_main():
        card = data_facts(train, args.split, args.data_license, args.data, measures=result)
        model.save_pretrained(args.output, card=card)
        if predict.settings():
            predict.save(args.output)
    _save_samples(args, val, val_loader, {"trained": predict}, cut, generator)
    write_result(args.output, result | {"config": config.to_dict()})
    _print_main(table(rows_of(args.output.name, result)) + f"\nwritten: {args.output}")


def fit_bias(args: argparse.Namespace) -> None:
    """``feataug fit-bias``."""
    from pathlib import Path

    from feataug.cli.saved_prediction import folder_of, measured, rows_of, said, some_of
    from feataug.core.distributed import is_main
    from feataug.data.transforms import eval_transforms
    from feataug.evaluation import fit_inference
    from feataug.io.results import write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.device import make_accelerator

    transforms = eval_transforms(tuple(args.size) if args.size else None)
    train, val = (_dataset(args, split, transforms) for split in (args.split, args.eval_split))
    device = make_accelerator(args.device, "no").device
    model = PSPNet.from_pretrained(args.model).to(device)
    some = some_of(train, args.images)
    crop_size: Any = args.crop_size or "noted"
    predict, _ = fit_inference(
        model, _eval_loader(args, some), train.num_classes, crop_size=crop_size, measure=args.measure, device=device
    )
    result = measured(predict, _eval_loader(args, val), val.classes, device)
    beside = args.output or folder_of(args.model)
    args.output = args.output or Path("runs", "fit-bias")
    folder = beside or args.output
    if is_main():
        predict.save(folder)
    write_result(args.output, result | {"fitted": {"split": args.split, "images": len(some), "measure": args.measure}})
    _print_main(
        table(rows_of("whole images", result)) + f"\nfitted on {len(some)} images of {args.split}: {said(predict.settings())}"
        f"\nwritten: {folder / 'inference.json'}, {args.output / 'result.json'}"
    )


def compare(args: argparse.Namespace) -> None:
    """``feataug compare``."""
    from feataug.core.copying import copy_model
    from feataug.core.distributed import is_main
    from feataug.cutting.cut import split
    from feataug.data.loader import seeded_loader
    from feataug.data.transforms import eval_transforms, train_transforms
    from feataug.evaluation import compare as run
    from feataug.generation.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.reporting.plots import save_comparison
    from feataug.reporting.tables import comparison_table

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size)))
    generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
    model = PSPNet.from_pretrained(args.model)
    cut = split(copy_model(model), list(generator.spec.layers))
    val_loader = _eval_loader(args, val)
    _save_samples(args, val, val_loader, cut=cut, generator=generator)
    plain = _eval_loader(args, _dataset(args, args.split, eval_transforms(tuple(args.size))))
    above = _dataset(args, args.ceiling_split, train_transforms(tuple(args.size))) if args.ceiling_split else None
    ceiling = (lambda seed: seeded_loader(above, args.batch_size, seed=seed, num_workers=args.workers)) if above is not None else None
    result = run(
        model,
        list(generator.spec.layers),
        generator,
        loader=lambda seed: seeded_loader(train, args.batch_size, seed=seed, num_workers=args.workers),
        val_loader=val_loader,
        config=training_config(args),
        seeds=range(args.seed, args.seed + args.seeds),
        label_smoothing=args.label_smoothing,
        classes=train.classes,
        output=args.output,
        device=args.device,
        progress=not args.quiet,
        weights_arm=not args.skip_weights,
        ceiling=ceiling,
        plain_loader=plain,
        window=None if args.whole else args.window or "auto",
        bias=not args.skip_bias,
        **_mixing(args, cut, train),
    )
    if is_main():
        picture = save_comparison(args.output / "comparison.png", result)
        print(comparison_table(result) + f"\nwritten: {args.output / 'result.json'}, {picture}")


def teach(args: argparse.Namespace) -> None:
    """``feataug teach``."""
    from torch.utils.data import Subset

    from feataug.data.loader import seeded_loader
    from feataug.data.transforms import eval_transforms, train_transforms
    from feataug.evaluation import teaching_score
    from feataug.generation.generator import FeatureGenerator
    from feataug.models import PSPNet
    from feataug.reporting.tables import teaching_table

    train = _dataset(args, args.split, train_transforms(tuple(args.size)))
    # Whole images, by windows of the crops' size: a decoder knows no larger context.
    whole = _dataset(args, args.split, eval_transforms())
    labelled = Subset(whole, range(0, len(whole), -(-len(whole) // BIAS_IMAGES)))
    generator = FeatureGenerator.from_pretrained(args.generator, num_classes=train.num_classes)
    # Taken out of args: what this function refers to tells runs apart, and --quiet must not.
    model, pretrained = PSPNet.from_pretrained(args.model), args.pretrained
    result = teaching_score(
        model, list(generator.spec.layers), generator,
        lambda seed: seeded_loader(train, args.batch_size, seed=seed, num_workers=args.workers),
        _eval_loader(args, _dataset(args, args.eval_split, eval_transforms())), training_config(args),
        fresh=lambda seed: model.untrained(pretrained=pretrained), seeds=range(args.seed, args.seed + args.seeds),
        window=args.size, bias_loader=_eval_loader(args, labelled), classes=train.classes, output=args.output, device=args.device,
        progress=not args.quiet,
    )  # fmt: skip
    _print_main(teaching_table(result) + f"\nwritten: {args.output / 'result.json'}")


def evaluate(args: argparse.Namespace) -> None:
    """``feataug evaluate``."""
    from feataug.cli.saved_prediction import settings_for
    from feataug.data.transforms import eval_transforms
    from feataug.evaluation import Inference
    from feataug.inference.evaluate import evaluate as measure
    from feataug.io.results import by_class, write_result
    from feataug.models import PSPNet
    from feataug.reporting.tables import table
    from feataug.training.batches import part_of
    from feataug.training.device import make_accelerator

    val = _dataset(args, args.eval_split, eval_transforms(tuple(args.size) if args.size else None))
    device = make_accelerator(args.device, "no").device
    model = PSPNet.from_pretrained(args.model).to(device)
    loader = _eval_loader(args, val)
    settings, source = settings_for(args, model, val.num_classes)
    predict = Inference(model, **settings) if settings else model
    figures = by_class(measure(predict, part_of(loader), val.num_classes, device=device), val.classes)
    write_result(args.output, figures | ({"inference": settings} if settings else {}))
    _save_samples(args, val, loader, {"predicted": predict})
    _print_main(table({str(args.model): figures}) + (f"\n{source}" if source else "") + f"\nwritten: {args.output / 'result.json'}")


def report(args: argparse.Namespace) -> None:
    """``feataug report``."""
    from feataug.reporting.page import write_page

    print(f"written: {write_page(args.run, args.output)}")


def _save_samples(args: argparse.Namespace, data: Any, loader: Any, models: Any = None, cut: Any = None, generator: Any = None) -> None:
    """Pictures of some validation images, for the page of ``feataug report``."""
    from feataug.data.transforms import IMAGENET_MEAN, IMAGENET_STD
    from feataug.io.samples import SAMPLES, keep_samples

    about: Any = {"classes": data.classes, "palette": data.palette, "units": (IMAGENET_MEAN, IMAGENET_STD), "cut": cut}
    keep_samples(args.output / SAMPLES, loader, models, generator=generator, **about)


def _quality(args: argparse.Namespace, trainer: Any, loader: Any, val_loader: Any) -> dict[str, Any] | None:
    """What ``feature_quality`` says; a training of hours does not fail for data that are too few to be compared."""
    import warnings

    from feataug.errors import DataError, FeatAugWarning
    from feataug.evaluation import feature_quality

    try:
        return feature_quality(
            trainer.cut, trainer.generator, loader, val_loader, seed=args.seed, device=trainer.accelerator.device
        )
    except DataError as error:
        warnings.warn(
            f"feataug fit-generator: the quality of the features was not measured.\n{error}", FeatAugWarning, stacklevel=2
        )
        return None


def _eval_loader(args: argparse.Namespace, data: Any) -> Any:
    from feataug.data.loader import seeded_loader

    return seeded_loader(data, args.batch_size, shuffle=False, num_workers=args.workers)


def _print_main(text: str) -> None:
    from feataug.core.distributed import is_main

    if is_main():
        print(text)


def _dataset(args: argparse.Namespace, split: str, transforms: Any, size: Any = None) -> Any:
    """The reader of a split; ``size`` of scenes that are not drawn at ``--size``."""
    from feataug.cli.folder_dataset import folder_data
    from feataug.data import ADE20K, CamVid, Cityscapes, IDDLite, Scenes

    if args.dataset == "scenes":
        # Scenes of different splits never meet: their seeds differ.
        further = split != args.eval_split and split == getattr(args, "ceiling_split", None)
        count = SCENES["train" if split == "train" or further else "val"]
        return Scenes(count, tuple(size or args.size or (96, 128)), seed=0 if split == "train" else 1 + further, transforms=transforms)
    if args.data is None:
        raise ConfigError(message("feataug: no data.", given=f"--dataset {args.dataset}", needed="--data DIR"))
    official: dict[str, Any] = {"camvid": CamVid, "cityscapes": Cityscapes, "ade20k": ADE20K, "idd": IDDLite}
    if args.dataset in official:
        return official[args.dataset](args.data, split, transforms=transforms)
    return folder_data(args, split, transforms)


def _mixing(args: argparse.Namespace, cut: Any, train: Any) -> dict[str, Any]:
    """The masks of ``--preset``, and what belongs to them."""
    from feataug.data.transforms import eval_transforms
    from feataug.masks import DatasetMasks, HardNegativeSampler
    from feataug.mixing.recommended_settings import recommended
    from feataug.training.device import make_accelerator

    given = {} if args.ratio is None else {"ratio": args.ratio}
    kept = {"bank": args.bank} if args.bank else {}
    if args.preset != "recommended":
        return {"masks": HardNegativeSampler(DatasetMasks(train), enabled=args.preset == "paper")} | given | kept
    loader = _eval_loader(args, _dataset(args, args.split, eval_transforms(tuple(args.size))))
    device = make_accelerator(args.device, "no").device
    return recommended(cut, train, loader, train.num_classes, power=args.power, device=device, **given) | kept


COMMANDS = {
    "demo": demo,
    "inspect": inspect,
    "stages": stages,
    "fit-generator": fit_generator,
    "finetune": finetune,
    "fit-bias": fit_bias,
    "compare": compare,
    "teach": teach,
    "evaluate": evaluate,
    "report": report,
}
