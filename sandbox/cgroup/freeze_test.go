package cgroup_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
)

func TestFreeze(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1", cgroup.Limits{})
		pid := sleeper(t, h, g.Box()).Process.Pid
		frozen := func(want bool) {
			t.Helper()
			if got, err := g.Frozen(); got != want || err != nil {
				t.Errorf("Frozen = %v, %v; want %v", got, err, want)
			}
			// As the kernel shows it: v1 parks in the refrigerator (D), v2 in a
			// trap that looks like sleep (S).
			if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || !strings.Contains(string(stat), "sleep") {
				t.Errorf("the process: %q, %v", stat, err)
			}
		}
		frozen(false)
		for range 2 { // it is idempotent
			if err := g.Freeze(context.Background()); err != nil {
				t.Fatal(err)
			}
			frozen(true)
		}
		for range 2 {
			if err := g.Thaw(); err != nil {
				t.Fatal(err)
			}
			frozen(false)
		}
		// Frozen, it is killed all the same.
		if err := errors.Join(g.Freeze(context.Background()), g.Kill(context.Background())); err != nil {
			t.Fatal(err)
		}
	})
}

func TestEventsOfNothing(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1", cgroup.Limits{})
		if e, err := g.Events(); err != nil || e != (cgroup.Events{}) {
			t.Errorf("Events = %+v, %v", e, err)
		}
	})
}
