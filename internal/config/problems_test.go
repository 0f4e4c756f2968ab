package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProblemsSayWhatIsWrongAndWhatIsRight(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		ttl    = "ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED"
		policy = "ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_FAILURE_POLICY"
		patch  = "ROPEWALK_POD_TEMPLATE_PATCH"
	)
	aws := FlavourAWS.Source()
	for sentence, tc := range map[string]struct {
		env  map[string]string
		name string // the one variable complained of
		want string
	}{
		"a word is not true or false":                 {map[string]string{podNonRoot: "maybe"}, podNonRoot, `"maybe" is neither true nor false; for example ROPEWALK_POD_RUN_AS_NON_ROOT=true`},
		"a word is not a number":                      {map[string]string{templateRuns: "ten"}, templateRuns, `"ten" is not a whole number`},
		"half a run is not a number of runs":          {map[string]string{templateRuns: "1.5"}, templateRuns, `"1.5" is not a whole number`},
		"a limit of 0 would be no limit to JetStream": {map[string]string{templateRuns: "0"}, templateRuns, "is 0; it must be at least 1"},
		"a number may be beyond reason":               {map[string]string{templateRuns: "1000001"}, templateRuns, "is 1000001; it must be at most 1000000"},
		"a number may be beyond its 32 bits":          {map[string]string{ttl: "4294967296"}, ttl, "is too large a number"},
		"a number may be beyond 64 bits":              {map[string]string{ttl: "99999999999999999999"}, ttl, "is too large a number"},
		"a time to live is not negative":              {map[string]string{ttl: "-1"}, ttl, "is -1; it must be at least 0"},
		"root's id is 0, not less":                    {map[string]string{podUser: "-1"}, podUser, "is -1; it must be at least 0"},
		"root and not root cannot be had at once":     {map[string]string{podUser: "0", podNonRoot: "true"}, podUser, "forbids root"},
		"days are not a unit of time":                 {map[string]string{"ROPEWALK_RUN_RETENTION": "30d"}, "ROPEWALK_RUN_RETENTION", `"30d" is not a length of time, such as 90s, 15m or 720h`},
		"heartbeats need room in the wait":            {map[string]string{"ROPEWALK_ACK_WAIT": "1s"}, "ROPEWALK_ACK_WAIT", "is 1s; it must be at least 2s; for example ROPEWALK_ACK_WAIT=30s"},
		"the longest run is at least a second":        {map[string]string{"ROPEWALK_MAX_TIMEOUT": "5ms"}, "ROPEWALK_MAX_TIMEOUT", "must be at least 1s, or 0 for no limit"},
		"a level is one of five":                      {map[string]string{"ROPEWALK_LOG_LEVEL": "loud"}, "ROPEWALK_LOG_LEVEL", `"loud" is not one of trace, debug, info, warn, error`},
		"each word of a list is one of a few":         {map[string]string{"ROPEWALK_REQUEST_MAY_SET": "resources,image"}, "ROPEWALK_REQUEST_MAY_SET", `"image" is not one of resources`},
		"an address has a port":                       {map[string]string{"ROPEWALK_HTTP_ADDR": "8080"}, "ROPEWALK_HTTP_ADDR", `"8080" is not an address`},
		"a port has an end":                           {map[string]string{"ROPEWALK_HTTP_ADDR": ":80800"}, "ROPEWALK_HTTP_ADDR", "has no port from 0 to 65535"},
		"a namespace has no capitals":                 {map[string]string{namespace: "Runs"}, namespace, `"Runs" is not a name that Kubernetes allows`},
		"a service account has no underscore":         {map[string]string{serviceAccount: "a_b"}, serviceAccount, `"a_b" is not a name`},
		"an instance becomes a label":                 {map[string]string{"ROPEWALK_INSTANCE": "a b"}, "ROPEWALK_INSTANCE", "is not a label value"},
		"a capability has no prefix":                  {map[string]string{"ROPEWALK_POD_DROP_CAPABILITIES": "ALL,CAP_KILL"}, "ROPEWALK_POD_DROP_CAPABILITIES", "without CAP_ in front"},
		"a class that nobody knows lists the three":   {map[string]string{flavour: "a.b.ECSWorkloadManager"}, flavour, "KubernetesWorkloadManager, zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager, zenml_cloud_plugins.gcp"},
		"part of a class name is not one":             {map[string]string{flavour: "WorkloadManager"}, flavour, "no workload manager that Ropewalk stands in for"},
		"resources must be JSON":                      {map[string]string{podResources: "cpu: 1"}, podResources, "is not JSON: it goes wrong at character 1"},
		"resources may be cut off":                    {map[string]string{podResources: `{"limits": {`}, podResources, "ends in the middle"},
		"resources have no other fields":              {map[string]string{podResources: `{"request": {"cpu": "1"}}`}, podResources, `has an unknown field "request"`},
		"resources are quantities":                    {map[string]string{podResources: `{"limits": {"cpu": "lots"}}`}, podResources, `at limits[cpu]: "lots" is not a quantity`},
		"a quantity is not a list":                    {map[string]string{podResources: `{"limits": {"cpu": []}}`}, podResources, "has a quantity that is neither a string"},
		"resources are not null":                      {map[string]string{podResources: "null"}, podResources, "is null"},
		"two JSON values are one too many":            {map[string]string{podResources: "{} {}"}, podResources, "goes on after the end"},
		"a node selector has strings":                 {map[string]string{podNodeSelector: `{"gpu": true}`}, podNodeSelector, "a JSON bool"},
		"a node selector has label values":            {map[string]string{podNodeSelector: `{"gpu": "a b"}`}, podNodeSelector, `at [gpu]: "a b" is not a value`},
		"tolerations are a list":                      {map[string]string{podTolerations: `{"key": "a"}`}, podTolerations, "a JSON object"},
		"tolerations have no other fields":            {map[string]string{podTolerations: `[{"key": "a", "effects": "NoSchedule"}]`}, podTolerations, `has an unknown field "effects"`},
		"tolerations have known operators":            {map[string]string{podTolerations: `[{"key": "a", "operator": "Is"}]`}, podTolerations, "at [0].operator: must be Equal or Exists"},
		"a failure policy is an object":               {map[string]string{policy: `[]`}, policy, "want a JSON object"},
		"a label keeps off Ropewalk's own":            {map[string]string{podLabels: `{"ropewalk.dev/queue": "a"}`}, podLabels, "which Ropewalk keeps for itself"},
		"a label keeps off the instance":              {map[string]string{podLabels: `{"app.kubernetes.io/instance": "a"}`}, podLabels, "ROPEWALK_INSTANCE"},
		"an annotation has a key that is allowed":     {map[string]string{podAnnotations: `{"a b": "c"}`}, podAnnotations, "at [a b]: is not a key"},
		"a patch is an object":                        {map[string]string{patch: "- a"}, patch, "is not an object"},
		"a patch says where it goes wrong":            {map[string]string{patch: "spec:\n  a: b: c"}, patch, "goes wrong at line 2"},
		"a patch has every key once":                  {map[string]string{patch: "spec: {}\nspec: {}"}, patch, "has a key twice"},
		"building needs a registry":                   {map[string]string{buildImages: "true"}, dockerRegistry, "is not set; built images are pushed there"},
		"a registry has no scheme":                    {map[string]string{dockerRegistry: "https://a"}, dockerRegistry, "without https://"},
		"a registry holds no user":                    {map[string]string{dockerRegistry: "me:pass@a"}, dockerRegistry, "pull secret"},
		"an image has no blanks":                      {map[string]string{"ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE": "a b"}, "ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE", "white space"},
		"AWS builds need a region":                    {map[string]string{buildImages: "true", dockerRegistry: "a", flavour: aws}, awsRegion, "is not set; the AWS flavour needs it"},
		"AWS logs need a bucket":                      {map[string]string{externalLogs: "true", flavour: aws}, awsBucket, "is not set; it says where external logs are stored"},
		"external logs are for AWS":                   {map[string]string{externalLogs: "true", awsBucket: "s3://logs"}, externalLogs, "only the AWS flavour stores logs in S3"},
		"external logs are not for GCP":               {map[string]string{externalLogs: "true", flavour: FlavourGCP.Source()}, externalLogs, "only the AWS flavour"},
		"a bucket begins with s3":                     {map[string]string{awsBucket: "my-bucket"}, awsBucket, "does not begin with s3://"},
		"a bucket has a name":                         {map[string]string{awsBucket: "s3:///logs"}, awsBucket, "does not name a bucket"},
		"two names of one limit cannot differ":        {map[string]string{templateRuns: "2", snapshotRuns: "3"}, snapshotRuns, "is 3, but " + templateRuns + ", its older name, is 2"},
		"the list cannot contradict the variable":     {map[string]string{templateRuns: "2", moreQueues: "default=3"}, moreQueues, "gives the queue default the limit 3"},
		"the list cannot contradict the newer name":   {map[string]string{snapshotRuns: "2", moreQueues: "default=3"}, moreQueues, snapshotRuns + " gives it 2"},
		"a queue has a limit":                         {map[string]string{moreQueues: "gpu"}, moreQueues, `"gpu" gives no limit; want name=limit`},
		"a queue's limit is a number":                 {map[string]string{moreQueues: "gpu=x"}, moreQueues, `the limit of queue gpu: "x" is not a whole number`},
		"a queue's limit is at least 1":               {map[string]string{moreQueues: "gpu=0"}, moreQueues, "must be from 1 to 1000000"},
		"a queue has a name":                          {map[string]string{moreQueues: "GPU=1"}, moreQueues, `"GPU" is not the name of a queue`},
		"a queue stands once":                         {map[string]string{moreQueues: "a=1,a=1"}, moreQueues, "names the queue a twice"},
		"commas alone are no queues":                  {map[string]string{moreQueues: ","}, moreQueues, "names no queue"},
		"NATS is not reached by http":                 {map[string]string{natsURL: "nats://a,http://b"}, natsURL, "address 2 has a scheme that is not nats"},
		"a NATS server has a host":                    {map[string]string{natsURL: "nats://:4222"}, natsURL, "address 1 names no host"},
		"a NATS address has no path":                  {map[string]string{natsURL: "nats://a:1/b"}, natsURL, "goes on after the host and port"},
		"there is one way to log in":                  {map[string]string{natsUser: "a", natsToken: "b"}, natsUser, "keep one"},
		"a user in the address is a way to log in":    {map[string]string{natsURL: "nats://a:b@c", natsToken: "b"}, natsToken, "keep one"},
		"a password has a user":                       {map[string]string{natsPassword: "a"}, natsUser, "is not set; it goes with ROPEWALK_NATS_PASSWORD"},
		"a certificate has a key":                     {map[string]string{natsTLSCert: file}, natsTLSKey, "is not set; it goes with"},
		"a key has a certificate":                     {map[string]string{natsTLSKey: file}, natsTLSCert, "is not set; it goes with"},
		"a file exists":                               {map[string]string{natsCredentials: "/nowhere/a.creds"}, natsCredentials, "cannot be read: no such file"},
		"a folder is not a file":                      {map[string]string{natsCredentials: filepath.Dir(file)}, natsCredentials, "names a folder"},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, complete(tc.env))
			_, err := LoadServe()
			found := problems(t, err)
			if len(found) != 1 || found[0].Name != tc.name || !strings.Contains(found[0].String(), tc.want) {
				t.Fatalf("got  %v\nwant one problem of %s with %q", err, tc.name, tc.want)
			}
			if example := found[0].Example; !strings.HasPrefix(example, tc.name+"=") {
				t.Errorf("the example is %q", example)
			}
		})
	}
}

func TestAllProblemsComeAtOnceALineEach(t *testing.T) {
	setenv(t, map[string]string{
		templateRuns:             "many",
		podResources:             "{\n\"limits\": 1}",
		"ROPEWALK_ACK_WAIT":      "1s",
		"ROPEWALK_HTTP_ADR":      ":80",
		buildImages:              "true",
		externalLogs:             "ja",
		"ROPEWALK_POD_LABELS":    `{"a": "b c", "d e": "f"}`,
		"ROPEWALK_NATS_REPLICAS": "7",
	})
	_, err := LoadServe()
	var names []string
	for _, problem := range problems(t, err) {
		names = append(names, problem.Name)
	}
	want := []string{
		"ROPEWALK_NATS_REPLICAS", templateRuns, "ROPEWALK_ACK_WAIT", podResources, externalLogs,
		podLabels, podLabels, namespace, serviceAccount, dockerRegistry, "ROPEWALK_HTTP_ADR",
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("got  %v\nwant %v", names, want)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines for %d problems:\n%v", len(lines), len(want), err)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]+" ") {
			t.Errorf("line %d does not begin with %s: %s", i+1, want[i], line)
		}
	}
}
