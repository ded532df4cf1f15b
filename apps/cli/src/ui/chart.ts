import { formatNumber } from "./format.ts";

export interface ChartSize {
  /** Of the whole, with the labels at its left. */
  readonly columns: number;
  /** Of the curve; the axis under it is one more. */
  readonly rows: number;
}

/** Bits of the dots of a braille character, by column and row (Unicode, block 2800). */
const DOTS = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
] as const;

/**
 * A curve in braille dots, two by four of them in a character, with its greatest and least value at
 * the left and the first and last `x` below. What lies between two dots is drawn through.
 * @param points in the order of x; those that are no numbers are left out
 */
export function brailleChart(
  points: readonly (readonly [x: number, y: number])[],
  { columns, rows }: ChartSize,
): string[] {
  const known = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  const ys = known.map(([, y]) => y);
  const top = ys.reduce((a, b) => Math.max(a, b), -Infinity);
  const bottom = ys.reduce((a, b) => Math.min(a, b), Infinity);
  const labels = known.length > 0 ? [formatNumber(top), formatNumber(bottom)] : ["", ""];
  const margin = Math.max(...labels.map((label) => label.length));
  const width = Math.max(1, columns - margin - 2);
  const cells = curve(known, { top, bottom }, width, rows);
  const lines = cells.map((codes, row) => {
    const label = row === 0 ? labels[0] : row === rows - 1 ? labels[1] : "";
    const text = String.fromCharCode(...codes.map((code) => 0x2800 + code));
    return `${(label ?? "").padStart(margin)} ${row === 0 || row === rows - 1 ? "┤" : "│"}${text}`;
  });
  const from = known.length > 0 ? formatNumber(known[0]?.[0] ?? 0) : "";
  const to = known.length > 1 ? formatNumber(known.at(-1)?.[0] ?? 0) : "";
  const space = Math.max(1, width - from.length - to.length);
  return [...lines, `${" ".repeat(margin + 2)}${from}${" ".repeat(space)}${to}`];
}

function curve(
  points: readonly (readonly [number, number])[],
  { top, bottom }: { top: number; bottom: number },
  width: number,
  rows: number,
): number[][] {
  const cells = Array.from({ length: rows }, () => new Array<number>(width).fill(0));
  const first = points[0]?.[0] ?? 0;
  const span = (points.at(-1)?.[0] ?? 0) - first;
  const height = rows * 4 - 1;
  // Halves first: the difference of the largest numbers is none.
  const range = top / 2 - bottom / 2;
  const at = ([x, y]: readonly [number, number]) => ({
    column: span > 0 ? Math.round(((x - first) / span) * (width * 2 - 1)) : 0,
    row: range > 0 ? Math.round(((top / 2 - y / 2) / range) * height) : Math.round(height / 2),
  });
  let before: ReturnType<typeof at> | undefined;
  for (const point of points) {
    const here = at(point);
    const from = before ?? here;
    const length = Math.max(here.column - from.column, Math.abs(here.row - from.row), 1);
    for (let i = 0; i <= length; i++) {
      const column = Math.round(from.column + ((here.column - from.column) * i) / length);
      const row = Math.round(from.row + ((here.row - from.row) * i) / length);
      const line = cells[row >> 2] as number[];
      line[column >> 1] = (line[column >> 1] ?? 0) | (DOTS[(column & 1) as 0 | 1][row & 3] ?? 0);
    }
    before = here;
  }
  return cells;
}
