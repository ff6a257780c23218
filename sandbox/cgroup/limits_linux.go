package cgroup

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// NoSwap as SwapBytes forbids swap altogether.
const NoSwap = -1

// Limits bound one user's whole container, PID 1 and the kernel memory charged
// to it included. A zero field means no limit of its own; only the host's, or
// that of the parent, holds then.
type Limits struct {
	MemoryBytes int64 // rounded down to whole pages by the kernel

	// SwapBytes is beyond MemoryBytes; NoSwap is none at all. v1 can express
	// it only together with MemoryBytes (memory.memsw counts both).
	SwapBytes int64

	// CPUWeight is v2's, 1 to 10000, where 100 is everybody's default. On v1
	// it becomes cpu.shares in the same proportion, 100 to 1024, as systemd
	// does it.
	CPUWeight uint64

	// CPUQuotaMicros is the CPU time in each CPUPeriodMicros, over all CPUs:
	// 150000 in 100000 is one and a half CPUs. A zero period is 100000, the
	// kernel's own default; a period without a quota is an error.
	CPUQuotaMicros  int64
	CPUPeriodMicros int64

	Pids int64 // processes and threads
}

// The names that Unenforced.Limit takes.
const (
	LimitMemory    = "memory"
	LimitSwap      = "swap"
	LimitCPUWeight = "cpu weight"
	LimitCPUQuota  = "cpu quota"
	LimitPids      = "pids"
)

// An Unenforced is a limit that was asked for and is not in force.
type Unenforced struct {
	Limit  string // one of the Limit names
	Want   string // the value asked for, in the kernel's own units
	Got    string // the value in force; "" if it cannot be read
	Reason string
}

func (u Unenforced) String() string {
	got := u.Got
	if got == "" {
		got = "nothing"
	}
	return fmt.Sprintf("limit %s: want %s, in force is %s: %s", u.Limit, u.Want, got, u.Reason)
}

// defaultPeriod is the kernel's default_cfs_period (kernel/sched/core.c).
const defaultPeriod = 100_000

// check refuses what no kernel accepts, and fills the period.
func (l *Limits) check() error {
	bad := func(name string, value any) error {
		return fmt.Errorf("limit %s: %v: %w", name, value, fs.ErrInvalid)
	}
	switch {
	case l.MemoryBytes < 0:
		return bad(LimitMemory, l.MemoryBytes)
	case l.SwapBytes < NoSwap:
		return bad(LimitSwap, l.SwapBytes)
	case l.CPUWeight > 10_000: // CGROUP_WEIGHT_MAX
		return bad(LimitCPUWeight, l.CPUWeight)
	case l.CPUQuotaMicros < 0, l.CPUQuotaMicros != 0 && l.CPUQuotaMicros < 1_000: // min_cfs_quota_period
		return bad(LimitCPUQuota, l.CPUQuotaMicros)
	case l.CPUPeriodMicros != 0 && (l.CPUQuotaMicros == 0 || l.CPUPeriodMicros < 1_000 || l.CPUPeriodMicros > 1_000_000):
		return bad(LimitCPUQuota+" period", l.CPUPeriodMicros)
	case l.Pids < 0:
		return bad(LimitPids, l.Pids)
	}
	if l.CPUQuotaMicros != 0 && l.CPUPeriodMicros == 0 {
		l.CPUPeriodMicros = defaultPeriod
	}
	return nil
}

// A setting is one limit on its way into a file and back.
type setting struct {
	limit string
	want  string       // what the file says when the limit is in force
	write func() error // nil if it cannot be expressed; see reason
	file  string       // absolute path that is read back

	reason string // why not, when the host makes it impossible
}

// enforce writes the setting and reads it back.
func (s setting) enforce() (Unenforced, bool) {
	u := Unenforced{Limit: s.limit, Want: s.want, Reason: s.reason}
	if s.reason != "" {
		return u, false
	}
	werr := s.write()
	got, rerr := readValue(s.file)
	if werr == nil && rerr == nil && got == s.want {
		return u, true
	}
	u.Got = got
	switch {
	case werr != nil:
		u.Reason = werr.Error()
	case rerr != nil:
		u.Reason = rerr.Error()
	default:
		u.Reason = "the kernel took another value"
	}
	return u, false
}

