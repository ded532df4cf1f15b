/** The page of `dsv3 watch`, served to this machine alone. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Feed } from "./feed.ts";
import { watchPage } from "./html.ts";

export interface WatchServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Milliseconds between looks at the runs. */
const INTERVAL = 1000;

interface Client {
  readonly response: ServerResponse;
  readonly news: ReturnType<Feed["reader"]>;
}

/**
 * Serves the page at `/` and, as server-sent events, what is new at `/events`. Requests that name
 * another host than this machine are refused, so that no page of the web can read runs by a name
 * that it points here.
 * @param port 0: any that is free
 */
export async function serveRuns(feed: Feed, port: number): Promise<WatchServer> {
  const page = await watchPage();
  const clients = new Set<Client>();
  const server = createServer((request, response) => {
    response.setHeader("x-content-type-options", "nosniff");
    response.setHeader("cache-control", "no-store");
    const path = (request.url ?? "").split("?")[0];
    if (!isLocal(request)) refuse(response, 403, "this page is for this machine alone");
    else if (request.method !== "GET") refuse(response, 405, "only GET");
    else if (path === "/") {
      response.setHeader("content-security-policy", page.policy);
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(page.html);
    } else if (path === "/events") {
      response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
      const client = { response, news: feed.reader() };
      clients.add(client);
      response.on("close", () => clients.delete(client));
      void look();
    } else refuse(response, 404, "there is / and /events");
  });

  let looking = false;
  async function look(): Promise<void> {
    if (clients.size === 0) return;
    // Long files take more than one interval: what is read of them so far is shown.
    if (!looking) {
      looking = true;
      await feed.refresh().finally(() => {
        looking = false;
      });
    }
    for (const client of clients) send(client);
  }
  const timer = setInterval(() => void look(), INTERVAL);

  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    async close() {
      clearInterval(timer);
      for (const { response } of clients) response.end();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

function send({ response, news }: Client): void {
  // Who reads slowly gets it all in one later.
  if (response.writableNeedDrain) return;
  const messages = news();
  for (const message of messages) response.write(`data: ${JSON.stringify(message)}\n\n`);
  // Something now and then, or nobody would notice that the reader has gone.
  if (messages.length === 0) response.write(":\n\n");
}

function isLocal({ headers }: IncomingMessage): boolean {
  return /^(127\.0\.0\.1|localhost)(:\d+)?$/.test(headers.host ?? "");
}

function refuse(response: ServerResponse, status: number, why: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(`${why}\n`);
}
