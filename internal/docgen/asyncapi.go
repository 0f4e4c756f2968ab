package main

import (
	_ "embed"
	"io"
	"text/template"

	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

//go:embed asyncapi.yaml.tmpl
var asyncAPI string

// writeAsyncAPI writes the document for programs that talk to Ropewalk over
// NATS. Every name in it that the code knows too comes from the code.
func writeAsyncAPI(w io.Writer) error {
	page, err := template.New("asyncapi").Parse(asyncAPI)
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{
		"Version":      run.Version,
		"Stream":       queue.Stream,
		"Request":      queue.Subject("{queue}", "{id}", 1),
		"Attempt":      queue.Subjects + "{queue}.{id}.{attempt}",
		"Bucket":       runstore.Bucket,
		"Record":       "$KV." + runstore.Bucket + ".{queue}.{id}",
		"Logs":         logask.Subjects + "{id}",
		"LogsEnd":      logask.EndHeader,
		"LogsDefault":  logask.DefaultBytes,
		"LogsMost":     logask.MostBytes,
		"IDPattern":    idPattern,
		"MaxID":        run.MaxIDLength,
		"QueuePattern": queuePattern,
		"MaxQueue":     run.MaxQueueLength,
	})
}
