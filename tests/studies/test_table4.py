"""Table 4: the order of its stages, and its result. Nothing is trained here."""

import argparse
import json

import pytest

from feataug import FinetuneConfig
from studies.paper.table4 import PLACES, Quick, Table4

MEASURES = ("pixel_acc", "class_acc", "miou", "fw_iou")
RATIOS = dict(zip(PLACES, (0.03, 0.1, 0.3, 0.6, 0.8, 0.86, 0.7, 0.97), strict=True))


class Invented(Table4):
    """A study with invented figures: the gain at the n-th place is n, plus the seed for every arm."""

    def __init__(self, folder, seeds):
        self.args = argparse.Namespace(
            quick=False,
            half=False,
            dataset="camvid",
            fraction=1.0,
            eval_split="val",
            seeds=seeds,
            device="cpu",
            result=folder / "table4.json",
        )
        self.output, self.size, self.scale, self.train, self.classes = folder / "runs", (8, 8), (1.0, 1.0), [0], ["a"]
        self.base_config = FinetuneConfig(num_steps=4, lr=0.01)
        self.seconds, self.resumed, self.done = {}, [], []

    def statistics(self):
        self.done.append("statistics")
        rows = [
            {
                "at": PLACES[name],
                "levels": [],
                "decoder_share": 1 - number / 10,
                "entropy": 3.0,
                "hist_iou": 0.5,
                "recognition": None,
            }
            for number, name in enumerate(self.places)
        ]
        return {
            "stages": rows,
            "recommended": None,
            "why": "",
            "images": 1,
            "stride": 16,
            "cells": [1],
            "classes": [0],
            "settings": {},
        }

    def train_generator_at(self, name):
        self.done.append(name)
        return {"real": 50.0, "synthetic": 50 * RATIOS[name], "ratio": RATIOS[name], "diversity": 0.5}

    def train_arm_at(self, name, seed):
        self.done.append((name, seed))
        value = seed + (0.0 if name == "control" else float(self.places.index(name)))
        return dict.fromkeys(MEASURES, value) | {"per_class": {"a": {"acc": value, "iou": value}}}


def test_rows_then_gains_each_once(tmp_path):
    study = Invented(tmp_path, [0, 1])
    result = study.gains(study.rows())
    assert study.done[:3] == ["statistics", "blocks.6", "blocks.5"]
    assert study.done[9:] == [(name, seed) for seed in (0, 1) for name in ("control", *PLACES)]
    assert [row["name"] for row in result["stages"]] == list(PLACES)
    assert result["recommended"] == "encoder.blocks.4"
    assert [row["gain"]["miou"]["mean"] for row in result["stages"]] == [pytest.approx(n) for n in range(8)]
    assert all(row["recognition"]["seconds"] >= 0 for row in result["stages"])
    stored = json.loads(study.args.result.read_text())
    assert stored == json.loads(json.dumps(result))
    assert not stored["study"]["quick"]
    again = Invented(tmp_path, [0, 1])
    assert json.loads(json.dumps(again.gains(again.rows()))) == stored
    assert again.done == []


def test_a_study_that_is_stopped_leaves_what_is_done(tmp_path):
    class Stopped(Invented):
        def train_generator_at(self, name):
            if name == "blocks.3":
                raise KeyboardInterrupt
            return super().train_generator_at(name)

    study = Stopped(tmp_path, [0])
    with pytest.raises(KeyboardInterrupt):
        study.rows()
    stored = json.loads((tmp_path / "table4.json").read_text())
    assert [row["name"] for row in stored["stages"] if row["recognition"] is None] == list(PLACES)[:5]
    again = Invented(tmp_path, [0])
    again.rows()
    assert again.done == ["blocks.3", "blocks.2", "blocks.1", "blocks.0", "images"]


def test_the_quick_one_takes_some_of_the_places():
    assert set(Quick.places) < set(PLACES)
    assert Quick.folder != Table4.folder
