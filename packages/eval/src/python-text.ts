/** What Python means by whitespace, characters and capitals: the harness's prompts are made with it. */

/** `str.isspace` of CPython; JavaScript's own `\s` lacks U+001C … U+001F and U+0085, and has U+FEFF. */
const SPACE =
  "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const LEADING = new RegExp(`^[${SPACE}]+`);
const TRAILING = new RegExp(`[${SPACE}]+$`);
const RUNS = new RegExp(`[${SPACE}]+`);

/** `text.rstrip()` */
export function rstrip(text: string): string {
  return text.replace(TRAILING, "");
}

/** `text.strip()` */
export function strip(text: string): string {
  return rstrip(text.replace(LEADING, ""));
}

/** `text.split()` */
export function words(text: string): string[] {
  return text.split(RUNS).filter((word) => word !== "");
}

/** `len(re.split(r"\s+", text))`: an empty piece before or after whitespace counts. */
export function countPieces(text: string): number {
  return text.split(RUNS).length;
}

/** `len(text)`: code points, so that a character outside the basic plane is one. */
export function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** `len(text.encode("utf-8"))` */
export function utf8Bytes(text: string): number {
  return Buffer.byteLength(text, "utf8");
}

/** `text.capitalize()`: the first character large, **all others small**. */
export function capitalize(text: string): string {
  const [first = ""] = text;
  const [large = "", ...rest] = first.toUpperCase();
  return large + (rest.join("") + text.slice(first.length)).toLowerCase();
}
