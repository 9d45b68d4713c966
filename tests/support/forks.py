"""Scripts in processes of their own that need not import torch again: forked from one that has, which each process of pytest starts once.

Importing takes longer than what most of these scripts do. What a test says of importing itself needs a fresh interpreter instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
# feataug.metrics brings torchmetrics, which takes half as long as torch does.
FORKS.set_forkserver_preload(
    ["torch.distributed", "torchvision.transforms.v2", "feataug.training.run_folder", "feataug.metrics", "feataug.io.model_card"]
)
ROOT = Path(__file__).parents[2]


class Fork:
    """A script, running as ``python SCRIPT ARGV`` would; ends with ``returncode``, ``stdout`` and ``stderr``.

    Args:
        script: A file, or Python itself as text.
        argv: What the script finds in ``sys.argv[1:]``.
        env: Variables besides those of this process.
        folder: Where it runs; here by default.
    """

    def __init__(
        self, script: Path | str, *argv: object, env: Mapping[str, object] | None = None, folder: Path | None = None
    ) -> None:
        self._place = tempfile.TemporaryDirectory()
        self._files = [Path(self._place.name) / name for name in ("stdout", "stderr")]
        variables = os.environ | {name: str(value) for name, value in (env or {}).items()}
        if isinstance(script, str):
            text, script = script, Path(self._place.name) / "script.py"
            script.write_text(text)
        words = [str(script), *map(str, argv)]
        self._process = FORKS.Process(target=_run, args=(words, dict(variables), str(folder or Path.cwd()), self._files))
        self._process.start()

    def kill(self) -> None:
        """End it by SIGKILL, and wait until it has ended."""
        self._process.kill()
        self._process.join()
        self._place.cleanup()

    def wait(self, seconds: float = 240) -> Fork:
        """Until it ends; one that does not is killed, and has the exit code -9."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self.returncode = self._process.exitcode
        self.stdout, self.stderr = (file.read_text() if file.exists() else "" for file in self._files)
        self._place.cleanup()
        return self


def run(script: Path | str, *argv: object, **settings: Any) -> Fork:
    """A fork that has ended."""
    return Fork(script, *argv, **settings).wait()


def _run(argv: Sequence[str], variables: Mapping[str, str], folder: str, files: Sequence[Path]) -> None:
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = list(argv)
    sys.path[:0] = [str(Path(argv[0]).parent), str(ROOT)]
    runpy.run_path(argv[0], run_name="__main__")
