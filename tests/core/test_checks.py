import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from feataug import errors
from feataug.core.checks import INTEGER_DTYPES, check_features, check_mask_form, check_masks, check_number, describe
from feataug.core.rng import derive_seed, generator_for
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError, DtypeError, LabelError, ShapeError, message
from feataug.mixing.batch import MixedBatch

SPEC = FeatureSpec((LevelSpec("low", 4, 4), LevelSpec("high", 8, 8)))
OTHER_CUT = (
    "The model seems to be cut at another layer, or to be given images of another size, than the one the spec was made for:\n"
    "cut it there, or train a generator for this cut with GeneratorTrainer."
)


def features(batch=2, size=(32, 48)):
    return tuple(torch.zeros(batch, level.channels, *level.size(size)) for level in SPEC)


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        ("ShapeError", ValueError),
        ("DtypeError", TypeError),
        ("LabelError", ValueError),
        ("ConfigError", ValueError),
        ("SplitError", ValueError),
        ("DataError", ValueError),
        ("MissingDataError", FileNotFoundError),
        ("CheckpointError", RuntimeError),
        ("TrainingError", RuntimeError),
        ("MissingPackageError", ImportError),
    ],
)
def test_errors_are_the_built_in_kinds_too(kind, built_in):
    error = getattr(errors, kind)("one\ntwo")
    assert isinstance(error, errors.FeatAugError)
    assert isinstance(error, built_in)
    assert str(error) == "one\ntwo"


def test_every_error_is_listed_above():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.FeatAugError)]
    assert len(kinds) == 11  # the ten above and their base
    assert issubclass(errors.FeatAugWarning, UserWarning)


def test_message_leaves_out_what_is_absent():
    assert message("Who: rule.") == "Who: rule."
    assert message("Who: rule.", needed="b", advice="Do it.") == "Who: rule.\n  needed:  b\nDo it."
    assert message("Who: rule.", given="a", needed="b") == "Who: rule.\n  given:   a\n  needed:  b"


def test_describe():
    assert describe(torch.zeros(2, 3, dtype=torch.bfloat16)) == "[2, 3] bfloat16 on cpu"
    assert describe("x") == "str 'x'"
    assert len(describe("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("value", "bounds", "needed"),
    [
        (1.5, {"low": 0, "high": 1, "open_high": True}, "a number in [0, 1)"),
        (1, {"low": 0, "high": 1, "open_high": True}, "a number in [0, 1)"),
        (0, {"low": 0, "open_low": True}, "a number in (0, inf)"),
        (-1, {"low": 0}, "a number in [0, inf)"),
        (2, {"high": 1}, "a number in (-inf, 1]"),
        (2.0, {"low": 1, "integer": True}, "an integer in [1, inf)"),
        (True, {"low": 0}, "a number in [0, inf)"),
        (math.nan, {}, "a number in (-inf, inf)"),
        (math.inf, {"low": 0}, "a number in [0, inf)"),
        ("3", {"low": 0}, "a number in [0, inf)"),
        (None, {"low": 0}, "a number in [0, inf)"),
    ],
)
def test_check_number_refuses(value, bounds, needed):
    with pytest.raises(ConfigError) as error:
        check_number("Who", "ratio", value, **bounds)
    assert str(error.value) == f"Who: ratio is out of range.\n  given:   {value!r}\n  needed:  {needed}"


@pytest.mark.parametrize(
    ("value", "bounds"),
    [(0, {"low": 0}), (0.999, {"high": 1, "open_high": True}), (1, {"low": 0, "high": 1}), (3, {"low": 1, "integer": True})],
)
def test_check_number_accepts(value, bounds):
    assert check_number("Who", "ratio", value, **bounds) is None


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_check_masks_returns_int64(dtype):
    masks = torch.tensor([[[0, 1, 2, 100]]], dtype=dtype)
    out = check_masks("Who", masks, 3, 100)
    assert out.dtype == torch.int64
    assert out.tolist() == masks.tolist()


@pytest.mark.parametrize(("label", "void"), [(3, 255), (-1, 255), (255, -1), (254, 255)])
def test_check_masks_refuses_labels(label, void):
    masks = torch.zeros(2, 4, 5, dtype=torch.long)
    masks[1, 2, 3] = label
    with pytest.raises(LabelError) as error:
        check_masks("Who", masks, 3, void)
    assert str(error.value) == (
        "Who: a mask holds labels that are no class.\n"
        f"  given:   [{label}] in [2, 4, 5] int64 on cpu, first at sample 1, row 2, column 3\n"
        f"  needed:  0 .. 2, or ignore_index ({void}) for void\n"
        "Map the data set's own ids to 0 .. num_classes - 1 first, or raise num_classes if these are classes."
    )
    masks[1, 2, 3] = void
    assert check_masks("Who", masks, 3, void) is masks


@pytest.mark.parametrize("bad", [torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), [[[0]]]])
def test_masks_must_be_integers(bad):
    with pytest.raises(DtypeError) as error:
        check_mask_form("Who", bad)
    assert str(error.value) == (
        "Who: masks must be integer label maps.\n"
        f"  given:   {describe(bad)}\n"
        "  needed:  (B, H, W) int64, the class of every pixel\n"
        "For one-hot or probability maps of shape (B, K, H, W), pass masks.argmax(1)."
    )


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4), (0, 4, 4), (2, 0, 4)])
def test_masks_must_have_three_dimensions(shape):
    with pytest.raises(ShapeError) as error:
        check_mask_form("Who", torch.zeros(shape, dtype=torch.long))
    assert str(error.value) == (
        "Who: masks have the wrong shape.\n"
        f"  given:   {list(shape)} int64 on cpu\n"
        "  needed:  (B, H, W), none of them zero\n"
        "For a single mask pass mask[None]; for (B, 1, H, W) pass masks[:, 0]."
    )


