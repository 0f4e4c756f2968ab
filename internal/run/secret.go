package run

import "fmt"

// Redacted is what a secret shows as.
const Redacted = "[redacted]"

// Secret is a value that must not be seen: it prints and marshals as
// [Redacted], whatever the verb. [Secret.Reveal] is the only way to its value
// and [Request.Encode] the only way to put it on the wire, so a search for
// those two names finds every place where a secret leaves the process.
type Secret string

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// Format prints [Redacted] for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// MarshalText keeps secrets out of records, logs and answers.
func (Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// UnmarshalText takes the value as it is.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}
