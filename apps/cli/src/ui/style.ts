import { styleText } from "node:util";
import type { Io, Sink } from "../io.ts";

type Format = Parameters<typeof styleText>[0];

/** Colours for one sink: a function that styles where a person is watching, and leaves text as it is elsewhere. */
export function styler(sink: Sink, env: Io["env"]): (format: Format, text: string) => string {
  const plain = !sink.isTTY || env.TERM === "dumb" || (env.NO_COLOR ?? "") !== "";
  return plain
    ? (_, text) => text
    : (format, text) => styleText(format, text, { validateStream: false });
}
