/** Several tasks with one score. */
export interface TaskGroup {
  readonly name: string;
  readonly version: number;
  /** Names of tasks. */
  readonly members: readonly string[];
  /** Whether a task counts by its documents, or as much as any other. */
  readonly bySize: boolean;
}
