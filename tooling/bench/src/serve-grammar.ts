/**
 * Schemas and grammars as our engine and xgrammar take them: whether both read the same texts, how long
 * they compile and how long the mask of a token takes. `node serve-grammar.ts [--json]`
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { type Format, Grammar, tokenTree } from "../../../packages/serve/src/grammar/grammar.ts";
import { SCHEMAS } from "../../../packages/serve/src/testing/schemas.ts";
import { contenderFolder } from "./serve-contenders.ts";
import { formatTable } from "./table.ts";

interface Case {
  readonly name: string;
  readonly format: Format & { type: "schema" | "ebnf" };
  /** Texts of the format, and others. */
  readonly fits: readonly string[];
  readonly fails: readonly string[];
}

const ARITHMETIC = `root ::= product (("+" | "-") product)*
product ::= factor (("*" | "/") factor)*
factor ::= [0-9]+ | "(" root ")"`;

const CASES: readonly Case[] = [
  ...SCHEMAS.filter(({ refused }) => refused === undefined).map(
    ({ name, schema, fits, fails }): Case => ({
      name,
      format: { type: "schema", schema },
      fits: fits.map((value) => JSON.stringify(value)),
      fails: fails.map((value) => JSON.stringify(value)),
    }),
  ),
  {
    name: "arithmetic, in EBNF",
    format: { type: "ebnf", grammar: ARITHMETIC },
    fits: ["1", "(1+2)*33", "((4))-5/6"],
    fails: ["", "1+", "(1", "1 + 2"],
  },
];

const EOS = 0;
const VOCABULARY = vocabulary(32_000);

/** Every byte, and pieces as JSON and words have them, up to a size. */
function vocabulary(size: number): Uint8Array[] {
  const tokens: Uint8Array[] = [new Uint8Array()];
  for (let byte = 0; byte < 256; byte++) tokens.push(Uint8Array.of(byte));
  const signs = [
    '"',
    '":',
    '": ',
    '",',
    '", "',
    '"}',
    "},",
    "{",
    '{"',
    "[",
    "[[",
    "]",
    "],",
    "}}",
    "\n",
    "  ",
  ];
  const onsets = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "tr",
    "st",
    "qu",
    "v",
  ];
  const nuclei = ["a", "e", "i", "o", "u", "ia", "ou"];
  const syllables = onsets.flatMap((onset) => nuclei.map((nucleus) => onset + nucleus));
  const words = syllables.flatMap((a) => ["", ...syllables].map((b) => a + b));
  const numbers = Array.from({ length: 1000 }, (_, n) => `${n}`);
  for (const text of [...signs, ...numbers, ...words.flatMap((w) => [w, ` ${w}`, `${w}"`])]) {
    if (tokens.length < size) tokens.push(new TextEncoder().encode(text));
  }
  return tokens;
}

/** The longest token at each place. */
function tokensOf(text: string): number[] {
  const ids = new Map(VOCABULARY.map((bytes, id) => [Buffer.from(bytes).toString("latin1"), id]));
  let rest = Buffer.from(text).toString("latin1");
  const tokens: number[] = [];
  while (rest !== "") {
    let length = Math.min(rest.length, 8);
    while (!ids.has(rest.slice(0, length))) length--;
    tokens.push(ids.get(rest.slice(0, length))!);
    rest = rest.slice(length);
  }
  return tokens;
}

interface Matcher {
  /** Milliseconds of compilation. */
  readonly compile: number;
  /** Whether a text is one of the format; milliseconds that each of its masks took are added to a list. */
  reads(text: string, times: number[]): Promise<boolean>;
}

const fake = {
  vocabSize: VOCABULARY.length,
  byteLengths: VOCABULARY.map(({ length }) => length),
  tokenBytes: (id: number) => VOCABULARY[id]!,
};
const tree = tokenTree(fake as unknown as Parameters<typeof tokenTree>[0]);

async function ours({ format }: Case): Promise<Matcher> {
  const began = performance.now();
  const grammar = new Grammar(format, tree, [EOS], VOCABULARY.length);
  return {
    compile: performance.now() - began,
    async reads(text, times) {
      let state: ReturnType<Grammar["after"]> = grammar.start;
      for (const token of tokensOf(text)) {
        const start = performance.now();
        grammar.mask(state, 1e6);
        times.push(performance.now() - start);
        state = grammar.after(state, token);
        if (state === null) return false;
      }
      return ((grammar.mask(state, 1e6)[EOS >> 5]! >> (EOS & 31)) & 1) === 1;
    },
  };
}

