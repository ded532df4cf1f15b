/**
 * How experts are kept equally busy (report, section 4.5.2): by biases that move with the load, by a
 * loss over each sequence, or not at all. Less unevenness, and what it costs in bits per byte.
 *
 *     node src/balancing.ts [--backend cuda] [--text PATH,PATH]
 */
import { PackedRows } from "@dsv3/data";
import { heldOutBits, mixture, prepareTexts, recipe } from "./corpus.ts";
import { type Experiment, final, main, SIZES, settled, sizes, trainVariant } from "./experiment.ts";

/** γ and α; that of the loss is DeepSeek-V2's for balance between experts (arXiv 2405.04434, section 3.1.2). */
const KINDS = [
  { name: "biases", biasSpeed: 0.01, balanceWeight: 0 },
  { name: "sequence-loss", biasSpeed: 0, balanceWeight: 0.003 },
  { name: "neither", biasSpeed: 0, balanceWeight: 0 },
] as const;

export const balancing: Experiment = {
  name: "balancing",
  async run(options) {
    const texts = await prepareTexts(options);
    const config = mixture(texts, options);
    const table: string[][] = [[...SIZES, "busiest expert / mean", "held-out bits per byte"]];
    for (const { name, ...weights } of KINDS) {
      const settings = { ...recipe(options), ...weights };
      const outcome = await trainVariant(
        ...([{ name, config, settings }, options] as const),
        new PackedRows(texts.corpus, options.seed),
        heldOutBits(texts, settings, options),
      );
      const load = settled(outcome, "expertLoad").toFixed(2);
      table.push([...sizes(outcome), load, final(outcome, "bitsPerByte").toFixed(4)]);
    }
    return table;
  },
};

if (import.meta.main) await main(balancing);
