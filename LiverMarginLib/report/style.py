"""How the page looks, and the few lines that let its tables be sorted. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

CSS = """
:root { color-scheme: light only; --ink: #1b2733; --soft: #5b6875; --rule: #d9dfe5; --tint: #f4f6f8; --link: #0b5cad; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
header, main, footer { max-width: 1280px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 12px; }
h2 { font-size: 1.3rem; margin: 44px 0 10px; padding-top: 14px; border-top: 2px solid var(--ink); }
h3 { font-size: 1.1rem; margin: 30px 0 8px; overflow-wrap: anywhere; }
h4 { font-size: 1rem; margin: 20px 0 6px; }
p { max-width: 78ch; margin: 8px 0; overflow-wrap: anywhere; }
a { color: var(--link); }
.summary { max-width: 82ch; padding: 14px 18px; background: var(--tint); border-left: 4px solid var(--ink); }
.summary p { margin: 0 0 6px; } .summary p:last-child { margin: 0; }
.note, figcaption, small { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 16px 0; font-size: .92rem; }
nav.cases { gap: 6px; } nav.cases a { padding: 2px 10px; border: 1px solid var(--rule); border-radius: 12px;
  text-decoration: none; max-width: 100%; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 100%; }
.table figcaption { max-width: 110ch; } .table .scroll { margin: 6px 0 14px; }
.model { white-space: nowrap; }
th, td { padding: 5px 7px; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { vertical-align: bottom; border-bottom: 1.5px solid var(--ink); font-weight: 600; line-height: 1.25; }
th.text, td.text, th[scope=row], th[scope=rowgroup] { text-align: left; }
td { white-space: nowrap; } td.text { white-space: normal; }
tbody th { font-weight: 500; white-space: nowrap; }
td.wide { min-width: 34ch; }
tr.group th { background: var(--tint); font-weight: 600; text-align: left; }
td small { display: block; white-space: nowrap; font-size: .8em; line-height: 1.3; }
td small.remark { color: #9a4a00; }
td.none { color: var(--soft); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
.best { color: #9a6700; margin-left: 3px; }
.bar { display: inline-block; width: 64px; height: 8px; margin-right: 7px; vertical-align: middle; border-radius: 2px;
  background: linear-gradient(to right, #7a8794 calc(100% * var(--share)), #e8edf2 0); }
.sample { width: 24px; height: 10px; margin-right: 7px; vertical-align: baseline; }
figure { margin: 12px 0; }
.plot { overflow-x: auto; } .plot > svg, .plot > img { display: block; width: 100%; max-width: 820px; min-width: 520px;
  height: auto; }
figcaption { font-size: .88rem; max-width: 78ch; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
.gallery figure { margin: 0; } .gallery svg { display: block; width: 100%; height: auto; background: #000; }
.gallery path { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.gallery path.reference { stroke-width: 2; }
.gallery .side { font: bold 12px sans-serif; fill: #fff; stroke: #000; stroke-width: 2px; paint-order: stroke; }
.gallery figcaption { line-height: 1.35; padding-top: 4px; overflow-wrap: anywhere; }
.gallery figcaption b { color: var(--ink); }
.gallery small { display: block; }
.reason { display: inline-block; padding: 0 7px; border-radius: 9px; font-size: .8rem; margin-right: 4px;
  background: #e8edf2; color: var(--ink); }
.reason.worst { background: #fbe3d9; } .reason.two-regions { background: #f3e6c4; }
.switches { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0; padding: 8px 12px; background: #fffffff2;
  border: 1px solid var(--rule); border-radius: 6px; position: sticky; top: 6px; z-index: 1; font-size: .92rem; }
.switches label { white-space: nowrap; }
details { margin: 14px 0; } summary { cursor: pointer; color: var(--link); }
dl { display: grid; grid-template-columns: minmax(9em, max-content) 1fr; gap: 3px 16px; margin: 8px 0;
  font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 48px; padding-bottom: 40px; color: var(--soft); font-size: .88rem; }
@media (max-width: 600px) { header, main, footer { padding-left: 14px; padding-right: 14px; } h1 { font-size: 1.4rem; }
  .gallery { grid-template-columns: 1fr; } dl { grid-template-columns: 1fr; } dd { margin-bottom: 5px; } }
@media print { body { font-size: 10pt; } header, main, footer { max-width: none; padding-left: 0; padding-right: 0; }
  .switches, nav, details:not([open]) { display: none; } .scroll, .plot { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 4px; } td.wide { min-width: 0; } h2 { break-after: avoid; }
  h3, h4, p.note, .table figcaption { break-after: avoid; }
  .table figcaption { break-inside: avoid; } figure:not(.table), tr { break-inside: avoid; }
  .gallery { grid-template-columns: repeat(3, 1fr); } .plot > svg, .plot > img { min-width: 0; max-width: 100%; }
  body { -webkit-print-color-adjust: exact; print-color-adjust: exact; } @page { margin: 14mm; } }
"""

# Without JavaScript the page is whole; only the sorting is missing.
SCRIPT = """
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
      const key = row => {
        const cell = row.cells[column];
        const value = cell.dataset.value;
        return value === undefined ? (cell.classList.contains("text") || cell.tagName === "TH" ? cell.innerText : NaN)
          : value.endsWith("inf") ? parseFloat(value.replace("inf", "Infinity")) : parseFloat(value);
      };
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter(row => !row.classList.contains("group"));
        rows.sort((a, b) => {
          const x = key(a), y = key(b);
          if (typeof x === "string" || typeof y === "string") return -down * String(x).localeCompare(String(y));
          if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
          return x === y ? 0 : down * (x < y ? -1 : 1);
        });
        body.append(...rows);
      }
    });
  });
}
"""


def switches_css(count: int) -> str:
    """What makes the boxes above the gallery hide the lines of the reference and of `count` models."""
    names = ["reference", *(f"model{n}" for n in range(count))]
    return "".join(f"body:has(#show-{n}:not(:checked)) .gallery .{n}{{display:none}}" for n in names)
