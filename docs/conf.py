"""How Sphinx builds this documentation."""

from importlib import metadata

project = "truncate"
copyright = "2026, The truncate authors"
release = metadata.version("torch-truncate")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "truncate"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
myst_heading_anchors = 3
