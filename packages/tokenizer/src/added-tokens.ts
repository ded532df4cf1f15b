/** A token that is found in text as a whole, before words are cut and merged. */
export interface AddedToken {
  id: number;
  content: string;
  /** Left out by a decoder that skips special tokens. */
  special: boolean;
  /** Looked for in normalized text, that is, after the tokens that are not. */
  normalized: boolean;
  /** Takes the white space on its left, or right, with it. */
  lstrip: boolean;
  rstrip: boolean;
  /** Found only where no letter, digit or underscore touches it. */
  singleWord: boolean;
}

/** A stretch of the text `[start, end)`: an added token, or (id -1) text to encode. */
export interface Piece {
  id: number;
  start: number;
  end: number;
}

interface Node {
  children: Map<number, Node>;
  token: AddedToken | undefined;
}

/** Finds added tokens in a text: leftmost first, longest first, in one pass per trie. */
export class AddedTokenFinder {
  readonly #tries: Node[];

  constructor(tokens: readonly AddedToken[]) {
    const groups = [tokens.filter((t) => !t.normalized), tokens.filter((t) => t.normalized)];
    this.#tries = groups.filter((group) => group.length > 0).map(buildTrie);
  }

  split(text: string): Piece[] {
    let pieces: Piece[] = [{ id: -1, start: 0, end: text.length }];
    for (const trie of this.#tries) {
      pieces = pieces.flatMap((piece) =>
        piece.id >= 0 ? [piece] : splitPiece(trie, text.slice(piece.start, piece.end), piece.start),
      );
    }
    return pieces;
  }
}

function buildTrie(tokens: readonly AddedToken[]): Node {
  const root: Node = { children: new Map(), token: undefined };
  for (const token of tokens) {
    let node = root;
    for (let i = 0; i < token.content.length; i++) {
      const unit = token.content.charCodeAt(i);
      let child = node.children.get(unit);
      if (child === undefined) {
        child = { children: new Map(), token: undefined };
        node.children.set(unit, child);
      }
      node = child;
    }
    node.token = token;
  }
  return root;
}

/** `text` alone counts as the whole for borders, as it does for Hugging Face. */
function splitPiece(trie: Node, text: string, offset: number): Piece[] {
  const pieces: Piece[] = [];
  let from = 0; // end of the last piece
  let i = 0;
  while (i < text.length) {
    const token = longestAt(trie, text, i);
    if (token === undefined) {
      i++;
      continue;
    }
    let start = i;
    let end = i + token.content.length;
    i = end;
    if (token.singleWord && (wordEndsAt(text, start) || wordStartsAt(text, end))) continue;
    if (token.lstrip) while (start > from && WHITE.test(text[start - 1]!)) start--;
    if (token.rstrip) while (end < text.length && WHITE.test(text[end]!)) end++;
    if (start > from) pieces.push({ id: -1, start: offset + from, end: offset + start });
    pieces.push({ id: token.id, start: offset + start, end: offset + end });
    from = end;
    i = end;
  }
  if (from < text.length) pieces.push({ id: -1, start: offset + from, end: offset + text.length });
  return pieces;
}

function longestAt(trie: Node, text: string, at: number): AddedToken | undefined {
  let node: Node | undefined = trie;
  let found: AddedToken | undefined;
  for (let i = at; i < text.length; i++) {
    node = node.children.get(text.charCodeAt(i));
    if (node === undefined) break;
    found = node.token ?? found;
  }
  return found;
}

const WHITE = /^\p{White_Space}$/u;
const WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;

function wordEndsAt(text: string, at: number): boolean {
  const low = text.charCodeAt(at - 1);
  const isPair = low >= 0xdc00 && low <= 0xdfff;
  return at > 0 && WORD.test(text.slice(isPair ? at - 2 : at - 1, at));
}

function wordStartsAt(text: string, at: number): boolean {
  const codePoint = text.codePointAt(at);
  return codePoint !== undefined && WORD.test(String.fromCodePoint(codePoint));
}
