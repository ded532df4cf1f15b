import { describe, expect, it } from "vitest";
import { RunView } from "./run-view.ts";
import { type FakeSink, fakeIo, fakeSink, screen } from "./testing.ts";
import { displayWidth } from "./ui/format.ts";

/** A run in a terminal of a size, of which steps of 300 ms can be told. */
function watched(sink: FakeSink, env: Record<string, string> = { NO_COLOR: "1" }) {
  const io = Object.assign(fakeIo(env), { stderr: sink });
  let now = 0;
  let step = 0;
  const view = new RunView(io, { label: "training", total: 1000, now: () => now });
  const go = (steps: number, more: Record<string, unknown> = {}) => {
    for (let i = 0; i < steps; i++) {
      now += 300;
      step++;
      const line = {
        step,
        tokens: step * 600,
        mainLoss: 2 + 6 / step,
        learningRate: 1e-3,
        ...more,
      };
      view.step(line, [
        [1, 2, 3, 2],
        [0, 0, 0, 8],
      ]);
    }
  };
  return { io, view, go };
}

it("shows curve, rates, time left and the load of the experts, in place", () => {
  const sink = fakeSink(80, 24);
  const { view, go } = watched(sink);
  go(250, { gradNorm: 0.5, expertLoad: 4, peakBytes: 2 ** 30, evaluation: { bitsPerByte: 1.5 } });
  view.finish();
  const lines = screen(sink.text, 80);
  expect(lines).toHaveLength(16);
  expect(lines[0]).toBe("training  ██████░░░░░░░░░░░░░░░░░░  25%  3m45s left  step 250/1000");
  expect(lines[1]).toMatch(/^2.231 ┤[⠀-⣿]+$/);
  expect(lines[9]).toMatch(/^2.024 ┤/);
  expect(lines[10]).toMatch(/^ +1 +250$/);
  expect(lines.slice(11)).toEqual([
    "loss 2.024 · learning rate 0.001 · 2.0k tokens/s · gradient norm 0.5",
    "busiest expert 4.00× the mean · memory 1.0 GiB · bitsPerByte 1.5",
    "experts  1 ▃▅▇▅ 1.50×",
    "experts  2 ▁▁▁█ 4.00×",
    "",
  ]);
});

it.each([
  [40, 12],
  [41, 13],
  [57, 16],
  [132, 43],
  [400, 100],
])(
  "holds its place in a terminal of %d by %d, and leaves its last column free",
  (columns, rows) => {
    const sink = fakeSink(columns, rows);
    const { go } = watched(sink, {});
    go(60, { gradNorm: 0.5, expertLoad: 4, kl: 0.01, "completions/mean_length": 9, reward: 0.2 });
    const lines = screen(sink.text, columns);
    expect(lines.filter((line) => line.startsWith("training"))).toHaveLength(1);
    expect(lines.length).toBeLessThan(rows);
    for (const line of lines) expect(displayWidth(line)).toBeLessThan(columns);
  },
);

it("is drawn anew when the terminal changes its size, over what was wrapped", () => {
  const sink = fakeSink(100, 30);
  const { view, go } = watched(sink);
  go(60);
  sink.text = `${screen(sink.text, 100).join("\n")}`;
  sink.resize(50, 30);
  const lines = screen(sink.text, 50);
  expect(lines.filter((line) => line.startsWith("training"))).toHaveLength(1);
  expect(Math.max(...lines.map(displayWidth))).toBeLessThan(50);
  view.finish();
  const { length } = sink.text;
  sink.resize(80, 30);
  expect(sink.text).toHaveLength(length);
});

it("prints remarks above, and goes on below what the program says when it is stopped", () => {
  const sink = fakeSink(80, 24);
  const { io, view, go } = watched(sink);
  view.log("before the first step");
  go(10);
  view.log("warning: a checkpoint is passed over");
  expect(screen(sink.text, 80).slice(0, 3)).toEqual([
    "before the first step",
    "warning: a checkpoint is passed over",
    expect.stringMatching(/^training/),
  ]);
  sink.write("\ndsv3: stopping\n");
  io.interrupt();
  go(1);
  view.finish();
  const lines = screen(sink.text, 80);
  const at = lines.indexOf("dsv3: stopping");
  expect(lines[at + 1]).toMatch(/^training/);
  expect(lines.slice(0, at).filter((line) => line.startsWith("training"))).toHaveLength(1);
});

it("colours unless told not to", () => {
  for (const [env, coloured] of [
    [{}, true],
    [{ NO_COLOR: "1" }, false],
  ] as const) {
    const sink = fakeSink(80, 24);
    watched(sink, env).go(2);
    expect(sink.text.includes("\u001b[36m")).toBe(coloured);
  }
});

describe("where there is no room or nobody watches", () => {
  it("a small terminal has a bar", () => {
    const sink = fakeSink(80, 8);
    const { view, go } = watched(sink);
    go(20);
    view.log("remark");
    view.finish();
    expect(screen(sink.text, 80)).toEqual([
      "remark",
      expect.stringMatching(/^training █*░+ {3}2% {2}mainLoss 4\.\d+ {2}2\.0k tokens\/s {2}6s$/),
      "",
    ]);
  });

  it.each<[string, FakeSink, Record<string, string>]>([
    ["a dumb terminal", fakeSink(80, 24), { TERM: "dumb" }],
    ["a pipe", fakeSink(), {}],
  ])("%s has plain lines", (_, sink, env) => {
    const { view, go } = watched(sink, env);
    go(40);
    view.log("remark");
    view.finish();
    expect(sink.text).toMatch(/^(training .*\n){3}remark\ntraining {3}4% .*\n$/);
    expect(sink.text).not.toMatch(/[\r█⠀-⣿]/);
    expect(sink.text).not.toContain("\u001b");
  });
});

it("stands numbers that are none, missing or beyond all measure, and rewards in place of a loss", () => {
  const sink = fakeSink(60, 24);
  const { view, go } = watched(sink);
  view.finish();
  expect(sink.text).toBe("");
  for (const mainLoss of [
    Number.NaN,
    Number.POSITIVE_INFINITY,
    -1e308,
    1e308,
    undefined,
    "x",
    null,
  ]) {
    go(1, { mainLoss });
  }
  go(1, { mainLoss: undefined, reward: 0.25, loads: "no" });
  view.step({ step: 9 }, [[], [Number.NaN], [0, 0]]);
  view.finish();
  const lines = screen(sink.text, 60);
  expect(lines.join("\n")).not.toMatch(/NaN|Infinity|undefined/);
  expect(lines.some((line) => line.startsWith("reward 0.25"))).toBe(true);
});
