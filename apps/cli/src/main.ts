#!/usr/bin/env node
// The program `dsv3`: joins the command line to this process's streams and signals.
import { readFileSync } from "node:fs";
import { runCli } from "./cli.ts";
import { commands } from "./commands.ts";
import { EXIT } from "./errors.ts";
import { interruptSignal } from "./interrupt.ts";

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
const signal = interruptSignal(
  process,
  () => process.stderr.write("\ndsv3: stopping (Ctrl-C again to stop at once)\n"),
  () => process.exit(EXIT.interrupted),
);

// `dsv3 ... | head` closes the pipe early: nobody reads on, so there is nothing left to do or say.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(EXIT.ok);
});
process.stderr.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

const stdin = process.stdin.isTTY ? undefined : process.stdin;
const io = { stdin, stdout: process.stdout, stderr: process.stderr, signal, env: process.env };
process.exitCode = await runCli(process.argv.slice(2), io, commands, version);
