"""The errors of feataug. Each is a ``FeatAugError`` and also the built-in error that a caller would expect."""

from __future__ import annotations


class FeatAugError(Exception):
    """Base of every error that feataug raises on purpose.

    Args:
        rule, given, needed, advice: As ``message`` takes them.
    """

    def __init__(self, rule: str = "", *, given: str | None = None, needed: str | None = None, advice: str | None = None) -> None:
        super().__init__(message(rule, given=given, needed=needed, advice=advice))


class ShapeError(FeatAugError, ValueError):
    """A tensor has the wrong number of dimensions, channels, rows, columns or samples."""


class DtypeError(FeatAugError, TypeError):
    """A tensor has the wrong dtype: labels that are floats, features that are integers."""


class LabelError(FeatAugError, ValueError):
    """A mask holds a value that is neither a class nor ``ignore_index``."""


class ConfigError(FeatAugError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class SplitError(FeatAugError, ValueError):
    """A model cannot be cut at the layer that was named."""


class DataError(FeatAugError, ValueError):
    """A data set exists but does not have the form that its reader needs."""


class MissingDataError(DataError, FileNotFoundError):
    """A folder, or the mask of an image, is missing."""

    # OSError would format its arguments in its own way.
    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(FeatAugError, RuntimeError):
    """A checkpoint is corrupt, of another kind, or was written with other settings."""


class TrainingError(FeatAugError, RuntimeError):
    """Training cannot continue: a loss is not finite, or a loader is empty."""


class MissingPackageError(FeatAugError, ImportError):
    """An optional package is not installed."""


class FeatAugWarning(UserWarning):
    """Something works, but will probably not give the wanted result."""


def message(rule: str, *, given: str | None = None, needed: str | None = None, advice: str | None = None) -> str:
    """The text of an error: the rule that was broken, the facts aligned below it, and the call that fixes it.

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
