"""Damage files of a run folder at random, run again: ``python -m tests.support.damage --damages 200``.

A file of a finished training, of a finished comparison or of a feature bank is cut short, loses or gains bits, is emptied, deleted or replaced by
noise. Then the same call is made again. It must give what the undisturbed one gave, or raise an error of ours; never another result, another
exception or a crash.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import FeatAugError
from feataug.training.checkpoint import checkpoints
from tests.support.kill import SIZE, data, make


def training(kind: str) -> Callable[[Path], Any]:
    """Train, or go on, and give the weights."""

    def run(folder: Path) -> Any:
        trainer, module = make(kind, folder)
        trainer.fit(seeded_loader(data(), 3, seed=1))
        return [value.clone() for value in module.state_dict().values()]

    return run


def comparison(folder: Path) -> Any:
    """Compare on two seeds, and give the figures."""
    trainer, model = make("finetune", None)
    result = feataug.compare(
        model, "0", trainer.mixer.generator, feataug.DatasetMasks(data()), lambda seed: seeded_loader(data(), 4, seed=seed),
        seeded_loader(Scenes(4, SIZE, seed=1, transforms=eval_transforms()), 4, shuffle=False),
        feataug.FinetuneConfig(num_steps=2, lr=0.02), seeds=(0, 1), output=folder, device="cpu", progress=False,
    )  # fmt: skip
    arms = {name: {k: v for k, v in figures.items() if k != "seconds"} for name, figures in result["arms"].items()}
    return [result["difference"], arms]


def bank(folder: Path) -> Any:
    """Write a bank, or take the one that is there, and give all its items."""
    trainer, _ = make("finetune", None)
    found = feataug.FeatureBank.write(folder, trainer.cut, seeded_loader(data(), 3, seed=1), 12, shard_images=6, progress=False)
    return [x for index in range(len(found)) for x in (*found[index][0], found[index][1])]


RUNS: dict[str, Callable[[Path], Any]] = {
    "generator": training("generator"),
    "bicyclegan": training("bicyclegan"),
    "finetune": training("finetune"),
    "comparison": comparison,
    "bank": bank,
}


def same(first: Any, second: Any) -> bool:
    """Equal bit for bit; what numbers of an evaluation depend on is deterministic, too."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return first == second


def damage(path: Path, rng: random.Random) -> str:
    """Change a file for the worse; what was done."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(("cut short", "flip", "flip", "flip", "emptied", "deleted", "noise", "longer"))
    if kind == "deleted":
        path.unlink()
        return kind
    if kind == "cut short":
        content = content[: rng.randrange(max(1, len(content)))]
    elif kind == "flip" and content:
        for _ in range(rng.choice((1, 1, 8))):
            # Half of the time near the front, where headers are.
            end = len(content) if rng.random() < 0.5 else min(400, len(content))
            content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == "emptied":
        content = bytearray()
    elif kind == "noise":
        content = bytearray(rng.randbytes(len(content)))
    elif kind == "longer":
        content += rng.randbytes(64)
    path.write_bytes(bytes(content))
    return kind


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng, outcomes, failures = random.Random(args.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as place:
        whole = {}
        for name, run in RUNS.items():
            folder = Path(place) / name
            whole[name] = run(folder)
            assert same(run(folder), whole[name]), f"{name} does not repeat itself"
        for number in range(args.damages):
            name = list(RUNS)[number % len(RUNS)]
            folder = Path(place) / "damaged"
            shutil.copytree(Path(place) / name, folder)
            victim = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"))
            done = f"{name}, {victim.relative_to(folder)}: {damage(victim, rng)}"
            try:
                outcome = "as undisturbed" if same(RUNS[name](folder), whole[name]) else "ANOTHER RESULT"
            except FeatAugError as error:
                outcome = "an error of ours" if "given:" in str(error) else f"an error that does not say what was given: {error}"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            if outcome not in ("as undisturbed", "an error of ours"):
                failures += 1
                print(f"{done}: {outcome}", flush=True)
            outcomes[outcome if outcome[0].islower() else "wrong"] += 1
            shutil.rmtree(folder)
        assert checkpoints(Path(place) / "finetune")
    print(f"{args.damages} damages: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
