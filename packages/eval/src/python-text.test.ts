import { expect, it } from "vitest";
import {
  capitalize,
  characters,
  countPieces,
  rstrip,
  strip,
  utf8Bytes,
  words,
} from "./python-text.ts";

// Expected values are those that CPython 3.11 prints for the same call.
it("counts characters as Python does: code points", () => {
  expect(["", "abc", "perché", "🐟🐟", "e\u0301"].map(characters)).toEqual([0, 3, 6, 2, 2]);
  expect(["perché", "🐟"].map(utf8Bytes)).toEqual([7, 4]);
});

it("strips what Python calls whitespace, and nothing else", () => {
  expect(rstrip("a \n\t\u00a0\u2003\u0085\u001c")).toBe("a");
  expect(rstrip("a\ufeff")).toBe("a\ufeff");
  expect(strip(" \u3000 a b ")).toBe("a b");
  expect(words(" a\u00a0b\n")).toEqual(["a", "b"]);
  expect(["", "a b", " a\n"].map(countPieces)).toEqual([1, 2, 3]);
});

it.each([
  ["then THE man", "Then the man"],
  ["élan He", "Élan he"],
  ["ßeta", "Sseta"],
  ["🐟 Fish", "🐟 fish"],
  ["", ""],
])("capitalises %j as %j", (text, expected) => {
  expect(capitalize(text)).toBe(expected);
});
