import { library } from "../../tooling/tsup/library.ts";

// The worker is started by its file name, so it has to be a file of its own.
export default library({ entry: ["src/index.ts", "src/node.ts", "src/encode-worker.ts"] });
