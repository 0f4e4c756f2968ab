package rig

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(wait.Goroutines(m)) }

func TestProxyIsCutAndMended(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "here")
	}))
	defer server.Close()
	proxy, err := NewProxy(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	ask := func() string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+proxy.Address(), http.NoBody)
		if err != nil {
			return err.Error()
		}
		response, err := client.Do(request)
		if err != nil {
			return err.Error()
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
	if got := ask(); got != "here" {
		t.Errorf("through the proxy: %s", got)
	}
	if err := proxy.Cut(); err != nil {
		t.Fatal(err)
	}
	if got := ask(); !strings.Contains(got, "refused") {
		t.Errorf("through the proxy that is cut: %s", got)
	}
	if err := proxy.Mend(); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "here" {
		t.Errorf("through the proxy that is mended: %s", got)
	}
	if err := proxy.Cut(); err != nil {
		t.Fatal(err)
	}
}
