package run

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Job names the thing that a launcher made for one attempt of a run.
type Job struct {
	// Namespace is the Kubernetes namespace, or "local" for a process.
	Namespace string `json:"namespace"`
	// Name follows from the run id and the attempt; see [JobName].
	Name string `json:"name"`
	// UID tells this Job from another one of the same name. It is empty as
	// long as the Job is not known to exist.
	UID string `json:"uid"`
}

// maxPlainID is the longest id that stands in a Job's name as it is: the name
// becomes a label value of at most 63 bytes, with "run-", "-" and up to five
// digits of the attempt around the id.
const maxPlainID = 63 - len("run-") - len("-99999")

// JobName is the name of the Job of one attempt of a run. It depends on
// nothing else, so that every dispatcher comes to the same one, and creating a
// Job twice collides. It is a valid DNS label. An id that is not one is made
// one, with 16 digits of its SHA-256 so that different ids stay different.
func JobName(id string, attempt int) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, id)
	if plain != id || len(plain) > maxPlainID {
		sum := sha256.Sum256([]byte(id))
		digits := hex.EncodeToString(sum[:8])
		plain = strings.Trim(plain[:min(len(plain), maxPlainID-len(digits)-1)], "-") + "-" + digits
	}
	return fmt.Sprintf("run-%s-%d", plain, attempt)
}

// StandInID makes a valid id out of anything, to record the refusal of a
// message under whose own id is none.
func StandInID(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "invalid-" + hex.EncodeToString(sum[:8])
}
