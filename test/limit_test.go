package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/internal/testroot"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestLimits configures limits and finds them in the kernel and in effect.
func TestLimits(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, f.rule("[rule.limits]\nmemory = \"96MiB\"\npids = 40\ncpu_weight = 50\ncpu_quota = \"70%\""))
	f.in(t, f.alice, "true")
	tests := []struct{ v2, v1, want string }{
		{"memory.max", "memory/memory.limit_in_bytes", "100663296"},
		{"pids.max", "pids/pids.max", "40"},
		{"cpu.max", "cpu/cpu.cfs_quota_us", "70000"},
	}
	for _, tt := range tests {
		var found []string
		for _, pattern := range []string{f.Cgroup + "/*/" + tt.v2, "/" + filepath.Dir(tt.v1) + f.Cgroup + "/*/" + filepath.Base(tt.v1)} {
			matches, err := filepath.Glob("/sys/fs/cgroup" + pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range matches {
				value, err := os.ReadFile(m)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, strings.Fields(string(value))[0])
			}
		}
		if len(found) != 1 || found[0] != tt.want {
			t.Errorf("%s of the user's cgroup is %q; want %s", tt.v2, found, tt.want)
		}
	}
	// All sessions of the user share one number of processes.
	r := f.In(f.alice, "for i in {1..60}; do sleep 5 & done 2>/dev/null; jobs -p | wc -l", nil)
	var n int
	if _, err := fmt.Sscan(r.Stdout, &n); (err == nil && n >= 40) || r.Err != nil {
		t.Errorf("60 processes with a limit of 40: %v", r)
	}
	if r := f.In(f.bob, "for i in {1..60}; do sleep 0.1 & done; jobs -p | wc -l; wait", nil); r.Stdout != "60\n" {
		t.Errorf("60 processes of bob, who has the default limit: %v", r)
	}
	f.empty(t)
	// And one amount of memory: the process that needs more is killed, the
	// login goes on.
	if r := f.In(f.alice, "head -c 300M /dev/zero | tail -c 1 | wc -c", nil); r.Stdout == "1\n" && r.Stderr == "" && r.Err == nil {
		// tail keeps only what it may have to print; ask for all of it.
		r = f.In(f.alice, "x=$(head -c 300M /dev/zero | tr '\\0' x); echo ${#x}", nil)
		if r.Stdout == "314572800\n" {
			t.Errorf("300 MiB with a limit of 96 MiB: %v", r)
		}
	}
	if got := f.in(t, f.alice, "echo alive"); got != "alive" {
		t.Errorf("after the limit was hit: %q", got)
	}
	if r := f.In(f.bob, "x=$(head -c 300M /dev/zero | tr '\\0' x); echo ${#x}", nil); r.Stdout != "314572800\n" {
		t.Errorf("300 MiB of bob's, who has the default limit: %v", r)
	}
}

// TestImportedImage logs in to a real Debian that is not the host's.
func TestImportedImage(t *testing.T) {
	f := setup(t)
	if r := f.Carrel("image", "import", "debian", testroot.DebianRootfs(t)); r.Code != 0 {
		t.Fatalf("carrel image import: %v", r)
	}
	if r := f.Carrel("image", "ls"); !strings.Contains(r.Stdout, "debian") {
		t.Errorf("carrel image ls: %v", r)
	}
	f.reconfigure(t, host.Options{Config: fmt.Sprintf("[[rule]]\nusers = [%q, %q]\nimage = \"debian\"\n", f.alice.Name, f.bob.Name)})
	// What the image has and the image host has not, and the other way round.
	f.in(t, f.alice, "dpkg -s base-files >/dev/null && test -d /var/lib/apt && test ! -e "+f.Prefix)
	if got := f.in(t, f.alice, "id -un; stat -c %u:%g /usr/bin/dpkg ~ /etc; getent passwd root | cut -d: -f1"); got !=
		fmt.Sprintf("%s\n0:0\n%d:%d\n0:0\nroot", f.alice.Name, f.alice.UID, f.alice.GID) {
		t.Errorf("accounts and owners inside: %q", got)
	}
	// Each has their own writable copy of the one layer.
	f.in(t, f.alice, "echo hers >~/x")
	if r := f.In(f.bob, "cat "+f.alice.Home+"/x", nil); r.Code == 0 {
		t.Errorf("bob sees what alice wrote: %v", r)
	}
	term := terminal(t, f, f.alice, "-l")
	if got := ask(t, term, "tty; stty size", `[\r\n](\d+ \d+)\r`); got != "47 131" {
		t.Errorf("stty size: %q", got)
	}
	// Removing the image leaves what runs on it alone.
	if r := f.Carrel("image", "rm", "debian"); r.Code != 0 {
		t.Errorf("carrel image rm: %v", r)
	}
	if got := f.in(t, f.alice, "cat ~/x; dpkg -s base-files | grep -c ^Status"); got != "hers\n1" {
		t.Errorf("in the container of a removed image: %q", got)
	}
	f.empty(t)
	wantFailure(t, "after image rm", f.In(f.alice, "echo ran", nil), 66, "image")
}
