import { expect, it } from "vitest";
import { readChangeset } from "./changesets.ts";

const known = ["@dsv3/mla", "@dsv3/moe"];
const file = (head: string, summary = "Faster.\n") => `---\n${head}\n---\n\n${summary}`;

it("reads the packages that a changeset names", () => {
  const text = file('"@dsv3/mla": minor\n"@dsv3/moe": patch');
  expect(readChangeset(text, known)).toEqual(["@dsv3/mla", "@dsv3/moe"]);
});

it.each([
  // What a Markdown formatter makes of a changeset.
  ['---\n\n## "@dsv3/mla": minor\n\nFaster.\n', /must begin with/],
  [file('"@dsv3/mla": minor', "\n"), /says nothing/],
  [file('"@dsv3/mla": big'), /has the line "@dsv3\/mla": big/],
  [file('"@dsv3/mal": minor'), /names @dsv3\/mal, which is no published package/],
  ["", /must begin with/],
])("refuses %j", (text, message) => {
  expect(() => readChangeset(text, known)).toThrow(message);
});
