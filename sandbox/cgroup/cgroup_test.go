package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// parents numbers the test parents of this process.
var parents atomic.Int32

// testParent returns an absolute parent of this test's own and removes it from
// every hierarchy at the end; what is left in it then fails the test.
func testParent(t testing.TB, h cgroup.Hierarchy) string {
	t.Helper()
	parent := fmt.Sprintf("/carrel-test-%d-%d", os.Getpid(), parents.Add(1))
	t.Cleanup(func() {
		for _, m := range mounts(h) {
			if err := unix.Rmdir(filepath.Join(m, parent)); err != nil && err != unix.ENOENT {
				t.Errorf("rmdir %s of %s: %v", parent, m, err)
			}
		}
	})
	return parent
}

func mounts(h cgroup.Hierarchy) []string {
	var out []string
	for _, m := range h.V1 {
		out = append(out, m)
	}
	if h.Unified != "" {
		out = append(out, h.Unified)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// hierarchies returns the host's own layout and, where a cgroup2 mount sits
// beside v1, that mount alone as if it were a v2 host without controllers: the
// life cycle, delegation and kill of v2 are then the real kernel's.
func hierarchies(t testing.TB) map[string]cgroup.Hierarchy {
	t.Helper()
	testneed.Root(t)
	h, err := cgroup.Detect()
	if err != nil {
		testneed.Unmet(t, "needs cgroups: %v", err)
	}
	all := map[string]cgroup.Hierarchy{h.String(): h}
	if h.Hybrid() {
		all["v2 of hybrid"] = cgroup.Hierarchy{Mode: leaf.V2, Unified: h.Unified}
	}
	return all
}

// eachHierarchy runs f as a subtest on each of them, with a parent.
func eachHierarchy(t *testing.T, f func(t *testing.T, h cgroup.Hierarchy, parent string)) {
	for name, h := range hierarchies(t) {
		t.Run(name, func(t *testing.T) { f(t, h, testParent(t, h)) })
	}
}

// create makes a group that is killed and removed at the end.
func create(t testing.TB, h cgroup.Hierarchy, parent, name string, l cgroup.Limits) (*cgroup.Group, []cgroup.Unenforced) {
	t.Helper()
	g, un, err := h.Create(parent, name, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
	})
	return g, un
}

// sleeper starts a sleep in the cgroup path of every hierarchy that the group
// has, and reaps it at the end.
func sleeper(t testing.TB, h cgroup.Hierarchy, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(testneed.Tool(t, "sleep"), "600")
	start(t, h, path, cmd)
	return cmd
}

func start(t testing.TB, h cgroup.Hierarchy, path string, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	enter(t, h, path, cmd.Process.Pid)
}

// enter moves a process into the cgroup path wherever it exists.
func enter(t testing.TB, h cgroup.Hierarchy, path string, pid int) {
	t.Helper()
	for _, m := range mounts(h) {
		file := filepath.Join(m, path, "cgroup.procs")
		err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestCreateLoadListRemove(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		ctx := context.Background()
		g, un := create(t, h, parent, "u1000", cgroup.Limits{})
		if len(un) != 0 {
			t.Errorf("Create without limits = %v; want nothing unenforced", un)
		}
		if want := parent + "/u1000/box"; g.Box() != want {
			t.Errorf("Box() = %q; want %q", g.Box(), want)
		}
		if _, err := h.Load(parent, "u1001"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load of a missing group = %v; want fs.ErrNotExist", err)
		}
		create(t, h, parent, "u1001", cgroup.Limits{})
		loaded, err := h.Load(parent, "u1000")
		if err != nil || loaded.Path() != g.Path() {
			t.Errorf("Load = %v, %v; want %q", loaded, err, g.Path())
		}
		names, err := h.List(parent)
		if diff := cmp.Diff([]string{"u1000", "u1001"}, names); err != nil || diff != "" {
			t.Errorf("List: %v, -want +got:\n%s", err, diff)
		}
		for range 2 {
			if err := g.Remove(ctx); err != nil {
				t.Errorf("Remove = %v; want nil, twice", err)
			}
		}
		if names, _ := h.List(parent); !slices.Equal(names, []string{"u1001"}) {
			t.Errorf("List after Remove = %q; want u1001 alone", names)
		}
		if names, err := h.List("/carrel-test-none"); len(names) != 0 || err != nil {
			t.Errorf("List of a missing parent = %q, %v; want none", names, err)
		}
	})
}

// The limits are checked in the kernel's own files, not by what Create says.
func TestCreateLimits(t *testing.T) {
	testneed.Root(t)
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	parent := testParent(t, h)
	limits := cgroup.Limits{
		MemoryBytes: 64<<20 + 5, SwapBytes: cgroup.NoSwap, CPUWeight: 50,
		CPUQuotaMicros: 150_000, Pids: 77,
	}
	_, un := create(t, h, parent, "u1000", limits)
	if len(un) != 0 {
		t.Fatalf("Create = unenforced %v; want all limits in force", un)
	}
	want := map[string]string{
		"memory/memory.limit_in_bytes":       "67108864",
		"memory/memory.memsw.limit_in_bytes": "67108864",
		"cpu/cpu.shares":                     "512",
		"cpu/cpu.cfs_quota_us":               "150000",
		"cpu/cpu.cfs_period_us":              "100000",
		"pids/pids.max":                      "77",
	}
	if h.Mode == leaf.V2 {
		want = map[string]string{
			"memory/memory.max": "67108864", "memory/memory.swap.max": "0",
			"cpu/cpu.weight": "50", "cpu/cpu.max": "150000 100000", "pids/pids.max": "77",
		}
	}
	for key, value := range want {
		controller, file, _ := strings.Cut(key, "/")
		mount := h.Unified
		if h.Mode == leaf.V1 {
			mount = h.V1[controller]
		}
		if got := read(t, filepath.Join(mount, parent, "u1000", file)); got != value {
			t.Errorf("%s = %q; want %q", file, got, value)
		}
	}
}

// What the kernel refuses or the host lacks is named, with the value in force.
func TestCreateUnenforced(t *testing.T) {
	testneed.Root(t)
	h, err := cgroup.Detect()
	if err != nil || h.Mode != leaf.V1 {
		t.Skip("the cases are those of v1; v2's are in TestSettingsV2")
	}
	tests := []struct {
		name   string
		host   func(h *cgroup.Hierarchy)
		parent cgroup.Limits
		limits cgroup.Limits
		want   []cgroup.Unenforced
	}{
		{
			name:   "swap without memory",
			limits: cgroup.Limits{SwapBytes: 1 << 20},
			want:   []cgroup.Unenforced{{Limit: "swap", Want: "1048576", Reason: "cgroup v1 limits swap only together with memory"}},
		},
		{
			name:   "no pids controller",
			host:   func(h *cgroup.Hierarchy) { delete(h.V1, "pids") },
			limits: cgroup.Limits{Pids: 5},
			want:   []cgroup.Unenforced{{Limit: "pids", Want: "5", Reason: "the host has no pids controller in cgroup v1"}},
		},
		{
			name:   "quota above the parent's",
			parent: cgroup.Limits{CPUQuotaMicros: 10_000},
			limits: cgroup.Limits{CPUQuotaMicros: 20_000},
			want:   []cgroup.Unenforced{{Limit: "cpu quota", Want: "20000", Got: "-1", Reason: "invalid argument"}},
		},
		{
			name:   "weight below what shares can say",
			limits: cgroup.Limits{CPUWeight: 1},
			want:   nil, // 10 shares
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := testParent(t, h)
			mine, err := cgroup.Detect()
			if err != nil {
				t.Fatal(err)
			}
			if tt.host != nil {
				tt.host(&mine)
			}
			outer, un := create(t, mine, top, "p", tt.parent)
			if len(un) != 0 {
				t.Fatal(un)
			}
			_, got := create(t, mine, outer.Path(), "u1000", tt.limits)
			for i := range got {
				if at := strings.LastIndex(got[i].Reason, ": "); at >= 0 {
					got[i].Reason = got[i].Reason[at+2:]
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Create: -want +got:\n%s", diff)
			}
		})
	}
}

func TestCreateInvalid(t *testing.T) {
	h := cgroup.Hierarchy{Mode: leaf.V2, Unified: t.TempDir()}
	tests := []struct {
		parent, name string
		limits       cgroup.Limits
	}{
		{"", "u1000", cgroup.Limits{}},
		{"/", "u1000", cgroup.Limits{}},
		{"carrel", "u1000", cgroup.Limits{}},
		{"/carrel/..", "u1000", cgroup.Limits{}},
		{"/carrel/", "u1000", cgroup.Limits{}},
		{"/car\nrel", "u1000", cgroup.Limits{}},
		{"/carrel", "", cgroup.Limits{}},
		{"/carrel", "..", cgroup.Limits{}},
		{"/carrel", "a/b", cgroup.Limits{}},
		{"/carrel", strings.Repeat("u", 256), cgroup.Limits{}},
		{"/carrel", "u1000", cgroup.Limits{MemoryBytes: -1}},
		{"/carrel", "u1000", cgroup.Limits{SwapBytes: -2}},
		{"/carrel", "u1000", cgroup.Limits{CPUWeight: 10_001}},
		{"/carrel", "u1000", cgroup.Limits{CPUQuotaMicros: 999}},
		{"/carrel", "u1000", cgroup.Limits{CPUQuotaMicros: -1}},
		{"/carrel", "u1000", cgroup.Limits{CPUPeriodMicros: 100_000}},
		{"/carrel", "u1000", cgroup.Limits{CPUQuotaMicros: 1_000, CPUPeriodMicros: 1_000_001}},
		{"/carrel", "u1000", cgroup.Limits{Pids: -1}},
	}
	for _, tt := range tests {
		if _, _, err := h.Create(tt.parent, tt.name, tt.limits); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Create(%q, %q, %+v) = %v; want fs.ErrInvalid", tt.parent, tt.name, tt.limits, err)
		}
	}
	if entries, err := os.ReadDir(h.Unified); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// An empty leftover of a crash is replaced, limits and all; a group in use is
// not touched.
func TestCreateOverLeftover(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		mark := filepath.Join(mounts(h)[0], g.Box(), "old")
		if h.Mode == leaf.V1 {
			mark = filepath.Join(h.V1["pids"], g.Box(), "old")
		}
		if err := os.Mkdir(mark, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Create(parent, "u1000", cgroup.Limits{}); err != nil {
			t.Errorf("Create over an empty group = %v; want nil", err)
		}
		if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old leaf is still there: %v", err)
		}
		cmd := sleeper(t, h, g.Box())
		if _, _, err := h.Create(parent, "u1000", cgroup.Limits{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create over a group in use = %v; want fs.ErrExist", err)
		}
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the process of the group in use: %v", err)
		}
	})
}

