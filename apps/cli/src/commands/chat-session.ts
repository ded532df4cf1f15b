/** A conversation with a model behind OpenAI's interface: what was said, and what comes. */

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** How a model is reached. */
export interface ChatTarget {
  /** With the version: `http://127.0.0.1:8000/v1`. */
  readonly url: string;
  readonly model: string;
  readonly key?: string | undefined;
  readonly fetch: (request: Request) => Response | Promise<Response>;
}

/** A piece of an answer; the last one of an answer that was not stopped has its cost. */
export interface ChatPiece {
  readonly thought: string;
  readonly text: string;
  readonly usage: ChatUsage | null;
}

export interface ChatUsage {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly answerTokens: number;
}

const MAX_MESSAGES = 4096;

export class ChatSession {
  readonly #target: ChatTarget;
  /** Fields of every request: temperature and so on. */
  readonly #settings: object;
  #messages: readonly ChatMessage[] = [];
  system = "";

  constructor(target: ChatTarget, settings: object) {
    this.#target = target;
    this.#settings = settings;
  }

  /** What was said, without the system's words. */
  get messages(): readonly ChatMessage[] {
    return this.#messages;
  }

  /**
   * Says something; the answer comes in pieces. An answer that is stopped by the signal stays in the
   * conversation as far as it came; one that fails leaves no trace.
   * @throws Error if the server refuses or fails
   */
  async *say(content: string, signal: AbortSignal): AsyncGenerator<ChatPiece, void, undefined> {
    const before = this.#messages;
    const asked = [...before, { role: "user" as const, content }];
    let answer = "";
    try {
      for await (const piece of this.#stream(asked, signal)) {
        answer += piece.text;
        yield piece;
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    if (answer === "" && signal.aborted) return;
    this.#messages = [...asked, { role: "assistant", content: answer }];
  }

  /** Takes the last question and its answer back; what was asked, or null if nothing was. */
  undo(): string | null {
    const at = this.#messages.findLastIndex(({ role }) => role === "user");
    if (at < 0) return null;
    const { content } = this.#messages[at]!;
    this.#messages = this.#messages.slice(0, at);
    return content;
  }

  toJSON(): object {
    const system = this.system ? [{ role: "system", content: this.system }] : [];
    return { messages: [...system, ...this.#messages] };
  }

  /** Goes on from a conversation that was saved. @throws Error if it is none, with the place */
  load(saved: unknown): void {
    const list = (saved as { messages?: unknown } | null)?.messages;
    if (!Array.isArray(list) || list.length > MAX_MESSAGES) {
      throw new Error(`expected { "messages": […] } with at most ${MAX_MESSAGES} messages`);
    }
    for (const [i, message] of list.entries()) {
      const { role, content } = (message ?? {}) as Partial<ChatMessage>;
      const known = role === "user" || role === "assistant" || (role === "system" && i === 0);
      if (known && typeof content === "string") continue;
      throw new Error(
        `message ${i} is not { "role": "user" or "assistant" (at first "system"), "content": text }`,
      );
    }
    const messages = list as ChatMessage[];
    const [first] = messages;
    this.system = first?.role === "system" ? first.content : "";
    this.#messages = messages.filter(({ role }) => role !== "system");
  }

  async *#stream(messages: readonly ChatMessage[], signal: AbortSignal): AsyncGenerator<ChatPiece> {
    const { url, model, key, fetch } = this.#target;
    const system = this.system ? [{ role: "system", content: this.system }] : [];
    const body = {
      ...this.#settings,
      model,
      messages: [...system, ...messages],
      stream: true,
      stream_options: { include_usage: true },
    };
    const headers = {
      "content-type": "application/json",
      ...(key && { authorization: `Bearer ${key}` }),
    };
    const options = { method: "POST", headers, body: JSON.stringify(body), signal };
    const response = await fetch(new Request(`${url}/chat/completions`, options));
    if (!response.ok) throw new Error(await problemOf(response));
    for await (const data of events(response.body!, signal)) {
      if (data === "[DONE]") return;
      const piece = pieceOf(JSON.parse(data));
      if (piece) yield piece;
    }
    throw new Error("the stream broke off before its end");
  }
}

/** The first model that a server names. @throws Error if it has none, or cannot be asked */
export async function firstModel(target: Omit<ChatTarget, "model">): Promise<string> {
  const headers: Record<string, string> = target.key
    ? { authorization: `Bearer ${target.key}` }
    : {};
  const response = await target.fetch(new Request(`${target.url}/models`, { headers }));
  if (!response.ok) throw new Error(await problemOf(response));
  const list = (await response.json()) as { data?: { id?: unknown }[] };
  const id = list.data?.[0]?.id;
  if (typeof id === "string") return id;
  throw new Error(`${target.url}/models names no model; say which with --name`);
}

async function problemOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { message } = JSON.parse(text).error;
    if (typeof message === "string") return message;
  } catch {
    // No error body that we know: the status has to do.
  }
  return `the server answered with status ${response.status}`;
}

interface Chunk {
  readonly error?: { readonly message?: string };
  readonly choices?: readonly {
    readonly delta?: {
      readonly content?: string | null;
      readonly reasoning_content?: string | null;
    };
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null;
  } | null;
}

function pieceOf({ error, choices, usage }: Chunk): ChatPiece | null {
  if (error) throw new Error(error.message ?? "the server failed");
  const delta = choices?.[0]?.delta;
  const [thought, text] = [delta?.reasoning_content ?? "", delta?.content ?? ""];
  if (thought === "" && text === "" && !usage) return null;
  return {
    thought,
    text,
    usage: usage
      ? {
          promptTokens: usage.prompt_tokens,
          cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
          answerTokens: usage.completion_tokens,
        }
      : null,
  };
}

/** Data of server-sent events; comments and other fields are passed over. */
async function* events(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  // A server in this process does not end a body when its request is aborted.
  const stop = () => void reader.cancel(signal.reason).catch(() => {});
  signal.addEventListener("abort", stop, { once: true });
  try {
    let rest = "";
    while (true) {
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = lines.pop()!;
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trimStart();
    }
  } finally {
    signal.removeEventListener("abort", stop);
    await reader.cancel().catch(() => {});
  }
}
