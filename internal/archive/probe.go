package archive

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// probes is where probes are written: beside the logs, so that nobody takes one
// for a log.
const probes = "doctor/"

// ProbeError tells which step of a probe failed.
type ProbeError struct {
	// Step is "write", "list", "read" or "delete".
	Step string
	Err  error
}

func (e *ProbeError) Error() string { return e.Step + " an object: " + e.Err.Error() }
func (e *ProbeError) Unwrap() error { return e.Err }

// Probe writes a small object, finds it, reads it and deletes it again. Its
// error is a [*ProbeError]; what was written is deleted all the same.
func (a *Archive) Probe(ctx context.Context) error {
	text := []byte("Ropewalk was here: " + rand.Text())
	key := probes + strings.ToLower(rand.Text())
	if err := a.objects.Put(ctx, key, bytes.NewReader(text), int64(len(text))); err != nil {
		return &ProbeError{"write", err}
	}
	err := a.probe(ctx, key, text)
	if deleting := a.objects.Delete(context.WithoutCancel(ctx), []string{key}); err == nil && deleting != nil {
		err = &ProbeError{"delete", deleting}
	}
	return err
}

func (a *Archive) probe(ctx context.Context, key string, text []byte) error {
	found, err := a.objects.List(ctx, probes)
	if err == nil && !slices.ContainsFunc(found, func(object Object) bool { return object.Key == key }) {
		err = errors.New("it is not in the list")
	}
	if err != nil {
		return &ProbeError{"list", err}
	}
	body, err := a.objects.Get(ctx, key)
	if err != nil {
		return &ProbeError{"read", err}
	}
	read, err := io.ReadAll(io.LimitReader(body, int64(len(text))+1))
	if err = errors.Join(err, body.Close()); err == nil && !bytes.Equal(read, text) {
		err = fmt.Errorf("other %d bytes came back than the %d that were written", len(read), len(text))
	}
	if err != nil {
		return &ProbeError{"read", err}
	}
	return nil
}
