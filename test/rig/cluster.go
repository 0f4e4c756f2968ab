package rig

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Runner is the service account that the pods of runs have; it may do nothing.
const Runner = "runner"

// Cluster is a Kubernetes cluster as its administrator sees it.
type Cluster struct {
	Config *rest.Config
	Client *kubernetes.Clientset

	transport http.RoundTripper
}

// OpenCluster connects to the cluster that the file kubeconfig leads to. It
// fails at once when there is none: nothing here can be shown without one.
func OpenCluster(kubeconfig string) (*Cluster, error) {
	if kubeconfig == "" {
		return nil, errors.New("KUBECONFIG is not set: this needs a real Kubernetes cluster, as its administrator; set KUBECONFIG to a file that leads to one (kind and k3d will do)")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG: %w", err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("read the certificates of KUBECONFIG: %w", err)
	}
	// What is measured must not wait for this client.
	config.QPS, config.Burst = -1, -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	calls, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster: %w", err)
	}
	client, err := kubernetes.NewForConfigAndClient(config, calls)
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster: %w", err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("reach the cluster of KUBECONFIG: %w", err)
	}
	return &Cluster{Config: config, Client: client, transport: calls.Transport}, nil
}

// Close gives up the connections, which nothing may use any more.
func (c *Cluster) Close() { utilnet.CloseIdleConnectionsFor(c.transport) }

// NewNamespace makes a namespace with a random name, which begins with prefix,
// and in it the service account [Runner].
func (c *Cluster) NewNamespace(ctx context.Context, prefix string) (string, error) {
	name := prefix + "-" + strings.ToLower(rand.Text()[:10])
	_, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create namespace %s: %w", name, err)
	}
	runner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Runner}}
	if _, err := c.Client.CoreV1().ServiceAccounts(name).Create(ctx, runner, metav1.CreateOptions{}); err != nil {
		return name, fmt.Errorf("create service account %s/%s: %w", name, Runner, err)
	}
	return name, nil
}

// DeleteNamespace removes a namespace and all in it; it does not wait for it to
// be gone. The Jobs and pods go first, in bulk and without a grace period,
// which spares the API server most of the work.
func (c *Cluster) DeleteNamespace(ctx context.Context, name string) error {
	background, now := metav1.DeletePropagationBackground, int64(0)
	// An overloaded server may not finish these. What they leave goes with
	// the namespace.
	_ = c.Client.BatchV1().Jobs(name).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	_ = c.Client.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	err := c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// AwaitGone waits until a namespace that is being deleted is gone.
func (c *Cluster) AwaitGone(ctx context.Context, name string) error {
	err := Poll(ctx, 500*time.Millisecond, func() error {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = errors.New("it is still there")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for namespace %s to be gone: %w", name, err)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig with which a program is the service
// account, and nobody else, by a token that lasts an hour. The server is the
// cluster's own unless address names a proxy to it.
func (c *Cluster) WriteKubeconfig(ctx context.Context, namespace, account, address, path string) error {
	seconds := int64(time.Hour / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	token, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create a token for %s/%s: %w", namespace, account, err)
	}
	cluster := &clientcmdapi.Cluster{
		Server:                   c.Config.Host,
		CertificateAuthorityData: c.Config.CAData,
		InsecureSkipTLSVerify:    c.Config.Insecure,
		TLSServerName:            c.Config.ServerName,
	}
	if address != "" {
		server, err := url.Parse(c.Config.Host)
		if err != nil {
			return fmt.Errorf("read the server's address: %w", err)
		}
		// The certificate is still the server's.
		cluster.Server, cluster.TLSServerName = "https://"+address, server.Hostname()
	}
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"cluster": cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{account: {Token: token.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"context": {Cluster: "cluster", AuthInfo: account, Namespace: namespace}},
		CurrentContext: "context",
	}
	text, err := clientcmd.Write(config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
