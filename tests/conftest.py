"""What several test files share: a generator of random numbers, a segmentation model of a few thousand weights, guards."""

from __future__ import annotations

import os
from collections.abc import Iterator

import guards
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails if the tests wrote into the repository, or into the current folder, such as to a command's default --output.

    The current folder is an empty one. It holds runs/NAME for every command, since some files are written only where that exists.
    """
    from feataug.commands import COMMANDS

    away = tmp_path_factory.mktemp("away")
    for name in COMMANDS:
        (away / "runs" / name).mkdir(parents=True)
    watched = {"the repository": guards.ROOT, "the current folder": away}
    before = {where: guards.listing(folder) for where, folder in watched.items()}
    start = os.getcwd()
    os.chdir(away)
    yield
    os.chdir(start)
    for where, folder in watched.items():
        if found := guards.changes(before[where], guards.listing(folder)):
            pytest.fail(guards.complaint(where, found), pytrace=False)


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
