/** A client in a process of its own: `fork("serve-client.ts", [url])`, then a message for each load. */
import { type Answer, burst } from "./serve-load.ts";

const url = process.argv[2]!;

const answer: Answer = async function* (prompt, max_tokens) {
  const body = { model: "bench", prompt, max_tokens, temperature: 0, ignore_eos: true };
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, logprobs: 0 }),
  });
  if (!response.ok) throw new Error(await response.text());
  let rest = "";
  for await (const text of response.body!.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const { choices } = JSON.parse(line.slice(6)) as {
        choices: { logprobs?: { tokens: string[] } }[];
      };
      for (const _ of choices[0]?.logprobs?.tokens ?? []) yield;
    }
  }
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
