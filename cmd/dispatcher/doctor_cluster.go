package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/doctor"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/sink/gcplog"
	"github.com/ropewalk/ropewalk/internal/sink/s3"
)

const applyRole = "Apply deploy/manifests/rbac.yaml for this namespace, and run the dispatcher as its service account."

func (p *patient) clusterChecks() []doctor.Check {
	checks := []doctor.Check{{Name: "cluster", Look: p.lookAtCluster}}
	needs := []string{"cluster"}
	for _, right := range k8sjobs.Rights() {
		checks = append(checks, doctor.Check{Name: "right to " + right.String(), Needs: needs, Look: func(ctx context.Context) doctor.Finding {
			return p.lookAtRight(ctx, right)
		}})
	}
	checks = append(checks,
		doctor.Check{Name: "service account", Needs: needs, Look: p.lookAtServiceAccount},
		doctor.Check{Name: "pull secrets", Needs: needs, Look: p.lookAtPullSecrets},
		doctor.Check{Name: "admission of jobs", Needs: []string{"cluster", "right to create jobs"}, Look: p.lookAtAdmission},
	)
	if p.options.serverURL != "" {
		const toStart = 3 * time.Minute
		checks = append(checks, doctor.Check{Name: "server url", Needs: []string{"admission of jobs"}, Limit: toStart, Look: p.lookFromAPod})
	}
	return checks
}

func (p *patient) lookAtCluster(ctx context.Context) doctor.Finding {
	if err := p.openCluster(); err != nil {
		return doctor.Bad("Set KUBECONFIG, or run in a pod of the cluster; correct what is named.", "%v.", err)
	}
	server, err := p.launcher.ServerVersion(ctx)
	switch {
	case err != nil && server != "":
		return doctor.Bad("Update the cluster.", "%v.", err)
	case err != nil:
		return doctor.Bad("Check that the API server that KUBECONFIG names runs, and that the network lets this machine reach it.", "%v", err)
	}
	return doctor.Good("Kubernetes %s answers, and is at least %s.", server, k8sjobs.OldestServer)
}

func (p *patient) lookAtRight(ctx context.Context, right k8sjobs.Right) doctor.Finding {
	namespace := p.settings.Kubernetes.Namespace
	allowed, err := p.launcher.May(ctx, right)
	switch {
	case err != nil:
		return doctor.Bad("Make sure that these credentials are valid.", "The cluster does not say: %v", err)
	case allowed:
		return doctor.Good("Given in namespace %s.", namespace)
	case right.Optional:
		return doctor.Doubtful(applyRole, "Not given in namespace %s; it is for this: %s.", namespace, right.For)
	}
	return doctor.Bad(applyRole, "Not given in namespace %s, and needed: %s.", namespace, right.For)
}

func (p *patient) lookAtServiceAccount(ctx context.Context) doctor.Finding {
	where := p.settings.Kubernetes
	there, err := p.launcher.HasServiceAccount(ctx)
	switch {
	case errors.Is(err, k8sjobs.ErrMayNotLook):
		return doctor.Hidden("Apply deploy/manifests/rbac-images.yaml to let the dispatcher look, or run: kubectl -n "+where.Namespace+" get serviceaccount "+where.ServiceAccount+".",
			"Whether service account %s exists cannot be seen with the dispatcher's rights.", where.ServiceAccount)
	case err != nil:
		return doctor.Bad("Check the cluster.", "The cluster does not say: %v", err)
	case !there:
		return doctor.Bad("Run: kubectl -n "+where.Namespace+" create serviceaccount "+where.ServiceAccount+"; or correct ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT.",
			"There is no service account %s in namespace %s, so that no pod can be made.", where.ServiceAccount, where.Namespace)
	}
	return doctor.Good("Service account %s is in namespace %s.", where.ServiceAccount, where.Namespace)
}

func (p *patient) lookAtPullSecrets(ctx context.Context) doctor.Finding {
	usable, lacking, err := p.secrets.Examine(ctx)
	switch {
	case err != nil:
		return doctor.Bad("Check the cluster, and what the Secrets hold.", "The pull secrets cannot be read: %v.", err)
	case lacking != nil:
		return doctor.Bad("Create it with kubectl create secret docker-registry in namespace "+p.settings.Kubernetes.Namespace+", or correct ROPEWALK_IMAGE_PULL_SECRETS or the service account.",
			"Images are to be pulled with what is not there: %s.", strings.Join(lacking, "; "))
	case len(usable) == 0:
		return doctor.Good("None are named; images are pulled without, or by the nodes' own credentials.")
	}
	return doctor.Good("Usable: %s.", strings.Join(usable, ", "))
}

// probeTimeout ends a probe that hangs, as one does whose packets are dropped.
const probeTimeout = 30 * time.Second

