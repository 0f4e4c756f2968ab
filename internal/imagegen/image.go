package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who the programs run as: nobody in particular, and not root. It is a
// number, so that a cluster can see that it is not.
const user = "65532:65532"

// entry is a file, or a folder, of an image. All belong to root, so that the
// program can change none of them.
type entry struct {
	path string
	mode int64
	data []byte
}

// makeImage lays a program out, and returns the image and its bill of materials,
// which is in the image too.
func makeImage(source source, program string, platform v1.Platform, binary string) (v1.Image, []byte, error) {
	data, err := os.ReadFile(binary)
	if err != nil {
		return nil, nil, fmt.Errorf("read the program: %w", err)
	}
	bill, err := billOfMaterials(source, program, platform, binary)
	if err != nil {
		return nil, nil, err
	}
	base, err := layer(source.created, []entry{
		{"etc/", 0o755, nil},
		{"etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\nropewalk:x:65532:65532:ropewalk:/tmp:/sbin/nologin\n")},
		{"etc/group", 0o644, []byte("root:x:0:\nropewalk:x:65532:\n")},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, authorities()},
		{"tmp/", 0o1777, nil},
	})
	if err != nil {
		return nil, nil, err
	}
	own, err := layer(source.created, []entry{
		{"usr/", 0o755, nil},
		{"usr/local/", 0o755, nil},
		{"usr/local/bin/", 0o755, nil},
		{"usr/local/bin/" + program, 0o755, data},
		{"usr/share/", 0o755, nil},
		{"usr/share/sbom/", 0o755, nil},
		{"usr/share/sbom/" + program + ".spdx.json", 0o644, bill},
	})
	if err != nil {
		return nil, nil, err
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), base, own)
	if err != nil {
		return nil, nil, fmt.Errorf("lay the image out: %w", err)
	}
	image, err = mutate.ConfigFile(mutate.ConfigMediaType(image, types.OCIConfigJSON), config(image, source, program, platform))
	if err != nil {
		return nil, nil, fmt.Errorf("configure the image: %w", err)
	}
	return image, bill, nil
}

// config takes over what the image says of its layers.
func config(image v1.Image, source source, program string, platform v1.Platform) *v1.ConfigFile {
	file := &v1.ConfigFile{}
	if existing, err := image.ConfigFile(); err == nil { // an image in memory always has one
		file = existing.DeepCopy()
	}
	file.OS, file.Architecture, file.Variant = platform.OS, platform.Architecture, platform.Variant
	file.Created = v1.Time{Time: source.created}
	file.Config = v1.Config{
		User: user, WorkingDir: "/tmp",
		Entrypoint: []string{"/usr/local/bin/" + program}, Cmd: []string{"serve"},
		Env:          []string{"PATH=/usr/local/bin"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "ropewalk-" + program,
			"org.opencontainers.image.version":  source.version,
			"org.opencontainers.image.revision": source.commit,
			"org.opencontainers.image.created":  source.created.Format(time.RFC3339),
			"org.opencontainers.image.source":   "https://github.com/ropewalk/ropewalk",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return file
}

func layer(created time.Time, entries []entry) (v1.Layer, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, e := range entries {
		header := &tar.Header{Name: e.path, Mode: e.mode, Size: int64(len(e.data)), ModTime: created, Typeflag: tar.TypeReg}
		if e.data == nil {
			header.Typeflag = tar.TypeDir
		}
		if err := writer.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("lay %s out: %w", e.path, err)
		}
		if _, err := writer.Write(e.data); err != nil {
			return nil, fmt.Errorf("lay %s out: %w", e.path, err)
		}
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("lay files out: %w", err)
	}
	made, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make a layer: %w", err)
	}
	return made, nil
}

// authorities are the certificates that browsers trust, from the Go project's
// module of them, as the file that programs look for.
func authorities() []byte {
	var file bytes.Buffer
	for root := range bundle.Roots() {
		// An authority that is trusted only in part cannot be told so by a
		// file of certificates.
		if root.Constraint == nil {
			_ = pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes everything
		}
	}
	return file.Bytes()
}

// writeArchive writes what `docker load` reads.
func writeArchive(path, reference string, image v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// index makes one image of those of the platforms.
func index(platforms []v1.Platform, images map[string]v1.Image) v1.ImageIndex {
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range platforms {
		all = mutate.AppendManifests(all, mutate.IndexAddendum{
			Add: images[platform.Architecture], Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return all
}

// push pushes with the credentials of docker's configuration.
func push(ctx context.Context, reference string, platforms []v1.Platform, images map[string]v1.Image) (v1.Hash, error) {
	tag, err := name.NewTag(reference)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("name the image: %w", err)
	}
	all := index(platforms, images)
	if err := remote.WriteIndex(tag, all, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return v1.Hash{}, fmt.Errorf("push %s: %w", reference, err)
	}
	return all.Digest()
}
