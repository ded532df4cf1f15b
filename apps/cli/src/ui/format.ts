import { stripVTControlCharacters } from "node:util";

/** 950 -> "950", 12_345 -> "12.3k", 671_026_419_200 -> "671.0B" (10^9, as for parameters). */
export function formatCount(value: number): string {
  return withUnit(value, 1000, ["", "k", "M", "B", "T"], "");
}

/** 2048 -> "2.0 KiB"; powers of 1024. */
export function formatBytes(value: number): string {
  return withUnit(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], " ");
}

function withUnit(value: number, base: number, units: readonly string[], gap: string): string {
  if (!Number.isFinite(value)) return "?";
  let scaled = value;
  let unit = 0;
  // Compared after rounding, so that 999,960 is "1.0M" and not "1000.0k".
  while (unit < units.length - 1 && Math.abs(unit ? round1(scaled) : scaled) >= base) {
    scaled /= base;
    unit++;
  }
  const digits = unit === 0 && (Number.isInteger(scaled) || Math.abs(scaled) >= 100) ? 0 : 1;
  return `${scaled.toFixed(digits)}${units[unit] === "" ? "" : gap}${units[unit]}`;
}

function round1(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Seconds as "8s", "2m05s" or "3h07m"; "?" if unknown. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return "?";
  const whole = Math.round(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
}

const ZERO_WIDTH = /^[\p{Mn}\p{Me}\p{Cf}]$/u;
const WIDE =
  /^[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}$/u;

/** Columns that a text takes in a terminal: Chinese and emoji take two, accents and colours none. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const char of stripVTControlCharacters(text)) {
    width += ZERO_WIDTH.test(char) ? 0 : WIDE.test(char) ? 2 : 1;
  }
  return width;
}

/** The longest beginning of `text` (without colours) that fits into `columns`. */
export function truncate(text: string, columns: number): string {
  if (displayWidth(text) <= columns) return text;
  let result = "";
  let width = 1; // for the ellipsis
  for (const char of stripVTControlCharacters(text)) {
    width += displayWidth(char);
    if (width > columns) break;
    result += char;
  }
  return columns < 1 ? "" : `${result}…`;
}

/** A number in at most four digits: 0.0123, 3.142, 12.3k, 1.2e-5. */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value) || (size >= 1e4 && size < 1e15)) return formatCount(value);
  if (size >= 1e15 || (size < 1e-3 && size > 0)) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}
