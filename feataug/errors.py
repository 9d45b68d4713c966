"""What feataug raises: each kind is a ``FeatAugError`` and also the built-in error that a caller would expect."""

from __future__ import annotations


class FeatAugError(Exception):
    """Base of every error that feataug raises on purpose."""


class ShapeError(FeatAugError, ValueError):
    """A tensor has the wrong number of dimensions, channels, rows, columns or samples."""


class DtypeError(FeatAugError, TypeError):
    """A tensor has the wrong dtype: labels that are floats, features that are integers."""


class LabelError(FeatAugError, ValueError):
    """A mask holds a value that is neither a class nor ``ignore_index``."""


class ConfigError(FeatAugError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""


class SplitError(FeatAugError, ValueError):
    """A model cannot be cut where it was asked to be."""


class DataError(FeatAugError, ValueError):
    """A data set is there but is not what its reader needs."""


class MissingDataError(DataError, FileNotFoundError):
    """A folder, or the mask of an image, is not there."""

    # OSError formats its arguments by itself; the message is ours, whole.
    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(FeatAugError, RuntimeError):
    """A checkpoint is torn, foreign, or was written by other settings."""


class TrainingError(FeatAugError, RuntimeError):
    """Training cannot go on: a loss is not finite, or a loader yields nothing."""


class MissingPackageError(FeatAugError, ImportError):
    """An optional package is not installed."""


class FeatAugWarning(UserWarning):
    """Something works but will probably not give what was hoped for."""


def message(rule: str, *, given: str | None = None, needed: str | None = None, advice: str | None = None) -> str:
    """Word an error: the rule that was broken, the facts aligned below it, and the call that mends it.

    Example:
        >>> print(message("FeatureMixer: ratio is out of range.", given="1.5", needed="a number in [0, 1)"))
        FeatureMixer: ratio is out of range.
          given:   1.5
          needed:  a number in [0, 1)
    """
    lines = [rule]
    if given is not None:
        lines.append(f"  given:   {given}")
    if needed is not None:
        lines.append(f"  needed:  {needed}")
    if advice is not None:
        lines.append(advice)
    return "\n".join(lines)
