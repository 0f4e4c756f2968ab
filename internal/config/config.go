package config

import (
	"encoding/json"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Config is every setting, in groups. The tags of a field are its
// documentation as well as its rules:
//
//   - envconfig, default: the variable and its value when it is unset or empty
//   - meaning: one sentence; example: a value that is right
//   - needed: when the variable must be set
//   - oneof, min, max: the values allowed; zero: what 0 means where it is
//     allowed below min; check: a rule of checkText
//   - none: the word "none" stands for the empty list
//
// A group's about tag is the paragraph that the documentation opens it with.
type Config struct {
	NATS       NATS       `title:"NATS" about:"How every command reaches the NATS server. Commands that only talk to the queue (submit, list, get, watch, …) read this group alone; dispatcher dev brings its own server and does not read it."`
	HTTP       HTTP       `title:"HTTP" about:"Where the dispatcher answers."`
	Log        Log        `title:"Logging" about:"What the dispatcher says about itself; the logs of runs are not concerned."`
	Launch     Launch     `title:"Launching" about:"What becomes of a run once it has been taken off its queue."`
	Queues     Queues     `title:"Queues" about:"Which queues there are, and how many of each one's runs may be under way at once, over all replicas together."`
	Runs       Runs       `title:"Runs" about:"How long runs may take, how long they are remembered, and what a request may ask for."`
	Kubernetes Kubernetes `title:"Kubernetes" about:"The cluster that Jobs are made in."`
	Pod        Pod        `title:"Jobs and pods" about:"What the operator sets for the Job and pod of every run."`
	Images     Images     `title:"Images" about:"Where the images of runs come from: the one that a request names is used again, or there is one prebuilt image, or they are built on demand."`
	Builder    Builder    `title:"Builders" about:"How images are built on demand: each by one Job that runs BuildKit, however many runs and replicas want it."`
	Logs       Logs       `title:"Logs of runs" about:"Whether and where logs are kept outside the pods. Dispatchers and shippers read it alike, and so does dispatcher logs."`
	AWS        AWS        `title:"AWS" about:"What the AWS flavour needs besides."`
	GCP        GCP        `title:"GCP" about:"Where Cloud Logging files the logs of runs, if it keeps them. On Google's machines nothing of it need be set."`

	// facts has one entry per variable. It holds no value, so that printing
	// a Config shows no secret.
	facts map[string]fact
}

// fact is what is known of a variable besides its value.
type fact struct {
	set     bool
	problem string
}

// NATS says how to reach and use the NATS server.
type NATS struct {
	URL         URL        `envconfig:"ROPEWALK_NATS_URL" default:"nats://127.0.0.1:4222" example:"tls://nats.example.com:4222" meaning:"Address of the NATS server, or several of one cluster with commas between them; a user and password in it are never shown."`
	Credentials string     `envconfig:"ROPEWALK_NATS_CREDENTIALS" check:"file" example:"/etc/ropewalk/nats.creds" meaning:"File with a NATS user's JWT and key, as nsc writes it."`
	User        string     `envconfig:"ROPEWALK_NATS_USER" example:"ropewalk" meaning:"User name for NATS."`
	Password    run.Secret `envconfig:"ROPEWALK_NATS_PASSWORD" example:"the-password" meaning:"Password of ROPEWALK_NATS_USER."`
	Token       run.Secret `envconfig:"ROPEWALK_NATS_TOKEN" example:"the-token" meaning:"Token for a NATS server that asks for one instead of a user."`
	TLSCA       string     `envconfig:"ROPEWALK_NATS_TLS_CA" check:"file" example:"/etc/ropewalk/ca.pem" meaning:"PEM file of the authorities that the NATS server's certificate is checked against; unset, the system's."`
	TLSCert     string     `envconfig:"ROPEWALK_NATS_TLS_CERT" check:"file" needed:"with ROPEWALK_NATS_TLS_KEY" example:"/etc/ropewalk/tls.crt" meaning:"PEM file of the certificate that Ropewalk shows to the NATS server."`
	TLSKey      string     `envconfig:"ROPEWALK_NATS_TLS_KEY" check:"file" needed:"with ROPEWALK_NATS_TLS_CERT" example:"/etc/ropewalk/tls.key" meaning:"PEM file of that certificate's private key."`
	Inbox       string     `envconfig:"ROPEWALK_NATS_INBOX" check:"subject" example:"_INBOX.dispatcher" meaning:"What the subjects begin with that answers of the NATS server come in on; a user whose permissions let it listen to some of them only, so that it cannot read what others are sent, needs those; unset, NATS's own default, _INBOX."`
	Replicas    int        `envconfig:"ROPEWALK_NATS_REPLICAS" default:"1" min:"1" max:"5" example:"3" meaning:"How many servers of a NATS cluster keep a copy of the queue and the records; with 1, set the server's sync_interval to always."`
}

// HTTP says where the dispatcher answers.
type HTTP struct {
	Addr string `envconfig:"ROPEWALK_HTTP_ADDR" default:":8080" check:"address" example:"127.0.0.1:8080" meaning:"Address that /livez, /readyz, /metrics and the API listen on."`
}

// Log says how the dispatcher logs.
type Log struct {
	Level  string `envconfig:"ROPEWALK_LOG_LEVEL" default:"info" oneof:"trace,debug,info,warn,error" example:"debug" meaning:"The least severe messages that are logged."`
	Format string `envconfig:"ROPEWALK_LOG_FORMAT" default:"auto" oneof:"auto,json,console" example:"json" meaning:"How messages are written: auto is console on a terminal and json elsewhere."`
}

// The launchers.
const (
	LauncherKubernetes = "kubernetes"
	LauncherLocal      = "local"
)

// Launch says how runs are launched.
type Launch struct {
	Launcher string `envconfig:"ROPEWALK_LAUNCHER" default:"kubernetes" oneof:"kubernetes,local" example:"local" meaning:"What a run becomes: a Kubernetes Job, or a process on this machine; dispatcher dev always uses local."`
	DataDir  string `envconfig:"ROPEWALK_DATA_DIR" default:"./ropewalk-data" example:"/var/lib/ropewalk" meaning:"Folder in which the local launcher keeps its state."`
	Instance string `envconfig:"ROPEWALK_INSTANCE" default:"ropewalk" check:"label" example:"ropewalk-staging" meaning:"Label of everything that this installation makes; it tells two installations in one namespace apart."`
	Workers  int    `envconfig:"ROPEWALK_LAUNCH_WORKERS" default:"32" min:"1" max:"1000" example:"64" meaning:"How many runs of one queue one replica launches at the same moment, while it makes up to half as many more ready; runs that have been launched do not count."`
}

// Queues holds the queues and their limits; [Queues.Limits] joins them.
type Queues struct {
	// The top of the range is where JetStream would need 2 GB to keep track
	// of the runs under way, at the 2 KB each that were measured.
	TemplateRuns int         `envconfig:"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS" default:"2" min:"1" max:"1000000" example:"10" meaning:"How many runs of the queue default may be under way at once, over all replicas."`
	SnapshotRuns int         `envconfig:"ZENML_SERVER_MAX_CONCURRENT_SNAPSHOT_RUNS" min:"1" max:"1000000" example:"10" meaning:"The newer name of ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS; set one of them, or both alike."`
	More         QueueLimits `envconfig:"ROPEWALK_QUEUES" example:"gpu=2,batch=50" meaning:"Queues besides default, each with its limit over all replicas; default may appear too, if it does not contradict the variables above."`
}

// Runs holds the times that runs are given, and what requests may ask for.
type Runs struct {
	AckWait               time.Duration `envconfig:"ROPEWALK_ACK_WAIT" default:"15s" min:"2s" example:"30s" meaning:"How long after a replica's last sign of life its runs go to another replica, which adopts their Jobs."`
	Retention             time.Duration `envconfig:"ROPEWALK_RUN_RETENTION" default:"720h" min:"1s" example:"2160h" meaning:"How long the record of a finished run is kept."`
	SecretRetention       time.Duration `envconfig:"ROPEWALK_SECRET_RETENTION" default:"168h" min:"1s" example:"24h" meaning:"How long a request is kept with its secrets, so that the run can be replayed."`
	MaxTimeout            time.Duration `envconfig:"ROPEWALK_MAX_TIMEOUT" default:"0" min:"1s" max:"596523h" zero:"no limit" example:"24h" meaning:"The longest that any run may take; a request that asks for more is refused, and one that asks for nothing gets this."`
	StartTimeout          time.Duration `envconfig:"ROPEWALK_START_TIMEOUT" default:"15m" min:"1s" example:"30m" meaning:"How long a Job may take until its container runs, before the run is given up with StartTimeout."`
	ImagePullGrace        time.Duration `envconfig:"ROPEWALK_IMAGE_PULL_GRACE" default:"2m" min:"0s" example:"5m" meaning:"How long an image may fail to be pulled before the run fails with ImagePullFailed."`
	UnschedulableGrace    time.Duration `envconfig:"ROPEWALK_UNSCHEDULABLE_GRACE" default:"10m" min:"0s" example:"20m" meaning:"How long a pod may find no node before the run fails with Unschedulable; leave time for the cluster to add one."`
	InfrastructureRetries int           `envconfig:"ROPEWALK_INFRASTRUCTURE_RETRIES" default:"3" min:"0" max:"100" example:"10" meaning:"How often a run is tried again that the cluster lost (its pod evicted or preempted, its node or Job gone), beside the retries that it asks for itself."`
	RequestMaySet         []string      `envconfig:"ROPEWALK_REQUEST_MAY_SET" default:"resources,nodeSelector,tolerations" oneof:"resources,nodeSelector,tolerations,serviceAccount,priorityClassName" none:"true" example:"resources" meaning:"The settings of its pod that a request may set; one that sets another is refused with PolicyRefused."`
}

// Kubernetes says which cluster and how to talk to it.
type Kubernetes struct {
	Flavour        Flavour `envconfig:"ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE" default:"zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager" example:"zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager" meaning:"The flavour of cluster, by the class name of the workload manager that Ropewalk stands in for: Kubernetes, AWS or GCP."`
	Namespace      string  `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE" check:"dns label" needed:"with the kubernetes launcher" example:"zenml-workload-manager" meaning:"Namespace that Jobs are made in."`
	ServiceAccount string  `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT" check:"dns name" needed:"with the kubernetes launcher" example:"zenml-runner" meaning:"Service account that the pods of runs have."`
	QPS            int     `envconfig:"ROPEWALK_KUBE_QPS" default:"1000" min:"1" max:"100000" example:"200" meaning:"Most requests a second that one replica sends to the Kubernetes API."`
	Burst          int     `envconfig:"ROPEWALK_KUBE_BURST" default:"2000" min:"1" max:"100000" example:"400" meaning:"How many requests may go out at once above ROPEWALK_KUBE_QPS after a quiet time."`
}

// Pod holds what the operator sets for every Job and pod.
type Pod struct {
	Resources               run.Resources     `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES" example:"{\"requests\": {\"cpu\": \"100m\", \"memory\": \"400Mi\"}, \"limits\": {\"memory\": \"700Mi\"}}" meaning:"Resource requests and limits of a run's container."`
	NodeSelector            map[string]string `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_NODE_SELECTOR" example:"{\"node-pool\": \"zenml-pool\"}" meaning:"Labels that a node must have to get a run's pod."`
	Tolerations             []run.Toleration  `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_TOLERATIONS" example:"[{\"key\": \"node-pool\", \"operator\": \"Equal\", \"value\": \"zenml-pool\", \"effect\": \"NoSchedule\"}]" meaning:"Taints of nodes that a run's pod tolerates."`
	BackoffLimit            int32             `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_JOB_BACKOFF_LIMIT" default:"0" min:"0" example:"1" meaning:"How many failed pods the Job replaces before it fails, within one attempt of the run."`
	FailurePolicy           json.RawMessage   `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_FAILURE_POLICY" example:"{\"rules\": [{\"action\": \"Ignore\", \"onPodConditions\": [{\"type\": \"DisruptionTarget\"}]}]}" meaning:"The Job's podFailurePolicy, as Kubernetes defines it."`
	TTLSecondsAfterFinished int32             `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED" default:"172800" min:"0" example:"86400" meaning:"Seconds after which the cluster deletes a finished Job; the default is 2 days."`
	ImagePullSecrets        []string          `envconfig:"ROPEWALK_IMAGE_PULL_SECRETS" check:"dns name" example:"registry-credentials" meaning:"Names of the Secrets, in the Jobs' namespace, that images are pulled with, beside those of the service account."`
	Labels                  map[string]string `envconfig:"ROPEWALK_POD_LABELS" example:"{\"team\": \"ml\"}" meaning:"Labels put on every Job and pod."`
	Annotations             map[string]string `envconfig:"ROPEWALK_POD_ANNOTATIONS" example:"{\"sidecar.istio.io/inject\": \"false\"}" meaning:"Annotations put on every Job and pod."`
	TemplatePatch           string            `envconfig:"ROPEWALK_POD_TEMPLATE_PATCH" check:"yaml object" example:"{\"spec\": {\"runtimeClassName\": \"gvisor\"}}" meaning:"Strategic merge patch that is laid over the pod template last, for what no other setting covers; it is no place for secrets."`

	AllowPrivilegeEscalation bool     `envconfig:"ROPEWALK_POD_ALLOW_PRIVILEGE_ESCALATION" default:"false" example:"true" meaning:"Whether a process may gain more rights than its parent, by sudo for one."`
	SeccompProfile           string   `envconfig:"ROPEWALK_POD_SECCOMP_PROFILE" default:"RuntimeDefault" oneof:"RuntimeDefault,Unconfined,none" example:"Unconfined" meaning:"The pod's seccomp profile; none leaves it unsaid."`
	DropCapabilities         []string `envconfig:"ROPEWALK_POD_DROP_CAPABILITIES" default:"ALL" check:"capability" none:"true" example:"NET_RAW,SYS_ADMIN" meaning:"Linux capabilities that are taken from the container."`
	RunAsNonRoot             bool     `envconfig:"ROPEWALK_POD_RUN_AS_NON_ROOT" default:"false" example:"true" meaning:"Whether the cluster refuses containers that would run as root; images of pipelines commonly do."`
	RunAsUser                *int64   `envconfig:"ROPEWALK_POD_RUN_AS_USER" min:"0" max:"2147483647" example:"1000" meaning:"User id that the container runs as; unset, the image's own."`
}

// Images says which image runs use; [Images.Mode] tells the three ways apart.
type Images struct {
	BuildRunnerImage bool          `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE" default:"false" example:"true" meaning:"Whether runner images are built on demand and pushed to the registry."`
	DockerRegistry   string        `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY" check:"registry" needed:"when runner images are built" example:"internal-registry.mycompany.com/zenml" meaning:"Registry, with a path if need be, that built images are pushed to and pulled from."`
	RunnerImage      string        `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE" check:"image" example:"internal-registry.mycompany.com/zenml/zenml:0.94.0" meaning:"One prebuilt image for all runs whose request names none; when runner images are built, only for requests that ask for it by mode prebuilt."`
	Modes            []string      `envconfig:"ROPEWALK_IMAGE_MODES" default:"reuse,prebuilt,build" oneof:"reuse,prebuilt,build" example:"prebuilt" meaning:"The ways to an image that a request may ask for besides the default one; another is refused with PolicyRefused."`
	Allow            []string      `envconfig:"ROPEWALK_IMAGE_ALLOW" check:"image pattern" example:"registry.example.com/ml/**,docker.io/library/python" meaning:"Repositories that a request's image may come from; * stands for a part between slashes or some of it, ** for any number of parts, and unset, any is allowed that is not denied."`
	Deny             []string      `envconfig:"ROPEWALK_IMAGE_DENY" check:"image pattern" example:"docker.io/**" meaning:"Repositories that a request's image may not come from, even if ROPEWALK_IMAGE_ALLOW has them."`
	ResolveDigest    string        `envconfig:"ROPEWALK_IMAGE_RESOLVE_DIGEST" default:"auto" oneof:"auto,true,false" example:"true" meaning:"Whether the registry is asked for an image's digest before launch, so that every attempt of a run has the same bytes: auto does so where the registry answers and leaves the rest to the node, true waits for the answer, false does not ask."`
	DigestCache      time.Duration `envconfig:"ROPEWALK_IMAGE_DIGEST_CACHE" default:"1m" min:"0s" max:"24h" example:"10m" meaning:"How long a digest is taken to stay the one of its tag; for that long a moved tag may go unnoticed."`
	PlainHTTP        []string      `envconfig:"ROPEWALK_IMAGE_PLAIN_HTTP" check:"registry host" example:"registry.internal:5000" meaning:"Registries that are spoken to over plain HTTP, by the dispatcher and by builders."`
	CAFile           string        `envconfig:"ROPEWALK_IMAGE_CA_FILE" check:"file" example:"/etc/ropewalk/registry-ca.pem" meaning:"PEM file of the authorities that registries are checked against besides the system's; builders are given it for the registry that is pushed to."`
}

// Builder says how images are built.
type Builder struct {
	Image            string            `envconfig:"ROPEWALK_BUILDER_IMAGE" check:"image" example:"registry.example.com/moby/buildkit:v0.25.2-rootless" meaning:"Image of builders; unset, moby/buildkit:v0.25.2-rootless, without -rootless when builders are privileged."`
	Privileged       bool              `envconfig:"ROPEWALK_BUILDER_PRIVILEGED" default:"false" example:"true" meaning:"Whether builders run as privileged containers, for clusters whose nodes cannot build rootless: a Dockerfile then runs with the node's own rights but for the namespaces around it."`
	Repository       string            `envconfig:"ROPEWALK_BUILDER_REPOSITORY" default:"runner" check:"repository" example:"ml/runner" meaning:"Repository below the registry for built images whose request names none."`
	Cache            string            `envconfig:"ROPEWALK_BUILDER_CACHE" default:"registry" oneof:"registry,none" example:"none" meaning:"Where builders keep layers for the next build: registry is the tag buildcache beside the image, but for builds with secrets, whose layers others could find there."`
	Timeout          time.Duration     `envconfig:"ROPEWALK_BUILDER_TIMEOUT" default:"30m" min:"1s" max:"596523h" example:"1h" meaning:"How long a build may take."`
	FailureMemory    time.Duration     `envconfig:"ROPEWALK_BUILDER_FAILURE_MEMORY" default:"5m" min:"0s" example:"30m" meaning:"How long a failed build answers for new runs that want the same image, before it is tried again; replaying a run tries it at once."`
	ServiceAccount   string            `envconfig:"ROPEWALK_BUILDER_SERVICE_ACCOUNT" check:"dns name" example:"image-builder" meaning:"Service account of builders; unset, that of runs."`
	Resources        run.Resources     `envconfig:"ROPEWALK_BUILDER_RESOURCES" example:"{\"requests\": {\"cpu\": \"1\", \"memory\": \"2Gi\"}}" meaning:"Resource requests and limits of a builder."`
	NodeSelector     map[string]string `envconfig:"ROPEWALK_BUILDER_NODE_SELECTOR" example:"{\"node-pool\": \"builders\"}" meaning:"Labels that a node must have to get a builder; unset, those for runs."`
	Tolerations      []run.Toleration  `envconfig:"ROPEWALK_BUILDER_TOLERATIONS" example:"[{\"key\": \"builders\", \"operator\": \"Exists\"}]" meaning:"Taints of nodes that builders tolerate; unset, those for runs."`
	Mirrors          map[string]string `envconfig:"ROPEWALK_BUILDER_MIRRORS" example:"{\"docker.io\": \"mirror.example.com\"}" meaning:"Registries that builders ask first, by the registry that they stand for."`
	PodTemplatePatch string            `envconfig:"ROPEWALK_BUILDER_POD_TEMPLATE_PATCH" check:"yaml object" example:"{\"spec\": {\"runtimeClassName\": \"gvisor\"}}" meaning:"Strategic merge patch that is laid over the pod template of builders last; the builder's container is called run."`
}

// Logs says where the logs of runs are kept; [Config.Archive] joins it with the
// flavour.
type Logs struct {
	ExternalLogs bool              `envconfig:"ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS" default:"false" example:"true" meaning:"Whether the logs of runs are stored in S3; the AWS flavour only."`
	Archive      string            `envconfig:"ROPEWALK_LOG_ARCHIVE" check:"archive" example:"s3://my-bucket/run-logs" meaning:"Where the logs of runs are kept: an S3 bucket with a prefix, a log of Cloud Logging as gcplog://PROJECT/LOG, or a folder as file:///var/lib/ropewalk/logs; unset, the bucket of the AWS flavour if external logs are enabled, the log ropewalk of Cloud Logging with the GCP flavour, and otherwise logs stay in the pods."`
	StreamBytes  int               `envconfig:"ROPEWALK_LOG_STREAM_BYTES" default:"1073741824" min:"1048576" example:"10737418240" meaning:"Most bytes of lines that NATS holds until they are archived; when it is full, followers wait, and the nodes keep the lines."`
	ShipBytes    int               `envconfig:"ROPEWALK_SHIP_BYTES" default:"8388608" min:"65536" max:"67108864" example:"16777216" meaning:"How much text of a log the shipper gathers for one object of the archive."`
	ShipAge      time.Duration     `envconfig:"ROPEWALK_SHIP_AGE" default:"1m" min:"100ms" example:"5m" meaning:"How long the shipper gathers at most."`
	S3Endpoint   string            `envconfig:"ROPEWALK_S3_ENDPOINT" example:"http://minio:9000" meaning:"Address of an S3 server that is not AWS."`
	S3PathStyle  bool              `envconfig:"ROPEWALK_S3_PATH_STYLE" default:"false" example:"true" meaning:"Whether the bucket stands in the path of S3 addresses instead of the host's name; most servers that are not AWS need it."`
	S3Encryption string            `envconfig:"ROPEWALK_S3_ENCRYPTION" oneof:"AES256,aws:kms" example:"aws:kms" meaning:"Server-side encryption of the objects; unset, the bucket's default."`
	S3KMSKey     string            `envconfig:"ROPEWALK_S3_KMS_KEY" example:"alias/run-logs" meaning:"Key of KMS that objects are encrypted with, if ROPEWALK_S3_ENCRYPTION is aws:kms; unset, the account's default."`
	S3Tags       map[string]string `envconfig:"ROPEWALK_S3_TAGS" example:"{\"team\": \"ml\"}" meaning:"Tags of the objects."`
}

// AWS holds what the AWS flavour needs.
type AWS struct {
	Bucket Bucket `envconfig:"ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET" needed:"when external logs are enabled" example:"s3://my-bucket/run-template-logs" meaning:"S3 bucket, with a prefix if need be, that the logs of runs are stored in."`
	Region string `envconfig:"ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION" check:"region" needed:"when the AWS flavour builds images" example:"eu-central-1" meaning:"AWS region of the registry and the bucket."`
}

// GCP holds what Cloud Logging is told of the cluster.
type GCP struct {
	Project  string `envconfig:"ROPEWALK_GCP_PROJECT" check:"project" example:"my-project" meaning:"Project whose Cloud Logging keeps the logs of runs with the GCP flavour; unset, what the metadata server says."`
	Location string `envconfig:"ROPEWALK_GCP_LOCATION" check:"region" example:"europe-west1" meaning:"Region or zone of the cluster, for the entries in Cloud Logging; unset, what the metadata server says."`
	Cluster  string `envconfig:"ROPEWALK_GCP_CLUSTER" check:"dns label" example:"my-cluster" meaning:"Name of the cluster, for the entries in Cloud Logging; unset, what the metadata server says."`
	Endpoint string `envconfig:"ROPEWALK_GCP_LOGGING_ENDPOINT" check:"logging endpoint" example:"logging-runs.p.googleapis.com:443" meaning:"Address of Cloud Logging where it is not the usual one; with http:// in front, it is spoken to without TLS and without credentials."`
}
