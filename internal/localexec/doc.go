// Package localexec launches runs as processes of the operating system, for
// machines without a cluster: the launcher behind `dispatcher dev` and behind
// ROPEWALK_LAUNCHER=local. It knows no queue and no record; the dispatcher's
// core calls it through the same seam as the launcher on Kubernetes.
//
// # What a Job is here
//
// A folder, jobs/<name> under the data directory:
//
//	job.json        what to run and for whom; neither environment nor secrets
//	status.json     where the command stands; replaced as a whole, then on disk
//	output.log      what the command wrote, in the format below
//	work/           where the command starts, unless the request says otherwise
//	supervisor.log  what the supervisor has to say, usually nothing
//	lock            held as long as the supervisor lives
//	start.lock      held while somebody starts, settles or deletes the Job
//	deleting        there once the Job is being deleted
//
// The command runs under a supervisor, a small process in a session of its
// own, so that it outlives the dispatcher that launched it and any other
// dispatcher on the same directory can adopt it. The supervisor holds the
// timeout, collects the output and records the end. Nobody polls: a follower
// blocks on the lock that ends with the supervisor.
//
// # Exactly one start
//
// Making the folder claims the Job. The launcher that made it, or one that
// finds it unfinished, starts the supervisor while it holds start.lock, which
// the supervisor keeps until it has recorded that it is about to start the
// command and then that it has. Whoever gets start.lock therefore knows that
// no start is under way: without status.json the command has surely never
// run and may be started, with it the command must not be started again. A
// process may be killed between any two of these steps.
//
// A supervisor that is gone without having recorded an end was killed, or the
// machine went down. Its Job has failed with NodeLost; what it left running is
// killed first, told from strangers with the same process ids by a variable
// in the environment.
//
// # What it does not do
//
// There is no container: the request's image is ignored, a command is
// demanded, and resources, node selector, tolerations, service account and
// priority class mean nothing. The command runs as the dispatcher's user and
// may see the dispatcher's files. A process that leaves its session on
// purpose (a daemon) is not stopped with the rest. The environment is the
// request's, a few variables of the machine such as PATH and HOME, and
// nothing else of the dispatcher's. The size of the output is bounded by the
// disk alone. The data directory must be on a local file system, and is used
// on Linux and macOS only.
//
// # The output file
//
// One line of the file is one line of output, as container runtimes write it:
//
//	2026-01-02T15:04:05.123456789Z stdout F the text
//
// that is the time in UTC, never earlier than that of the line before; stdout
// or stderr; F for a full line or P for a part of one that goes on in the next
// line of the same stream; and up to 16 KiB of text as they were written.
package localexec
