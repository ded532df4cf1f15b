/** A place to print to: a terminal, a pipe, or a test's buffer. */
export interface Sink {
  write(text: string): unknown;
  /** Present and true when a person is watching. */
  isTTY?: boolean;
  /** Size of the terminal, in characters. */
  columns?: number;
  rows?: number;
  /** Of a terminal, told when its size changes. */
  on?(event: "resize", listener: () => void): unknown;
  off?(event: "resize", listener: () => void): unknown;
}

/** All that a command knows of the world outside its arguments. */
export interface Io {
  /** What is piped in, if anything is. */
  stdin?: AsyncIterable<Uint8Array>;
  /** Results: what a script reading the output wants. */
  stdout: Sink;
  /** Progress and remarks for people. */
  stderr: Sink;
  /** Aborted on Ctrl-C or SIGTERM: save, clean up and return. A second Ctrl-C ends at once. */
  signal: AbortSignal;
  /** Environment variables. */
  env: Record<string, string | undefined>;
}
