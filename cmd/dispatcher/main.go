// Command dispatcher is all of Ropewalk that deals with runs: it takes them
// off their queues and launches them (serve, dev), and it submits and shows
// them (submit, list, get, watch and others). The commands of the second kind
// talk to the NATS server only, through package client.
//
// It exits with 0 when all went well, with 2 when it was called in a way that
// cannot work, and with 1 when something else went wrong.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ropewalk/ropewalk/internal/localexec"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == localexec.SupervisorCommand {
		os.Exit(localexec.Supervise(os.Args[2:], os.Environ(), os.Stdin, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks to stop, the second ends the process
	os.Exit(report(os.Stderr, execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// execute is the whole program but for the end of the process.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	root := newRootCommand(&app{stdin: stdin, stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}
