package jail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/imagestore/internal/launch"
	"github.com/carrel-sh/carrel/imagestore/internal/testprog"
	"github.com/carrel-sh/carrel/imagestore/internal/wire"
	"github.com/carrel-sh/carrel/internal/testneed"
)

// workerID is the first host id of workers in these tests.
const workerID = 1 << 30

// probe runs the probe in a new directory and returns what became of each
// attempt.
func probe(t *testing.T, program string, args ...string) (dir string, results map[string]string, err error) {
	t.Helper()
	dir = t.TempDir()
	results = make(map[string]string)
	w := launch.Worker{Path: program, Args: args, FirstID: workerID}
	_, err = w.Run(t.Context(), dir, strings.NewReader(""), func(rec wire.Record) error {
		name, result, _ := strings.Cut(rec.Path, "=")
		results[name] = result
		return nil
	})
	return dir, results, err
}

// TestJail tries what is forbidden inside the jail, and again outside of it:
// the twin shows which of it is the jail's doing.
func TestJail(t *testing.T) {
	testneed.Root(t)
	program := testprog.Build(t, "./testdata/probe")
	// A descriptor that somebody forgot to mark.
	file, err := os.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	leaked := 900
	if err := unix.Dup2(int(file.Fd()), leaked); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	jailedDir, jailed, err := probe(t, program)
	if err != nil {
		t.Fatal(err)
	}
	_, free, err := probe(t, program, "-free")
	if err != nil {
		t.Fatal(err)
	}
	const (
		done  = "done"
		eperm = "operation not permitted"
		enoRt = "no such file or directory"
		kept  = "8000001b 8000001b 0" // CHOWN DAC_OVERRIDE FOWNER FSETID SETFCAP
	)
	tests := []struct{ name, jailed, free string }{
		{"environment", "[]", "[]"},
		{"descriptors", "[0 1 2 4]", fmt.Sprintf(" %d]", leaked)},
		{"capabilities", kept, ""},
		{"host file", enoRt, done},
		{"host file from here", enoRt, ""},
		{"proc", enoRt, done},
		{"exec", eperm, enoRt},
		{"fork", eperm, done},
		{"ptrace", eperm, "no such process"},
		{"mount", eperm, done},
		{"new namespace", eperm, done},
		{"set groups", eperm, done},
		{"inet socket", eperm, done},
		{"unix socket", eperm, done},
		{"netlink socket", eperm, done},
		{"io_uring", eperm, "bad address"},
		{"handle", eperm, ""},
		{"keyring", eperm, ""},
		{"device", eperm, eperm},
		{"socket node", "permission denied", done}, // Landlock's doing alone
		{"large file", "file too large", done},
		{"whiteout", done, done},
		{"directory", done, done},
		{"give away", done, done},
		{"give to nobody of ours", "invalid argument", "invalid argument"},
		{"change root", eperm, done},
		{"thread 0: host file", enoRt, done}, {"thread 3: host file", enoRt, done},
		{"thread 0: socket", eperm, done}, {"thread 3: socket", eperm, done},
		{"thread 0: capabilities", kept, ""}, {"thread 3: capabilities", kept, ""},
	}
	for _, tt := range tests {
		if got := jailed[tt.name]; !strings.HasSuffix(got, tt.jailed) || got == "" {
			t.Errorf("jailed, %s: %q; want %q", tt.name, got, tt.jailed)
		}
		if got := free[tt.name]; !strings.HasSuffix(got, tt.free) || got == "" {
			t.Errorf("free, %s: %q; want %q", tt.name, got, tt.free)
		}
	}
	// What the worker made belongs to whom the archive says, not to it.
	for name, want := range map[string]uint32{"directory": 65535, "large": 0, "whiteout": 0} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(jailedDir, name), &st); err != nil || st.Uid != want || st.Gid != want {
			t.Errorf("%s belongs to %d:%d, %v; want %d", name, st.Uid, st.Gid, err, want)
		}
	}
	if _, err := os.Lstat(filepath.Join(jailedDir, "device")); err == nil {
		t.Error("there is a device")
	}
}

// TestJailMemory: a worker that takes too much memory dies alone.
func TestJailMemory(t *testing.T) {
	testneed.Root(t)
	program := testprog.Build(t, "./testdata/probe")
	if _, results, err := probe(t, program, "-memory=64"); err != nil || results["memory"] != "64" {
		t.Errorf("64 MiB: %v, %q; want them", err, results["memory"])
	}
	if _, results, err := probe(t, program, "-memory=512"); err == nil || !strings.Contains(err.Error(), "died") {
		t.Errorf("512 MiB with a limit of 256: %v, %q; want that it died", err, results["memory"])
	}
}
