package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newScheduleCommand(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:     "schedule",
		Aliases: []string{"schedules"},
		Short:   "Run requests at a time, or again and again",
	}
	group.AddCommand(
		newScheduleCreateCommand(a), newScheduleListCommand(a), newScheduleGetCommand(a),
		newScheduleChangeCommand(a, "pause", "Stop a schedule; what it would have run meanwhile is not made up for", "paused", (*client.Client).PauseSchedule),
		newScheduleChangeCommand(a, "resume", "Set a schedule going again, from now on", "resumed", (*client.Client).ResumeSchedule),
		newScheduleChangeCommand(a, "delete", "Delete a schedule; its runs stay what they are", "deleted", (*client.Client).DeleteSchedule),
	)
	onlyCommands(group)
	return group
}

// scheduleFlags say when.
type scheduleFlags struct {
	at, cron, zone, overlap string
	after, within           time.Duration
}

func newScheduleCreateCommand(a *app) *cobra.Command {
	var (
		when   scheduleFlags
		wanted submission
	)
	cmd := &cobra.Command{
		Use:   "create NAME (--at TIME | --after DELAY | --cron TIMES) [flags] [-- COMMAND ARG...]",
		Short: "Run a request at a time, or again and again",
		Long: `Run a request at a time, after a delay, or at the times of the calendar. The
request is given as to "dispatcher submit". Each time is a run of its own, whose
id is NAME and the time, so that a time that comes twice is one run.

While a time waits it holds no slot. Times that are missed, because NATS or every
dispatcher is away, are made up for once, by one run for the latest of them; with
--within, only if it is not later than that.`,
		Example: `  dispatcher schedule create nightly --cron '30 2 * * *' --time-zone Europe/Berlin \
    --image registry.example.com/team/train:1.4 -- python train.py
  dispatcher schedule create once --after 90m -f request.yaml
  dispatcher schedule create launch --at 2030-01-31T09:00:00+01:00 --queue gpu -- ./launch`,
		Args: nameThenCommand,
	}
	flags := cmd.Flags()
	flags.StringVar(&when.at, "at", "", "run once at this `TIME`, such as 2030-01-31T09:00:00+01:00")
	flags.DurationVar(&when.after, "after", 0, "run once after this `DELAY`, such as 90m")
	flags.StringVar(&when.cron, "cron", "", "run at these `TIMES`: minute hour day month weekday, with seconds before them if there are six, or @daily and the like")
	flags.StringVar(&when.zone, "time-zone", "", "the time `ZONE` of --cron, such as Europe/Berlin (default UTC)")
	flags.StringVar(&when.overlap, "overlap", string(run.SkipOverlap), "what becomes of a time at which the run before still goes on: allow both, skip the time, or replace the run")
	flags.DurationVar(&when.within, "within", 0, "pass a time over that cannot be kept within this `TIME` (default: however late)")
	choices(cmd, "overlap", string(run.AllowOverlap), string(run.SkipOverlap), string(run.ReplaceOverlap))
	wanted.flags(flags)
	if err := flags.MarkHidden("id"); err != nil {
		panic("dispatcher: " + err.Error()) // no such flag, found by any test
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := wanted.request(cmd.Flags(), args[1:], a.stdin, os.LookupEnv)
		if err != nil {
			return &usageError{err}
		}
		schedule, err := when.schedule(args[0], time.Now())
		if err != nil {
			return &usageError{err}
		}
		schedule.Request = request
		return a.reach(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			if err := wanted.putContext(ctx, c, &schedule.Request); err != nil {
				return err
			}
			return soon(ctx, func(ctx context.Context) error { return a.createSchedule(ctx, c, schedule, *output) })
		})
	}
	return cmd
}

// nameThenCommand wants a name before "--", and takes a command behind it.
func nameThenCommand(cmd *cobra.Command, args []string) error {
	dashes := cmd.ArgsLenAtDash()
	if dashes < 0 {
		dashes = len(args)
	}
	switch {
	case dashes == 0:
		return misused(cmd, "NAME is missing")
	case dashes > 1:
		return misused(cmd, "%q is neither a flag nor behind --; the command to run goes behind --", args[1])
	default:
		return nil
	}
}

// schedule is what the flags say, without the request.
func (f scheduleFlags) schedule(name string, now time.Time) (client.Schedule, error) {
	given := 0
	for _, is := range []bool{f.at != "", f.after != 0, f.cron != ""} {
		if is {
			given++
		}
	}
	schedule := client.Schedule{Name: name, Cron: f.cron, TimeZone: f.zone, Overlap: run.Overlap(f.overlap), Within: client.Duration(f.within)}
	switch {
	case given != 1:
		return schedule, errors.New("give one of --at, --after and --cron")
	case f.after < 0:
		return schedule, errors.New("--after must not be negative")
	case f.after > 0:
		at := now.Add(f.after)
		schedule.At = &at
	case f.at != "":
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			return schedule, fmt.Errorf("--at %q is not a time with its zone, such as 2030-01-31T09:00:00+01:00 or 2030-01-31T08:00:00Z", f.at)
		}
		schedule.At = &at
	}
	return schedule, nil
}

