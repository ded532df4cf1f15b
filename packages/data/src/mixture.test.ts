import { describe, expect, it } from "vitest";
import { Corpus } from "./corpus.ts";
import { MixedRows } from "./mixture.ts";

/** Documents of one number each, so that a row says where it came from. */
const corpus = (id: number) =>
  new Corpus(new Int32Array(40).fill(id), Float64Array.from([0, 10, 25, 40]));
const sources = [
  { corpus: corpus(1), weight: 3 },
  { corpus: corpus(2), weight: 1 },
];

describe("MixedRows", () => {
  it("gives each corpus its share", () => {
    const { inputIds } = new MixedRows(sources, 5).next(4000, 1);
    const share = inputIds.filter((id) => id === 1).length / 4000;
    expect(share).toBeGreaterThan(0.72);
    expect(share).toBeLessThan(0.78);
  });

  it("goes on from a saved position", () => {
    const rows = new MixedRows(sources, 5);
    rows.next(37, 7);
    const resumed = new MixedRows(sources, 5);
    resumed.seek(JSON.parse(JSON.stringify(rows.position)));
    expect(resumed.next(20, 7)).toEqual(rows.next(20, 7));
    expect(new MixedRows(sources, 6).next(20, 7)).not.toEqual(
      new MixedRows(sources, 5).next(20, 7),
    );
  });

  it("refuses what is no mixture", () => {
    expect(() => new MixedRows([], 1)).toThrow("one corpus at least");
    for (const weight of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => new MixedRows([{ corpus: corpus(1), weight }], 1)).toThrow("weight 0");
    }
    const rows = new MixedRows(sources, 5);
    expect(() => rows.seek({ rows: 0, sources: [] })).toThrow("2 corpora, the position 0");
    expect(() => rows.seek({ rows: -1, sources: rows.position.sources })).toThrow("other data");
  });
});
