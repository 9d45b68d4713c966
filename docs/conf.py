"""Sphinx settings."""

import feataug

project = "feataug"
author = "The feataug developers"
release = feataug.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Its base class alone is wanted, and the docs extra does without it.
autodoc_mock_imports = ["lightning"]
suppress_warnings = ["myst.xref_missing"]
