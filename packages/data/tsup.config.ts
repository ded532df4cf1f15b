import { library } from "../../tooling/tsup/library.ts";

// A worker is started by its file's name, so it has to be a file of its own.
export default library({
  entry: {
    index: "src/index.ts",
    node: "src/node.ts",
    "table-worker": "src/node/table-worker.ts",
  },
});
