//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// daemonless does in the image that the tests make what the script of this name
// does in BuildKit's rootless one.
const daemonless = `#!/bin/sh
export HOME=/home/user USER=user XDG_RUNTIME_DIR=/run/user/1000 TMPDIR=/home/user/.local/tmp
export BUILDKIT_HOST=unix://$XDG_RUNTIME_DIR/buildkit/buildkitd.sock
rootlesskit buildkitd $BUILDKITD_FLAGS --addr=$BUILDKIT_HOST >/tmp/log 2>&1 &
daemon=$!
until buildctl debug workers >/dev/null 2>&1; do
	kill -0 $daemon 2>/dev/null || { cat /tmp/log >&2; exit 1; }
	sleep 0.1
done
buildctl "$@"
code=$?
kill $daemon
wait $daemon
exit $code
`

// The capabilities that a program is given by its file, as Linux numbers them.
const (
	capSetgid = 6
	capSetuid = 7
)

// rootlessImage names a BuildKit image for a user who is not root: the one of
// E2E_ROOTLESS_BUILDKIT, or one that is made of the builders' other image,
// RootlessKit, and programs that map users, if they are given the capabilities
// for it.
func rootlessImage(t *testing.T, dir string, capable bool) string {
	t.Helper()
	if image := os.Getenv("E2E_ROOTLESS_BUILDKIT"); image != "" && capable {
		return image
	}
	ctx := wait.Context(t, "RootlessKit to be built")
	module := filepath.Join("..", "..", "tools", "rootless")
	kit, idmap := filepath.Join(dir, "rootlesskit"), filepath.Join(dir, "idmap")
	must(t, rig.BuildTool(ctx, kit, module, "github.com/rootless-containers/rootlesskit/v2/cmd/rootlesskit"))
	must(t, rig.BuildTool(ctx, idmap, module, "./idmap"))

	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	add := func(header tar.Header, content []byte) {
		header.Size, header.Format = int64(len(content)), tar.FormatPAX
		must(t, files.WriteHeader(&header))
		_, err := files.Write(content)
		must(t, err)
	}
	program := func(name, file string, pax map[string]string) {
		content, err := os.ReadFile(file)
		must(t, err)
		add(tar.Header{Name: "usr/bin/" + name, Mode: 0o755, PAXRecords: pax}, content)
	}
	program("rootlesskit", kit, nil)
	for name, capability := range map[string]int{"newuidmap": capSetuid, "newgidmap": capSetgid} {
		var pax map[string]string
		if capable {
			pax = map[string]string{"SCHILY.xattr.security.capability": fileCapability(capability)}
		}
		program(name, idmap, pax)
	}
	add(tar.Header{Name: "usr/bin/buildctl-daemonless.sh", Mode: 0o755}, []byte(daemonless))
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"))
	add(tar.Header{Name: "etc/subuid", Mode: 0o644}, []byte("user:100000:65536\n"))
	add(tar.Header{Name: "etc/subgid", Mode: 0o644}, []byte("user:100000:65536\n"))
	for _, folder := range []string{"run/user/1000/", "home/user/", "home/user/.local/", "home/user/.local/tmp/", "home/user/.local/share/"} {
		add(tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000}, nil)
	}
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	must(t, files.Close())

	transport := remote.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(transport)}
	from, err := name.ParseReference(registry()+"/"+cmp.Or(os.Getenv("E2E_BUILDKIT"), "moby/buildkit:v0.25.2"), name.Insecure)
	must(t, err)
	image, err := remote.Image(from, options...)
	must(t, err)
	added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	must(t, err)
	image, err = mutate.AppendLayers(image, added)
	must(t, err)
	to, err := name.ParseReference(registry()+"/"+strings.ToLower("e2e-"+rand.Text()[:8])+"/buildkit:rootless", name.Insecure)
	must(t, err)
	must(t, remote.Write(to, image, options...))
	return to.Name()
}

// incapableImage is a rootless image in which users cannot be mapped.
func incapableImage(t *testing.T, dir string) string {
	t.Helper()
	return rootlessImage(t, dir, false)
}

// fileCapability is the extended attribute of a file whose program has one
// capability, in effect from its start: Linux's vfs_cap_data, version 2.
func fileCapability(number int) string {
	const version2, effective = 0x02000000, 1
	var data [20]byte
	binary.LittleEndian.PutUint32(data[0:], version2|effective)
	binary.LittleEndian.PutUint32(data[4:], 1<<number)
	return string(data[:])
}

