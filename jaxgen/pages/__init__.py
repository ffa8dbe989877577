"""Pages for people: one frame, one style sheet, and a template for each kind of page.

A page is one HTML file that opens from the file system: pictures are embedded, curves are inline SVG, and a
Content-Security-Policy forbids everything else. Templates escape what they are given; only `Markup` is taken as HTML.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
from pathlib import Path
from typing import Any

from jaxgen.pages import words

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> bytes:
    """A page as UTF-8.

    Args:
      template: name of a file in `templates`, without its ending.
      **values: what the template shows; `title` always.

    Raises:
      jinja2.UndefinedError: for a value that the template needs and was not given.
    """
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = _environment().get_template(f"{template}.html").render(now=now, **values)
    return text.encode("utf-8", errors="replace")


def data_uri(png: bytes) -> str:
    """A PNG file's bytes as an address that holds them."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@functools.cache
def _environment():
    import jinja2  # here, since training imports this module long before it writes a page
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        "data_uri": data_uri,
    }
    for prefix, file in (("", "time.js"), ("wipe_", "wipe.js")):
        script = (TEMPLATES / file).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        environment.globals |= {f"{prefix}script": Markup(script), f"{prefix}script_digest": digest}
    environment.filters |= {
        "breakable": words.breakable,
        "number": words.number,
        "marked": words.marked,
        "formula": words.formula,
    }
    return environment
