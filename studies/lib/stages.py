"""Stages of a study: each is run once, and its figures are kept in a file with the settings that led to them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from feataug.io.atomic import write_json
from studies.lib.stage_settings import as_json, check_settings


class Stages:
    """The stages in one folder.

    Attributes:
        seconds: By stage, how long it took.
        resumed: The stages that were interrupted: of these only the last part is counted.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.seconds: dict[str, float] = {}
        self.resumed: list[str] = []

    def stage(self, name: str, run: Callable[[], dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Run a stage, or read the figures that it left.

        Args:
            name: Path of the stage's file below the output folder, without ``.json``. The file is written when the stage is finished.
            run: Computes the figures.
            settings: Everything that the figures depend on. It is stored with them.

        Raises:
            ConfigError: The stored figures are of other settings.
        """
        file = self.output / f"{name}.json"
        if not file.exists():
            began, resumed = time.monotonic(), any(self.output.glob(f"{name}*"))
            figures = run()
            # For a stage that was interrupted, only the last part is counted.
            figures |= {"seconds": round(time.monotonic() - began, 1), "resumed": resumed, "stage_settings": as_json(settings)}
            write_json(file, figures)
        figures = json.loads(file.read_text())
        check_settings(file, figures.pop("stage_settings", None), settings)
        self.seconds[name] = figures.pop("seconds")
        if figures.pop("resumed") and name not in self.resumed:
            self.resumed.append(name)
        return figures
