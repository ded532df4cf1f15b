export { type App, type AppOptions, createApp } from "./app.ts";
export { Embedder, type EmbedderOptions, type Pooling } from "./embedder.ts";
export { Gateway, type GatewayOptions } from "./gateway/gateway.ts";
export type { UpstreamOptions } from "./gateway/upstream.ts";
export { folderModel, type HostOptions, hostModel, modelFolders } from "./host.ts";
export { type Listening, type ListenOptions, listen } from "./listen.ts";
export {
  type Lease,
  type LoadedModel,
  type ModelSource,
  type ModelState,
  Models,
  type ModelsOptions,
} from "./models.ts";
export type { Log } from "./observe.ts";