// probeLaunch is a launch as runs have it, of a shell script.
func (p *patient) probeLaunch(id, image, script string, args ...string) run.Launch {
	request := run.Request{
		Version: run.Version, ID: id, Queue: "doctor", Image: run.Image{Reference: image},
		Command: []string{"sh", "-c", script, "sh"}, Args: args, Timeout: run.Duration(probeTimeout),
	}
	return run.Launch{Request: request, Attempt: 1, Image: image}
}

func (p *patient) lookAtAdmission(ctx context.Context) doctor.Finding {
	const anyImage = "registry.invalid/image"
	p.warned = nil
	err := p.launcher.Try(ctx, p.probeLaunch("doctor", cmp.Or(p.settings.Images.RunnerImage, anyImage), "exit 0"))
	refused, isRefusal := errors.AsType[*run.LaunchError](err)
	switch {
	case isRefusal && refused.Reason == run.QuotaExceeded:
		return doctor.Doubtful("Raise the quota, or wait for other work to end; runs wait until there is room.", "%s", refused.Message)
	case isRefusal:
		return doctor.Bad(refused.Reason.ToDo(), "The API server would refuse the Job of a run: %s", refused.Message)
	case err != nil:
		return doctor.Bad("Correct the settings of jobs and pods.", "No Job can be built of the settings: %v.", err)
	}
	for _, warning := range p.warned {
		if strings.Contains(warning, "violate PodSecurity") {
			return doctor.Bad("Tighten the pods by ROPEWALK_POD_RUN_AS_NON_ROOT, ROPEWALK_POD_SECCOMP_PROFILE, ROPEWALK_POD_DROP_CAPABILITIES, ROPEWALK_POD_ALLOW_PRIVILEGE_ESCALATION or ROPEWALK_POD_TEMPLATE_PATCH, or relax the namespace's label pod-security.kubernetes.io/enforce.",
				"The namespace's pod security refuses the pods of runs, or is to warn of them: %s.", warning)
		}
	}
	if p.warned != nil {
		return doctor.Doubtful("Correct what the warning names.", "The API server takes the Job of a run, with a warning: %s.", strings.Join(p.warned, "; "))
	}
	return doctor.Good("The API server would take the Job of a run in namespace %s, and its pods.", p.settings.Kubernetes.Namespace)
}

// reach asks for a URL with what an image has for that. Any answer by HTTP will
// do, also that one must log in.
const reach = `url=$1
if command -v curl >/dev/null; then exec curl -sS -o /dev/null -m 20 "$url"; fi
if command -v wget >/dev/null; then
	said=$(wget -q -O /dev/null "$url" 2>&1) && exit 0
	code=$?
	case "$code $said" in 8*|*HTTP/*) exit 0 ;; esac
	echo "$said"; exit 1
fi
for python in python3 python; do
	command -v $python >/dev/null && exec $python -c 'import sys, urllib.request, urllib.error
try: urllib.request.urlopen(sys.argv[1], timeout=20)
except urllib.error.HTTPError: pass
except Exception as e: sys.exit(str(e))' "$url"
done
exit 77`

const noClient = 77 // as the script above says

// lookFromAPod runs a pod as runs do, since what it can reach depends on its
// node, its labels and its service account.
func (p *patient) lookFromAPod(ctx context.Context) doctor.Finding {
	image := cmp.Or(p.options.probeImage, p.settings.Images.RunnerImage)
	if image == "" {
		return doctor.Hidden("Name one by --probe-image, with a shell and curl, wget or python3 in it.", "There is no image for the pod that is to ask for %s.", p.options.serverURL)
	}
	launch := p.probeLaunch("doctor-"+strings.ToLower(rand.Text()[:10]), image, reach, p.options.serverURL)
	seen, err := p.runProbe(ctx, launch)
	lines := ""
	if seen.Evidence != nil {
		lines = strings.Join(seen.Evidence.LastLines, " ")
	}
	switch {
	case seen.State == run.Succeeded:
		return doctor.Good("A pod like those of runs reaches %s.", p.options.serverURL)
	case seen.ExitCode != nil && *seen.ExitCode == noClient:
		return doctor.Hidden("Name another by --probe-image.", "The image %s has none of curl, wget and python3 to ask for %s.", image, p.options.serverURL)
	case seen.ExitCode != nil, seen.Reason == run.DeadlineExceeded:
		return doctor.Bad("Check the address, the cluster's DNS, network policies and firewalls between the pods and the server.", "A pod like those of runs does not reach %s: %s.", p.options.serverURL, cmp.Or(lines, seen.Message))
	case err != nil && ctx.Err() == nil:
		return doctor.Bad("Mend that first.", "The pod that was to ask for %s could not be run: %v.", p.options.serverURL, err)
	}
	return doctor.Bad("Mend that first.", "The pod that was to ask for %s did not run. %s", p.options.serverURL, seen.Message)
}

