"""Errors: what they say, and that they survive pickling, as a loader's workers need."""

import copy
import pickle

import pytest

from feataug import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FeatAugError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_words_its_message(kind):
    error = kind("split: it leaks.", given="a", needed="b", advice="Cut elsewhere.")
    assert str(error) == "split: it leaks.\n  given:   a\n  needed:  b\nCut elsewhere."
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
    assert str(kind("split: it leaks.")) == "split: it leaks."


def test_errors_are_the_built_in_ones_too():
    assert len(KINDS) == 11
    assert issubclass(errors.MissingDataError, FileNotFoundError)
    assert issubclass(errors.ShapeError, ValueError)
    assert issubclass(errors.MissingPackageError, ImportError)
