import { readFile, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { Readable, Writable } from "node:stream";
import { backendFlag } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { describeError } from "../errors.ts";
import type { Io } from "../io.ts";
import { formatCount } from "../ui/format.ts";
import { styler } from "../ui/style.ts";
import { ChatSession, type ChatUsage } from "./chat-session.ts";
import { openTarget } from "./chat-target.ts";

const HELP = `/system TEXT   what the model is told before all else; without a text, shows it
/undo          takes the last question and its answer back
/save FILE     keeps the conversation
/load FILE     goes on from a conversation that was kept
/exit          ends, as Ctrl-D does; Ctrl-C stops an answer
`;

export const chat: Command = defineCommand({
  summary: "Talks with a model, of a folder or behind a URL.",
  flags: {
    model: {
      type: "string",
      value: "DIR|URL",
      help: "a Hugging Face folder, or a server: http://127.0.0.1:8000/v1",
      required: true,
    },
    name: {
      type: "string",
      value: "NAME",
      help: "which of the server's models; the first if not given",
    },
    system: { type: "string", value: "TEXT", help: "what the model is told before all else" },
    maxTokens: { type: "integer", value: "N", help: "the longest answer", min: 1 },
    temperature: {
      type: "number",
      value: "T",
      help: "0 takes the likeliest token; higher is wilder",
      default: 0.8,
      min: 0,
      max: 2,
    },
    topP: {
      type: "number",
      value: "P",
      help: "sample from the fewest tokens that together have this probability",
      default: 0.95,
      min: 0,
      max: 1,
    },
    seed: { type: "integer", value: "N", help: "the same seed gives the same answers" },
    backend: backendFlag,
  },
  examples: [
    "chat --model runs/demo/chat",
    "chat --model http://127.0.0.1:8000/v1 --system 'Be brief.'   # with its key in DSV3_API_KEY",
  ],
  async run({ model, name, system, maxTokens, temperature, topP, seed, backend }, io) {
    // One answer at a time: nothing else is in its batch.
    const alone = { maxRunning: 1, batchInvariant: false };
    const { target, close } = await openTarget(model, { name, backend, engine: alone }, io);
    try {
      const settings = { temperature, top_p: topP, max_tokens: maxTokens, seed };
      const session = new ChatSession(target, settings);
      session.system = system ?? "";
      await converse(session, target.model, io);
    } finally {
      await close();
    }
  },
});

/** Reads lines until they end; each is a command, or something to say. */
async function converse(session: ChatSession, model: string, io: Io): Promise<void> {
  const interactive = io.stdin === undefined;
  const dim = (text: string) => styler(io.stdout, io.env)("dim", text);
  const lines = createInterface({
    input: io.stdin ? Readable.from(io.stdin) : process.stdin,
    output: interactive ? process.stdout : new Writable({ write: (_chunk, _, done) => done() }),
    terminal: interactive,
    prompt: "> ",
  });
  let answering: AbortController | null = null;
  // In a terminal whose keys readline reads, Ctrl-C comes here and is no signal.
  lines.on("SIGINT", () => {
    if (answering) answering.abort();
    else lines.close();
  });
  const end = () => {
    answering?.abort();
    lines.close();
  };
  io.signal.addEventListener("abort", end, { once: true });
  if (interactive) {
    io.stderr.write(`${dim(`${model}. /help says what else can be done than talk.`)}\n`);
    lines.prompt();
  }
  try {
    for await (const line of lines) {
      const said = line.trim();
      if (said === "/exit" || io.signal.aborted) break;
      try {
        if (said.startsWith("/")) await command(session, said, io);
        else if (said !== "") {
          answering = new AbortController();
          await answer(session, said, answering.signal, io);
        }
      } catch (error) {
        // Whoever types can mend it and go on; a script cannot.
        if (!interactive) throw error;
        io.stderr.write(`${describeError(error, false)}\n`);
      } finally {
        answering = null;
      }
      if (interactive) lines.prompt();
    }
  } finally {
    io.signal.removeEventListener("abort", end);
    lines.close();
  }
}

async function answer(
  session: ChatSession,
  said: string,
  signal: AbortSignal,
  io: Io,
): Promise<void> {
  const style = styler(io.stdout, io.env);
  let usage: ChatUsage | null = null;
  let first = 0;
  let last = 0;
  for await (const piece of session.say(said, signal)) {
    if (piece.usage) usage = piece.usage;
    else last = performance.now();
    first ||= last;
    if (piece.thought) io.stdout.write(style("dim", shown(piece.thought, io)));
    io.stdout.write(shown(piece.text, io));
  }
  io.stdout.write("\n");
  if (usage) io.stderr.write(`${styler(io.stderr, io.env)("dim", costOf(usage, last - first))}\n`);
  else if (signal.aborted) io.stderr.write("stopped\n");
}

/** What a model says may not command a terminal: control characters are only shown. */
function shown(text: string, io: Io): string {
  return io.stdout.isTTY ? text.replace(/(?![\n\t])\p{Cc}/gu, "\ufffd") : text;
}

/** The first token waits for the prompt, so that only those after it tell the pace. */
function costOf({ promptTokens, cachedTokens, answerTokens }: ChatUsage, ms: number): string {
  const rate = ms > 0 ? `, ${formatCount(((answerTokens - 1) / ms) * 1000)} a second` : "";
  return `${answerTokens} tokens${rate}; ${cachedTokens} of the prompt's ${promptTokens} from the cache`;
}

async function command(session: ChatSession, line: string, io: Io): Promise<void> {
  const [, name, rest = ""] = /^\/(\S*)\s*(.*)$/s.exec(line)!;
  const file = () => {
    if (rest !== "") return rest;
    throw new Error(`/${name} needs the name of a file`);
  };
  const note = (text: string) => io.stderr.write(`${text}\n`);
  switch (name) {
    case "help":
      io.stderr.write(HELP);
      break;
    case "system":
      if (rest !== "") session.system = rest;
      note(session.system === "" ? "the model is told nothing" : `system: ${session.system}`);
      break;
    case "undo": {
      const asked = session.undo();
      note(asked === null ? "nothing was said" : `taken back: ${asked}`);
      break;
    }
    case "save":
      await writeFile(file(), `${JSON.stringify(session, null, 2)}\n`);
      note(`${session.messages.length} messages are in ${rest}`);
      break;
    case "load": {
      const text = await readFile(file(), "utf8");
      try {
        session.load(JSON.parse(text));
      } catch (cause) {
        throw new Error(`${rest} is no conversation`, { cause });
      }
      note(`${session.messages.length} messages were said`);
      break;
    }
    default:
      throw new Error(`there is no /${name}; /help lists what there is`);
  }
}
