/** Rows too long for registers, whole and in pieces, with values for which differences are not defined. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile, logSumExp, scope, setBackend, softmax, type Tensor, tensor } from "@dsv3/tensor";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { emulatedBackend, emulatorAvailable } from "../testing/emulator.ts";

const [ROWS, WIDTH] = [40, 34_000];
/** Rows of small numbers, but: all −∞; −∞ in front; one +∞; one NaN; growing throughout. */
const SPECIAL: readonly ((column: number) => number | undefined)[] = [
  () => -Infinity,
  (c) => (c < 20_000 ? -Infinity : undefined),
  (c) => (c === 33_999 ? Infinity : undefined),
  (c) => (c === 7 ? Number.NaN : undefined),
  (c) => c / 100 - 500,
];
const rows = Array.from({ length: ROWS }, (_, r) =>
  Float32Array.from({ length: WIDTH }, (_, c) => SPECIAL[r]?.(c) ?? Math.sin(r * 7 + c * 1.3) * 4),
);

/** log Σ exp and softmax in float64, by their definitions. */
const expected = rows.map((row) => {
  const top = row.reduce((a, b) => (Number.isNaN(a) || a > b ? a : b), -Infinity);
  const exps = Float64Array.from(row, (x) => Math.exp(x - top));
  const total = exps.reduce((a, b) => a + b, 0);
  return { log: Math.log(total) + top, softmax: exps.map((e) => e / total) };
});

describe.skipIf(!emulatorAvailable())("softmax of long rows on the CPU", () => {
  let cache: string;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "dsv3-online-"));
  });
  afterAll(() => rmSync(cache, { recursive: true, force: true }));

  test.each([
    ["rows whole, partly in shared memory", 4],
    ["rows in pieces", 132],
  ])("%s", { timeout: 120_000 }, (_, multiprocessors) => {
    const backend = emulatedBackend(cache, { multiprocessors });
    setBackend(backend);
    scope(() => {
      const x = tensor(
        Float32Array.from({ length: ROWS * WIDTH }, (_, i) => {
          return (rows[Math.floor(i / WIDTH)] as Float32Array)[i % WIDTH] as number;
        }),
        { shape: [ROWS, WIDTH] },
      );
      const results = compile((x: Tensor) => [logSumExp(x), softmax(x)])(x);
      const [log = [], soft = []] = results.map((t): ArrayLike<number> => t.dataSync());
      expected.forEach((want, r) => {
        if (Number.isNaN(want.log)) {
          expect(log[r]).toBeNaN();
          expect(soft[r * WIDTH]).toBeNaN();
          return;
        }
        expect(Math.abs((log[r] as number) - want.log)).toBeLessThan(1e-5 * Math.abs(want.log));
        const error = want.softmax.reduce(
          (sum, p, c) => sum + Math.abs(p - (soft[r * WIDTH + c] as number)),
          0,
        );
        expect(error).toBeLessThan(3e-6);
      });
    });
    backend.dispose();
  });
});
