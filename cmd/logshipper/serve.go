package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/health"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/natsconn"
)

func newServeCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Take lines off the stream and put them where they stay", Args: cobra.NoArgs,
		Long: `Take lines off the stream of logs and put them where ROPEWALK_LOG_ARCHIVE says,
until SIGTERM or SIGINT. Start as many as you like: each run is in the hands of
one of them, and when that dies another one goes on within seconds.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), stderr) },
	}
}

func serve(ctx context.Context, stderr io.Writer) error {
	settings, err := config.LoadLogs()
	if err != nil {
		return err
	}
	log := logging.New(stderr, settings.Log.Level, settings.Log.Format)
	counters := metrics.New(version())
	sink, err := logship.Open(ctx, settings, counters)
	if err != nil {
		return err
	}
	defer func() { _ = sink.Close() }() // everything in it was confirmed
	nats := settings.NATS
	conn, js, err := natsconn.DialPatiently(ctx, natsconn.Options{
		URL: nats.URL.Reveal(), Name: "ropewalk-logshipper", CredentialsFile: nats.Credentials, User: nats.User,
		Password: nats.Password, Token: nats.Token, Inbox: nats.Inbox, CAFile: nats.TLSCA, CertFile: nats.TLSCert, KeyFile: nats.TLSKey,
	}, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	counters.WatchStream(func() (metrics.StreamLoad, error) { return load(ctx, js) })
	http, err := health.Listen(settings.HTTP.Addr, health.Checks{"nats": func() error {
		if !conn.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	}}, counters.Handler())
	if err != nil {
		return err
	}
	log.Info().Str("addr", http.Addr()).Msg("serving /livez, /readyz and /metrics")
	parts, failing := errgroup.WithContext(ctx)
	parts.Go(func() error { return http.Run(failing) })
	parts.Go(func() error { return logship.Run(failing, js, settings, sink, counters, log) })
	parts.Go(func() error {
		return logship.Answer(failing, js, sink, log.With().Str(logging.Component, "answer").Logger())
	})
	return parts.Wait()
}

func load(ctx context.Context, js jetstream.JetStream) (metrics.StreamLoad, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	stream, err := logstream.Open(ctx, js)
	if err != nil {
		return metrics.StreamLoad{}, err
	}
	load, err := stream.Load(ctx)
	return metrics.StreamLoad{
		Batches: float64(load.Batches), Bytes: float64(load.Bytes), Pending: float64(load.Pending), Held: float64(load.Held),
	}, err
}
