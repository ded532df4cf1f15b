// The process that renders templates: started by node-jinja.ts, which kills it when it takes too
// long. Its heap is limited by the flags that it is started with.
import { Script } from "node:vm";
import { Template } from "@huggingface/jinja";

export interface JinjaJob {
  template: string;
  context: Record<string, unknown>;
  /** Longest text that is sent back, in UTF-16 units. */
  maxLength: number;
  /** This process ends a rendering by itself after this long, in case nobody is left to kill it. */
  lastMs: number;
}

export type JinjaAnswer = { ready: true } | { text: string } | { error: string };

const MAX_ERROR = 1000;

let parsed: { source: string; template: Template } | undefined;
let job: JinjaJob;

function render(): string {
  if (parsed?.source !== job.template) {
    parsed = { source: job.template, template: new Template(job.template) };
  }
  const text = parsed.template.render(job.context);
  if (text.length > job.maxLength) {
    throw new Error(`it made ${text.length} characters, more than the limit of ${job.maxLength}`);
  }
  return text;
}

Object.assign(globalThis, { render });
const limited = new Script("render()");

function send(answer: JinjaAnswer): void {
  process.send?.(answer);
}

process.on("disconnect", () => process.exit());
process.on("message", (next: JinjaJob) => {
  job = next;
  try {
    send({ text: limited.runInThisContext({ timeout: job.lastMs }) });
  } catch (error) {
    send({ error: String((error as Error)?.message ?? error).slice(0, MAX_ERROR) });
  }
});
send({ ready: true });
