/** Curves and heat maps as SVG that stands in a page without scripts. */
import type { Point } from "../runs/series.ts";
import { formatNumber } from "../ui/format.ts";
import { html, type Markup } from "./markup.ts";

const WIDTH = 420;
const HEIGHT = 210;
const LEFT = 56;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;

/**
 * A metric over the steps: its mean in every point, the range between least and greatest as a
 * band, and, where there is enough, its course as a smoothed line.
 */
export function curve(name: string, points: readonly Point[]): Markup {
  const known = points.flatMap(({ step, values }) => {
    const spread = values.get(name);
    return spread && Number.isFinite(spread.mean) ? [{ x: step, ...spread }] : [];
  });
  const [xs, ys] = [extent(known.map(({ x }) => x)), extent(known.flatMap((p) => [p.min, p.max]))];
  const x = (value: number) => LEFT + fraction(value, xs) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => HEIGHT - BOTTOM - fraction(value, ys) * (HEIGHT - TOP - BOTTOM);
  const at = (px: number, py: number) => `${px.toFixed(1)} ${py.toFixed(1)}`;
  const path = (values: readonly number[]) =>
    values.map((v, i) => `${i === 0 ? "M" : "L"}${at(x(known[i]?.x ?? 0), y(v))}`).join("");
  const means = known.map(({ mean }) => mean);
  const banded = known.some(({ min, max }) => min < max);
  const back = known.toReversed().map((p) => `L${at(x(p.x), y(p.min))}`);
  const band = `${path(known.map(({ max }) => max))}${back.join("")}Z`;
  const many = known.length >= SMOOTHED_FROM;
  return html`<svg class="curve" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${name} over the steps">
${ticks(ys).map((v) => html`<path class="grid" d="M${LEFT} ${y(v).toFixed(1)}H${WIDTH - RIGHT}"/><text x="${LEFT - 6}" y="${(y(v) + 4).toFixed(1)}" text-anchor="end">${formatNumber(v)}</text>`)}
${ticks(xs).map((v) => html`<text x="${x(v).toFixed(1)}" y="${HEIGHT - 8}" text-anchor="middle">${formatNumber(v)}</text>`)}
${banded ? html`<path class="band" d="${band}"/>` : undefined}
<path class="${many ? "line faint" : "line"}" d="${path(means)}"/>
${many ? html`<path class="line" d="${path(smoothed(means))}"/>` : undefined}
${known.length === 1 ? html`<circle class="dot" cx="${x(xs[0]).toFixed(1)}" cy="${y(ys[0]).toFixed(1)}" r="3"/>` : undefined}
</svg>`;
}

const SMOOTHED_FROM = 50;
/** Points at each side of one that its mean is taken over, fewer at the ends. */
const NEIGHBOURS = 6;

/** Means over as many neighbours at both sides, so that the course is not drawn late. */
function smoothed(values: readonly number[]): number[] {
  return values.map((_, i) => {
    const reach = Math.min(NEIGHBOURS, i, values.length - 1 - i);
    const near = values.slice(i - reach, i + reach + 1);
    return near.reduce((mean, value) => mean + value / near.length, 0);
  });
}

type Extent = readonly [least: number, greatest: number];

function extent(values: readonly number[]): Extent {
  if (values.length === 0) return [0, 1];
  return [
    values.reduce((a, b) => Math.min(a, b), Infinity),
    values.reduce((a, b) => Math.max(a, b), -Infinity),
  ];
}

/** Halves first: the difference of the largest numbers is none. */
function fraction(value: number, [least, greatest]: Extent): number {
  const range = greatest / 2 - least / 2;
  return range > 0 ? (value / 2 - least / 2) / range : 0.5;
}

/** Round numbers within an extent, about five of them. */
function ticks([least, greatest]: Extent): number[] {
  const range = greatest - least;
  if (!(range > 0) || !Number.isFinite(range)) return [least];
  const rough = range / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10) * power;
  const count = Math.floor(greatest / step) - Math.ceil(least / step) + 1;
  // Of numbers that differ in their last digits only, there are no rounder ones.
  if (!(count > 0 && count < 20)) return [least, greatest];
  return Array.from({ length: count }, (_, i) => (Math.ceil(least / step) + i) * step);
}

/** Shades of a heat map; cells of one are one path, so that a large map stays a small file. */
const SHADES = 16;

/**
 * Rows of cells, the darker the larger, on a scale from 0 to `most`.
 * @param rows values, all rows as long as the first
 * @param titles of each row, at its left
 */
export function heatMap(
  label: string,
  rows: readonly (readonly number[])[],
  titles: readonly string[],
  most: number,
): Markup {
  const columns = rows[0]?.length ?? 0;
  const cell = { width: Math.min(24, 760 / columns), height: rows.length > 24 ? 8 : 18 };
  const paths = Array.from({ length: SHADES }, () => "");
  for (const [row, values] of rows.entries()) {
    for (const [column, value] of values.slice(0, columns).entries()) {
      const share = Math.min(1, Math.max(0, value / most));
      const shade = Math.round((Number.isNaN(share) ? 0 : share) * (SHADES - 1));
      const at = `M${(LEFT + column * cell.width).toFixed(2)} ${row * cell.height}`;
      paths[shade] += `${at}h${cell.width.toFixed(2)}v${cell.height}h-${cell.width.toFixed(2)}z`;
    }
  }
  const size = [LEFT + columns * cell.width + 4, rows.length * cell.height + 4] as const;
  const every = Math.ceil(10 / cell.height);
  return html`<svg class="heat" viewBox="0 0 ${size[0].toFixed(0)} ${size[1]}" style="max-width:${size[0].toFixed(0)}px" role="img" aria-label="${label}">
<rect class="cold" x="${LEFT}" y="0" width="${(columns * cell.width).toFixed(2)}" height="${rows.length * cell.height}"/>
${paths.map((d, i) => (d === "" || i === 0 ? undefined : html`<path class="hot" fill-opacity="${(i / (SHADES - 1)).toFixed(2)}" d="${d}"/>`))}
${titles.map((title, i) => (i % every === 0 ? html`<text x="${LEFT - 6}" y="${(i + 0.5) * cell.height + 4}" text-anchor="end">${title}</text>` : undefined))}
</svg>`;
}
