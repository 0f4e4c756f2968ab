package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// app is what every command works with: the process's own input and outputs.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// The groups that the help lists the commands in.
const (
	runCommands    = "runs"
	queueCommands  = "queues"
	serverCommands = "server"
)

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "dispatcher",
		Short: "Run requests off a queue as Kubernetes Jobs",
		Long: `Ropewalk takes run requests off a queue and turns each into one Kubernetes Job.

Without a cluster, "dispatcher dev" runs everything on this machine, and
"dispatcher demo" shows in a few seconds what happens to runs. The other
commands find the NATS server by ROPEWALK_NATS_URL (nats://127.0.0.1:4222).`,
		Version:       version(),
		SilenceErrors: true, // report says them, once
		SilenceUsage:  true, // a page of flags would hide what went wrong
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misused(cmd, "%w", err) })
	root.AddGroup(
		&cobra.Group{ID: runCommands, Title: "Runs:"},
		&cobra.Group{ID: queueCommands, Title: "Queues and schedules:"},
		&cobra.Group{ID: serverCommands, Title: "Dispatcher:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	add(runCommands, newSubmitCommand(a), newListCommand(a), newGetCommand(a), newWatchCommand(a), newLogsCommand(a), newCancelCommand(a), newReplayCommand(a))
	add(queueCommands, newQueueCommand(a), newScheduleCommand(a))
	add(serverCommands, newServeCommand(a), newReadyCommand(), newDoctorCommand(a), newImageCommand(a), newDevCommand(a), newDemoCommand(a), newSettingsCommand(a), newVersionCommand(a))
	onlyCommands(root)
	root.InitDefaultCompletionCmd()
	for _, command := range root.Commands() {
		if command.Name() == "completion" {
			onlyCommands(command)
		}
	}
	return root
}

// onlyCommands makes a command that only groups others show its help, and
// refuse what is not one of them.
func onlyCommands(group *cobra.Command) {
	group.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := ""
		cmd.SuggestionsMinimumDistance = max(1, len(args[0])/3) // letters; of three, two make any other word
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return misused(cmd, "there is no command %q%s", args[0], hint)
	}
	group.DisableFlagsInUseLine = true
	group.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// arguments is how many arguments a command takes, with their names.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return misused(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return misused(cmd, "%q is one argument too many", args[len(names)])
		default:
			return nil
		}
	}
}

// misused is the error of a command that was called in a way that cannot
// work. It ends with where the right way stands.
func misused(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format+"; see %s --help", append(args, cmd.CommandPath())...)}
}