func enforceAll(settings []setting) []Unenforced {
	var out []Unenforced
	for _, s := range settings {
		if u, ok := s.enforce(); !ok {
			out = append(out, u)
		}
	}
	return out
}

// pages rounds down as page_counter_memparse does.
func pages(n int64) int64 { return n - n%int64(os.Getpagesize()) }

func itoa[T int64 | uint64](n T) string { return fmt.Sprint(n) }

// settingsV2 maps l to the files of the unified hierarchy. has tells which
// controllers the group got.
func settingsV2(m *cgroup2.Manager, dir string, has map[string]bool, l Limits) []setting {
	var out []setting
	add := func(controller, limit, file, want string, r *cgroup2.Resources) {
		s := setting{limit: limit, want: want, file: filepath.Join(dir, file)}
		s.write = func() error { return m.Update(r) }
		if !has[controller] {
			s.reason = "the host has no " + controller + " controller for this cgroup"
		}
		out = append(out, s)
	}
	if l.MemoryBytes != 0 {
		add("memory", LimitMemory, "memory.max", itoa(pages(l.MemoryBytes)),
			&cgroup2.Resources{Memory: &cgroup2.Memory{Max: &l.MemoryBytes}})
	}
	if l.SwapBytes != 0 {
		swap := max(l.SwapBytes, 0)
		add("memory", LimitSwap, "memory.swap.max", itoa(pages(swap)),
			&cgroup2.Resources{Memory: &cgroup2.Memory{Swap: &swap}})
	}
	if l.CPUWeight != 0 {
		add("cpu", LimitCPUWeight, "cpu.weight", itoa(l.CPUWeight),
			&cgroup2.Resources{CPU: &cgroup2.CPU{Weight: &l.CPUWeight}})
	}
	if l.CPUQuotaMicros != 0 {
		period := uint64(l.CPUPeriodMicros)
		value := cgroup2.NewCPUMax(&l.CPUQuotaMicros, &period)
		add("cpu", LimitCPUQuota, "cpu.max", string(value),
			&cgroup2.Resources{CPU: &cgroup2.CPU{Max: value}})
	}
	if l.Pids != 0 {
		add("pids", LimitPids, "pids.max", itoa(l.Pids),
			&cgroup2.Resources{Pids: &cgroup2.Pids{Max: l.Pids}})
	}
	return out
}

// settingsV1 maps l to the files of v1's hierarchies. The order matters:
// memory.memsw cannot be below memory.
func settingsV1(c cgroup1.Cgroup, h Hierarchy, path string, l Limits) []setting {
	var out []setting
	add := func(controller, limit, file, want string, r *specs.LinuxResources) {
		s := setting{limit: limit, want: want, file: filepath.Join(h.V1[controller], path, file)}
		s.write = func() error { return c.Update(r) }
		s.reason = h.unusable(controller)
		out = append(out, s)
	}
	if l.MemoryBytes != 0 {
		add("memory", LimitMemory, "memory.limit_in_bytes", itoa(pages(l.MemoryBytes)),
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &l.MemoryBytes}})
	}
	if l.SwapBytes != 0 {
		both := l.MemoryBytes + max(l.SwapBytes, 0)
		add("memory", LimitSwap, "memory.memsw.limit_in_bytes", itoa(pages(both)),
			&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: &both}})
		if s := &out[len(out)-1]; s.reason == "" && l.MemoryBytes == 0 {
			s.reason = "cgroup v1 limits swap only together with memory"
		}
	}
	if l.CPUWeight != 0 {
		shares := sharesOf(l.CPUWeight)
		add("cpu", LimitCPUWeight, "cpu.shares", itoa(shares),
			&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}})
	}
	if l.CPUQuotaMicros != 0 {
		period := uint64(l.CPUPeriodMicros)
		add("cpu", LimitCPUQuota, "cpu.cfs_quota_us", itoa(l.CPUQuotaMicros),
			&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &l.CPUQuotaMicros, Period: &period}})
		add("cpu", LimitCPUQuota, "cpu.cfs_period_us", itoa(period), &specs.LinuxResources{})
	}
	if l.Pids != 0 {
		add("pids", LimitPids, "pids.max", itoa(l.Pids),
			&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &l.Pids}})
	}
	return out
}

