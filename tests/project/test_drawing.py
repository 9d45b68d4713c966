"""The drawn pages: verdicts follow one rule, findings need their figures, prose is wrapped."""

import re
import shlex

import pytest

from docs.drawing import results, teaching_tables, verdicts
from docs.drawing.findings import findings
from docs.drawing.page import wrap
from docs.drawing.settings_table import Setting, all_settings, settings_table
from docs.drawing.verdicts import Evidence, summary, verdict
from studies.lib import setups
from studies.own import teaching as teaching_study


@pytest.mark.parametrize(
    ("gap", "expected", "reverse"),
    [
        ((1.0, 0.2, 1.8), "agrees", "opposite"),
        ((-1.0, -1.8, -0.2), "opposite", "agrees"),
        ((1.0, -0.2, 2.2), "same direction, within noise", "opposite direction, within noise"),
        ((-1.0, -2.2, 0.2), "opposite direction, within noise", "same direction, within noise"),
        ((1.0, 0.0, 2.0), "same direction, within noise", "opposite direction, within noise"),
        ((1.0, None, None), "same direction, no interval", "opposite direction, no interval"),
        ((0.0, None, None), "opposite direction, no interval", "opposite direction, no interval"),
    ],
)
def test_one_rule_for_all_verdicts(gap, expected, reverse):
    gap = dict(zip(("mean", "low", "high"), gap, strict=True))
    assert verdict(1, gap) == expected
    assert verdict(-1, gap) == reverse
    assert {expected, reverse} <= {*verdicts.WORDS}


def test_verdicts_are_counted_by_measure():
    up, down = ({"mean": mean, "low": mean - 1, "high": mean + 1} for mean in (2.0, -2.0))
    assert summary([]) == "-"
    assert summary([Evidence("mIoU", 1, up), Evidence("ClassAcc", 1, up), Evidence("mIoU", 1, up)]) == "mIoU: agrees; ClassAcc: agrees"
    assert summary([Evidence("mIoU", 1, up), Evidence("mIoU", 1, down), Evidence("mIoU", 1, up)]) == "mIoU: agrees (2 of 3), opposite (1 of 3)"


def test_a_finding_that_the_figures_do_not_bear_out_is_an_error():
    assert findings(results.read).count("\n- **") == 16

    def planted(study):
        found = results.read(study)
        if study == "compare":
            found["camvid-half-0.25"]["differences"]["feataug"]["class_acc"]["low"] = -0.1
        return found

    with pytest.raises(ValueError, match="do not bear this out: Synthetic features gain a little class accuracy"):
        findings(planted)


def test_prose_is_wrapped_and_the_rest_stays():
    long, table, code = "word " * 30, f"| {'cell ' * 30} |\n|---|", f"```\n{'code ' * 30}\n```"
    text = f"# Title\n\n{long}\n\n- {long}\n- short `a code span that stays together`\n\n{table}\n\n{code}\n"
    wrapped = wrap(text)
    assert all(part in wrapped for part in (table, code, "`a code span that stays together`", "\n- short"))
    prose = [line for line in wrapped.splitlines() if line.startswith(("word", "- ", "  "))]
    assert len(prose) == 5
    assert all(len(line) <= 100 for line in prose)
    assert " ".join(wrapped.split()) == " ".join(text.split())
    assert wrap(wrapped) == wrapped


def test_a_setting_is_a_row_of_gains_over_its_start():
    def runs(*values):
        return [{"miou": miou, "class_acc": class_acc} for miou, class_acc in values]

    start = runs((40, 50), (42, 52))
    # The third was measured on another base, from where it gains most.
    others = {
        "first": (start, runs((41, 50), (43, 52))), "second": (start, runs((40, 99), (42, 99))), "third": (runs((10, 10)), runs((12, 11))),
    }  # fmt: skip
    setting = Setting("here", start, runs((44, 55), (46, 57)), runs((43, 56), (45, 58)), others)
    assert setting.row() == "| here | 2 seeds | 41.0, 51.0 | +4.0, +5.0 | +3.0, +6.0 | 75%, 120% | third: +2.0, +1.0 |"
    nothing = Setting("there", runs((40, 50)), runs((39, 51)), runs((41, 50)), {})
    assert nothing.row() == "| there | one seed | 40.0, 50.0 | -1.0, +1.0 | +1.0, +0.0 | -, 0% | - |"


def test_the_first_table_points_to_the_sections_of_its_page():
    here, there = settings_table(), settings_table("docs/results.md")
    assert here.count("](#") == there.count("](docs/results.md#") == len(all_settings())
    for anchor in re.findall(r"\]\(#([^)]*)\)", here):
        titles = [title.lower().replace(",", "").replace(" ", "-") for title in re.findall(r"\n## ([^\n]*)", results.page())]
        assert anchor in titles


@pytest.mark.parametrize("name", [name for name, found in results.read("teaching").items() if "teaching" in found])
def test_the_command_of_a_teaching_study_measures_what_its_file_holds(name, monkeypatch):
    """The same seeds, lengths and sources: those that are named, and those that a study has anyway."""
    figures = results.read("teaching")[name]
    (line,) = [line for line in teaching_tables.teaching(name, figures).splitlines() if line.startswith("python -m")]
    monkeypatch.setattr("sys.argv", shlex.split(line)[2:])
    args, settings = teaching_study.options(setups.arguments("")), figures["settings"]
    assert args.seeds == settings["seeds"]
    assert args.decoder_steps == settings["steps"]["num_steps"]
    assert [args.colored_noise] * len(settings["generator"]) == [bool(config.get("colored_noise")) for config in settings["generator"]]
    offered = {"real", "generator", "gaussians"} | {f"generator, {kind} masks" for kind in args.masks}
    offered |= {"bicyclegan"} if args.bicyclegan else set()
    offered |= {"generator, matched"} if args.matched else set()
    given = [folder.name.removesuffix("-model") for folder in args.generators]
    offered |= {*given}
    if args.kept:
        offered |= {"kept", "kept, mirrored"} | {f"kept and {other}" for other in ("generator", "gaussians", *given)}
        offered |= {*teaching_tables.ALTERNATIVES} if args.alternatives else set()
    wanted = {"real", *args.only} if args.only else offered
    assert wanted <= offered
    assert {*figures["teaching"]["sources"]} == wanted
