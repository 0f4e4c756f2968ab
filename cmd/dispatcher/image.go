package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "See what becomes of the images of runs"}
	cmd.AddCommand(newImageCheckCommand(a))
	onlyCommands(cmd)
	return cmd
}

func newImageCheckCommand(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check REF | -f REQUEST",
		Short: "Say which image a run would get, and why",
		Long: `Say what "dispatcher serve" would do in this environment about the image that
REF names, or about that of a request: whether it would be reused, has been
built already, would be built, or is refused. It asks the registry and, for pull
secrets, the cluster, and changes nothing. The exit code is 1 unless a run would
get its image.`,
		Example: `  dispatcher image check registry.example.com/team/train:1.4
  dispatcher image check -f request.yaml`,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "check the image of the request in a `FILE`, JSON or YAML; - is standard input")
	output := outputFlag(cmd)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("file") {
			return arguments()(cmd, args)
		}
		return arguments("REF")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var image run.Image
		if len(args) > 0 {
			image.Reference = args[0]
			if err := (run.Request{Version: run.Version, ID: "check", Queue: "check", Image: image}).Validate(); err != nil {
				return &usageError{err}
			}
		} else {
			request, err := readRequest(file, a.stdin)
			if err != nil {
				return &usageError{err}
			}
			request.ID, request.Queue = "check", "check" // whose problems are not this command's
			if err := request.Validate(); err != nil {
				return &usageError{err}
			}
			image = request.Image
		}
		verdict, err := checkImage(cmd, image)
		if err != nil {
			return err
		}
		return a.printVerdict(verdict, *output)
	}
	return cmd
}

func checkImage(cmd *cobra.Command, image run.Image) (images.Verdict, error) {
	settings, err := config.LoadServe()
	if err != nil {
		return images.Verdict{}, err
	}
	if settings.Launch.Launcher == config.LauncherLocal {
		return images.Verdict{}, errors.New("the local launcher runs no images; see ROPEWALK_LAUNCHER")
	}
	client, err := newKubernetesClient(settings, nil)
	if err != nil {
		return images.Verdict{}, err
	}
	resolver, err := newResolver(settings, client, nil, nil)
	if err != nil {
		return images.Verdict{}, err
	}
	return resolver.Check(cmd.Context(), image)
}

func (a *app) printVerdict(verdict images.Verdict, output format) error {
	if output == formatJSON {
		if err := writeJSON(a.stdout, verdict); err != nil {
			return err
		}
	} else {
		line := string(verdict.Outcome)
		if verdict.Reason != "" {
			line += " " + string(verdict.Reason)
		}
		if verdict.Image != "" {
			line += ": " + verdict.Image
		}
		if _, err := fmt.Fprintf(a.stdout, "%s\n%s\n", printable(line), printable(verdict.Why)); err != nil {
			return err
		}
	}
	if verdict.Outcome == images.Refused || verdict.Outcome == images.Unknown {
		return errTold
	}
	return nil
}
