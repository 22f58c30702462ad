"""The frame of a self-contained HTML page: nothing on it is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources

from deepchem_mmsa._version import __version__


def html_document(title: str, content: str, footer: str, style: str, script: str = "") -> str:
    """Return a page; its content security policy forbids connections and all scripts but `script`.

    Parameters
    ----------
    title : str
        Text.
    content, footer : str
        HTML, in which all that came from outside is escaped. The footer follows the version.
    style : str
        Rules beside those of ``page.css``, which all pages share.
    script : str
        JavaScript.

    Examples
    --------
    >>> page = html_document("a < b", "<p>why</p>", ": the end", "")
    >>> "<title>a &lt; b</title>" in page, "script-src" in page
    (True, False)
    """
    shared = (resources.files("deepchem_mmsa") / "page.css").read_text("utf-8")
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    allowed += "form-action 'none'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed += f"; script-src 'sha256-{digest}'"
        script = f"<script>{script}</script>\n"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<title>{escape(title)}</title><style>{shared}{style}</style></head>
<body><main>
<h1>{escape(title)}</h1>
{content}
<footer>deepchem_mmsa {escape(__version__)}{footer}</footer>
</main>
{script}</body></html>
"""
