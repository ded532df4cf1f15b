/** Counters and histograms in Prometheus' text format, by the names of vLLM, whose dashboards fit. */
import type { EngineStats } from "@dsv3/serve";
import type { ModelState } from "./models.ts";
import type { RequestRecord } from "./record.ts";

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
type Counts = { readonly [key in Counted]?: number } & Partial<Pick<EngineStats, "draftDepths">>;

/** What is counted of one model. */
export class Metrics {
  readonly timeToFirstToken: Histogram = new Histogram();
  readonly interTokenLatency: Histogram = new Histogram();
  readonly requestLatency: Histogram = new Histogram();
  readonly finished = new Map<string, number>();
  readonly #kept = new Map<Counted, number>();
  #keptDepths: readonly number[] = [];

  /** An answer ended: `stop`, `length`, `abort` or `error`. */
  finish(reason: string): void {
    this.finished.set(reason, (this.finished.get(reason) ?? 0) + 1);
  }

  /** Adds counts that no engine here keeps: those of one that goes, or of a request elsewhere. */
  keep(counts: Counts): void {
    for (const [, , key] of COUNTERS) {
      const count = this.count(key, counts);
      if (count !== null) this.#kept.set(key, count);
    }
    this.#keptDepths = this.rightGuesses(counts);
  }

  /** Of all engines that the model has had; null if nobody counts it. */
  count(key: Counted, stats: Counts | null): number | null {
    const now = stats?.[key];
    const kept = this.#kept.get(key);
    return now === undefined && kept === undefined ? null : (now ?? 0) + (kept ?? 0);
  }

  /** Tokens guessed right by how far ahead, of all engines that the model has had. */
  rightGuesses(stats: Counts | null): number[] {
    const depths = stats?.draftDepths ?? [];
    const length = Math.max(depths.length, this.#keptDepths.length);
    return Array.from(
      { length },
      (_, i) => (depths[i]?.accepted ?? 0) + (this.#keptDepths[i] ?? 0),
    );
  }
}

/** What is counted of a request's answers while they come. */
export class Answering {
  readonly #metrics: Metrics;
  readonly #record: RequestRecord;
  readonly #began = performance.now();
  /** When each answer last grew. */
  readonly #last = new Map<number, number>();

  constructor(metrics: Metrics, record: RequestRecord) {
    this.#metrics = metrics;
    this.#record = record;
  }

  /** One of the answers grew; with a reason, it has ended. */
  take(answer: number, reason: string | null): void {
    const now = performance.now();
    const before = this.#last.get(answer);
    this.#last.set(answer, now);
    const { timeToFirstToken, interTokenLatency } = this.#metrics;
    if (before === undefined) timeToFirstToken.observe((now - this.#began) / 1e3);
    else interTokenLatency.observe((now - before) / 1e3);
    this.#record.firstTokenMs ??= this.#record.ms;
    if (reason) this.end(reason);
  }

  end(reason: string): void {
    this.#metrics.finish(reason);
    this.#metrics.requestLatency.observe((performance.now() - this.#began) / 1e3);
    this.#record.finishReasons.push(reason);
  }
}

/** What samples are written of: a model of this machine, one of another, or such a machine. */
export interface Series {
  /** `model_name="m"`; others tell them apart by it. */
  readonly label: string;
  readonly metrics: Metrics | null;
  /** Null while there is no engine. */
  readonly stats: Partial<EngineStats> | null;
  /** Whether the model is in memory; null where that is not ours to know. */
  readonly loaded: boolean | null;
}

/** The metrics of a model of this machine. */
export function seriesOf({ name, metrics, stats, loaded }: ModelState): Series {
  return { label: `model_name=${JSON.stringify(name)}`, metrics, stats, loaded };
}

/** Samples by their labels, under the names that they share. */
export class Exposition {
  readonly #lines: string[] = [];

  family(name: string, type: string, help: string, samples: Iterable<readonly [string, number]>) {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
    for (const [label, value] of samples) this.#lines.push(`${name}{${label}} ${value}`);
  }

  histogram(name: string, help: string, samples: Iterable<readonly [string, Histogram]>) {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} histogram`);
    for (const [label, value] of samples) this.#lines.push(...value.lines(name, label));
  }

  text(): string {
    return `${this.#lines.join("\n")}\n`;
  }
}

/** Writes what is counted of all models. Those that are not loaded have no gauges. */
export function exposeModels(out: Exposition, series: readonly Series[]): void {
  const each = (value: (one: Series) => number | null | undefined) =>
    series.flatMap((one): [string, number][] => {
      const known = value(one);
      return known === null || known === undefined ? [] : [[one.label, known]];
    });
  const loaded = each(({ loaded }) => (loaded === null ? null : Number(loaded)));
  out.family("dsv3:model_loaded", "gauge", "1 if the model is in memory.", loaded);
  const gauge = (name: string, help: string, value: (one: Series) => number | undefined) =>
    out.family(`vllm:${name}`, "gauge", help, each(value));
  gauge("num_requests_running", "Answers being computed.", ({ stats }) => stats?.running);
  gauge("num_requests_waiting", "Answers waiting.", ({ stats }) => stats?.waiting);
  const paused = each(({ stats }) => stats?.paused);
  out.family("dsv3:num_requests_paused", "gauge", "Answers waiting for their readers.", paused);
  gauge("kv_cache_usage_perc", "Share of cache blocks in use, 0 to 1.", ({ stats }) =>
    stats?.blocks === undefined ? undefined : stats.usedBlocks! / stats.blocks,
  );
  for (const [name, help, key] of COUNTERS) {
    const counts = each(({ metrics, stats }) => metrics?.count(key, stats));
    out.family(`vllm:${name}`, "counter", help, counts);
  }
  const guessed = series.flatMap(({ label, metrics, stats }) =>
    (metrics?.rightGuesses(stats) ?? []).map((count, i): [string, number] => [
      `${label},position="${i}"`,
      count,
    ]),
  );
  out.family(
    "vllm:spec_decode_num_accepted_tokens_per_pos_total",
    "counter",
    "Tokens guessed right, by how far ahead.",
    guessed,
  );
  const ended = series.flatMap(({ label, metrics }) =>
    Array.from(metrics?.finished ?? [], ([reason, count]): [string, number] => {
      return [`${label},finished_reason=${JSON.stringify(reason)}`, count];
    }),
  );
  out.family("vllm:request_success_total", "counter", "Answers that ended, by reason.", ended);
  const histograms = [
    ["time_to_first_token_seconds", "From request to first token.", "timeToFirstToken"],
    ["inter_token_latency_seconds", "Between two tokens.", "interTokenLatency"],
    ["e2e_request_latency_seconds", "From request to last token.", "requestLatency"],
  ] as const;
  for (const [name, help, key] of histograms) {
    const kept = series.flatMap(({ label, metrics }): [string, Histogram][] => {
      return metrics ? [[label, metrics[key]]] : [];
    });
    out.histogram(`vllm:${name}`, help, kept);
  }
}
