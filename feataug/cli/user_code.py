"""Import a user's module or file by its name, and report whatever goes wrong as one error."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from feataug.errors import ConfigError, FeatAugError

NEEDED = "timm/NAME, the folder of a saved PSPNet, MODULE:FUNCTION or FILE.py:FUNCTION"
# "C:\models.py": the colon belongs to the path.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def naming_error(rule: str, given: str, advice: str | None = None, needed: str = NEEDED) -> ConfigError:
    """The error for a name on the command line that does not lead to a model."""
    return ConfigError(f"named_model: {rule}", given=given, needed=needed, advice=advice)


def near_files(path: Path) -> str | None:
    """Advice that names files with a similar name."""
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent) if entry.is_dir() or entry.name.endswith(".py"))
    except OSError:
        return f"The folder {path.parent} does not exist."
    near = difflib.get_close_matches(path.name, names, n=3) or difflib.get_close_matches(path.name + ".py", names, n=3, cutoff=0.9)
    return f"{path.parent.absolute()} holds {', '.join(near)}." if near else f"Looked in {path.parent.absolute()}."


def local_file(module: str) -> Path | None:
    """The file in the current folder that a module's name stands for, if there is one."""
    start = Path.cwd().joinpath(*module.split("."))
    files = (start / "__init__.py", start.with_name(start.name + ".py"))
    return next((file for file in files if file.is_file()), None)


def _make_importable(folder: Path) -> None:
    """Add ``folder`` to ``sys.path``, after the standard library and before installed packages.

    It stays there, because a model may import more when it is called.
    """
    importlib.invalidate_caches()
    if str(folder) in sys.path:
        return
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {os.path.join(path, "lib-dynload") for path in standard}
    places = [i for i, path in enumerate(sys.path) if path in standard]
    sys.path.insert(places[-1] + 1 if places else len(sys.path), str(folder))


def from_module(name: str, where: str) -> ModuleType:
    """Import the module ``where``, which may be in the current folder; errors show ``name``.

    Raises:
        ConfigError: the module is missing or fails, or it hides a file in the current folder.
    """
    if where.startswith(".") or "/" in where or "\\" in where or _DRIVE.match(where):
        path = Path(os.path.expanduser(where + ".py"))
        file = os.path.isfile(path)
        advice = f"Write {where}.py{name[len(where) :]}." if file else near_files(path)
        raise naming_error("the name of a file must end in .py." if file else "there is no such file.", repr(name), advice)
    _make_importable(Path.cwd())
    with running(name, "the module fails when it is imported.", where):
        module = importlib.import_module(where)
    local = local_file(where)
    if local is not None:
        _check_same(name, module, local)
    return module


def from_file(name: str, where: str) -> ModuleType:
    """Import the file ``where``; its folder (or that of its package) and the current folder stay on ``sys.path``.

    Raises:
        ConfigError: the file is missing or fails, or another module hides its package.
    """
    path = Path(os.path.expanduser(where))
    if not path.is_file():
        if path.is_dir():
            raise naming_error("this is a folder, not a file.", repr(name))
        raise naming_error("there is no such file.", repr(name), near_files(path))
    path = path.resolve()
    parts, top = ([] if path.stem == "__init__" else [path.stem]), path.parent
    while (top / "__init__.py").is_file() and top != top.parent:
        parts, top = [top.name, *parts], top.parent
    _make_importable(Path.cwd())
    _make_importable(top)
    with running(name, "the file fails when it is run."):
        if top != path.parent:
            # Imported as part of its package, so that its relative imports work.
            module = importlib.import_module(".".join(parts))
        else:
            # Under a name that no other module has, so that a file called random.py does not replace the module `random`.
            unique = path.name.replace(".", "_")
            spec = importlib.util.spec_from_file_location(unique, path)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[unique] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[unique]  # as `import` does with a module that fails
                raise
    _check_same(name, module, path)
    return module


def _check_same(name: str, module: ModuleType, file: Path) -> None:
    """Raise if another module of the same name hides the file that the user most likely means."""
    found = getattr(module, "__file__", None)
    if found is not None and os.path.exists(found) and os.path.samefile(found, file):
        return
    rule = f"another module named {module.__name__} hides the file."
    given = f"{name!r}; the file is {file}, the module is {found or 'built in'}"
    top = file.parents[module.__name__.count(".") + (file.name == "__init__.py")]
    alone = module.__name__.count(".") == 0 and file.name != "__init__.py"
    call = os.path.join(".", os.path.relpath(file)) + ":" + name.rpartition(":")[2]
    advice = f"For the file write {call}." if alone and not name.startswith(call) else None
    raise naming_error(rule, given, advice or f"Rename {file.relative_to(top).parts[0]} in {top}, or run the command elsewhere.")


@contextmanager
def running(name: str, rule: str, module: str = "") -> Iterator[None]:
    """Turn an exception in a user's code into one error that says where it was raised."""
    try:
        yield
    except FeatAugError:
        raise
    except SystemExit as error:
        advice = "Move the script's own code below `if __name__ == '__main__':`."
        given = f"{name!r}: SystemExit({error.code!r}){_line(error)}"
        raise naming_error("the code ends the program.", given, advice, needed="code that runs") from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise naming_error("there is no such module.", f"{name!r}: {error}", _near_modules(module)) from error
        advice = "--traceback shows where."
        if isinstance(error, ModuleNotFoundError) and error.name:
            # A console script runs in its own environment, which may lack what the user's code needs.
            advice = f"Install the package that provides {error.name} for {sys.executable}, or put it into the current folder."
        elif isinstance(error, ImportError) and "relative import" in str(error):
            advice = "Put an __init__.py into the file's folder, or name the module from the folder above: FOLDER.MODULE:FUNCTION."
        # The text of a SyntaxError has the file and the line already.
        line = "" if isinstance(error, SyntaxError) else _line(error)
        given = f"{name!r}: {type(error).__name__}: {error}{line}"
        raise naming_error(rule, given, advice, needed="code that runs") from error


def _near_modules(module: str) -> str:
    """Advice for a module that was not found."""
    local, folder = local_file(module), Path.cwd()
    if local is not None:
        call = os.path.join(".", local.relative_to(folder))
        return f"Another package of this name hides {call}. Write {call}:FUNCTION."
    near = difflib.get_close_matches(module, sorted(path.stem for path in folder.glob("*.py")), n=3)
    advice = f"Looked in the current folder, {folder}, and among the installed packages."
    return advice + (f" The folder holds {', '.join(f'{stem}.py' for stem in near)}." if near else "")


def _line(error: BaseException) -> str:
    """The first line of the user's code in a traceback."""
    ours = os.path.dirname(__file__) + os.sep
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != importlib.__file__ and not frame.filename.startswith((ours, "<frozen importlib")):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
