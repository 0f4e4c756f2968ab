package main

import (
	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/health"
)

func newReadyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ready", Short: "Say whether the logshipper on this machine is ready", Args: cobra.NoArgs,
		Long: `Ask the logshipper that listens on ROPEWALK_HTTP_ADDR on this machine whether it
is ready. The exit code is 0 if it is: a container without a shell can be
checked by it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.LoadProbe()
			if err != nil {
				return err
			}
			return health.Ask(cmd.Context(), settings.HTTP.Addr)
		},
	}
}
