package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/natsconn"
)

func newDevCommand(a *app) *cobra.Command {
	options := devOptions{natsAddr: "127.0.0.1:4222"}
	command := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine, without a cluster",
		Long: `Run everything on this machine: a NATS server inside this process, and each run
as a process of its own. All state is kept in one folder, so that what was under
way goes on after a restart. For trying Ropewalk out and for developing against
it; there is no isolation between runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.LoadDev()
			if err != nil {
				return err
			}
			log := logging.New(a.stderr, settings.Log.Level, settings.Log.Format)
			if settings.HTTP.Addr == ":8080" { // the default, which is for pods
				settings.HTTP.Addr = "127.0.0.1:8080"
			}
			if !cmd.Flags().Changed("data") {
				options.dataDir = settings.Launch.DataDir
			}
			dev, err := startDev(cmd.Context(), settings, options, log)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(a.stderr, "Ropewalk is up, with NATS at %s. In another terminal:\n\n  dispatcher submit --wait -- echo hello\n\nCtrl-C stops it; runs that are under way go on and are found again.\n\n", dev.URL)
			<-dev.done
			return dev.Close()
		},
	}
	command.Flags().StringVar(&options.dataDir, "data", "./ropewalk-data", "folder for all state (or ROPEWALK_DATA_DIR)")
	command.Flags().StringVar(&options.natsAddr, "nats-addr", options.natsAddr, "address that the NATS server listens on")
	return command
}

// devOptions are where a [devServer] keeps its state and listens. Port 0 is any
// that is free.
type devOptions struct{ dataDir, natsAddr string }

// devServer is the embedded default: NATS, dispatcher and local launcher in one
// process.
type devServer struct {
	// URL is where clients find the NATS server.
	URL  string
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed
}

// startDev starts everything and returns once a run can be submitted. It ends
// with ctx or by [devServer.Close].
func startDev(ctx context.Context, settings *config.Config, options devOptions, log zerolog.Logger) (*devServer, error) {
	natsServer, err := startNATS(options, log)
	if err != nil {
		return nil, err
	}
	stopNATS := func() {
		natsServer.Shutdown()
		natsServer.WaitForShutdown()
	}
	conn, js, err := natsconn.Dial(ctx, natsconn.Options{URL: natsServer.ClientURL(), Name: "ropewalk-dispatcher"}, log)
	if err != nil {
		stopNATS()
		return nil, err
	}
	settings.Launch.DataDir = options.dataDir
	if settings.Archive() == (config.Archive{}) {
		settings.Logs.Archive, err = devArchive(options.dataDir)
		if err != nil {
			return nil, err
		}
		settings.Logs.ShipAge = time.Second
	}
	running, stop := context.WithCancel(ctx)
	dev := &devServer{URL: natsServer.ClientURL(), stop: stop, done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(dev.done)
		// Runs are handed back through the connection and the server, so
		// these go last.
		defer stopNATS()
		defer conn.Close()
		dev.err = serve(running, settings, conn, js, log, func(string) { close(ready) })
	}()
	select {
	case <-ready:
		return dev, nil
	case <-dev.done:
		stop()
		if dev.err == nil {
			dev.err = context.Cause(running)
		}
		return nil, dev.err
	}
}

// devArchive is where logs are kept when no setting says so.
func devArchive(dataDir string) (string, error) {
	folder, err := filepath.Abs(filepath.Join(dataDir, "logs"))
	if err != nil {
		return "", fmt.Errorf("find the folder for logs: %w", err)
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(folder)}).String(), nil
}

// Close stops everything and waits until it has stopped. It may be called
// again.
func (d *devServer) Close() error {
	d.stop()
	<-d.done
	return d.err
}

// startNATS starts the server in this process. It writes every acknowledged
// message to the disk first, as a production server of ours has to.
func startNATS(options devOptions, log zerolog.Logger) (*server.Server, error) {
	host, portText, err := net.SplitHostPort(options.natsAddr)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--nats-addr %q is not HOST:PORT, such as 127.0.0.1:4222", options.natsAddr)}
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return nil, &usageError{fmt.Errorf("--nats-addr %q has no port from 0 to 65535", options.natsAddr)}
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	store := filepath.Join(options.dataDir, "nats")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for all state (--data): %w", err)
	}
	natsServer, err := server.NewServer(&server.Options{
		ServerName: "ropewalk-dev", Host: host, Port: port,
		JetStream: true, StoreDir: store, SyncAlways: true, NoSigs: true,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the NATS server: %w", err)
	}
	natsServer.SetLoggerV2(natsLog{log.With().Str(logging.Component, "nats").Logger()}, false, false, false)
	natsServer.Start()
	if !natsServer.ReadyForConnections(10 * time.Second) {
		natsServer.Shutdown()
		return nil, fmt.Errorf("the NATS server does not start on %s; is the port taken, or does another process use %s? --nats-addr and --data choose others", options.natsAddr, store)
	}
	return natsServer, nil
}

// natsLog writes what the server in the process says. Its notices are about
// itself, so that people who try Ropewalk out see warnings and errors only. That
// a state was not written since a later one is written is a warning to it, but
// asks nothing of anybody.
type natsLog struct{ log zerolog.Logger }

func (l natsLog) Noticef(format string, args ...any) { l.log.Debug().Msgf(format, args...) }
func (l natsLog) Errorf(format string, args ...any)  { l.log.Error().Msgf(format, args...) }
func (l natsLog) Fatalf(format string, args ...any)  { l.log.Error().Msgf(format, args...) }
func (l natsLog) Debugf(string, ...any)              {}
func (l natsLog) Tracef(string, ...any)              {}

func (l natsLog) Warnf(format string, args ...any) {
	level := zerolog.WarnLevel
	if slices.Contains(args, any(server.ErrStoreOldUpdate)) {
		level = zerolog.DebugLevel
	}
	l.log.WithLevel(level).Msgf(format, args...)
}
