package config

import (
	"errors"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// setenv makes env the whole of the environment that config looks at.
func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for _, assignment := range os.Environ() { //nolint:forbidigo // to clear it
		name, _, _ := strings.Cut(assignment, "=")
		if strings.HasPrefix(name, serverPrefix) || ours(name) {
			t.Setenv(name, "") // so that the test puts it back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
}

// complete adds to env what the kubernetes launcher cannot do without.
func complete(env map[string]string) map[string]string {
	all := map[string]string{namespace: "runs", serviceAccount: "runner"}
	maps.Copy(all, env)
	return all
}

// problems returns the lines of an error of Load.
func problems(t *testing.T, err error) []Problem {
	t.Helper()
	if err == nil {
		return nil
	}
	failure, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	return failure.Problems
}

func TestDefaultsAreTheOnesThatThePagesGive(t *testing.T) {
	setenv(t, complete(nil))
	got, err := LoadServe()
	if err != nil {
		t.Fatal(err)
	}
	got.facts = nil
	want := &Config{
		NATS:   NATS{URL: "nats://127.0.0.1:4222", Replicas: 1},
		HTTP:   HTTP{Addr: ":8080"},
		Log:    Log{Level: "info", Format: "auto"},
		Launch: Launch{Launcher: "kubernetes", DataDir: "./ropewalk-data", Instance: "ropewalk", Workers: 32},
		Queues: Queues{TemplateRuns: 2},
		Runs: Runs{
			AckWait: 15 * time.Second, Retention: 720 * time.Hour, SecretRetention: 168 * time.Hour,
			StartTimeout: 15 * time.Minute, ImagePullGrace: 2 * time.Minute, UnschedulableGrace: 10 * time.Minute, InfrastructureRetries: 3,
			RequestMaySet: []string{"resources", "nodeSelector", "tolerations"},
		},
		Kubernetes: Kubernetes{Flavour: FlavourKubernetes, Namespace: "runs", ServiceAccount: "runner", QPS: 1000, Burst: 2000},
		Logs:       Logs{StreamBytes: 1 << 30, ShipBytes: 8 << 20, ShipAge: time.Minute},
		Pod:        Pod{TTLSecondsAfterFinished: 2 * 24 * 60 * 60, SeccompProfile: "RuntimeDefault", DropCapabilities: []string{"ALL"}},
		Images:     Images{Modes: []string{"reuse", "prebuilt", "build"}, ResolveDigest: "auto", DigestCache: time.Minute},
		Builder:    Builder{Repository: "runner", Cache: "registry", Timeout: 30 * time.Minute, FailureMemory: 5 * time.Minute},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSpellingsOfValues(t *testing.T) {
	five := int64(5)
	for sentence, tc := range map[string]struct {
		name, value string
		get         func(*Config) any
		want        any
	}{
		"yes is true":                        {podNonRoot, "Yes", func(c *Config) any { return c.Pod.RunAsNonRoot }, true},
		"ON is true":                         {podNonRoot, " ON ", func(c *Config) any { return c.Pod.RunAsNonRoot }, true},
		"True, as Python writes it, is true": {podNonRoot, "True", func(c *Config) any { return c.Pod.RunAsNonRoot }, true},
		"1 is true":                          {podNonRoot, "1", func(c *Config) any { return c.Pod.RunAsNonRoot }, true},
		"off is false":                       {podNonRoot, "off", func(c *Config) any { return c.Pod.RunAsNonRoot }, false},
		"no is false":                        {podNonRoot, "NO", func(c *Config) any { return c.Pod.RunAsNonRoot }, false},
		"0 is false":                         {podNonRoot, "0", func(c *Config) any { return c.Pod.RunAsNonRoot }, false},
		"a leading zero does not make a number octal":  {"ROPEWALK_LAUNCH_WORKERS", "010", func(c *Config) any { return c.Launch.Workers }, 10},
		"a large number as Helm renders it is whole":   {"ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED", "2.592e+06", func(c *Config) any { return c.Pod.TTLSecondsAfterFinished }, int32(2592000)},
		"a number of seconds is a length of time":      {"ROPEWALK_ACK_WAIT", "30", func(c *Config) any { return c.Runs.AckWait }, 30 * time.Second},
		"0 is no limit where that is said":             {"ROPEWALK_MAX_TIMEOUT", "0", func(c *Config) any { return c.Runs.MaxTimeout }, time.Duration(0)},
		"an optional number may be 5":                  {podUser, "5", func(c *Config) any { return c.Pod.RunAsUser }, &five},
		"an empty variable has its default":            {"ROPEWALK_ACK_WAIT", "", func(c *Config) any { return c.Runs.AckWait }, 15 * time.Second},
		"a blank variable has its default":             {"ROPEWALK_POD_DROP_CAPABILITIES", " \n", func(c *Config) any { return c.Pod.DropCapabilities }, []string{"ALL"}},
		"none empties the list of dropped ones":        {"ROPEWALK_POD_DROP_CAPABILITIES", "none", func(c *Config) any { return c.Pod.DropCapabilities }, []string(nil)},
		"none empties the list of what may be set":     {"ROPEWALK_REQUEST_MAY_SET", "None", func(c *Config) any { return c.Runs.RequestMaySet }, []string(nil)},
		"choices take any case and get ours":           {"ROPEWALK_REQUEST_MAY_SET", "NodeSelector, priorityclassname,", func(c *Config) any { return c.Runs.RequestMaySet }, []string{"nodeSelector", "priorityClassName"}},
		"a profile takes any case and gets ours":       {"ROPEWALK_POD_SECCOMP_PROFILE", "unconfined", func(c *Config) any { return c.Pod.SeccompProfile }, "Unconfined"},
		"blanks around names in a list are left out":   {"ROPEWALK_IMAGE_PULL_SECRETS", "a, b.c ,", func(c *Config) any { return c.Pod.ImagePullSecrets }, []string{"a", "b.c"}},
		"a quantity may be a JSON number":              {podResources, `{"limits": {"nvidia.com/gpu": 1, "cpu": "500m"}}`, func(c *Config) any { return c.Pod.Resources }, run.Resources{Limits: map[string]string{"nvidia.com/gpu": "1", "cpu": "500m"}}},
		"a policy is kept as compact JSON":             {"ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_FAILURE_POLICY", `{ "rules": [] }`, func(c *Config) any { return string(c.Pod.FailurePolicy) }, `{"rules":[]}`},
		"a patch may be YAML and is kept as it stands": {"ROPEWALK_POD_TEMPLATE_PATCH", "spec:\n  hostname: a", func(c *Config) any { return c.Pod.TemplatePatch }, "spec:\n  hostname: a"},
		"a class name alone chooses the flavour":       {flavour, "GCPKubernetesWorkloadManager", func(c *Config) any { return c.Kubernetes.Flavour }, FlavourGCP},
		"a bucket needs no prefix":                     {awsBucket, "s3://logs/", func(c *Config) any { return c.AWS.Bucket }, Bucket{Name: "logs"}},
		"a bucket's prefix has no slashes at its ends": {awsBucket, "s3://logs/a/b/", func(c *Config) any { return c.AWS.Bucket }, Bucket{Name: "logs", Prefix: "a/b"}},
		"several NATS servers stand with commas":       {natsURL, "nats://a:1, b:2", func(c *Config) any { return c.NATS.URL.Reveal() }, "nats://a:1,b:2"},
		"a password is taken as it stands":             {natsToken, " a b ", func(c *Config) any { return c.NATS.Token.Reveal() }, " a b "},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, complete(map[string]string{tc.name: tc.value}))
			config, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			if got := tc.get(config); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%s=%q became %#v, want %#v", tc.name, tc.value, got, tc.want)
			}
		})
	}
}

