package localexec

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/run"
)

// SupervisorCommand is the hidden command under which the program that
// launches must call [Supervise].
const SupervisorCommand = "local-supervisor"

const (
	// namespace stands where a Job on Kubernetes has its namespace.
	namespace = "local"
	// jobMark is the variable in the environment of everything that runs
	// for a job: it holds the job's UID, so that processes that outlive their
	// supervisor can be told from others that got the same ids.
	jobMark = "ROPEWALK_JOB_UID"

	defaultGrace = 5 * time.Second
	defaultTTL   = 48 * time.Hour
)

// Settings are those of the launcher.
type Settings struct {
	// Dir holds all its state; it is made if need be. Dispatchers that share
	// it share their jobs.
	Dir string
	// Environ is the dispatcher's environment, as [os.Environ] gives it. A
	// few variables of it that every program needs go to the jobs.
	Environ []string
	// Supervisor is the start of the command line that ends up in
	// [Supervise]; left out, this program with [SupervisorCommand].
	Supervisor []string
	// Grace is how long a command may go on after SIGTERM before it is
	// killed; 5 s when left out.
	Grace time.Duration
	// TTL is how long the folders of finished jobs are kept; 2 days when left
	// out.
	TTL time.Duration
	// Log gets what nobody else is told; left out, it goes nowhere.
	Log zerolog.Logger
}

// Launcher runs each Job as a process under a supervisor. It is safe for
// concurrent use, and holds nothing that another one on the same directory
// would need.
type Launcher struct {
	settings Settings
	jobs     string
	trash    string
	environ  []string

	mu sync.Mutex
	// ends has the jobs whose end somebody waits for, by UID.
	ends map[string]*ending

	// at is called between the steps of a launch; tests die there.
	at func(step string)
}

// New returns a launcher on the directory in the settings, which it makes if
// it is not there.
func New(settings Settings) (*Launcher, error) {
	if !supported {
		return nil, errors.New("the local launcher runs on Linux and macOS only; set ROPEWALK_LAUNCHER=kubernetes")
	}
	if settings.Dir == "" {
		return nil, errors.New("the local launcher needs a directory for its state")
	}
	dir, err := filepath.Abs(settings.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the local launcher's directory: %w", err)
	}
	if settings.Supervisor == nil {
		program, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program, to run it as a supervisor: %w", err)
		}
		settings.Supervisor = []string{program, SupervisorCommand}
	}
	if settings.Grace == 0 {
		settings.Grace = defaultGrace
	}
	if settings.TTL == 0 {
		settings.TTL = defaultTTL
	}
	l := &Launcher{
		settings: settings, jobs: filepath.Join(dir, "jobs"), trash: filepath.Join(dir, "trash"),
		environ: inherited(settings.Environ), ends: make(map[string]*ending), at: func(string) {},
	}
	for _, path := range []string{l.jobs, l.trash} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("make the local launcher's directory: %w", err)
		}
	}
	return l, nil
}

// inherited picks what every job gets of the machine's environment. It is a
// list of what may pass, so that no credential of the dispatcher's does.
func inherited(environ []string) []string {
	names := []string{"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"}
	var picked []string
	for _, variable := range environ {
		if name, _, _ := strings.Cut(variable, "="); slices.Contains(names, name) {
			picked = append(picked, variable)
		}
	}
	return picked
}

// Check tells whether a process could be made of the request: nil or a
// [*run.InvalidError].
func (l *Launcher) Check(launch run.Launch) error {
	var problems []run.Problem
	if len(launch.Request.Command) == 0 {
		problems = append(problems, run.Problem{Field: "command", Message: "is empty; the local launcher runs no image, so it needs a command"})
	}
	if dir := launch.Request.WorkingDir; dir != "" && !filepath.IsAbs(dir) {
		problems = append(problems, run.Problem{Field: "workingDir", Message: "must be an absolute path"})
	}
	if problems != nil {
		return &run.InvalidError{Problems: problems}
	}
	return nil
}

