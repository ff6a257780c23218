package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// Events count what the limits of a group did to it.
type Events struct {
	OOMKills int64 `json:"oomKills"` // processes killed for memory
	// PidsHits is how often a fork failed for the number of processes. Where
	// the kernel counts in the cgroup that forked (v1, and v2 before Linux
	// 6.11), the count goes with a session's leaf: it may fall.
	PidsHits int64 `json:"pidsHits"`
}

// Events reads the counters. They only cost something when a limit was hit
// or the group has many leaves; they are zero where the host has none.
func (g *Group) Events() (Events, error) {
	var e Events
	var err error
	if g.h.Mode == leaf.V2 {
		dir := filepath.Join(g.h.Unified, g.path)
		err = g.countKey(dir, "memory.events", "oom_kill", &e.OOMKills) // of all below, too
		if err == nil {
			e.PidsHits, err = g.countBelow(dir, "pids.events", "max")
		}
	} else {
		// v1 counts a kill in the group of the one that was killed
		// (memcg_memory_event in include/linux/memcontrol.h).
		if m := g.h.V1["memory"]; m != "" {
			e.OOMKills, err = g.countBelow(filepath.Join(m, g.path), "memory.oom_control", "oom_kill")
		}
		if m := g.h.V1["pids"]; m != "" && err == nil {
			e.PidsHits, err = g.countBelow(filepath.Join(m, g.path), "pids.events", "max")
		}
	}
	if err != nil {
		return Events{}, fmt.Errorf("read events of cgroup %q: %w", g.path, err)
	}
	return e, nil
}

// countBelow adds the counter of dir and all groups below.
func (g *Group) countBelow(dir, file, key string) (int64, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil && !gone(err) {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(data)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			if sum, err = strconv.ParseInt(v, 10, 64); err != nil {
				return 0, err
			}
		}
	}
	names, err := children(dir)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		more, err := g.countBelow(filepath.Join(dir, name), file, key)
		if err != nil {
			return 0, err
		}
		sum += more
	}
	return sum, nil
}