func TestQueuesAndWhereTheirLimitsComeFrom(t *testing.T) {
	for sentence, tc := range map[string]struct {
		env  map[string]string
		want []QueueLimit
	}{
		"without any setting there is the default queue with 2": {
			nil, []QueueLimit{{"default", 2, false}},
		},
		"the variable for templates sets the default queue": {
			map[string]string{templateRuns: "10"}, []QueueLimit{{"default", 10, true}},
		},
		"an empty variable sets nothing": {
			map[string]string{templateRuns: ""}, []QueueLimit{{"default", 2, false}},
		},
		"its newer name works too": {
			map[string]string{snapshotRuns: "7"}, []QueueLimit{{"default", 7, true}},
		},
		"both names may agree": {
			map[string]string{templateRuns: "3", snapshotRuns: "3"}, []QueueLimit{{"default", 3, true}},
		},
		"others come after it, in their order": {
			map[string]string{moreQueues: "gpu=2, batch = 50 ,"}, []QueueLimit{{"default", 2, false}, {"gpu", 2, true}, {"batch", 50, true}},
		},
		"the list may set the default queue": {
			map[string]string{moreQueues: "gpu=2,default=9"}, []QueueLimit{{"default", 9, true}, {"gpu", 2, true}},
		},
		"the list may agree with the variable": {
			map[string]string{moreQueues: "default=9", templateRuns: "9"}, []QueueLimit{{"default", 9, true}},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, complete(tc.env))
			config, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			if got := config.Limits(); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if config.Queues.TemplateRuns != tc.want[0].Limit {
				t.Errorf("the table would show %d for a limit of %d", config.Queues.TemplateRuns, tc.want[0].Limit)
			}
		})
	}
}

