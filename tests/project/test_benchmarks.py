"""What benchmarks count and how they are run; their figures are measured by themselves."""

import json
import sys

import pytest
import torch

from benchmarks import gpu_day
from benchmarks.kernel_count import KernelCount, kernels
from benchmarks.kernels_per_step import OBJECTIVES, generator_step, mixed_steps


def test_kernels_are_counted_and_views_are_not():
    values = torch.ones(4, 6, requires_grad=True)
    with KernelCount() as count:
        (values.T.unsqueeze(0)[:3].detach() * 2 + 1).sum()
        torch.empty(3)
        # A product of several matrices looks at its result in another shape in the end.
        torch.ops.aten._unsafe_view(values, (24,))
    assert dict(count.operators) == {"mul": 1, "add": 1, "sum": 1}
    with KernelCount() as count:
        values.square().sum().backward()
    # The square and its gradient are powers and products, and the first gradient is a constant.
    assert dict(count.operators) == {"pow": 2, "sum": 1, "mul": 2, "ones_like": 1}


def test_what_only_the_first_call_does_is_not_counted():
    made = []

    def work():
        if not made:
            made.append(torch.ones(3) + 1)
        return made[0] * 2

    assert kernels(work) == 1


@pytest.mark.parametrize(("objective", "budget"), [("flow", 450), ("BicycleGAN", 900)])
def test_a_generators_step_stays_within_its_kernels(objective, budget):
    assert generator_step(*OBJECTIVES[objective]) <= budget


def test_a_mixed_step_launches_few_kernels_more_than_a_plain_one():
    found = mixed_steps()
    assert 0 < found["there"] - found["plain"] <= 30 < found["mixed"] - found["plain"]


def parts(monkeypatch, **texts):
    monkeypatch.setattr(gpu_day, "PARTS", {name: (3, ["-c", text]) for name, text in texts.items()})
    monkeypatch.setattr(gpu_day, "command", lambda name, folder, dry: [sys.executable, *gpu_day.PARTS[name][1]])
    return list(texts)


def test_each_part_is_kept_whatever_becomes_of_the_others(monkeypatch, tmp_path):
    names = parts(
        monkeypatch,
        good="print('first')",
        broken="print('so far', flush=True); raise SystemExit(3)",
        hanging="import time; print('begun', flush=True); time.sleep(60)",
        last="print('last')",
    )
    ended = gpu_day.run(tmp_path, names, 600, dry=True)
    assert {name: about["end"] for name, about in ended.items()} == {
        "good": "done", "broken": "exit status 3", "hanging": "stopped", "last": "done",
    }  # fmt: skip
    texts = {name: (tmp_path / f"{name}.txt").read_text().strip() for name in names}
    assert texts == {"good": "first", "broken": "so far", "hanging": "begun", "last": "last"}
    assert json.loads((tmp_path / "gpu_day.json").read_text()) == {"parts": ended, "dry": True}


def test_parts_without_time_are_not_begun(monkeypatch, tmp_path):
    names = parts(monkeypatch, first="print('first')", second="print('second')")
    assert {name: about["end"] for name, about in gpu_day.run(tmp_path, names, 10, dry=True).items()} == dict.fromkeys(names, "no time left")
    assert not list(tmp_path.glob("*.txt"))


@pytest.mark.parametrize("name", gpu_day.PARTS)
def test_a_dry_run_has_the_same_commands_on_a_cpu(name, tmp_path):
    for dry in (False, True):
        words = gpu_day.command(name, tmp_path, dry=dry)
        assert words[:2] == [sys.executable, "-m"]
        assert words[3 : len(gpu_day.PARTS[name][1]) + 1] == [word.format(folder=tmp_path) for word in gpu_day.PARTS[name][1][2:]]
        if name != "tests":
            assert words[words.index("--device") + 1] == ("cpu" if dry else "cuda")
            assert words[words.index("--results") + 1] == str(tmp_path)
