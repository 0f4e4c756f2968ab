package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// mostUnpacked bounds what a context's 700 KiB become in the builder: files that
// compress 300 times are no source code.
const mostUnpacked = 200 << 20

// blockSize is that of tar, whose end is two blocks of zeros.
const blockSize = 512

// checkContext refuses what is no tar file, plain or with gzip, that can be
// unpacked into a folder without reaching out of it. Builders unpack contexts
// outside of the sandbox in which a Dockerfile's commands run, some of them as
// root, and by whatever tar their image has.
func checkContext(data []byte, most int64) error {
	var from io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(from)
		if err != nil {
			return noContext("is not a whole gzip file")
		}
		from = unzipped
	}
	begins := bufio.NewReaderSize(from, blockSize)
	if block, _ := begins.Peek(blockSize); len(block) == blockSize && !readAlike(block) {
		return noContext("is not a whole tar file that all programs read alike; tar --format=ustar makes one")
	}
	bounded := &io.LimitedReader{R: begins, N: most + 1}
	archive := tar.NewReader(bounded)
	links := map[string]bool{}
	for {
		header, err := archive.Next()
		switch {
		case bounded.N <= 0:
			return noContext(fmt.Sprintf("has more than %d bytes when it is unpacked", most))
		case errors.Is(err, io.EOF) && most+1-bounded.N >= 2*blockSize: // the end's mark; a folder may be empty
			return nil
		case err != nil:
			return noContext("is not a whole tar file, plain or with gzip")
		}
		if problem := reachesOut(header, links); problem != "" {
			return noContext(fmt.Sprintf("holds %.200q, which %s", header.Name, problem))
		}
		if header.Typeflag == tar.TypeSymlink {
			links[path.Clean(header.Name)] = true
		}
	}
}

// readAlike reports whether the first block of a tar file says that it is one, or
// is of the oldest kind, which has nothing in that place. With anything else there,
// some programs look for a compressed file instead.
func readAlike(block []byte) bool {
	magic := string(block[257:262])
	return magic == "ustar" || magic == "\x00\x00\x00\x00\x00"
}

// reachesOut says why an entry would not stay in the folder that it is unpacked
// into. Symbolic links may point anywhere, as long as nothing goes through them.
func reachesOut(header *tar.Header, links map[string]bool) string {
	through := func(name string) bool {
		for name = path.Clean(name); name != "."; name = path.Dir(name) {
			if links[name] {
				return true
			}
		}
		return false
	}
	local := func(name string) bool {
		name = path.Clean(name)
		return !path.IsAbs(name) && name != ".." && !strings.HasPrefix(name, "../")
	}
	for key := range header.PAXRecords {
		// With another size than in the plain header, one program reads as
		// headers what is a file's content to the other.
		if key == "size" || strings.HasPrefix(key, "GNU.sparse.") || header.Typeflag == tar.TypeXGlobalHeader && key != "comment" {
			return "has a header that programs read in different ways"
		}
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeXGlobalHeader:
	case tar.TypeLink:
		if !local(header.Linkname) || through(header.Linkname) {
			return "is a link to a file outside of the context"
		}
	default:
		return "is neither a file, a folder nor a link"
	}
	switch {
	case !local(header.Name):
		return "lies outside of the context"
	case through(header.Name):
		return "lies behind a symbolic link, or takes its place"
	}
	return ""
}

func noContext(problem string) error { return invalid("image.build.context", "%s", problem) }
