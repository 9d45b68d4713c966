"""Models by their names on the command line."""

import difflib
import json
import os
from pathlib import Path

import timm
from torch import nn

from feataug.cli.user_code import NEEDED
from feataug.cli.user_models import model_from
from feataug.errors import ConfigError
from feataug.models import PSPNet

# Sources from which timm loads models that are not in its own list.
_TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def named_model(name: str) -> nn.Module:
    """Make or load the model that a name on the command line stands for.

    Args:
        name: ``timm/NAME`` (random weights), or one of timm's own sources, such as ``hf-hub:USER/NAME``; the folder of a saved
            ``PSPNet``; ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``, as ``feataug.cli.user_models.model_from`` reads them.

    Raises:
        ConfigError: nothing has this name, or it is not a model.
        CheckpointError: the folder's weights or settings are damaged.
    """
    if name.startswith(("timm/", *_TIMM_SOURCES)):
        return _timm_model(name)
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return _saved_model(name, folder)
    bare = name.removeprefix("timm:").removeprefix("timm.")
    if not os.path.exists(folder) and not name.endswith(".py") and ":" not in bare and timm.is_model(bare):
        rule = "named_model: the name of a timm model begins with timm/."
        raise ConfigError(rule, given=repr(name), needed=NEEDED, advice=f"Write timm/{bare}.")
    return model_from(name)


def _timm_model(name: str) -> nn.Module:
    inner = name.removeprefix("timm/")
    try:
        return timm.create_model(inner)
    except Exception as error:  # errors of timm, the hub and the network have no other base class
        if inner.startswith(_TIMM_SOURCES):
            text = (str(error).strip() or "no reason given").splitlines()[0]
            rule, given = "named_model: timm cannot load this model.", f"{name!r}: {type(error).__name__}: {text}"
            advice = "Its config.json has to be there: in a local folder, in the hub's cache on this machine, or on the hub."
            raise ConfigError(rule, given=given, needed=NEEDED, advice=advice) from error
        near = difflib.get_close_matches(inner, timm.list_models(), n=5)
        advice = "timm has: " + ", ".join(near) if near else "timm.list_models() lists them."
        raise ConfigError("named_model: timm has no such model.", given=repr(name), needed=NEEDED, advice=advice) from error


def _saved_model(name: str, folder: str) -> nn.Module:
    try:
        entries = sorted(os.listdir(folder))
        settings = json.loads(Path(folder, "config.json").read_text()) if "config.json" in entries else None
    except OSError as error:
        given = f"{name!r}: {type(error).__name__}: {error}"
        raise ConfigError("named_model: the folder cannot be read.", given=given, needed=NEEDED) from error
    except ValueError:
        settings = {"encoder": None}  # damaged: from_pretrained reports it
    if isinstance(settings, dict) and "encoder" in settings:
        return PSPNet.from_pretrained(folder)
    shown = ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")
    given, advice = f"{name!r}, which " + (f"holds {shown}" if entries else "is empty"), None
    if isinstance(settings, dict) and "spec" in settings:
        advice = "It holds a generator: give the model that the generator was trained for."
    elif "__init__.py" in entries:
        advice = "It is a package: name its function, such as " + ".".join(Path(folder).parts) + ":FUNCTION."
    elif below := [entry for entry in entries if os.path.isfile(os.path.join(folder, entry, "model.safetensors"))]:
        advice = "Models may be in " + ", ".join(os.path.join(name, entry) for entry in below[:5]) + "."
    needed = "config.json and model.safetensors, as `feataug finetune` leaves them"
    raise ConfigError("named_model: the folder holds no saved PSPNet.", given=given, needed=needed, advice=advice)