def test_check_features_accepts():
    given_features = features()
    assert check_features("Who", list(given_features), SPEC, (32, 48)) == given_features
    assert check_features("Who", given_features, SPEC) == given_features
    single = FeatureSpec((SPEC[0],))
    assert check_features("Who", given_features[0], single, (30, 47)) == given_features[:1]  # strides round up


@pytest.mark.parametrize(("bad", "shown"), [(features()[:1], "1 tensors"), (7, "int 7"), (features()[0], "1 tensors")])
def test_check_features_counts_levels(bad, shown):
    with pytest.raises(ShapeError) as error:
        check_features("Who", bad, SPEC)
    assert str(error.value) == (
        f"Who: the features do not fit the spec.\n  given:   {shown}\n  needed:  2 tensors, one each for 'low', 'high'\n{OTHER_CUT}"
    )


@pytest.mark.parametrize("bad", [torch.zeros(2, 8, 4, 6, dtype=torch.long), None])
def test_check_features_wants_floats(bad):
    with pytest.raises(DtypeError) as error:
        check_features("Who", (features()[0], bad), SPEC)
    assert str(error.value) == (
        f'Who: level "high" is no floating point tensor.\n  given:   {describe(bad)}\n  needed:  (B, 8, h, w) float'
    )


@pytest.mark.parametrize("shape", [(2, 7, 4, 6), (2, 8, 4, 7), (2, 8, 24), (0, 8, 4, 6)])
def test_check_features_looks_at_shapes(shape):
    with pytest.raises(ShapeError) as error:
        check_features("Who", (features()[0], torch.zeros(shape)), SPEC, (32, 48))
    assert str(error.value) == (
        "Who: the features do not fit the spec.\n"
        f'  given:   {list(shape)} float32 on cpu   at level "high"\n'
        f"  needed:  [B, 8, 4, 6]   (channels 8, reduction 8, for masks of 32 x 48)\n{OTHER_CUT}"
    )


