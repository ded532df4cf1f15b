/** Counters and histograms in Prometheus' text format, by the names of vLLM, whose dashboards fit. */
import type { Engine } from "@dsv3/serve";

/** Upper bounds of the buckets, in seconds. */
const SECONDS = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

class Histogram {
  readonly #counts = new Array<number>(SECONDS.length).fill(0);
  #count = 0;
  #sum = 0;

  observe(seconds: number): void {
    const at = SECONDS.findIndex((bound) => seconds <= bound);
    if (at >= 0) this.#counts[at]!++;
    this.#count++;
    this.#sum += seconds;
  }

  lines(name: string): string[] {
    let below = 0;
    const buckets = SECONDS.map((bound, i) => {
      below += this.#counts[i]!;
      return `${name}_bucket{le="${bound}"} ${below}`;
    });
    return [
      ...buckets,
      `${name}_bucket{le="+Inf"} ${this.#count}`,
      `${name}_sum ${this.#sum}`,
      `${name}_count ${this.#count}`,
    ];
  }
}

export class Metrics {
  readonly timeToFirstToken: Histogram = new Histogram();
  readonly interTokenLatency: Histogram = new Histogram();
  readonly requestLatency: Histogram = new Histogram();
  readonly #finished = new Map<string, number>();

  /** An answer ended: `stop`, `length`, `abort` or `error`. */
  finish(reason: string): void {
    this.#finished.set(reason, (this.#finished.get(reason) ?? 0) + 1);
  }

  /** All of it as text, with the engine's own counts. */
  text(engine: Engine): string {
    const stats = engine.stats();
    const lines: string[] = [];
    const one = (name: string, type: "gauge" | "counter", help: string, value: number) => {
      const full = `vllm:${name}`;
      lines.push(`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, `${full} ${value}`);
    };
    one("num_requests_running", "gauge", "Answers being computed.", stats.running);
    one("num_requests_waiting", "gauge", "Answers waiting.", stats.waiting);
    const usage = stats.usedBlocks / stats.blocks;
    one("kv_cache_usage_perc", "gauge", "Share of cache blocks in use, 0 to 1.", usage);
    one("prefix_cache_queries", "counter", "Tokens looked up in the cache.", stats.prefixQueries);
    one("prefix_cache_hits", "counter", "Tokens found in the cache.", stats.prefixHits);
    one("num_preemptions_total", "counter", "Answers sent back to wait.", stats.preemptions);
    one("prompt_tokens_total", "counter", "Tokens of prompts.", stats.promptTokens);
    one("generation_tokens_total", "counter", "Tokens generated.", stats.generatedTokens);
    lines.push(
      "# HELP vllm:request_success_total Answers that ended, by reason.",
      "# TYPE vllm:request_success_total counter",
    );
    for (const [reason, count] of this.#finished) {
      lines.push(`vllm:request_success_total{finished_reason="${reason}"} ${count}`);
    }
    const histograms = [
      ["time_to_first_token_seconds", "From request to first token.", this.timeToFirstToken],
      ["inter_token_latency_seconds", "Between two tokens.", this.interTokenLatency],
      ["e2e_request_latency_seconds", "From request to last token.", this.requestLatency],
    ] as const;
    for (const [name, help, histogram] of histograms) {
      const full = `vllm:${name}`;
      lines.push(`# HELP ${full} ${help}`, `# TYPE ${full} histogram`, ...histogram.lines(full));
    }
    return `${lines.join("\n")}\n`;
  }
}
