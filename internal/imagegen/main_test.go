package main

import (
	"archive/tar"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The image of a real program, from its compilation to a registry.
func TestImage(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	made := source{version: "v1.2.3", commit: strings.Repeat("a", 40), created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	binary := filepath.Join(t.TempDir(), "logshipper")
	if err := compile(t.Context(), made, "logshipper", platform, "", binary); err != nil {
		t.Fatal(err)
	}
	image, _, err := makeImage(made, "logshipper", platform, binary)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("is not root and says what it is", func(t *testing.T) {
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if file.Config.User != user || file.Config.Entrypoint[0] != "/usr/local/bin/logshipper" {
			t.Errorf("user %s, entry point %v", file.Config.User, file.Config.Entrypoint)
		}
		for label, want := range map[string]string{"version": "v1.2.3", "revision": made.commit, "title": "ropewalk-logshipper"} {
			if got := file.Config.Labels["org.opencontainers.image."+label]; got != want {
				t.Errorf("label %s is %q, want %q", label, got, want)
			}
		}
	})
	t.Run("holds a static program, authorities and a bill, and nothing else", func(t *testing.T) { checkFiles(t, image) })
	t.Run("is the same when it is made again", func(t *testing.T) {
		again, _, err := makeImage(made, "logshipper", platform, binary)
		if err != nil {
			t.Fatal(err)
		}
		if first, second := digest(t, image), digest(t, again); first != second {
			t.Errorf("%s, then %s", first, second)
		}
	})
	t.Run("loads from its archive", func(t *testing.T) {
		archive := filepath.Join(t.TempDir(), "image.tar")
		if err := writeArchive(archive, "ropewalk/logshipper:dev", image); err != nil {
			t.Fatal(err)
		}
		tag, err := name.NewTag("ropewalk/logshipper:dev")
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := tarball.ImageFromPath(archive, &tag)
		if err != nil {
			t.Fatal(err)
		}
		files(t, loaded)
	})
	t.Run("is found in a registry for each platform", func(t *testing.T) {
		server := httptest.NewServer(registry.New())
		defer server.Close()
		other := v1.Platform{OS: "linux", Architecture: "riscv64"}
		second, _, err := makeImage(made, "logshipper", other, binary)
		if err != nil {
			t.Fatal(err)
		}
		reference := strings.TrimPrefix(server.URL, "http://") + "/team/logshipper:dev"
		if _, err := push(t.Context(), reference, []v1.Platform{platform, other}, map[string]v1.Image{platform.Architecture: image, other.Architecture: second}); err != nil {
			t.Fatal(err)
		}
		tag, err := name.ParseReference(reference)
		if err != nil {
			t.Fatal(err)
		}
		for want, platform := range map[v1.Image]v1.Platform{image: platform, second: other} {
			got, err := remote.Image(tag, remote.WithPlatform(platform), remote.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			if digest(t, got) != digest(t, want) {
				t.Errorf("for %s it is another image", platform)
			}
		}
	})
}

func digest(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	hash, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// files are the contents of an image, of which there are none but plain files
// and folders.
func files(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	reader := mutate.Extract(image)
	defer func() { _ = reader.Close() }()
	for archive := tar.NewReader(reader); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeDir {
			t.Errorf("%s belongs to user %d and is of type %c", header.Name, header.Uid, header.Typeflag)
		}
		if header.Typeflag == tar.TypeReg {
			if found[header.Name], err = io.ReadAll(archive); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkFiles(t *testing.T, image v1.Image) {
	t.Helper()
	found := files(t, image)
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, found["usr/local/bin/logshipper"], 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = binary.Close() }()
	for _, part := range binary.Progs {
		if part.Type == elf.PT_INTERP {
			t.Error("the program needs a loader, which the image does not have")
		}
	}
	if !x509.NewCertPool().AppendCertsFromPEM(found["etc/ssl/certs/ca-certificates.crt"]) {
		t.Error("there are no authorities")
	}
	if count := strings.Count(string(found["etc/ssl/certs/ca-certificates.crt"]), "BEGIN CERTIFICATE"); count < 80 {
		t.Errorf("there are %d authorities; browsers trust far more", count)
	}
	var bill spdxDocument
	if err := json.Unmarshal(found["usr/share/sbom/logshipper.spdx.json"], &bill); err != nil {
		t.Fatal(err)
	}
	listed, ids := map[string]spdxPackage{}, map[string]bool{}
	for _, part := range bill.Packages {
		if ids[part.ID] {
			t.Errorf("two packages are called %s", part.ID)
		}
		ids[part.ID], listed[part.Name] = true, part
	}
	if nats := listed["github.com/nats-io/nats.go"]; nats.Version == "" || len(nats.Checksums) != 1 || listed["stdlib"].Version == "" {
		t.Errorf("the bill lacks what the program is made of: %+v", nats)
	}
	if len(found) != 5 { // and passwd and group
		t.Errorf("the image holds %d files", len(found))
	}
}

func TestWhatIsAskedForWrongly(t *testing.T) {
	for args, want := range map[string]string{
		"-platforms windows/amd64": `"windows/amd64" is not like linux/amd64`,
		"-platforms linux":         `"linux" is not like linux/amd64`,
		"-platforms linux/arm/v7":  `"linux/arm/v7" is not like linux/amd64`, // go build would not be told of v7
		"images":                   `"images" is an argument too many`,
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
