/** Where checkpoints are read from: a folder on disk (Node), or anything that can act as one. */
export interface Folder {
  /** For error messages. */
  readonly path: string;
  /** Names of the files in it. */
  list(): Promise<string[]>;
  /** Bytes of a file, undefined when there is none. */
  size(file: string): Promise<number | undefined>;
  /** Bytes [begin, end) of a file, in fresh memory. Rejects when there are fewer. */
  read(file: string, begin: number, end: number): Promise<Uint8Array>;
}

/** A folder in the making, that nobody sees until it is whole. */
export interface Staging {
  readonly path: string;
  /** Writes one file, and waits until it is on the disk. */
  write(file: string, chunks: AsyncIterable<Uint8Array>): Promise<void>;
  /** Makes the folder appear under its name, all at once. */
  commit(): Promise<void>;
  /** Removes what was written. Never rejects. */
  discard(): Promise<void>;
}

/** True for a name that stays inside its folder on every operating system. */
export function isPlainFileName(name: string): boolean {
  return name !== "" && name !== "." && name !== ".." && !/[/\\:\0]/.test(name);
}
