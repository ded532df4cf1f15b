import fc from "fast-check";
import { expect, test } from "vitest";
import { automatonOf } from "./grammar.ts";

function matcher(grammar: string): (text: string) => boolean {
  const automaton = automatonOf({ type: "ebnf", grammar });
  return (text) => {
    let state: ReturnType<typeof automaton.step> = automaton.start;
    for (const byte of new TextEncoder().encode(text)) {
      state = automaton.step(state, byte);
      if (state === null) return false;
    }
    return state.accepting;
  };
}

const arithmetic = `
# sums of products
root   ::= sum
sum    ::= product (("+" | "-") product)*
product ::= factor ( [*/] factor )*   # precedence
factor ::= number | "(" sum ")"
number ::= "-"? [0-9]+ ("." [0-9]{1,2})?
`;

const chess = `root ::= "1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?`;

test.each<[string, string, string[], string[]]>([
  ["arithmetic", arithmetic, ["1", "(1+2)*-3.25", "((4))"], ["", "1+", "(1", "1.234", "1 + 2"]],
  ["chess", chess, ["1. e4 e5\n2. Nf3 O-O-O\n"], ["1. e4 e5\n", "1. e9 e5\n2. a a\n"]],
  ["nothing", "root ::= ", [""], ["a"]],
  ["empty beside something", 'root ::= | "a"', ["", "a"], ["aa"]],
  ["any character", 'root ::= "<" . ">"', ["<é>", "<\n>", "<😀>"], ["<>", "<ab>"]],
  ["sets", "root ::= [^a-c\\n]+ [\\]x-]", ["zé]", "d-"], ["a]", "z"]],
  ["escapes", 'root ::= "\\"\\\\\\x41\\u00e9\\U0001F600\\t"', ['"\\Aé😀\t'], ['"A']],
  ["counts", 'root ::= "a"{2} "b"{1,} ("c" "d"){0,2}', ["aab", "aabbcdcd"], ["ab", "aabcdcdcd"]],
  ["rules over lines", 'root ::=\n  "a"\n  | b\n\nb ::=\n  "b"\n  "c"', ["a", "bc"], ["b"]],
  [
    "nesting without end",
    'root ::= "[" (root ("," root)*)? "]"',
    ["[]", "[[],[[]]]"],
    ["[", "[,]"],
  ],
  ["names", 'root ::= a-b_1 "x"\na-b_1 ::= "y"', ["yx"], ["x"]],
])("the grammar of %s", (_, grammar, matches, others) => {
  const is = matcher(grammar);
  for (const text of matches) expect([text, is(text)]).toEqual([text, true]);
  for (const text of others) expect([text, is(text)]).toEqual([text, false]);
});

test("sums that are drawn at random are read, and broken ones refused as evaluation refuses them", () => {
  const is = matcher(arithmetic);
  const { sum } = fc.letrec<{ sum: string; factor: string }>((tie) => ({
    sum: fc
      .array(tie("factor"), { minLength: 1, maxLength: 3 })
      .chain((f) =>
        fc
          .array(fc.constantFrom("+", "-", "*", "/"), { minLength: f.length, maxLength: f.length })
          .map((signs) => f.map((x, i) => (i === 0 ? x : signs[i] + x)).join("")),
      ),
    factor: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.nat(999).map(String),
      tie("sum").map((s) => `(${s})`),
    ),
  }));
  fc.assert(
    fc.property(sum, fc.nat(), (text, at) => {
      expect([text, is(text)]).toEqual([text, true]);
      const cut = text.slice(0, at % text.length);
      const balanced = /^[^()]*$/.test(cut) || cut.split("(").length === cut.split(")").length;
      expect([cut, is(cut)]).toEqual([cut, balanced && /[\d)]$/.test(cut)]);
    }),
    { numRuns: 200 },
  );
});

test.each([
  ["", 'no rule "root"'],
  ['a ::= "x"', 'no rule "root"'],
  ['"x"', "expected a rule"],
  ["root ::= b", 'no rule "b", named at character 9'],
  ['root ::= "a', "it ends too early"],
  ["root ::= [a", "it ends too early"],
  ['root ::= ("a"', '")" is missing'],
  ['root ::= "a")', "closes nothing"],
  ['root ::= "a"\nroot ::= "b"', "defined twice"],
  ['root ::= "a"**', "two repetitions"],
  ['root ::= "a"{3,2}', "ends before it begins"],
  ['root ::= "a"{1,100000}', "more than 1000 times"],
  ["root ::= @", '"@" begins nothing'],
  ['root ::= "\\UFFFFFFFF"', "is no character"],
  ['root ::= root "a" | "b"', 'the rule "root" may begin with itself'],
  ['root ::= a\na ::= "x"? b\nb ::= a "y" | "z"', "may begin with itself"],
  ['root ::= "a" root', "no text fits"],
  [`root ::= ${"(".repeat(200)}`, "nested too deeply"],
  ['root ::= ((("a"{999}){999}){999})', "states"],
  ["root ::= \u0000", "begins nothing"],
])("the grammar %s is refused", (grammar, message) => {
  expect(() => automatonOf({ type: "ebnf", grammar })).toThrow(message);
});

test("whatever a text is, it is a grammar or refused as none, and soon", () => {
  const part = fc.constantFrom(
    "root",
    "::=",
    '"',
    "a",
    "(",
    ")",
    "|",
    "*",
    "{2}",
    "[",
    "]",
    "\\",
    "#",
    "\n",
    " ",
    ".",
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 40 }), (parts) => {
      try {
        automatonOf({ type: "ebnf", grammar: parts.join("") });
      } catch (error) {
        expect((error as Error).name).toBe("GrammarError");
      }
    }),
    { numRuns: 500 },
  );
});

test("a grammar of many ways at once ends with a refusal, not with all memory", () => {
  const many = `root ::= ${Array.from({ length: 600 }, (_, i) => `r${i}`).join(" | ")}\n${Array.from({ length: 600 }, (_, i) => `r${i} ::= "a" [a-z]* "${i}"`).join("\n")}`;
  expect(() => automatonOf({ type: "ebnf", grammar: many })).toThrow("in over 512 ways");
});
