/** Rows of parquet tables, one row group in memory at a time. */
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

/** Decompressed bytes of the columns of one row group, and of one page. */
const MAX_GROUP_BYTES = 2 ** 31;
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

/**
 * Reads the rows of a table. A row group that is damaged is one problem, and the next
 * is read.
 * @param onRead told of the stored bytes that were read
 * @param fields the columns that are read, as far as the table has them; null: all
 * @throws Error for a file that is no parquet table, or cut short
 */
export async function* tableRows(
  path: string,
  onRead: (bytes: number) => void,
  fields: readonly string[] | null,
): AsyncGenerator<TableRow[]> {
  const file = await asyncBufferFromFile(path);
  if (file.byteLength === 0) return;
  const metadata = await parquetMetadataAsync(file);
  const names = parquetSchema(metadata).children.map(({ element }) => element.name);
  const known = (fields ?? names).filter((field) => names.includes(field));
  let row = 0;
  for (const { num_rows, columns: chunks } of metadata.row_groups) {
    const [rowStart, rowEnd] = [row, row + Number(num_rows)];
    const used = chunks.flatMap(({ meta_data }) =>
      meta_data && known.includes(meta_data.path_in_schema[0] ?? "") ? meta_data : [],
    );
    const total = (field: "total_uncompressed_size" | "total_compressed_size") =>
      used.reduce((sum, chunk) => sum + Number(chunk[field]), 0);
    let rows: Record<string, unknown>[];
    try {
      const size = total("total_uncompressed_size");
      if (size > MAX_GROUP_BYTES) {
        throw new Error(`the row group has ${size} bytes; write the table with smaller groups`);
      }
      // Without a column that is known, the names of all tell what the table has.
      const columns = known.length > 0 ? known : undefined;
      const range = { file, metadata, compressors: bounded, parsers, rowStart, rowEnd };
      rows = await parquetReadObjects(columns ? { ...range, columns: [...columns] } : range);
      if (rows.length !== rowEnd - rowStart) throw new Error(`there are ${rows.length} rows`);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const problem = `rows ${rowStart + 1} to ${rowEnd} cannot be read: ${reason}`;
      yield [{ line: rowStart + 1, problem }];
      row = rowEnd;
      continue;
    }
    onRead(total("total_compressed_size"));
    yield rows.map((value) => checked(++row, value));
  }
}

function checked(line: number, value: Record<string, unknown>): TableRow {
  const field = Object.keys(value).find((name) => hasInvalid(value[name]));
  return field === undefined ? { line, value } : { line, problem: `${field}: not valid UTF-8` };
}

function hasInvalid(value: unknown): boolean {
  if (value === INVALID) return true;
  return typeof value === "object" && value !== null && Object.values(value).some(hasInvalid);
}
