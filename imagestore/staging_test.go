package imagestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// opaqueAt returns the mark of a directory, "" if it has none.
func opaqueAt(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 8)
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", buf)
	if err != nil && !errors.Is(err, unix.ENODATA) {
		t.Fatal(err)
	}
	return string(buf[:max(n, 0)])
}

// TestMarkOpaque: the paths are what a worker claims, and it also made what
// they lead through.
func TestMarkOpaque(t *testing.T) {
	testneed.Root(t)
	tests := []struct {
		claimed, marked string // marked is the path that gets it, "" for an error
	}{
		{"", "root"},
		{"d", "root/d"},
		{"d/e", "root/d/e"},
		{"d/", "root/d"},
		{"d/../d", "root/d"}, // stays beneath
		{"file", ""},
		{"fifo", ""},
		{"missing", ""},
		{"link", ""},
		{"link/inner", ""},
		{"self", ""},
		{"..", ""},
		{"../sentinel", ""},
		{"d/../../sentinel", ""},
		{"/", ""},
		{"/tmp", ""},
		{"d\x00x", ""},
		{strings.Repeat("d/", 3000), ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.20q", tt.claimed), func(t *testing.T) {
			top := t.TempDir()
			st := &staging{dir: top, root: filepath.Join(top, "root")}
			mustMkdir(t, filepath.Join(st.root, "d/e"), 0o755)
			mustMkdir(t, filepath.Join(top, "sentinel/inner"), 0o755)
			mustWrite(t, filepath.Join(st.root, "file"), "", 0o644)
			mustSymlink(t, "../sentinel", filepath.Join(st.root, "link"))
			mustSymlink(t, "d", filepath.Join(st.root, "self"))
			if err := unix.Mkfifo(filepath.Join(st.root, "fifo"), 0o644); err != nil {
				t.Fatal(err)
			}
			err := st.markOpaque([]string{tt.claimed})
			if (err != nil) != (tt.marked == "") {
				t.Errorf("markOpaque(%.20q) = %v; want it to mark %q", tt.claimed, err, tt.marked)
			}
			for _, dir := range []string{"root", "root/d", "root/d/e", "sentinel", "sentinel/inner", "."} {
				want := ""
				if dir == tt.marked {
					want = "y"
				}
				if got := opaqueAt(t, filepath.Join(top, dir)); got != want {
					t.Errorf("%s has mark %q; want %q", dir, got, want)
				}
			}
		})
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(path); !errors.Is(err, errLocked) {
		t.Errorf("tryLock of a held lock = %v; want errLocked", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*lockPoll)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lock of a held lock = %v; want that the deadline passes", err)
	}
	got := make(chan error)
	go func() {
		f, err := lock(t.Context(), path)
		if err == nil {
			f.Close()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("lock of a held lock = %v at once", err)
	case <-time.After(4 * lockPoll):
	}
	held.Close()
	if err := <-got; err != nil {
		t.Errorf("lock of a released lock = %v", err)
	}
	if _, err := tryLock("/nonexistent/lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("tryLock below nothing = %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	mustSymlink(t, path, link)
	if _, err := tryLock(link); err == nil {
		t.Error("tryLock followed a link")
	}
}

// TestStagingUmask: the top directory of a layer is open, whatever the umask.
func TestStagingUmask(t *testing.T) {
	host := testHost(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := testStore(t, Config{HostRoot: host})
	st, err := s.newStaging(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(st.root); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("staging root has mode %v, %v; want 0755", info.Mode(), err)
	}
	st.remove()
	if _, err := os.Stat(st.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat of a removed staging directory = %v", err)
	}
	got := listTree(t, mustMounts(t, s, "host").Layers[0])
	for name, want := range map[string]string{".": "40755", "usr": "40755", "etc/profile": "100644", "etc/profile.d": "40755", "tmp": "41777"} {
		if got[name] != want {
			t.Errorf("%s = %q; want %q", name, got[name], want)
		}
	}
}
