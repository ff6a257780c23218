package cgroup

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// Poke begins, in the background, to move the calling process from its own
// cgroup to its own cgroup. That changes nothing, but takes the lock on which
// the first move after a quiet time waits 7 to 15 ms for an RCU grace period
// (cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c), so that a real move soon
// afterwards has the wait behind it. It returns at once and never fails. v2
// needs it only where CLONE_INTO_CGROUP cannot be used.
func Poke() {
	go func() { _ = poke() }()
}

func poke() error {
	h, err := Detect()
	if err != nil {
		return err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	dir, ok := h.own(string(data))
	if !ok {
		return nil
	}
	return writeExisting(filepath.Join(dir, "cgroup.procs"), "0")
}

// own returns the directory of the cgroup that /proc/self/cgroup names, in one
// hierarchy: see cgroups(7), "hierarchy-ID:controller-list:path". The lock is
// one for all hierarchies, so any will do.
func (h Hierarchy) own(self string) (dir string, ok bool) {
	for line := range strings.Lines(self) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || strings.HasPrefix(fields[2], "/..") {
			continue // malformed, or outside our cgroup namespace
		}
		if h.Mode == leaf.V2 && fields[1] == "" {
			return filepath.Join(h.Unified, fields[2]), true
		}
		for c := range strings.SplitSeq(fields[1], ",") {
			if h.Mode == leaf.V1 && h.V1[c] != "" {
				return filepath.Join(h.V1[c], fields[2]), true
			}
		}
	}
	return "", false
}
