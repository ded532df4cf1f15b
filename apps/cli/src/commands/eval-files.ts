import { type FileHandle, open, rename, rm } from "node:fs/promises";

/** A file that is written under another name, and has its own once it is whole. */
export class WholeFile {
  readonly #path: string;
  readonly #file: FileHandle;
  /** Writes wait for each other. */
  #written: Promise<unknown> = Promise.resolve();
  #open = true;

  private constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  /** @throws Error where there can be no such file: better before the work than after it */
  static async open(path: string): Promise<WholeFile> {
    const file = await open(`${path}.partial`, "w").catch((cause) => {
      throw new Error(`cannot write ${path}`, { cause });
    });
    return new WholeFile(path, file);
  }

  /** Takes the text; whether it could be written, `finish` tells. */
  write(text: string): void {
    this.#written = this.#written.then(() => this.#file.writeFile(text));
    // Told by finish.
    this.#written.catch(() => {});
  }

  /** Waits until the disk has everything. */
  async finish(): Promise<void> {
    try {
      await this.#written;
      await this.#file.sync();
    } catch (cause) {
      throw new Error(`cannot write ${this.#path}`, { cause });
    }
    await this.#file.close();
    this.#open = false;
    await rename(`${this.#path}.partial`, this.#path);
  }

  /** What was not finished goes. */
  async discard(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    await this.#written.catch(() => {});
    await this.#file.close();
    await rm(`${this.#path}.partial`, { force: true });
  }
}
