import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { rawFile } from "../test/memory.ts";
import { CheckpointError } from "./error.ts";
import { formatHeader, parseHeader } from "./header.ts";
import { STORED_DTYPES, type StoredDType, tensorBytes } from "./stored-dtype.ts";

const parse = (bytes: Uint8Array) => parseHeader(bytes, bytes.length, "m.safetensors");
const one = (fields: string) => `{"a":{${fields}}}`;
const A = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}';

describe("parseHeader accepts", () => {
  it.each([
    ["one tensor", `{${A}}`, 4],
    ["spaces after the header", `{${A}}   \n\t`, 4],
    ["no tensors", "{}", 0],
    ["metadata only", '{"__metadata__":{"a":"b"}}', 0],
    ["a scalar", one('"dtype":"F32","shape":[],"data_offsets":[0,4]'), 4],
    ["an empty tensor", one('"dtype":"F32","shape":[0,5],"data_offsets":[0,0]'), 0],
    ["an empty name", '{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1],
    ["unknown fields", one('"z":[{"x":null}],"dtype":"F32","shape":[1],"data_offsets":[0,4]'), 4],
    ["escapes in names", `{"\\u0061\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1],
    ["unaligned data", `{"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]},${A}} `, 5],
    ["packed 4-bit elements", one('"dtype":"F4","shape":[4],"data_offsets":[0,2]'), 2],
    ["packed 6-bit elements", one('"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]'), 3],
    [
      "empty tensors between others",
      `{"c":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},${A},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`,
      4,
    ],
  ])("%s", (_, header, dataBytes) => {
    const { tensors } = parse(rawFile(header, dataBytes));
    for (const info of tensors.values())
      expect(tensorBytes(info.dtype, info.shape)).toBe(info.bytes);
  });

  it("gives offsets within the file, names as they are, and metadata", () => {
    const header = `{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},${A}}`;
    const { tensors, metadata } = parse(rawFile(header, 8));
    expect([...tensors.keys()]).toEqual(["a", "b"]);
    expect(tensors.get("b")).toEqual({
      name: "b",
      dtype: "bf16",
      shape: [2],
      file: "m.safetensors",
      offset: 8 + header.length + 4,
      bytes: 4,
    });
    expect(metadata).toEqual(new Map([["format", "pt"]]));
  });

  it("keeps names that objects would not", () => {
    const header = '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    expect([...parse(rawFile(header, 1)).tensors.keys()]).toEqual(["__proto__"]);
  });
});

describe("parseHeader refuses", () => {
  it.each<[string, string, number, RegExp]>([
    ["a hole at the start", one('"dtype":"F32","shape":[1],"data_offsets":[4,8]'), 8, /hole of 4/],
    [
      "a hole between tensors",
      `{${A},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}}`,
      9,
      /tensor "b": its data leaves a hole of 1 bytes/,
    ],
    [
      "an overlap",
      `{${A},"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}}`,
      7,
      /tensor "b": its data overlaps 1 bytes/,
    ],
    [
      "an empty tensor inside another",
      `{${A},"b":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}`,
      4,
      /tensor "b": its data overlaps 2/,
    ],
    ["bytes after the last tensor", `{${A}}`, 5, /1 bytes follow the last tensor/],
    ["bytes after no tensor", "{}", 1, /1 bytes follow/],
    ["offsets past the end", `{${A}}`, 3, /tensor "a": its data end 1 bytes past the end/],
    [
      "begin after end",
      one('"dtype":"F32","shape":[1],"data_offsets":[4,0]'),
      4,
      /after their end/,
    ],
    ["size mismatch", one('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), 4, /takes 8/],
    [
      "shape overflow",
      one('"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]'),
      4,
      /overflows/,
    ],
    [
      "an overflow that wraps to the right size in 64 bits",
      one('"dtype":"U8","shape":[4294967296,4294967296,1],"data_offsets":[0,0]'),
      0,
      /overflows/,
    ],
    ["half a byte", one('"dtype":"F4","shape":[3],"data_offsets":[0,1]'), 1, /no whole byte/],
    [
      "an integer past 2^53",
      one('"dtype":"U8","shape":[9007199254740993,0],"data_offsets":[0,0]'),
      0,
      /2\^53/,
    ],
    [
      "65 dimensions",
      one(`"dtype":"U8","shape":[${Array(65).fill(1)}],"data_offsets":[0,1]`),
      1,
      /more than 64/,
    ],
    [
      "an unknown dtype",
      one('"dtype":"F31","shape":[1],"data_offsets":[0,4]'),
      4,
      /unknown dtype "F31"/,
    ],
    [
      "a lower-case dtype",
      one('"dtype":"f32","shape":[1],"data_offsets":[0,4]'),
      4,
      /unknown dtype/,
    ],
    ["a missing field", one('"dtype":"F32","data_offsets":[0,4]'), 4, /needs dtype, shape and/],
    [
      "a field twice",
      one('"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]'),
      4,
      /dtype twice/,
    ],
    ["one offset", one('"dtype":"F32","shape":[1],"data_offsets":[0]'), 4, /a begin and an end/],
    ["three offsets", one('"dtype":"F32","shape":[1],"data_offsets":[0,4,4]'), 4, /more than 2/],
    [
      "a negative offset",
      one('"dtype":"F32","shape":[1],"data_offsets":[-4,0]'),
      4,
      /tensor "a": bad header: expected an integer/,
    ],
    [
      "a fractional size",
      one('"dtype":"F32","shape":[1.0],"data_offsets":[0,4]'),
      4,
      /expected an integer/,
    ],
    ["an array for a tensor", '{"a":["F32",[1],[0,4]]}', 4, /expected "{"/],
    ["null for a tensor", '{"a":null}', 0, /expected "{"/],
    ["a name twice", `{${A},${A}}`, 4, /tensor "a": is in the header twice/],
    [
      "a name twice, once escaped",
      `{${A},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`,
      4,
      /twice/,
    ],
    ["metadata twice", `{"__metadata__":{},"__metadata__":{},${A}}`, 4, /__metadata__ twice/],
    ["a metadata key twice", `{"__metadata__":{"k":"1","k":"2"},${A}}`, 4, /"k" twice/],
    ["a metadata number", `{"__metadata__":{"k":1},${A}}`, 4, /strings only/],
    ["a metadata object", `{"__metadata__":{"k":{}},${A}}`, 4, /strings only/],
    ["null metadata", `{"__metadata__":null,${A}}`, 4, /expected "{"/],
    ["an array header", "[]", 0, /must begin with "{"/],
    ["no header", "", 0, /must begin with "{"/],
    ["a leading space", ` {${A}}`, 4, /must begin with "{"/],
    ["a byte order mark", `\ufeff{${A}}`, 4, /must begin with "{"/],
    ["text after the object", `{${A}}{}`, 4, /expected the end/],
    ["NUL padding", `{${A}}\0\0`, 4, /expected the end/],
    ["a control character in a name", '{"a\nb":{}}', 0, /control characters/],
    ["a trailing comma", `{${A},}`, 4, /expected a string/],
    [
      "a lone surrogate",
      '{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      0,
      /escapes/,
    ],
  ])("%s", (_, header, dataBytes, message) => {
    const file = rawFile(header, dataBytes);
    expect(() => parse(file)).toThrow(CheckpointError);
    expect(() => parse(file)).toThrow(message);
    expect(() => parse(file)).toThrow(/^m\.safetensors: /);
  });

  it("invalid UTF-8", () => {
    const header = new TextEncoder().encode(`{"x${A.slice(2)}}`);
    header[2] = 0xff;
    expect(() => parse(rawFile(header, 4))).toThrow(/not valid UTF-8/);
  });

  it.each([0, 1, 7])("a file of %i bytes", (length) => {
    expect(() => parse(new Uint8Array(length))).toThrow(/too few/);
  });

  it("a header over 100 MB, or longer than the file, before reading it", () => {
    const start = (length: bigint) => new Uint8Array(BigUint64Array.of(length).buffer);
    expect(() => parseHeader(start(100_000_001n), 1e12, "f")).toThrow(
      /claims a header of 100000001/,
    );
    expect(() => parseHeader(start(2n ** 64n - 1n), 1e12, "f")).toThrow(/18446744073709551615/);
    expect(() => parseHeader(start(100n), 107, "f")).toThrow(
      /end at byte 108, but the file has 107/,
    );
    expect(() => parseHeader(start(100n), 108, "f")).toThrow(/8 bytes given/);
  });

  it("a Git LFS pointer, by its name", () => {
    const pointer = new TextEncoder().encode(
      "version https://git-lfs.github.com/spec/v1\noid sha256:0",
    );
    expect(() => parse(pointer)).toThrow(/git lfs pull/);
  });

  it("with fields that say where", () => {
    const file = rawFile(one('"dtype":"F32","shape":[2],"data_offsets":[0,4]'), 4);
    expect(() => parse(file)).toThrow(
      expect.objectContaining({ name: "CheckpointError", file: "m.safetensors", tensor: "a" }),
    );
  });

  it("endless names with a short message", () => {
    const file = rawFile(`{"${"x".repeat(1e6)}":{}}`);
    expect(() => parse(file)).toThrow(/^.{0,400}$/);
  });
});

const dtypes = Object.keys(STORED_DTYPES) as StoredDType[];
/** Shapes whose last dimension is a multiple of 8, so that 4- and 6-bit elements fill bytes. */
const shape = fc
  .tuple(fc.array(fc.nat(3), { maxLength: 3 }), fc.constantFrom(8, 16))
  .map(([sizes, last]) => [...sizes, last]);
const tensorList = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "binary", maxLength: 12 }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...dtypes),
    shape,
  }),
  { selector: ({ name }) => name, maxLength: 5 },
);
const metadata = fc.dictionary(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), {
  maxKeys: 3,
});

