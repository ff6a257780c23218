package cgroup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// inBox runs a shell script that waits for its place in the box first, and
// returns how it ended and what it printed.
func inBox(t *testing.T, h cgroup.Hierarchy, g *cgroup.Group, script string) (string, error) {
	t.Helper()
	cmd := exec.Command(testneed.Tool(t, "sh"), "-c", "read go; "+script)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	enter(t, h, g.Box(), cmd.Process.Pid)
	fmt.Fprintln(stdin)
	stdin.Close()
	err = cmd.Wait()
	return out.String(), err
}

// ownHierarchy returns the host's own hierarchy; the others of the tests carry no
// limits.
func ownHierarchy(t *testing.T) cgroup.Hierarchy {
	t.Helper()
	testneed.Root(t)
	h, err := cgroup.Detect()
	if err != nil {
		testneed.Unmet(t, "needs cgroups: %v", err)
	}
	return h
}

// A limit on the user's cgroup holds for a process in the box. The twins have a
// limit that is wide enough.
func TestMemoryHolds(t *testing.T) {
	h := ownHierarchy(t)
	parent := testParent(t, h)
	// tail keeps all of a line that has no end.
	const script = "head -c 60000000 /dev/zero | tail | wc -c"
	for _, tt := range []struct {
		bytes int64
		fits  bool
	}{{20 << 20, false}, {200 << 20, true}} {
		g, un := create(t, h, parent, fmt.Sprint("u", tt.bytes), cgroup.Limits{MemoryBytes: tt.bytes, SwapBytes: cgroup.NoSwap})
		if len(un) != 0 {
			t.Fatal(un)
		}
		out, err := inBox(t, h, g, script)
		if fits := strings.HasSuffix(strings.TrimSpace(out), "60000000"); fits != tt.fits {
			t.Errorf("60 MB under a limit of %d: %q, %v; want it to fit: %v", tt.bytes, out, err, tt.fits)
		}
	}
}

func TestPidsHold(t *testing.T) {
	h := ownHierarchy(t)
	parent := testParent(t, h)
	const script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3 & done; wait; echo all"
	for _, tt := range []struct {
		pids int64
		fits bool
	}{{5, false}, {50, true}} {
		g, un := create(t, h, parent, fmt.Sprint("u", tt.pids), cgroup.Limits{Pids: tt.pids})
		if len(un) != 0 {
			t.Fatal(un)
		}
		out, err := inBox(t, h, g, script)
		if fits := out == "all\n"; fits != tt.fits {
			t.Errorf("ten processes under a limit of %d: %q, %v; want them to fit: %v", tt.pids, out, err, tt.fits)
		}
	}
}

func TestCPUHolds(t *testing.T) {
	h := ownHierarchy(t)
	parent := testParent(t, h)
	for _, tt := range []struct {
		micros    int64
		throttled bool
	}{{2_000, true}, {0, false}} {
		g, un := create(t, h, parent, fmt.Sprint("u", tt.micros), cgroup.Limits{CPUQuotaMicros: tt.micros})
		if len(un) != 0 {
			t.Fatal(un)
		}
		if out, err := inBox(t, h, g, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"); err != nil {
			t.Fatal(out, err)
		}
		mount := h.Unified
		if h.Mode == leaf.V1 {
			mount = h.V1["cpu"]
		}
		stat := read(t, filepath.Join(mount, g.Path(), "cpu.stat"))
		if throttled := !strings.Contains(stat+"\n", "nr_throttled 0\n"); throttled != tt.throttled {
			t.Errorf("a loop with a quota of %d: throttled %v; want %v\n%s", tt.micros, throttled, tt.throttled, stat)
		}
	}
}

