/**
 * One request to another server. Node's own client, not `fetch`: that one gives up on answers whose head
 * takes more than five minutes, and a long answer that is not streamed does.
 */
import { Agent, type ClientRequest, type IncomingMessage, request as plain } from "node:http";
import { Agent as SecureAgent, request as secure } from "node:https";

export interface Call {
  readonly method: "GET" | "POST";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Ends the request at once, whatever has been answered by then. */
  readonly signal: AbortSignal;
}

/** Connections that wait for a next request; engines close theirs after 5 s. */
const idle = { keepAlive: true, maxFreeSockets: 64 };
const agents = { "http:": new Agent(idle), "https:": new SecureAgent(idle) };

/** Milliseconds to a connection. */
const CONNECT_MS = 5000;

/**
 * Sends a request, and resolves with the head of its answer; the rest is read as fast as it is taken.
 * Redirects are answers like others: nobody but the server that was named is asked.
 * @throws Error if there is no answer; the signal's reason
 */
export async function send({ method, url, headers, body, signal }: Call): Promise<IncomingMessage> {
  signal.throwIfAborted();
  const { protocol } = url as { protocol: keyof typeof agents };
  const once = () =>
    new Promise<IncomingMessage>((resolve, reject) => {
      const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
      const request = (protocol === "https:" ? secure : plain)(url, {
        method,
        headers: { ...headers, ...length },
        agent: agents[protocol],
        signal,
      });
      limitConnecting(request);
      request.on("response", resolve);
      request.on("error", (error) => {
        reject(new SendError(error.message, request.reusedSocket, { cause: error }));
      });
      request.end(body);
    });
  try {
    // A connection that was kept may have been closed meanwhile: that says nothing of the server.
    return await once().catch((error: SendError) => {
      if (signal.aborted || !error.reused) throw error;
      return once();
    });
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
}

class SendError extends Error {
  /** Whether the connection had served another request before. */
  readonly reused: boolean;

  constructor(message: string, reused: boolean, options: ErrorOptions) {
    super(message, options);
    this.reused = reused;
  }
}

function limitConnecting(request: ClientRequest): void {
  request.on("socket", (socket) => {
    if (!socket.connecting) return;
    const late = () => request.destroy(new Error(`no connection within ${CONNECT_MS} ms`));
    const clock = setTimeout(late, CONNECT_MS);
    socket.once("connect", () => clearTimeout(clock));
    socket.once("close", () => clearTimeout(clock));
  });
}

/** A whole body as text. @throws Error if it breaks off or is longer than so many bytes */
export async function readText(answer: IncomingMessage, most: number): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > most) {
      answer.destroy();
      throw new Error(`the answer has more than ${most} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
