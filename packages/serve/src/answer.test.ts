import fc from "fast-check";
import { expect, test } from "vitest";
import { type AnswerEvent, type AnswerOptions, AnswerParser } from "./answer.ts";

/** What an answer says, whole. */
interface Said {
  reasoning: string;
  content: string;
  calls: [name: string, args: string][];
}

function parse(pieces: readonly string[], options: AnswerOptions = { tools: true }): Said {
  const parser = new AnswerParser(options);
  const said: Said = { reasoning: "", content: "", calls: [] };
  const take = (events: AnswerEvent[]) => {
    for (const event of events) {
      if (event.type === "call") {
        expect(event.call).toBe(said.calls.length);
        said.calls.push([event.name, ""]);
      } else if (event.type === "arguments") said.calls[event.call]![1] += event.text;
      else said[event.type] += event.text;
    }
  };
  for (const piece of pieces) take(parser.push(piece));
  take(parser.end());
  expect(parser.calls).toBe(said.calls.length);
  return said;
}

const v3 = (name: string, args: string) =>
  `<｜tool▁call▁begin｜>function<｜tool▁sep｜>${name}\n\`\`\`json\n${args}\n\`\`\`<｜tool▁call▁end｜>`;
const v31 = (name: string, args: string) =>
  `<｜tool▁call▁begin｜>${name}<｜tool▁sep｜>${args}<｜tool▁call▁end｜>`;
const calls = (...list: string[]) => `<｜tool▁calls▁begin｜>${list.join("")}<｜tool▁calls▁end｜>`;
const said = (content: string, ...list: [string, string][]): Said => ({
  reasoning: "",
  content,
  calls: list,
});

const tricky = '{"a": "```\\n", "b": "<｜tool▁call", "c": {"d": [1, "é"]}}';
const good: [string, string, Said][] = [
  ["words", "just words", said("just words")],
  ["a call", calls(v3("f", '{"a": 1}')), said("", ["f", '{"a": 1}'])],
  ["words and a call", `Let me see. ${calls(v3("f", "{}"))}`, said("Let me see. ", ["f", "{}"])],
  [
    "several, as V3 parts them",
    `<｜tool▁calls▁begin｜>${v3("f", "{}")}\n${v3("get-x.y", tricky)}<｜tool▁calls▁end｜>`,
    said("", ["f", "{}"], ["get-x.y", tricky]),
  ],
  ["V3.1's", calls(v31("f", tricky), v31("g", "{}")), said("", ["f", tricky], ["g", "{}"])],
  ["without the list's end", `<｜tool▁calls▁begin｜>${v3("f", "[]")}`, said("", ["f", "[]"])],
  [
    "cut off within its arguments",
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "x',
    said("", ["f", '{"a": "x']),
  ],
  [
    "ended behind its fence",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```",
    said("", ["f", "{}"]),
  ],
  [
    "without line break before the fence's end",
    calls(v3("f", "{}").replace("}\n", "}")),
    said("", ["f", "{}"]),
  ],
  ["words behind", `${calls(v31("f", "{}"))} done`, said(" done", ["f", "{}"])],
  [
    "a thought",
    `<think>\nhm <｜tool▁calls▁begin｜></think>so${calls(v31("f", "{}"))}`,
    { reasoning: "\nhm <｜tool▁calls▁begin｜>", content: "so", calls: [["f", "{}"]] },
  ],
  ["a thought that does not end", "<think>hm", { reasoning: "hm", content: "", calls: [] }],
];

test.each(good)("%s: the same wherever the text is cut", (_, text, expected) => {
  expect(parse([text])).toEqual(expected);
  expect(parse([...text])).toEqual(expected);
  for (let i = 0; i <= text.length; i++) {
    expect(parse([text.slice(0, i), text.slice(i)])).toEqual(expected);
  }
});

const open = "<｜tool▁calls▁begin｜>";
test.each([
  ["an empty list", `${open}<｜tool▁calls▁end｜>`],
  ["words in the list", `${open}hello`],
  ["the list's sign alone", open],
  [
    "no name",
    `${open}<｜tool▁call▁begin｜>function<｜tool▁sep｜>\n\`\`\`json\n{}\n\`\`\`<｜tool▁call▁end｜>`,
  ],
  ["a name with spaces", `${open}${v31("a b", "{}")}`],
  ["no fence", `${open}<｜tool▁call▁begin｜>function<｜tool▁sep｜>f {}<｜tool▁call▁end｜>`],
  ["another fence", `${open}<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n\`\`\`xml\n<a/>`],
  ["an endless name", `${open}<｜tool▁call▁begin｜>${"f".repeat(300)}`],
  [
    "no sign between kind and name",
    `${open}<｜tool▁call▁begin｜>function f<｜tool▁call▁end｜> and so on`,
  ],
])("malformed, %s: words, and none lost", (_, text) => {
  expect(parse([text])).toEqual(said(text));
  expect(parse([...text])).toEqual(said(text));
});

test("calls are words where no tools are, and thoughts begin in the prompt where it began one", () => {
  const text = calls(v3("f", "{}"));
  expect(parse([text], { tools: false })).toEqual(said(text));
  const thinking = parse(["so</think>yes"], { tools: true, thinking: true });
  expect(thinking).toEqual({ reasoning: "so", content: "yes", calls: [] });
});

test("any text in any pieces says what it says whole", () => {
  const signs = [open, "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"];
  const more = [
    "<｜tool▁sep｜>",
    "function",
    "f",
    "\n```json\n",
    "\n```",
    "{}",
    "<think>",
    "</think>",
    " ",
    "<",
  ];
  const part = fc.constantFrom(...signs, ...more);
  fc.assert(
    fc.property(fc.array(part, { maxLength: 14 }), fc.array(fc.nat({ max: 60 })), (parts, cuts) => {
      const text = parts.join("");
      const places = [0, ...cuts.filter((c) => c < text.length).sort((a, b) => a - b), text.length];
      const pieces = places.slice(1).map((end, i) => text.slice(places[i], end));
      expect(parse(pieces)).toEqual(parse([text]));
      expect(parse([...text])).toEqual(parse([text]));
    }),
    { numRuns: 1000 },
  );
});
