"""Sphinx settings."""

import sys
from pathlib import Path

import feataug

sys.path.insert(0, str(Path(__file__).parent))
from site_sources import copy_all, for_the_site

copy_all()

project = "feataug"
author = "The feataug developers"
release = feataug.__version__
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Show the stored outputs; examples/build.py executes the notebooks.
nb_execution_mode = "off"
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["gallery.css"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Only its base class is needed, and the docs extra does not install it.
autodoc_mock_imports = ["lightning"]


def setup(app):
    """Adapt the links of every Markdown page; notebooks were adapted when they were copied."""

    def adapt(app, name, source):
        if not name.startswith("notebooks/"):
            source[0] = for_the_site(source[0], "docs")

    app.connect("source-read", adapt)
