import { library } from "../../tooling/tsup/library.ts";

// Workers and child processes are started by their file names, so they have to be files of their own.
export default library({
  entry: ["src/index.ts", "src/node.ts", "src/node-encode-worker.ts", "src/node-jinja-child.ts"],
});