function format(tensors: { name: string; dtype: StoredDType; shape: number[] }[], meta = {}) {
  const sized = tensors.map((t) => ({ ...t, bytes: tensorBytes(t.dtype, t.shape) as number }));
  const start = formatHeader(sized, meta, "f");
  const size = start.length + sized.reduce((sum, { bytes }) => sum + bytes, 0);
  return { start, size };
}

describe("formatHeader", () => {
  it("is read back, aligned to 8", () => {
    fc.assert(
      fc.property(tensorList, metadata, (tensors, meta) => {
        const { start, size } = format(tensors, meta);
        expect(start.length % 8).toBe(0);
        const header = parseHeader(start, size, "f");
        const byName = (list: { name: string }[]) =>
          list.sort((a, b) => (a.name < b.name ? -1 : 1));
        expect(
          byName(
            Array.from(header.tensors.values(), ({ name, dtype, shape }) => ({
              name,
              dtype,
              shape: [...shape],
            })),
          ),
        ).toEqual(byName(tensors.map((t) => ({ ...t }))));
        expect(header.metadata).toEqual(new Map(Object.entries(meta)));
      }),
      { numRuns: 300 },
    );
  });

  it("refuses a header that no reader may take", () => {
    const name = "x".repeat(1e6);
    const many = Array.from({ length: 101 }, (_, i) => ({
      name: `${i}${name}`,
      dtype: "u8" as const,
      shape: [0],
      bytes: 0,
    }));
    expect(() => formatHeader(many, {}, "f")).toThrow(/lower maxShardBytes/);
  });
});

