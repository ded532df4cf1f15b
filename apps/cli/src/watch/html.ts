import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { page } from "./page.ts";
import { runStore } from "./page-runs.ts";
import { pageTools } from "./page-tools.ts";
import { STYLE } from "./style.ts";

/** The page with all that it needs in it, and the policy that lets it run that and nothing else. */
export async function watchPage(): Promise<{ html: string; policy: string }> {
  const { resolve } = createRequire(import.meta.url);
  const [library, libraryStyle] = await Promise.all([
    readFile(resolve("uplot/dist/uPlot.iife.min.js"), "utf8"),
    readFile(resolve("uplot/dist/uPlot.min.css"), "utf8"),
  ]);
  // The page's program is functions of ours: without their types, their text is the script.
  const script = `${library}\n(${page})(uPlot, (${pageTools})(), (${runStore})());`;
  const style = libraryStyle + STYLE;
  const policy = [
    ...["default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'"],
    ...["form-action 'none'", "frame-ancestors 'none'"],
    ...[`script-src '${hash(script)}'`, `style-src '${hash(style)}'`],
  ].join("; ");
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>dsv3 watch</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<header>
<h1>dsv3 watch</h1>
<span id="state" role="status">connecting …</span>
<form id="controls">
<label>x <select id="x"><option value="step">step</option><option value="tokens">tokens</option><option value="seconds">time</option></select></label>
<label><input id="log" type="checkbox"> log</label>
<label>smoothing <input id="smoothing" type="range" min="0" max="0.99" step="0.01" value="0.6"></label>
<input id="filter" type="search" placeholder="filter metrics" aria-label="filter metrics">
</form>
</header>
<nav id="runs" aria-label="runs"></nav>
<main id="charts"><p id="empty">No metrics yet. Runs appear here as they begin.</p></main>
<div id="tip" hidden></div>
<script>${script}</script>
</body>
</html>
`;
  return { html, policy };
}

function hash(text: string): string {
  return `sha256-${createHash("sha256").update(text).digest("base64")}`;
}
