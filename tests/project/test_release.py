"""What a release says of itself agrees: version, bounds, citation, archives."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import feataug

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
yaml = pytest.importorskip("yaml")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci" / "check_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def newest_change():
    return re.findall(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]


def test_one_version_everywhere(release):
    version, date = newest_change()
    assert feataug.__version__ == version == CITATION["version"] == release.package_version()
    # A date is a promise that it can be had.
    assert CITATION.get("date-released", "unreleased") == date


def test_the_citation_has_what_a_reader_needs():
    assert {"cff-version", "message", "title", "authors", "version", "license", "type", "references"} <= set(CITATION)
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["license"] == PROJECT["license"]
    assert [author["name"] for author in CITATION["authors"]] == [author["name"] for author in PROJECT["authors"]]
    (paper,) = CITATION["references"]
    assert paper["title"] == "Synthetic Convolutional Features for Improved Semantic Segmentation"
    assert [person["family-names"] for person in paper["authors"]] == ["He", "Schiele", "Fritz"]


def bounds(*extras):
    """Lower bound of each dependency, as a tuple of numbers."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)


def test_the_page_on_stability_names_the_bounds():
    page = (ROOT / "docs" / "stability.md").read_text().partition("## What is public")[0]
    columns = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    oldest = {}
    for names, found, *_ in columns:
        if "," in found or re.fullmatch(r"[\d.]+", found):
            pairs = zip(names.removesuffix(" (optional)").lower().split(", "), found.split(", "), strict=True)
            oldest |= dict(pairs)
    python = oldest.pop("python")
    assert python == PROJECT["requires-python"].removeprefix(">=")
    assert set(oldest) == set(bounds("lightning"))
    for name, bound in bounds("lightning").items():
        assert (oldest[name] + ".").startswith(bound + "."), name


def test_classifiers_name_the_pythons_that_are_tested():
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    page = (ROOT / "docs" / "stability.md").read_text()
    ends = re.findall(r"^\| Python \| (\S+) \| (\S+) \|$", page, re.MULTILINE)[0]
    assert {min(named), max(named)} == set(ends)


def test_what_is_installed_is_not_below_the_bounds():
    def numbers(version):
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    for name, bound in bounds().items():
        assert numbers(metadata.version(name)) >= numbers(bound), name


def test_the_archives_are_checked(release):
    known = {"feataug/__init__.py", "feataug/py.typed", "tests/test_a.py", "README.md", "shared.txt"}
    info = "feataug-1.0.dist-info/"
    whole = {"feataug/__init__.py", "feataug/py.typed"}
    whole |= {info + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert release.check_wheel(whole, known, "1.0") == []
    assert release.check_wheel(whole | {"tests/test_a.py"}, known, "1.0") == ["wheel: tests/test_a.py does not belong there"]
    assert release.check_wheel(whole - {"feataug/py.typed"}, known, "1.0") == ["wheel: feataug/py.typed is missing"]
    sources = {f"feataug-1.0/{name}" for name in (known - {"shared.txt"}) | {"PKG-INFO"}}
    assert release.check_sources(sources, known, "1.0") == []
    assert release.check_sources(sources | {"feataug-1.0/runs/a.json"}, known, "1.0") == [
        "sources: runs/a.json does not belong there"
    ]
    assert release.check_sources(sources - {"feataug-1.0/README.md"}, known, "1.0") == ["sources: README.md is missing"]


def test_metadata_is_checked(release):
    version = feataug.__version__
    lines = {
        "Name": "feataug", "Version": version, "License-Expression": "Apache-2.0", "License-File": "LICENSE",
        "Description-Content-Type": "text/markdown", "Project-URL": "Changelog, https://example.org/changes",
    }  # fmt: skip
    readme = (ROOT / "README.md").read_text()

    def complaints(version=version, readme=readme, **changes):
        fields = lines | {name.replace("_", "-"): value for name, value in changes.items()}
        return release.check_metadata("".join(f"{name}: {value}\n" for name, value in fields.items()) + f"\n{readme}", version)

    assert complaints() == []
    assert complaints(Version="9") == [f"metadata: Version is '9', not '{version}'"]
    assert complaints(Project_URL="Home, <this repository>") == ["metadata: '<this repository>' is no address"]
    assert complaints(readme="Something else") == ["metadata: the long description is not README.md"]
    assert complaints(version="9", Version="9") == [f"CHANGELOG.md: begins with {version}, not 9"]
