// Command logshipper will take pod log events off their stream and put them
// into S3, Cloud Logging or files. Shipping is not in this version: what it can
// do is to say so, and to check that the server which the events will come from
// can be reached with the settings it is given.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/natsconn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks to stop, the second ends the process
	if err := execute(ctx, os.Args[1:], os.Stdout); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "logshipper:", err)
		os.Exit(1)
	}
}

// execute is the whole program but for the end of the process.
func execute(ctx context.Context, args []string, stdout io.Writer) error {
	root := &cobra.Command{
		Use:   "logshipper",
		Short: "Keep the logs of runs; shipping is not in this version yet",
		// Said once, by main.
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetOut(stdout)
	root.SetArgs(args)
	root.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Say whether the NATS server can be reached, and holds JetStream",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return check(cmd.Context(), stdout) },
	})
	return root.ExecuteContext(ctx)
}

func check(ctx context.Context, stdout io.Writer) error {
	settings, err := config.LoadClient()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, js, err := natsconn.Dial(limited, natsconn.Options{
		URL: settings.NATS.URL.Reveal(), Name: "ropewalk-logshipper", CredentialsFile: settings.NATS.Credentials,
		User: settings.NATS.User, Password: settings.NATS.Password, Token: settings.NATS.Token,
		CAFile: settings.NATS.TLSCA, CertFile: settings.NATS.TLSCert, KeyFile: settings.NATS.TLSKey,
	}, zerolog.Nop())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := js.AccountInfo(limited); err != nil {
		return fmt.Errorf("ask NATS for its JetStream account: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "NATS %s at %s, with JetStream\n", conn.ConnectedServerVersion(), conn.ConnectedUrlRedacted())
	return err
}
