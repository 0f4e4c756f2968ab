// Package file keeps the objects of an archive as files in a folder.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ropewalk/ropewalk/internal/archive"
)

// Folder keeps objects under a folder; a key is a path below it. It is safe for
// concurrent use, by several processes too.
type Folder struct{ root string }

// New returns a store on a folder, which it makes.
func New(root string) (*Folder, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the archive: %w", err)
	}
	return &Folder{root}, nil
}

func (f *Folder) path(key string) string { return filepath.Join(f.root, filepath.FromSlash(key)) }

// unfinished begins the names of files that are being written.
const unfinished = ".new-"

// Put writes an object beside its place and moves it there once it is on disk.
func (f *Folder) Put(_ context.Context, key string, body io.Reader, size int64) (err error) {
	path := f.path(key)
	if err := makeFolders(filepath.Dir(path), f.root); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), unfinished+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	written, err := io.Copy(file, body)
	if err == nil && written != size {
		err = fmt.Errorf("%d bytes came instead of %d", written, size)
	}
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// makeFolders makes a folder and puts its name, and those of the new ones above
// it, on disk.
func makeFolders(path, root string) error {
	if _, err := os.Stat(path); err == nil || path == root {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeFolders(parent, root); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Get opens an object.
func (f *Folder) Get(_ context.Context, key string) (io.ReadCloser, error) {
	return os.Open(f.path(key))
}

// GetFrom opens an object at an offset, from its end if that is negative.
func (f *Folder) GetFrom(_ context.Context, key string, offset int64) (io.ReadCloser, error) {
	file, err := os.Open(f.path(key))
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		info, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		offset = max(0, info.Size()+offset)
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// List walks the folder that the prefix leads to.
func (f *Folder) List(ctx context.Context, prefix string) ([]archive.Object, error) {
	start := f.path(prefix[:strings.LastIndexByte(prefix, '/')+1])
	var objects []archive.Object
	err := filepath.WalkDir(start, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since, or never there
		}
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), unfinished) {
			return err
		}
		relative, err := filepath.Rel(f.root, path)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(relative)
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(key, prefix) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		objects = append(objects, archive.Object{Key: key, Size: info.Size(), Modified: info.ModTime()})
		return ctx.Err()
	})
	return objects, err
}

// Delete removes objects, and the folder that the last one leaves empty.
func (f *Folder) Delete(_ context.Context, keys []string) error {
	for _, key := range keys {
		if err := os.Remove(f.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// Fails as long as something is in it, and then it stays.
		_ = os.Remove(filepath.Dir(f.path(key)))
	}
	return nil
}
