"""The frame of a page: what it forbids, and that its rules know all their colours."""

import base64
import hashlib
import re
from importlib import resources

import pytest

from deepchem_mmsa.explain import page as why
from deepchem_mmsa.page import html_document


def test_only_the_pages_own_script_may_run():
    script = "document.title = '1 < 2 ü';"
    page = html_document("a", "", "", "", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert f"<script>{script}</script>" in page
    bare = html_document("<script>", "", "", "")
    assert "script" not in bare.replace("&lt;script&gt;", "")
    for text in (page, bare):
        assert "default-src 'none'" in text
        assert "base-uri 'none'; form-action 'none'" in text


@pytest.mark.parametrize("style", [why._STYLE, "report"])
def test_every_colour_that_is_used_is_set(style):
    if style == "report":
        style = (resources.files("deepchem_mmsa.report") / "page.css").read_text("utf-8")
    page = html_document("a", "", "", style)
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", page))
    assert used <= set(re.findall(r"(--[a-z0-9]+):", page))
    assert "--ink" in used
