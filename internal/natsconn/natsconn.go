// Package natsconn opens connections to the NATS server in the one way that
// every command of ours does: with the settings' credentials and TLS, reconnecting
// for as long as it takes, and with errors that say what to do.
package natsconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Options say where the server is and who we are. Empty fields are not used.
type Options struct {
	URL string
	// Name is what the server shows this connection as.
	Name string
	// CredentialsFile is a .creds file; User and Password, or Token, are for
	// servers without one.
	CredentialsFile string
	User            string
	Password        run.Secret
	Token           run.Secret
	// Inbox begins the subjects that answers come in on; empty for NATS's own
	// default.
	Inbox string
	// CAFile, CertFile and KeyFile are PEM files for TLS.
	CAFile, CertFile, KeyFile string
}

func (o Options) natsOptions(log zerolog.Logger) []nats.Option {
	options := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		// The default of 2 s would use up most of the time in which a run
		// should be back in safe hands after the server was restarted.
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: we closed it ourselves
				log.Warn().Err(err).Msg("lost the connection to NATS, reconnecting")
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			log.Info().Str("server", conn.ConnectedUrlRedacted()).Msg("connected to NATS again")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn().Err(err).Msg("NATS reports an error")
		}),
	}
	if o.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(o.CredentialsFile))
	}
	if o.User != "" {
		options = append(options, nats.UserInfo(o.User, o.Password.Reveal()))
	}
	if o.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(o.Inbox))
	}
	if o.Token != "" {
		options = append(options, nats.Token(o.Token.Reveal()))
	}
	if o.CAFile != "" {
		options = append(options, nats.RootCAs(o.CAFile))
	}
	if o.CertFile != "" {
		options = append(options, nats.ClientCert(o.CertFile, o.KeyFile))
	}
	return options
}

// Dial connects once, within ctx, or says why not and what to do. The caller
// closes the connection.
func Dial(ctx context.Context, options Options, log zerolog.Logger) (*nats.Conn, jetstream.JetStream, error) {
	// The connection's own dial time-out stands in for ctx, which nats.go
	// does not take.
	wait := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline))
	}
	conn, err := nats.Connect(options.URL, append(options.natsOptions(log), nats.Timeout(wait))...)
	if err != nil {
		return nil, nil, explain(options.URL, err)
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncTimeout(5*time.Second))
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("open JetStream: %w", err)
	}
	return conn, js, nil
}

// DialPatiently is [Dial] for servers of ours: it tries until it works, ctx
// ends, or the server refuses us, which waiting does not mend.
func DialPatiently(ctx context.Context, options Options, log zerolog.Logger) (conn *nats.Conn, js jetstream.JetStream, err error) {
	err = retry.Do(ctx, retry.Network, func() error {
		conn, js, err = Dial(ctx, options, log)
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return retry.Permanent(err)
		}
		return err
	}, func(err error, _ time.Duration) {
		log.Warn().Err(err).Msg("cannot reach NATS, trying again")
	})
	return conn, js, err
}

func explain(url string, err error) error {
	var network *net.OpError
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("NATS at %s refuses these credentials: %w; set ROPEWALK_NATS_CREDENTIALS, or ROPEWALK_NATS_USER and ROPEWALK_NATS_PASSWORD", redact(url), err)
	case errors.Is(err, nats.ErrNoServers), errors.As(err, &network), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("no NATS server answers at %s: %w; start one (dispatcher dev brings its own), or point ROPEWALK_NATS_URL to it", redact(url), err)
	default:
		return fmt.Errorf("connect to NATS at %s: %w", redact(url), err)
	}
}

// RequireVersion refuses servers that are too old, by the version that they
// tell. 2.12 is the first with message schedules, which retries need.
func RequireVersion(version string) error {
	const major, minor = 2, 12
	var gotMajor, gotMinor int
	if _, err := fmt.Sscanf(version, "%d.%d", &gotMajor, &gotMinor); err != nil {
		return fmt.Errorf("the NATS server tells a version that is none: %q", version)
	}
	if gotMajor < major || gotMajor == major && gotMinor < minor {
		return fmt.Errorf("the NATS server is version %s; Ropewalk needs %d.%d or newer", version, major, minor)
	}
	return nil
}
