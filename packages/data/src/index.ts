export {
  type Corpus,
  type DocumentTokenizer,
  type EncodeCorpusOptions,
  encodeCorpus,
} from "./corpus.ts";
export { fillInTheMiddle } from "./fim.ts";
export { PackedRows, type Position, type TokenRows } from "./packing.ts";