// folder is where the job of that name is. A name that could lead out of the
// directory, which no launcher gives, names a folder that is never there.
func (l *Launcher) folder(name string) folder {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		name = ".no-such-job/none"
	}
	return folder(filepath.Join(l.jobs, name))
}

// Launch starts the process of an attempt, or adopts it if it was started
// before, whether it still runs or not. It returns once the command has
// started, or has been found not to start: that is the job's end, and Follow
// tells it.
func (l *Launcher) Launch(ctx context.Context, launch run.Launch) (job run.Job, adopted bool, err error) {
	if err := ctx.Err(); err != nil {
		return run.Job{}, false, err
	}
	if err := l.Check(launch); err != nil {
		return run.Job{}, false, &run.LaunchError{Reason: run.InvalidRequest, Message: err.Error(), Err: err}
	}
	name := run.JobName(launch.Request.ID, launch.Attempt)
	job, adopted, err = l.launch(ctx, l.folder(name), launch)
	var refused *run.LaunchError
	switch {
	case err == nil:
		job.Namespace, job.Name = namespace, name
		return job, adopted, nil
	case ctx.Err() != nil:
		return run.Job{}, false, ctx.Err()
	case errors.As(err, &refused):
		return run.Job{}, false, refused
	case errors.Is(err, errGone):
		return run.Job{}, false, &run.LaunchError{Reason: run.JobDeleted, Message: fmt.Sprintf("the folder of job %s is gone", name), Err: err}
	default:
		// The machine is out of something (disk, processes, files), which
		// may pass.
		err = fmt.Errorf("launch job %s: %w", name, err)
		return run.Job{}, false, &run.LaunchError{Reason: run.StartTimeout, Message: err.Error(), Temporary: true, Err: err}
	}
}

func (l *Launcher) launch(ctx context.Context, f folder, launch run.Launch) (run.Job, bool, error) {
	start, err := l.claim(ctx, f, launch.Known == nil)
	if err != nil {
		return run.Job{}, false, err
	}
	defer func() { _ = start.Close() }() // gives the lock back; the supervisor may still hold it
	job, err := f.spec()
	if errors.Is(err, errGone) && launch.Known == nil {
		job = l.specOf(launch)
		err = writeJSON(f.file(specFile), job)
		l.at("spec written")
	}
	if err != nil {
		return run.Job{}, false, err
	}
	if launch.Known != nil && launch.Known.UID != "" && launch.Known.UID != job.UID {
		return run.Job{}, false, errGone
	}
	if job.RunID != launch.Request.ID || job.RequestHash != launch.Request.Hash() {
		return run.Job{}, false, &run.LaunchError{
			Reason:  run.InvalidRequest,
			Message: fmt.Sprintf("job %s is there already, for another request (of run %s); submit this one under a new id", filepath.Base(string(f)), job.RunID),
		}
	}
	deleting, err := f.deleting()
	if err != nil {
		return run.Job{}, false, err
	}
	started, err := f.started()
	if err != nil {
		return run.Job{}, false, err
	}
	switch {
	case deleting, launch.Known != nil && !started:
		return run.Job{}, false, errGone
	case !started:
		err = l.start(ctx, f, start, job, launch.Request)
	}
	return run.Job{UID: job.UID}, started, err
}

