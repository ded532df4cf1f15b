/** Files to be read: what they are called, what is in them by their names, and where they are. */

/** A file to be read. */
export interface InputFile {
  /** What messages call it. */
  readonly name: string;
  /** In bytes, as it is stored. */
  readonly size: number;
  /** Another one when the content is another. */
  readonly version: string;
  /** Where it is on this disk, fetched now if it was not there. */
  local(options?: FetchOptions): Promise<string>;
}

export interface FetchOptions {
  /** Told of the bytes that are there of a file that has to be fetched. */
  readonly onDownload?: (progress: {
    readonly file: string;
    readonly bytes: number;
    readonly size: number;
  }) => void;
  readonly signal?: AbortSignal;
}

/** Formats that are read, each alone or compressed. */
const FORMAT = /\.(txt|md|jsonl|ndjson|json)(\.(gz|xz|zst))?$|\.parquet$/i;

/** The format of a file by its name: "txt", "jsonl", "json" or "parquet". */
export function formatOf(path: string): "txt" | "jsonl" | "json" | "parquet" | undefined {
  const match = FORMAT.exec(path);
  if (!match) return undefined;
  const name = match[1]?.toLowerCase();
  if (name === undefined) return "parquet";
  if (name === "md") return "txt";
  return name === "ndjson" ? "jsonl" : (name as "txt" | "jsonl" | "json");
}

/** How a file is compressed, by its name. */
export function compressionOf(path: string): "gz" | "xz" | "zst" | undefined {
  return /\.(gz|xz|zst)$/i.exec(path)?.[1]?.toLowerCase() as ReturnType<typeof compressionOf>;
}

/** For messages. */
export const KNOWN = "known are .txt, .md, .jsonl, .json (each also .gz, .xz or .zst) and .parquet";
