package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session/admin"
)

// top shows what containers use.
func (a *app) top() *cobra.Command {
	var who choice
	var once bool
	var every time.Duration
	c := &cobra.Command{
		Use:   "top [USER...]",
		Short: "Show what containers use",
		Long: `Show CPU, memory and processes of the running containers, of all users or of
those named, those with the most CPU time first, from the kernel's accounts of their cgroups: no container is asked.
CPU% is of one CPU, over the time between two looks. On a terminal it goes on
until it is interrupted; elsewhere, or with --once or --json, it looks twice and
ends.`,
		Example: "  carrel top\n  carrel top --once --interval 5s\n  carrel top --json",
		Args:    who.optional,
		RunE: func(c *cobra.Command, args []string) error {
			list := func(ctx context.Context) ([]admin.Container, error) {
				all, err := a.client().Usage(ctx)
				if err != nil {
					return nil, err
				}
				return a.only(ctx, who, args, all)
			}
			if every < 100*time.Millisecond {
				return &statusError{exitUsage, fmt.Errorf("top: --interval %v is too short", every)}
			}
			screen, ok := a.stdout.(*os.File)
			if once || a.asJSON || !ok || !isTerminal(screen) {
				return a.topOnce(c.Context(), list, every)
			}
			return untilInterrupted(c.Context(), a.topScreen(c.Context(), list, screen, every))
		},
	}
	c.ValidArgsFunction = a.completeUsers
	who.flags(c, "all containers, as without any choice")
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	c.Flags().BoolVar(&once, "once", false, "look once, also on a terminal")
	c.Flags().DurationVar(&every, "interval", 2*time.Second, "`time` between two looks")
	return a.jsonFlag(c)
}

// A load is what one container takes, as JSON.
type load struct {
	admin.Container
	CPUPercent float64 `json:"cpu_percent"` // of one CPU
}

// loads compares two looks that were some time apart. A container that was not
// there at the first one has used what it has since its start.
func loads(before, after []admin.Container, apart time.Duration) []load {
	then := make(map[uint32]admin.Container, len(before))
	for _, c := range before {
		then[c.UID] = c
	}
	list := make([]load, 0, len(after))
	for _, c := range after {
		used := c.CPUMicros
		if was, ok := then[c.UID]; ok && was.Started.Equal(c.Started) {
			used -= was.CPUMicros
		}
		list = append(list, load{c, float64(used) / float64(max(apart.Microseconds(), 1)) * 100})
	}
	slices.SortStableFunc(list, func(a, b load) int { return cmp.Compare(b.CPUPercent, a.CPUPercent) })
	return list
}

func loadGrid(list []load) *grid {
	g := newGrid("USER", "UID", "STATE", "CPU%", "CPU", "MEMORY", "SWAP", "PROCS")
	for _, l := range list {
		memory, procs := "", ""
		if l.Limits.MemoryBytes > 0 {
			memory = size(l.Limits.MemoryBytes)
		}
		if l.Limits.Pids > 0 {
			procs = strconv.FormatInt(l.Limits.Pids, 10)
		}
		g.add(l.User, strconv.FormatUint(uint64(l.UID), 10), string(l.State), strconv.FormatFloat(l.CPUPercent, 'f', 1, 64),
			(time.Duration(l.CPUMicros) * time.Microsecond).Round(10*time.Millisecond).String(),
			of(size(l.MemoryBytes), memory), size(l.SwapBytes), of(strconv.FormatInt(l.Pids, 10), procs))
	}
	return g
}

func (a *app) topOnce(ctx context.Context, look usage, every time.Duration) error {
	list, err := look.twice(ctx, nil, time.Time{}, every)
	if err != nil {
		return err
	}
	if a.asJSON {
		return writeJSON(a.stdout, list.loads)
	}
	return loadGrid(list.loads).write(a.stdout)
}

// usage looks at the chosen containers.
type usage func(ctx context.Context) ([]admin.Container, error)

// A look is what a later one is compared with.
type look struct {
	containers []admin.Container
	at         time.Time
	loads      []load
}

// twice waits and looks, after a first look if there was none.
func (u usage) twice(ctx context.Context, before []admin.Container, at time.Time, every time.Duration) (look, error) {
	var err error
	if at.IsZero() {
		if before, err = u(ctx); err != nil {
			return look{}, err
		}
		at = time.Now()
	}
	select {
	case <-ctx.Done():
		return look{}, ctx.Err()
	case <-time.After(every):
	}
	after, err := u(ctx)
	if err != nil {
		return look{}, err
	}
	now := time.Now()
	return look{after, now, loads(before, after, now.Sub(at))}, nil
}

// topScreen paints until it is interrupted.
func (*app) topScreen(ctx context.Context, list usage, screen *os.File, every time.Duration) error {
	var last look
	first := min(every, 500*time.Millisecond)
	for {
		next, err := list.twice(ctx, last.containers, last.at, first)
		if err != nil {
			return err
		}
		last, first = next, every
		var page bytes.Buffer
		fmt.Fprintf(&page, "%s  %d containers\n", time.Now().Format(time.TimeOnly), len(last.loads))
		if err := loadGrid(last.loads).write(&page); err != nil {
			return err
		}
		if err := paint(screen, page.Bytes()); err != nil {
			return err
		}
	}
}

// paint replaces what the terminal shows by as much of the page as fits.
func paint(screen *os.File, page []byte) error {
	rows, cols := 24, 80
	if ws, err := unix.IoctlGetWinsize(int(screen.Fd()), unix.TIOCGWINSZ); err == nil && ws.Row > 1 && ws.Col > 0 {
		rows, cols = int(ws.Row), int(ws.Col)
	}
	lines := bytes.Split(bytes.TrimSuffix(page, []byte("\n")), []byte("\n"))
	var out bytes.Buffer
	out.WriteString("\x1b[H\x1b[J")
	for i, line := range lines[:min(len(lines), rows-1)] {
		if i > 0 {
			out.WriteByte('\n')
		}
		if text := []rune(string(line)); len(text) > cols {
			line = []byte(string(text[:cols]))
		}
		out.Write(line)
	}
	_, err := screen.Write(out.Bytes())
	return err
}