describe("a mutated file", () => {
  const fragments = fc.constantFrom(
    ...["{", "}", "[", "]", ",", ":", '"', "\\", "0", "-1", "1e9", "9007199254740993", "null", " "],
    ...['"__metadata__":', '"dtype":', '"shape":[', "\u0000", "F4", "U8", "\\ud800", "[[[[[[["],
  );
  type Edit = { at: number; drop: number; insert: string | number | undefined };
  const edit: fc.Arbitrary<Edit> = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    drop: fc.nat(6),
    insert: fc.oneof(fragments, fc.nat(255), fc.constant(undefined)),
  });

  it("is read or refused with CheckpointError, never anything else", () => {
    let read = 0;
    fc.assert(
      fc.property(
        tensorList,
        fc.array(edit, { minLength: 1, maxLength: 3 }),
        fc.constantFrom("keep the length field", "mend the length field"),
        fc.oneof(fc.constant(0), fc.integer({ min: -64, max: 64 })),
        (tensors, edits, lengthField, resize) => {
          const { start, size } = format(tensors, { format: "pt" });
          let bytes: Uint8Array = Buffer.concat([start, new Uint8Array(size - start.length)]);
          let headerLength = start.length - 8;
          for (const { at, drop, insert } of edits) {
            const begin = Math.floor(at * (8 + headerLength));
            const middle =
              typeof insert === "number" ? Uint8Array.of(insert) : Buffer.from(insert ?? "");
            bytes = Buffer.concat([bytes.subarray(0, begin), middle, bytes.subarray(begin + drop)]);
            headerLength += middle.length - drop;
          }
          if (lengthField === "mend the length field" && bytes.length >= 8) {
            Buffer.from(bytes.buffer, bytes.byteOffset).writeBigUInt64LE(
              BigInt(Math.max(0, headerLength)),
              0,
            );
          }
          bytes = Buffer.concat([bytes, new Uint8Array(Math.max(0, resize))]);
          bytes = bytes.subarray(0, bytes.length + Math.min(0, resize));
          try {
            let at: number | undefined;
            for (const info of parse(bytes).tensors.values()) {
              expect(info.bytes).toBe(tensorBytes(info.dtype, info.shape));
              expect(info.offset).toBe(at ?? info.offset);
              at = info.offset + info.bytes;
            }
            expect(at ?? bytes.length).toBe(bytes.length);
            read++;
          } catch (error) {
            if (!(error instanceof CheckpointError)) throw error;
            expect(error.message.length).toBeLessThan(1000);
          }
        },
      ),
      { numRuns: 4000 },
    );
    expect(read).toBeGreaterThan(20); // else the mutations never reach past the first check
  });
});
