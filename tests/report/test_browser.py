"""The page in a real browser: what people see, point at, press and print."""

import os
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

KINDS = ("pretraining", "regression", "classification")


@pytest.fixture(scope="module")
def browser():
    # Chromium's own sandbox does not start as root, where continuous integration runs.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, pages):
    """Open a page; at the end nothing has gone wrong in it and nothing was asked for."""
    opened, wrong, asked = [], [], []

    def go(kind, width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        opened.append(page)
        return page

    yield go
    for page in opened:
        assert page.evaluate("window.hacked") is None
        page.close()
    assert wrong == []
    assert len(asked) == len(opened)  # each page itself


def place(page, index):
    """Middle of a point on the screen."""
    point = page.locator("#points .pt").nth(index)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def nearest_to(page, index):
    """Which point is drawn nearest to the middle of a point: itself, or one that covers it."""
    return page.evaluate(
        """i => { const p = [...document.querySelectorAll('#points .pt')];
        const at = (q) => [+q.getAttribute('cx'), +q.getAttribute('cy')];
        const [x, y] = at(p[i]);
        return p.findIndex(q => at(q)[0] === x && at(q)[1] === y); }""",
        index,
    )


def smiles_of(page, index):
    return page.evaluate(
        "i => JSON.parse(document.getElementById('molecules').textContent).molecules[i].s", index
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pointing_shows_the_structure(visit, kind):
    page = visit(kind)
    hover = page.locator("#hover")
    assert not hover.is_visible()
    page.mouse.move(*place(page, 3))
    assert hover.is_visible()
    assert hover.locator("svg.mol path").count() + hover.locator("svg.mol text").count() > 0
    assert hover.locator("code").inner_text() == smiles_of(page, nearest_to(page, 3))
    box = hover.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 900
    page.mouse.move(5, 5)
    assert not hover.is_visible()


@pytest.mark.parametrize("kind", KINDS)
def test_clicking_lists_the_neighbours_and_they_lead_on(visit, kind):
    page = visit(kind)
    assert page.locator("#chosen").inner_text().startswith("No molecule chosen")
    page.mouse.click(*place(page, 3))
    chosen = page.locator("#chosen")
    assert chosen.locator("> code").inner_text() == smiles_of(page, nearest_to(page, 3))
    assert chosen.locator("button").count() == 6 == page.locator("#links line").count()
    assert chosen.locator("button svg.mol").count() == 6
    assert page.locator(".pt.on").count() == 1
    button = chosen.locator("button").nth(2)
    to = int(button.get_attribute("data-to"))
    button.click()
    assert chosen.locator("> code").inner_text() == smiles_of(page, to)
    assert page.locator(".pt").nth(to).get_attribute("aria-selected") == "true"


def test_keyboard_alone_reaches_everything(visit):
    page = visit("regression")
    page.focus("#colouring")
    page.keyboard.press("Tab")
    index = "() => [...document.querySelectorAll('.pt')].indexOf(document.activeElement)"
    assert page.evaluate(index) == 0
    assert page.locator("#hover").is_visible()
    seen = {0}
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "End", "ArrowLeft"):
        page.keyboard.press(key)
        seen.add(page.evaluate(index))
    assert -1 not in seen
    assert len(seen) > 2
    at = page.evaluate(index)
    page.keyboard.press("Enter")
    assert page.locator("#chosen > code").inner_text() == smiles_of(page, at)
    page.keyboard.press("Tab")  # one stop for the whole map, then the panel
    for _ in range(2):
        if page.evaluate("document.activeElement.tagName") != "BUTTON":
            page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    to = int(page.evaluate("document.activeElement.dataset.to"))
    page.keyboard.press("Enter")
    assert page.locator("#chosen > code").inner_text() == smiles_of(page, to)
    assert page.evaluate("document.activeElement.tagName") == "H3"  # the focus is not lost


def test_colouring(visit):
    page = visit("regression")
    kinds = "() => [...document.querySelectorAll('.pt')].map(p => p.getAttribute('class'))"
    seen = [page.evaluate(kinds)]
    for value in ("1", "2", "3"):
        page.select_option("#colouring", value)
        seen.append(page.evaluate(kinds))
        shown = page.locator("#map .legend:visible")
        assert shown.count() == 1
        assert shown.get_attribute("data-mode") == value
    assert set(seen[2]) == {"pt train", "pt valid", "pt test"}
    assert len({tuple(classes) for classes in seen}) == 4


def test_arrows_can_walk_to_most_points(visit):
    page = visit("regression")
    n = page.locator(".pt").count()
    reached = page.evaluate(
        """() => { const points = [...document.querySelectorAll('.pt')], seen = new Set([0]);
        const queue = [0];
        while (queue.length) { const i = queue.pop();
          for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown']) {
            points[i].focus();
            points[i].dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            const k = points.indexOf(document.activeElement);
            if (!seen.has(k)) { seen.add(k); queue.push(k); } } }
        return seen.size; }"""
    )
    assert reached >= 0.5 * n  # points on top of each other are neighbours in the panel


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
@pytest.mark.parametrize("kind", KINDS)
def test_no_sideways_scrolling(visit, kind, width):
    page = visit(kind, width)
    page.mouse.click(*place(page, 3))
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Only what is meant to scroll reaches beyond its card.
    spilt = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"""
    )
    assert spilt == []
    small = page.evaluate(
        """() => [...document.querySelectorAll('main p, main td, main figcaption, main dd')]
        .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).length"""
    )
    assert small == 0


@pytest.mark.parametrize("width", [1280, 900, 390, 360])
def test_a_number_is_not_broken_in_two(visit, width):
    lines = visit("regression", width).evaluate(
        """() => [...document.querySelectorAll('.tile b')].map(e => { e.textContent = '1.72e+05';
        return e.offsetHeight / parseFloat(getComputedStyle(e).lineHeight); })"""
    )
    assert len(lines) > 3
    assert max(lines) < 1.5


def test_the_title_of_a_figure_without_a_picture_stands_over_its_text(visit):
    places = visit("regression").evaluate(
        """() => { const figure = document.querySelector('.panels > figure:only-child');
        figure.innerHTML = '<h3>logS</h3><p>too few labels</p>';
        return [...figure.children].map(e => e.getBoundingClientRect().left); }"""
    )
    assert places[0] == places[1]


CONTRAST = """() => {
  const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number);
    return [v[0], v[1], v[2], v.length > 3 ? v[3] : 1]; };
  const light = ([r, g, b]) => { const f = (c) => { c /= 255;
    return c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return [255, 255, 255, 1]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
  let n = 0, least = 99;
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.textContent.trim() || e.closest('script, style, title, option')) continue;
    if (!e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    const a = light(ink), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    n += 1; least = Math.min(least, ratio);
    if (ratio < 4.5 || ink[3] < 1) poor.push([node.textContent.trim().slice(0, 40), ratio]);
  }
  return {n, least, poor};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
@pytest.mark.parametrize("kind", KINDS)
def test_text_has_contrast(visit, kind, scheme):
    # WCAG 2.2, 1.4.3: 4.5 to 1.
    page = visit(kind, color_scheme="light" if scheme == "light" else "dark")
    page.mouse.click(*place(page, 3))
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.mouse.move(*place(page, 5))
    if scheme == "print":
        page.emulate_media(media="print")
    found = page.evaluate(CONTRAST)
    assert found["n"] > 100
    assert found["poor"] == [], found["least"]
    page.evaluate("document.documentElement.style.setProperty('--soft', '#8a8f98')")
    if scheme == "light":  # the measure sees what is too faint
        assert len(page.evaluate(CONTRAST)["poor"]) > 10


def test_print(visit):
    page = visit("regression", 794, color_scheme="dark")  # A4 at 96 dots an inch
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#chosen").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.evaluate(
        "[...document.querySelectorAll('figure, .card')]"
        ".every(e => getComputedStyle(e).breakInside === 'avoid')"
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_without_scripts_everything_but_the_play_is_there(visit):
    page = visit("regression", java_script_enabled=True)
    with_script = page.locator("svg.mol, svg.chart, circle.pt").count()
    plain = page.context.browser.new_context(java_script_enabled=False).new_page()
    plain.goto(page.url)
    assert plain.locator("svg.mol, svg.chart, circle.pt").count() == with_script
    plain.context.close()
