"""What several test files share: a generator of random numbers, a segmentation model of a few thousand weights, guards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support import guards

_AWAY = "FEATAUG_TESTS_AWAY"  # a variable, since other processes of pytest-xdist inherit it
_WATCHED = pytest.StashKey[dict[str, tuple[Path, dict[str, tuple[int, int]]]]]()


class TinyNet(nn.Module):
    """A stem and a body of stride 2 each, a head, logits at the images' size; without dropout."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.stem = self._block(3, 8, 2)
        self.body = self._block(8, 16, 2)
        self.head = nn.Sequential(self._block(16, 16, 1), nn.Conv2d(16, num_classes, 1))

    @staticmethod
    def _block(a: int, b: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.body(self.stem(images)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.fixture
def rng() -> torch.Generator:
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_net() -> type[TinyNet]:
    """Makes small models, the same ones in every test: ``tiny_net()``; ``split(net, "body")`` gives 16 channels at stride 4."""
    torch.manual_seed(0)
    return TinyNet


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is there before any test file is imported; the process that starts others (pytest-xdist) does so for all of them.

    The tests' current folder is an empty one that holds runs/NAME for every command, since some files are written only if it exists.
    """
    if hasattr(session.config, "workerinput"):
        return
    from feataug.cli.commands import COMMANDS

    away = Path(tempfile.mkdtemp(prefix="feataug-away-"))
    for name in COMMANDS:
        (away / "runs" / name).mkdir(parents=True)
    os.environ[_AWAY] = str(away)
    watched = {"the repository": guards.ROOT, "the current folder": away}
    session.config.stash[_WATCHED] = {where: (folder, guards.listing(folder)) for where, folder in watched.items()}


@pytest.fixture(scope="session", autouse=True)
def away_from_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in an empty folder, so that a command's default --output does not touch the runs of whoever runs the tests."""
    start = os.getcwd()
    # Without the variable pytest read this file too late to watch anything: it was started on another folder.
    os.chdir(os.environ.get(_AWAY) or tmp_path_factory.mktemp("away"))
    yield
    os.chdir(start)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report files that tests left in the repository or in their current folder as an error of its own.

    Not by a fixture that fails: pytest takes that for the expected failure of the last test if this is marked as one.
    """
    for where, (folder, before) in session.config.stash.get(_WATCHED, {}).items():
        if found := guards.changes(before, guards.listing(folder)):
            text = guards.complaint(where, found)
            here = ("tests/conftest.py", 0, where)
            report = pytest.TestReport(f"tests/conftest.py::{where}", here, {}, "failed", text, "teardown")
            session.config.hook.pytest_runtest_logreport(report=report)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the tests' current folder."""
    if _WATCHED in config.stash:
        shutil.rmtree(os.environ.pop(_AWAY), ignore_errors=True)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With FEATAUG_NO_SKIPS a test that is skipped has failed, but for a GPU or real data."""
    if not guards.skips_fail() or not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    file, line, reason = report.longrepr
    if not guards.is_allowed(reason):
        report.outcome = "failed"
        report.longrepr = f"{file}:{line}: skipped although FEATAUG_NO_SKIPS is set: {reason.removeprefix('Skipped: ')}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """See ``_fail_if_skipped``."""
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for whole files, as by ``pytest.importorskip`` at their top."""
    report = yield
    _fail_if_skipped(report)
    return report
