/**
 * `npm run bench [-- NAME…] [--json] [--rounds N]`: our figures beside other libraries', in one run.
 * Names choose among the parts; without any, all run.
 */
import { parseArgs } from "node:util";
import { CASES } from "./cases.ts";
import { peerModules } from "./peers.ts";
import { formatSideBySide, sideBySide } from "./side-by-side.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "boolean" }, rounds: { type: "string", default: "3" } },
});
const modules = [new URL("./dsv3.ts", import.meta.url), ...peerModules()];
const cases = CASES.filter(
  (c) => positionals.length === 0 || positionals.some((p) => c.name.includes(p)),
);
const r = await sideBySide(modules, cases, Number(values.rounds), (t) =>
  process.stderr.write(`${t} …\n`),
);
console.log(values.json ? JSON.stringify(r, null, 1) : formatSideBySide(r));
for (const c of r.cases) for (const [k, e] of Object.entries(c.errors)) console.log(c.name, k, e);
