package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Footprint is what this host occupies of the machine at one moment, as
// sorted lines that can be compared.
type Footprint []string

// Footprint looks at the mount table, the cgroups, the processes, the
// descriptors of carreld and its run directory. Paths that count up are left
// out of it by the caller's choice of moments, not by a filter.
func (h *Host) Footprint() (Footprint, error) {
	var lines Footprint
	for _, point := range mountsBelow(h.Dir) {
		lines = append(lines, "mount "+point)
	}
	dirs, err := cgroupDirs(h.Cgroup)
	if err != nil {
		return nil, err
	}
	for _, dir := range append(dirs, h.RunDir) {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && (e.IsDir() || dir == h.RunDir) {
				lines = append(lines, "path "+path)
			}
			return nil
		})
	}
	procs, err := Processes()
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		if p.below(h.Cgroup) || strings.HasPrefix(p.Exe, h.Prefix) {
			lines = append(lines, fmt.Sprintf("process %d %s", p.Pid, p.Exe))
		}
	}
	if h.daemon != nil && h.daemon.Running() {
		fds, err := h.daemon.Descriptors()
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			lines = append(lines, "carreld fd "+fd)
		}
		mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.daemon.Pid), "mountinfo"))
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("carreld mounts %d", strings.Count(string(mounts), "\n")))
	}
	slices.Sort(lines)
	return lines, nil
}

// Settle takes footprints until one equals want, within patience, and returns
// the last: a kernel frees what a dead container held a little later.
func (h *Host) Settle(want Footprint) (Footprint, error) {
	var got Footprint
	var err error
	eventually(func() bool {
		got, err = h.Footprint()
		return err != nil || slices.Equal(got, want)
	})
	return got, err
}

// Steady returns the footprint once it stays the same for a moment: the end of
// a session is told to its client before the last of it is tidied away.
func (h *Host) Steady() (Footprint, error) {
	last, err := h.Footprint()
	for range 50 {
		if err != nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
		var now Footprint
		if now, err = h.Footprint(); err == nil && slices.Equal(now, last) {
			break
		}
		last = now
	}
	return last, err
}

// NetworkNamespaces counts the distinct ones that any process of the machine
// is in.
func NetworkNamespaces() (int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0, err
	}
	seen := make(map[string]bool)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			seen[target] = true
		}
	}
	return len(seen), nil
}
