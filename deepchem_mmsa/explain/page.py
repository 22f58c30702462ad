"""One self-contained page about an explanation: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from functools import lru_cache
from html import escape

import numpy as np
from rdkit import Chem

from deepchem_mmsa.explain.drawing import (
    LOWERS,
    RAISES,
    draw_contributions,
    draw_plain,
    draw_saliency,
    signed,
)
from deepchem_mmsa.explain.explanation import TOTAL, Explanation
from deepchem_mmsa.explain.structure import Anchor, Reference
from deepchem_mmsa.page import html_document
from deepchem_mmsa.rdkit_state import quiet_legacy

__all__ = ["html_page"]

_EXEMPLARS = 3  # drawn per anchor
_FIRST_ATOMS = 6  # named beside the drawing
_FIRST_DESCRIPTORS = 12
_NAMED_DESCRIPTORS = 3  # of these beside the drawing
_NAMES = {
    "graph": "2D graph", "image": "Image", "geometry": "Conformer",
    "fingerprint": "Fingerprint", TOTAL: "All views",
}  # fmt: skip
_CAPTIONS = {
    "graph": "Atom embeddings as discs, bond embeddings as bands.",
    "image": "Each pixel counts towards the atom that is drawn nearest to it.",
    "geometry": "The element at each point of the conformer.",
    "fingerprint": "Each environment is split equally between its atoms; descriptors are separate.",
}

_STYLE = """
:root { --raises: RAISES; --lowers: LOWERS; }
.source { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
h3.next { margin-top: 18px; } .note { color: var(--soft); font-size: .88rem; }
.hero { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr); gap: 14px;
  margin-top: 18px; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(204px, 100%), 1fr));
  gap: 14px; margin-top: 10px; }
figure svg, figure img { width: 100%; height: auto; display: block; }
figure img { image-rendering: pixelated; border-radius: 6px; }
.big { font-size: 2.3rem; font-weight: 650; line-height: 1.1; margin: 2px 0; }
.sum { display: grid; grid-template-columns: auto 1fr auto; gap: 4px 12px; align-items: center;
  margin-top: 10px; } .sum b { font-weight: 600; }
