package host

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Process is what /proc tells of one.
type Process struct {
	Pid, Parent int
	UID         uint32 // real, as the host sees it
	NSPid       int    // in the innermost pid namespace
	Exe         string // empty for a kernel thread
	Cgroups     []string
}

// Processes returns every process of the machine but zombies.
func Processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := process(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// process reads one; ok is false when it is gone or a zombie.
func process(pid int) (p Process, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, false
	}
	p.Pid = pid
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		switch key {
		case "State":
			if fields[0] == "Z" || fields[0] == "X" {
				return p, false
			}
		case "PPid":
			p.Parent, _ = strconv.Atoi(fields[0])
		case "Uid":
			uid, _ := strconv.ParseUint(fields[0], 10, 32)
			p.UID = uint32(uid)
		case "NSpid":
			p.NSPid, _ = strconv.Atoi(fields[len(fields)-1])
		}
	}
	p.Exe, _ = os.Readlink(filepath.Join(dir, "exe"))
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return p, false
	}
	for line := range bytes.Lines(cgroup) {
		_, path, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		_, path, _ = strings.Cut(path, ":")
		p.Cgroups = append(p.Cgroups, path)
	}
	return p, true
}

// below reports whether the process is in the cgroup or under it, in any
// hierarchy.
func (p Process) below(cgroup string) bool {
	return slices.ContainsFunc(p.Cgroups, func(path string) bool {
		return path == cgroup || strings.HasPrefix(path, cgroup+"/")
	})
}

// Inside returns the processes of all containers of this host.
func (h *Host) Inside() ([]Process, error) {
	all, err := Processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p Process) bool { return !p.below(h.Cgroup) }), nil
}

// Inits returns the first process of each container of this host.
func (h *Host) Inits() ([]Process, error) {
	inside, err := h.Inside()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(inside, func(p Process) bool { return p.NSPid != 1 }), nil
}

// An IDRange is one extent of a process's uid_map.
type IDRange struct{ Inside, Outside, Size uint32 }

// UIDMap returns the user id mapping of a process.
func UIDMap(pid int) ([]IDRange, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "uid_map"))
	if err != nil {
		return nil, err
	}
	var ranges []IDRange
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) != 3 {
			return nil, errors.New("uid_map: " + string(line))
		}
		var n [3]uint32
		for i, field := range fields {
			v, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return nil, err
			}
			n[i] = uint32(v)
		}
		ranges = append(ranges, IDRange{n[0], n[1], n[2]})
	}
	return ranges, nil
}

// descendants returns the children of a process, theirs, and so on.
func descendants(pid int) ([]int, error) {
	all, err := Processes()
	if err != nil {
		return nil, err
	}
	found := []int{pid}
	for i := 0; i < len(found); i++ {
		for _, p := range all {
			if p.Parent == found[i] {
				found = append(found, p.Pid)
			}
		}
	}
	return found[1:], nil
}

// cgroupDirs returns the directory of the cgroup in each hierarchy that the
// machine has mounted, whether it exists or not.
func cgroupDirs(cgroup string) ([]string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for line := range bytes.Lines(mounts) {
		left, right, _ := strings.Cut(string(line), " - ")
		if kind := strings.Fields(right)[0]; kind == "cgroup" || kind == "cgroup2" {
			dirs = append(dirs, filepath.Join(strings.Fields(left)[4], cgroup))
		}
	}
	return dirs, nil
}

// RemoveCgroup kills what is left in the cgroup and removes it with all below.
func RemoveCgroup(cgroup string) error {
	dirs, err := cgroupDirs(cgroup)
	if err != nil {
		return err
	}
	empty := func() bool {
		all, err := Processes()
		if err != nil {
			return false
		}
		none := true
		for _, p := range all {
			if p.below(cgroup) {
				none = false
				_ = syscall.Kill(p.Pid, syscall.SIGKILL)
			}
		}
		return none
	}
	if !eventually(empty) {
		return errors.New("processes in " + cgroup + " cannot be killed")
	}
	var errs []error
	for _, dir := range dirs {
		var all []string
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		errs = append(errs, err)
		for _, path := range slices.Backward(all) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// unmountBelow unmounts what is mounted at or below dir, the newest first.
func unmountBelow(dir string) error {
	var errs []error
	for _, point := range slices.Backward(mountsBelow(dir)) {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	return errors.Join(errs...)
}

// mountsBelow returns the mount points at or below dir.
func mountsBelow(dir string) []string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var points []string
	for line := range bytes.Lines(mounts) {
		point := strings.Fields(string(line))[4]
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points
}
