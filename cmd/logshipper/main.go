// Command logshipper takes the lines of logs off the stream and puts them where
// they stay (serve), and checks what is there (verify). It reads the same
// settings as the dispatcher.
//
// It exits with 0 when all went well and nothing is missing, with 2 when it was
// called in a way that cannot work, and with 1 otherwise.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks to stop, the second ends the process
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError tells of a call that cannot work.
type usageError struct{ error }

// errIncomplete ends verify when it has said what is missing.
var errIncomplete = errors.New("the archive is not complete")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use: "logshipper", Short: "Keep the logs of runs", Version: version(),
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServeCommand(stderr), newReadyCommand(), newVerifyCommand(stdout), &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(stdout, version())
			return err
		},
	})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "logshipper: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// release is set by the linker.
var release string //nolint:gochecknoglobals // by the linker only

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