.bar { position: relative; height: 14px; background: #eef0f4; border-radius: 3px; min-width: 60px; }
.bar i { position: absolute; top: 0; bottom: 0; border-radius: 3px; }
.bar u { position: absolute; top: -2px; bottom: -2px; left: 50%; width: 1px; background: #8b94a5; }
.plus { background: var(--raises); } .minus { background: var(--lowers); }
.share { background: #46648f; }
.legend .ramp { flex: 1; max-width: 260px; height: 12px; border-radius: 6px;
  border: 1px solid var(--line);
  background: linear-gradient(90deg, var(--lowers), #fff, var(--raises)); }
table { width: 100%; } td { vertical-align: middle; } th.wide { width: 26%; }
.mols { display: flex; flex-wrap: wrap; gap: 8px; }
.mol { width: 172px; border: 1px solid var(--line); border-radius: 8px; padding: 4px 6px 6px; }
.mol svg { width: 100%; height: auto; display: block; }
.mol code { font-size: .72rem; display: block; line-height: 1.3; max-height: 2.6em;
  overflow: hidden; color: var(--soft); } .mol .num { display: block; font-size: .78rem;
  text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media print { .mol { width: 110px; } .card.scroll { break-inside: auto; } }
@media (max-width: 720px) { .hero { grid-template-columns: 1fr; } .big { font-size: 1.9rem; } }
"""


def html_page(why: Explanation) -> str:
    """Return the page of an explanation.

    Parameters
    ----------
    why : Explanation

    Returns
    -------
    str
        HTML. Everything that came from outside (names, SMILES, reasons) is escaped.
    """
    of_class = "" if why.target is None else f", class {why.class_name}"
    title = f"Why {_prediction(why)} for {why.task}{of_class}?"
    sections = [_hero(why), _references(why), _maps(why), _views(why), _memory(why), _atoms(why)]
    style = _STYLE.replace("RAISES", _hex(RAISES)).replace("LOWERS", _hex(LOWERS))
    source = f"<p class='source'>{escape(why.source)}</p>\n" if why.source else ""
    content = f"""{source}<p class="soft"><code>{escape(why.smiles)}</code></p>
{"".join(sections)}"""
    footer = (
        f" · integrated gradients at {why.steps} points · integration error: "
        f"{escape(signed(why.residual))} of {escape(signed(why.output - why.baseline))}"
    )
    return html_document(title, content, footer, style)


# ---- sections -----------------------------------------------------------------------------


def _hero(why: Explanation) -> str:
    known = [view for view in why.views if np.isfinite(view.contribution)]
    size = max((abs(v.contribution) for v in known), default=0.0)
    largest = max(size, abs(why.baseline), abs(why.output))
    described = sum(why.descriptors.values())
    of_descriptors = (
        "<span class='soft'>of it descriptors</span><span></span>"
        f"<span class='num soft'>{signed(described, largest)}</span>"
    )
    most = ", ".join(
        f"{escape(name)} {signed(value, largest)}"
        for name, value in _ordered(why.descriptors)[:_NAMED_DESCRIPTORS]
    )
    named = f"<p class='note'>Of the descriptors most: {most}.</p>" if most else ""
    apart = ", without the descriptors, which belong to no atom" if why.descriptors else ""
    rows = [
        f"<span>blank molecule</span><span></span>"
        f"<b class='num'>{signed(why.baseline, largest)}</b>"
    ]
    rows += [
        f"<span>{_name(v.name)}</span>{_signed_bar(v.contribution, size)}"
        f"<b class='num'>{signed(v.contribution, largest)}</b>"
        + (of_descriptors if v.name == "fingerprint" else "")
        for v in known
    ]
    if (missing := signed(why.residual, largest)) != "0":
        rows.append(
            "<span class='soft'>integration error</span><span></span>"
            f"<span class='num soft'>{missing}</span>"
        )
    rows.append(
        f"<b>this molecule</b><span></span><b class='num'>{signed(why.output, largest)}</b>"
    )
    total, symbols = why.total, [atom.GetSymbol() for atom in why.molecule.GetAtoms()]
    first = np.argsort(-np.abs(total), kind="stable")[:_FIRST_ATOMS].tolist()
    top = [
        f"<span>{symbols[i]}{i + 1}</span>{_signed_bar(total[i], abs(total[first[0]]))}"
        f"<b class='num'>{signed(total[i], abs(total[first[0]]))}</b>"
        for i in first
    ]
    drawing = draw_contributions(why.molecule, total, None, why.scale, 560, 400, numbered=first)
    what = (
        "Value in label units." if why.target is None
        else f"Probability of class {why.class_name}. Contributions are in log-odds, "
        "log p / (1 − p): 0 is undecided, +1 makes the odds 2.7 times larger."
    )  # fmt: skip
    return f"""<section class="hero">
<figure class="card">{drawing.decode("utf-8")}
<figcaption>{_legend(why)}Sum over the views{apart}; a bond counts half for each of its atoms.
Numbers are an atom's place in the molecule as it was given. Hover over an atom for its
contribution.</figcaption></figure>
<div class="card"><h3>Prediction</h3><div class="big">{escape(_prediction(why))}</div>
<p class="soft">{escape(what)}</p>
<h3>How it adds up</h3>
<div class="sum">{"".join(rows)}</div>{named}
<h3 class="next">Atoms that matter most</h3>
<div class="sum">{"".join(top)}</div></div></section>"""


def _maps(why: Explanation) -> str:
    figures = [
        f"<figure class='card'><h3>{_name(view)}</h3>{why.to_svg(view, 360, 280)}"
        f"<figcaption>{escape(_CAPTIONS.get(view, ''))}</figcaption></figure>"
        for view in sorted(why.atoms, key=lambda view: list(_NAMES).index(view))
    ]
    if why.pixels is not None and why.picture is not None:
        png = base64.b64encode(draw_saliency(why.picture, why.pixels)).decode()
        figures.append(
            "<figure class='card'><h3>Pixels</h3>"
            f"<img alt='contributions of the pixels' src='data:image/png;base64,{png}'>"
            f"<figcaption>The image as the network saw it, {len(why.pixels)} × "
            f"{len(why.pixels)} pixels, with a separate colour scale.</figcaption></figure>"
        )
    missing = "".join(
        f"<p class='note'><b>{escape(_NAMES.get(name, name))}</b>: {escape(reason)}</p>"
        for name, reason in why.reasons.items()
    )
    return f"""<section><h2>View by view</h2>
<p class="soft">Contributions of each view, atom by atom, in one colour scale.</p>
{missing}<div class="maps">{"".join(figures)}</div></section>"""


def _views(why: Explanation) -> str:
    removals = [abs(v.removal) for v in why.views if np.isfinite(v.removal)]
    size = max(removals, default=0.0)
    rows = ""
    for v in why.views:
        share, percent, removal, number = "", "–", "", "–"
        if np.isfinite(v.share):
            bar = f"<i class='share' style='left:0;width:{100 * v.share:.1f}%'></i>"
            share, percent = f"<div class='bar'>{bar}</div>", f"{100 * v.share:.0f} %"
        if np.isfinite(v.removal):
            removal, number = _signed_bar(v.removal, size), signed(v.removal, size)
        note = f"<div class='note'>{escape(v.reason)}</div>" if v.reason else ""
        rows += (
            f"<tr><td>{_name(v.name)}{note}</td><td>{share}</td>"
            f"<td class='num'>{percent}</td><td>{removal}</td><td class='num'>{number}</td></tr>"
        )
    return f"""<section><h2>Share of each view</h2>
<p class="soft">Share: the size of a view's contribution relative to those of all views. Left out:
how much the output falls when the view is left out.</p>
<div class="card scroll" tabindex="0"><table class="shares"><thead><tr><th>View</th>
<th class="wide">Share</th><th></th><th class="wide">Left out</th><th></th></tr></thead>
<tbody>{rows}</tbody></table>
</div></section>"""


def _memory(why: Explanation) -> str:
    if not why.anchors:
        return """<section><h2>Memory</h2><p class="soft">This model has no active memory: there
are no anchors to show.</p></section>"""
    rows = "".join(_anchor_row(anchor) for anchor in why.anchors)
    return f"""<section><h2>Memory anchors</h2>
<p class="soft">Anchors near this molecule, with the pre-training molecules nearest to each. Read:
the anchor's weight in the memory readout. Hyperedge: its share of the molecule's hyperedge, of
which the molecule itself has {100 * why.own_share:.0f} %.</p>
<div class="card scroll" tabindex="0"><table><thead><tr><th>Anchor</th><th class="num">Cosine</th>
<th class="num">Read</th><th class="num">Hyperedge</th><th>Typical molecules</th></tr></thead>
<tbody>{rows}</tbody></table></div></section>"""


def _anchor_row(anchor: Anchor) -> str:
    typical = "".join(
        _molecule(smiles, f"cosine {_cosine(cosine)}")
        for smiles, cosine in anchor.exemplars[:_EXEMPLARS]
    )
    member = f"{100 * anchor.membership:.1f} %" if anchor.membership > 0 else "–"
    return (
        f"<tr><td>{anchor.index}</td><td class='num'>{_cosine(anchor.similarity)}</td>"
        f"<td class='num'>{100 * anchor.address:.1f} %</td><td class='num'>{member}</td>"
        f"<td><div class='mols'>{typical or '<span class=soft>none kept</span>'}"
        "</div></td></tr>"
    )


def _references(why: Explanation) -> str:
    if not why.references:
        return ""
    measured = any(r.label for r in why.references)
    cards = "".join(_molecule(r.smiles, *_reference(why, r)) for r in why.references)
    both = "measured label and the prediction" if measured else "prediction"
    return f"""<section><h2>Nearest reference molecules</h2>
<p class="soft">By the cosine of the embeddings, with the {both} for each.</p>
<div class="card"><div class="mols">{cards}</div></div></section>"""


def _reference(why: Explanation, reference: Reference) -> list[str]:
    lines = [f"measured {reference.label}"] if reference.label else []
    lines.append(f"predicted {_value(why, reference.prediction)}")
    lines.append(f"cosine {_cosine(reference.similarity)} · row {reference.row + 1}")
    return [*lines, reference.name] if reference.name else lines


def _atoms(why: Explanation) -> str:
    total, scale, views = why.total, why.scale, list(why.atoms)
    head = "".join(f"<th class='num'>{_name(v)}</th>" for v in [*views, TOTAL])
    order = np.argsort(-np.abs(total), kind="stable").tolist()
    symbols = [atom.GetSymbol() for atom in why.molecule.GetAtoms()]
    rows = "".join(
        f"<tr><td>{symbols[i]}{i + 1}</td>"
        + "".join(f"<td class='num'>{signed(why.atoms[v][i], scale)}</td>" for v in views)
        + f"<td class='num'><b>{signed(total[i], scale)}</b></td></tr>"
        for i in order
    )
    table = f"""<details><summary>All {len(order)} atoms as a table</summary>
<div class="card scroll" tabindex="0"><table><thead><tr><th>Atom</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div></details>"""
    tables = table + _bonds(why, symbols) + _descriptors(why)
    return f"<section><h2>Numbers</h2>{tables}{_READING}</section>"


def _bonds(why: Explanation, symbols: list[str]) -> str:
    if why.bonds is None or not len(why.bonds):
        return ""
    scale = why.scale
    pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in why.molecule.GetBonds()]
    rows = "".join(
        f"<tr><td>{symbols[pairs[i][0]]}{pairs[i][0] + 1} – {symbols[pairs[i][1]]}"
        f"{pairs[i][1] + 1}</td><td class='num'>{signed(why.bonds[i], scale)}</td></tr>"
        for i in np.argsort(-np.abs(why.bonds), kind="stable").tolist()
    )
    return f"""<details><summary>All {len(pairs)} bonds as a table</summary>
<div class="card scroll" tabindex="0"><table><thead><tr><th>Bond</th>
<th class="num">2D graph</th></tr></thead><tbody>{rows}</tbody></table></div></details>"""


def _descriptors(why: Explanation) -> str:
    if not why.descriptors:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class='num'>{signed(value)}</td></tr>"
        for name, value in _ordered(why.descriptors)[:_FIRST_DESCRIPTORS]
    )
    whole = signed(sum(why.descriptors.values()))
    return f"""<details><summary>Descriptors, {whole} together</summary>
<div class="card scroll" tabindex="0"><table><thead><tr><th>Descriptor</th>
<th class="num">Fingerprint</th></tr></thead><tbody>{rows}</tbody></table>
<p class="note">The {_FIRST_DESCRIPTORS} largest. They describe the whole molecule and are not part
of the atoms' numbers.</p></div></details>"""


def _ordered(descriptors: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(descriptors.items(), key=lambda item: -abs(item[1]))


_READING = """<details><summary>How to read this</summary><div class="card">
<p>The model is evaluated along a straight path from a blank molecule (the same skeleton of
average atoms and bonds, a white image) to this one. The gradient of its output with respect to an
input, summed along the path, is the input's contribution (integrated gradients), so contributions
add up to the difference between the two outputs.</p>
<p>They describe the model, not nature: a wrong model has clear explanations too. They depend on the
choice of the blank molecule, and atoms that matter only together share the credit.</p>
</div></details>"""


# ---- pieces -------------------------------------------------------------------------------


def _name(view: str) -> str:
    return escape(_NAMES.get(view, view.capitalize()))


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _prediction(why: Explanation) -> str:
    return _value(why, why.prediction)


def _value(why: Explanation, value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if why.target is None else f"{100 * value:.1f} %"


def _cosine(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _legend(why: Explanation) -> str:
    return (
        f"<div class='legend'><span>{signed(-why.scale)} lowers</span><span class='ramp'></span>"
        f"<span>raises {signed(why.scale)}</span></div>"
    )


def _signed_bar(value: float, scale: float) -> str:
    width = 50 * min(abs(value) / scale, 1.0) if scale > 0 else 0.0
    left, kind = (50, "plus") if value > 0 else (50 - width, "minus")
    return (
        f"<div class='bar'><i class='{kind}' style='left:{left:.1f}%;width:{width:.1f}%'></i>"
        "<u></u></div>"
    )


@lru_cache(512)  # the same anchors are near many molecules
def _picture(smiles: str) -> str:
    with quiet_legacy():
        molecule = Chem.MolFromSmiles(smiles)
    return draw_plain(molecule) if molecule is not None else ""


def _molecule(smiles: str, *captions: str) -> str:
    told = "".join(f"<span class='num'>{escape(caption)}</span>" for caption in captions)
    return (
        f"<div class='mol'>{_picture(smiles)}{told}"
        f"<code title='{escape(smiles)}'>{escape(smiles)}</code></div>"
    )
