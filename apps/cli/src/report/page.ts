/** A run's report as one page that needs nothing but itself. */
import type { EvaluationRow } from "./evaluations.ts";
import {
  configuration,
  cost,
  EVALUATION_TITLES,
  evaluationCells,
  excessOverTime,
  type Fact,
  finalLoads,
  summary,
} from "./facts.ts";
import { html, Markup } from "./markup.ts";
import type { RunData, Sample } from "./run-data.ts";
import { curve, heatMap } from "./svg.ts";

export function reportPage(run: RunData, pricePerHour: number | undefined): string {
  const { name, samples, evaluations } = run;
  return pageOf(
    name,
    html`${tiles(summary(run))}
<section id="curves"><h2>Curves</h2>
${curves(run)}</section>
${loadMaps(run)}
${sampleList(samples)}
${evaluationTable(evaluations)}
<section id="cost"><h2>Cost</h2>${facts(cost(run, pricePerHour))}</section>
${run.record ? html`<section id="configuration"><h2>Configuration</h2><details><summary>All settings of the run and its model</summary>${facts(configuration(run))}</details></section>` : undefined}`,
  );
}

/** A whole page, which loads nothing. */
export function pageOf(name: string, body: Markup): string {
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${name} – dsv3 report</title>
<style>${new Markup(STYLE)}</style>
</head>
<body>
<h1>${name}</h1>
${body}
</body>
</html>
`.text;
}

export function tiles(rows: readonly Fact[]): Markup {
  return html`<dl class="tiles">${rows.map(([k, v]) => html`<div><dt>${k}</dt><dd>${v}</dd></div>`)}</dl>`;
}

/** Every metric over the steps. */
export function curves({ series }: RunData): Markup {
  return html`<div class="curves">${[...series.names].map((metric) => html`<figure><figcaption>${metric}</figcaption>${curve(metric, series.points)}</figure>`)}</div>`;
}

export function sampleList(samples: readonly Sample[]): Markup | undefined {
  if (samples.length === 0) return undefined;
  return html`<section id="samples"><h2>Samples</h2>${samples.map(({ prompt, text }) => html`<blockquote><b>${prompt}</b>${text}</blockquote>`)}</section>`;
}

export function evaluationTable(rows: readonly EvaluationRow[]): Markup | undefined {
  if (rows.length === 0) return undefined;
  return html`<section id="evaluations"><h2>Evaluations</h2><div class="wide"><table><thead><tr>${EVALUATION_TITLES.map((t) => html`<th>${t}</th>`)}</tr></thead><tbody>${rows.map((row) => html`<tr>${evaluationCells(row).map((c) => html`<td>${c}</td>`)}</tr>`)}</tbody></table></div></section>`;
}

function facts(rows: readonly Fact[]): Markup {
  return html`<div class="wide"><table class="facts"><tbody>${rows.map(([k, v]) => html`<tr><th scope="row">${k}</th><td>${v}</td></tr>`)}</tbody></table></div>`;
}

function loadMaps({ loads }: RunData): Markup | undefined {
  const last = loads.at(-1);
  if (last === undefined) return undefined;
  const titles = last.loads.map((_, layer) => `${layer + 1}`);
  const [from, to] = [loads[0]?.step, last.step];
  return html`<section id="loads"><h2>Load of the experts</h2>
<p>Each row is a layer with experts, in the model's order, modules that predict further ahead last.</p>
<figure><figcaption>Each expert at the end, from none to twice the mean of its layer or more (darkest)</figcaption>${heatMap("load of each expert", finalLoads(loads), titles, 2)}</figure>
<figure><figcaption>The busiest expert from step ${from} to step ${to}, from the mean to twice it or more (darkest)</figcaption>${heatMap("load of the busiest expert over time", excessOverTime(loads), titles, 1)}</figure></section>`;
}

const STYLE = `
:root { --ink: #1c2024; --soft: #60686f; --paper: #fcfcfb; --card: #fff; --rule: #e3e5e7; --line: #1f6feb; --hot: #b5451b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #9aa3ab; --paper: #15181b; --card: #1c2024; --rule: #31373c; --line: #6aa8ff; --hot: #ff9a66; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.9rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { max-width: 44rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; margin: 0 0 .75rem; }
.tiles div, figure, blockquote { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tiles div { padding: .6rem .8rem; }
dt, figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .75rem; }
figure { margin: 0; padding: .6rem .8rem; }
section > figure { margin-bottom: .75rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); }
.line { fill: none; stroke: var(--line); stroke-width: 1.6; stroke-linejoin: round; }
.faint { stroke-opacity: .3; stroke-width: 1; }
.band { fill: var(--line); fill-opacity: .12; }
.dot { fill: var(--line); }
.cold { fill: var(--rule); fill-opacity: .5; }
.hot { fill: var(--hot); }
blockquote { margin: 0 0 .75rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th, .facts th { color: var(--soft); font-weight: 500; }
.facts td { overflow-wrap: anywhere; }
summary { cursor: pointer; margin-bottom: .5rem; }
@media print { body { padding: 0; } }
`;
