/**
 * The thread that decodes one parquet table for `tableRows`, which ends it when it takes too long. A few
 * changed bytes can make a decoder loop for hours or ask for all memory.
 */
import { parentPort, workerData } from "node:worker_threads";
import {
  asyncBufferFromFile,
  type Compressors,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";

/** A row, from 1, or what is wrong there. */
export type TableRow =
  | { readonly line: number; readonly value: Record<string, unknown> }
  | { readonly line: number; readonly problem: string };

/** Rows `start` to `end`, of which the columns that are read have so many bytes. */
export interface RowGroup {
  readonly start: number;
  readonly end: number;
  readonly stored: number;
  readonly decoded: number;
}

export interface TableJob {
  readonly path: string;
  /** The columns that are read, as far as the table has them; null: all. */
  readonly fields: readonly string[] | null;
}

/** What is asked: "groups", or the rows of one. */
export type TableQuestion = "groups" | RowGroup;
export type TableAnswer =
  | { readonly groups: RowGroup[] }
  | { readonly rows: TableRow[] }
  | { readonly error: string };

const MAX_PAGE_BYTES = 2 ** 30;

/** Sizes come from the file, which may lie. */
const bounded: Compressors = Object.fromEntries(
  Object.entries(compressors).map(([codec, decompress]) => [
    codec,
    (input: Uint8Array, size: number) => {
      if (size > MAX_PAGE_BYTES) throw new Error(`a page of ${size} bytes is more than is read`);
      return decompress?.(input, size);
    },
  ]),
) as Compressors;

const utf8 = new TextDecoder("utf-8", { fatal: true });
/** A text that is no UTF-8 becomes this, so that its row is a problem and not the group. */
const INVALID = Symbol("not valid UTF-8");
const parsers = {
  stringFromBytes(bytes: Uint8Array | undefined) {
    try {
      return bytes && utf8.decode(bytes);
    } catch {
      return INVALID;
    }
  },
};

async function open({ path, fields }: TableJob) {
  const file = await asyncBufferFromFile(path);
  const metadata = await parquetMetadataAsync(file);
  const names = parquetSchema(metadata).children.map(({ element }) => element.name);
  const known = (fields ?? names).filter((field) => names.includes(field));
  let row = 0;
  const groups: RowGroup[] = metadata.row_groups.map(({ num_rows, columns }) => {
    const used = columns.flatMap(({ meta_data }) =>
      meta_data && known.includes(meta_data.path_in_schema[0] ?? "") ? meta_data : [],
    );
    const total = (field: "total_uncompressed_size" | "total_compressed_size") =>
      used.reduce((sum, chunk) => sum + Number(chunk[field]), 0);
    const start = row;
    row += Number(num_rows);
    if (!(row >= start)) throw new Error(`a row group has ${num_rows} rows`);
    const [stored, decoded] = [total("total_compressed_size"), total("total_uncompressed_size")];
    return { start, end: row, stored, decoded };
  });
  const rowsOf = async ({ start, end }: RowGroup): Promise<TableRow[]> => {
    const range = { file, metadata, compressors: bounded, parsers, rowStart: start, rowEnd: end };
    // Without a column that is known, the names of all tell what the table has.
    const columns = known.length > 0 ? { columns: [...known] } : {};
    const rows = await parquetReadObjects({ ...range, ...columns });
    if (rows.length !== end - start) throw new Error(`there are ${rows.length} rows`);
    return rows.map((value, i) => checked(start + i + 1, value));
  };
  return { groups, rowsOf };
}

function checked(line: number, value: Record<string, unknown>): TableRow {
  const field = Object.keys(value).find((name) => hasInvalid(value[name]));
  return field === undefined ? { line, value } : { line, problem: `${field}: not valid UTF-8` };
}

function hasInvalid(value: unknown): boolean {
  if (value === INVALID) return true;
  return typeof value === "object" && value !== null && Object.values(value).some(hasInvalid);
}

const table = open(workerData as TableJob);
table.catch(() => {}); // told to whoever asks

parentPort?.on("message", async (question: TableQuestion) => {
  let answer: TableAnswer;
  try {
    const { groups, rowsOf } = await table;
    answer = question === "groups" ? { groups } : { rows: await rowsOf(question) };
  } catch (error) {
    answer = { error: error instanceof Error ? error.message : String(error) };
  }
  parentPort?.postMessage(answer);
});
