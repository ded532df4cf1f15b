/** Where a problem lies, as far as it is known. */
interface Place {
  /** Name of the file within its folder, or path of the folder. */
  file?: string | undefined;
  tensor?: string | undefined;
  cause?: unknown;
}

/** Every failure of this package: the message says what is wrong, where, and how to mend it. */
export class CheckpointError extends Error {
  readonly file: string | undefined;
  readonly tensor: string | undefined;

  constructor(problem: string, { file, tensor, cause }: Place = {}) {
    const place = [file, tensor === undefined ? undefined : `tensor ${quote(tensor)}`];
    super([...place.filter((part) => part !== undefined), problem].join(": "), { cause });
    this.name = "CheckpointError";
    this.file = file;
    this.tensor = tensor;
  }
}

/** A name from a file, made safe to print: control characters escaped, endless names cut. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name);
}

/** The first few of many names. */
export function quoteAll(names: readonly string[]): string {
  const shown = names.slice(0, 5).map(quote).join(", ");
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}
