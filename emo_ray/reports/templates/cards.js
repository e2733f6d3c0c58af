"use strict";
// The controls of cards.html: filters, order, and the labels that a person chooses, as a manifest in CSV.
const get = (id) => document.getElementById(id);
const list = get("cards");
const cards = [...list.children];
const flags = ["disagrees", "broken", "unfamiliar", "wrong"].filter((name) => get(name));
const orders = {
  doubt: (a, b) => cards.indexOf(a) - cards.indexOf(b),
  unsure: (a, b) => a.dataset.confidence - b.dataset.confidence,
  sure: (a, b) => b.dataset.confidence - a.dataset.confidence,
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
};

function isShown(card) {
  return (!get("class").value || card.dataset.class === get("class").value)
    && Number(card.dataset.confidence) < Number(get("below").value)
    && flags.every((name) => !get(name).checked || name in card.dataset);
}

function filter() {
  for (const card of cards) card.hidden = !isShown(card);
  get("count").textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} clips`;
}

function chosen() {
  return cards.filter((card) => card.querySelector(".right")?.value);
}

function cell(text) {
  return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
}

// A row for each clip whose label was chosen: what data.manifest needs of it, and the label.
function corrections() {
  const rows = chosen().map((card) => [...JSON.parse(card.dataset.clip), card.querySelector(".right").value]);
  return [[...JSON.parse(list.dataset.columns), "label"], ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrections()], { type: "text/csv" }));
  link.download = list.dataset.file;
  link.click();
  URL.revokeObjectURL(link.href);
  isSaved = true;
}

let isSaved = true;
get("tools").hidden = false;
get("tools").addEventListener("change", filter);
get("order").addEventListener("change", () => list.append(...[...cards].sort(orders[get("order").value])));
get("download")?.addEventListener("click", download);
list.addEventListener("change", () => {
  isSaved = !chosen().length;
  get("download").disabled = isSaved;
  get("download").textContent = `${list.dataset.file} (${chosen().length})`;
});
window.addEventListener("beforeunload", (event) => {
  if (!isSaved) event.preventDefault();
});
filter();
