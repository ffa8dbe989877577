"""How Sphinx builds the site: `pip install -e ".[docs]" && sphinx-build -W docs site`."""

import re

import jaxgen

project = "jaxgen"
author = "the jaxgen authors"
copyright = author  # noqa: A001
release = jaxgen.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"jaxgen {release}"
exclude_patterns = ["site", "jupyter_execute"]
suppress_warnings = ["ref.python"]  # fields of several classes have one name
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings here are plain text, in which |x|, x * y and x_ mean what they say, and `name` is code.

    An indented block is code, too, unless it belongs to a section such as "Args:".
    """
    made, section, code = [], False, False
    for before, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith(" "):
            section, code = bool(re.fullmatch(r"(Args|Attributes|Returns|Yields|Raises):", line)), False
        elif line.startswith("    ") and not section and not before and not code:
            made += ["::", ""]
            code = True
        made.append(line if code else escaped(line))
    lines[:] = made


def escaped(line):
    text = re.sub(r"([|*\\]|(?<=\w)_(?!\w))(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\\1", line)  # outside of code
    return re.sub(r"`([^`]+?)( ?)`(?=(\w?))", lambda m: f"``{m[1]}``{m[2]}" + ("\\ " if m[3] else ""), text)


def setup(app):
    app.connect("autodoc-process-docstring", as_plain_text, priority=100)  # before napoleon
