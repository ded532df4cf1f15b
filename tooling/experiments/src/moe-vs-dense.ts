/**
 * A mixture of experts against a dense model of as many active parameters, on the same tokens in the
 * same order: what the experts are for.
 *
 *     node src/moe-vs-dense.ts [--backend cuda] [--text PATH,PATH]
 */

import { PackedRows } from "@dsv3/data";
import { flopsPerToken, type ModelConfig } from "@dsv3/model";
import { dense, heldOutBits, mixture, prepareTexts, recipe } from "./corpus.ts";
import { type Experiment, final, main, SIZES, sizes, trainVariant } from "./experiment.ts";

export const moeVsDense: Experiment = {
  name: "moe-vs-dense",
  async run(options) {
    const texts = await prepareTexts(options);
    const settings = recipe(options);
    const moe = mixture(texts, options);
    const table: string[][] = [[...SIZES, "MFLOP per token", "held-out bits per byte"]];
    for (const [name, config] of [
      ["moe", moe],
      ["dense", dense(moe)],
    ] as [string, ModelConfig][]) {
      const outcome = await trainVariant(
        ...([{ name, config, settings }, options] as const),
        new PackedRows(texts.corpus, options.seed),
        heldOutBits(texts, settings, options),
      );
      const flops = flopsPerToken(config, { context: settings.length / 2, training: true });
      const bits = final(outcome, "bitsPerByte").toFixed(4);
      table.push([...sizes(outcome), (flops / 1e6).toFixed(1), bits]);
    }
    return table;
  },
};

if (import.meta.main) await main(moeVsDense);
