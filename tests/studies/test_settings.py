"""The arms of the study of feataug's settings."""

from types import SimpleNamespace

import pytest

from studies.own import settings


def chosen(monkeypatch, *words):
    """The arms for these options, without a base model and a generator."""
    given = {}
    monkeypatch.setattr(settings.baselines, "class_weights", lambda study, power: power)
    monkeypatch.setattr(settings, "prepare_study", lambda *args, **more: given.update(more))
    settings.prepare()
    parser = settings.argparse.ArgumentParser()
    given["add_options"](parser)
    args = parser.parse_args(words)
    return settings.arms(SimpleNamespace(args=args, variant=lambda **changes: changes))


def test_all_arms_or_those_that_are_asked_for(monkeypatch):
    every = chosen(monkeypatch)
    assert set(every) == settings.SETTINGS.keys() | settings.ALONE.keys() | settings.WEIGHTS.keys()
    some = chosen(monkeypatch, "--only", "class weights, power 1", "features alone, both, 0.3")
    assert set(some) == {"class weights, power 1", "features alone, both, 0.3"}
    assert some["class weights, power 1"] == 1.0
    assert some["features alone, both, 0.3"] == {"masks": "both", "ratio": 0.3, "power": 0.0, "filter": 1.25}


def test_an_unknown_arm_is_refused_with_those_that_there_are(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        chosen(monkeypatch, "--only", "features")
    assert "invalid choice: 'features'" in (said := capsys.readouterr().err)
    assert "features alone, both, 0.3" in said