// claim makes the job's folder if it may and must, and takes the lock under
// which the job is started. A folder that is there may be one that another
// launcher has made and not come to fill.
func (l *Launcher) claim(ctx context.Context, f folder, create bool) (*os.File, error) {
	for {
		if create {
			if err := os.Mkdir(string(f), 0o700); err == nil {
				l.at("folder made")
			} else if !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		start, err := f.lockStart(ctx)
		if create && errors.Is(err, errGone) && ctx.Err() == nil {
			continue // deleted between the two steps
		}
		return start, err
	}
}

func (l *Launcher) specOf(launch run.Launch) spec {
	request := launch.Request
	return spec{
		UID: newUID(), RunID: request.ID, Queue: request.Queue, Attempt: launch.Attempt, RequestHash: request.Hash(),
		Command: slices.Concat(request.Command, request.Args), WorkingDir: request.WorkingDir,
		Timeout: launch.Timeout(), Grace: run.Duration(l.settings.Grace), CreatedAt: time.Now().UTC(),
	}
}

// newUID returns a random UUID.
func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// answer is what the supervisor tells the launcher: that the command has
// started, or has ended already, or why nothing was started.
type answer struct {
	Problem string `json:"problem,omitempty"`
}

// start starts the job's supervisor, hands it the environment and waits until
// it has started the command. The caller holds the start lock.
func (l *Launcher) start(ctx context.Context, f folder, start *os.File, job spec, request run.Request) error {
	life, err := lockFile(ctx, f.file(lifeLock))
	if err != nil {
		return err
	}
	defer func() { _ = life.Close() }() // the supervisor has it now
	l.at("locks taken")
	environment, ready, err := l.spawn(f, start, life, job)
	if err != nil {
		return fmt.Errorf("start a supervisor: %w", err)
	}
	defer func() { _ = ready.Close() }()
	l.at("supervisor started")

	stop := context.AfterFunc(ctx, func() {
		_ = environment.SetWriteDeadline(time.Unix(1, 0))
		_ = ready.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	variables := maps.Clone(request.Env)
	if variables == nil {
		variables = make(map[string]string, len(request.SecretEnv))
	}
	for name, secret := range request.SecretEnv {
		variables[name] = secret.Reveal()
	}
	sent := errors.Join(json.NewEncoder(environment).Encode(variables), environment.Close())
	l.at("environment sent")
	var told answer
	if err := json.NewDecoder(ready).Decode(&told); err != nil {
		// It died. If it got far enough to have started the command, then
		// this is a job that has ended, and Follow will tell.
		if started, statErr := f.started(); started && statErr == nil {
			return nil
		}
		return fmt.Errorf("the supervisor ended before it started the command: %w%s", errors.Join(sent, err), f.lastWords())
	}
	if told.Problem != "" {
		return errors.New(told.Problem)
	}
	return nil
}

// spawn starts the supervisor's process. What comes back is the pipe that
// takes the environment and the one that gives the answer.
func (l *Launcher) spawn(f folder, start, life *os.File, job spec) (environment, ready *os.File, err error) {
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			_ = file.Close()
		}
	}()
	environmentOut, environmentIn, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	opened = append(opened, environmentOut, environmentIn)
	readyOut, readyIn, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	opened = append(opened, readyOut, readyIn)
	log, err := os.OpenFile(f.file(supervisorLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	opened = append(opened, log)

	cmd := exec.Command(l.settings.Supervisor[0], append(slices.Clone(l.settings.Supervisor[1:]), string(f))...)
	cmd.Env = append(slices.Clone(l.environ), jobMark+"="+job.UID)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stderr = environmentOut, log
	cmd.ExtraFiles = []*os.File{life, start, readyIn} // descriptors 3, 4 and 5
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	// The supervisor lives as long as its command. Somebody must take note of
	// its death, or it stays as a zombie; what it has to say is in its folder.
	go func() { _ = cmd.Wait() }()
	opened = []*os.File{environmentOut, readyIn, log}
	return environmentIn, readyOut, nil
}

// lastWords is the end of what the supervisor has logged, to be put behind an
// error.
func (f folder) lastWords() string {
	const most = 500
	file, err := os.Open(f.file(supervisorLog))
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	if size, err := file.Seek(0, io.SeekEnd); err == nil {
		_, _ = file.Seek(max(0, size-most), io.SeekStart)
	}
	text, err := io.ReadAll(io.LimitReader(file, most))
	if words := strings.TrimSpace(string(text)); err == nil && words != "" {
		return " (" + words + ")"
	}
	return ""
}
