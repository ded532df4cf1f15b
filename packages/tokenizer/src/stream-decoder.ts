/**
 * Text out of tokens as they come, never half a character: bytes wait until their character is
 * complete. The strings that `push` and `end` return, joined, are what decoding all the ids at once
 * gives.
 */
export class StreamDecoder {
  readonly #bytesOf: (ids: ArrayLike<number>) => Uint8Array;
  #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(bytesOf: (ids: ArrayLike<number>) => Uint8Array) {
    this.#bytesOf = bytesOf;
  }

  /** The characters that these ids complete; often none. @throws for an unknown id, taking nothing */
  push(ids: number | ArrayLike<number>): string {
    const bytes = this.#bytesOf(typeof ids === "number" ? [ids] : ids);
    return this.#utf8.decode(bytes, { stream: true });
  }

  /** Ends the text: a character that never was completed becomes U+FFFD. Then it starts anew. */
  end(): string {
    return this.#utf8.decode();
  }
}
