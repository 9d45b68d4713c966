"""Check a wheel and a source archive before they go out: what is in them, and what they say of themselves.

python .ci/check_release.py [dist]
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a source archive holds besides the package: what CONTRIBUTING.md needs, and nothing that a run leaves.
IN_SOURCES = ("tests/", "docs/", "examples/", "studies/", "benchmarks/", ".ci/")
ALONE = ("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml", ".gitignore")


def tracked() -> set[str]:
    """Paths that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.split("\n")) - {""}


def package_version() -> str:
    """``feataug.__version__``, without importing it."""
    return re.findall(r'^__version__ = "(.*)"$', (ROOT / "feataug" / "_version.py").read_text(), re.MULTILINE)[0]


def check_names(found: set[str], expected: set[str], where: str) -> list[str]:
    """What is missing, and what should not be there."""
    complaints = [f"{where}: {name} is missing" for name in sorted(expected - found)]
    return complaints + [f"{where}: {name} does not belong there" for name in sorted(found - expected)]


def check_wheel(names: set[str], known: set[str], version: str) -> list[str]:
    """The package as git has it, its metadata and the licence; no tests, no data, no results."""
    info = f"feataug-{version}.dist-info/"
    own = {name for name in known if name.startswith("feataug/")} | {"feataug/py.typed"}
    return check_names(
        names, own | {info + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}, "wheel"
    )


def check_sources(names: set[str], known: set[str], version: str) -> list[str]:
    """All that git has, and ``PKG-INFO``."""
    top = f"feataug-{version}/"
    outside = [f"sources: {name} is not below {top}" for name in sorted(names) if not name.startswith(top)]
    own = {name for name in known if name.startswith(("feataug/", *IN_SOURCES)) or name in ALONE}
    return outside + check_names({name.removeprefix(top) for name in names}, own | {"PKG-INFO"}, "sources")


def check_metadata(text: str, version: str) -> list[str]:
    """Name, version, licence, addresses, long description."""
    fields = Parser().parsestr(text)
    expected = {
        "Name": "feataug",
        "Version": version,
        "License-Expression": "Apache-2.0",
        "License-File": "LICENSE",
        "Description-Content-Type": "text/markdown",
    }
    complaints = [f"metadata: {key} is {fields[key]!r}, not {value!r}" for key, value in expected.items() if fields[key] != value]
    urls = [entry.partition(", ")[2] for entry in fields.get_all("Project-URL", [])]
    complaints += [f"metadata: {url!r} is no address" for url in urls if not re.fullmatch(r"https://[\w.-]+(/[\w./-]*)?", url)]
    if fields.get_payload().strip() != (ROOT / "README.md").read_text().strip():
        complaints.append("metadata: the long description is not README.md")
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    return complaints + ([f"CHANGELOG.md: begins with {newest}, not {version}"] if newest != version else [])


def main(folder: Path) -> int:
    """Check the one wheel and the one source archive in ``folder``."""
    version, known = package_version(), tracked()
    (wheel,), (sources,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names, metadata = set(archive.namelist()), archive.read(f"feataug-{version}.dist-info/METADATA").decode()
    with tarfile.open(sources) as archive:
        files = {entry.name for entry in archive.getmembers() if not entry.isdir()}
    complaints = check_wheel(names, known, version) + check_sources(files, known, version) + check_metadata(metadata, version)
    print(
        "\n".join(complaints)
        or f"feataug {version}: {len(names)} files in the wheel, {len(files)} in the sources, metadata: all as it should be"
    )
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