// The default builder has no privileges at all, and yet builds what has a RUN.
// The nodes must let ordinary users make user namespaces.
func TestRootlessBuilderBuildsAndPushes(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, rig.Settings{"ROPEWALK_BUILDER_PRIVILEGED": "false"})
	w.settings["ROPEWALK_BUILDER_IMAGE"] = rootlessImage(t, w.dir, true)
	w.serve(1)
	started := time.Now()
	w.publish("default", "run", built(base()+"RUN id -u > /who; echo "+rand.Text()+" > /made\n", "test -s /made && grep -x 0 /who"))
	record := w.succeeds("run")
	t.Logf("built without privileges, pulled and run in %s as %s", time.Since(started).Round(100*time.Millisecond), record.Image)
	pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(w.call(), metav1.ListOptions{LabelSelector: "ropewalk.dev/build"})
	must(t, err)
	if len(pods.Items) != 1 {
		t.Fatalf("%d builder pods; want 1", len(pods.Items))
	}
	spec := pods.Items[0].Spec
	security := spec.Containers[0].SecurityContext
	switch {
	case security.Privileged != nil && *security.Privileged, security.Capabilities != nil && len(security.Capabilities.Add) > 0,
		security.RunAsUser == nil, *security.RunAsUser != 1000, spec.HostNetwork, spec.HostPID:
		t.Errorf("the builder's security context is %+v", security)
	}
	w.onlyBuilder()
}

// Where it cannot work, the run says why and what the operator can do.
func TestRootlessBuilderThatCannotBuildSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		image   func(*testing.T, string) string // nil: one for privileged builders
		enforce string
		says    []string
	}{
		"users cannot be mapped": {
			incapableImage, "",
			[]string{
				"with exit code 1.", "newuidmap", "operation not permitted",
				"does not let them map users", "user.max_user_namespaces", "ROPEWALK_BUILDER_PRIVILEGED=true",
			},
		},
		"the image is for root": {
			nil, "", []string{"their image is not made for that", "ROPEWALK_BUILDER_IMAGE", "ROPEWALK_BUILDER_PRIVILEGED"},
		},
		"the namespace's level is baseline": {
			nil, "baseline", []string{`violates PodSecurity "baseline`, "seccompProfile", "enforces the pod security level privileged"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newImageWorld(t, rig.Settings{"ROPEWALK_BUILDER_PRIVILEGED": "false"})
			if test.image != nil {
				w.settings["ROPEWALK_BUILDER_IMAGE"] = test.image(t, w.dir)
			}
			if test.enforce != "" {
				patch := `{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "` + test.enforce + `"}}}`
				_, err := parts.cluster.Client.CoreV1().Namespaces().Patch(w.call(), w.namespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
				must(t, err)
			}
			w.serve(1)
			w.publish("default", "run", built(base()+"RUN echo "+rand.Text()+"\n", "true"))
			record := w.over("run")
			t.Logf("%s %s: %s", record.State, record.Reason, record.Message)
			if record.State != "failed" || record.Reason != "ImageBuildFailed" {
				t.Errorf("the run is %s %s; want its build to fail", record.State, record.Reason)
			}
			for _, words := range test.says {
				if !strings.Contains(record.Message, words) {
					t.Errorf("the message lacks %q", words)
				}
			}
		})
	}
}

// What the API server says of the rootless builder's pod under each of the pod
// security levels, without running it.
func TestRootlessBuilderUnderPodSecurityLevels(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, rig.Settings{"ROPEWALK_BUILDER_PRIVILEGED": "false"})
	w.serve(1)
	w.publish("default", "run", built(base()+"RUN echo "+rand.Text()+"\n", "true"))
	w.over("run")
	made := w.onlyBuilder()
	for level, taken := range map[string]bool{"privileged": true, "baseline": false, "restricted": false} {
		patch := `{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "` + level + `"}}}`
		_, err := parts.cluster.Client.CoreV1().Namespaces().Patch(w.call(), w.namespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		must(t, err)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "dry-"}, Spec: *made.Spec.Template.Spec.DeepCopy()}
		_, err = parts.cluster.Client.CoreV1().Pods(w.namespace).Create(w.call(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if taken && err != nil {
			t.Errorf("level %s: %v", level, err)
		}
		if !taken && (err == nil || !strings.Contains(err.Error(), "violates PodSecurity")) {
			t.Errorf("level %s: %v; want it refused for its seccomp profile", level, err)
		}
	}
}
