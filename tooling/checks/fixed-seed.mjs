// Preloaded by .ci/run: property tests draw the same cases on every run there, so that a change is
// judged by itself and not by the draw. Elsewhere the cases stay random, and find what is left.
// Vitest's workers alone load fast-check; the other processes of a run have no use for it.
if (process.env.VITEST) {
  const { configureGlobal } = await import("fast-check");
  configureGlobal({ seed: 671026419 });
}
