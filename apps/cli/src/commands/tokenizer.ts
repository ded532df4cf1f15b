import type { Tokenizer } from "@dsv3/tokenizer";
import { loadTokenizer } from "@dsv3/tokenizer/node";
import { type Command, defineCommand } from "../command.ts";
import { UsageError } from "../errors.ts";
import type { Flag } from "../flags.ts";
import type { Io } from "../io.ts";
import { printJson } from "../ui/json.ts";
import { styler } from "../ui/style.ts";
import { renderTable } from "../ui/table.ts";

const tokenizerFlag = {
  type: "string",
  value: "DIR",
  help: "a Hugging Face folder with tokenizer.json",
  required: true,
} as const satisfies Flag;

const jsonFlag = { type: "boolean", help: "print one JSON document" } as const satisfies Flag;

export const encode: Command = defineCommand({
  summary:
    "Prints the token ids of a text: in a terminal the tokens in colours, elsewhere the ids alone.",
  flags: {
    tokenizer: tokenizerFlag,
    special: { type: "boolean", help: "control tokens written in the text count as such" },
    bos: { type: "boolean", help: "put the begin-of-sentence token before the text" },
    json: jsonFlag,
  },
  operands: { text: { help: "the text; without it, what is piped in", optional: true } },
  examples: [
    'tokenizer encode --tokenizer my-model "Ciao, mondo"',
    "tokenizer encode --tokenizer my-model --json < README.md",
  ],
  async run({ tokenizer: dir, special, bos, json, text }, io) {
    const input = text ?? (await readAll(io, "a text"));
    const tokenizer = await loadTokenizer(dir);
    const ids = tokenizer.encode(input, { allowSpecial: special, addSpecial: bos });
    if (json) {
      const tokens = Array.from(ids, (id) => showToken(tokenizer.tokenBytes(id)));
      printJson(io.stdout, { ids, tokens, bytes: Buffer.byteLength(input) });
    } else if (io.stdout.isTTY) showTokens(tokenizer, ids, Buffer.byteLength(input), io);
    else io.stdout.write(`${ids.join(" ")}\n`);
  },
});

export const decode: Command = defineCommand({
  summary: "Prints the text of token ids, and nothing else.",
  flags: {
    tokenizer: tokenizerFlag,
    skipSpecial: { type: "boolean", help: "leave control tokens out" },
    json: jsonFlag,
  },
  operands: {
    ids: {
      help: 'ids between spaces or commas, or a JSON array: "12 7 99"; without it, what is piped in',
      optional: true,
    },
  },
  examples: [
    'tokenizer decode --tokenizer my-model "19923 14 2058"',
    "tokenizer encode --tokenizer my-model < a.txt | dsv3 tokenizer decode --tokenizer my-model",
  ],
  async run({ tokenizer: dir, skipSpecial, json, ids }, io) {
    const words = ids ?? Buffer.from(await readAll(io, "ids")).toString("utf8");
    const numbers = parseIds(words);
    const tokenizer = await loadTokenizer(dir);
    const text = tokenizer.decode(numbers, { skipSpecial });
    if (json) printJson(io.stdout, { text });
    else io.stdout.write(io.stdout.isTTY && !text.endsWith("\n") ? `${text}\n` : text);
  },
});

