/** The application on a port of this machine, and its orderly end. */
import type { IncomingMessage, Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { serve } from "@hono/node-server";
import type { App } from "./app.ts";

export interface ListenOptions {
  /** 127.0.0.1 unless given: this machine alone. */
  readonly host?: string;
  /** 8000 unless given; 0: any that is free. */
  readonly port?: number;
  /** A connection on which nothing comes or goes for so many milliseconds is closed; 2 minutes unless given. */
  readonly idleTimeout?: number;
}

export interface Listening {
  readonly url: string;
  /**
   * Takes no new requests, waits at most `drain` milliseconds for those at work, then ends the rest.
   */
  close(drain: number): Promise<void>;
}

/**
 * Closes connections that have been silent for so many milliseconds, but for those whose request is whole
 * and whose answer is still being made: how long that may take is not a matter of the connection.
 */
function closeIdle(server: Server, milliseconds: number): void {
  const asked = new WeakMap<Socket, IncomingMessage>();
  server.on("request", (request, response) => {
    asked.set(request.socket, request);
    response.once("close", () => asked.delete(request.socket));
  });
  // Node closes connections between requests after 5 seconds, under the hands of clients that keep them for
  // the next one, and of proxies, which often do so for a minute.
  server.keepAliveTimeout = milliseconds;
  server.setTimeout(milliseconds, (socket) => {
    const answering = asked.get(socket)?.complete && socket.writableLength === 0;
    if (answering) socket.setTimeout(milliseconds);
    else socket.destroy();
  });
}

/** @throws Error if the port is taken or not allowed */
export async function listen(app: App, options: ListenOptions = {}): Promise<Listening> {
  const { host = "127.0.0.1", port = 8000, idleTimeout = 120_000 } = options;
  const server = await new Promise<Server>((resolve, reject) => {
    const started = serve({ fetch: app.fetch, hostname: host, port }, () => {
      resolve(started as Server);
    });
    started.on("error", reject);
  });
  closeIdle(server, idleTimeout);
  const { address, port: actual, family } = server.address() as AddressInfo;
  return {
    url: `http://${family === "IPv6" ? `[${address}]` : address}:${actual}`,
    async close(drain) {
      app.drain();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // Connections that are kept alive after their last answer would be waited for.
      const idle = setInterval(() => server.closeIdleConnections(), 50);
      const late = setTimeout(() => {
        app.abort();
        // What does not end by itself now has a reader that does not read.
        setTimeout(() => server.closeAllConnections(), 500).unref();
      }, drain);
      await closed;
      clearInterval(idle);
      clearTimeout(late);
    },
  };
}
