export { type App, type AppOptions, createApp } from "./app.ts";
export { type Listening, type ListenOptions, listen } from "./listen.ts";
