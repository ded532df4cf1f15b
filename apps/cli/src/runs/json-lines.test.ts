import { appendFile, mkdtemp, rename, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { JsonLines } from "./json-lines.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "dsv3-lines-"));
});
afterAll(() => rm(dir, { recursive: true }));

/** A follower, and what it has told since it was asked last. */
function following(file: string) {
  const lines = new JsonLines(file);
  return async () => {
    const told: unknown[] = [];
    const changed = await lines.read(
      (value) => told.push(value),
      () => told.push("replaced"),
    );
    expect(changed).toBe(told.length > 0);
    return told;
  };
}

it("follows a file that is written, cut, replaced and removed", async () => {
  const file = join(dir, "a.jsonl");
  const told = following(file);
  expect(await told()).toEqual([]);
  await writeFile(file, '{"step":1}\n{"step":2}\n');
  expect(await told()).toEqual([{ step: 1 }, { step: 2 }]);
  expect(await told()).toEqual([]);
  await appendFile(file, '{"step":3}\nno json\n{"step":4}\n');
  expect(await told()).toEqual([{ step: 3 }, { step: 4 }]);
  await writeFile(`${file}.new`, '{"step":1}\n'.repeat(9));
  await rename(`${file}.new`, file);
  expect(await told()).toEqual(["replaced", ...Array(9).fill({ step: 1 })]);
  await truncate(file, 11);
  expect(await told()).toEqual(["replaced", { step: 1 }]);
  await rm(file);
  expect(await told()).toEqual(["replaced"]);
  expect(await told()).toEqual([]);
});

it("waits for the end of a line, in the middle of a character even", async () => {
  const file = join(dir, "half.jsonl");
  const lines = new JsonLines(file);
  const told: unknown[] = [];
  for (const byte of Buffer.from('{"name":"Größe 深"}\n')) {
    await appendFile(file, Buffer.of(byte));
    await lines.read((value) => told.push(value), expect.unreachable);
  }
  expect(told).toEqual([{ name: "Größe 深" }]);
});

it("reads long files in pieces, and passes over a line without end", async () => {
  const file = join(dir, "long.jsonl");
  const row = (i: number) => `{"step":${i},"pad":"${"x".repeat(90)}"}\n`;
  const rows = Array.from({ length: 30_000 }, (_, i) => row(i)).join("");
  await writeFile(file, `${rows}${"y".repeat(17 << 20)}\n${row(30_000)}`);
  const told = await following(file)();
  expect(told).toHaveLength(30_001);
  expect(told.at(-1)).toMatchObject({ step: 30_000 });
});

it("does not wait for what is no file", async () => {
  expect(await following(dir)()).toEqual([]);
  expect(await following("/dev/zero")()).toEqual([]);
});
