package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ropewalk/ropewalk/internal/run"
)

// format is how a command writes what it found.
type format string

const (
	formatText format = "text" // for people
	formatJSON format = "json" // for programs
)

func (f *format) String() string { return string(*f) }

// Type names the values in the help.
func (f *format) Type() string { return "text|json" }

// Set takes the flag's value.
func (f *format) Set(value string) error {
	if value != string(formatText) && value != string(formatJSON) {
		return fmt.Errorf("it must be %s or %s", formatText, formatJSON)
	}
	*f = format(value)
	return nil
}

// outputFlag gives a command the flag that chooses its format.
func outputFlag(cmd *cobra.Command) *format {
	output := formatText
	cmd.Flags().VarP(&output, "output", "o", "write text for people, or json for programs")
	choices(cmd, "output", string(formatText), string(formatJSON))
	return &output
}

// choices lets the shell complete a flag's values.
func choices(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("dispatcher: " + err.Error()) // no such flag, found by any test
	}
}

// screen is an output and what it can show. Everything that it writes for
// people goes through [printable] first.
type screen struct {
	io.Writer
	// terminal: a person looks at it, so that lines may be cut to its width
	// and drawn again.
	terminal bool
	colour   bool
	width    int
}

// newScreen finds out what an output can show. Only terminals get colour, and
// only if neither NO_COLOR nor TERM=dumb says that it is not wanted.
func newScreen(w io.Writer) screen {
	const unlimited = 100 // for wrapping text that goes to a file
	s := screen{Writer: w, width: unlimited}
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return s
	}
	s.terminal = os.Getenv("TERM") != "dumb"
	s.colour = s.terminal && os.Getenv("NO_COLOR") == ""
	if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
		s.width = width
	}
	return s
}

// state is a state in its colour.
func (s screen) state(state run.State) string {
	shown := printable(string(state))
	if !s.colour {
		return shown
	}
	var colours text.Colors
	switch state {
	case run.Succeeded:
		colours = text.Colors{text.FgGreen}
	case run.Failed, run.TimedOut, run.Rejected:
		colours = text.Colors{text.FgRed}
	case run.Cancelled:
		colours = text.Colors{text.FgYellow}
	case run.Preparing, run.Pending, run.Running:
		colours = text.Colors{text.FgCyan}
	case run.Queued:
		return shown
	default: // of a newer dispatcher
		return shown
	}
	return text.Escape(shown, colours.EscapeSeq())
}

// heading is what stands above a column or paragraph.
func (s screen) heading(heading string) string {
	if !s.colour {
		return heading
	}
	return text.Escape(heading, text.Colors{text.Bold}.EscapeSeq())
}

// table writes rows under headings, without borders. Cells of the column
// STATE hold states.
func (s screen) table(columns []string, rows [][]string) {
	_, _ = fmt.Fprintln(s, s.tableText(columns, rows))
}

func (s screen) tableText(columns []string, rows [][]string) string {
	writer := table.NewWriter()
	writer.SetStyle(table.Style{
		Name: "plain",
		Box:  table.BoxStyle{PaddingRight: "   "},
	})
	writer.SuppressTrailingSpaces()
	header := make(table.Row, len(columns))
	for i, column := range columns {
		header[i] = s.heading(column)
	}
	writer.AppendHeader(header)
	// The column of states keeps its width, so that a table that is drawn
	// again does not jump.
	stateColumn := slices.Index(columns, "STATE")
	writer.SetColumnConfigs([]table.ColumnConfig{{Number: stateColumn + 1, WidthMin: len(run.Preparing)}})
	for _, row := range rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			cells[i] = printableLines(cell)
			if i == stateColumn {
				cells[i] = s.state(run.State(cell))
			}
		}
		writer.AppendRow(cells)
	}
	return s.cut(writer.Render())
}

// cut cuts lines to the width of the terminal: lines that run over make a
// table unreadable, and one that is drawn again wrong.
func (s screen) cut(rendered string) string {
	if !s.terminal {
		return rendered
	}
	lines := strings.Split(rendered, "\n")
	for i, line := range lines {
		if text.StringWidthWithoutEscSequences(line) > s.width {
			lines[i] = text.Trim(line, s.width-1) + "…"
		}
	}
	return strings.Join(lines, "\n")
}

// fact is one line of what is known of a thing.
type fact struct{ name, value string }

// facts writes names and values below each other, and leaves out what is
// empty. A long value goes on in the next line, below its beginning.
func (s screen) facts(facts []fact) {
	widest := 0
	for _, fact := range facts {
		widest = max(widest, len(fact.name))
	}
	const least = 20 // a column narrower than this is worse than lines that run over
	indent := widest + len(": ")
	for _, fact := range facts {
		if fact.value == "" {
			continue
		}
		value := text.WrapSoft(printableLines(fact.value), max(s.width-indent, least))
		if fact.name == "State" {
			state, rest, _ := strings.Cut(value, " ")
			value = strings.TrimSpace(s.state(run.State(state)) + " " + rest)
		}
		for i, line := range strings.Split(value, "\n") {
			name := ""
			if i == 0 {
				name = fact.name + ":"
			}
			_, _ = fmt.Fprintf(s, "%-*s%s\n", indent, name, strings.TrimRight(line, " "))
		}
	}
}

// writeJSON writes a value for programs, indented for the people who read it
// all the same.
func writeJSON(w io.Writer, value any) error {
	return encodeJSON(w, value, "  ")
}

// writeJSONLine writes a value in one line.
func writeJSONLine(w io.Writer, value any) error {
	return encodeJSON(w, value, "")
}

func encodeJSON(w io.Writer, value any, indent string) error {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	if _, err := w.Write(escapeUnprintable(buffer.Bytes())); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// escapeUnprintable writes the characters that a terminal could obey, and that
// JSON would let stand, as JSON escapes. They are in strings only, so that the
// value stays the same.
func escapeUnprintable(encoded []byte) []byte {
	var safe bytes.Buffer
	for _, r := range string(encoded) {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			safe.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			_, _ = fmt.Fprintf(&safe, `\u%04x\u%04x`, high, low)
		default:
			_, _ = fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	return safe.Bytes()
}
