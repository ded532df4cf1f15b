/**
 * A request as a span of OpenTelemetry, by its conventions for HTTP servers and for generative AI
 * (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/).
 */
import {
  isSpanContextValid,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import type { Context } from "hono";
import type { RequestRecord } from "./record.ts";

/** What each route does, by the names of the conventions. */
const OPERATIONS: readonly (readonly [path: RegExp, name: string])[] = [
  [/\/(chat\/completions|responses|messages)$/, "chat"],
  [/\/completions$/, "text_completion"],
  [/\/embeddings$/, "embeddings"],
];

/** Fields of requests, by the names of the conventions. */
const ASKED: Readonly<Record<string, string>> = {
  temperature: "temperature",
  top_p: "top_p",
  top_k: "top_k",
  n: "choice.count",
  seed: "seed",
  presence_penalty: "presence_penalty",
  frequency_penalty: "frequency_penalty",
  max_tokens: "max_tokens",
  max_completion_tokens: "max_tokens",
  max_output_tokens: "max_tokens",
};

export interface RequestSpan {
  end(record: RequestRecord, status: number): void;
  /** The `traceparent` of what is done for the request elsewhere; null of a tracer that traces nothing. */
  readonly traceparent: string | null;
}

/** Begins a span, below the client's own if it sent a `traceparent`. */
export function beginSpan(tracer: Tracer, c: Context): RequestSpan {
  const { method, path } = c.req;
  const attributes = { "http.request.method": method, "url.path": path };
  const parent = parentOf(c.req.header("traceparent"));
  const span = tracer.startSpan(method, { kind: SpanKind.SERVER, attributes }, parent);
  const context = span.spanContext();
  const flags = context.traceFlags.toString(16).padStart(2, "0");
  const traceparent = `00-${context.traceId}-${context.spanId}-${flags}`;
  return {
    traceparent: isSpanContextValid(context) ? traceparent : null,
    end(record, status) {
      span.setAttribute("http.response.status_code", status);
      const operation = OPERATIONS.find(([pattern]) => pattern.test(path))?.[1];
      if (operation && record.model !== null) {
        span.updateName(`${operation} ${record.model}`);
        span.setAttributes({
          "gen_ai.operation.name": operation,
          "gen_ai.provider.name": "dsv3",
          "gen_ai.request.model": record.model,
          "gen_ai.response.model": record.model,
        });
        for (const [name, value] of record.asked) {
          if (Object.hasOwn(ASKED, name)) span.setAttribute(`gen_ai.request.${ASKED[name]}`, value);
        }
      }
      if (record.usage) {
        span.setAttributes({
          "gen_ai.usage.input_tokens": record.usage.promptTokens,
          "gen_ai.usage.output_tokens": record.usage.completionTokens,
          "gen_ai.usage.cache_read.input_tokens": record.usage.cachedTokens,
        });
      }
      if (record.finishReasons.length > 0) {
        span.setAttribute("gen_ai.response.finish_reasons", record.finishReasons);
      }
      if (record.error !== null) span.setAttribute("error.type", record.error);
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      span.end();
    },
  };
}

/** The context of a W3C `traceparent`; none for what is no such header. */
function parentOf(header: string | undefined): typeof ROOT_CONTEXT {
  const [, traceId, spanId, flags] =
    /^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/.exec(header ?? "") ??
    [];
  if (!traceId || /^0+$/.test(traceId) || /^0+$/.test(spanId!)) return ROOT_CONTEXT;
  const traceFlags = Number.parseInt(flags!, 16) & 1;
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId,
    spanId: spanId!,
    traceFlags,
    isRemote: true,
  });
}