func TestUsage(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		start(t, h, g.Box(), exec.Command(testneed.Tool(t, "sh"), "-c", "sleep 0.1; while :; do :; done"))
		deadline := time.Now().Add(5 * time.Second)
		for {
			u, err := g.Usage()
			if err != nil {
				t.Fatal(err)
			}
			counted := u.MemoryBytes > 0 && u.KernelBytes > 0 && u.KernelBytes <= u.MemoryBytes && u.Pids >= 1
			if u.CPU > 0 && (counted || h.V1 == nil) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("Usage = %+v; want memory, kernel memory, CPU and a process", u)
			}
			time.Sleep(10 * time.Millisecond)
		}
		ctx := context.Background()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Usage(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Usage of a removed group = %v; want fs.ErrNotExist", err)
		}
	})
}

func TestKill(t *testing.T) {
	testneed.Root(t)
	sh := testneed.Tool(t, "sh")
	loads := map[string]string{
		"sleepers":   "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait",
		"fork loop":  "while :; do (trap '' TERM HUP; sleep 0.01) & done",
		"ignoring":   "trap '' TERM HUP INT; while :; do sleep 600; done",
		"after exit": "exit 0",
	}
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		for name, script := range loads {
			g, _ := create(t, h, parent, "u1000", cgroup.Limits{Pids: 200})
			cmd := exec.Command(sh, "-c", "sleep 0.05; "+script)
			start(t, h, g.Box(), cmd)
			time.Sleep(150 * time.Millisecond)
			if err := g.Kill(context.Background()); err != nil {
				t.Errorf("%s: Kill = %v", name, err)
			}
			if pids, err := g.Procs(); len(pids) != 0 || err != nil {
				t.Errorf("%s: Procs after Kill = %v, %v; want none", name, pids, err)
			}
			if err := g.Remove(context.Background()); err != nil {
				t.Errorf("%s: Remove = %v", name, err)
			}
			if err := g.Kill(context.Background()); err != nil {
				t.Errorf("%s: Kill of a removed group = %v; want nil", name, err)
			}
		}
	})
}

