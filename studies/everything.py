"""Every table and figure, and every arm of the comparison, in several processes: what fills a GPU with models this small.

    python -m studies.everything --data DIR --dataset camvid|idd|... [--fraction 0.25] [--studies compare table1 ...] [--jobs 8] [--quick]
        [--device cuda] [--in-memory] [--seeds 0 1 2 3 4]

What a study needs is trained once, each part in a process of its own as soon as what it needs is there; then the studies are run, which find
all of it done. What was finished before is not done again. Logs are in ``OUTPUT/logs``. Processes are forked, so not on Windows.

Where minutes are few, ``--minutes`` stops what is not done by then, and ``--seeds`` come one after the other: figures are then of the seeds that
all arms of a study have. Baselines and studies are trained in the order in which they are given.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from feataug.errors import CheckpointError
from feataug.training.device import keep_freed_memory
from studies.lib.job_queue import Job, work
from studies.lib.setups import arguments
from studies.own import compare, generator, settings
from studies.own.compare import Comparison
from studies.paper import fig3, fig5, fig6, fig7, fig8, table1, table2, table3, table4, table5

# In the order in which they are told.
STUDIES: dict[str, ModuleType] = {
    "compare": compare, "settings": settings, "table1": table1, "table2": table2, "table3": table3, "table5": table5, "fig3": fig3, "fig5": fig5,
    "fig6": fig6, "fig7": fig7, "fig8": fig8, "table4": table4, "generator": generator,
}  # fmt: skip


def lane(study: Comparison, seed: int, name: str, arms: Mapping[str, Any]) -> None:
    """Arms of one seed, one after the other, apart from those that other processes train; each is put beside them when it is done."""
    own, beside = study.output / "lanes" / f"{seed}-{name}", study.output / "arms"
    for arm in arms or [None]:
        if (beside / f"seed-{seed}" / f"{arm}.json").exists():
            continue  # another study's lane had it, too
        for file in ("base.json", f"seed-{seed}/control.json", f"seed-{seed}/feataug.json"):
            if (beside / file).exists() and not (own / file).exists():
                (own / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(beside / file, own / file)
        study.compared([seed], {} if arm is None else {arm: arms[arm]}, output=own)
        (beside / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
        # Folders first: whoever finds the figures finds the checkpoint.
        for entry in sorted([own / "base.json", *(own / f"seed-{seed}").iterdir()], key=lambda entry: entry.is_file()):
            target = beside / entry.relative_to(own)
            if not target.exists():
                shutil.move(entry, target)
    if own.exists():
        shutil.rmtree(own)


class Everything:
    """The jobs of one data set."""

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        self.args, self.argv = args, argv
        # Reads the data, for the processes that come of this one.
        self.study = Comparison(compare.options([*argv, *(["--arms", *args.arms] if args.arms else [])]))
        self.output, self.seeds = self.study.output, self.study.args.seeds
        self.few = self.seeds[: args.few]
        self.baselines = [name for name in self.study.args.arms if name not in ("control", "feataug")]

    def ready(self, name: str) -> Any:
        """A study; base and generator are there."""
        return STUDIES[name].prepare(self.argv)

    def ablation(self) -> generator.Ablation:
        """The study of what makes a generator better."""
        return generator.Ablation(generator.options([*self.argv, *(["--images", "120"] if self.args.quick else [])]))

    def stages(self) -> table4.Table4:
        """The study of where to cut."""
        places = ["--places", *self.args.places] if self.args.places else []
        return (table4.Quick if self.args.quick else table4.Table4)(table4.options([*self.argv, *places]))

    def jobs(self) -> list[Job]:
        """Everything that the studies need, and the studies; the longest chains first."""
        study, studies = self.study, self.args.studies
        found = [
            Job("base", lambda: study.stage("base", study.base)),
            *(Job(f"batches {seed}", lambda seed=seed: self.batches(seed)) for seed in self.seeds),
            Job("generator", lambda: study.stage("generator", study.generator), ["base"]),
            Job("weights", lambda: (study.filter(1.25), study.class_weights()), ["base"]),
        ]
        found += self.arms() + (self.ablations() if "generator" in studies else []) + (self.cuts() if "table4" in studies else [])
        return found + [
            Job(f"tell {name}", lambda name=name: self.tell(name), [job.name for job in found], True) for name in studies
        ]

    def batches(self, seed: int) -> None:
        """The passes that arms of this seed read."""
        loader = self.study.loader(seed)
        for epoch in range(-(-self.study.further.num_steps // len(loader)) if self.args.in_memory else 0):
            loader.kept(epoch)

    def arms(self) -> list[Job]:
        """Control and feataug of every seed; then the baselines and each study's arms, seed by seed."""
        study, needs, found = self.study, {"compare": ["distance"], "table3": [], "table1": []}, []
        if "images" in self.baselines or "table1" in self.args.studies:
            found.append(Job("images", study.image_generator, ["base"]))
            needs["table1"], needs["compare"] = ["images"], ["distance", "images"] if "images" in self.baselines else ["distance"]
        if set(self.args.studies) & {"table3", "fig6"}:
            for kind in table3.KINDS:
                found.append(Job(f"table3 {kind}", lambda kind=kind: table3.trained(self.ready("table3"), kind), ["generator"]))
                needs["table3"].append(f"table3 {kind}")
        for seed in self.seeds:
            needed = ["generator", "weights", f"batches {seed}"]
            found.append(Job(f"arms {seed}", lambda seed=seed: lane(study, seed, "main", {}), needed))
        found.append(Job("distance", study.generator_distance, ["generator"]))
        for name in [
            name for name in self.args.studies if name == "compare" or (hasattr(STUDIES[name], "arms") and name != "table2")
        ]:
            for seed in self.seeds if name == "compare" else self.few:
                found.append(Job(f"{name} {seed}", lambda n=name, s=seed: self.lane(n, s), [f"arms {seed}", *needs.get(name, [])]))
        if "table2" in self.args.studies:
            for seed in self.few:
                found.append(Job(f"scales {seed}", lambda seed=seed: self.scales(seed), [f"arms {seed}"]))
        return found

    def lane(self, name: str, seed: int) -> None:
        """A study's arms of one seed."""
        study = self.study if name == "compare" else self.ready(name)
        lane(study, seed, name, {arm: run for arm, run in self.arms_of(name, study).items() if not self.finished(seed, arm)})

    def arms_of(self, name: str, study: Any) -> dict[str, Any]:
        """What a study compares besides control and feataug; an arm that several studies have is trained for the first of them."""
        found = study.baselines() if name == "compare" else STUDIES[name].arms(study)
        return {arm: run for arm, run in found.items() if not (name == "table1" and arm == "images" and "images" in self.baselines)}

    def finished(self, seed: int, arm: str) -> bool:
        return (self.output / "arms" / f"seed-{seed}" / f"{arm}.json").exists()

    def scales(self, seed: int) -> None:
        """Control and feataug at several scales."""
        study = self.ready("table2")
        study.args.seeds = [seed]
        study.several_scales(["control", "feataug"])

    def ablations(self) -> list[Job]:
        """A generator for each variant."""
        study = self.ablation()
        # After the generator, whose steps the arms wait for.
        needed = ["weights", "generator"]
        return [Job(f"variant {name}", lambda name=name: study.measured(name), needed) for name in study.args.variants]

    def cuts(self) -> list[Job]:
        """Table 4: its statistics, a generator for each stage, an arm of each for every seed."""
        study, found = self.stages(), []
        found.append(Job("stages", lambda: study.stage(study.statistics_key, study.statistics), ["base"]))
        # Early stages take the longest.
        for name in study.places:
            key = study.recognition_key(name)
            found.append(
                Job(f"stage {name}", lambda k=key, n=name: study.stage(k, lambda: study.recognised(n)), ["base", "generator"])
            )
        for seed in [] if self.args.quick else self.few:
            for name in ("control", *study.places):
                key, needed = study.arm_key(name, seed), [] if name == "control" else [f"stage {name}"]
                found.append(
                    Job(
                        f"cut {name} {seed}",
                        lambda k=key, n=name, s=seed: study.stage(k, lambda: study.further_trained(n, s)),
                        ["base", f"batches {seed}", *needed],
                    )
                )
        return found

    def tell(self, name: str) -> None:
        """Run a study, which finds what it needs, on the seeds that have all of it."""
        study = {"compare": lambda: self.study, "generator": self.ablation, "table4": self.stages}.get(
            name, lambda: self.ready(name)
        )()
        if name == "generator":
            study.args.variants = [v for v in study.args.variants if (self.output / f"{study.key(v)}.json").exists()]
        elif name == "table4":
            missing = [p for p in study.places if not (self.output / f"{study.recognition_key(p)}.json").exists()]
            if missing:
                raise RuntimeError(f"table4: no generator yet for {', '.join(missing)}")
            keys = {seed: [study.arm_key(place, seed) for place in ("control", *study.places)] for seed in self.few}
            study.args.seeds = [s for s in self.few if all((self.output / f"{key}.json").exists() for key in keys[s])]
        else:
            seeds = self.few if name == "table2" else self.seeds
            begun = [seed for seed in seeds if self.finished(seed, "feataug")]
            if name == "compare":
                study.args.arms = ["control", "feataug", *(arm for arm in self.baselines if all(self.finished(s, arm) for s in begun))]
            names = study.args.arms[2:] if name == "compare" else getattr(STUDIES[name], "arms", lambda _: {})(study)
            study.args.seeds = [seed for seed in begun if all(self.finished(seed, arm) for arm in names)]
            if not study.args.seeds:
                raise RuntimeError(f"{name}: no seed has all of {', '.join(names)}")
        while True:
            try:
                return STUDIES[name].run(study)
            except CheckpointError as error:
                # The arms' folder is another study's for a moment.
                if "another run" not in str(error):
                    raise
                time.sleep(0.5)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--studies", nargs="+", choices=tuple(STUDIES), default=list(STUDIES))
    parser.add_argument("--arms", nargs="+", help="of the comparison, as for compare.py")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--few", type=int, help="seeds of the studies, where the comparison has more")
    parser.add_argument("--places", nargs="+", help="of table 4, as for table4.py")
    parser.add_argument("--minutes", type=float, default=math.inf, help="then tell what is done")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    # Processes are forked: no thread of torch's may run before, and CUDA must not be asked.
    torch.set_num_threads(1)
    keep_freed_memory()
    everything = Everything(args, _passed_on(args))
    logs = everything.output / "logs"
    failed = work(everything.jobs(), args.jobs, logs, until)
    print(f"not done: {', '.join(failed) or 'nothing'}; results in {everything.study.args.result.parent}, logs in {logs}")
    return bool(failed)


def _passed_on(args: argparse.Namespace) -> list[str]:
    """The options that all studies share."""
    own = {"studies", "arms", "jobs", "few", "places", "minutes", "result"}
    words = []
    for name, value in vars(args).items():
        option = "--" + name.replace("_", "-")
        if name in own or value is None or value is False:
            continue
        words += [option] if value is True else [option, *map(str, value)] if isinstance(value, list) else [option, str(value)]
    return words


if __name__ == "__main__":
    sys.exit(main())
