"""Explanation pages on paper, printed by a real browser."""

import os
import re
import shutil

import pytest

from deepchem_mmsa.explain import explain
from tests.explain.small import IBUPROFEN, QUICK, network

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_an_explanation_fits_on_a_few_sheets(tmp_path):
    net = network(modalities=("graph", "fingerprint"))
    net.memory.exemplars = [[(IBUPROFEN, 0.9)] * 3] * int(net.memory.n_active)
    why = explain(net, IBUPROFEN, references=[IBUPROFEN] * 5, n_anchors=4, **QUICK)
    assert 4 <= len(why.anchors) <= 8
    why.save(tmp_path / "why.html")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page(viewport={"width": 794, "height": 1123})
        page.goto((tmp_path / "why.html").as_uri())
        pdf = page.pdf(format="A4", prefer_css_page_size=True)
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 794
        browser.close()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 4
