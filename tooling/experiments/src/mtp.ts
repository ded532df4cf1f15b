/**
 * Multi-token prediction (report, section 4.5.1): the same model and tokens with a module that predicts
 * the token after the next, and without. Measured is the main model alone, which is what is served.
 *
 *     node src/mtp.ts [--backend cuda] [--text PATH,PATH]
 */
import { PackedRows } from "@dsv3/data";
import { heldOutBits, mixture, prepareTexts, recipe } from "./corpus.ts";
import { type Experiment, final, main, SIZES, settled, sizes, trainVariant } from "./experiment.ts";

export const mtp: Experiment = {
  name: "mtp",
  async run(options) {
    const texts = await prepareTexts(options);
    const config = mixture(texts, options);
    const columns = ["loss of the token after the next", "held-out bits per byte"];
    const table: string[][] = [[...SIZES, ...columns]];
    for (const [name, mtpWeight] of [
      ["with", 0.3],
      ["without", 0],
    ] as const) {
      const settings = { ...recipe(options), mtpWeight };
      const numNextnPredictLayers = mtpWeight > 0 ? 1 : 0;
      const outcome = await trainVariant(
        { name, config: { ...config, numNextnPredictLayers }, settings },
        options,
        new PackedRows(texts.corpus, options.seed),
        heldOutBits(texts, settings, options),
      );
      const ahead = mtpWeight > 0 ? settled(outcome, "mtpLoss").toFixed(4) : "";
      table.push([...sizes(outcome), ahead, final(outcome, "bitsPerByte").toFixed(4)]);
    }
    return table;
  },
};

if (import.meta.main) await main(mtp);
