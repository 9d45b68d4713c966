"""Every table and figure, and every arm of the comparison, in several processes: models this small leave a GPU idle otherwise.

    python -m studies.everything --data DIR --dataset camvid|idd|... [--fraction 0.25] [--studies compare table1 ...] [--jobs 8] [--quick]
        [--device cuda] [--in-memory] [--seeds 0 1 2 3 4]

Each model that a study needs is trained once, in a process of its own, as soon as its own needs are met. Then each study is run, finds all
its stages finished, and writes its figures. Finished stages are not run again. Logs are in ``OUTPUT/logs``. Processes are forked, so this
does not run on Windows.

``--minutes`` cancels the jobs that are not done by then. Seeds are trained one after the other, so that the figures are then those of the
seeds that all arms of a study have. Baselines and studies are trained in the order in which they are given.
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
from studies.lib.comparison import Comparison
from studies.lib.job_queue import Job, run_jobs
from studies.lib.setups import arguments
from studies.own import compare, generator, settings
from studies.paper import fig3, fig5, fig6, fig7, fig8, table1, table2, table3, table4, table5

# In the order in which their figures are written.
STUDIES: dict[str, ModuleType] = {
    "compare": compare, "settings": settings, "table1": table1, "table2": table2, "table3": table3, "table5": table5, "fig3": fig3, "fig5": fig5,
    "fig6": fig6, "fig7": fig7, "fig8": fig8, "table4": table4, "generator": generator,
}  # fmt: skip


def lane(study: Comparison, seed: int, name: str, arms: Mapping[str, Any]) -> None:
    """Train arms of one seed one after the other, in a folder of this process alone; each finished arm is moved to the shared folder."""
    own, shared = study.output / "lanes" / f"{seed}-{name}", study.output / "arms"
    for arm in arms or [None]:
        if (shared / f"seed-{seed}" / f"{arm}.json").exists():
            continue  # another study has this arm as well
        for file in ("base.json", f"seed-{seed}/control.json", f"seed-{seed}/feataug.json"):
            if (shared / file).exists() and not (own / file).exists():
                (own / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(shared / file, own / file)
        study.compare_arms([seed], {} if arm is None else {arm: arms[arm]}, output=own)
        (shared / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
        # Folders first, so that a process that finds the figures also finds the checkpoint.
        for entry in sorted([own / "base.json", *(own / f"seed-{seed}").iterdir()], key=lambda entry: entry.is_file()):
            target = shared / entry.relative_to(own)
            if not target.exists():
                shutil.move(entry, target)
    if own.exists():
        shutil.rmtree(own)


class Everything:
    """The jobs of one data set."""

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        self.args, self.argv = args, argv
        # Reads the data once, for all forked processes.
        self.study = compare.Compared(compare.options([*argv, *(["--arms", *args.arms] if args.arms else [])]))
        self.output, self.seeds = self.study.output, self.study.args.seeds
        self.study_seeds = self.seeds[: args.few]
        self.baselines = [name for name in self.study.args.arms if name not in ("control", "feataug")]

    def prepared_study(self, name: str) -> Any:
        """A study whose base model and generator are trained."""
        return STUDIES[name].prepare(self.argv)

    def ablation(self) -> generator.Ablation:
        """The study of the generator's settings."""
        return generator.Ablation(generator.options([*self.argv, *(["--images", "120"] if self.args.quick else [])]))

    def cut_study(self) -> table4.Table4:
        """The study of where to cut."""
        places = ["--places", *self.args.places] if self.args.places else []
        return (table4.Quick if self.args.quick else table4.Table4)(table4.options([*self.argv, *places]))

    def jobs(self) -> list[Job]:
        """Jobs for all that the studies need, and one that writes each study's figures; the longest chains first."""
        study, studies = self.study, self.args.studies
        found = [
            Job("base", study.run_base),
            *(Job(f"batches {seed}", lambda seed=seed: self.batches(seed)) for seed in self.seeds),
            Job("generator", study.run_generator, ["base"]),
            Job("weights", lambda: (study.pixel_filter(1.25), study.class_weights()), ["base"]),
        ]
        found += self.arms() + (self.ablations() if "generator" in studies else []) + (self.cuts() if "table4" in studies else [])
        trained = [job.name for job in found]
        return found + [Job(f"write {name}", lambda name=name: self.write_figures(name), trained, True) for name in studies]

    def batches(self, seed: int) -> None:
        """Cache the passes that arms of this seed read."""
        loader = self.study.loader(seed)
        for epoch in range(-(-self.study.further.num_steps // len(loader)) if self.args.in_memory else 0):
            loader.cached_pass(epoch)

    def arms(self) -> list[Job]:
        """Jobs for control and feataug of every seed; then for the baselines and each study's arms, seed by seed."""
        study, needs, found = self.study, {"compare": ["distance"], "table3": [], "table1": []}, []
        if "images" in self.baselines or "table1" in self.args.studies:
            found.append(Job("images", study.image_generator, ["base"]))
            needs["table1"] = ["images"]
        if "bicyclegan" in self.baselines:
            found.append(Job("bicyclegan", study.run_bicyclegan, ["base"]))
        # What a baseline trains for itself is trained once, before its arms run side by side.
        needs["compare"] += [name for name in ("images", "bicyclegan") if name in self.baselines]
        if set(self.args.studies) & {"table3", "fig6"}:
            for kind in table3.KINDS:
                found.append(Job(f"table3 {kind}", lambda kind=kind: table3.train_generator(self.prepared_study("table3"), kind), ["generator"]))
                needs["table3"].append(f"table3 {kind}")
        for seed in self.seeds:
            needed = ["generator", "weights", f"batches {seed}"]
            found.append(Job(f"arms {seed}", lambda seed=seed: lane(study, seed, "main", {}), needed))
        found.append(Job("distance", study.generator_distance, ["generator"]))
        with_arms = [name for name in self.args.studies if name == "compare" or (hasattr(STUDIES[name], "arms") and name != "table2")]
        for name in with_arms:
            for seed in self.seeds if name == "compare" else self.study_seeds:
                found.append(Job(f"{name} {seed}", lambda n=name, s=seed: self.lane(n, s), [f"arms {seed}", *needs.get(name, [])]))
        if "table2" in self.args.studies:
            for seed in self.study_seeds:
                found.append(Job(f"scales {seed}", lambda seed=seed: self.scales(seed), [f"arms {seed}"]))
        return found

    def lane(self, name: str, seed: int) -> None:
        """Train a study's arms of one seed."""
        study = self.study if name == "compare" else self.prepared_study(name)
        lane(study, seed, name, {arm: run for arm, run in self.arms_of(name, study).items() if not self.finished(seed, arm)})

    def arms_of(self, name: str, study: Any) -> dict[str, Any]:
        """A study's arms besides control and feataug. An arm that several studies have is trained for the first of them."""
        found = study.baselines() if name == "compare" else STUDIES[name].arms(study)
        return {arm: run for arm, run in found.items() if not (name == "table1" and arm == "images" and "images" in self.baselines)}

    def finished(self, seed: int, arm: str) -> bool:
        return (self.output / "arms" / f"seed-{seed}" / f"{arm}.json").exists()

    def scales(self, seed: int) -> None:
        """Measure control and feataug at several scales."""
        study = self.prepared_study("table2")
        study.args.seeds = [seed]
        study.several_scales(["control", "feataug"])

    def ablations(self) -> list[Job]:
        """Jobs for a generator of each variant."""
        study = self.ablation()
        # After the generator, which the arms wait for.
        needed = ["weights", "generator"]
        return [Job(f"variant {name}", lambda name=name: study.run_variant(name), needed) for name in study.args.variants]

    def cuts(self) -> list[Job]:
        """Jobs of Table 4: statistics, a generator for each place, and an arm of each place for every seed."""
        study, found = self.cut_study(), []
        found.append(Job("stages", study.run_statistics, ["base"]))
        # Early places take the longest.
        for name in study.places:
            found.append(Job(f"stage {name}", lambda name=name: study.run_recognition_at(name), ["base", "generator"]))
        for seed in [] if self.args.quick else self.study_seeds:
            for name in ("control", *study.places):
                needed = ["base", f"batches {seed}", *([] if name == "control" else [f"stage {name}"])]
                found.append(Job(f"cut {name} {seed}", lambda n=name, s=seed: study.run_arm_at(n, s), needed))
        return found

    def write_figures(self, name: str) -> None:
        """Run a study whose stages are finished, on the seeds that have all of its arms."""
        special = {"compare": lambda: self.study, "generator": self.ablation, "table4": self.cut_study}
        study = special[name]() if name in special else self.prepared_study(name)
        if name == "generator":
            study.args.variants = [v for v in study.args.variants if (self.output / f"{study.key(v)}.json").exists()]
        elif name == "table4":
            missing = [p for p in study.places if not (self.output / f"{study.recognition_key(p)}.json").exists()]
            if missing:
                raise RuntimeError(f"table4: no generator yet for {', '.join(missing)}")
            keys = {seed: [study.arm_key(place, seed) for place in ("control", *study.places)] for seed in self.study_seeds}
            study.args.seeds = [s for s in self.study_seeds if all((self.output / f"{key}.json").exists() for key in keys[s])]
        else:
            seeds = self.study_seeds if name == "table2" else self.seeds
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
                # Another study holds the arms' folder for a moment.
                if "another run" not in str(error):
                    raise
                time.sleep(0.5)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--studies", nargs="+", choices=tuple(STUDIES), default=list(STUDIES))
    parser.add_argument("--arms", nargs="+", help="arms of the comparison, as for studies.own.compare")
    parser.add_argument("--jobs", type=int, default=8, help="number of processes")
    parser.add_argument("--few", type=int, help="number of seeds of all studies but the comparison")
    parser.add_argument("--places", nargs="+", help="places of Table 4, as for studies.paper.table4")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit, after which the figures that are there are written")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    # Processes are forked: before that, torch must start no thread and CUDA must not be initialised.
    torch.set_num_threads(1)
    keep_freed_memory()
    everything = Everything(args, _shared_options(args))
    logs = everything.output / "logs"
    failed = run_jobs(everything.jobs(), args.jobs, logs, until)
    print(f"not done: {', '.join(failed) or 'nothing'}; results in {everything.study.args.result.parent}, logs in {logs}")
    return bool(failed)


def _shared_options(args: argparse.Namespace) -> list[str]:
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
