package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

var allLimits = Limits{
	MemoryBytes: 1<<30 + 1, SwapBytes: 2 << 20, CPUWeight: 200,
	CPUQuotaMicros: 50_000, CPUPeriodMicros: 20_000, Pids: 9,
}

// The values of v2, on plain files: no host of the tests has v2 controllers.
func TestSettingsV2(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "u1000")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := cgroup2.Load("/u1000", cgroup2.WithMountpoint(root))
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{"memory": true, "cpu": true, "pids": true}
	settings := settingsV2(m, dir, has, allLimits)
	// Plain files keep the bytes; the kernel rounds them to pages.
	for i := range settings {
		settings[i].want = strings.Replace(settings[i].want, "1073741824", "1073741825", 1)
	}
	if un := enforceAll(settings); len(un) != 0 {
		t.Errorf("unenforced: %v", un)
	}
	want := map[string]string{
		"memory.max": "1073741825", "memory.swap.max": "2097152", "cpu.weight": "200",
		"cpu.max": "50000 20000", "pids.max": "9",
	}
	got := make(map[string]string)
	for file := range want {
		if got[file], err = readValue(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files of v2: -want +got:\n%s", diff)
	}
	if s := settingsV2(m, dir, has, Limits{SwapBytes: NoSwap}); len(s) != 1 || s[0].want != "0" {
		t.Errorf("NoSwap = %+v; want memory.swap.max of 0", s)
	}
}

// Each way in which a limit can fail to be in force is reported with its cause.
func TestSettingsV2Unenforced(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "u1000")
	// A directory in the place of a file cannot be written or read.
	if err := os.MkdirAll(filepath.Join(dir, "pids.max"), 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := cgroup2.Load("/u1000", cgroup2.WithMountpoint(root))
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{"memory": true, "pids": true}
	un := enforceAll(settingsV2(m, dir, has, allLimits))
	var got []string
	for _, u := range un {
		got = append(got, u.String())
	}
	want := []string{
		"limit memory: want 1073741824, in force is 1073741825: the kernel took another value",
		"limit cpu weight: want 200, in force is nothing: the host has no cpu controller for this cgroup",
		"limit cpu quota: want 50000 20000, in force is nothing: the host has no cpu controller for this cgroup",
		"limit pids: want 9, in force is nothing: open " + dir + "/pids.max: is a directory",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unenforced: -want +got:\n%s", diff)
	}
}

// Create on a tree of plain directories that looks like a v2 host: the
// controllers are asked for on every level above the group.
func TestApplyV2Toggles(t *testing.T) {
	root := t.TempDir()
	group := filepath.Join(root, "carrel", "u1000")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Dir(group)} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(group, "cgroup.controllers"), []byte("cpu pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := Hierarchy{Mode: leaf.V2, Unified: root}
	un, err := h.applyV2("/carrel/u1000", Limits{MemoryBytes: 4096, Pids: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(un) != 1 || un[0].Limit != LimitMemory {
		t.Errorf("unenforced = %v; want memory alone", un)
	}
	for _, dir := range []string{root, filepath.Dir(group)} {
		got, err := readValue(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil || !strings.HasPrefix(got, "+pids") { // the last of them, over the others
			t.Errorf("subtree_control of %s = %q, %v; want the controllers enabled", dir, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(group, "cgroup.subtree_control")); err == nil {
		t.Error("the group's own subtree_control was written; its box must be free to hold PID 1")
	}
}

func TestSharesOf(t *testing.T) {
	for weight, want := range map[uint64]uint64{1: 10, 50: 512, 100: 1024, 10_000: 102_400} {
		if got := sharesOf(weight); got != want {
			t.Errorf("sharesOf(%d) = %d; want %d", weight, got, want)
		}
	}
}

// Every counter of v2 is read from the file that has it, and a missing one
// counts as zero.
func TestUsageV2(t *testing.T) {
	root := t.TempDir()
	files := map[string]string{
		"memory.current": "5000\n", "memory.swap.current": "70\n", "pids.current": "3\n",
		"memory.stat": "anon 1\nfile 2\nkernel 400\nkernel_stack 6\n",
		"cpu.stat":    "usage_usec 1500\nuser_usec 1000\n",
	}
	g := &Group{h: Hierarchy{Mode: leaf.V2, Unified: root}, path: "/u1000"}
	if _, err := g.Usage(); err == nil {
		t.Error("Usage of a missing group = nil; want an error")
	}
	if err := os.Mkdir(filepath.Join(root, "u1000"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Usage(); got != (Usage{}) || err != nil {
		t.Errorf("Usage without files = %+v, %v; want zero", got, err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(root, "u1000", name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := Usage{MemoryBytes: 5000, KernelBytes: 400, SwapBytes: 70, CPU: 1500_000, Pids: 3}
	if got, err := g.Usage(); got != want || err != nil {
		t.Errorf("Usage = %+v, %v; want %+v", got, err, want)
	}
}
