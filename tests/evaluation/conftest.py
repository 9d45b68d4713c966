"""Fixtures that several files of this folder share; they are made in ``tests/support``."""

from tests.support.comparison_runs import trained
from tests.support.planted_features import cut, found
from tests.support.stage_runs import model
from tests.support.teaching_runs import loud, prototypes

__all__ = ["cut", "found", "loud", "model", "prototypes", "trained"]
