"""A user's module with models and mistakes, and the errors for names on the command line."""

from __future__ import annotations

import pytest

from feataug.cli.model_names import named_model
from feataug.cli.user_code import NEEDED
from feataug.errors import ConfigError

BUILD = "from torch import nn\ndef build():\n    return nn.Conv2d(3, 8, 3)\n"
CALLED = "a function, a class or a torch.nn.Module"
SOURCE = """\
from torch import nn


class Net(nn.Conv2d):
    def __init__(self, classes=4):
        super().__init__(3, classes, 1)

    @classmethod
    def small(cls):
        return cls(2)


def build(classes=6, *rest, **more):
    return Net(classes)


def needs(classes, width=1, *, depth):
    pass


def fails():
    inner = 1
    raise ValueError("no weights")


def ends():
    raise SystemExit(3)


def nothing():
    build()


def pair():
    return build(), "transform"


def kind():
    return Net


net = build(5)
table = {"a": build}
"""


def wrong(rule: str, given: str, advice: str | None = None, needed: str = NEEDED) -> str:
    lines = [f"named_model: {rule}", f"  given:   {given}", f"  needed:  {needed}", *([advice] if advice else [])]
    return "\n".join(lines)


def error(name: str, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        named_model(name)
    return str(caught.value)
