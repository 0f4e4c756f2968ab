package run

import (
	"encoding/json"
	"time"
)

// Duration is a length of time that is written as Go writes it ("90s",
// "1h30m") and also read from a number of seconds.
type Duration time.Duration

// String writes the duration as [time.Duration] does.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes a string such as "1h30m0s".
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// durationError tells what is wrong with a length of time, without repeating
// it: what stands in the wrong place may be a secret.
type durationError string

func (e durationError) Error() string { return string(e) }

// UnmarshalJSON reads a string such as "1h30m" or a number of seconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	const wrong = durationError(`is not a time such as "90s" or "1h30m", nor a number of seconds`)
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		const most = float64(1<<63-1) / float64(time.Second)
		if seconds >= most || seconds <= -most {
			return durationError("is too long a time")
		}
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) != nil {
		return wrong
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return wrong
	}
	*d = Duration(parsed)
	return nil
}
