package images

import (
	"context"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/google"
)

// googleIdentity logs in to Artifact Registry and GCR as whoever the process is
// to Google: workload identity in a cluster. It is a keychain; other registries
// are anonymous to it.
//
// The library's own keychain decides once, with the context of whoever asks
// first, and never asks again if there was no answer.
type googleIdentity struct {
	mu   sync.Mutex
	auth authn.Authenticator
}

// Resolve implements [authn.Keychain].
func (g *googleIdentity) Resolve(target authn.Resource) (authn.Authenticator, error) {
	host := target.RegistryStr()
	if host != "gcr.io" && !strings.HasSuffix(host, ".gcr.io") && !strings.HasSuffix(host, ".pkg.dev") {
		return authn.Anonymous, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.auth == nil {
		// The token source outlives the call that made it.
		auth, err := google.NewEnvAuthenticator(context.Background())
		if err != nil {
			// No identity here: the registry says whether it needs one.
			return authn.Anonymous, nil
		}
		g.auth = auth
	}
	return g.auth, nil
}
