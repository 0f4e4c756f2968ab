package k8sjobs

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestRequestsAreCountedByVerbAndResource(t *testing.T) {
	for request, want := range map[string]string{
		"POST /apis/batch/v1/namespaces/runs/jobs":           "create jobs",
		"GET /apis/batch/v1/namespaces/runs/jobs/run-a-1":    "get jobs",
		"DELETE /apis/batch/v1/namespaces/runs/jobs/run-a-1": "delete jobs",
		"GET /apis/batch/v1/namespaces/runs/jobs?limit=500":  "list jobs",
		"GET /apis/batch/v1/namespaces/runs/jobs?watch=true": "watch jobs",
		"GET /api/v1/namespaces/runs/pods?watch=1":           "watch pods",
		"GET /api/v1/pods":                                        "list pods",
		"GET /api/v1/namespaces/runs":                             "get namespaces",
		"PUT /api/v1/namespaces/runs/secrets/a":                   "update secrets",
		"PATCH /api/v1/namespaces/runs/secrets/a":                 "patch secrets",
		"DELETE /api/v1/namespaces/runs/secrets":                  "deletecollection secrets",
		"GET /version":                                            "get ",
		"GET /apis/batch/v1/namespaces/runs/jobs?watch=something": "list jobs",
	} {
		method, target, _ := strings.Cut(request, " ")
		verb, resource := verbOf(httptest.NewRequestWithContext(t.Context(), method, target, nil))
		if got := verb + " " + resource; got != want {
			t.Errorf("%s is counted as %q, want %q", request, got, want)
		}
	}
}

func TestClientSaysWhoItIs(t *testing.T) {
	var mu sync.Mutex
	var counted []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("User-Agent"); got != "ropewalk-dispatcher/1.2.3" {
			t.Errorf("the user agent is %q", got)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"major": "1", "minor": "23", "gitVersion": "v1.23.17+k3s1"}`))
	}))
	t.Cleanup(server.Close)
	launcher := launcherFor(t, server.URL, func(verb, resource string, code int) {
		mu.Lock()
		defer mu.Unlock()
		counted = append(counted, verb+" "+resource+" "+http.StatusText(code))
	})
	version, err := launcher.ServerVersion(t.Context())
	if version != "v1.23.17+k3s1" || err == nil || !strings.Contains(err.Error(), "1.24") {
		t.Errorf("ServerVersion = %q, %v; want it found too old", version, err)
	}
	server.Close()
	if _, err := launcher.ServerVersion(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "The cluster cannot be reached: ") {
		t.Errorf("ServerVersion of no server: %v", err)
	}
	if strings.Join(counted, ",") != "get  OK,get  " {
		t.Errorf("counted %q", counted)
	}
}

func TestNewClientSaysWhatIsMissing(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := NewClient(ClientConfig{}); err == nil || !strings.Contains(err.Error(), "set KUBECONFIG") {
		t.Errorf("without a cluster: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "none")
	if _, err := NewClient(ClientConfig{Kubeconfig: missing}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("with a file that is not there: %v", err)
	}
}

// launcherFor returns a launcher whose API server is at url.
func launcherFor(t *testing.T, url string, count func(verb, resource string, code int)) *Launcher {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": [{"name": "c", "cluster": {"server": "` + url + `"}}], "contexts": [{"name": "c", "context": {"cluster": "c"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(ClientConfig{Kubeconfig: path, QPS: 100, Burst: 100, Version: "1.2.3", Count: count})
	if err != nil {
		t.Fatal(err)
	}
	launcher, err := New(Config{Client: client, Settings: restricted()})
	if err != nil {
		t.Fatal(err)
	}
	return launcher
}
