(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const by = (id) => document.getElementById(id);

  // A number shows what made it beside itself; without this, it leads to the same text at the end of the page.
  const dialog = by("cell"), inside = dialog.querySelector("div");
  let back = null;
  function show(id) {
    const entry = by(id);
    if (!entry || !entry.classList.contains("entry")) return false;
    const copy = entry.cloneNode(true);
    copy.removeAttribute("id");
    inside.replaceChildren(copy);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    return true;
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const id = decodeURIComponent(link.getAttribute("href").slice(1));
    if (link.classList.contains("to-answers")) {
      dialog.close();
      choose(link.dataset.dataset, link.dataset.method);
      return;
    }
    if (link.classList.contains("n")) back = link;
    if ((link.classList.contains("n") || dialog.contains(link)) && show(id)) event.preventDefault();
  });
  by("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { if (back) back.focus(); back = null; });

  // The gallery: which cards are shown, in which order, a page at a time.
  const form = by("filters"), more = by("more"), STEP = 60;
  let limit = STEP;
  const galleries = all("details.gallery").map((details) => ({
    details,
    list: details.querySelector("ol"),
    cards: all("ol > li", details).filter((each) => each.dataset.f).map((element, place) => ({
      element, place,
      flags: [...element.dataset.f].map((each) => parseInt(each, 16)),
      tokens: element.dataset.n.split(" ").map(Number),
      text: null,
    })),
  }));
  const kinds = {
    all: () => true,
    wrong: (a) => !(a & 2),
    right: (a) => a & 2,
    better: (a, b) => (a & 2) && !(b & 2),
    lenient: (a) => (a & 1) && !(a & 2),
    inconsistent: (a) => a & 4,
    truncated: (a) => a & 8,
  };
  function filter() {
    const a = +form.a.value, b = +form.b.value, kind = kinds[form.kind.value], words = form.text.value.toLowerCase();
    form.b.disabled = form.kind.value !== "better";
    let found = 0, left = limit, total = 0;
    for (const { details, list, cards } of galleries) {
      const chosen = !form.dataset_.value || form.dataset_.value === details.dataset.dataset;
      const matching = cards.filter((card) => {
        if (!chosen || !kind(card.flags[a], card.flags[b])) return false;
        if (!words) return true;
        card.text ??= card.element.textContent.toLowerCase();
        return card.text.includes(words);
      });
      total += chosen ? cards.length : 0;
      found += matching.length;
      matching.sort(form.order.value === "long" ? (x, y) => y.tokens[a] - x.tokens[a] || x.place - y.place : (x, y) => x.place - y.place);
      const shown = new Set(matching.slice(0, left));
      left -= shown.size;
      for (const card of cards) card.element.hidden = !shown.has(card);
      list.append(...matching.map((card) => card.element));
      details.hidden = !matching.length;
      details.open = shown.size > 0;
    }
    form.count.value = `${found} of ${total} images`;
    more.hidden = found <= limit;
  }
  function choose(dataset, method) {
    form.dataset_.value = dataset;
    const option = [...form.a.options].find((each) => each.text === method);
    if (option) form.a.value = option.value;
    limit = STEP;
    filter();
  }
  form.dataset_ = form.elements.namedItem("dataset");
  form.addEventListener("input", () => { limit = STEP; filter(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { limit += STEP; filter(); });
  form.hidden = false;
  filter();
})();
