package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
)

func newSettingsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Show every setting, and what is wrong with them",
		Long: `Show every setting with the value that "dispatcher serve" would use in this
environment, and everything that is wrong with them. Secrets are not shown.`,
		Args: arguments(),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		settings, wrong := config.Settings()
		if *output == formatJSON {
			if err := writeJSON(a.stdout, settings); err != nil {
				return err
			}
			return wrong
		}
		printSettings(newScreen(a.stdout), settings)
		return wrong
	}
	return cmd
}

// printSettings writes one table for each group.
func printSettings(out screen, settings []config.Setting) {
	for start := 0; start < len(settings); {
		end := start
		var rows [][]string
		for ; end < len(settings) && settings[end].Group == settings[start].Group; end++ {
			setting := settings[end]
			from := "default"
			switch {
			case setting.Problem != "":
				from = "WRONG"
			case setting.Set:
				from = "environment"
			case setting.Value == "":
				from = ""
			}
			rows = append(rows, []string{setting.Name, from, setting.Value})
		}
		if start > 0 {
			_, _ = fmt.Fprintln(out)
		}
		_, _ = fmt.Fprintln(out, out.heading(settings[start].Group))
		out.table([]string{"NAME", "FROM", "VALUE"}, rows)
		start = end
	}
}
