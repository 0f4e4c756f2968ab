package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/client"
)

// connect is what every program does first.
func connect() (*client.Client, func()) {
	conn, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		panic(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		panic(err)
	}
	return client.New(js), conn.Close
}

// Submit a run, wait for its end, and read what it wrote.
func Example() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	id, _, err := runs.Submit(ctx, client.Request{
		Image:   client.Image{Reference: "busybox"},
		Command: []string{"sh", "-c", "echo hello from $STAGE"},
		Env:     map[string]string{"STAGE": "test"},
		Timeout: client.Duration(time.Hour),
	})
	if err != nil {
		panic(err)
	}
	ended, err := runs.Wait(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(ended.State)
	err = runs.Logs(ctx, id, client.LogOptions{Follow: true}, func(line client.LogLine) error {
		fmt.Printf("%s\n", line.Text)
		return nil
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// succeeded
	// hello from test
}

// An id of one's own makes it safe to submit again when it is not known whether
// the first time worked.
func ExampleClient_Submit() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	for range 2 {
		id, duplicate, err := runs.Submit(ctx, client.Request{
			ID: "nightly-2026-01-31", Image: client.Image{Reference: "busybox"}, Command: []string{"true"},
			SecretEnv: map[string]client.Secret{"API_TOKEN": "s3cr3t"},
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(id, duplicate)
	}
	// Output:
	// nightly-2026-01-31 false
	// nightly-2026-01-31 true
}

func ExampleClient_Get() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	_, err := runs.Get(ctx, "nobody-submitted-this")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output: true
}

// A run that fails says why, and what to do about it.
func ExampleClient_Watch() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	id, _, err := runs.Submit(ctx, client.Request{Image: client.Image{Reference: "busybox"}, Command: []string{"sh", "-c", "exit 3"}})
	if err != nil {
		panic(err)
	}
	err = runs.Watch(ctx, id, func(run client.Run) bool {
		if !run.State.Final() {
			return true
		}
		fmt.Println(run.State, run.Reason, *run.ExitCode)
		return false
	})
	if err != nil {
		panic(err)
	}
	// Output: failed AppError 3
}

func ExampleClient_Cancel() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	id, _, err := runs.Submit(ctx, client.Request{Image: client.Image{Reference: "busybox"}, Command: []string{"sleep", "3600"}})
	if err != nil {
		panic(err)
	}
	if _, err := runs.Cancel(ctx, id); err != nil {
		panic(err)
	}
	ended, err := runs.Wait(ctx, id)
	if err != nil {
		panic(err)
	}
	fmt.Println(ended.State)
	// Output: cancelled
}

// What failed is tried again with what was missing, under the same id.
func ExampleClient_Replay() {
	ctx := context.Background()
	runs, disconnect := connect()
	defer disconnect()

	id, _, err := runs.Submit(ctx, client.Request{Image: client.Image{Reference: "busybox"}, Command: []string{"sh", "-c", "test -n \"$DATA\""}})
	if err != nil {
		panic(err)
	}
	if _, err := runs.Wait(ctx, id); err != nil {
		panic(err)
	}
	attempt, err := runs.Replay(ctx, id, &client.Correction{Env: map[string]string{"DATA": "s3://bucket/data"}})
	if err != nil {
		panic(err)
	}
	err = runs.Watch(ctx, id, func(run client.Run) bool {
		if run.Attempt != attempt || !run.State.Final() {
			return true
		}
		fmt.Println("attempt", run.Attempt, run.State)
		return false
	})
	if err != nil {
		panic(err)
	}
	// Output: attempt 2 succeeded
}
