/**
 * A longer context by YaRN (report, section 4.3): a model that has read short windows goes on with
 * windows four times as long. Bits per byte in short and in long windows, before and after.
 *
 *     node src/context.ts [--backend cuda] [--text PATH,PATH]
 */
import { PackedRows } from "@dsv3/data";
import {
  bitsPerByte,
  deepseekPhases,
  type Evaluate,
  type Phase,
  type RunSettings,
} from "@dsv3/train";
import { mixture, prepareTexts, recipe, type Texts } from "./corpus.ts";
import {
  type Experiment,
  evaluations,
  main,
  type Options,
  SIZES,
  sizes,
  trainVariant,
} from "./experiment.ts";

/** How much longer the context becomes, and the share of steps that this takes. */
const LONGER = 4;
const SHARE = 0.1;

/** The report's phases, then its extension. */
function phases(options: Options): RunSettings {
  const usual = recipe(options);
  const { steps, batch, length, accumulate } = usual;
  const [first, ...laterPhases] = deepseekPhases({
    ...{ tokens: steps * batch * length, batch, length, accumulate },
    learningRate: options.quick ? 3e-3 : 1e-3,
    extend: [{ length: LONGER * length, steps: Math.max(1, Math.round(SHARE * steps)) }],
  }) as [Phase, ...Phase[]];
  return { ...usual, ...first, laterPhases };
}

/** Both lengths, at every step at which a phase ends. */
function measured(
  { heldOut, tokenizer }: Texts,
  length: number,
  { quick }: Options,
): Evaluate["measure"] {
  return async ({ params }, config) => {
    const bits = async (of: number, batch: number) => {
      const size = { batches: quick ? 2 : 40, batch, length: of };
      const rows = new PackedRows(heldOut, 0);
      return (await bitsPerByte(params, config, rows, tokenizer.byteLengths, size)).bitsPerByte;
    };
    return { short: await bits(length, 4 * LONGER), long: await bits(LONGER * length, 4) };
  };
}

export const context: Experiment = {
  name: "context",
  async run(options) {
    const texts = await prepareTexts(options);
    const settings = phases(options);
    const config = { ...mixture(texts, options), maxPositionEmbeddings: settings.length };
    const before = (settings.laterPhases ?? [])
      .slice(0, -1)
      .reduce((sum, { steps }) => sum + steps, settings.steps);
    const measure = measured(texts, settings.length, options);
    const outcome = await trainVariant(
      { name: "extended", config, settings },
      options,
      new PackedRows(texts.corpus, options.seed),
      { every: before, measure },
    );
    const changed = (what: string) => {
      const [first, ...rest] = evaluations(outcome, what).map(([, value]) => value.toFixed(4));
      return `${first} → ${rest.at(-1) ?? "?"}`;
    };
    const { length } = settings;
    return [
      [...SIZES, `bits per byte in ${length}`, `in ${LONGER * length}`],
      [...sizes(outcome), changed("short"), changed("long")],
    ];
  },
};

if (import.meta.main) await main(context);
