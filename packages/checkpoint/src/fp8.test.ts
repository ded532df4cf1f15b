import { roundTo, toF32 } from "@dsv3/tensor/dtype";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  dequantizeFp8Blocks,
  type MatrixShape,
  multiplyBlocks,
  quantizeFp8Blocks,
  scaleShape,
} from "./fp8.ts";

const values = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }))
  .chain(([rows, columns]) =>
    fc.record({
      shape: fc.constant<MatrixShape>([rows, columns]),
      block: fc.tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 5 })),
      data: fc
        .array(fc.float({ noNaN: true, noDefaultInfinity: true }), {
          minLength: rows * columns,
          maxLength: rows * columns,
        })
        .map((list) => Float32Array.from(list)),
    }),
  );

describe("quantizeFp8Blocks", () => {
  it("follows its definition, element by element", () => {
    fc.assert(
      fc.property(values, ({ shape, block, data }) => {
        const blocks = quantizeFp8Blocks(data, shape, block);
        const codes = toF32(blocks.data, "f8e4m3");
        const [, blocksAcross] = scaleShape(shape, block);
        const back = dequantizeFp8Blocks(blocks.data, blocks.scaleInv, shape, block);
        for (let row = 0; row < shape[0]; row++) {
          for (let column = 0; column < shape[1]; column++) {
            const [r, c] = [Math.floor(row / block[0]), Math.floor(column / block[1])];
            let amax = 0;
            for (let y = r * block[0]; y < Math.min((r + 1) * block[0], shape[0]); y++) {
              for (let x = c * block[1]; x < Math.min((c + 1) * block[1], shape[1]); x++) {
                amax = Math.max(amax, Math.abs(data[y * shape[1] + x] as number));
              }
            }
            const scale = Math.fround(amax / 448) || 1;
            const i = row * shape[1] + column;
            expect(blocks.scaleInv[r * blocksAcross + c]).toBe(scale);
            const code = roundTo(Math.fround((data[i] as number) / scale), "f8e4m3");
            expect(codes[i]).toBe(code);
            expect(back[i]).toBe(Math.fround(code * scale));
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  it("errs by at most 1/16 of a value, or half the smallest step of its block", () => {
    const data = Float32Array.from(
      { length: 130 * 260 },
      (_, i) => Math.sin(i * i) * 2 ** (i % 20),
    );
    const { data: codes, scaleInv } = quantizeFp8Blocks(data, [130, 260]);
    expect(scaleInv.length).toBe(2 * 3);
    const back = dequantizeFp8Blocks(codes, scaleInv, [130, 260]);
    const worst = Math.max(...scaleInv) * 2 ** -10;
    for (let i = 0; i < data.length; i++) {
      const x = data[i] as number;
      expect(Math.abs((back[i] as number) - x)).toBeLessThanOrEqual(
        Math.max(Math.abs(x) / 16, worst) * (1 + 1e-6),
      );
    }
  });

  it("is safe with zeros and with magnitudes whose scale underflows", () => {
    for (const x of [0, -0, 1e-45]) {
      const { data, scaleInv } = quantizeFp8Blocks(Float32Array.of(x, x), [1, 2]);
      expect([...scaleInv]).toEqual([1]);
      expect([...dequantizeFp8Blocks(data, scaleInv, [1, 2])].map(Math.abs)).toEqual([0, 0]);
    }
    const { data, scaleInv } = quantizeFp8Blocks(new Float32Array(0), [0, 5]);
    expect([data.length, scaleInv.length]).toEqual([0, 0]);
  });

  it("keeps the largest f32", () => {
    const max = (2 - 2 ** -23) * 2 ** 127;
    const { data, scaleInv } = quantizeFp8Blocks(Float32Array.of(max), [1, 1]);
    expect(toF32(data, "f8e4m3")[0]).toBe(448);
    expect(scaleInv[0]).toBe(Math.fround(max / 448));
  });

  it.each([NaN, Infinity, -Infinity])("refuses %s and says where", (bad) => {
    const data = new Float32Array(6);
    data[4] = bad;
    expect(() => quantizeFp8Blocks(data, [2, 3])).toThrow(
      new RangeError(`cannot quantise ${bad} at row 1, column 1`),
    );
  });

  it("refuses sizes that do not fit", () => {
    expect(() => quantizeFp8Blocks(new Float32Array(5), [2, 3])).toThrow(/5 values.*2 by 3/);
    expect(() => dequantizeFp8Blocks(new Uint8Array(6), new Float32Array(2), [2, 3])).toThrow(
      /2 multipliers for 1 by 1 blocks/,
    );
  });
});

describe("multiplyBlocks", () => {
  it("scales rows from the middle of a block on", () => {
    // Rows 1, 2 and 3 of a matrix in blocks of 2 by 2.
    const rows = new Float32Array(9).fill(1);
    multiplyBlocks(rows, Float32Array.of(10, 20, 30, 40), [3, 3], [2, 2], 1);
    expect([...rows]).toEqual([10, 10, 20, 30, 30, 40, 30, 30, 40]);
  });
});
