"use strict";
(() => {
  // Contents of a closed <details> are printed too.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((d) => {
      d.open = true;
      d.dataset.closed = "";
    });
  });
  addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-closed]").forEach((d) => {
      d.open = false;
      delete d.dataset.closed;
    });
  });

  const data = JSON.parse(document.getElementById("molecules").textContent);
  if (!data) return;
  const svg = document.getElementById("points");
  const points = [...svg.querySelectorAll("circle")];
  const links = document.getElementById("links");
  const chosen = document.getElementById("chosen");
  const hover = document.getElementById("hover");
  const select = document.getElementById("colouring");
  const X = points.map((p) => +p.getAttribute("cx"));
  const Y = points.map((p) => +p.getAttribute("cy"));
  let mode = 0, on = -1, over = -1, stop = 0;

  // Text reaches the page as text only, never as HTML.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const NS = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes, parent) => {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  };
  const structure = (i) => {
    const { s, d } = data.molecules[i];
    if (!d) return make("p", { class: "nomol soft" }, "no structure");
    const paper = document.createElementNS(NS, "svg");
    const about = { class: "mol", viewBox: "0 0 200 140", role: "img",
      "aria-label": "structure of " + s };
    for (const [name, value] of Object.entries(about)) paper.setAttribute(name, value);
    for (const [kind, filled, path] of d[0])
      draw("path", { class: "a" + kind + (filled ? " f" : ""), d: path }, paper);
    for (const [x, y, kind, size, text] of d[1])
      draw("text", { class: "a" + kind, x, y, "font-size": size }, paper).textContent = text;
    return paper;
  };
  const fields = (i) => {
    const list = make("dl");
    data.terms.forEach((term, k) =>
      list.append(make("dt", {}, term), make("dd", {}, data.molecules[i].f[k])));
    return list;
  };
  const short = (text, n) => (text.length > n ? text.slice(0, n - 1) + "…" : text);

  const paint = () => points.forEach((p, i) => {
    const near = on >= 0 && data.molecules[on].n.includes(i);
    const kind = data.modes[mode].classes[data.modes[mode].of[i]];
    p.setAttribute("class", "pt " + kind + (i === on ? " on" : near ? " near" : "")
      + (i === over ? " over" : ""));
    p.setAttribute("aria-selected", i === on);
  });

  const show = (i) => {
    if (i === over) return;
    const before = over;
    over = i;
    [before, i].forEach((k) => k >= 0 && points[k].classList.toggle("over", k === over));
    hover.hidden = i < 0;
    if (i < 0) return;
    hover.replaceChildren(structure(i),
      make("code", { class: "smiles" }, short(data.molecules[i].s, 80)), fields(i));
    const at = points[i].getBoundingClientRect(), box = hover.getBoundingClientRect();
    const gap = 12;
    let left = at.right + gap, top = at.top - box.height / 2;
    if (left + box.width > document.documentElement.clientWidth - 6)
      left = at.left - box.width - gap;
    if (left < 6) { // neither side has room: below or above
      left = Math.max(6, document.documentElement.clientWidth - box.width - 6);
      top = at.bottom + gap;
      if (top + box.height > innerHeight) top = at.top - box.height - gap;
    }
    top = Math.max(6, Math.min(top, innerHeight - box.height - 6));
    hover.style.left = left + "px";
    hover.style.top = top + "px";
  };

  const step = (i) => { // the one point that Tab reaches
    points[stop].setAttribute("tabindex", -1);
    stop = i;
    points[stop].setAttribute("tabindex", 0);
  };

  const choose = (i) => {
    on = i;
    step(i);
    const molecule = data.molecules[i];
    links.replaceChildren();
    molecule.n.forEach((k) => draw("line", { x1: X[i], y1: Y[i], x2: X[k], y2: Y[k] }, links));
    paint();
    const list = make("ol", { class: "near" });
    molecule.n.forEach((k, rank) => {
      const button = make("button", { type: "button", "data-to": k }, structure(k),
        "cosine " + molecule.c[rank], make("br"), short(data.molecules[k].f[0], 24) + ", row "
        + data.molecules[k].f[1]);
      button.addEventListener("click", () => {
        choose(k);
        chosen.querySelector("h3").focus({ preventScroll: true });
      });
      list.append(make("li", {}, button));
    });
    const heading = make("h3", { tabindex: -1 }, "Chosen molecule");
    chosen.classList.add("filled");
    chosen.replaceChildren(heading, structure(i), make("code", { class: "smiles" }, molecule.s),
      fields(i), make("h3", {}, "Nearest neighbours"), list);
    chosen.scrollTop = 0;
  };

  // The nearest point within a finger's width, so that small points can be hit.
  const under = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const reach = (event.pointerType === "touch" ? 22 : 9) * scale;
    let best = -1, least = reach * reach;
    for (let i = 0; i < X.length; i++) {
      const d = (X[i] - x) ** 2 + (Y[i] - y) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  };
  svg.addEventListener("pointermove", (event) => show(under(event)));
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("click", (event) => {
    const i = under(event);
    if (i >= 0) choose(i);
  });

  const toward = (from, dx, dy) => { // the nearest point in a direction, sideways counting double
    let best = from, least = Infinity;
    for (let i = 0; i < X.length; i++) {
      const ahead = (X[i] - X[from]) * dx + (Y[i] - Y[from]) * dy;
      const aside = Math.abs((X[i] - X[from]) * dy) + Math.abs((Y[i] - Y[from]) * dx);
      if (ahead > 0 && aside <= 1.5 * ahead && ahead + 2 * aside < least)
        [best, least] = [i, ahead + 2 * aside];
    }
    return best;
  };
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    const i = points.indexOf(event.target);
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ways) points[toward(i, ...ways[event.key])].focus();
    else if (event.key === "Home") points[0].focus();
    else if (event.key === "End") points[points.length - 1].focus();
    else if (event.key === "Enter" || event.key === " ") choose(i);
    else if (event.key === "Escape") show(-1);
    else return;
    event.preventDefault();
  });
  points.forEach((p, i) => {
    p.setAttribute("role", "option");
    p.setAttribute("tabindex", i ? -1 : 0);
    p.setAttribute("aria-selected", false);
    const { s, f } = data.molecules[i];
    p.setAttribute("aria-label",
      s + "; " + data.terms.map((term, k) => term + " " + f[k]).join("; "));
    p.addEventListener("focus", () => {
      step(i);
      show(i);
    });
    p.addEventListener("blur", () => show(-1));
  });

  select.addEventListener("change", () => {
    mode = +select.value;
    document.querySelectorAll("#map .legend").forEach((legend) => {
      legend.hidden = +legend.dataset.mode !== mode;
    });
    paint();
  });
  select.value = "0"; // a reloaded page must not keep the old choice
})();
