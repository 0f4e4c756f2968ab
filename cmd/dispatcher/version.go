package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is the version that was built, set by the linker
// (-ldflags "-X main.release=v1.2.3"); empty when built by go install, which
// notes the version itself.
var release string //nolint:gochecknoglobals // the linker can set nothing else

// build is what is known of this binary.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisBuild() build {
	b := build{Version: release, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "(devel)" {
			b.Version = cmp.Or(b.Version, info.Main.Version)
		}
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision":
				b.Commit = setting.Value
			case "vcs.modified":
				b.Modified = setting.Value == "true"
			}
		}
	}
	b.Version = cmp.Or(b.Version, "devel")
	return b
}

// version names this build.
func version() string { return thisBuild().Version }

func newVersionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which version this is",
		Args:  arguments(),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		b := thisBuild()
		if *output == formatJSON {
			return writeJSON(a.stdout, b)
		}
		commit := ""
		if b.Commit != "" {
			commit = "commit " + b.Commit[:min(12, len(b.Commit))]
			if b.Modified {
				commit += " and changes"
			}
			commit += ", "
		}
		_, err := fmt.Fprintf(a.stdout, "dispatcher %s (%s%s, %s)\n", b.Version, commit, b.Go, b.Platform)
		return err
	}
	return cmd
}
