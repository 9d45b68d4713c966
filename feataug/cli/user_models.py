"""Get a model from a user's own code, named as ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from feataug.cli.user_code import from_file, from_module, local_file, naming_error, near_files, running
from feataug.errors import ConfigError


def model_from(name: str) -> nn.Module:
    """Get a model from a user's own code.

    Args:
        name: ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``. FUNCTION is a function or class that needs no arguments, which is called; or it is
            a model. It may be dotted, such as ``Net.small``.

    Returns:
        The model.

    Raises:
        ConfigError: the module or file is missing or fails; it has no such function; the function needs arguments, fails, or
            does not return a model.

    Note:
        Modules are searched in the standard library, then in the current folder (for a file also in its own folder), then among the
        installed packages. So your modules come before installed ones, as with ``python -m``, but a file called ``types.py`` or
        ``random.py`` does not replace a module that other packages import. It is an error if a module of the standard library, or one
        that is loaded already, hides the named file.
    """
    where, function = _split(name)
    if not function:
        raise _without_function(name)
    module = from_file(name, where) if where.lower().endswith(".py") else from_module(name, where)
    return _build(name, _attribute(name, module, function))


def code_file(name: str) -> Path | None:
    """The file from which ``model_from`` got a name such as ``MODULE:FUNCTION``; ``None`` for other kinds of names."""
    where, function = _split(name)
    if function and where.lower().endswith(".py"):
        return Path(os.path.expanduser(where)).resolve()
    found = getattr(sys.modules.get(where), "__file__", None) if function else None
    return Path(found) if found else None


def _split(name: str) -> tuple[str, str]:
    """Split ``mymodel:build`` into module and function; the function is empty if none is named."""
    where, _, function = name.rpartition(":")
    named = where and all(part.isidentifier() for part in function.split(".")) and not function.endswith(".py")
    return (where, function) if named else (name, "")


def _without_function(name: str) -> ConfigError:
    """The error for a name without a function."""
    start, given = name.rstrip(":"), repr(name)
    path = Path(os.path.expanduser(start))
    if name.endswith(")"):
        return naming_error(
            "the function must be named without parentheses and arguments.", given, "Write MODULE:FUNCTION; the function is called."
        )
    if name.startswith(":"):
        return naming_error("the module before the colon is missing.", given)
    if os.path.isfile(path):
        if path.suffix.lower() == ".py":
            found = _public_names(path)
            advice = f"The file defines {', '.join(found)}: write {start}:{found[0]}." if found else None
            return naming_error("the function in the file is missing.", given, advice)
        advice = "If it holds weights, write a function that builds the model and loads them, and name that function."
        return naming_error("the file is not Python source.", given, advice)
    if "/" in name or "\\" in name or name.startswith("~") or path.suffix.lower() == ".py":
        return naming_error("there is no such file or folder.", given, near_files(path))
    if start.replace(".", "").isidentifier() and _module_exists(start):
        return naming_error("no model has this name.", given, f"{start} is a module: name its function, {start}:FUNCTION.")
    return naming_error("no model has this name.", given)


def _public_names(path: Path) -> list[str]:
    """The public functions and classes of a source file, without executing it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return []
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")][:8]


def _module_exists(module: str) -> bool:
    """Whether a module or package of this name can be found, also in the current folder."""
    try:
        return local_file(module) is not None or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _attribute(name: str, module: ModuleType, function: str) -> Any:
    found: Any = module
    for part in function.split("."):
        with running(name, "the code fails when the function is looked up."):
            missing = not hasattr(found, part)
            if not missing:
                found = getattr(found, part)
                continue
        own = [key for key in getattr(found, "__dict__", ()) if _is_candidate(key, getattr(found, key, None), module)]
        near = difflib.get_close_matches(part, own, n=3) or own[:8]
        holder = getattr(found, "__name__", type(found).__name__) if found is not module else name.rpartition(":")[0]
        raise naming_error(
            "there is no such function.",
            f"{name!r}: {holder} has no {part!r}",
            f"It has {', '.join(near)}." if near else None,
            needed="a function, a class or a torch.nn.Module",
        )
    return found


def _is_candidate(key: str, value: Any, module: ModuleType) -> bool:
    """Whether the user may have meant this attribute: it is public, callable, and not imported from another package."""
    package = module.__name__.partition(".")[0]
    return not key.startswith("_") and callable(value) and str(getattr(value, "__module__", "")).partition(".")[0] == package


def _build(name: str, maker: Any) -> nn.Module:
    if isinstance(maker, nn.Module):
        return maker
    if not callable(maker):
        rule = "this is neither a function nor a model."
        raise naming_error(rule, f"{name!r}, {_describe_value(maker)}", needed="a function, a class or a torch.nn.Module")
    if missing := _required_arguments(maker):
        raise naming_error(
            "the function needs arguments.",
            f"{name!r} without {', '.join(missing)}",
            "Write a function without arguments that builds the model, or give these arguments default values.",
            needed="a function that can be called without arguments",
        )
    with running(name, "the function fails."):
        model = maker()
    if isinstance(model, nn.Module):
        return model
    inside = list(model.values()) if isinstance(model, Mapping) else model if isinstance(model, (tuple, list)) else []
    advice: str | None = None
    if model is None:
        advice = "A `return` seems to be missing."
    elif isinstance(model, type):
        advice = "Return an instance of the class."
    elif any(isinstance(part, nn.Module) for part in inside):
        advice = "Return the model alone."
    raise naming_error("the function does not return a model.", f"{name!r} returns {_describe_value(model)}", advice, needed="a torch.nn.Module")


def _required_arguments(maker: Any) -> list[str]:
    """The names of the arguments without a default value."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return []  # some builtins have no signature
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variadic]


def _describe_value(value: Any) -> str:
    """A short description of a value."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = f"a value of type {type(value).__name__}"
    if isinstance(value, (tuple, list)) and 0 < len(value) <= 8:
        text += f" that holds {', '.join(type(part).__name__ for part in value)}"
    return text
