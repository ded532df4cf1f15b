/**
 * `npm run bench [-- NAME…] [--json] [--rounds N]`: our figures, beside those of other libraries
 * measured in the same run. A name chooses a part, or the cases whose names contain it.
 */
import { execFileSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { CASES, type Case } from "./cases.ts";
import { formatRows, PART_NAMES, type Row, runPart } from "./part.ts";
import { peerModules } from "./peers.ts";
import { expectations, formatSideBySide, type SideBySide, sideBySide } from "./side-by-side.ts";

/** Parts with tables of their own, as scripts. */
const SCRIPTS: Readonly<Record<string, URL>> = {
  tokenizer: new URL("../../../packages/tokenizer/bench/tokenizer.ts", import.meta.url),
  serve: new URL("./serve.ts", import.meta.url),
  grammar: new URL("./serve-grammar.ts", import.meta.url),
};

const USAGE = `Usage: npm run bench [-- NAME…] [--json] [--rounds N]

Parts: peers, ${PART_NAMES.join(", ")}, ${Object.keys(SCRIPTS).join(", ")}; all of them unless named.
A part of a case's name, such as "matmul 1024" or "softmax", runs that case beside the peers.
Close other programs first; times are medians, the best of the rounds.
`;
const OWN = new URL("./dsv3.ts", import.meta.url);

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    help: { type: "boolean", short: "h", default: false },
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "3" },
  },
});
const rounds = Number(values.rounds);
if (values.help) {
  process.stdout.write(USAGE);
} else if (!Number.isInteger(rounds) || rounds < 1) {
  process.stderr.write(`--rounds ${values.rounds}: expected a whole number from 1\n`);
  process.exitCode = 2;
} else {
  await bench(positionals);
}

async function bench(names: readonly string[]): Promise<void> {
  const all = names.length === 0;
  const parts = PART_NAMES.filter((part) => all || names.includes(part));
  const scripts = Object.keys(SCRIPTS).filter((name) => all || names.includes(name));
  const cases = CASES.filter(
    ({ name }) => all || names.includes("peers") || names.some((wanted) => name.includes(wanted)),
  );
  if (parts.length + cases.length + scripts.length === 0) {
    process.stderr.write(`nothing is called ${names.join(", ")}\n\n${USAGE}`);
    process.exitCode = 2;
    return;
  }
  const tell = (what: string): void => void process.stderr.write(`${what} …\n`);
  const json: { peers?: SideBySide; rows: Row[]; [script: string]: unknown } = { rows: [] };
  if (cases.length > 0) json.peers = await beside(cases, tell);
  for (const part of parts) {
    tell(part);
    json.rows.push(...runPart(part));
  }
  if (!values.json && json.rows.length > 0) console.log(`\n${formatRows(json.rows)}`);
  for (const script of scripts) {
    tell(script);
    const flags = [
      ...(script === "tokenizer" ? [`--rounds=${rounds}`] : []),
      ...(values.json ? ["--json"] : []),
    ];
    const output = execFileSync(process.execPath, [fileURLToPath(SCRIPTS[script]!), ...flags], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
    if (values.json) json[script] = JSON.parse(output);
    else console.log(`\n${output.trimEnd()}`);
  }
  if (values.json) console.log(JSON.stringify(json, null, 2));
}

async function beside(cases: readonly Case[], tell: (what: string) => void): Promise<SideBySide> {
  const result = await sideBySide([OWN, ...peerModules()], cases, rounds, tell);
  if (!values.json) {
    console.log(`${availableParallelism()} cores; × is how many times our speed is the other's\n`);
    console.log(formatSideBySide(result));
    const rows = expectations(result);
    if (rows.length > 0) console.log(`\n${formatRows(rows)}`);
  }
  return result;
}
