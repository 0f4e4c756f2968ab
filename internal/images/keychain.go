package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	kauth "github.com/google/go-containerregistry/pkg/authn/kubernetes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// freshSecrets is how long pull secrets are used before they are read again: a
// mended one is seen within that time, and a thousand launches cost one read.
const freshSecrets = 15 * time.Second

// PullSecrets are the registry credentials of the pods of runs: the Secrets
// that the operator names, and those of the service account.
type PullSecrets struct {
	Client         kubernetes.Interface
	Namespace      string
	ServiceAccount string
	Names          []string

	mu     sync.Mutex
	read   *pullSecrets
	readAt time.Time
}

// pullSecrets is one reading of them.
type pullSecrets struct {
	keychain authn.Keychain
	// auths are the credentials by registry, as docker's configuration has
	// them.
	auths map[string]authn.AuthConfig
	// found names the Secrets that were read, lacking says of the others why
	// they were not. So does account of the service account, whose Secrets are
	// not known then.
	found, lacking []string
	account        string
}

// get reads the secrets anew when they are old. What cannot be read is lacking;
// it is no error as long as no registry asks for it.
func (p *PullSecrets) get(ctx context.Context) (*pullSecrets, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.read != nil && time.Since(p.readAt) < freshSecrets {
		return p.read, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	read, err := p.fetch(ctx)
	if err != nil {
		return nil, err
	}
	p.read, p.readAt = read, time.Now()
	return read, nil
}

func (p *PullSecrets) fetch(ctx context.Context) (*pullSecrets, error) {
	read := &pullSecrets{auths: map[string]authn.AuthConfig{}}
	names := slices.Clone(p.Names)
	if p.ServiceAccount != "" {
		account, err := p.Client.CoreV1().ServiceAccounts(p.Namespace).Get(ctx, p.ServiceAccount, metav1.GetOptions{})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			read.account = fmt.Sprintf("service account %s: %s", p.ServiceAccount, why(err))
		} else {
			for _, reference := range account.ImagePullSecrets {
				names = append(names, reference.Name)
			}
		}
	}
	slices.Sort(names)
	var secrets []corev1.Secret
	for _, secretName := range slices.Compact(names) {
		secret, err := p.Client.CoreV1().Secrets(p.Namespace).Get(ctx, secretName, metav1.GetOptions{})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			err = read.add(secret)
		}
		if err != nil {
			read.lacking = append(read.lacking, fmt.Sprintf("pull secret %s: %s", secretName, why(err)))
			continue
		}
		read.found = append(read.found, secretName)
		secrets = append(secrets, *secret)
	}
	var err error
	if read.keychain, err = kauth.NewFromPullSecrets(ctx, secrets); err != nil {
		return nil, fmt.Errorf("read pull secrets: %w", err)
	}
	return read, nil
}

// add takes over the credentials of a Secret. Its error quotes nothing of them.
func (r *pullSecrets) add(secret *corev1.Secret) error {
	var config struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	var err error
	switch secret.Type {
	case corev1.SecretTypeDockerConfigJson:
		err = json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &config)
	case corev1.SecretTypeDockercfg:
		err = json.Unmarshal(secret.Data[corev1.DockerConfigKey], &config.Auths)
	default:
		return fmt.Errorf("is of type %s, not kubernetes.io/dockerconfigjson", secret.Type)
	}
	if err != nil {
		return errors.New("does not hold a docker configuration")
	}
	maps.Copy(r.auths, config.Auths)
	return nil
}

// why puts the API's answer in few words.
func why(err error) string {
	switch {
	case apierrors.IsNotFound(err):
		return "does not exist"
	case apierrors.IsForbidden(err):
		return "the dispatcher's role does not let it be read"
	default:
		return err.Error()
	}
}

// told says where credentials were looked for, for the message about a registry
// that takes none.
func (p *PullSecrets) told(read *pullSecrets) string {
	var parts []string
	if len(read.found) > 0 {
		parts = append(parts, "pull secrets read in namespace "+p.Namespace+": "+strings.Join(read.found, ", "))
	}
	if read.account != "" {
		parts = append(parts, read.account)
	}
	parts = append(parts, read.lacking...)
	if parts == nil {
		return "namespace " + p.Namespace + " and service account " + p.ServiceAccount + " have no pull secret (ROPEWALK_IMAGE_PULL_SECRETS)"
	}
	return strings.Join(parts, "; ")
}
