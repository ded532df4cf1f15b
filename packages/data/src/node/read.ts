/** Samples from files: plain text, lines of JSON, JSON lists and parquet tables, streamed. */
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { readRecord, type Sample } from "../record.ts";
import { readBytes } from "./bytes.ts";
import { findFiles, formatOf } from "./files.ts";
import { splitLines } from "./lines.ts";

/** Something in a file that cannot be learned from. */
export interface DataProblem {
  readonly file: string;
  /** Line of a text file, record of a JSON list or table; from 1. Absent when the file itself is meant. */
  readonly line?: number;
  readonly message: string;
}

export interface ReadOptions {
  /** Told of each problem, which is then passed over. Without it, the first problem is thrown. */
  readonly onProblem?: (problem: DataProblem) => void;
  /** Longest line, or whole text file, in bytes; 64 MiB unless told. */
  readonly maxBytes?: number;
}

/** A sample, and where it stands. */
export type FileSample = Sample & { readonly file: string; readonly line: number };

/** The first problem of a reading that was not told to pass over problems. */
export class DataError extends Error {
  readonly problem: DataProblem;

  constructor(problem: DataProblem) {
    const { file, line, message } = problem;
    super(`${file}${line === undefined ? "" : `:${line}`}: ${message}`);
    this.name = "DataError";
    this.problem = problem;
  }
}

/**
 * Reads every sample of the files, folders and glob patterns, in a fixed order. A text file is one
 * document; a line of a jsonl file, an entry of a json list and a row of a table are records as
 * `readRecord` takes them. Empty lines are no records; an empty file is a problem.
 * @throws DataError for the first problem, unless `onProblem` is given; Error for a pattern without files
 */
export async function* readSamples(
  patterns: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<FileSample> {
  const maxBytes = options.maxBytes ?? 2 ** 26;
  const report = (problem: DataProblem) => {
    if (!options.onProblem) throw new DataError(problem);
    options.onProblem(problem);
  };
  for (const file of await findFiles(patterns)) {
    let empty = true;
    try {
      for await (const { line, value, problem } of RECORDS[formatOf(file) ?? "txt"](
        file,
        maxBytes,
      )) {
        empty = false;
        try {
          if (problem !== undefined) throw new TypeError(problem);
          yield { ...readRecord(value), file, line };
        } catch (error) {
          if (!(error instanceof TypeError)) throw error;
          report({ file, line, message: error.message });
        }
      }
    } catch (error) {
      // Damage ends a file, but not a reading that passes over problems.
      if (error instanceof DataError || !(error instanceof Error)) throw error;
      empty = false;
      report({ file, message: error.message.replace(`${file}: `, "") });
    }
    if (empty) report({ file, message: "the file is empty" });
  }
}

interface Found {
  readonly line: number;
  readonly value?: unknown;
  readonly problem?: string;
}

const RECORDS: Record<
  NonNullable<ReturnType<typeof formatOf>>,
  (file: string, maxBytes: number) => AsyncGenerator<Found>
> = { txt: wholeText, jsonl: jsonLines, json: jsonList, parquet: tableRows };

async function* wholeText(file: string, maxBytes: number): AsyncGenerator<Found> {
  const bytes = await wholeFile(file, maxBytes);
  if (bytes.length === 0) return;
  for await (const { problem } of splitLines(oneChunk(bytes), maxBytes)) {
    if (problem === undefined) break; // the first line knows the encoding
    yield { line: 1, problem };
    return;
  }
  try {
    yield { line: 1, value: { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) } };
  } catch {
    yield { line: lineOfInvalidByte(bytes), problem: "not valid UTF-8" };
  }
}

async function* jsonLines(file: string, maxBytes: number): AsyncGenerator<Found> {
  for await (const { number, text, problem } of splitLines(readBytes(file), maxBytes)) {
    if (text === undefined) yield { line: number, problem: problem ?? "" };
    else if (text.trim() !== "") yield { line: number, ...parsed(text) };
  }
}

async function* jsonList(file: string, maxBytes: number): AsyncGenerator<Found> {
  const bytes = await wholeFile(file, maxBytes);
  if (bytes.length === 0) return;
  const { value, problem } = parsed(new TextDecoder().decode(bytes));
  if (problem !== undefined) yield { line: 1, problem };
  else if (!Array.isArray(value)) yield { line: 1, value };
  else for (const [i, entry] of value.entries()) yield { line: i + 1, value: entry };
}

async function* tableRows(file: string): AsyncGenerator<Found> {
  const buffer = await asyncBufferFromFile(file);
  if (buffer.byteLength === 0) return;
  const metadata = await parquetMetadataAsync(buffer);
  let line = 0;
  for (const group of metadata.row_groups) {
    const rowEnd = line + Number(group.num_rows);
    const range = { file: buffer, metadata, compressors, rowStart: line, rowEnd };
    for (const value of await parquetReadObjects(range)) yield { line: ++line, value };
  }
}

function parsed(text: string): { value?: unknown; problem?: string } {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: `not valid JSON: ${(error as Error).message}` };
  }
}

async function wholeFile(file: string, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of readBytes(file)) {
    length += chunk.length;
    if (length > maxBytes) {
      throw new Error(`larger than the limit of ${maxBytes} bytes for one document; split it`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** The first line that does not decode. */
function lineOfInvalidByte(bytes: Uint8Array): number {
  let line = 1;
  for (let from = 0; from < bytes.length; line++) {
    const end = bytes.indexOf(10, from);
    const part = bytes.subarray(from, end < 0 ? bytes.length : end);
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(part);
    } catch {
      return line;
    }
    from = end < 0 ? bytes.length : end + 1;
  }
  return line;
}
