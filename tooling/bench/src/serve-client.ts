/**
 * A client in a process of its own: `fork("serve-client.ts", [url])`, then a message for each load. It
 * does as little as it can, for it takes its time from the server's cores: events are counted, not read.
 */
import { Agent, type IncomingMessage, request } from "node:http";
import { type Answer, burst } from "./serve-load.ts";

const url = process.argv[2]!;
const agent = new Agent({ keepAlive: true });

const answer: Answer = async function* (prompt, max_tokens) {
  const body = { model: "bench", prompt, max_tokens, temperature: 0, ignore_eos: true };
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const headers = { "content-type": "application/json" };
    const post = request(`${url}/v1/completions`, { method: "POST", agent, headers }, resolve);
    post.on("error", reject);
    post.end(JSON.stringify({ ...body, stream: true, logprobs: 0 }));
  });
  response.setEncoding("latin1");
  if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
  // Every token is an event, and [DONE] is one more. The two bytes that end one may come apart.
  let [events, before] = [0, ""];
  for await (const text of response as AsyncIterable<string>) {
    const ends = (before + text).split("\n\n").length - 1;
    before = /(?<!\n)\n$/.test(text) ? "\n" : "";
    for (let i = 0; i < ends; i++) if (++events <= max_tokens) yield;
  }
  if (events !== max_tokens + 1) throw new Error(`${events} events came, not ${max_tokens + 1}`);
};

export interface Order {
  readonly streams: number;
  readonly vocabSize: number;
  readonly tokens: number;
}

process.on("message", ({ streams, vocabSize, tokens }: Order) => {
  burst(answer, streams, vocabSize, tokens).then(
    (result) => process.send!(result),
    (error: Error) => {
      console.error(error);
      process.exit(1);
    },
  );
});
