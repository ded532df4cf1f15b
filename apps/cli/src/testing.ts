import type { Io, Sink } from "./io.ts";

/** A sink that keeps what is written to it. */
export interface FakeSink extends Sink {
  text: string;
  /** Gives a terminal another size, and tells who listens. */
  resize(columns: number, rows: number): void;
}

/** For tests: a pipe, or a terminal of the given size. */
export function fakeSink(columns?: number, rows?: number): FakeSink {
  const listeners = new Set<() => void>();
  return {
    text: "",
    isTTY: columns !== undefined,
    columns,
    rows,
    write(text: string) {
      this.text += text;
    },
    on: (_, listener) => listeners.add(listener),
    off: (_, listener) => listeners.delete(listener),
    resize(columns: number, rows: number) {
      Object.assign(this, { columns, rows });
      for (const listener of listeners) listener();
    },
  };
}

/** For tests: an `Io` whose output can be read, and a way to press Ctrl-C. */
export function fakeIo(env: Io["env"] = {}): Io & {
  stdout: FakeSink;
  stderr: FakeSink;
  interrupt(): void;
} {
  const controller = new AbortController();
  return {
    stdout: fakeSink(),
    stderr: fakeSink(),
    signal: controller.signal,
    env,
    interrupt: () => controller.abort(),
  };
}

const ESCAPE = "\u001b";
/** An escape sequence, with how far up it moves or what it clears; or else a character. */
const TERMINAL = new RegExp(`${ESCAPE}\\[(?:(\\d+)A|([KJ])|[\\d;]*m)|.`, "gsu");

/**
 * What a terminal of a width shows after the text was written, with the lines that have scrolled
 * away: it knows `\r`, moving up, clearing to the end of the line or screen, and wraps.
 */
export function screen(text: string, columns: number = Infinity): string[] {
  const lines: string[][] = [[]];
  let [row, column] = [0, 0];
  for (const [token, up, cleared] of text.matchAll(TERMINAL)) {
    const line = lines[row] as string[];
    if (up) row = Math.max(0, row - Number(up));
    else if (cleared) {
      line.splice(column);
      if (cleared === "J") lines.splice(row + 1);
    } else if (token === "\r") column = 0;
    else if (token === "\n") [row, column] = [row + 1, 0];
    else if (!token.startsWith("\u001b")) {
      if (column >= columns) [row, column] = [row + 1, 0];
      lines[row] ??= [];
      while ((lines[row] as string[]).length < column) (lines[row] as string[]).push(" ");
      (lines[row] as string[])[column++] = token;
    }
    lines[row] ??= [];
  }
  return lines.map((line) => line.join(""));
}
