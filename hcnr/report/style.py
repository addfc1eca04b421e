"""How the page looks: one style for light and dark, for desks, telephones and paper.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; shapes differ
too. Charts use the page's variables, so they follow the reader's colour scheme.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --panel: #f4f4f1; --ink: #1b1d20; --soft: #5a6068; --hair: #dddedb;
  --after: #0072b2; --before: #c65300; --base: #00805c; --rival: #a0527f; --alert: #c65300;
  --gold: #b07900;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --panel: #1e2125; --ink: #e8e9ea; --soft: #a2a8b0; --hair: #353a40;
    --after: #56b4e9; --before: #f0883e; --base: #2ec59a; --rival: #dd94bb; --alert: #f0883e;
    --gold: #e6ab02;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 "Helvetica Neue", Helvetica, Arial, system-ui, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
main, footer { max-width: 54rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 3.5rem; }
h1 { font-size: clamp(1.6rem, 4.6vw, 2.3rem); line-height: 1.2; letter-spacing: -0.015em;
     font-weight: 650; margin: 0.3rem 0 1rem; text-wrap: balance; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 0 0 0.8rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0.4rem 0; }
.kicker { color: var(--soft); font-size: 0.85rem; margin: 0; }
.lead { color: var(--soft); margin: 0; }
.lead b { color: var(--ink); font-weight: 600; }
section { margin-top: 3.2rem; }
.quiet, figcaption p { color: var(--soft); font-size: 0.9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 0.75rem;
         margin-top: 2rem; }
.tiles > div { background: var(--panel); border-radius: 10px; padding: 0.9rem 1rem; }
.tiles p { margin: 0; }
.tiles .name, .tiles .note { color: var(--soft); font-size: 0.82rem; line-height: 1.4; }
.tiles .value { font-size: 1.9rem; font-weight: 600; letter-spacing: -0.02em; line-height: 1.3; }
.scroll { overflow-x: auto; margin: 0.6rem 0; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--after);
  outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.86rem; line-height: 1.4; }
th, td { text-align: right; padding: 0.42rem 0 0.42rem 0.8rem; border-bottom: 1px solid var(--hair);
         vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody td { white-space: nowrap; }
tbody th { white-space: nowrap; }
th.words, td.words { text-align: left; }
.long { white-space: normal; overflow-wrap: anywhere; min-width: 18em; }
tr.strong > * { font-weight: 700; color: var(--after); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
          white-space: nowrap; }
.apart { margin-top: 1.4rem; }
.signatures { list-style: none; margin: 0; padding: 0; display: grid; gap: 0.75rem; }
.signatures li { background: var(--panel); border-left: 4px solid var(--alert); border-radius: 4px;
                 padding: 0.75rem 1rem; }
.signatures p { margin: 0.15rem 0 0; }
.advice { color: var(--soft); }
.calm { border-left: 4px solid var(--base); background: var(--panel); border-radius: 4px;
        padding: 0.75rem 1rem; }
figure { margin: 1.8rem 0 0; }
section > h2 + figure { margin-top: 0; }
figcaption p { margin: 0.1rem 0 0.5rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin: 0 0 0.4rem;
          padding: 0; font-size: 0.85rem; }
.legend li { display: flex; align-items: center; gap: 0.4rem; }
.swatch { width: 24px; height: 14px; flex: none; }
figure div > svg { display: block; width: 100%; height: auto; overflow: visible; }
.narrow { display: none; max-width: 27rem; }
@media (max-width: 620px) { .wide { display: none; } .narrow { display: block; }
  header { padding-top: 2rem; } .tiles { grid-template-columns: 1fr 1fr; }
  section { margin-top: 2.6rem; } }
details { margin-top: 0.5rem; }
summary { cursor: pointer; color: var(--soft); font-size: 0.88rem; width: fit-content; }
details ul { font-size: 0.9rem; }
.answers summary { color: var(--ink); font-size: 0.95rem; padding-left: 0.6rem;
                   border-left: 4px solid var(--hair); }
.answers.worse summary { border-color: var(--alert); }
.answers.better summary { border-color: var(--base); }
.answers ol { padding-left: 1.4rem; }
.answers li { margin: 1rem 0; }
.answers p { margin: 0; }
.asked { font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.1rem 1rem;
     margin: 0.3rem 0 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.good, .bad { font-size: 0.8rem; font-weight: 600; white-space: nowrap; }
.good { color: var(--base); } .bad { color: var(--alert); }
code { font: 0.88em ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
footer { color: var(--soft); font-size: 0.82rem; margin-top: 3.5rem; padding-bottom: 3rem; }
svg text { fill: var(--ink); font-size: 12px; }
svg .tick, svg .axis, svg .number { fill: var(--soft); font-size: 11.5px; }
svg .tag { font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 4px;
           stroke-linejoin: round; }
svg .number { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.grid { stroke: var(--hair); stroke-width: 1; fill: none; }
.rule { stroke: var(--hair); stroke-width: 1; stroke-dasharray: 1 3; }
.reference { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 3; }
.after { --c: var(--after); } .before { --c: var(--before); } .base { --c: var(--base); }
.rival { --c: var(--rival); } .alert { --c: var(--alert); } .quiet { --c: var(--soft); }
.chosen { --c: var(--gold); }
.mark { fill: var(--c); stroke: var(--paper); stroke-width: 1; }
.mark.before, .mark.rival { fill: var(--paper); stroke: var(--c); stroke-width: 2; }
.mark.quiet { fill-opacity: 0.65; stroke: none; }
.mark.chosen { fill: none; stroke: var(--c); stroke-width: 3; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.line.rival { stroke-dasharray: 5 4; }
.band { fill: var(--c); fill-opacity: 0.13; }
.thin { stroke: var(--c); stroke-width: 2; fill: none; }
.thick { stroke: var(--c); stroke-width: 7; stroke-opacity: 0.4; fill: none; }
.bar { fill: var(--c); }
.cell { fill: var(--after); }
.dot { fill: var(--ink); }
.dot.strong { fill: var(--paper); }
@media print {
  :root { --paper: #fff; --panel: #f4f4f1; --ink: #000; --soft: #444; --hair: #ccc;
    --after: #0072b2; --before: #c65300; --base: #00805c; --rival: #a0527f; --alert: #c65300;
    --gold: #b07900; }
  body { font-size: 10.5pt; }
  header { padding-top: 0; }
  figure, .signatures li, .tiles, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide { display: block; } .narrow { display: none; }
  details:not(.short) { display: none; }
  details.short::details-content { content-visibility: visible; block-size: auto; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  tbody td { white-space: normal; }
  th, td { padding-left: 0.6em; }
  main, footer { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
