"""The short form of fuzz.py, and whether it finds what it is to find."""

import pytest
import torch

from tests.support import fuzz, fuzz_checks, spoiling


@pytest.mark.filterwarnings("ignore")
def test_bad_input_agrees_with_the_oracle_or_raises_an_error_that_names_it():
    outcomes = [fuzz.case(number, seed=1) for number in range(1500)]
    assert [text for outcome, text in outcomes if outcome not in ("agrees", "error")] == []
    assert {outcome for outcome, _ in outcomes} == {"agrees", "error"}


@pytest.fixture
def planted(monkeypatch):
    """The outcomes of a target whose call is another one."""

    def outcomes(call):
        target = fuzz_checks.Target(
            call,
            lambda rng: {"masks": spoiling.masks(rng)},
            lambda found, masks: fuzz_checks.ours(found, masks + 1),
            {"masks": ("mask",)},
        )
        monkeypatch.setattr(fuzz, "TARGETS", {"planted": target})
        return {fuzz.case(number, seed=0)[0] for number in range(60)}

    return outcomes


def writes(masks):
    if isinstance(masks, torch.Tensor) and masks.numel() and not masks.is_meta and not masks.is_sparse:
        masks.view(-1)[0] = 7
    raise fuzz.FeatAugError("no masks")


def test_it_finds_wrong_results_other_errors_writing_and_errors_that_name_nothing(planted):
    assert "disagrees" in planted(lambda masks: masks)
    assert "another error" in planted(lambda masks: masks.no_such_thing)
    assert "writes to its input" in planted(writes)

    def names_nothing(masks):
        raise fuzz.FeatAugError("something is wrong")

    assert planted(names_nothing) == {"names no argument"}
