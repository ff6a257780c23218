package survive

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestFullRunDir fills the file system of carreld's run directory, which is the
// one of /run and every service's, by bytes and by inodes. (The one of the
// state directory is filled in the package above.)
func TestFullRunDir(t *testing.T) {
	h := setup(t)
	alice, bob := account(t, h, "fa"), account(t, h, "fb")
	if err := os.MkdirAll(h.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.RunDir, "tmpfs", 0, "size=1m,nr_inodes=200,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Carrel("stop", "--all")
		_ = h.Stop()
		if err := syscall.Unmount(h.RunDir, 0); err != nil {
			t.Error(err)
		}
	})
	start(t, h, host.Options{})
	if r := h.In(alice, "true", nil); r.Code != 0 {
		t.Fatal(r)
	}
	for what, fill := range map[string]func(dir string) error{
		"bytes": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 2<<20), 0o600)
		},
		"inodes": func(dir string) (err error) {
			for i := 0; err == nil; i++ {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprint("filler", i)), nil, 0o600)
			}
			return err
		},
	} {
		if err := fill(h.RunDir); err == nil {
			t.Fatalf("%s: not full", what)
		}
		if r := h.In(bob, "echo ran", nil); r.Code != 73 || r.Stdout != "" || !strings.Contains(r.Stderr, "disk") {
			t.Errorf("%s: a first login: %v; want the sentence of a full disk", what, r)
		}
		if r := h.In(alice, "echo ran", nil); r.Stdout != "ran\n" {
			t.Errorf("%s: a login into a container that runs: %v", what, r)
		}
		fillers, _ := filepath.Glob(filepath.Join(h.RunDir, "filler*"))
		for _, f := range fillers {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if r := h.In(bob, "echo ran", nil); r.Stdout != "ran\n" {
			t.Errorf("%s: a first login when there is room again: %v", what, r)
		}
		if r := h.Carrel("stop", bob.Name); r.Code != 0 {
			t.Errorf("%s: carrel stop: %v", what, r)
		}
	}
}
