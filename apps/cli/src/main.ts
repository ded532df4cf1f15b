#!/usr/bin/env node
// The program `dsv3`: joins the command line to this process's streams and signals.
import { readFileSync } from "node:fs";
import { runCli } from "./cli.ts";
import { commands } from "./commands.ts";
import { EXIT } from "./errors.ts";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const controller = new AbortController();

// The first signal asks the command to save and stop, a later one ends the process at once. One
// Ctrl-C can arrive twice (from the terminal and passed on by npm), so a quick repeat is the same one.
const SAME_SIGNAL_MS = 500;
let firstSignal = 0;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    if (!controller.signal.aborted) {
      firstSignal = performance.now();
      process.stderr.write("\ndsv3: stopping (Ctrl-C again to stop at once)\n");
      controller.abort(new Error(`stopped by ${signal}`));
    } else if (performance.now() - firstSignal > SAME_SIGNAL_MS) {
      process.exit(EXIT.interrupted);
    }
  });
}

// `dsv3 ... | head` closes the pipe early: nobody reads on, so there is nothing left to do or say.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(EXIT.ok);
});
process.stderr.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

const io = {
  stdout: process.stdout,
  stderr: process.stderr,
  signal: controller.signal,
  env: process.env,
};
process.exitCode = await runCli(process.argv.slice(2), io, commands, version);
