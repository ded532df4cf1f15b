/** Counters and histograms in Prometheus' text format, by the names of vLLM, whose dashboards fit. */
import type { EngineStats } from "@dsv3/serve";
import type { ModelState } from "./models.ts";

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

  lines(name: string, label: string): string[] {
    let below = 0;
    const buckets = SECONDS.map((bound, i) => {
      below += this.#counts[i]!;
      return `${name}_bucket{${label},le="${bound}"} ${below}`;
    });
    return [
      ...buckets,
      `${name}_bucket{${label},le="+Inf"} ${this.#count}`,
      `${name}_sum{${label}} ${this.#sum}`,
      `${name}_count{${label}} ${this.#count}`,
    ];
  }
}

/** Counts of an engine that go on after the model was unloaded and loaded again. */
const COUNTERS = [
  ["prefix_cache_queries_total", "Tokens looked up in the cache.", "prefixQueries"],
  ["prefix_cache_hits_total", "Tokens found in the cache.", "prefixHits"],
  ["num_preemptions_total", "Answers sent back to wait.", "preemptions"],
  ["prompt_tokens_total", "Tokens of prompts.", "promptTokens"],
  ["generation_tokens_total", "Tokens generated.", "generatedTokens"],
  ["spec_decode_num_draft_tokens_total", "Tokens guessed ahead.", "drafts"],
  ["spec_decode_num_accepted_tokens_total", "Tokens guessed right.", "acceptedDrafts"],
] as const;

type Counted = (typeof COUNTERS)[number][2];

/** What is counted of one model. */
export class Metrics {
  readonly timeToFirstToken: Histogram = new Histogram();
  readonly interTokenLatency: Histogram = new Histogram();
  readonly requestLatency: Histogram = new Histogram();
  readonly finished = new Map<string, number>();
  readonly #kept = new Map<Counted, number>();

  /** An answer ended: `stop`, `length`, `abort` or `error`. */
  finish(reason: string): void {
    this.finished.set(reason, (this.finished.get(reason) ?? 0) + 1);
  }

  /** Adds the counts of an engine that goes. */
  keep(stats: EngineStats): void {
    for (const [, , key] of COUNTERS) this.#kept.set(key, this.count(key, stats));
  }

  /** Of all engines that the model has had. */
  count(key: Counted, stats: EngineStats | null): number {
    return (this.#kept.get(key) ?? 0) + (stats?.[key] ?? 0);
  }
}

/** The metrics of all models as text. Models that are not loaded have no gauges. */
export function metricsText(models: readonly ModelState[]): string {
  const lines: string[] = [];
  type Samples = (model: ModelState, label: string, full: string) => readonly string[];
  const family = (full: string, type: string, help: string, samples: Samples) => {
    lines.push(`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`);
    for (const model of models) {
      lines.push(...samples(model, `model_name=${JSON.stringify(model.name)}`, full));
    }
  };
  const gauge = (name: string, help: string, value: (stats: EngineStats) => number) => {
    family(`vllm:${name}`, "gauge", help, ({ stats }, label, full) =>
      stats ? [`${full}{${label}} ${value(stats)}`] : [],
    );
  };
  family("dsv3:model_loaded", "gauge", "1 if the model is in memory.", (model, label, full) => [
    `${full}{${label}} ${model.loaded ? 1 : 0}`,
  ]);
  gauge("num_requests_running", "Answers being computed.", ({ running }) => running);
  gauge("num_requests_waiting", "Answers waiting.", ({ waiting }) => waiting);
  gauge("kv_cache_usage_perc", "Share of cache blocks in use, 0 to 1.", (stats) => {
    return stats.usedBlocks / stats.blocks;
  });
  for (const [name, help, key] of COUNTERS) {
    family(`vllm:${name}`, "counter", help, ({ metrics, stats }, label, full) => [
      `${full}{${label}} ${metrics.count(key, stats)}`,
    ]);
  }
  const help = "Answers that ended, by reason.";
  family("vllm:request_success_total", "counter", help, ({ metrics }, label, full) =>
    Array.from(metrics.finished, ([reason, count]) => {
      return `${full}{${label},finished_reason="${reason}"} ${count}`;
    }),
  );
  const histograms = [
    ["time_to_first_token_seconds", "From request to first token.", "timeToFirstToken"],
    ["inter_token_latency_seconds", "Between two tokens.", "interTokenLatency"],
    ["e2e_request_latency_seconds", "From request to last token.", "requestLatency"],
  ] as const;
  for (const [name, help, key] of histograms) {
    family(`vllm:${name}`, "histogram", help, ({ metrics }, label, full) =>
      metrics[key].lines(full, label),
    );
  }
  return `${lines.join("\n")}\n`;
}
