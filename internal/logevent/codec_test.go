package logevent_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

func TestABatchComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Custom(func(t *rapid.T) time.Time {
			return time.Unix(0, rapid.Int64Range(1, 1<<61).Draw(t, "ns")).UTC()
		})
		batch := logevent.Batch{
			First: rapid.Uint64Range(1, 1<<50).Draw(t, "first"), End: rapid.Bool().Draw(t, "end"),
			Reached: logevent.Position{Time: at.Draw(t, "reached"), Ordinal: rapid.Uint64().Draw(t, "ordinal"), Offset: rapid.Uint64().Draw(t, "offset")},
			Lines:   []logevent.Line{},
		}
		for i := range rapid.IntRange(0, 20).Draw(t, "lines") {
			batch.Lines = append(batch.Lines, logevent.Line{
				Seq: batch.First + uint64(i), Time: at.Draw(t, "time"), Flags: logevent.Flags(rapid.IntRange(0, 7).Draw(t, "flags")),
				Text: rapid.SliceOf(rapid.Byte()).Draw(t, "text"),
			})
		}
		got, err := logevent.Decode(batch.Encode())
		if err != nil {
			t.Fatal(err)
		}
		for i := range got.Lines {
			if !bytes.Equal(got.Lines[i].Text, batch.Lines[i].Text) {
				t.Fatalf("line %d is %q; want %q", i, got.Lines[i].Text, batch.Lines[i].Text)
			}
			got.Lines[i].Text, batch.Lines[i].Text = nil, nil
		}
		if !reflect.DeepEqual(got, batch) {
			t.Fatalf("got %+v; want %+v", got, batch)
		}
	})
}

func TestTheBeginningIsAPositionToo(t *testing.T) {
	got, err := logevent.Decode(logevent.Batch{First: 1, End: true}.Encode())
	if err != nil || !got.End || got.Reached != (logevent.Position{}) || got.Next() != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAPathNamesALog(t *testing.T) {
	log := logevent.Log{Run: "r", Attempt: 2, Pod: "run-r-2-abcde", Container: "run"}
	if got, err := logevent.ParsePath(log.String()); err != nil || got != log {
		t.Errorf("%+v, %v", got, err)
	}
	for _, path := range []string{"", "a/b/c", "a/0/c/d", "a/x/c/d", "a/1/c/d/e"} {
		if _, err := logevent.ParsePath(path); err == nil {
			t.Errorf("%q was taken for a path", path)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(logevent.Batch{First: 1, Lines: []logevent.Line{{Seq: 1, Time: time.Unix(1, 2), Text: []byte("x")}}}.Encode())
	f.Add([]byte{1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		batch, err := logevent.Decode(data)
		if err != nil {
			return
		}
		again, err := logevent.Decode(batch.Encode())
		if err != nil || again.Next() != batch.Next() {
			t.Fatalf("%+v came back as %+v, %v", batch, again, err)
		}
	})
}
