/** A line of metrics.jsonl of reinforcement learning, in the names of TRL's GRPOTrainer. */
import { isPerOutput, spread } from "./grpo-loss.ts";
import type { GrpoSettings } from "./grpo-settings.ts";
import type { UpdateMetrics } from "./policy.ts";
import { type Judged, type Output, teaches } from "./rollouts.ts";

/**
 * With `reward`, `reward_std`, `frac_reward_zero_std`, `rewards/NAME/{mean,std}`, `entropy`, `kl`,
 * `clip_ratio/…`, `completions/…` and `sampling/logp_difference/…` among them.
 */
export interface GrpoMetrics {
  readonly step: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly loss: number;
  readonly reward: number;
  /** What `evaluate` found: before the first step, or after this one. */
  readonly evaluation?: Readonly<Record<string, number>>;
  readonly [name: string]: number | Readonly<Record<string, number>> | undefined;
}

/** Distances of log-probabilities, see `sampling/logp_difference`. */
export interface SampledGap {
  sum: number;
  max: number;
  tokens: number;
}

/** What the updates of one step measured: means over them, by tokens or outputs. */
export function updateMetrics(
  { form, beta }: Pick<GrpoSettings, "form" | "beta">,
  updates: readonly UpdateMetrics[],
  parts: readonly (readonly Output[])[],
): { loss: number; gradNorm: number; [name: string]: number } {
  const tokensOf = (outputs: readonly Output[]) => outputs.reduce((n, o) => n + o.tokens.length, 0);
  const at = (i: number) => parts[i % parts.length] as readonly Output[];
  const perToken = (name: "kl" | "entropy") =>
    mean(updates.map((u, i) => u[name] / tokensOf(at(i))));
  const shares = (name: "clippedLow" | "clippedHigh") =>
    updates.map((u, i) => u[name] / (isPerOutput(form) ? at(i).length : tokensOf(at(i))));
  const [low, high] = [shares("clippedLow"), shares("clippedHigh")];
  return {
    loss: mean(updates.map((u) => u.loss)),
    gradNorm: mean(updates.map((u) => u.gradNorm)),
    entropy: perToken("entropy"),
    ...(beta > 0 ? { kl: perToken("kl") } : {}),
    "clip_ratio/region_mean": mean(low) + mean(high),
    "clip_ratio/low_mean": mean(low),
    "clip_ratio/low_min": Math.min(...low),
    "clip_ratio/high_mean": mean(high),
    "clip_ratio/high_max": Math.max(...high),
  };
}

/** What was drawn in one step, before any of it was left out. */
export function rolloutMetrics(
  names: readonly string[],
  groups: readonly (readonly Judged[])[],
  gap: SampledGap,
): { reward: number; [name: string]: number } {
  const outputs = groups.flat();
  const ended = outputs.filter(({ finished }) => finished);
  const rewards = names.flatMap((name, i) => {
    const { mean, std } = spread(outputs.map(({ rewards }) => rewards[i] as number));
    return [
      [`rewards/${name}/mean`, mean],
      [`rewards/${name}/std`, std],
    ];
  });
  return {
    reward: mean(outputs.map(({ reward }) => reward)),
    // TRL: the mean over groups of the deviation within.
    reward_std: mean(groups.map((group) => spread(group.map(({ reward }) => reward)).std)),
    frac_reward_zero_std: groups.filter((group) => !teaches(group)).length / groups.length,
    ...(Object.fromEntries(rewards) as Record<string, number>),
    ...lengths("length", outputs),
    ...lengths("terminated_length", ended),
    "completions/clipped_ratio": 1 - ended.length / outputs.length,
    ...(gap.tokens > 0
      ? {
          "sampling/logp_difference/mean": gap.sum / gap.tokens,
          "sampling/logp_difference/max": gap.max,
        }
      : {}),
  };
}

/** 0 of nothing, as TRL has it. */
function lengths(name: string, outputs: readonly Output[]): Record<string, number> {
  const counts = outputs.length > 0 ? outputs.map(({ tokens }) => tokens.length) : [0];
  return {
    [`completions/mean_${name}`]: mean(counts),
    [`completions/min_${name}`]: Math.min(...counts),
    [`completions/max_${name}`]: Math.max(...counts),
  };
}

function mean(values: readonly number[]): number {
  return spread(values).mean;
}