func (a *app) createSchedule(ctx context.Context, c *client.Client, schedule client.Schedule, output format) error {
	kept, err := c.CreateSchedule(ctx, schedule)
	switch {
	case errors.Is(err, client.ErrScheduleExists):
		return fmt.Errorf("there is a schedule %s already; dispatcher schedule delete %s makes room", schedule.Name, schedule.Name)
	case errors.Is(err, client.ErrNoQueue):
		return noQueue(ctx, c, schedule.Request.Queue)
	case err != nil:
		return err
	case output == formatJSON:
		return writeJSON(a.stdout, kept)
	}
	next := "at once"
	if at := client.NextTime(kept, time.Now()); !at.IsZero() {
		next = "at " + clock(at)
	}
	_, err = fmt.Fprintf(a.stdout, "schedule %s: runs next %s\n", kept.Name, next)
	return err
}

// clock writes a time with its own zone, for people.
func clock(at time.Time) string { return at.Format("2006-01-02 15:04:05 MST") }

// shownSchedule is a schedule as programs get it.
type shownSchedule struct {
	client.Schedule
	// Next is when it runs next; nil when it does not.
	Next *time.Time `json:"next"`
}

func show(schedule client.Schedule, now time.Time) shownSchedule {
	shown := shownSchedule{Schedule: schedule}
	if next := client.NextTime(schedule, now); !next.IsZero() {
		shown.Next = &next
	}
	return shown
}

func newScheduleListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the schedules", Args: arguments()}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			schedules, err := c.Schedules(ctx)
			if err != nil {
				return err
			}
			shown := []shownSchedule{} // a list also when there is none
			for _, schedule := range schedules {
				shown = append(shown, show(schedule, time.Now()))
			}
			if *output == formatJSON {
				return writeJSON(a.stdout, shown)
			}
			if len(shown) == 0 {
				_, _ = fmt.Fprintln(a.stderr, "there are no schedules; dispatcher schedule create makes one")
				return nil
			}
			printSchedules(newScreen(a.stdout), shown)
			return nil
		})
	}
	return cmd
}

func printSchedules(out screen, schedules []shownSchedule) {
	rows := make([][]string, len(schedules))
	for i, schedule := range schedules {
		last := ""
		if schedule.Last != nil {
			last = string(schedule.Last.Outcome)
		}
		rows[i] = []string{schedule.Name, schedule.Request.Queue, timesOf(schedule.Schedule), nextOf(schedule), string(schedule.Overlap), last}
	}
	out.table([]string{"NAME", "QUEUE", "TIMES", "NEXT", "OVERLAP", "LAST"}, rows)
}

func timesOf(schedule client.Schedule) string {
	switch {
	case schedule.At != nil:
		return "once"
	case schedule.TimeZone != "":
		return schedule.Cron + " (" + schedule.TimeZone + ")"
	default:
		return schedule.Cron + " (UTC)"
	}
}

func nextOf(schedule shownSchedule) string {
	switch {
	case schedule.Paused:
		return "paused"
	case schedule.Done():
		return "done"
	case schedule.Next == nil:
		return "now"
	default:
		return clock(*schedule.Next)
	}
}

func newScheduleGetCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "get NAME", Short: "Show one schedule, and what became of its latest time", Args: arguments("NAME")}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			schedule, err := c.Schedule(ctx, args[0])
			switch {
			case err != nil:
				return explainNoSchedule(err, args[0])
			case *output == formatJSON:
				return writeJSON(a.stdout, show(schedule, time.Now()))
			}
			printSchedule(newScreen(a.stdout), show(schedule, time.Now()))
			return nil
		})
	}
	return cmd
}

func explainNoSchedule(err error, name string) error {
	if errors.Is(err, client.ErrNoSchedule) {
		return fmt.Errorf("there is no schedule %s; dispatcher schedule list shows those that there are", name)
	}
	return err
}

func printSchedule(out screen, schedule shownSchedule) {
	facts := []fact{
		{"Schedule", schedule.Name},
		{"Times", timesOf(schedule.Schedule)},
		{"Next", nextOf(schedule)},
		{"Overlap", string(schedule.Overlap)},
		{"Runs", strconv.Itoa(schedule.Started) + " started, " + strconv.Itoa(schedule.Passed) + " times passed over"},
		{"Newest run", schedule.Run},
	}
	if schedule.Within > 0 {
		facts = slices.Insert(facts, 4, fact{"Within", schedule.Within.String()})
	}
	if last := schedule.Last; last != nil {
		facts = append(facts, fact{"Latest time", clock(last.At) + ": " + string(last.Outcome)}, fact{"Message", last.Message})
	}
	facts = append(facts, fact{"Queue", schedule.Request.Queue}, fact{"Image", schedule.Request.Image.Reference})
	out.facts(append(facts, requestFacts(&schedule.Request)...))
}

func newScheduleChangeCommand(a *app, use, short, done string, change func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := change(c, ctx, args[0]); err != nil {
					return explainNoSchedule(err, args[0])
				}
				_, err := fmt.Fprintf(a.stdout, "schedule %s %s\n", args[0], done)
				return err
			})
		},
	}
}
