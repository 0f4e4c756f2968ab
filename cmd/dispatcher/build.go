package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/contexts"
)

// building is what the flags of submit say about an image to be built.
type building struct {
	dockerfile, platform, context string
	args, secrets                 []string
}

func (b *building) flags(flags *pflag.FlagSet) {
	flags.StringVar(&b.dockerfile, "dockerfile", "", "run an image that is built from this `FILE`, unless it has been built before")
	flags.StringArrayVar(&b.args, "build-arg", nil, "set an ARG of the Dockerfile, as `NAME[=VALUE]`; no place for secrets (repeatable)")
	flags.StringArrayVar(&b.secrets, "build-secret", nil, "give the Dockerfile's RUN --mount=type=secret,id=ID a secret, as `ID[=VALUE]`; ID alone takes the value of the environment variable (repeatable)")
	flags.StringVar(&b.platform, "platform", "", "build for this `PLATFORM`, such as linux/arm64 (default: that of the builder's node)")
	flags.StringVar(&b.context, "context", "", "let the Dockerfile copy from this folder `DIR`, which must be small")
}

// apply puts the flags into a request, over what its file says.
func (b *building) apply(request *client.Request, environment func(string) (string, bool)) error {
	if b.dockerfile == "" && b.platform == "" && b.context == "" && b.args == nil && b.secrets == nil {
		return nil
	}
	var build client.Build
	if request.Image.Build != nil {
		build = *request.Image.Build
	}
	request.Image.Build = &build
	if b.dockerfile != "" {
		text, err := os.ReadFile(b.dockerfile)
		if err != nil {
			return fmt.Errorf("read the Dockerfile: %w", err)
		}
		build.Dockerfile = string(text)
	}
	if build.Dockerfile == "" {
		return errors.New("--build-arg, --build-secret, --platform and --context need --dockerfile, or a file with a build")
	}
	if b.platform != "" {
		build.Platform = b.platform
	}
	return errors.Join(
		assign(&build.BuildArgs, "build-arg", b.args, environment),
		assign(&build.Secrets, "build-secret", b.secrets, environment),
	)
}

// putContext stores the folder that the build copies from, if there is one.
func (b *building) putContext(ctx context.Context, c *client.Client, request *client.Request) error {
	if b.context == "" {
		return nil
	}
	packed, err := packFolder(b.context)
	if err != nil {
		return &usageError{err}
	}
	return soon(ctx, func(ctx context.Context) (err error) {
		request.Image.Build.Context, err = c.PutContext(ctx, packed)
		return err
	})
}

// packFolder makes a compressed tar file of a folder. It holds no times and no
// owners, so that the same files make the same context, and the image is found
// again.
func packFolder(dir string) ([]byte, error) {
	var packed bytes.Buffer
	zip := gzip.NewWriter(&bounded{into: &packed, left: contexts.Most})
	archive := tar.NewWriter(zip)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the build context: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		return addFile(archive, root, path, entry)
	})
	if err = errors.Join(err, archive.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("pack the build context: %w", err)
	}
	return packed.Bytes(), nil
}

// bounded refuses what goes over a limit, so that the folder of a whole machine,
// given by mistake, is not read to its end.
type bounded struct {
	into io.Writer
	left int
}

func (b *bounded) Write(data []byte) (int, error) {
	if b.left -= len(data); b.left < 0 {
		return 0, fmt.Errorf("it has more than the %d bytes, compressed, that are taken; give a folder with nothing in it but what the build copies", contexts.Most)
	}
	return b.into.Write(data)
}

func addFile(archive *tar.Writer, root *os.Root, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = root.Readlink(path); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file, a folder nor a link", path)
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name = filepath.ToSlash(path)
	if info.IsDir() {
		header.Name += "/"
	}
	header.ModTime, header.AccessTime, header.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := root.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return errors.Join(err, file.Close())
}
