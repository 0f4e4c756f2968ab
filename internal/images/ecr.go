package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// ecrHost is the name of a private registry of Amazon: account and region.
var ecrHost = regexp.MustCompile(`^([0-9]{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)$`)

// tokenMargin is how long before its end a token is no longer handed out: a
// builder that was given it must still be able to push when it is done.
const tokenMargin = time.Hour

// ECR logs in to Amazon's registries by the AWS SDK, with whatever credentials
// the process has (a role of its service account, in a cluster), and makes
// repositories, which Amazon does not do by itself. It is a keychain; other
// registries are anonymous to it.
type ECR struct {
	// Region is where the API is asked for what no host name tells.
	Region string

	mu      sync.Mutex
	clients map[string]*ecr.Client // by region
	tokens  map[string]ecrToken    // by host
	exist   map[string]bool        // repositories that are known to, by full name
}

type ecrToken struct {
	auth    authn.AuthConfig
	expires time.Time
}

// Resolve implements [authn.Keychain].
func (e *ECR) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return e.ResolveContext(context.Background(), target)
}

// ResolveContext implements [authn.ContextKeychain].
func (e *ECR) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	host := target.RegistryStr()
	if !ecrHost.MatchString(host) {
		return authn.Anonymous, nil
	}
	auth, err := e.token(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("log in to %s: %w", host, err)
	}
	return authn.FromConfig(auth), nil
}

// token returns credentials that are good for a while.
func (e *ECR) token(ctx context.Context, host string) (authn.AuthConfig, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if known, ok := e.tokens[host]; ok && time.Until(known.expires) > tokenMargin {
		return known.auth, nil
	}
	client, err := e.client(ctx, host)
	if err != nil {
		return authn.AuthConfig{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := client.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		return authn.AuthConfig{}, fmt.Errorf("ask ECR for a token: %w", err)
	}
	if len(answer.AuthorizationData) == 0 {
		return authn.AuthConfig{}, errors.New("ECR gave no token")
	}
	data := answer.AuthorizationData[0] // there is one, for all that the caller may reach
	decoded, err := base64.StdEncoding.DecodeString(aws.ToString(data.AuthorizationToken))
	user, password, ok := strings.Cut(string(decoded), ":")
	if err != nil || !ok {
		return authn.AuthConfig{}, errors.New("ECR's token is not user:password in base64")
	}
	// A token that says no end is asked for anew each time.
	token := ecrToken{authn.AuthConfig{Username: user, Password: password}, aws.ToTime(data.ExpiresAt)}
	if e.tokens == nil {
		e.tokens = map[string]ecrToken{}
	}
	e.tokens[host] = token
	return token.auth, nil
}

// client needs the lock. There is one for each region.
func (e *ECR) client(ctx context.Context, host string) (*ecr.Client, error) {
	region := e.Region
	if parts := ecrHost.FindStringSubmatch(host); parts != nil {
		region = parts[2]
	}
	if client := e.clients[region]; client != nil {
		return client, nil
	}
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if e.clients == nil {
		e.clients = map[string]*ecr.Client{}
	}
	client := ecr.NewFromConfig(loaded)
	e.clients[region] = client
	return client, nil
}

// prepare makes sure that a repository of Amazon's exists; others need nothing.
func (e *ECR) prepare(ctx context.Context, repository name.Repository) error {
	parts := ecrHost.FindStringSubmatch(repository.RegistryStr())
	if parts == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock() // so that many who want it at once ask once
	if e.exist[repository.Name()] {
		return nil
	}
	client, err := e.client(ctx, repository.RegistryStr())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	_, err = client.CreateRepository(ctx, &ecr.CreateRepositoryInput{
		RepositoryName: aws.String(repository.RepositoryStr()), RegistryId: aws.String(parts[1]),
	})
	var exists *types.RepositoryAlreadyExistsException
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("create the ECR repository %s: %w", repository.RepositoryStr(), err)
	}
	if e.exist == nil {
		e.exist = map[string]bool{}
	}
	e.exist[repository.Name()] = true
	return nil
}
