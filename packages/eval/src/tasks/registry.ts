/** All tasks and groups by name. */
import type { Task } from "../task.ts";
import { CHOICE_TASKS } from "./choice.ts";
import { GENERATIVE_TASKS } from "./generative.ts";
import type { TaskGroup } from "./group.ts";
import { BLIMP, LANGUAGE_TASKS } from "./language.ts";
import { MMLU_GROUPS, MMLU_TASKS } from "./mmlu.ts";
import { RULE_TASKS } from "./rules.ts";

export const EVAL_TASKS: readonly Task[] = [
  ...CHOICE_TASKS,
  ...GENERATIVE_TASKS,
  ...LANGUAGE_TASKS,
  ...MMLU_TASKS,
  ...RULE_TASKS,
];

export const EVAL_GROUPS: readonly TaskGroup[] = [...MMLU_GROUPS, BLIMP];

/** What was asked for by name. */
export interface Selection {
  readonly tasks: readonly Task[];
  readonly groups: readonly TaskGroup[];
}

/**
 * Tasks and groups by their names; a group brings its tasks, and `mmlu` its fields. None comes twice.
 * @throws RangeError for a name that there is not
 */
export function selectTasks(names: readonly string[]): Selection {
  const tasks = new Map<string, Task>();
  const groups = new Map<string, TaskGroup>();
  const byName = new Map(EVAL_TASKS.map((task) => [task.name, task]));
  for (const name of names) {
    const task = byName.get(name);
    const group = EVAL_GROUPS.find((one) => one.name === name);
    if (task === undefined && group === undefined) {
      throw new RangeError(`there is no task "${name}"`);
    }
    if (task) tasks.set(name, task);
    if (!group) continue;
    const inside = EVAL_GROUPS.filter((one) => one.members.every((m) => group.members.includes(m)));
    for (const one of inside) groups.set(one.name, one);
    for (const member of group.members) tasks.set(member, byName.get(member) as Task);
  }
  return { tasks: [...tasks.values()], groups: [...groups.values()] };
}
