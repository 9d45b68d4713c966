"""Jobs in separate processes: their order, failures, and the time limit. Nothing is trained here."""

import time
from types import SimpleNamespace

from studies.everything import lane
from studies.lib.job_queue import Job, run_jobs


def writes(folder, name, seconds=0.0):
    def run():
        time.sleep(seconds)
        (folder / name).write_text(" ".join(sorted(file.name for file in folder.iterdir() if file.is_file())))

    return run


def fails():
    raise ValueError("on purpose")


def test_a_job_comes_after_what_it_needs(tmp_path):
    jobs = [
        Job("last", writes(tmp_path, "last"), ["first", "second"]),
        Job("second", writes(tmp_path, "second"), ["first"]),
        Job("first", writes(tmp_path, "first", 0.1)),
    ]
    assert run_jobs(jobs, 3, tmp_path / "logs") == []
    assert (tmp_path / "second").read_text() == "first"
    assert (tmp_path / "last").read_text() == "first second"


def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path, capsys):
    jobs = [
        Job("bad", fails),
        Job("needs bad", writes(tmp_path, "never"), ["bad"]),
        Job("needs that", writes(tmp_path, "never"), ["needs bad"]),
        Job("other", writes(tmp_path, "other")),
        Job("write", writes(tmp_path, "figures"), ["bad", "needs that", "other"], even_after_failure=True),
    ]
    assert sorted(run_jobs(jobs, 1, tmp_path / "logs")) == ["bad", "needs bad", "needs that"]
    assert (tmp_path / "figures").read_text() == "other"
    assert not (tmp_path / "never").exists()
    assert "ValueError: on purpose" in (tmp_path / "logs" / "bad.log").read_text()
    assert "bad: FAILED" in capsys.readouterr().out


def test_the_time_limit_cancels_jobs_and_writes_the_figures(tmp_path):
    jobs = [
        Job("short", writes(tmp_path, "short")),
        Job("long", writes(tmp_path, "long", 60)),
        Job("waits", writes(tmp_path, "waits"), ["long"]),
        Job("write", writes(tmp_path, "figures"), ["short", "long", "waits"], even_after_failure=True),
    ]
    began = time.monotonic()
    assert sorted(run_jobs(jobs, 2, tmp_path / "logs", until=began + 0.5)) == ["long", "waits"]
    assert time.monotonic() - began < 30
    assert (tmp_path / "figures").read_text() == "short"


class Compared:
    """A study whose arms write one file each, as ``feataug.compare`` does. Missing control and feataug are trained first."""

    def __init__(self, output):
        self.output, self.made = output, []

    def compare_arms(self, seeds, arms, output):
        (seed,) = seeds
        folder = output / f"seed-{seed}"
        for name in ("control", "feataug", *arms):
            if not (folder / f"{name}.json").exists():
                (folder / name).mkdir(parents=True)
                (folder / f"{name}.json").write_text(f"{name} of {seed}")
                self.made.append((seed, name))
                if arms.get(name) is fails:
                    fails()
        (output / "base.json").write_text("base")


def test_a_lane_trains_each_arm_once_and_moves_it_to_the_shared_folder(tmp_path):
    study = Compared(tmp_path)
    lane(study, 0, "main", {})
    lane(study, 0, "baselines", {"a": None, "b": None})
    lane(study, 1, "main", {})
    lane(study, 0, "figure", {"a": fails, "b": fails})  # trained by another lane in the meantime
    assert study.made == [(0, "control"), (0, "feataug"), (0, "a"), (0, "b"), (1, "control"), (1, "feataug")]
    found = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "arms").rglob("*.json"))
    assert found == ["arms/base.json", *(f"arms/seed-0/{n}.json" for n in ("a", "b", "control", "feataug")),
                     "arms/seed-1/control.json", "arms/seed-1/feataug.json"]  # fmt: skip
    assert (tmp_path / "arms" / "seed-0" / "a").is_dir()
    assert not any((tmp_path / "lanes").iterdir())


def test_a_lane_that_breaks_leaves_what_was_done(tmp_path):
    study = Compared(tmp_path)
    lane(study, 0, "main", {})
    jobs = [Job("lane", lambda: lane(study, 0, "baselines", {"a": None, "b": fails, "c": None}))]
    assert run_jobs(jobs, 1, tmp_path / "logs") == ["lane"]
    assert sorted(path.stem for path in (tmp_path / "arms" / "seed-0").glob("*.json")) == ["a", "control", "feataug"]


def test_jobs_of_a_comparison(tmp_path, monkeypatch):
    """Studies take the first few seeds, Table 1's images are the baseline's, and figures are written after everything."""
    from studies import everything

    study = SimpleNamespace(
        args=SimpleNamespace(arms=["control", "feataug", "ohem", "images", "bicyclegan"], seeds=[0, 1, 2]), output=tmp_path,
        image_generator=None, generator_distance=None, run_bicyclegan=None,
        run_base=None, run_generator=None,
    )  # fmt: skip
    monkeypatch.setattr(everything.compare, "Compared", lambda options: study)
    monkeypatch.setattr(everything.compare, "options", lambda argv: argv)
    args = SimpleNamespace(arms=None, few=2, quick=False, in_memory=True, studies=["compare", "table1", "table2"])
    jobs = {job.name: job for job in everything.Everything(args, []).jobs()}
    assert len({*jobs}) == 1 + 3 + 2 + 2 + 3 + 1 + 3 + 2 + 2 + 3
    assert [name for name in jobs if name.startswith("table1")] == ["table1 0", "table1 1"]
    assert jobs["compare 2"].needs == ["arms 2", "distance", "images", "bicyclegan"]
    assert all({*job.needs} <= {*jobs} for job in jobs.values())
    assert jobs["write compare"].even_after_failure
    assert {*jobs["write compare"].needs} == {name for name in jobs if not name.startswith("write")}
