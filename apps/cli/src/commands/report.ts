import { type Command, defineCommand } from "../command.ts";
import { writeReport } from "../report/write-report.ts";
import { printJson } from "../ui/json.ts";

export const report: Command = defineCommand({
  summary: "Writes what a run came to into its folder: report.html, one page, and report.md.",
  flags: {
    pricePerHour: {
      type: "number",
      value: "PRICE",
      help: "of the machine, to tell what the run cost",
      min: 0,
    },
    json: { type: "boolean", help: "print the names of the files as JSON" },
  },
  operands: { run: { help: "folders of runs", many: true } },
  examples: ["report runs/books", "report runs/books runs/chat --price-per-hour 2.5"],
  async run({ run: dirs, pricePerHour, json }, io) {
    const written = [];
    for (const dir of dirs) {
      written.push(await writeReport(dir, pricePerHour === undefined ? {} : { pricePerHour }));
    }
    if (json) printJson(io.stdout, written);
    else for (const { html, markdown } of written) io.stdout.write(`${html}\n${markdown}\n`);
  },
});
