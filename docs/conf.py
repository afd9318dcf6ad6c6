"""The documentation as a site: ``make docs`` builds it into build/site.

The pages are written to be read on GitHub; this adds the navigation, the search and the reference, made from the
docstrings.  Formulas are drawn in the reader's browser by MathJax, which comes from a network; the build needs none.
"""

import contextlib
import importlib
import sys

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import bumpnet_fast

project = "bumpnet_fast"
release = bumpnet_fast.__version__
html_title = f"{project} {release}"
html_theme = "furo"
html_show_copyright = False
exclude_patterns = ["figures"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # the anchors that GitHub makes
autodoc_default_options = {"members": True, "exclude-members": "extra_repr", "show-inheritance": True}
autodoc_member_order = "bysource"
napoleon_google_docstring = False


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", lambda app, what, name, member, *others: is_tuple_field(member) or None)
    app.connect("env-check-consistency", lambda app, env: report_missing(env))


def is_tuple_field(member: object) -> bool:
    """Whether it is a field of a named tuple, which the class's docstring describes."""
    return (getattr(member, "__doc__", None) or "").startswith("Alias for field number")


def report_missing(env: BuildEnvironment) -> None:
    """Warn of public functions and classes that are left out, as those without a docstring are.

    One entry is enough for a function that several modules offer.
    """
    known = {entry for entry, *_ in env.domains["py"].get_objects()}
    places = [entry.rpartition(".") for entry in known]
    for module in {module for module, _, _ in places}:  # a page that has not changed is not read, nor its modules
        with contextlib.suppress(ImportError):
            importlib.import_module(module or "bumpnet_fast")
    described = {id(getattr(sys.modules[module], name, None)) for module, _, name in places if module in sys.modules}
    for module in sorted(known & sys.modules.keys()):
        for name in getattr(sys.modules[module], "__all__", ()):
            member = getattr(sys.modules[module], name)
            if callable(member) and id(member) not in described:
                logging.getLogger(__name__).warning("%s.%s is public and not in the reference", module, name)