/** The part of xgrammar's face that is used. */
interface XGrammar {
  TokenizerInfo: {
    createTokenizerInfo(
      v: string[],
      type: string,
      prepend: boolean,
      size: number,
      stops: number[],
    ): Promise<unknown>;
  };
  GrammarCompiler: {
    createGrammarCompiler(
      info: unknown,
      cache: boolean,
    ): Promise<{
      compileJSONSchema(schema: string): Promise<unknown>;
      compileGrammar(grammar: string): Promise<unknown>;
    }>;
  };
  GrammarMatcher: {
    createGrammarMatcher(compiled: unknown): Promise<{
      acceptToken(id: number): boolean;
      getNextTokenBitmask(): Promise<Int32Array>;
      dispose(): void;
    }>;
  };
}

/** Its file is of the older kind of module, but called .js in a package of the newer one. */
function loadXGrammar(): XGrammar {
  const file = new URL("node_modules/@mlc-ai/web-xgrammar/lib/index.js", contenderFolder());
  const module = { exports: {} };
  const wrap = new Function(
    "module",
    "exports",
    "require",
    "__dirname",
    "__filename",
    readFileSync(file, "utf8"),
  );
  wrap(
    module,
    module.exports,
    createRequire(import.meta.url),
    new URL(".", file).pathname,
    file.pathname,
  );
  return module.exports as XGrammar;
}

async function xgrammar(): Promise<(task: Case) => Promise<Matcher>> {
  const { TokenizerInfo, GrammarCompiler, GrammarMatcher } = loadXGrammar();
  // Bytes as its vocabularies of the kind byte_fallback write them.
  const names = VOCABULARY.map((bytes, id) =>
    id === EOS
      ? "</s>"
      : bytes.length === 1
        ? `<0x${bytes[0]!.toString(16).toUpperCase().padStart(2, "0")}>`
        : new TextDecoder().decode(bytes).replaceAll(" ", "▁"),
  );
  const info = await TokenizerInfo.createTokenizerInfo(
    names,
    "byte_fallback",
    false,
    names.length,
    [EOS],
  );
  return async ({ format }) => {
    const compiler = await GrammarCompiler.createGrammarCompiler(info, false);
    const began = performance.now();
    const compiled =
      format.type === "schema"
        ? await compiler.compileJSONSchema(JSON.stringify(format.schema))
        : await compiler.compileGrammar(format.grammar);
    const compile = performance.now() - began;
    return {
      compile,
      async reads(text, times) {
        const matcher = await GrammarMatcher.createGrammarMatcher(compiled);
        try {
          for (const token of tokensOf(text)) {
            const start = performance.now();
            await matcher.getNextTokenBitmask();
            times.push(performance.now() - start);
            if (!matcher.acceptToken(token)) return false;
          }
          return matcher.acceptToken(EOS);
        } finally {
          matcher.dispose();
        }
      },
    };
  };
}

interface Compared {
  readonly name: string;
  /** By contender: milliseconds to compile, in the mean for a mask met first, and met again. */
  readonly times: Readonly<
    Record<string, { compile: number; first: number; again: number } | string>
  >;
  /** Texts about which a contender is wrong. */
  readonly wrong: Readonly<Record<string, readonly string[]>>;
}

async function compare(
  task: Case,
  makers: Record<string, (task: Case) => Promise<Matcher>>,
): Promise<Compared> {
  const times: Record<string, Compared["times"][string]> = {};
  const wrong: Record<string, string[]> = {};
  for (const [name, make] of Object.entries(makers)) {
    wrong[name] = [];
    try {
      const matcher = await make(task);
      const [first, again]: [number[], number[]] = [[], []];
      for (const list of [first, again])
        for (const text of task.fits) await matcher.reads(text, list);
      for (const [texts, expected] of [
        [task.fits, true],
        [task.fails, false],
      ] as const) {
        for (const text of texts)
          if ((await matcher.reads(text, [])) !== expected) wrong[name].push(text);
      }
      times[name] = { compile: matcher.compile, first: mean(first), again: mean(again) };
    } catch (error) {
      times[name] = String(error);
    }
  }
  return { name: task.name, times, wrong };
}

const mean = (x: readonly number[]) => x.reduce((a, b) => a + b, 0) / x.length;

if (import.meta.main) {
  const makers = { dsv3: ours, xgrammar: await xgrammar() };
  await Promise.all(Object.values(makers).map((make) => make(CASES[0]!))); // warms up
  const rows: Compared[] = [];
  for (const task of CASES) rows.push(await compare(task, makers));
  if (process.argv.includes("--json")) console.log(JSON.stringify(rows, null, 2));
  else {
    const head = [
      "",
      ...Object.keys(makers).flatMap((n) => [`${n}: compile ms`, "mask µs", "again µs", "wrong"]),
    ];
    const cells = rows.map(({ name, times, wrong }) => [
      name,
      ...Object.keys(makers).flatMap((maker) => {
        const t = times[maker]!;
        if (typeof t === "string") return [t.slice(0, 40), "", "", ""];
        const micro = (ms: number) => (1000 * ms).toFixed(0);
        return [t.compile.toFixed(2), micro(t.first), micro(t.again), wrong[maker]!.join(" ")];
      }),
    ]);
    console.log(formatTable([head, ...cells]));
  }
}
