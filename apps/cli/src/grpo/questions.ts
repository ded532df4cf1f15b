/** Questions of files, for reinforcement learning and distillation. */
import type { Question } from "@dsv3/data";
import { readRecords } from "@dsv3/data/node";

/**
 * Questions of a file: records with `prompt` (or `problem`, `question`), and what is known of a right
 * answer as `answer` or `tests`; `response` is a whole answer that is there already.
 * @throws DataError, or Error naming file and line, for a record that is no question
 */
export async function readQuestions(paths: readonly string[]): Promise<Question[]> {
  const questions: Question[] = [];
  for await (const { value, file, line } of readRecords(paths)) {
    const record = (typeof value === "object" && value !== null ? value : {}) as Record<
      string,
      unknown
    >;
    const prompt = record.prompt ?? record.problem ?? record.question;
    const { answer, tests, response } = record;
    if (typeof prompt !== "string" || prompt === "") {
      throw new Error(
        `${file}:${line}: no question; expected a text as "prompt", "problem" or "question"`,
      );
    }
    if (tests !== undefined && typeof tests !== "string") {
      throw new Error(`${file}:${line}: "tests" should be a text of JavaScript`);
    }
    if (response !== undefined && typeof response !== "string") {
      throw new Error(`${file}:${line}: "response" should be a text, a whole answer`);
    }
    if (answer !== undefined && typeof answer !== "string" && typeof answer !== "number") {
      throw new Error(`${file}:${line}: "answer" should be a text or a number`);
    }
    questions.push({
      prompt,
      ...(answer === undefined ? {} : { answer: String(answer) }),
      ...(tests === undefined ? {} : { tests }),
      ...(response === undefined ? {} : { response }),
    });
  }
  if (questions.length === 0) throw new Error(`${paths.join(", ")}: no questions`);
  return questions;
}
