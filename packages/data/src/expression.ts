/** The value of a sum such as "(3 + 4) * 5", and the numbers that it uses. */
export interface Expression {
  readonly value: number;
  /** In the order in which they stand. */
  readonly numbers: readonly number[];
}

const MAX_DEPTH = 64;

/** Reads whole numbers, + − * / and brackets. @returns undefined for anything else */
export function evaluate(text: string): Expression | undefined {
  const tokens = text.replaceAll("×", "*").match(/\d+|[-+*/()]|\S/g) ?? [];
  const numbers: number[] = [];
  let at = 0;
  let depth = 0;
  const term = (): number => {
    let value = factor();
    while (tokens[at] === "*" || tokens[at] === "/") {
      value = tokens[at++] === "*" ? value * factor() : value / factor();
    }
    return value;
  };
  const sum = (): number => {
    let value = term();
    while (tokens[at] === "+" || tokens[at] === "-") {
      value = tokens[at++] === "+" ? value + term() : value - term();
    }
    return value;
  };
  const factor = (): number => {
    const token = tokens[at++] ?? "";
    if (/^\d+$/.test(token)) {
      numbers.push(Number(token));
      return Number(token);
    }
    if (token !== "(" || ++depth > MAX_DEPTH) return Number.NaN;
    const value = sum();
    depth--;
    return tokens[at++] === ")" ? value : Number.NaN;
  };
  const value = sum();
  return at === tokens.length && Number.isFinite(value) ? { value, numbers } : undefined;
}
