import { spawn } from "node:child_process";
import { stat } from "node:fs/promises";
import { type Command, defineCommand } from "../command.ts";
import type { Io } from "../io.ts";
import { Feed } from "../watch/feed.ts";
import { serveRuns } from "../watch/server.ts";

export const watch: Command = defineCommand({
  summary: "Shows the curves of runs in a page on this machine, live, until it is stopped.",
  flags: {
    port: {
      type: "integer",
      value: "N",
      help: "0: any that is free",
      default: 0,
      min: 0,
      max: 65535,
    },
    open: { type: "boolean", help: "open the page in the browser" },
  },
  operands: {
    run: { help: "folders of runs, or of folders of runs, also of later ones", many: true },
  },
  examples: ["watch runs", "watch runs/books runs/report --open"],
  endsWhenStopped: true,
  async run({ run: roots, port, open }, io) {
    for (const root of roots) {
      const there = await stat(root).catch(() => undefined);
      if (there === undefined)
        io.stderr.write(`${root} is not there yet; it is shown once it is\n`);
      else if (!there.isDirectory()) throw new Error(`${root} is a file; give the folder of a run`);
    }
    const server = await serveRuns(new Feed(roots), port);
    io.stdout.write(`${server.url}\n`);
    if (open) openInBrowser(server.url, io);
    await stopped(io.signal);
    await server.close();
  },
});

function openInBrowser(url: string, io: Io): void {
  const [program, ...before] =
    process.platform === "darwin"
      ? ["open"]
      : process.platform === "win32"
        ? ["cmd", "/c", "start", ""]
        : ["xdg-open"];
  const child = spawn(program as string, [...before, url], { stdio: "ignore", detached: true });
  child.on("error", () => io.stderr.write(`no browser could be opened; the page is ${url}\n`));
  child.unref();
}

function stopped(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
