"""The settings that a finished stage was run with, stored beside its figures and compared before the figures are used again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from feataug.errors import ConfigError, message
from feataug.training.run_settings import EARLIER

# Settings of the package's configurations that do not change what is trained.
BOOKKEEPING = {"save_every", "eval_every", "eval_images", "log_images", "snapshot_images", "trackers", "channels_last"}


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a JSON file returns them: tuples as lists, keys as strings."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def check_settings(file: Path, stored: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> None:
    """Refuse figures that were computed with other settings.

    A key that one side lacks is unknown and is skipped: configurations gain settings over time. A setting of which it is known what runs did
    before there was one (``run_settings.EARLIER``) had that value. Files of earlier versions store no settings at all; they are accepted with
    a warning, since nothing tells whether they fit.

    Args:
        file: Holds the figures; named in the messages.
        stored: The settings in the file, or ``None`` where it has none.
        asked: The settings of this run.

    Raises:
        ConfigError: A setting differs.
    """
    if stored is None:
        warnings.warn(
            f"{file}: an earlier version stored no settings with these figures. They are used as they are; if they may be of other settings, "
            "choose another --output.",
            stacklevel=3,
        )
        return
    old, new = dict(leaves(stored)), dict(leaves(as_json(asked)))
    for key in new.keys() - old.keys():
        place, _, name = key.rpartition(".")
        # Of a configuration that is stored, not of one that is missing as a whole.
        if name in EARLIER and any(known.startswith(f"{place}.") for known in old):
            old[key] = EARLIER[name]
    differing = [key for key in old if key in new and old[key] != new[key] and key.rpartition(".")[2] not in BOOKKEEPING]
    if differing:
        raise ConfigError(
            message(
                f"{file}: these figures were computed with other settings.",
                given=", ".join(f"{key} {new[key]}" for key in differing),
                needed=", ".join(f"{key} {old[key]}" for key in differing) + " (stored)",
                advice="Choose another --output (and --result), or repeat the stored settings.",
            )
        )


def read_result(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A study's result file that further figures are added to, or ``None`` where there is none yet.

    Raises:
        ConfigError: Its figures are of other settings.
    """
    if not file.exists():
        return None
    result: dict[str, Any] = json.loads(file.read_text())
    check_settings(file, result.get("settings"), settings)
    return result


def leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below nested dictionaries and lists of dictionaries, with its dotted path."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(settings, list) and settings and all(isinstance(value, Mapping) for value in settings):
        yield f"{path}.length", len(settings)
        for number, value in enumerate(settings):
            yield from leaves(value, f"{path}.{number}")
    else:
        yield path, settings
