"""Sphinx settings."""

import shutil
from pathlib import Path

import feataug

HERE = Path(__file__).parent
# Sphinx reads only files below its own folder, so the notebooks are copied there, with their links to these pages adapted.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
(HERE / "notebooks").mkdir()
for path in (HERE.parent / "examples").iterdir():
    if path.suffix == ".ipynb":
        (HERE / "notebooks" / path.name).write_text(path.read_text().replace("](../docs/", "](../"))
shutil.copy(HERE.parent / "examples" / "timm_backbone.py", HERE / "notebooks")

project = "feataug"
author = "The feataug developers"
release = feataug.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Show the stored outputs; examples/build.py executes the notebooks.
nb_execution_mode = "off"
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Only its base class is needed, and the docs extra does not install it.
autodoc_mock_imports = ["lightning"]
suppress_warnings = ["myst.xref_missing"]
