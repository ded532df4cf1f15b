/**
 * Serving under load: our engine, the same without batching, and llama.cpp on a model of as many
 * active parameters; `node serve.ts [--json]`. Each runs in a process of its own, one after another.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { countParameters } from "@dsv3/model";
import { formatRows, type Row } from "./part.ts";
import { contenderFolder } from "./serve-contenders.ts";
import { MODEL, type Results } from "./serve-engine.ts";
import { llamaOfSize, parameterCount, writeLlama } from "./serve-gguf.ts";
import { ANSWER_TOKENS, type LoadResult, PROMPT_TOKENS, STREAMS } from "./serve-load.ts";
import { formatTable } from "./table.ts";

/** What one engine did, by the number of streams. */
export interface Contender {
  readonly name: string;
  readonly loads: readonly LoadResult[];
}

export interface Served {
  readonly contenders: readonly Contender[];
  readonly rows: readonly Row[];
}

function node<T>(script: URL, ...args: string[]): T {
  const text = execFileSync(process.execPath, [fileURLToPath(script), ...args], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  return JSON.parse(text.trim().split("\n").at(-1)!) as T;
}

function own<K extends keyof Results>(part: K): Results[K] {
  process.stderr.write(`serve, ${part} …\n`);
  return node(new URL("serve-engine.ts", import.meta.url), part);
}

/** llama.cpp on a file of random weights that is written for it, and removed again. */
function llama(): Contender {
  const { active } = countParameters(MODEL);
  const sizes = llamaOfSize(active, {
    vocab: MODEL.vocabSize,
    hidden: MODEL.hiddenSize,
    layers: MODEL.numHiddenLayers,
    heads: MODEL.numAttentionHeads,
    context: 8192,
  });
  const folder = mkdtempSync(join(tmpdir(), "dsv3-bench-"));
  try {
    const file = join(folder, "random.gguf");
    writeLlama(file, sizes);
    process.stderr.write("serve, llama.cpp …\n");
    const args = [file, `${MODEL.vocabSize}`, ...STREAMS.map(String)];
    const { name, loads } = node<Contender>(new URL("llama.mjs", contenderFolder()), ...args);
    return { name: `${name}, ${millions(parameterCount(sizes))} dense`, loads };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const millions = (count: number) => `${(count / 1e6).toFixed(0)} M`;

/** Measures everything. */
function measure(): Served {
  const { total, active } = countParameters(MODEL);
  const size = `${millions(total)}, ${millions(active)} active`;
  const batched = own("batched");
  const contenders: Contender[] = [
    { name: `dsv3, ${size}`, loads: batched },
    { name: "… batchInvariant: false", loads: own("unordered") },
    { name: "… and no batching", loads: own("unbatched") },
    llama(),
  ];
  const rows = rowsOf(batched, own("contexts"), own("prefix"), own("overhead"));
  return { contenders, rows };
}

/** What is expected, of what was measured. */
export function rowsOf(
  batched: Results["batched"],
  contexts: Results["contexts"],
  prefix: Results["prefix"],
  overhead: Results["overhead"],
): Row[] {
  const of = (streams: number) => batched.find((load) => load.streams === streams)!;
  const [first, last] = [contexts[0]!, contexts.at(-1)!];
  return [
    {
      name: "16 streams beside one, while all decode",
      value: (16 * of(1).between) / of(16).between,
      unit: "×",
      expected: 4,
    },
    // A prompt alone fills the processor already.
    {
      name: "… with their prompts",
      value: of(16).tokensPerSecond / of(1).tokensPerSecond,
      unit: "×",
    },
    ...contexts.map(({ tokens, between }) => ({
      name: `between two tokens, ${tokens.toLocaleString("en")} tokens of context`,
      value: between,
      unit: "ms",
    })),
    {
      name: `… the last beside the first`,
      value: last.between / first.between,
      unit: "×",
      expected: 1.5,
      atMost: true,
    },
    { name: "first token of a prompt of 2,000", value: prefix.cold, unit: "ms" },
    { name: "… that is in the cache", value: prefix.hit, unit: "ms" },
    { name: "… times sooner", value: prefix.cold / prefix.hit, unit: "×", expected: 5 },
    {
      name: `through HTTP, ${overhead.streams} streams: tokens/s lost, median`,
      value: overhead.lost,
      unit: "%",
      expected: 5,
      atMost: true,
    },
    { name: "… a quarter of rounds lost less than", value: overhead.between[0], unit: "%" },
    { name: "… a quarter more than", value: overhead.between[1], unit: "%" },
  ];
}

export function formatContenders(contenders: readonly Contender[]): string {
  const head = ["", "streams", "tokens/s", "first token ms", "between ms", "95 % below ms"];
  const lines = contenders.flatMap(({ name, loads }) =>
    loads.map((l, i) => [
      i === 0 ? name : "",
      `${l.streams}`,
      l.tokensPerSecond.toFixed(1),
      l.firstToken.toFixed(0),
      l.between.toFixed(1),
      l.between95.toFixed(1),
    ]),
  );
  return formatTable([head, ...lines]);
}

if (import.meta.main) {
  const served = measure();
  if (process.argv.includes("--json")) console.log(JSON.stringify(served, null, 2));
  else {
    console.log(`prompts of ${PROMPT_TOKENS}, answers of ${ANSWER_TOKENS} tokens, f32, greedy\n`);
    console.log(`${formatContenders(served.contenders)}\n\n${formatRows(served.rows)}`);
  }
}
