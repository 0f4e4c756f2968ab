package main

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ropewalk/ropewalk/internal/run"
)

// openTerminal opens a pseudo-terminal of the given width.
func openTerminal(t *testing.T, width uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: 40}); err != nil {
		t.Fatal(err)
	}
	return terminal
}

func TestTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		noColor, term    string
		terminal, colour bool
	}{
		"a terminal has colour":       {term: "xterm", terminal: true, colour: true},
		"NO_COLOR":                    {term: "xterm", noColor: "1", terminal: true},
		"NO_COLOR, whatever it is":    {term: "xterm", noColor: "0", terminal: true},
		"a terminal that can nothing": {term: "dumb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			s := newScreen(openTerminal(t, 70))
			if s.terminal != c.terminal || s.colour != c.colour || s.width != 70 {
				t.Errorf("got %+v", s)
			}
			if coloured := s.state(run.Failed) != "failed"; coloured != c.colour {
				t.Errorf("failed shows as %q", s.state(run.Failed))
			}
		})
	}
}
