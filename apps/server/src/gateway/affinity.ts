/**
 * Which engine a request goes to: one that has seen the beginning of its prompt, if it is not much
 * busier than others. Nothing is remembered: hashes of beginnings decide, the same in every gateway.
 */
import { createHash } from "node:crypto";

/**
 * Characters that decide, about a thousand tokens. What prompts share beyond is theirs anyway; what
 * they share of less costs less to compute again than to wait for.
 */
const BEGINNING = 4096;

/**
 * What requests that share a long prefix have in common: the beginning of the prompt. Of a conversation,
 * that is its first turn, so that all later turns go where the first one went.
 */
export function prefixKey(body: { readonly [field: string]: unknown }): string {
  const { model, messages, prompt, input, tools, system, instructions } = body;
  const { cache_salt, user_id, prompt_cache_key, metadata } = body as Salted;
  const parts: unknown[] = [
    model,
    cache_salt ?? user_id ?? prompt_cache_key ?? metadata?.user_id ?? null,
  ];
  let room = BEGINNING;
  const add = (part: unknown) => {
    if (room <= 0) return;
    const text = (typeof part === "string" ? part : (JSON.stringify(part) ?? "")).slice(0, room);
    parts.push(text);
    room -= text.length;
  };
  if (Array.isArray(tools) && tools.length > 0) add(tools);
  const first = system ?? instructions;
  if (first) add(first);
  const turns = messages ?? prompt ?? input;
  if (!Array.isArray(turns) || typeof turns[0] !== "object" || Array.isArray(turns[0])) add(turns);
  else {
    for (const turn of turns as ({ role?: unknown; content?: unknown } | null)[]) {
      add(turn?.role);
      add(turn?.content);
      if (turn?.role === "user") break;
    }
  }
  return JSON.stringify(parts);
}

/** What keeps cached prefixes apart, by each interface's name for it. */
interface Salted {
  readonly cache_salt?: unknown;
  readonly user_id?: unknown;
  readonly prompt_cache_key?: unknown;
  readonly metadata?: { readonly user_id?: unknown } | null;
}

/** An engine that may answer: its name, and the requests that it works at. */
export interface Candidate {
  readonly name: string;
  readonly running: number;
}

/**
 * Candidates in the order to try them: by rendezvous hashing (Thaler and Ravishankar, 1998) of the key,
 * so that one that comes or goes moves only its own share of keys. Those much busier than the least
 * busy come last, after the idea of bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016).
 */
export function inOrder<T extends Candidate>(candidates: readonly T[], key: string): T[] {
  const least = Math.min(...candidates.map(({ running }) => running));
  const rated = candidates.map((candidate) => {
    const busy = candidate.running > 1.25 * least + 4;
    const hash = createHash("sha256").update(`${candidate.name}\n${key}`).digest();
    return { candidate, busy: busy ? candidate.running : 0, score: hash.readUIntBE(0, 6) };
  });
  rated.sort((a, b) => a.busy - b.busy || b.score - a.score);
  return rated.map(({ candidate }) => candidate);
}
