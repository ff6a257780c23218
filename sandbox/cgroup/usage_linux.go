package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// A Usage is what a user's container takes now. A field is zero where the host
// does not account it.
type Usage struct {
	MemoryBytes int64         // all that counts against the memory limit
	KernelBytes int64         // the kernel's part of MemoryBytes
	SwapBytes   int64         // beyond MemoryBytes
	CPU         time.Duration // all CPUs, since the group was made
	Pids        int64         // processes and threads
}

// Usage reads the group's counters. They are read one after another, so they
// need not belong to the same instant.
func (g *Group) Usage() (Usage, error) {
	read := g.usageV1
	if g.h.Mode == leaf.V2 {
		read = g.usageV2
	}
	u, err := read()
	if err != nil {
		return Usage{}, fmt.Errorf("read usage of cgroup %q: %w", g.path, err)
	}
	return u, nil
}

func (g *Group) usageV1() (Usage, error) {
	var u Usage
	var both, nanos int64
	for _, c := range []struct {
		controller, file string
		into             *int64
	}{
		{"memory", "memory.usage_in_bytes", &u.MemoryBytes},
		{"memory", "memory.kmem.usage_in_bytes", &u.KernelBytes},
		{"memory", "memory.memsw.usage_in_bytes", &both},
		{"cpuacct", "cpuacct.usage", &nanos},
		{"pids", "pids.current", &u.Pids},
	} {
		mount := g.h.V1[c.controller]
		if mount == "" {
			continue
		}
		if err := g.count(filepath.Join(mount, g.path), c.file, c.into); err != nil {
			return Usage{}, err
		}
	}
	u.SwapBytes = max(both-u.MemoryBytes, 0)
	u.CPU = time.Duration(nanos)
	return u, nil
}

func (g *Group) usageV2() (Usage, error) {
	dir := filepath.Join(g.h.Unified, g.path)
	var u Usage
	for file, into := range map[string]*int64{
		"memory.current":      &u.MemoryBytes,
		"memory.swap.current": &u.SwapBytes,
		"pids.current":        &u.Pids,
	} {
		if err := g.count(dir, file, into); err != nil {
			return Usage{}, err
		}
	}
	var micros int64
	if err := g.countKey(dir, "memory.stat", "kernel", &u.KernelBytes); err != nil { // Linux 5.18
		return Usage{}, err
	}
	if err := g.countKey(dir, "cpu.stat", "usage_usec", &micros); err != nil {
		return Usage{}, err
	}
	u.CPU = time.Duration(micros) * time.Microsecond
	return u, nil
}

// count reads dir/file into n; a missing file of a group that exists counts as
// zero.
func (g *Group) count(dir, file string, n *int64) error {
	v, err := readNumber(filepath.Join(dir, file))
	if err == nil {
		*n = v
		return nil
	}
	return missing(dir, err)
}

// countKey is count for one line of a file of "key value" lines.
func (g *Group) countKey(dir, file, key string, n *int64) error {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return missing(dir, err)
	}
	for line := range strings.Lines(string(data)) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			*n, err = strconv.ParseInt(v, 10, 64)
			return err
		}
	}
	return nil
}

// missing tells a host without a counter (nil) from a group that is gone.
func missing(dir string, err error) error {
	if !gone(err) {
		return err
	}
	_, err = os.Stat(dir)
	return err
}
