import type { Io, Sink } from "./io.ts";

/** A sink that keeps what is written to it. */
export interface FakeSink extends Sink {
  text: string;
}

/** For tests: a pipe, or a terminal of the given width. */
export function fakeSink(columns?: number): FakeSink {
  return {
    text: "",
    isTTY: columns !== undefined,
    columns,
    write(text: string) {
      this.text += text;
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

/** What a terminal shows after the text was written: `\r` goes back, `ESC [K` clears to the end. */
export function screen(text: string): string[] {
  return text.split("\n").map((line) =>
    line.split("\r").reduce((shown, part) => {
      const [kept = "", cleared] = part.split("\u001b[K");
      return cleared === undefined ? kept + shown.slice(kept.length) : kept + cleared;
    }, ""),
  );
}