def test_check_features_without_a_size_says_so():
    with pytest.raises(ShapeError) as error:
        check_features("Who", (torch.zeros(2, 5, 4, 4), features()[1]), SPEC)
    assert "  needed:  [B, 4, h, w]   (channels 4, reduction 4)\n" in str(error.value)


def test_check_features_compares_batch_sizes():
    with pytest.raises(ShapeError) as error:
        check_features("Who", (features(2)[0], features(3)[1]), SPEC)
    assert str(error.value) == (
        "Who: the levels hold different numbers of samples.\n  given:   [2, 3]\n  needed:  the same batch size at every level"
    )


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 64))
def test_sizes_round_up(rows, columns, reduction):
    assert LevelSpec("x", 1, reduction).size((rows, columns)) == (math.ceil(rows / reduction), math.ceil(columns / reduction))


def test_spec_is_a_sequence_and_survives_json():
    import json

    assert (len(SPEC), list(SPEC), SPEC[1].name) == (2, [*SPEC.levels], "high")
    assert (SPEC.channels, SPEC.reductions) == ((4, 8), (4, 8))
    again = FeatureSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert again == SPEC
    assert hash(again) == hash(SPEC)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None])
@pytest.mark.parametrize("field", ["channels", "reduction"])
def test_levels_refuse(field, value):
    with pytest.raises(ConfigError) as error:
        LevelSpec(**({"name": "x", "channels": 4, "reduction": 4} | {field: value}))
    assert str(error.value) == (f"LevelSpec: {field} is out of range.\n  given:   {value!r}\n  needed:  an integer of at least 1")


def test_a_spec_needs_a_level():
    with pytest.raises(ConfigError) as error:
        FeatureSpec(())
    assert str(error.value) == "FeatureSpec: no level.\n  given:   ()\n  needed:  at least one LevelSpec"


def test_a_spec_takes_nothing_but_levels():
    with pytest.raises(ConfigError) as error:
        FeatureSpec.from_dict({"levels": [3]})
    assert str(error.value) == (
        "FeatureSpec: a level is no LevelSpec.\n  given:   (3,)\n  needed:  LevelSpec(name, channels, reduction)"
    )


@pytest.mark.parametrize("data", [{}, {"levels": 3}, {"levels": [{"name": "x"}]}, {"levels": [{"name": "x", "depth": 3}]}])
def test_from_dict_refuses(data):
    with pytest.raises(ConfigError) as error:
        FeatureSpec.from_dict(data)
    assert str(error.value) == (
        "FeatureSpec: cannot be read.\n"
        f"  given:   {data!r}\n"
        '  needed:  {"levels": [{"name": str, "channels": int, "reduction": int, "tokens": int}, ...]}'
    )


def test_mixed_batch_counts_its_synthetic_samples():
    flags = torch.tensor([False, False, True])
    assert MixedBatch((), torch.zeros(3, 2, 2), flags, 2).num_synthetic == 1


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4), st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_seeds_differ_where_the_parts_do(first, second):
    a, b = derive_seed(*first), derive_seed(*second)
    assert 0 <= a < 2**63
    assert (a == b) == (first == second)
    torch.Generator().manual_seed(a)


def test_every_part_of_a_seed_matters_and_so_does_its_place():
    parts = [(0, "order", 3), (1, "order", 3), (0, "noise", 3), (0, "order", 4), (3, "order", 0), (0, "order"), (0, "order", "3")]
    assert len({derive_seed(*p) for p in parts}) == len(parts)


def test_seeds_are_the_same_everywhere():
    # import hashlib
    # int.from_bytes(hashlib.blake2b(b"(0, 'order', 3)", digest_size=8).digest(), "little") >> 1
    assert derive_seed(0, "order", 3) == 8244215730568551301
    assert derive_seed() == 2847183694713211083
    draws = [torch.rand(3, generator=generator_for(7, "x")).tolist() for _ in range(2)]
    assert draws[0] == draws[1] != torch.rand(3, generator=generator_for(8, "x")).tolist()
