/** A model behind OpenAI's interface as a teacher. */
import { setTimeout as pause } from "node:timers/promises";
import type { Reply, Teacher } from "@dsv3/data";
import type { ChatTarget } from "../commands/chat-session.ts";

export interface TeacherOptions {
  readonly system: string;
  readonly temperature: number;
  readonly maxTokens: number;
  readonly seed: number;
  readonly signal: AbortSignal;
}

/** Times that a server which is busy or broken is asked, and the first wait between two of them. */
const TRIES = 5;
const WAIT_MS = 500;

/** Asks for one answer at a time, each with a seed of its own. */
export function teacherOf(
  { url, model, key, fetch }: ChatTarget,
  { system, temperature, maxTokens, seed, signal }: TeacherOptions,
): Teacher {
  const headers = {
    "content-type": "application/json",
    ...(key && { authorization: `Bearer ${key}` }),
  };
  return async ({ prompt }, attempt) => {
    const before = system === "" ? [] : [{ role: "system", content: system }];
    const body = JSON.stringify({
      ...{ model, messages: [...before, { role: "user", content: prompt }] },
      ...{ temperature, max_tokens: maxTokens, seed: seed + attempt },
    });
    for (let tries = 1; ; tries++) {
      const options = { method: "POST", headers, body, signal };
      const response = await Promise.resolve(
        fetch(new Request(`${url}/chat/completions`, options)),
      ).catch((error: Error) => (signal.aborted ? Promise.reject(error) : error));
      if (response instanceof Response && response.ok) return replyOf(await response.json(), url);
      const again =
        !(response instanceof Response) || response.status === 429 || response.status >= 500;
      if (!again || tries === TRIES) {
        if (!(response instanceof Response)) {
          throw new Error(`cannot reach ${url}`, { cause: response });
        }
        const text = (await response.text()).slice(0, 300);
        throw new Error(`${url} refused with status ${response.status}: ${text}`);
      }
      await pause(WAIT_MS * 2 ** (tries - 1), undefined, { signal });
    }
  };
}

/** Its words; what it thought comes first, between the tags that DeepSeek-R1 writes. */
function replyOf(json: unknown, url: string): Reply {
  const { choices, usage } = (json ?? {}) as {
    choices?: {
      finish_reason?: string;
      message?: { content?: string | null; reasoning_content?: string | null };
    }[];
    usage?: { completion_tokens?: number };
  };
  const [choice] = choices ?? [];
  if (choice?.message === undefined) throw new Error(`${url} gave an answer without a message`);
  const { content, reasoning_content: thought } = choice.message;
  const text = thought ? `<think>\n${thought}\n</think>\n\n${content ?? ""}` : (content ?? "");
  const tokens = usage?.completion_tokens ?? 0;
  return { text, tokens, finished: choice.finish_reason === "stop" };
}
