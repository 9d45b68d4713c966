"""Every public name says what it takes, in which shapes, what it raises and where it is from, and is on the page of the API."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import feataug

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
# "(B, H, W)", "(3, *size)", "(K,)": one size at least.
SIZE = r"(?:\*?[A-Za-z]\w*(?: ?[*/+] ?\w+)?|\d+|\.\.\.)"
SHAPE = re.compile(rf"\({SIZE}(?:,|(?:, {SIZE})+)\)")
# Made by ``split``, whose docstring describes what it takes and raises.
MADE = {"Cut"}

every = pytest.mark.parametrize("name", feataug.__all__)


def section(text, *titles):
    """The parts of a docstring below these titles."""
    found = re.findall(rf"^(?:{'|'.join(titles)}):\n((?:(?: .*)?\n?)*)", text, re.MULTILINE)
    return "\n".join(found)


def own_methods(cls):
    """Public methods and properties that are ours, and not inherited from torch."""
    for name in dir(cls):
        owner = next((c for c in cls.__mro__ if name in vars(c)), None)
        if name.startswith("_") or owner is None or not owner.__module__.startswith("feataug"):
            continue
        member = inspect.getattr_static(cls, name)
        function = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if inspect.isfunction(function):
            yield name, function


def raises_by_itself(function):
    """Whether there is a ``raise`` of ours, or a check that raises, in its source."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("check_"):
            return True
    return False


def beginnings(thing):
    """Where a class or a function checks what it is given."""
    if inspect.isfunction(thing):
        return [thing]
    found = [vars(thing).get(name) for name in ("__init__", "__post_init__")]
    return [
        function for function in found if inspect.isfunction(function) and function.__code__.co_filename != "<string>"
    ]  # dataclasses write some


@every
def test_it_is_on_the_page(name):
    assert re.search(rf"^\.\. auto(?:class|function):: feataug\.{name}$", API, re.MULTILINE)


@every
def test_its_source_is_named(name):
    text = inspect.getdoc(getattr(feataug, name))
    assert section(text, "Source").strip(), name


@every
def test_what_it_takes_is_described(name):
    thing = getattr(feataug, name)
    if name in MADE:
        return
    described = section(inspect.getdoc(thing), "Args", "Attributes")
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        assert re.search(rf"\b{parameter.name}\b", described), f"{name}: {parameter.name}"


@every
def test_its_errors_are_named(name):
    thing = getattr(feataug, name)
    if name not in MADE and any(raises_by_itself(function) for function in beginnings(thing)):
        assert re.search(r"\w+(Error|Warning|Exit)\b", section(inspect.getdoc(thing), "Raises")), name


@every
def test_tensors_have_shapes(name):
    thing = getattr(feataug, name)
    functions = beginnings(thing)
    texts = [inspect.getdoc(thing)]
    if inspect.isclass(thing):
        functions += [function for _, function in own_methods(thing)]
        texts += [inspect.getdoc(function) or "" for _, function in own_methods(thing)]
    hints = " ".join(str(annotation) for function in functions for annotation in function.__annotations__.values())
    if "Tensor" in hints:
        assert SHAPE.search(" ".join(texts)), name


@every
def test_methods_are_described(name):
    thing = getattr(feataug, name)
    if not inspect.isclass(thing):
        return
    for method, function in own_methods(thing):
        text = inspect.getdoc(getattr(thing, method)) or ""
        assert text, f"{name}.{method}"
        for error in re.findall(r"raise (\w+Error)\(", inspect.getsource(function)):
            assert error in text or error in inspect.getdoc(thing), f"{name}.{method}: {error}"


def test_the_checks_find_what_is_missing():
    def wanting(masks):
        """Takes masks."""
        raise feataug.errors.ShapeError("no")

    def whole(masks):
        """Takes masks.

        Args:
            masks: int64 ``(B, H, W)``.

        Raises:
            ShapeError: always.

        Source:
            Ours.
        """
        raise feataug.errors.ShapeError("no")

    assert raises_by_itself(wanting)
    assert not section(inspect.getdoc(wanting), "Source")
    assert section(inspect.getdoc(whole), "Source").strip() == "Ours."
    assert "ShapeError" in section(inspect.getdoc(whole), "Raises")
    assert SHAPE.search(section(inspect.getdoc(whole), "Args"))
    assert not SHAPE.search("a mask (or none) of (the) set")
