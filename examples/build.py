"""Executes the notebooks' scripts and writes them as notebooks with their outputs.

    python examples/build.py [--text] [01_quick_start ...]

Each `NAME.py` (percent format) beside this file becomes `NAME.ipynb`. A notebook does not record when, where or on which machine it was made,
and a cell's id is a digest of its source: running it again changes only what its outputs changed.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def notebook(script: Path) -> nbformat.NotebookNode:
    """The script as a notebook without outputs."""
    made = jupytext.read(script, fmt="py:percent")
    made.nbformat, made.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in made.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return made


def clean(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs between runs or machines (times, progress on stderr, objects' addresses), and jupytext's metadata."""
    # The kernel writes its version into the metadata.
    made.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in made.cells:
        cell.metadata = nbformat.NotebookNode({key: value for key, value in cell.metadata.items() if key == "alt"})
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "data" in output and "text/plain" in output.data:
                output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
            if "image/png" in output.get("data", {}) and "alt" in cell.metadata:
                output.metadata["image/png"] = {"alt": cell.metadata["alt"]}
    return made


def build(script: Path) -> None:
    """Executes a script and writes its notebook."""
    began = time.monotonic()
    # Run in the folder of the notebooks, so that no other path of this machine gets into the outputs.
    made = NotebookClient(
        notebook(script), timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
    ).execute()
    target = write(made, script)
    print(f"{target.name}: {time.monotonic() - began:.0f} s, {target.stat().st_size // 1000} kB", flush=True)


def rewrite(script: Path) -> None:
    """Writes a script's notebook with its stored outputs, if no line of code differs."""
    made, stored = notebook(script), nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    cells, before = ([cell for cell in n.cells if cell.cell_type == "code"] for n in (made, stored))
    if [cell.source for cell in cells] != [cell.source for cell in before]:
        sys.exit(f"{script.name}: its code is not that of the notebook; build it without --text")
    for cell, old in zip(cells, before, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    print(write(made, script).name)


def write(made: nbformat.NotebookNode, script: Path) -> Path:
    target = script.with_suffix(".ipynb")
    nbformat.validate(made)
    nbformat.write(clean(made), target)
    return target


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of them, such as 01_quick_start; all by default")
    parser.add_argument("--text", action="store_true", help="only the text has changed: keep the outputs, execute nothing")
    args = parser.parse_args(argv)
    names = args.names
    known = {script.stem: script for script in sources()}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such notebook: {', '.join(unknown)}; there are {', '.join(known)}")
    if os.environ.get("FEATAUG_QUICK"):
        parser.error("FEATAUG_QUICK is set: the notebooks would hold the figures of a run of a few steps")
    for name in names or known:
        (rewrite if args.text else build)(known[name])


if __name__ == "__main__":
    main()
