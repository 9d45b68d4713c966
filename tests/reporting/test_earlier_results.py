"""Results that earlier versions wrote are shown, without what they do not have."""

import json
from pathlib import Path

from feataug.reporting.page import write_page
from feataug.reporting.plots import save_comparison
from feataug.reporting.tables import comparison_table

STUDIES = Path(__file__).parents[2] / "studies" / "results"


def test_results_of_earlier_versions_are_shown(tmp_path):
    result = json.loads((STUDIES / "whole-images" / "compare-camvid-half.json").read_text())
    assert not {"ceiling", "arms_before_bias"} & result.keys()
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert "Before the class bias" not in write_page(tmp_path).read_text()
    text = comparison_table(result)
    assert "before the class bias" not in text
    assert "share of the ceiling" not in text
    assert save_comparison(tmp_path / "a.png", result).exists()
