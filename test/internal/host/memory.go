package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is what all containers of a host use, in bytes.
type Memory struct {
	PSS    int64 // proportional set size of the processes
	Kernel int64 // what the kernel holds for them, charged to the cgroup
}

// Memory reads it from /proc and from the memory controller.
func (h *Host) Memory() (m Memory, err error) {
	inside, err := h.Inside()
	if err != nil {
		return m, err
	}
	for _, p := range inside {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.Pid))
		if err != nil {
			return m, err
		}
		kib, err := field(rollup, "Pss:")
		if err != nil {
			return m, err
		}
		m.PSS += kib << 10
	}
	dirs, err := cgroupDirs(h.Cgroup)
	if err != nil {
		return m, err
	}
	for _, dir := range dirs {
		// v1; on v2 memory.stat has a line.
		text, err := os.ReadFile(filepath.Join(dir, "memory.kmem.usage_in_bytes"))
		if err == nil {
			m.Kernel, err = strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
			return m, err
		}
		stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
		if err == nil {
			m.Kernel, err = field(stat, "kernel")
			return m, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	return m, errors.New("no memory controller")
}

// field returns the number after a name at the beginning of a line.
func field(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) > 1 && fields[0] == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no field %q", name)
}
