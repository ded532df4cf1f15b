/** The application on a port of this machine, and its orderly end. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { serve } from "@hono/node-server";
import type { App } from "./app.ts";

export interface ListenOptions {
  /** 127.0.0.1 unless given: this machine alone. */
  readonly host?: string;
  /** 8000 unless given; 0: any that is free. */
  readonly port?: number;
  /** A connection that takes nothing for so many milliseconds is closed; 2 minutes unless given. */
  readonly idleTimeout?: number;
}

export interface Listening {
  readonly url: string;
  /**
   * Takes no new requests, waits at most `drain` milliseconds for those at work, then ends the rest.
   */
  close(drain: number): Promise<void>;
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
  server.setTimeout(idleTimeout);
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