// sharesOf maps a v2 weight to v1 shares; 2 is the kernel's MIN_SHARES.
func sharesOf(weight uint64) uint64 { return max(weight*1024/100, 2) }

// unusable says why the v1 controller cannot carry a limit, or "".
func (h Hierarchy) unusable(controller string) string {
	m := h.V1[controller]
	if m == "" {
		return "the host has no " + controller + " controller in cgroup v1"
	}
	// containerd/cgroups finds a controller by its name beside the others;
	// systemd makes links for those that are mounted together.
	byName := filepath.Join(filepath.Dir(m), controller)
	a, aerr := os.Stat(m)
	b, berr := os.Stat(byName)
	if aerr != nil || berr != nil || !os.SameFile(a, b) {
		return fmt.Sprintf("the %s controller is mounted at %q and not reachable as %q", controller, m, byName)
	}
	return ""
}

// subsystems returns the library's view of the box controllers.
func (h Hierarchy) subsystems() []cgroup1.Subsystem {
	var out []cgroup1.Subsystem
	for _, c := range boxControllers {
		if h.unusable(c) != "" {
			continue
		}
		root := filepath.Dir(h.V1[c])
		switch c {
		case "memory":
			out = append(out, cgroup1.NewMemory(root))
		case "cpu":
			out = append(out, cgroup1.NewCpu(root))
		case "cpuacct":
			out = append(out, cgroup1.NewCpuacct(root))
		case "pids":
			out = append(out, cgroup1.NewPids(root))
		case "freezer":
			out = append(out, cgroup1.NewFreezer(root))
		}
	}
	return out
}

// applyV1 makes the group in the box controllers and sets its limits.
func (h Hierarchy) applyV1(path string, l Limits) ([]Unenforced, error) {
	c, err := cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{},
		cgroup1.WithHierarchy(func() ([]cgroup1.Subsystem, error) { return h.subsystems(), nil }))
	if err != nil {
		return nil, err
	}
	settings := settingsV1(c, h, path, l)
	if l.MemoryBytes != 0 && h.V1["memory"] != "" {
		// Before Linux 5.11 the limits of a group did not bind its children
		// unless this was set, and only while it had none.
		file := filepath.Join(h.V1["memory"], path, "memory.use_hierarchy")
		if v, err := readValue(file); err == nil && v != "1" {
			settings = append(settings, setting{
				limit: LimitMemory, want: "1", file: file,
				write: func() error { return os.WriteFile(file, []byte("1"), 0) },
			})
		}
	}
	return enforceAll(settings), nil
}

// applyV2 makes the group, enables the controllers above it and sets its
// limits. The controllers are enabled without a limit too: Usage needs them.
func (h Hierarchy) applyV2(path string, l Limits) ([]Unenforced, error) {
	m, err := cgroup2.NewManager(h.Unified, path, &cgroup2.Resources{})
	if err != nil {
		return nil, err
	}
	for _, c := range []string{"memory", "cpu", "pids"} {
		// One at a time and errors aside: what the group got is read below.
		_ = m.ToggleControllers([]string{c}, cgroup2.Enable)
	}
	controllers, err := m.Controllers()
	if err != nil {
		return nil, err
	}
	has := make(map[string]bool, len(controllers))
	for _, c := range controllers {
		has[c] = true
	}
	return enforceAll(settingsV2(m, filepath.Join(h.Unified, path), has, l)), nil
}

// readValue reads a one-line control file.
func readValue(file string) (string, error) {
	data, err := os.ReadFile(file)
	return strings.TrimSpace(string(data)), err
}

// readNumber reads a control file that holds one number; "max" is -1.
func readNumber(file string) (int64, error) {
	v, err := readValue(file)
	if err != nil {
		return 0, err
	}
	if v == "max" {
		return -1, nil
	}
	return strconv.ParseInt(v, 10, 64)
}
