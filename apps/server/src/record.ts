/** What is kept of a request for logs and traces: numbers and names, never words of it. */
import type { Usage } from "@dsv3/serve";

/** Where the routes find it. */
export interface Recorded {
  Variables: { record: RequestRecord };
}

export class RequestRecord {
  readonly requestId: string;
  readonly #began = performance.now();
  model: string | null = null;
  stream = false;
  /** Numbers of the request's body, by their names there. */
  asked: readonly (readonly [name: string, value: number])[] = [];
  usage: Usage | null = null;
  readonly finishReasons: string[] = [];
  /** Milliseconds to the first token. */
  firstTokenMs: number | null = null;
  /** What went wrong, by its code. */
  error: string | null = null;
  /** Who answers: another machine's address, or `local`; null where there is no choice. */
  upstream: string | null = null;
  /** Headers that put what others do for the request below it in a trace. */
  trace: Readonly<Record<string, string>> = {};
  /** Set while an answer goes on after its head was sent. */
  open: Promise<void> | null = null;

  constructor(requestId: string) {
    this.requestId = requestId;
  }

  get ms(): number {
    return performance.now() - this.#began;
  }

  /** The request was right, and its model is there. */
  begin(model: string, body: object): void {
    this.model = model;
    this.asked = Object.entries(body).filter(([, value]) => typeof value === "number");
  }

  fields(): Record<string, unknown> {
    const { requestId, model, stream, upstream, usage, finishReasons, firstTokenMs, error, ms } =
      this;
    return {
      requestId,
      ms: Math.round(ms),
      ...(model !== null && { model, stream }),
      ...(upstream !== null && { upstream }),
      ...(usage && {
        promptTokens: usage.promptTokens,
        cachedTokens: usage.cachedTokens,
        completionTokens: usage.completionTokens,
      }),
      ...(finishReasons.length > 0 && { finishReasons }),
      ...(firstTokenMs !== null && { firstTokenMs: Math.round(firstTokenMs) }),
      ...(error !== null && { error }),
    };
  }
}