// runProbe launches, follows and deletes the Job of a probe. With an error, what
// it returns is the last that was seen.
func (p *patient) runProbe(ctx context.Context, launch run.Launch) (seen run.Observation, err error) {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() { stopped <- p.launcher.Run(watching) }()
	defer func() {
		stop()
		err = errors.Join(err, <-stopped)
	}()
	job, _, err := p.launcher.Launch(ctx, launch)
	if err != nil {
		return seen, err
	}
	defer func() {
		const toDelete = 30 * time.Second
		deleting, cancel := context.WithTimeout(watching, toDelete)
		defer cancel()
		if failed := p.launcher.Delete(deleting, job); failed != nil {
			err = errors.Join(err, fmt.Errorf("delete it by kubectl -n %s delete job %s: %w", job.Namespace, job.Name, failed))
		}
	}()
	final, err := p.launcher.Follow(ctx, job, func(now run.Observation) { seen = now })
	if err != nil {
		return seen, err
	}
	return final, nil
}

func (p *patient) registryChecks() []doctor.Check {
	needs := []string{"cluster"} // which has the pull secrets
	return []doctor.Check{
		{Name: "registry: pull", Needs: needs, Look: func(ctx context.Context) doctor.Finding {
			reference, err := p.resolver.CheckPull(ctx)
			finding := registryFinding(reference, "can be read", err)
			if _, refused := errors.AsType[*run.LaunchError](err); refused && p.settings.Images.ResolveDigest != "true" && p.settings.Images.RunnerImage != "" {
				// The run is launched all the same.
				finding.Status, finding.Found = doctor.Warning, finding.Found+" The nodes pull it by themselves, and may have a mirror or credentials of their own."
			}
			return finding
		}},
		{Name: "registry: push", Needs: needs, Look: func(ctx context.Context) doctor.Finding {
			repository, err := p.resolver.CheckPush(ctx)
			return registryFinding(repository, "can be pushed to", err)
		}},
	}
}

func registryFinding(what, can string, err error) doctor.Finding {
	refused, isRefusal := errors.AsType[*run.LaunchError](err)
	switch {
	case err == nil:
		return doctor.Good("%s %s.", what, can)
	case errors.Is(err, images.ErrNothing):
		return doctor.Good("Not needed: the settings name neither a runner image nor a registry for built images.")
	case errors.Is(err, images.ErrNoRepository):
		return doctor.Doubtful("Make sure that the dispatcher may create it (ecr:CreateRepository).", "%s does not exist yet; the first build makes it.", what)
	case errors.Is(err, images.ErrAbsent):
		return doctor.Bad("Push it, or correct ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE.", "The registry has no image %s.", what)
	case isRefusal && refused.Temporary:
		return doctor.Bad("Check the registry's address, ROPEWALK_IMAGE_PLAIN_HTTP, ROPEWALK_IMAGE_CA_FILE, and that the network lets this machine reach it.", "%s", refused.Message)
	case isRefusal:
		return doctor.Bad("Give credentials that may do this, by a Secret that ROPEWALK_IMAGE_PULL_SECRETS names or by a role of the dispatcher's service account.", "%s", refused.Message)
	}
	return doctor.Bad("Check the registry's settings.", "%s: %v.", what, err)
}

func (p *patient) archiveChecks() []doctor.Check {
	if p.settings.Archive() == (config.Archive{}) {
		return []doctor.Check{found("log archive", doctor.Doubtful(
			"Set ROPEWALK_LOG_ARCHIVE to keep them.", "Logs of runs are not kept; they go with their pods."))}
	}
	return []doctor.Check{{Name: "log archive", Look: p.lookAtArchive}}
}

func (p *patient) lookAtArchive(ctx context.Context) doctor.Finding {
	where := p.settings.Archive()
	place, todo := "bucket "+where.Bucket, s3.ToDo
	switch {
	case where.CloudLog != "":
		place, todo = "Cloud Logging, as log "+where.CloudLog, gcplog.ToDo
	case where.Folder != "":
		place = "folder " + where.Folder
		todo = func(error) string {
			return "Make the folder writable for this user, and mount the same one wherever dispatchers and logshippers run."
		}
	}
	kept, err := logship.Open(ctx, p.settings, nil)
	if err == nil {
		err = errors.Join(kept.Probe(ctx), kept.Close())
	}
	if failed, ok := errors.AsType[*archive.ProbeError](err); ok {
		return doctor.Bad(todo(failed.Err), "Logs cannot be kept in %s: to %s an object fails: %v.", place, failed.Step, failed.Err)
	}
	if err != nil {
		return doctor.Bad(todo(err), "Logs cannot be kept in %s: %v.", place, err)
	}
	return doctor.Good("Logs can be kept in %s, and read from there.", place)
}
