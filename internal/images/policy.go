package images

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Policy says which repositories the images of requests may come from. The
// zero value allows all. What the operator names is not held against it.
type Policy struct {
	allow, deny []pattern
	// allowName and denyName say where the patterns were set.
	allowName, denyName string
}

// pattern is one entry of a policy, as it was written and ready to match.
type pattern struct {
	text  string
	match *regexp.Regexp
}

// NewPolicy compiles patterns such as "registry.example.com/team/**": a "*"
// stands for any characters but "/", and "**" for those too. What deny matches
// is refused, and, unless allow is empty, what allow does not match.
func NewPolicy(allow, deny []string) Policy {
	return Policy{compile(allow), compile(deny), "ROPEWALK_IMAGE_ALLOW", "ROPEWALK_IMAGE_DENY"}
}

// ofQueue says that the patterns are those of a queue.
func (p Policy) ofQueue() Policy {
	p.allowName, p.denyName = "its queue's --image-allow", "its queue's --image-deny"
	return p
}

func compile(texts []string) []pattern {
	patterns := make([]pattern, 0, len(texts))
	for _, text := range texts {
		expression := regexp.QuoteMeta(strings.TrimSpace(text))
		expression = strings.ReplaceAll(expression, `\*\*`, `.*`)
		expression = strings.ReplaceAll(expression, `\*`, `[^/]*`)
		patterns = append(patterns, pattern{text, regexp.MustCompile(`^` + expression + `$`)})
	}
	return patterns
}

// refuses says in one sentence which pattern refuses a repository; empty when
// none does.
func (p Policy) refuses(repository name.Repository) string {
	canonical := canonical(repository)
	for _, entry := range p.deny {
		if entry.match.MatchString(canonical) {
			return fmt.Sprintf("Images of %s are refused by the pattern %q of %s.", canonical, entry.text, p.denyName)
		}
	}
	if len(p.allow) == 0 {
		return ""
	}
	var texts []string
	for _, entry := range p.allow {
		if entry.match.MatchString(canonical) {
			return ""
		}
		texts = append(texts, entry.text)
	}
	return fmt.Sprintf("Images of %s are refused: they match no pattern of %s, which are %s.", canonical, p.allowName, strings.Join(texts, ", "))
}

// canonical writes a repository in full, in the way in which people know Docker
// Hub.
func canonical(repository name.Repository) string {
	host := repository.RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	return host + "/" + repository.RepositoryStr()
}
