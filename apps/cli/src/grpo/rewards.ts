/** `--reward NAME[=ARGUMENT][*WEIGHT]`: the functions that reinforcement learning maximises. */
import {
  boxed,
  containing,
  exact,
  number,
  ofForm,
  ofLength,
  type Reward,
  taskReward,
  type WeightedReward,
} from "@dsv3/data";
import { codeReward } from "@dsv3/data/node";
import { UsageError } from "../errors.ts";

interface Kind {
  readonly help: string;
  make(argument: string | undefined, limits: { readonly maxTokens: number }): Reward;
}

/** Refuses an argument where none is taken. */
const plain = (help: string, reward: Reward): Kind => ({
  help,
  make(argument) {
    if (argument !== undefined) throw new Error("it takes no argument");
    return reward;
  },
});

const pattern = (help: string, reward: (pattern: RegExp) => Reward): Kind => ({
  help,
  make(argument) {
    if (!argument) throw new Error("it needs an expression, as in regex=\\d+");
    return reward(new RegExp(argument, "u"));
  },
});

const KINDS: Readonly<Record<string, Kind>> = {
  task: plain("the task's own check", taskReward),
  exact: plain("the box holds the answer", exact),
  number: plain("the box holds the answer's number", number),
  boxed: plain("there is a box", boxed),
  format: pattern("the whole reply is of a form", ofForm),
  regex: pattern("an expression is found", containing),
  length: {
    help: "less than 0 in the last N tokens before the limit",
    make(argument, { maxTokens }) {
      const margin = Number(argument);
      if (!(margin > 0)) throw new Error("it needs a number of tokens, as in length=8");
      return ofLength({ limit: maxTokens, margin });
    },
  },
  code: plain("JavaScript in the reply passes the question's tests", codeReward()),
};

export const REWARD_HELP: string = Object.entries(KINDS)
  .map(([name, { help }]) => `${name} (${help})`)
  .join(", ");

/** @throws UsageError for a reward that is not one, with what was wrong */
export function parseRewards(
  specs: readonly string[],
  limits: { readonly maxTokens: number },
): WeightedReward[] {
  return specs.map((spec) => {
    const [, name = "", argument, factor = "1"] =
      /^([a-z]+)(?:=(.*?))?(?:\*(-?[\d.]+))?$/s.exec(spec) ?? [];
    const weight = Number(factor);
    const kind = Object.hasOwn(KINDS, name) ? KINDS[name] : undefined;
    if (kind === undefined || !Number.isFinite(weight)) {
      throw new UsageError(
        `--reward ${spec}: expected NAME, NAME=ARGUMENT or either with *WEIGHT; names are ${Object.keys(KINDS).join(", ")}`,
      );
    }
    try {
      return { name, weight, score: kind.make(argument, limits) };
    } catch (error) {
      throw new UsageError(`--reward ${spec}: ${(error as Error).message}`);
    }
  });
}