// A frozen v1 process dies only once it is thawed, wherever it was frozen.
func TestKillFrozen(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		sleeper(t, h, g.Box())
		file, value := filepath.Join(h.Unified, g.Box(), "cgroup.freeze"), "1"
		if h.Mode == leaf.V1 {
			file, value = filepath.Join(h.V1["freezer"], g.Box(), "freezer.state"), "FROZEN"
		}
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(context.Background()); err != nil {
			t.Errorf("Kill of a frozen group = %v", err)
		}
	})
}

// Kill is for the group only, and puts pids.max back.
func TestKillSparesOthers(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{Pids: 50})
		other, _ := create(t, h, parent, "u10001", cgroup.Limits{})
		sleeper(t, h, g.Box())
		cmd := sleeper(t, h, other.Box())
		if err := g.Kill(context.Background()); err != nil {
			t.Fatal(err)
		}
		pids, err := other.Procs()
		if diff := cmp.Diff([]int{cmd.Process.Pid}, pids); err != nil || diff != "" {
			t.Errorf("Procs of the other user: %v, -want +got:\n%s", err, diff)
		}
		if h.Mode == leaf.V1 {
			if got := read(t, filepath.Join(h.V1["pids"], g.Path(), "pids.max")); got != "50" {
				t.Errorf("pids.max after Kill = %s; want 50", got)
			}
		}
	})
}

