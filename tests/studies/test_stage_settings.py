"""A stage's figures are used again only with the settings that they were computed with."""

import json
from types import SimpleNamespace

import pytest

from feataug import FinetuneConfig
from feataug.errors import ConfigError
from studies.lib.base_study import Study
from studies.lib.stage_settings import check_settings, read_result


class Small(Study):
    """A study without data."""

    size, scale, batch = (8, 12), (1.0, 2.0), 2

    def __init__(self, folder, **changes):
        self.output, self.seconds, self.resumed, self.runs = folder, {}, [], 0
        self.args = SimpleNamespace(dataset="camvid", half=False)
        self.base_config = FinetuneConfig(num_steps=4, lr=0.01, lr_scale={"encoder": 0.3})
        for name, value in changes.items():
            setattr(self, name, value)

    def train_base(self):
        self.runs += 1
        return {"miou": 50.0 + self.runs}


def test_a_stage_runs_once_and_stores_its_settings(tmp_path):
    assert Small(tmp_path).run_base() == {"miou": 51.0}
    again = Small(tmp_path)
    assert again.run_base() == {"miou": 51.0}
    assert again.runs == 0
    stored = json.loads((tmp_path / "base.json").read_text())["stage_settings"]
    assert stored == json.loads(json.dumps(again.base_settings()))
    assert (stored["size"], stored["base"]["num_steps"], stored["half"]) == ([8, 12], 4, False)


def test_figures_of_other_settings_are_refused(tmp_path):
    Small(tmp_path).run_base()
    other = Small(tmp_path, size=(16, 12), base_config=FinetuneConfig(num_steps=6, lr=0.01, lr_scale={"encoder": 0.3}))
    with pytest.raises(ConfigError) as error:
        other.run_base()
    assert str(error.value) == (
        f"{tmp_path}/base.json: these figures were computed with other settings.\n"
        "  given:   size [16, 12], base.num_steps 6\n"
        "  needed:  size [8, 12], base.num_steps 4 (stored)\n"
        "Choose another --output (and --result), or repeat the stored settings."
    )
    assert other.runs == 0
    # Intervals of checkpoints do not change what is trained.
    config = FinetuneConfig(num_steps=4, lr=0.01, lr_scale={"encoder": 0.3}, save_every=2, channels_last=False)
    assert Small(tmp_path, base_config=config).run_base() == {"miou": 51.0}


def test_files_of_earlier_versions_are_used_with_a_warning(tmp_path):
    (tmp_path / "base.json").write_text('{"miou": 40.0, "seconds": 1.0, "resumed": false}')
    with pytest.warns(UserWarning, match=r"base.json: an earlier version stored no settings with these figures"):
        assert Small(tmp_path).run_base() == {"miou": 40.0}


@pytest.mark.parametrize(
    ("stored", "asked", "differs"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, ""),  # the setting is newer than the file
        ({"a": [{"x": 1}]}, {"a": [{"x": 1}, {"x": 2}]}, "a.length 2"),
        ({"a": [{"x": 1}, {"x": 2}]}, {"a": [{"x": 1}, {"x": 3}]}, "a.1.x 3"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": (1, 2)}}, ""),
        ({"a": None}, {"a": 0.5}, "a 0.5"),
        # The setting is newer, and what runs did before is known; of a configuration that is missing as a whole, nothing is.
        ({"a": [{"x": 1}]}, {"a": [{"x": 1, "distill_share": 0.2}]}, "a.0.distill_share 0.2"),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1, "distill_share": 0.0}]}, ""),
        ({"b": 1}, {"b": 1, "a": [{"x": 1, "distill_share": 0.2}]}, ""),
    ],
)
def test_every_value_is_compared(tmp_path, stored, asked, differs):
    if not differs:
        check_settings(tmp_path / "x.json", stored, asked)
        return
    with pytest.raises(ConfigError, match=rf"given: +{differs}\n"):
        check_settings(tmp_path / "x.json", stored, asked)


def test_a_result_that_grows_keeps_to_its_settings(tmp_path):
    file = tmp_path / "screen.json"
    assert read_result(file, {"half": True}) is None
    file.write_text('{"runs": {}, "settings": {"half": true}}')
    assert read_result(file, {"half": True})["runs"] == {}
    with pytest.raises(ConfigError, match=r"given: +half False"):
        read_result(file, {"half": False})
