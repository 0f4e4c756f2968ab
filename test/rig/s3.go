package rig

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// s3Server is the program that serves a folder as S3.
const s3Server = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

// S3 is an S3 server process that keeps its buckets in a folder. It keeps its
// address and its objects over restarts.
type S3 struct {
	program, dir, address string
	process               *Process
}

// StartS3 installs the server, unless it is in the PATH or was installed
// before, and starts it with a bucket in dir.
func StartS3(ctx context.Context, dir, bucket string) (*S3, error) {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a place for the S3 server: %w", err)
		}
		bin := filepath.Join(cache, "ropewalk-e2e")
		program = filepath.Join(bin, "versitygw")
		if _, err := os.Stat(program); err != nil {
			// Compiling takes as long as it takes; the context is for the server.
			if err := installS3(context.WithoutCancel(ctx), bin, program); err != nil {
				return nil, fmt.Errorf("install the S3 server: %w", err)
			}
		}
	}
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &S3{program: program, dir: dir, address: address}
	for _, folder := range []string{s.Folder(bucket), filepath.Join(dir, "state")} {
		if err := os.MkdirAll(folder, 0o750); err != nil {
			return nil, fmt.Errorf("make a folder for the S3 server: %w", err)
		}
	}
	return s, s.Start(ctx)
}

// installS3 puts the program in its place when it is whole: others may install
// it at the same time, or look whether it is there.
func installS3(ctx context.Context, bin, program string) error {
	if err := os.MkdirAll(bin, 0o750); err != nil {
		return err
	}
	part, err := os.MkdirTemp(bin, "installing-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(part) }()
	install := exec.CommandContext(ctx, "go", "install", s3Server)
	install.Env = append(os.Environ(), "GOBIN="+part, "GOFLAGS=")
	if text, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	return os.Rename(filepath.Join(part, filepath.Base(program)), program)
}

// Start starts the server again after Kill.
func (s *S3) Start(ctx context.Context) error {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "ROOT_ACCESS_KEY=" + s3Key, "ROOT_SECRET_KEY=" + s3Secret}
	args := []string{"--port", s.address, "posix", "--sidecar", filepath.Join(s.dir, "state"), filepath.Join(s.dir, "s3")}
	process, err := Start(s.program, args, env, filepath.Join(s.dir, "s3.log"))
	if err != nil {
		return err
	}
	s.process = process
	var dialer net.Dialer
	err = Poll(ctx, 20*time.Millisecond, func() error {
		select {
		case <-process.Done():
			text, _ := os.ReadFile(filepath.Join(s.dir, "s3.log"))
			return Stop(fmt.Errorf("the S3 server ended: %s", text))
		default:
		}
		conn, err := dialer.DialContext(ctx, "tcp", s.address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		process.Kill()
		return fmt.Errorf("start the S3 server: %w", err)
	}
	return nil
}

const (
	s3Key    = "ropewalk"
	s3Secret = "ropewalk-secret"
)

// Credentials are the variables by which the SDK logs in to the server.
func (s *S3) Credentials() Settings {
	return Settings{"AWS_ACCESS_KEY_ID": s3Key, "AWS_SECRET_ACCESS_KEY": s3Secret, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
}

// URL is where clients connect.
func (s *S3) URL() string { return "http://" + s.address }

// Folder is where the server keeps the objects of a bucket, as files named by
// their keys.
func (s *S3) Folder(bucket string) string { return filepath.Join(s.dir, "s3", bucket) }

// Kill ends the server with SIGKILL; its objects stay.
func (s *S3) Kill() { s.process.Kill() }
