// Command otlp is the OpenTelemetry collector's own OTLP receiver, listening for HTTP: it prints each span as a line of JSON.
// Argument: the address to listen at. It ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	given := confmap.NewFromStringMap(map[string]any{
		"protocols": map[string]any{"http": map[string]any{"endpoint": os.Args[1]}},
	})
	fail(given.Unmarshal(config))

	var mutex sync.Mutex
	out := json.NewEncoder(os.Stdout)
	traces, err := consumer.NewTraces(func(_ context.Context, told ptrace.Traces) error {
		mutex.Lock()
		defer mutex.Unlock()
		for i := range told.ResourceSpans().Len() {
			group := told.ResourceSpans().At(i)
			for j := range group.ScopeSpans().Len() {
				spans := group.ScopeSpans().At(j).Spans()
				for k := range spans.Len() {
					span := spans.At(k)
					if err := out.Encode(map[string]any{
						"name": span.Name(), "kind": span.Kind().String(), "trace": span.TraceID().String(),
						"span": span.SpanID().String(), "parent": span.ParentSpanID().String(),
						"attributes": span.Attributes().AsRaw(), "resource": group.Resource().Attributes().AsRaw(),
					}); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	fail(err)
	settings := receiver.Settings{
		ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings(),
		BuildInfo: component.NewDefaultBuildInfo(),
	}
	otlp, err := factory.CreateTraces(ctx, settings, config, traces)
	fail(err)
	fail(otlp.Start(ctx, componenttest.NewNopHost()))
	fmt.Fprintln(os.Stderr, "listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	fail(otlp.Shutdown(ctx))
}
