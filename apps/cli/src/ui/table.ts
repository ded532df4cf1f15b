import { displayWidth } from "./format.ts";

/** One column: its title, and the side its cells are set to. */
export interface Column {
  title: string;
  /** "left" by default; "right" suits numbers. */
  align?: "left" | "right";
}

/**
 * An aligned table with a rule under the titles, two spaces between columns, one line a row. Cells
 * are printed as they are: format numbers first. Every row has one cell per column.
 */
export function renderTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
): string {
  for (const [index, row] of rows.entries()) {
    if (row.length !== columns.length) {
      throw new RangeError(
        `row ${index} of the table has ${row.length} cells for ${columns.length} columns`,
      );
    }
  }
  const widths = columns.map(({ title }, i) =>
    Math.max(displayWidth(title), ...rows.map((row) => displayWidth(row[i] ?? ""))),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => {
        const space = " ".repeat((widths[i] ?? 0) - displayWidth(cell));
        return columns[i]?.align === "right" ? space + cell : cell + space;
      })
      .join("  ")
      .trimEnd();
  const rule = widths.map((width) => "─".repeat(width)).join("  ");
  return `${[line(columns.map(({ title }) => title)), rule, ...rows.map(line)].join("\n")}\n`;
}
