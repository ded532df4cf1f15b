/**
 * From files to batches: `node bench/throughput.ts PATH… [--tokenizer DIR] [--json] [--rounds 3]`.
 * Rates are megabytes of text for each second of one core's work, of all threads and of what else the
 * process does, so that a busy machine disturbs them little; the best round counts. Without a tokenizer, one of
 * 32,000 tokens is learnt from the text.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { parseArgs } from "node:util";
import { trainBpe } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { encodeCorpus, PackedRows, type TokenDocuments } from "../src/index.ts";
import { Deduplicator, openShards, prepareShards, readSamples } from "../src/node.ts";

const { values, positionals: paths } = parseArgs({
  allowPositionals: true,
  options: {
    tokenizer: { type: "string" },
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "3" },
  },
});
if (paths.length === 0) throw new Error("name files with texts");

const texts: string[] = [];
for await (const sample of readSamples(paths)) if ("text" in sample) texts.push(sample.text);
const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
const tokenizer = values.tokenizer
  ? await loadTokenizer(values.tokenizer)
  : trainBpe(texts, { vocabSize: 32_000 });

/** Every token of an epoch once, in batches. */
function batches(documents: TokenDocuments): void {
  const rows = new PackedRows(documents, 1);
  const [batch, length] = [8, 4096];
  for (let done = 0; done < documents.size; done += batch * length) rows.next(batch, length);
}

const folder = await mkdtemp(join(tmpdir(), "dsv3-bench-"));
const prepared = async (name: string, extra: object) => {
  await rm(join(folder, name), { recursive: true, force: true });
  const sources = [{ paths, weight: 1 }];
  await prepareShards(join(folder, name), { sources, tokenizer, fimRate: 0.1, ...extra });
};

const stages: Record<string, () => unknown> = {
  "read the files": async () => {
    for await (const _ of readSamples(paths));
  },
  "tokenizer alone": () => {
    for (const text of texts) tokenizer.encode(text);
  },
  "files to batches, in memory": async () => {
    const read: string[] = [];
    for await (const sample of readSamples(paths)) if ("text" in sample) read.push(sample.text);
    batches(encodeCorpus(read, tokenizer, { fimRate: 0.1 }));
  },
  "files to batches, over shards": async () => {
    await prepared("plain", { threads: 1 });
    const shards = await openShards(join(folder, "plain"));
    for (const { corpus } of shards.sources) batches(corpus);
    shards.close();
  },
  "files to shards, all cores": () => prepared("cores", {}),
  "the same without duplicates": () => prepared("dedupe", { duplicates: { near: 0.8 } }),
  "duplicates alone": () => {
    const seen = new Deduplicator();
    for (const text of texts) seen.add(text);
  },
  "batches from shards": async () => {
    const shards = await openShards(join(folder, "plain"));
    for (const { corpus } of shards.sources) batches(corpus);
    shards.close();
  },
};

const rates: Record<string, { perCoreSecond: number; perSecond: number }> = {};
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [name, stage] of Object.entries(stages)) {
    const [cpu, start] = [process.cpuUsage(), performance.now()];
    await stage();
    const { user, system } = process.cpuUsage(cpu);
    const seconds = (performance.now() - start) / 1000;
    const before = rates[name] ?? { perCoreSecond: 0, perSecond: 0 };
    rates[name] = {
      perCoreSecond: Math.max(before.perCoreSecond, bytes / (user + system)),
      perSecond: Math.max(before.perSecond, bytes / 1e6 / seconds),
    };
  }
}
await rm(folder, { recursive: true });

const ceiling = rates["tokenizer alone"]?.perCoreSecond ?? Number.NaN;
if (values.json) {
  const cores = availableParallelism();
  process.stdout.write(
    `${JSON.stringify({ bytes, documents: texts.length, cores, rates }, null, 2)}\n`,
  );
} else {
  const mb = (bytes / 1e6).toFixed(1);
  process.stdout.write(`${mb} MB of text in ${texts.length} documents; MB/s\n`);
  process.stdout.write(`${"".padEnd(32)}a core   ceiling     wall\n`);
  for (const [name, { perCoreSecond, perSecond }] of Object.entries(rates)) {
    const share = `${((100 * perCoreSecond) / ceiling).toFixed(0)}%`;
    const cells = [
      perCoreSecond.toFixed(1).padStart(8),
      share.padStart(10),
      perSecond.toFixed(1).padStart(9),
    ];
    process.stdout.write(`${name.padEnd(30)}${cells.join("")}\n`);
  }
}
