import { createHash } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { evaluate } from "./evaluate.ts";
import { folderSource, hubSource } from "./source.ts";
import { taskOf } from "./testing/documents.ts";
import { FakeModel } from "./testing/fake-model.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-eval-"));
});
afterAll(() => rm(dir, { recursive: true }));

const record = { goal: "g", sol1: "a", sol2: "b", label: 0 };

async function piqa(name: string, files: Record<string, string>) {
  const folder = join(dir, name);
  await mkdir(join(folder, "piqa"), { recursive: true });
  for (const [file, text] of Object.entries(files))
    await writeFile(join(folder, "piqa", file), text);
  return evaluate({
    tasks: [taskOf("piqa")],
    model: new FakeModel(),
    source: folderSource(folder),
  });
}

it("reads <task>/<split> in the formats of @dsv3/data, in one file or several, and no other split", async () => {
  const line = `${JSON.stringify(record)}\n`;
  for (const [name, files, count] of [
    ["lines", { "validation.jsonl": line + line, "train.jsonl": "{}" }, 2],
    ["list", { "validation.json": JSON.stringify([record, record, record]) }, 3],
    [
      "shards",
      {
        "validation-00000-of-00002.jsonl": line,
        "validation-00001-of-00002.jsonl": line,
        "validations.jsonl": "{}",
      },
      2,
    ],
  ] as const) {
    expect((await piqa(name, files))["n-samples"].piqa).toEqual({
      original: count,
      effective: count,
    });
  }
});

it("names file and line of what is wrong", async () => {
  const good = JSON.stringify(record);
  const bad = JSON.stringify({ ...record, label: 7 });
  await expect(piqa("bad", { "validation.jsonl": `${good}\n\n${bad}\n` })).rejects.toThrow(
    /^piqa: .*piqa\/validation\.jsonl:3: label: expected a whole number from 0 to 1, found 7$/,
  );
  await expect(piqa("cut", { "validation.jsonl": `${good}\n{"goal": "g", "so` })).rejects.toThrow(
    /validation\.jsonl:2: not valid JSON/,
  );
  await expect(piqa("empty", { "validation.jsonl": "" })).rejects.toThrow("the file is empty");
});

it("says what it looked for", async () => {
  await expect(piqa("other", { "test.jsonl": "{}" })).rejects.toThrow(
    /piqa has no file validation\.jsonl \(or \.json, \.parquet\): records of baber\/piqa with goal, sol1/,
  );
  const source = folderSource(join(dir, "nowhere"));
  const run = evaluate({ tasks: [taskOf("piqa")], model: new FakeModel(), source });
  await expect(run).rejects.toThrow("there is no folder");
});

it("fetches a dataset of the Hub by configuration and split", async () => {
  const bytes = Buffer.from(`${JSON.stringify(record)}\n`.repeat(2));
  const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const [sha, path] = ["1".repeat(40), "data/validation-00000-of-00001.jsonl"];
  const answers: Record<string, unknown> = {
    "/api/datasets/baber/piqa/revision/main": { id: "baber/piqa", sha, lastModified: "2026-01-01" },
    [`/api/datasets/baber/piqa/tree/${sha}`]: [{ type: "file", path, size: bytes.length, oid }],
  };
  const server = createServer((request, response) => {
    const asked = decodeURIComponent(request.url?.split("?")[0] as string);
    if (asked === `/datasets/baber/piqa/resolve/${sha}/${path}`) response.end(bytes);
    else if (answers[asked] === undefined) response.writeHead(404).end();
    else response.setHeader("content-type", "application/json").end(JSON.stringify(answers[asked]));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  vi.stubEnv("HF_ENDPOINT", `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  vi.stubEnv("HF_HUB_CACHE", join(dir, "hub"));
  try {
    const model = new FakeModel();
    const source = hubSource();
    const results = await evaluate({ tasks: [taskOf("piqa")], model, source });
    expect(results["n-samples"].piqa).toEqual({ original: 2, effective: 2 });
    const missing = evaluate({ tasks: [taskOf("mmlu_anatomy")], model, source });
    await expect(missing).rejects.toThrow("hf:cais/mmlu/anatomy:test: there is no such dataset");
  } finally {
    vi.unstubAllEnvs();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});
