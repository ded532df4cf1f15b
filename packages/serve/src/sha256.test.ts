import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { sha256 } from "./sha256.ts";

const node = (bytes: Uint8Array) => new Uint8Array(createHash("sha256").update(bytes).digest());

test("digests are those of OpenSSL, around every border of chunks", () => {
  for (let length = 0; length < 200; length++) {
    const bytes = Uint8Array.from({ length }, (_, i) => i * 7 + length);
    expect(sha256(bytes)).toEqual(node(bytes));
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => {
      expect(sha256(bytes)).toEqual(node(bytes));
    }),
  );
});
