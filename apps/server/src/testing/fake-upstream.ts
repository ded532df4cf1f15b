/** An engine on a port that does on purpose what engines do by accident. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

/** What was asked of it. */
export interface Asked {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  // biome-ignore lint/suspicious/noExplicitAny: what an engine is sent is what is tested
  readonly body: any;
  /** Whether the other side went away before the answer was whole. */
  gone: boolean;
}

export type Answering = (response: ServerResponse, asked: Asked) => void | Promise<void>;

export interface FakeUpstream {
  readonly url: string;
  /** Requests to models, in their order. */
  readonly asked: Asked[];
  /** What it answers to them. */
  answer: Answering;
  /** What /health answers; null: nothing. */
  health: number | null;
  /** Headers of the requests for its health and its models. */
  readonly checks: Asked["headers"][];
  connections(): number;
  close(): Promise<void>;
}

export const chunk = (delta: object, finish_reason: string | null = null, more: object = {}) => ({
  id: "chatcmpl-1",
  object: "chat.completion.chunk",
  choices: [{ index: 0, delta, finish_reason, ...more }],
});

export const usage = { prompt_tokens: 10, completion_tokens: 2, total_tokens: 12 };

/** Sends chunks, and the end unless there is to be none. */
export function stream(response: ServerResponse, chunks: readonly object[], end = true): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const one of chunks) response.write(`data: ${JSON.stringify(one)}\n\n`);
  if (end) response.end("data: [DONE]\n\n");
}

export const json = (
  status: number,
  body: object,
  headers: Record<string, string> = {},
): Answering => {
  return (response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(body));
  };
};

/** Says a word, in one piece or in chunks. */
export function says(word: string): Answering {
  return (response, asked) => {
    const message = { role: "assistant", content: word };
    const whole = { choices: [{ index: 0, message, finish_reason: "stop" }], usage };
    if (asked.body.stream !== true) return json(200, whole)(response, asked);
    return stream(response, [
      chunk({ role: "assistant", content: "" }),
      chunk({ content: word }, "stop"),
      { ...chunk({}), choices: [], usage },
    ]);
  };
}

/** An engine that has one model, `m` of vLLM's unless told. */
export async function fakeUpstream(
  answer: Answering,
  { model = "m", owner = "vllm", port = 0 } = {},
): Promise<FakeUpstream> {
  const sockets = new Set<Socket>();
  const asked: Asked[] = [];
  const checks: Asked["headers"][] = [];
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const part of request) text += part;
    const { url: path = "", headers, method } = request;
    const body = method === "POST" ? JSON.parse(text) : null;
    const one: Asked = { path, headers, body, gone: false };
    if (path === "/health" || path === "/v1/models") checks.push(headers);
    if (path === "/health") {
      if (fake.health !== null) json(fake.health, {})(response, one);
      return;
    }
    if (path === "/v1/models") {
      const data = [{ id: model, object: "model", owned_by: owner, max_model_len: 4096 }];
      json(200, { object: "list", data })(response, one);
      return;
    }
    asked.push(one);
    response.on("close", () => {
      one.gone = !response.writableFinished;
    });
    await fake.answer(response, one);
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const fake: FakeUpstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    checks,
    answer,
    health: 200,
    connections: () => sockets.size,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
  return fake;
}
