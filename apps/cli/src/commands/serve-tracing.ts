/** Spans of OpenTelemetry, sent to a collector. Loaded only where traces are asked for. */
import type { Tracer } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";

export interface Tracing {
  readonly tracer: Tracer;
  /** Sends what is left. */
  close(): Promise<void>;
}

/** `collector`: http://127.0.0.1:4318 of an OTLP collector. Headers come from OTEL_EXPORTER_OTLP_HEADERS. */
export function openTracing(collector: string): Tracing {
  const exporter = new OTLPTraceExporter({ url: `${collector.replace(/\/+$/, "")}/v1/traces` });
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": "dsv3" }),
    spanProcessors: [new BatchSpanProcessor({ exporter })],
  });
  return { tracer: provider.getTracer("dsv3"), close: () => provider.shutdown() };
}
