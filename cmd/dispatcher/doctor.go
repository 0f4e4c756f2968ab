package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/doctor"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
)

// doctorOptions are what the flags of doctor say.
type doctorOptions struct {
	monitor    string
	serverURL  string
	probeImage string
}

func newDoctorCommand(a *app) *cobra.Command {
	var options doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what keeps runs from working",
		Long: `Look at all that "dispatcher serve" needs in this environment, and say in one
line each what was found and what to do: the settings, NATS and what dispatchers
keep there, the cluster, the rights in it, whether it would take the Jobs of
runs, registries, and the archive of logs. Run it where the dispatcher runs, with
its environment, for the answers depend on both.

It leaves everything as it was: it writes and deletes one small object in the
archive, begins and gives up one upload to the registry, and makes a Job only if
--server-url asks for one. The exit code is 1 if anything has failed; a warning,
and what cannot be found out from here, is not a failure.`,
		Args: arguments(),
	}
	flags := cmd.Flags()
	flags.StringVar(&options.monitor, "nats-monitor", "", "ask the NATS server's monitoring at this `URL`, such as http://nats:8222, how it syncs its disk")
	flags.StringVar(&options.serverURL, "server-url", "", "run a pod as runs do, and have it ask for this `URL` of the server that submits runs")
	flags.StringVar(&options.probeImage, "probe-image", "", "the `IMAGE` of that pod, with a shell and curl, wget or python3 in it (default: the runner image)")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.doctor(cmd.Context(), options, *output)
	}
	return cmd
}

// doctor makes the checks that the settings call for, and shows what they find.
func (a *app) doctor(ctx context.Context, options doctorOptions, output format) error {
	patient := &patient{options: options}
	defer patient.close()
	out := newScreen(a.stdout)
	findings, err := doctor.Examine(ctx, patient.checks(), func(finding doctor.Finding) {
		if output == formatText {
			printFinding(out, finding)
		}
	})
	if err != nil {
		return err
	}
	healthy := doctor.Healthy(findings)
	if output == formatJSON {
		err = writeJSON(a.stdout, map[string]any{"healthy": healthy, "findings": findings})
	}
	if err == nil && !healthy {
		err = errTold
	}
	return err
}

// printFinding writes a finding in one line, however long: what to do must not
// be cut off.
func printFinding(out screen, finding doctor.Finding) {
	status := fmt.Sprintf("%-7s", finding.Status)
	if out.colour {
		status = text.Escape(status, text.Colors{colourOf(finding.Status)}.EscapeSeq())
	}
	line := printable(finding.Found)
	if finding.ToDo != "" {
		line += " " + printable(finding.ToDo)
	}
	_, _ = fmt.Fprintf(out, "%s  %-32s  %s\n", status, printable(finding.Check), line)
}

func colourOf(status doctor.Status) text.Color {
	switch status {
	case doctor.OK:
		return text.FgGreen
	case doctor.Failed:
		return text.FgRed
	case doctor.Warning, doctor.Unknown, doctor.Skipped:
		return text.FgYellow
	}
	return text.Reset
}

// patient is what the checks look at. What one check opens, those use that need
// it.
type patient struct {
	options  doctorOptions
	settings *config.Config

	conn *nats.Conn
	js   jetstream.JetStream

	launcher *k8sjobs.Launcher
	resolver *images.Resolver
	secrets  *images.PullSecrets
	warned   []string // by the API server
}

func (p *patient) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

// checks lists what is to be looked at, in order. Settings that are wrong leave
// nothing else to look at: it is not known what they would say.
func (p *patient) checks() []doctor.Check {
	settings, err := config.LoadServe()
	if wrong, ok := errors.AsType[*config.Error](err); ok {
		var checks []doctor.Check
		for _, problem := range wrong.Problems {
			checks = append(checks, found("setting "+problem.Name, doctor.Bad("Correct it"+example(problem)+".", "It %s.", problem.Message)))
		}
		return checks
	}
	if err != nil {
		return []doctor.Check{found("settings", doctor.Bad("Correct the environment.", "%v.", err))}
	}
	p.settings = settings
	checks := []doctor.Check{found("settings", doctor.Good("Every setting is valid."))}
	checks = append(checks, p.natsChecks()...)
	if settings.Launch.Launcher == config.LauncherLocal {
		checks = append(checks, found("launcher", doctor.Doubtful(
			"For a cluster, set ROPEWALK_LAUNCHER=kubernetes.", "Runs are processes on this machine, so that no cluster and no registry is needed.")))
	} else {
		checks = append(checks, p.clusterChecks()...)
		checks = append(checks, p.registryChecks()...)
	}
	return append(checks, p.archiveChecks()...)
}

func example(problem config.Problem) string {
	if problem.Example == "" {
		return ""
	}
	return ", for example " + problem.Example
}

// found is a check of something that is known already.
func found(name string, finding doctor.Finding) doctor.Check {
	return doctor.Check{Name: name, Look: func(context.Context) doctor.Finding { return finding }}
}

// openCluster makes the client and what works with it; it reaches nothing yet.
func (p *patient) openCluster() error {
	client, err := k8sjobs.NewClient(k8sjobs.ClientConfig{
		Kubeconfig: os.Getenv("KUBECONFIG"), QPS: float32(p.settings.Kubernetes.QPS), Burst: p.settings.Kubernetes.Burst,
		Version: version(), Warn: func(text string) { p.warned = append(p.warned, text) },
	})
	if err != nil {
		return err
	}
	settings := kubernetesSettings(p.settings)
	if p.launcher, err = k8sjobs.New(k8sjobs.Config{Client: client, Settings: settings, Log: zerolog.Nop()}); err != nil {
		return err
	}
	p.secrets = &images.PullSecrets{
		Client: client, Namespace: settings.Namespace, ServiceAccount: settings.ServiceAccount, Names: settings.ImagePullSecrets,
	}
	p.resolver, err = newResolver(p.settings, client, nil, nil)
	return err
}