func TestWhatEachCommandNeeds(t *testing.T) {
	broken := map[string]string{podResources: "{", "ROPEWALK_ACK_WAIT": "soon"}
	for sentence, tc := range map[string]struct {
		load func() (*Config, error)
		env  map[string]string
		want []string // the variables complained of
	}{
		"a client needs nothing":                                  {LoadClient, nil, nil},
		"a client does not mind what other commands would":        {LoadClient, broken, nil},
		"a client minds its own settings":                         {LoadClient, map[string]string{natsURL: "http://a"}, []string{natsURL}},
		"a client minds a misspelled name":                        {LoadClient, map[string]string{"ROPEWALK_NATS_ULR": "a"}, []string{"ROPEWALK_NATS_ULR"}},
		"serve needs a namespace and a service account":           {LoadServe, nil, []string{namespace, serviceAccount}},
		"empty ones are no better than none":                      {LoadServe, map[string]string{namespace: "", serviceAccount: " "}, []string{namespace, serviceAccount}},
		"serve minds everything":                                  {LoadServe, complete(broken), []string{"ROPEWALK_ACK_WAIT", podResources}},
		"serve with the local launcher needs neither":             {LoadServe, map[string]string{launcher: "local"}, nil},
		"the local launcher builds no images and asks for nought": {LoadServe, map[string]string{launcher: "local", buildImages: "true"}, nil},
		"dev needs nothing":                                       {LoadDev, nil, nil},
		"dev does not mind how to reach a server":                 {LoadDev, map[string]string{natsURL: "http://a", natsPassword: "a"}, nil},
		"dev minds how runs are launched":                         {LoadDev, broken, []string{"ROPEWALK_ACK_WAIT", podResources}},
		"dev cannot launch Jobs":                                  {LoadDev, map[string]string{launcher: "kubernetes"}, []string{launcher}},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, tc.env)
			config, err := tc.load()
			var names []string
			for _, problem := range problems(t, err) {
				names = append(names, problem.Name)
			}
			if !reflect.DeepEqual(names, tc.want) {
				t.Errorf("complains of %v, want %v:\n%v", names, tc.want, err)
			}
			if (config == nil) != (err != nil) {
				t.Errorf("config %v and error %v at once", config, err)
			}
		})
	}
}

func TestCommandsHaveDefaultsForWhatTheyDoNotRead(t *testing.T) {
	setenv(t, map[string]string{"ROPEWALK_LOG_LEVEL": "debug", natsURL: "nats://a:1"})
	client, err := LoadClient()
	if err != nil {
		t.Fatal(err)
	}
	if client.Log.Level != "info" || client.NATS.URL != "nats://a:1" {
		t.Errorf("a client has level %s and server %s", client.Log.Level, client.NATS.URL)
	}
	dev, err := LoadDev()
	if err != nil {
		t.Fatal(err)
	}
	if dev.Log.Level != "debug" || dev.NATS.URL != "nats://127.0.0.1:4222" || dev.Launch.Launcher != LauncherLocal {
		t.Errorf("dev has level %s, server %s, launcher %s", dev.Log.Level, dev.NATS.URL, dev.Launch.Launcher)
	}
}

func TestImageModes(t *testing.T) {
	for sentence, tc := range map[string]struct {
		images Images
		want   ImageMode
	}{
		"nothing set reuses the request's image":   {Images{}, ImageReuse},
		"a runner image is for all":                {Images{RunnerImage: "a"}, ImagePrebuilt},
		"building is building":                     {Images{BuildRunnerImage: true, DockerRegistry: "a"}, ImageBuild},
		"a runner image is unused when one builds": {Images{BuildRunnerImage: true, DockerRegistry: "a", RunnerImage: "b"}, ImageBuild},
	} {
		t.Run(sentence, func(t *testing.T) {
			if got := tc.images.Mode(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
