/** Applications over engines that fail on purpose, and what their clients see. */
import { afterEach } from "vitest";
import { type App, type AppOptions, createApp } from "../app.ts";
import { inOrder, prefixKey } from "../gateway/affinity.ts";
import { Gateway, type GatewayOptions } from "../gateway/gateway.ts";
import { Models } from "../models.ts";
import type { Log } from "../observe.ts";
import { type Answering, type FakeUpstream, fakeUpstream } from "./fake-upstream.ts";

export const chat = "/v1/chat/completions";
export const messages = [{ role: "user", content: "some words" }];

export interface Fronted {
  readonly app: App;
  readonly gateway: Gateway;
  readonly fakes: readonly FakeUpstream[];
  /** Lines of the log. */
  readonly lines: Record<string, unknown>[];
}

/** Makes applications over one engine for each way to answer, which end with the test. */
export function fronts(): (
  answers: readonly Answering[],
  options?: Partial<AppOptions & Omit<GatewayOptions, "upstreams">>,
) => Promise<Fronted> {
  const ends: (() => unknown)[] = [];
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });
  return async (answers, options = {}) => {
    const fakes = await Promise.all(answers.map((answer) => fakeUpstream(answer)));
    const { log, lines } = diary();
    const { interval = 60_000, ...more } = options;
    const upstreams = fakes.map(({ url }) => ({ url, key: "upstream-secret" }));
    const gateway = await Gateway.open({ upstreams, interval, log });
    ends.push(() => gateway.close(), ...fakes.map(({ close }) => close));
    const app = createApp({ models: new Models([]), gateway, log, ...more });
    return { app, gateway, fakes, lines };
  };
}

export function diary(): { lines: Record<string, unknown>[]; log: Log } {
  const lines: Record<string, unknown>[] = [];
  const write = (level: string) => (fields: object, message: string) =>
    void lines.push({ level, message, ...fields });
  return { lines, log: { debug: write("debug"), info: write("info"), error: write("error") } };
}

/** A request whose favourite is the engine of that number, and then the others in their order. */
export function favouring(
  { fakes }: Fronted,
  number: number,
): { model: string; messages: object[] } {
  const engines = fakes.map(({ url }) => ({ name: url, running: 0 }));
  const order = [fakes[number]!, ...fakes.filter((_, i) => i !== number)].map(({ url }) => url);
  for (let i = 0; ; i++) {
    const body = { model: "m", messages: [{ role: "user", content: `question ${i}` }] };
    const names = inOrder(engines, prefixKey(body)).map(({ name }) => name);
    if (names.join() === order.join()) return body;
  }
}

/** Data of a stream's events, as a client reads them; comments as they are. */
export function eventsIn(text: string): unknown[] {
  const parts = text.split("\n\n").filter((part) => part !== "");
  return parts.map((part) => {
    const data = /^data: (.*)$/m.exec(part)?.[1] ?? part;
    return data.startsWith("{") ? JSON.parse(data) : data;
  });
}