export const inspect: Command = defineCommand({
  summary: "Shows what a tokenizer is made of: sizes, control tokens by role, template.",
  flags: { tokenizer: tokenizerFlag, json: jsonFlag },
  examples: ["tokenizer inspect --tokenizer my-model"],
  async run({ tokenizer: dir, json }, io) {
    const tokenizer = await loadTokenizer(dir);
    const lengths = tokenizer.byteLengths.filter((length) => length > 0);
    const report = {
      vocabSize: tokenizer.vocabSize,
      tokens: lengths.length,
      merges: tokenizer.data.model.merges.length / 3,
      addedTokens: tokenizer.addedTokens.length,
      longestTokenBytes: lengths.reduce((longest, length) => Math.max(longest, length), 0),
      meanTokenBytes: lengths.reduce((sum, length) => sum + length, 0) / lengths.length,
      preTokenizer: tokenizer.data.preTokenizer,
      chatTemplate: Boolean(tokenizer.config.chat_template),
      special: tokenizer.special,
    };
    if (json) printJson(io.stdout, report);
    else {
      const { special, ...sizes } = report;
      const rows = Object.entries(sizes).map(([name, value]) => [name, show(value)]);
      const roles = Object.entries(special).map(([role, id]) => [
        role,
        `${id}`,
        tokenizer.decode([id]),
      ]);
      const sizeTable = renderTable([{ title: "what" }, { title: "", align: "right" }], rows);
      const columns = [
        { title: "role" },
        { title: "id", align: "right" },
        { title: "token" },
      ] as const;
      io.stdout.write(`${sizeTable}\n${renderTable(columns, roles)}`);
    }
  },
});

function show(value: string | number | boolean): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "string" || Number.isInteger(value) ? `${value}` : value.toFixed(2);
}

/** What is piped in. @throws where nothing is, as in a terminal */
async function readAll(io: Io, what: string): Promise<Uint8Array> {
  if (io.stdin === undefined) throw new UsageError(`give ${what} as an argument, or pipe it in`);
  const chunks: Uint8Array[] = [];
  for await (const chunk of io.stdin) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** "1 2 3", "1, 2, 3" or "[1, 2, 3]". Whether the vocabulary has them is for the tokenizer to say. */
function parseIds(text: string): number[] {
  const list = text.trim().replace(/^\[(.*)\]$/s, "$1");
  const words = list.split(/[\s,]+/).filter((word) => word !== "");
  return words.map((word, index) => {
    if (/^\d{1,10}$/.test(word)) return Number(word);
    throw new Error(
      `the ids: "${word.slice(0, 40)}" at position ${index} is no token id; expected whole numbers between spaces or commas`,
    );
  });
}

const COLOURS = ["bgBlue", "bgMagenta", "bgCyan"] as const;

/** The text with the borders of its tokens: by colours, or by bars where colours are not wanted. */
function showTokens(tokenizer: Tokenizer, ids: Uint32Array, bytes: number, io: Io): void {
  const style = styler(io.stdout, io.env);
  const shown = Array.from(ids, (id, i) => {
    const token = showToken(tokenizer.tokenBytes(id));
    return style(["black", COLOURS[i % COLOURS.length] ?? "bgBlue"], token);
  });
  const coloured = style("black", "x") !== "x";
  // A line break is shown inside its token; the line is broken after it.
  const text = shown.map((token, i) => {
    const ended = tokenizer.tokenBytes(ids[i] as number).at(-1) === 0x0a;
    return ended ? `${token}\n` : token;
  });
  io.stdout.write(`${text.join(coloured ? "" : "│")}\n`);
  io.stdout.write(`${ids.join(" ")}\n`);
  const mean = ids.length > 0 ? `, ${(bytes / ids.length).toFixed(2)} bytes a token` : "";
  io.stderr.write(`${ids.length} tokens, ${bytes} bytes${mean}\n`);
}

/** A token as printable text: parts of characters as `\xE4`, control characters by their signs. */
function showToken(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).toString("utf8");
  if (!Buffer.from(text).equals(bytes)) {
    return Array.from(bytes, (byte) =>
      byte > 0x20 && byte < 0x7f
        ? String.fromCharCode(byte)
        : `\\x${byte.toString(16).toUpperCase().padStart(2, "0")}`,
    ).join("");
  }
  return text.replace(/\p{Cc}/gu, (character) => {
    const code = character.charCodeAt(0);
    if (character === "\n") return "⏎";
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `\\u{${code.toString(16)}}`;
  });
}
