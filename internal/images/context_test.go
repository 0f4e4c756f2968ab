package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/run"
)

// packed is a tar file of the headers, each with as many zeros as its size says.
func packed(t *testing.T, zip bool, headers ...tar.Header) []byte {
	t.Helper()
	var text bytes.Buffer
	var to io.WriteCloser = struct {
		io.Writer
		io.Closer
	}{&text, io.NopCloser(nil)}
	if zip {
		to = gzip.NewWriter(&text)
	}
	archive := tar.NewWriter(to)
	for _, header := range headers {
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(archive, zeros{}, header.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), to.Close()); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// changed is data with one text in the place of another of the same length, and
// the checksum of its first block made right.
func changed(data []byte, at int, text string) []byte {
	data = bytes.Clone(data)
	copy(data[at:], text)
	const sum, sumEnd = 148, 156
	copy(data[sum:sumEnd], "        ")
	total := 0
	for _, b := range data[:blockSize] {
		total += int(b)
	}
	copy(data[sum:sumEnd], fmt.Sprintf("%06o\x00 ", total))
	return data
}

type zeros struct{}

func (zeros) Read(into []byte) (int, error) { clear(into); return len(into), nil }

func TestContextsThatBuildersUnpack(t *testing.T) {
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: 3}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to} }
	const most = 1 << 20
	whole := packed(t, false, file("a"), file("b"))
	extended := packed(t, false, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 3, PAXRecords: map[string]string{"sizx": "4"}})
	for name, test := range map[string]struct {
		data []byte
		says string // "" when it is taken
	}{
		"files and folders":               {packed(t, true, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "src/", Typeflag: tar.TypeDir}, file("src/a"), file("./b")), ""},
		"without gzip":                    {whole, ""},
		"an empty folder":                 {packed(t, true), ""},
		"an empty folder without gzip":    {packed(t, false), ""},
		"links":                           {packed(t, true, file("a"), link("b", "/etc/passwd"), hard("c", "a")), ""},
		"nothing":                         {nil, "not a whole tar file"},
		"a text":                          {[]byte("FROM busybox\n"), "not a whole tar file"},
		"a longer text":                   {[]byte(strings.Repeat("FROM busybox\n", 200)), "not a whole tar file"},
		"half of a file":                  {whole[:700], "not a whole tar file"},
		"half of a zipped file":           {packed(t, true, file("a"))[:40], "not a whole tar file"},
		"two bytes of gzip":               {[]byte{0x1f, 0x8b}, "not a whole gzip file"},
		"a file above":                    {packed(t, true, file("../a")), "outside of the context"},
		"a file above, hidden":            {packed(t, true, file("a/../../b")), "outside of the context"},
		"a file at the root":              {packed(t, false, file("/usr/bin/buildctl")), "outside of the context"},
		"a file behind a link":            {packed(t, true, link("a", "/usr/bin"), file("a/buildctl")), "behind a symbolic link"},
		"a file in a link's place":        {packed(t, true, link("./a", "/usr/bin/buildctl"), file("a")), "takes its place"},
		"a hard link to a file above":     {packed(t, true, hard("a", "../../etc/shadow")), "file outside of the context"},
		"a hard link through a link":      {packed(t, true, link("etc", "/etc"), hard("a", "etc/shadow")), "file outside of the context"},
		"a device":                        {packed(t, true, tar.Header{Name: "sda", Typeflag: tar.TypeBlock}), "neither a file, a folder nor a link"},
		"a size in two places":            {changed(extended, bytes.Index(extended, []byte("sizx=")), "size="), "read in different ways"},
		"a header for all that follows":   {packed(t, false, tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "../b"}}), "read in different ways"},
		"what git archive writes":         {packed(t, false, tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "1f3a"}}, file("a")), ""},
		"of no known kind":                {changed(whole, 257, "xz..."), "all programs read alike"},
		"of the oldest kind":              {changed(whole, 257, "\x00\x00\x00\x00\x00\x00\x00\x00"), ""},
		"little that becomes very much":   {packed(t, true, tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: most + 1}), "when it is unpacked"},
		"as much as there may be, nearly": {packed(t, true, tar.Header{Name: "large", Typeflag: tar.TypeReg, Size: most - 4096}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkContext(test.data, most)
			var invalid *run.InvalidError
			switch {
			case test.says == "" && err != nil:
				t.Error(err)
			case test.says != "" && (!errors.As(err, &invalid) || !strings.Contains(err.Error(), test.says)):
				t.Errorf("%v; want %q", err, test.says)
			}
		})
	}
}

func FuzzCheckContext(f *testing.F) {
	f.Add([]byte("no tar"))
	var text bytes.Buffer
	archive := tar.NewWriter(&text)
	_ = archive.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"})
	_ = archive.Close()
	f.Add(text.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var invalid *run.InvalidError
		if err := checkContext(data, mostUnpacked); err != nil && !errors.As(err, &invalid) {
			t.Errorf("%v is not the publisher's to mend", err)
		}
	})
}
