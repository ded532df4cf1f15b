import { describe, expect, it } from "vitest";
import { fakeSink, screen } from "../testing.ts";
import { displayWidth } from "./format.ts";
import { printJson } from "./json.ts";
import { Progress } from "./progress.ts";
import { styler } from "./style.ts";
import { renderTable } from "./table.ts";

describe("Progress", () => {
  /** A run of `steps` steps of one second and 2,000 tokens each, a tenth of a second between updates. */
  function train(columns: number | undefined, steps: number, total: number) {
    const sink = fakeSink(columns);
    let time = 0;
    const progress = new Progress(sink, { label: "training", total, now: () => time });
    for (let tick = 1; tick <= steps * 10; tick++) {
      time = tick * 100;
      progress.update({ done: tick / 10, metric: ["loss", 5 - tick / 100], tokens: tick * 200 });
    }
    return { sink, progress };
  }

  it("redraws one line in a terminal, with loss, rate and time left", () => {
    const { sink, progress } = train(100, 60, 120);
    expect(screen(sink.text)).toEqual([
      "training ████████████░░░░░░░░░░░░  50%  loss -1.000  2.0k tokens/s  1m00s left",
    ]);
    progress.finish();
    expect(screen(sink.text)).toEqual([
      "training ████████████░░░░░░░░░░░░  50%  loss -1.000  2.0k tokens/s  1m00s",
      "",
    ]);
  });

  it("never draws to the last column of a terminal", () => {
    const { sink } = train(40, 60, 120);
    for (const frame of sink.text.split("\r")) {
      expect(displayWidth(frame)).toBeLessThan(40);
    }
  });

  it("draws at most ten times a second", () => {
    const sink = fakeSink(80);
    let time = 0;
    const progress = new Progress(sink, { label: "x", total: 10_000, now: () => time });
    for (; time < 1000; time++) progress.update({ done: time });
    expect(sink.text.split("\r").length - 1).toBe(10);
  });

  it("prints a plain line every five seconds when piped", () => {
    const { sink, progress } = train(undefined, 11, 20);
    progress.finish();
    expect(sink.text).toBe(
      [
        "training   0%  loss 4.990  2.0k tokens/s  20s left",
        "training  25%  loss 4.490  2.0k tokens/s  15s left",
        "training  50%  loss 3.990  2.0k tokens/s  10s left",
        "training  55%  loss 3.900  2.0k tokens/s  11s",
        "",
      ].join("\n"),
    );
  });

  it("follows a change of speed within seconds", () => {
    const sink = fakeSink(80);
    let time = 0;
    const progress = new Progress(sink, { label: "x", total: 1000, now: () => time });
    for (; time < 60_000; time += 100) progress.update({ done: time / 100 });
    for (; time < 75_000; time += 100) progress.update({ done: 600 + (time - 60_000) / 1000 });
    // 385 are left at 1 a second, although the mean since the start is 8 a second.
    expect(screen(sink.text)[0]).toMatch(/6m2\ds left/);
  });

  it("prints remarks above the bar, and alone where there is none", () => {
    const { sink, progress } = train(80, 1, 2);
    progress.log("saved step-1");
    expect(screen(sink.text)[0]).toBe("saved step-1");
    expect(screen(sink.text)[1]).toContain("training");
    const piped = train(undefined, 1, 2);
    piped.sink.text = "";
    piped.progress.log("saved step-1");
    expect(piped.sink.text).toBe("saved step-1\n");
  });

  it("stands an empty piece of work and a loss that is not a number", () => {
    const sink = fakeSink();
    const progress = new Progress(sink, { label: "nothing", total: 0, now: () => 0 });
    progress.update({ done: 0, metric: ["loss", Number.NaN], tokens: 0 });
    expect(sink.text).toBe("nothing 100%  loss NaN\n");
  });
});

describe("renderTable", () => {
  it("aligns columns, whatever the width of their characters", () => {
    const table = renderTable(
      [{ title: "tensor" }, { title: "bytes", align: "right" }, { title: "dtype" }],
      [
        ["embed", "1.5 MiB", "f32"],
        ["词", "12 B", "\u001b[31mf8\u001b[39m"],
      ],
    );
    expect(table).toBe(
      [
        "tensor    bytes  dtype",
        "──────  ───────  ─────",
        "embed   1.5 MiB  f32",
        "词         12 B  \u001b[31mf8\u001b[39m",
        "",
      ].join("\n"),
    );
  });

  it("prints the titles of an empty table", () => {
    expect(renderTable([{ title: "a" }], [])).toBe("a\n─\n");
  });

  it("refuses a row with a missing cell", () => {
    expect(() => renderTable([{ title: "a" }, { title: "b" }], [["1", "2"], ["3"]])).toThrow(
      "row 1 of the table has 1 cells for 2 columns",
    );
  });
});

describe("printJson", () => {
  it("writes one document that JSON.parse reads back", () => {
    const sink = fakeSink();
    printJson(sink, {
      parameters: 671_026_419_200n,
      huge: 2n ** 64n,
      loss: Number.NaN,
      scale: -Infinity,
      ids: new Uint32Array([1, 2]),
    });
    expect(sink.text.endsWith("}\n")).toBe(true);
    expect(JSON.parse(sink.text)).toEqual({
      parameters: 671_026_419_200,
      huge: "18446744073709551616",
      loss: "NaN",
      scale: "-Infinity",
      ids: [1, 2],
    });
  });
});

describe("styler", () => {
  it("colours terminals only, and not when asked not to", () => {
    expect(styler(fakeSink(80), {})("red", "x")).toBe("\u001b[31mx\u001b[39m");
    expect(styler(fakeSink(), {})("red", "x")).toBe("x");
    expect(styler(fakeSink(80), { NO_COLOR: "1" })("red", "x")).toBe("x");
    expect(styler(fakeSink(80), { TERM: "dumb" })("red", "x")).toBe("x");
  });
});
