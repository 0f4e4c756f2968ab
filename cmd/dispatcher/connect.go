package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/natsconn"
)

// patience is how long a command that looks something up waits for the server
// in all. A person is waiting too.
const patience = 15 * time.Second

// reach connects to the NATS server that the settings name, and calls use with
// a client of it.
func (a *app) reach(ctx context.Context, use func(context.Context, *client.Client) error) error {
	settings, err := config.LoadClient()
	if err != nil {
		return err
	}
	conn, js, err := natsconn.Dial(ctx, natsOptions(settings, "ropewalk-command"), a.troubleLog())
	if err != nil {
		return err
	}
	defer conn.Close()
	err = use(ctx, client.New(js))
	if errors.Is(err, nats.ErrNoResponders) {
		// Only the question about the account tells the two apart, and neither
		// may everybody ask nor is it answered while there is no leader.
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, absent := js.AccountInfo(asking)
		if !errors.Is(absent, jetstream.ErrJetStreamNotEnabled) && !errors.Is(absent, jetstream.ErrJetStreamNotEnabledForAccount) {
			return fmt.Errorf("the NATS servers do not answer for all that they keep, as while they start or choose a leader; try again in a few seconds: %w", err)
		}
		err = absent
	}
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("the NATS server at %s runs without JetStream, which Ropewalk needs; start it with -js, or give the account JetStream", conn.ConnectedUrlRedacted())
	}
	return err
}

// reachSoon is [app.reach] for what is done in a moment, or not at all.
func (a *app) reachSoon(ctx context.Context, use func(context.Context, *client.Client) error) error {
	return a.reach(ctx, func(ctx context.Context, c *client.Client) error {
		return soon(ctx, func(ctx context.Context) error { return use(ctx, c) })
	})
}

// soon gives an operation on the server a limited time.
func soon(ctx context.Context, operation func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := operation(limited)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the NATS server does not answer within %s, or these credentials may not ask it: %w", patience, err)
	}
	return err
}

// troubleLog tells the person of a connection that is lost and found again
// while a command waits.
func (a *app) troubleLog() zerolog.Logger {
	return logging.New(a.stderr, zerolog.LevelInfoValue, logging.FormatConsole)
}
