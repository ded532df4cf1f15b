import {
  distill as distillOne,
  type Question,
  TASKS,
  type TaskItem,
  taskChat,
  taskItems,
} from "@dsv3/data";
import { pinNames } from "@dsv3/data/node";
import { backendFlag } from "../backend.ts";
import { type Command, defineCommand } from "../command.ts";
import { Journal } from "../distill/journal.ts";
import { teacherOf } from "../distill/teacher.ts";
import { UsageError } from "../errors.ts";
import { readQuestions } from "../grpo/questions.ts";
import { parseRewards, REWARD_HELP } from "../grpo/rewards.ts";
import { printJson } from "../ui/json.ts";
import { Progress } from "../ui/progress.ts";
import { openTarget } from "./chat-target.ts";

const SYSTEM = "Think about the question step by step, check your result, and then answer.";

export const distill: Command = defineCommand({
  summary: "Has a teacher answer questions, and keeps its good answers as conversations for sft.",
  flags: {
    teacher: {
      type: "string",
      value: "DIR|URL",
      help: "a Hugging Face folder, or a server: http://127.0.0.1:8000/v1",
      required: true,
    },
    name: {
      type: "string",
      value: "NAME",
      help: "which of the server's models; the first if not given",
    },
    data: {
      type: "string",
      value: "PATH,PATH",
      help: 'questions: records with "prompt", "answer" or "tests", and "response" if there is one already',
    },
    task: { type: "choice", choices: TASKS, help: "questions made by rule, in place of --data" },
    count: { type: "integer", value: "N", help: "questions of the task", default: 1000, min: 1 },
    out: { type: "string", value: "FILE", help: "the conversations, as jsonl", required: true },
    reward: {
      type: "list",
      value: "NAME[=ARGUMENT][*WEIGHT]",
      help: `what makes an answer good: ${REWARD_HELP}; task for --task, exact for --data unless told`,
    },
    threshold: {
      type: "number",
      value: "R",
      help: "sum of rewards that a good answer has",
      default: 1,
    },
    attempts: {
      type: "integer",
      value: "N",
      help: "answers to a question, at most",
      default: 4,
      min: 1,
    },
    keep: { type: "integer", value: "N", help: "good answers that are enough", default: 1, min: 1 },
    system: {
      type: "string",
      value: "TEXT",
      help: "stands before the teacher's answers",
      default: SYSTEM,
    },
    temperature: { type: "number", value: "T", help: "of the teacher", default: 1, min: 0, max: 2 },
    maxTokens: { type: "integer", value: "N", help: "the longest answer", default: 1024, min: 1 },
    parallel: { type: "integer", value: "N", help: "questions at once", default: 8, min: 1 },
    seed: { type: "integer", value: "N", help: "of tasks and answers", default: 0, min: 0 },
    backend: backendFlag,
    json: { type: "boolean", help: "print what came of it as JSON" },
  },
  examples: [
    "distill --teacher http://127.0.0.1:8000/v1 --data problems.jsonl --reward number --out taught.jsonl",
    "distill --teacher runs/rl/checkpoints/step-100 --task sort --count 500 --out taught.jsonl   # again after a stop: it goes on",
  ],
  async run(args, io) {
    const { teacher: model, name, task, count, data, out, attempts, keep, threshold } = args;
    const { system, temperature, maxTokens, seed, parallel, backend } = args;
    if ((task === undefined) === (data === undefined)) {
      throw new UsageError("give --task or --data, one of them: where questions come from");
    }
    const specs = args.reward.length > 0 ? args.reward : [task ? "task" : "exact"];
    const rewards = parseRewards(specs, { maxTokens });
    const paths = data === undefined ? undefined : await pinNames(data.split(","));
    const questions = paths ? await readQuestions(paths) : taskQuestions(task, count, seed);
    const options = { attempts, keep, threshold, system };
    const settings = {
      model,
      name,
      task,
      count,
      paths,
      specs,
      ...options,
      temperature,
      maxTokens,
      seed,
    };
    const journal = await Journal.open(out, settings);
    const engine = { maxRunning: parallel };
    const { target, close } = await openTarget(model, { name, backend, engine }, io);
    const progress = new Progress(io.stderr, { label: "distilling", total: questions.length });
    try {
      const asked = { system, temperature, maxTokens, seed, signal: io.signal };
      const teacher = teacherOf(target, asked);
      let next = 0;
      const lane = async () => {
        while (next < questions.length && !io.signal.aborted) {
          const index = next++;
          if (journal.has(index)) continue;
          const question = questions[index] as Question;
          await journal.add(index, await distillOne(question, teacher, { rewards, ...options }));
          progress.update({ done: journal.size });
        }
      };
      await Promise.all(Array.from({ length: parallel }, lane)).catch((error) => {
        next = questions.length; // The others end after the question that they are at.
        if (!io.signal.aborted) throw error;
      });
    } finally {
      progress.finish();
      await close();
    }
    if (io.signal.aborted) {
      io.stdout.write(
        `Stopped after ${journal.size} of ${questions.length} questions; the same command goes on\n`,
      );
      return;
    }
    const made = await journal.finish();
    if (args.json) printJson(io.stdout, { file: out, questions: questions.length, ...made });
    else {
      const { answered, accepted, chats } = made;
      io.stdout.write(
        `${answered} of ${questions.length} questions answered well, ${accepted} of ${made.attempts} answers kept: ${chats} conversations in ${out}\n` +
          `Next: dsv3 sft --model DIR --data ${out} --out runs/taught\n`,
      );
    }
  },
});

/** The original response to a question made by rule is its answer in a box. */
function taskQuestions(
  task: (typeof TASKS)[number] | undefined,
  count: number,
  seed: number,
): Question[] {
  if (task === undefined) return [];
  const items = taskItems(task, "train", { seed });
  return Array.from({ length: count }, () => {
    const item = items.next().value as TaskItem;
    const { prompt, answer } = item;
    return { prompt, answer, item, response: taskChat(item).messages[1].content };
  });
}
