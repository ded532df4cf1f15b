/** Samples from files: plain text, lines of JSON, JSON lists and parquet tables, streamed. */
import { RECORD_FIELDS, readRecord, type Sample } from "../record.ts";
import { readBytes } from "./bytes.ts";
import { findFiles } from "./files.ts";
import { compressionOf, type FetchOptions, formatOf, type InputFile } from "./input-file.ts";
import { splitJson } from "./json-values.ts";
import { splitLines } from "./lines.ts";
import { tableRows } from "./tables.ts";
import { textPieces } from "./text-pieces.ts";

/** Something in a file that cannot be learned from. */
export interface DataProblem {
  readonly file: string;
  /** Line of a text file, record of a JSON list or table; from 1. Absent when the file itself is meant. */
  readonly line?: number;
  readonly message: string;
}

export interface ReadOptions extends FetchOptions {
  /** Told of each problem, which is then passed over. Without it, the first problem is thrown. */
  readonly onProblem?: (problem: DataProblem) => void;
  /**
   * Longest line, record of a JSON list, or document of a text file, in bytes; 64 MiB unless told. A
   * longer text file gives several documents.
   */
  readonly maxBytes?: number;
  /** Told of the stored bytes of the files that were read. */
  readonly onRead?: (bytes: number) => void;
}

/** A sample, and where it stands. */
export type FileSample = Sample & { readonly file: string; readonly line: number };

/** A record as a file has it, and where it stands. */
export interface FileRecord {
  readonly value: unknown;
  readonly file: string;
  readonly line: number;
}

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

/** What to do with a problem, by the options. */
export function reporter({ onProblem }: ReadOptions): (problem: DataProblem) => void {
  return (problem) => {
    if (!onProblem) throw new DataError(problem);
    onProblem(problem);
  };
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
  for (const file of await findFiles(patterns)) yield* readFile(file, options);
}

/**
 * Reads every record of such files as it stands there, with all its fields: of datasets that have
 * columns of their own. Large integers of tables are bigints.
 * @throws as `readSamples`
 */
export async function* readRecords(
  patterns: readonly string[],
  options: ReadOptions = {},
): AsyncGenerator<FileRecord> {
  for (const file of await findFiles(patterns)) {
    yield* readWith((value) => ({ value }), null, file, options);
  }
}

/** The samples of one file; see `readSamples`. */
export function readFile(input: InputFile, options: ReadOptions = {}): AsyncGenerator<FileSample> {
  return readWith(readRecord, RECORD_FIELDS, input, options);
}

/** What `read` makes of the records of a file. @param fields the columns of tables that it looks at; null: all */
async function* readWith<T extends object>(
  read: (value: unknown) => T,
  fields: readonly string[] | null,
  input: InputFile,
  options: ReadOptions,
): AsyncGenerator<T & { readonly file: string; readonly line: number }> {
  const { maxBytes = 2 ** 26, onRead = () => {}, signal } = options;
  const { name: file } = input;
  const report = reporter(options);
  // A file that cannot be fetched is no problem of the data, to be passed over.
  const path = await input.local(options);
  const bytes = () => readBytes(path, compressionOf(file), onRead);
  let empty = true;
  try {
    const format = formatOf(file) ?? "txt";
    const groups =
      format === "parquet"
        ? tableRows(path, onRead, fields)
        : { txt: wholeText, jsonl: jsonLines, json: jsonValues }[format](bytes(), maxBytes);
    for await (const group of groups) {
      signal?.throwIfAborted();
      for (const found of group) {
        empty = false;
        try {
          if ("problem" in found) throw new TypeError(found.problem);
          yield { ...read(found.value), file, line: found.line };
        } catch (error) {
          if (!(error instanceof TypeError)) throw error;
          report({ file, line: found.line, message: error.message });
        }
      }
    }
  } catch (error) {
    // Damage ends a file, but not a reading that passes over problems.
    const isDamage = error instanceof Error && !(error instanceof DataError);
    if (!isDamage || signal?.aborted) throw error;
    empty = false;
    report({ file, message: error.message });
  }
  if (empty) report({ file, message: "the file is empty" });
}

type Found =
  | { readonly line: number; readonly value: unknown }
  | { readonly line: number; readonly problem: string };

async function* wholeText(
  bytes: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Found[]> {
  for await (const piece of textPieces(bytes, maxBytes)) {
    yield ["text" in piece ? { line: piece.line, value: { text: piece.text } } : piece];
  }
}

async function* jsonLines(
  bytes: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Found[]> {
  for await (const lines of splitLines(bytes, maxBytes)) {
    yield lines.flatMap(({ number: line, text, problem = "" }) => {
      if (text === undefined) return { line, problem };
      return text.trim() === "" ? [] : { line, ...parsed(text) };
    });
  }
}

async function* jsonValues(
  bytes: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Found[]> {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  let line = 0;
  for await (const found of splitJson(bytes, maxBytes)) {
    line++;
    if ("problem" in found) yield [{ line, problem: found.problem }];
    else {
      let text: string | undefined;
      try {
        text = utf8.decode(found.bytes);
      } catch {
        yield [{ line, problem: "not valid UTF-8" }];
      }
      if (text !== undefined) yield [{ line, ...parsed(text) }];
    }
  }
}

function parsed(text: string): { value: unknown } | { problem: string } {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: `not valid JSON: ${(error as Error).message}` };
  }
}
