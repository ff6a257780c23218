package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// boxControllers are the v1 controllers in which a user has a cgroup; their
// order is that of BoxDirs.
var boxControllers = []string{"memory", "cpu", "cpuacct", "pids", "freezer"}

// A Hierarchy says where the host has its cgroups. It is a plain value: it
// does not follow mounts made later.
type Hierarchy struct {
	Mode    leaf.Mode // V1 on hybrid hosts, whose controllers are v1's
	Unified string    // mount point of cgroup2; "" without one

	// V1 maps each controller, and each named hierarchy as "name=x", to its
	// mount point. Controllers that are mounted together share one.
	V1 map[string]string
}

// Hybrid reports whether there is a cgroup2 mount beside v1's controllers.
func (h Hierarchy) Hybrid() bool { return h.Mode == leaf.V1 && h.Unified != "" }

// String returns "v2", "v1" or "hybrid".
func (h Hierarchy) String() string {
	switch {
	case h.Mode == leaf.V2:
		return "v2"
	case h.Hybrid():
		return "hybrid"
	}
	return "v1"
}

// Detect reads the host's mode and mount points from /proc/self/mountinfo.
func Detect() (Hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Hierarchy{}, fmt.Errorf("detect cgroups: %w", err)
	}
	return parseMountinfo(string(data))
}

// parseMountinfo finds the cgroup mounts, see proc_pid_mountinfo(5). Of several
// mounts of one hierarchy the first below /sys/fs/cgroup counts, or else the
// first.
func parseMountinfo(info string) (Hierarchy, error) {
	h := Hierarchy{V1: make(map[string]string)}
	for line := range strings.Lines(info) {
		front, back, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, tail := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 6 || len(tail) < 3 {
			continue
		}
		point := unescape(fields[4])
		switch tail[0] {
		case "cgroup2":
			h.Unified = prefer(h.Unified, point)
		case "cgroup":
			for opt := range strings.SplitSeq(tail[2], ",") {
				if isController(opt) {
					h.V1[opt] = prefer(h.V1[opt], point)
				}
			}
		}
	}
	return h, h.settle()
}

// settle chooses the mode: v1 as soon as one controller that carries a limit
// is mounted there, for it cannot be in both.
func (h *Hierarchy) settle() error {
	for _, c := range boxControllers {
		if h.V1[c] != "" {
			h.Mode = leaf.V1
			return nil
		}
	}
	if h.Unified == "" {
		return errors.New("no cgroup file system is mounted")
	}
	h.Mode = leaf.V2
	return nil
}

// isController tells a controller or a named hierarchy from the other super
// block options of a v1 mount: rw, xattr, clone_children, release_agent=…
func isController(opt string) bool {
	switch opt {
	case "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "net_cls", "net_prio",
		"blkio", "perf_event", "hugetlb", "pids", "rdma", "misc":
		return true
	}
	return strings.HasPrefix(opt, "name=")
}

func prefer(have, found string) string {
	const usual = "/sys/fs/cgroup/"
	if have == "" || (!strings.HasPrefix(have+"/", usual) && strings.HasPrefix(found+"/", usual)) {
		return found
	}
	return have
}

// unescape undoes the octal escapes of mountinfo (\040 for a space).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// boxMounts returns the mount points in which a user has a cgroup, each once.
func (h Hierarchy) boxMounts() []string {
	if h.Mode == leaf.V2 {
		return []string{h.Unified}
	}
	return h.mountsOf(boxControllers)
}

func (h Hierarchy) mountsOf(controllers []string) []string {
	var mounts []string
	for _, c := range controllers {
		if m := h.V1[c]; m != "" && !slices.Contains(mounts, m) {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// allMounts returns every hierarchy of the host, each once, in a fixed order.
func (h Hierarchy) allMounts() []string {
	var mounts []string
	for _, m := range h.V1 {
		mounts = append(mounts, m)
	}
	if h.Unified != "" {
		mounts = append(mounts, h.Unified)
	}
	slices.Sort(mounts)
	return slices.Compact(mounts)
}

// List returns the names of the cgroups directly below parent, in whichever
// hierarchy, sorted. A parent that does not exist has none.
func (h Hierarchy) List(parent string) ([]string, error) {
	if err := checkParent(parent); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range h.allMounts() {
		children, err := children(filepath.Join(m, parent))
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		names = append(names, children...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// List is Hierarchy.List on this host. A host without cgroups, or one whose
// cgroups cannot be read, lists none.
func List(parent string) []string {
	h, err := Detect()
	if err != nil {
		return nil
	}
	names, err := h.List(parent)
	if err != nil {
		return nil
	}
	return names
}

// children returns the subdirectories of dir; none if it does not exist or
// goes away meanwhile (ENODEV from a removed cgroup).
func children(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// checkParent accepts an absolute clean path below the root.
func checkParent(parent string) error {
	if !strings.HasPrefix(parent, "/") || parent == "/" || filepath.Clean(parent) != parent || strings.ContainsAny(parent, "\n\x00") {
		return fmt.Errorf("cgroup parent %q: %w", parent, fs.ErrInvalid)
	}
	return nil
}
