import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetMetadata } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DataProblem, readSamples } from "./read.ts";
import { type TableLimits, tableRows } from "./tables.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "dsv3-tables-"));
});
afterAll(() => rm(folder, { recursive: true }));

type Columns = Parameters<typeof parquetWriteBuffer>[0]["columnData"];

const table = (columnData: Columns, rowGroupSize = 2) =>
  Buffer.from(parquetWriteBuffer({ columnData, rowGroupSize }));
const six = ["p0", "p1", "p2", "p3", "p4", "p5"].map((text) => `${text} ${"x".repeat(50)}`);

/** The samples of a table, and what was passed over. */
async function survey(bytes: Uint8Array) {
  const file = join(folder, "t.parquet");
  await writeFile(file, bytes);
  const problems: DataProblem[] = [];
  const samples = [];
  for await (const sample of readSamples([file], { onProblem: (p) => problems.push(p) })) {
    samples.push(sample);
  }
  return { samples, problems: problems.map(({ line, message }) => `${line}: ${message}`) };
}

describe("parquet tables", () => {
  it("gives conversations, and reads no columns that records do not have", async () => {
    const messages = [
      { role: "user", content: "2 + 2?" },
      { role: "assistant", content: "4" },
    ];
    const columns: Columns = [
      { name: "embedding", data: [new Uint8Array(9), new Uint8Array(9)], type: "BYTE_ARRAY" },
      { name: "messages", data: [messages, messages], type: "JSON" },
    ];
    const { samples, problems } = await survey(table(columns));
    expect(problems).toEqual([]);
    expect(samples.map((sample) => "messages" in sample && sample.messages)).toEqual([
      messages,
      messages,
    ]);
  });

  it("says which columns there are when none is known", async () => {
    const { samples, problems } = await survey(table([{ name: "body", data: ["x"] }]));
    expect(samples).toEqual([]);
    expect(problems).toEqual([expect.stringMatching(/^1: expected text, content.*found body$/)]);
  });

  it("reports rows that are no UTF-8, and gives the others", async () => {
    const data = ["good", Buffer.from("perch\xe9", "latin1"), "also"].map((text) =>
      Uint8Array.from(Buffer.from(text)),
    );
    const { samples, problems } = await survey(
      table([{ name: "text", data, type: "BYTE_ARRAY" }], 3),
    );
    expect(samples.map((sample) => "text" in sample && sample.text)).toEqual(["good", "also"]);
    expect(problems).toEqual(["2: text: not valid UTF-8"]);
  });

  it("passes over a row group that is damaged, and reads the next", async () => {
    const good = table([{ name: "text", data: six, type: "STRING" }]);
    const { row_groups } = parquetMetadata(Uint8Array.from(good).buffer);
    const page = Number(row_groups[1]?.columns[0]?.meta_data?.data_page_offset);
    const { samples, problems } = await survey(good.fill(0xff, page, page + 8));
    expect(samples.map(({ line }) => line)).toEqual([1, 2, 5, 6]);
    expect(problems).toEqual([expect.stringContaining("3: rows 3 to 4 cannot be read")]);
  });

  it("ends what takes too long or too much memory, and reads the next", {
    timeout: 60_000,
  }, async () => {
    const good = table([{ name: "text", data: [...six.slice(0, 2), null, ...six.slice(3)] }]);
    const { row_groups } = parquetMetadata(Uint8Array.from(good).buffer);
    const page = Number(row_groups[1]?.columns[0]?.meta_data?.data_page_offset);
    // After the page's header, a packed run says which value is null; it becomes one of 2³¹ − 1 values.
    const run = good.indexOf(Buffer.from([0, 3, 2]), page) + 1;
    const file = join(folder, "hostile.parquet");
    await writeFile(file, good.fill(Buffer.from([0xfe, 0xff, 0xff, 0xff, 0x0f]), run, run + 5));
    const read = async (limits: TableLimits) => {
      const rows = [];
      for await (const group of tableRows(file, () => {}, ["text"], limits)) rows.push(...group);
      return rows;
    };
    const frugal = await read({ patienceMs: 60_000, heapMiB: 64 });
    expect(frugal.map(({ line }) => line)).toEqual([1, 2, 3, 5, 6]);
    expect(frugal[2]).toEqual({ line: 3, problem: expect.stringContaining("memory limit") });
    const hasty = await read({ patienceMs: 300, heapMiB: 4096 });
    expect(hasty.find(({ line }) => line === 3)).toEqual({
      line: 3,
      problem: "rows 3 to 4 cannot be read: not decoded after 0 s",
    });
  });

  it.each([
    ["the last byte is missing", (bytes: Buffer) => bytes.subarray(0, -1)],
    ["half is missing", (bytes: Buffer) => bytes.subarray(0, bytes.length / 2)],
    ["the start is missing", (bytes: Buffer) => bytes.subarray(100)],
    [
      "the footer has another length",
      (bytes: Buffer) => bytes.fill(0xff, bytes.length - 8, bytes.length - 4),
    ],
    ["there is only a name", () => Buffer.from("PAR1")],
  ])("is a problem when %s", async (_, damage) => {
    const { samples, problems } = await survey(damage(table([{ name: "text", data: six }])));
    expect(samples).toEqual([]);
    expect(problems.length).toBeGreaterThan(0);
    for (const problem of problems) expect(problem).toMatch(/cannot be read|no parquet table/);
  });
});