// Remove with a process inside gives up in time and says why.
func TestRemoveBusy(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		sleeper(t, h, g.Box())
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		err := g.Remove(ctx)
		if !errors.Is(err, unix.EBUSY) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Remove = %v; want EBUSY and the deadline", err)
		}
	})
}

// libcontainer's manager can be given the box, or a leaf of it: nothing made
// here stops it from entering any hierarchy of the host (cpuset on v1 refuses
// tasks until its cpus are set), and Remove clears those that it made.
func TestLibcontainerManager(t *testing.T) {
	testneed.Root(t)
	for _, below := range []string{"", "/init"} {
		h, err := cgroup.Detect()
		if err != nil {
			t.Fatal(err)
		}
		g, _ := create(t, h, testParent(t, h), "u1000", cgroup.Limits{Pids: 100})
		if err := g.Delegate(1_900_000_000, 1_900_000_000); err != nil {
			t.Fatal(err)
		}
		m, err := manager.New(&cgroups.Cgroup{
			Path:      g.Box() + below,
			Resources: &cgroups.Resources{},
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(testneed.Tool(t, "sleep"), "600")
		start(t, h, "/carrel-test-none", cmd)
		if err := m.Apply(cmd.Process.Pid); err != nil {
			t.Fatalf("Apply at box%s: %v", below, err)
		}
		for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))) {
			if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); fields[2] != g.Box()+below {
				t.Errorf("box%s: the process is in %s of %s", below, fields[2], fields[1])
			}
		}
		pids, err := g.Procs()
		if diff := cmp.Diff([]int{cmd.Process.Pid}, pids); err != nil || diff != "" {
			t.Errorf("Procs: %v, -want +got:\n%s", err, diff)
		}
		ctx := context.Background()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
		if names, err := h.List(filepath.Dir(g.Path())); len(names) != 0 || err != nil {
			t.Errorf("List after Remove = %q, %v; want none in any hierarchy", names, err)
		}
	}
}

func TestPoke(t *testing.T) {
	before := read(t, "/proc/self/cgroup")
	cgroup.Poke()
	if err := cgroup.PokeNow(); err != nil && os.Geteuid() == 0 {
		t.Errorf("poke = %v", err)
	}
	if after := read(t, "/proc/self/cgroup"); after != before {
		t.Errorf("poke moved the process from\n%s\nto\n%s", before, after)
	}
}

func BenchmarkCreate(b *testing.B) {
	for name, h := range hierarchies(b) {
		b.Run(name, func(b *testing.B) {
			parent := testParent(b, h)
			limits := cgroup.Limits{MemoryBytes: 1 << 30, SwapBytes: cgroup.NoSwap, CPUWeight: 100, CPUQuotaMicros: 200_000, Pids: 512}
			for b.Loop() {
				g, _, err := h.Create(parent, "u1000", limits)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := g.Remove(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
