// Package tracing puts exchanges into distributed traces: it reads and makes W3C
// Trace Context, decides what is sampled, and sends what is recorded to an
// OpenTelemetry collector (OTLP over HTTP, in protobuf).
//
// It isn't for recording: exchange.Spans are filled by the policies' chain and the
// pools. OpenTelemetry's own SDK isn't used, because a span there costs a dozen
// allocations and its exporter brings gRPC; the encoding is 150 lines here.
//
//	Begin ─ policies, tries ─ End → encoded into a shard ─ Run → POST /v1/traces
//	          exchange.Spans           bounded, else dropped     batches, gzip, again
//
// Whoever calls Exporter.Run owns its goroutine; there is one request to the
// collector at a time, and no exchange ever waits for it.
package tracing