// Delegate gives away the box directory, on v2 its cgroup.procs too, and no
// other file of the group: a limit file would be the end of the limits.
func TestDelegateExact(t *testing.T) {
	const owner = 1_900_000_000
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		if err := g.Delegate(owner, owner+1); err != nil {
			t.Fatal(err)
		}
		for _, m := range mounts(h) {
			top := filepath.Join(m, parent)
			err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				var st unix.Stat_t
				if err := unix.Lstat(path, &st); err != nil {
					return err
				}
				rel, _ := filepath.Rel(top, path)
				given := rel == "u1000/box" || h.Mode == leaf.V2 && rel == "u1000/box/cgroup.procs"
				if got := st.Uid == owner && st.Gid == owner+1; got != given || !given && st.Uid != 0 {
					t.Errorf("%s belongs to %d:%d; given away: want %v", path, st.Uid, st.Gid, given)
				}
				return nil
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
}

func TestBoxDirs(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		g, _ := create(t, h, parent, "u1000", cgroup.Limits{})
		choices := map[string]int{"": 1, "pids": 1}
		if h.Mode == leaf.V1 {
			box := make(map[string]string)
			for _, c := range []string{"memory", "cpu", "cpuacct", "pids", "freezer"} {
				if h.V1[c] != "" {
					box[c] = h.V1[c]
				}
			}
			choices = map[string]int{"": len(mounts(cgroup.Hierarchy{V1: box})), "pids": 1, "pids memory": 2, "pids pids": 1}
			for _, bad := range []string{"cpuset", "no-such-controller"} {
				if dirs, _, err := g.BoxDirs(bad); err == nil {
					t.Errorf("BoxDirs(%q) = %d directories; want an error", bad, len(dirs))
				}
			}
		}
		for choice, want := range choices {
			dirs, mode, err := g.BoxDirs(strings.Fields(choice)...)
			if err != nil || len(dirs) != want || mode != h.Mode {
				t.Errorf("BoxDirs(%s) = %d directories, mode %d, %v; want %d, mode %d", choice, len(dirs), mode, err, want, h.Mode)
			}
			for _, d := range dirs {
				flags, err := unix.FcntlInt(d.Fd(), unix.F_GETFL, 0)
				if err != nil || flags&unix.O_PATH == 0 || filepath.Base(d.Name()) != "box" {
					t.Errorf("%s has flags %#x, %v; want O_PATH", d.Name(), flags, err)
				}
				d.Close()
			}
		}
	})
}

// Users come and go at the same time, under one parent that none of them had.
func TestConcurrent(t *testing.T) {
	eachHierarchy(t, func(t *testing.T, h cgroup.Hierarchy, parent string) {
		const users = 8
		var group sync.WaitGroup
		for i := range users {
			group.Go(func() {
				for range 5 {
					g, un, err := h.Create(parent, fmt.Sprint("u", i), cgroup.Limits{})
					if err != nil || len(un) != 0 {
						t.Errorf("Create = %v, %v", un, err)
						return
					}
					if err := errors.Join(g.Delegate(5, 5), g.Kill(t.Context()), g.Remove(t.Context())); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if names, err := h.List(parent); len(names) != 0 || err != nil {
			t.Errorf("List at the end = %q, %v; want none", names, err)
		}
	})
}

// The package-level functions are those of the host's own hierarchy.
func TestHost(t *testing.T) {
	h := ownHierarchy(t)
	parent := testParent(t, h)
	g, un, err := cgroup.Create(parent, "u1000", cgroup.Limits{})
	if err != nil || len(un) != 0 {
		t.Fatal(un, err)
	}
	loaded, err := cgroup.Load(parent, "u1000")
	if err != nil || loaded.Path() != g.Path() || loaded.Hierarchy().String() != h.String() {
		t.Errorf("Load = %v, %v; want %s on %v", loaded, err, g.Path(), h)
	}
	if diff := cmp.Diff([]string{"u1000"}, cgroup.List(parent)); diff != "" {
		t.Errorf("List: -want +got:\n%s", diff)
	}
	if names := cgroup.List("not/absolute"); names != nil {
		t.Errorf("List of a bad parent = %q; want none", names)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := cgroup.Load(parent, "u1000"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load after Remove = %v; want not found", err)
	}
	if err := syscall.Access(filepath.Join(mounts(h)[0], parent, "u1000"), 0); err == nil {
		t.Error("the group is still there")
	}
}
