// Command imagegen makes the container images of Ropewalk's programs, for every
// platform, without a container engine and without any other image: it compiles
// the programs and lays each out with the certificates of the public
// authorities, and nothing else. `make images` runs it, in the root of the
// repository.
//
// It writes what `docker load` and every other engine reads, and can push to a
// registry. The same commit gives the same images, byte for byte.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "imagegen:", err)
		os.Exit(1)
	}
}

// options are what is asked for.
type options struct {
	out, tag, push, buildFlags string
	platforms                  []v1.Platform
	programs                   []string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var platforms, programs string
	flags := flag.NewFlagSet("imagegen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.out, "out", "bin/images", "write images to this `folder`")
	flags.StringVar(&o.tag, "tag", "dev", "the images' `tag`")
	flags.StringVar(&o.push, "push", "", "push to this `registry`, with a path if need be, too")
	flags.StringVar(&o.buildFlags, "buildflags", "-trimpath", "flags for go build")
	flags.StringVar(&platforms, "platforms", "linux/amd64,linux/arm64", "`list` of platforms")
	flags.StringVar(&programs, "programs", "dispatcher,logshipper", "`list` of programs, by their folders below cmd")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("%q is an argument too many", flags.Arg(0))
	}
	for platform := range strings.SplitSeq(platforms, ",") {
		parsed, err := v1.ParsePlatform(platform)
		if err != nil || parsed.OS != "linux" || parsed.Architecture == "" || parsed.Variant != "" {
			return options{}, fmt.Errorf("-platforms: %q is not like linux/amd64", platform)
		}
		o.platforms = append(o.platforms, *parsed)
	}
	o.programs = strings.Split(programs, ",")
	return o, nil
}

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	asked, err := parse(args, stderr)
	if err != nil {
		return err
	}
	source, err := readSource(ctx)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(asked.out, 0o750); err != nil {
		return fmt.Errorf("make the folder for images: %w", err)
	}
	for _, program := range asked.programs {
		if err := makeProgram(ctx, asked, source, program, stdout); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	return nil
}

// makeProgram makes the images of one program, and pushes them as one that
// every platform finds its own in.
func makeProgram(ctx context.Context, asked options, source source, program string, stdout io.Writer) error {
	images := map[string]v1.Image{}
	for _, platform := range asked.platforms {
		binary := filepath.Join(asked.out, fmt.Sprintf("%s-%s-%s", program, platform.OS, platform.Architecture))
		if err := compile(ctx, source, program, platform, asked.buildFlags, binary); err != nil {
			return err
		}
		image, bill, err := makeImage(source, program, platform, binary)
		if err != nil {
			return err
		}
		if err := os.Remove(binary); err != nil {
			return fmt.Errorf("remove the program, which is in the image now: %w", err)
		}
		if err := os.WriteFile(binary+".spdx.json", bill, 0o600); err != nil {
			return fmt.Errorf("write the bill of materials: %w", err)
		}
		name := "ropewalk/" + program + ":" + asked.tag
		if err := writeArchive(binary+".tar", name, image); err != nil {
			return err
		}
		images[platform.Architecture] = image
		if _, err := fmt.Fprintf(stdout, "%s.tar  %s  %s\n", binary, platform, name); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if asked.push == "" {
		return nil
	}
	name := strings.TrimSuffix(asked.push, "/") + "/" + program + ":" + asked.tag
	digest, err := push(ctx, name, asked.platforms, images)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "pushed %s@%s\n", name, digest)
	return err
}

// source is what images are made of.
type source struct {
	version, commit string
	created         time.Time
}

// readSource asks git. Sources without it, as from an archive, have no commit,
// and are as old as the epoch.
func readSource(ctx context.Context) (source, error) {
	git := func(args ...string) string {
		text, err := exec.CommandContext(ctx, "git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	s := source{version: os.Getenv("VERSION"), commit: git("rev-parse", "HEAD"), created: time.Unix(0, 0).UTC()}
	if s.version == "" {
		s.version = git("describe", "--tags", "--always", "--dirty")
	}
	if seconds := git("show", "--no-patch", "--format=%ct", "HEAD"); seconds != "" {
		number, err := strconv.ParseInt(seconds, 10, 64)
		if err != nil {
			return source{}, fmt.Errorf("read the time of the commit: %w", err)
		}
		s.created = time.Unix(number, 0).UTC()
	}
	return s, nil
}

// compile builds a program that needs nothing of the system that it runs on.
func compile(ctx context.Context, source source, program string, platform v1.Platform, flags, out string) error {
	args := append([]string{"build"}, strings.Fields(flags)...)
	args = append(args, "-ldflags", "-s -w -X main.release="+source.version, "-o", out, "./cmd/"+program)
	command := exec.CommandContext(ctx, "go", args...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("compile for %s: %w\n%s", platform, err, text)
	}
	return nil
}
