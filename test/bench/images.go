package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // what the registry in memory takes
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/images"
	words "github.com/ropewalk/ropewalk/internal/run" // main has a function of its name
	"github.com/ropewalk/ropewalk/test/rig"
)

// imagesRate is how many runs a second are published: few enough that none waits
// for another, so that what is compared is the way of one run.
const imagesRate = 30

// store is a registry on this machine that has the image of every build, and the
// prebuilt one. It counts what it is asked.
type store struct {
	host  string
	asked atomic.Int64
	close func()
}

// openStore fills the registry with the images of n Dockerfiles.
func openStore(ctx context.Context, n int) (*store, error) {
	s := &store{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" { // a new connection's first question, about how to log in
			s.asked.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	s.host, s.close = server.Listener.Addr().(*net.TCPAddr).String(), server.Close
	image, err := random.Image(1000, 1)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("make an image: %w", err)
	}
	// The first is pushed, the others are further tags of it.
	for i := range n + 1 {
		reference := s.prebuilt()
		if i > 0 {
			reference = s.host + "/bench/runner:" + images.ContentHash(words.Build{Dockerfile: dockerfile(i - 1)})
		}
		parsed, err := name.ParseReference(reference, name.Insecure)
		if err == nil {
			err = remote.Write(parsed, image, remote.WithContext(ctx))
		}
		if err != nil {
			s.close()
			return nil, fmt.Errorf("fill the registry: %w", err)
		}
	}
	return s, nil
}

func (s *store) prebuilt() string { return s.host + "/bench/prebuilt:1" }

func dockerfile(n int) string { return fmt.Sprintf("FROM scratch\nLABEL number=%d\n", n) }

// images compares runs of an image that is to be built, and has been, to runs of
// the prebuilt one: where all want the same build, whose digest is known after
// the first, and where each wants another, which is asked for.
func (b *bench) images(ctx context.Context, r *report) error {
	n := int(imagesRate * b.options.LatencyFor.Seconds())
	store, err := openStore(ctx, n)
	if err != nil {
		return err
	}
	defer store.close()
	result := &imagesResult{}
	const command = `"command":["sh","-c","true"]}`
	built := func(which int) string {
		return fmt.Sprintf(`{"version":1,"image":{"mode":"build","build":{"dockerfile":%q}},`+command, dockerfile(which))
	}
	ways := []struct {
		what    string
		into    *[]imagesRound
		request func(i int) string
	}{
		{"prebuilt", &result.Prebuilt, func(int) string { return `{"version":1,"image":{"mode":"prebuilt"},` + command }},
		{"built before, all the same", &result.Same, func(int) string { return built(0) }},
		{"built before, each another", &result.Others, built},
	}
	for round := range b.options.Rounds {
		for turn := range ways { // none always has the fresher cluster
			way := ways[(round+turn)%len(ways)]
			measured, err := b.imagesRound(ctx, store, n, way.request)
			if err != nil {
				return err
			}
			*way.into = append(*way.into, measured)
			b.say("images %d: %s p50 %.1f ms, p99 %.1f ms; the registry was asked %d times", round+1, way.what,
				percentile(measured.Event, 50), percentile(measured.Event, 99), measured.Asked)
		}
	}
	r.Images = result
	return nil
}

// imagesRound publishes n requests at a steady rate and notes how long it took
// from each to its Job.
func (b *bench) imagesRound(ctx context.Context, store *store, n int, request func(int) string) (round imagesRound, err error) {
	err = b.on(ctx, func(s *stage) error {
		err := s.serveWith(ctx, 2*n, b.options.Workers, rig.Settings{
			"ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE":       store.prebuilt(),
			"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true",
			"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY":    store.host + "/bench",
			"ROPEWALK_BUILDER_REPOSITORY":                          "runner",
			"ROPEWALK_IMAGE_MODES":                                 "prebuilt,build",
			"ROPEWALK_IMAGE_PLAIN_HTTP":                            store.host,
			"ROPEWALK_IMAGE_RESOLVE_DIGEST":                        "true",
		})
		if err != nil {
			return err
		}
		before := store.asked.Load()
		started := make([]time.Time, n)
		err = steadily(ctx, n, imagesRate, func(i int) error {
			started[i] = time.Now()
			return s.publishText(ctx, i, request(i))
		})
		if err == nil {
			err = s.awaitCreated(ctx, n)
		}
		if err != nil {
			return err
		}
		round.Asked = int(store.asked.Load() - before)
		builders, err := s.client.Client.BatchV1().Jobs(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: images.LabelBuild, Limit: 1})
		if err != nil {
			return fmt.Errorf("look for builder Jobs: %w", err)
		}
		if len(builders.Items) > 0 {
			return errors.New("an image was built that was there")
		}
		round.Event, err = s.events(started)
		return err
	})
	return round, err
}
