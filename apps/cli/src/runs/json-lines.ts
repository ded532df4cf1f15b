import { type FileHandle, open, stat } from "node:fs/promises";

const CHUNK = 1 << 20;
/** A line longer than this is not one of a run's, and is passed over. */
const LONGEST_LINE = 1 << 24;

/**
 * A file of JSON lines that another process may be writing: each `read` goes on where the last one
 * ended. A line that is half written waits for its end; one that is no JSON is passed over.
 */
export class JsonLines {
  readonly #file: string;
  #identity = "";
  #offset = 0;
  #rest: Buffer[] = [];
  #restBytes = 0;

  constructor(file: string) {
    this.#file = file;
  }

  /**
   * Calls `onLine` with every new line. A file that is not there has none.
   * @param onReplaced called first when the file is another than before, or was cut
   * @returns whether there was anything new
   */
  async read(onLine: (value: unknown) => void, onReplaced: () => void): Promise<boolean> {
    // A pipe or a device would be waited for without end.
    const there = await stat(this.#file).catch(() => undefined);
    if (!there?.isFile()) return this.#identity !== "" && this.#restart("", onReplaced);
    const handle = await open(this.#file).catch(() => undefined);
    if (handle === undefined) return false;
    try {
      const { ino, birthtimeMs, size } = await handle.stat();
      const identity = `${ino} ${birthtimeMs}`;
      const other = this.#identity !== "" && (identity !== this.#identity || size < this.#offset);
      if (other) this.#restart(identity, onReplaced);
      this.#identity = identity;
      return (await this.#readOn(handle, onLine)) || other;
    } finally {
      await handle.close();
    }
  }

  #restart(identity: string, onReplaced: () => void): true {
    this.#identity = identity;
    this.#offset = 0;
    this.#keep(undefined);
    onReplaced();
    return true;
  }

  async #readOn(handle: FileHandle, onLine: (value: unknown) => void): Promise<boolean> {
    const start = this.#offset;
    const chunk = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      const { bytesRead } = await handle.read(chunk, 0, CHUNK, this.#offset);
      if (bytesRead === 0) return this.#offset > start;
      this.#offset += bytesRead;
      let from = 0;
      for (;;) {
        const end = chunk.subarray(0, bytesRead).indexOf(10, from);
        if (end < 0) break;
        this.#keep(chunk.subarray(from, end));
        const text = Buffer.concat(this.#rest).toString();
        const whole = this.#restBytes <= LONGEST_LINE;
        this.#keep(undefined);
        from = end + 1;
        if (whole) parsed(text, onLine);
      }
      this.#keep(Buffer.from(chunk.subarray(from, bytesRead)));
    }
  }

  /** Adds to the line that has no end yet, or forgets it. */
  #keep(bytes: Buffer | undefined): void {
    if (bytes === undefined) {
      this.#rest = [];
      this.#restBytes = 0;
      return;
    }
    this.#restBytes += bytes.length;
    if (this.#restBytes <= LONGEST_LINE) this.#rest.push(bytes);
    else this.#rest = [];
  }
}

function parsed(text: string, onLine: (value: unknown) => void): void {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return;
  }
  onLine(value);
}
