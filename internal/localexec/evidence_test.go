package localexec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// written is a job's folder with this output.
func written(t *testing.T, output string) folder {
	t.Helper()
	f := folder(t.TempDir())
	if err := os.WriteFile(f.file(outputFile), []byte(output), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLastWordsOfALongOutput(t *testing.T) {
	var output strings.Builder
	var want []string
	for i := range 40 {
		for range 2 { // lines of two parts, together longer than what is read
			_, _ = fmt.Fprintf(&output, "%s stdout P %s\n", "2030-01-01T00:00:00.000000000Z", strings.Repeat("x", maxLine-1))
		}
		_, _ = fmt.Fprintf(&output, "%s stdout F end\n", "2030-01-01T00:00:00.000000000Z")
		line := fmt.Sprintf("line %d", i)
		_, _ = fmt.Fprintf(&output, "%s stderr F %s\n", "2030-01-01T00:00:00.000000000Z", line)
		want = append(want, line)
	}
	evidence := lastWords(t.Context(), written(t, output.String()))
	if evidence == nil || evidence.Missing != "" || len(evidence.LastLines) == 0 {
		t.Fatalf("the evidence is %+v", evidence)
	}
	var got []string
	for _, line := range evidence.LastLines {
		if !strings.HasPrefix(line, "x") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want[len(want)-len(got):]) || len(got) < 5 {
		t.Errorf("the last lines are %q", got)
	}
}

func TestLastWordsOfNothing(t *testing.T) {
	if evidence := lastWords(t.Context(), folder(t.TempDir())); evidence != nil {
		t.Errorf("without an output: %+v", evidence)
	}
	if evidence := lastWords(t.Context(), written(t, "")); evidence != nil {
		t.Errorf("with an empty output: %+v", evidence)
	}
	damaged := lastWords(t.Context(), written(t, "2030-01-01T00:00:00.000000000Z stdout F good\nbad\n"))
	if damaged == nil || !slices.Equal(damaged.LastLines, []string{"good"}) || !strings.Contains(damaged.Missing, "damaged") {
		t.Errorf("with a damaged output: %+v", damaged)
	}
}
