package attack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dangers lists what below dir would be set-uid to an account of the host, or a
// device: ids below floor are the host's own.
func dangers(t *testing.T, dir string, floor uint32) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = e.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since
		}
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		setuid := st.Mode&syscall.S_ISUID != 0 && st.Uid < floor
		setgid := st.Mode&syscall.S_ISGID != 0 && st.Gid < floor && info.Mode().IsRegular()
		// 0:0 is a whiteout of overlayfs, which opens as nothing.
		device := info.Mode()&fs.ModeDevice != 0 && st.Rdev != 0
		if setuid || setgid || device {
			found = append(found, fmt.Sprintf("%s %v %d:%d", path, info.Mode(), st.Uid, st.Gid))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// subordinate is where the ids of containers begin.
const subordinate = 1 << 30

// TestSetuidFiles has the user, and root of the container, leave set-uid
// programs and devices wherever they can write. On the host
// none is set-uid to root or a device, and nobody can reach them.
func TestSetuidFiles(t *testing.T) {
	f := setup(t)
	f.in(t, f.alice, "true")
	const leave = `for d in ~ /home/* /tmp /var/tmp /dev/shm /run /etc /usr/local /; do ` +
		`cp /bin/sh $d/evil-$W && { chown 0:0 $d/evil-$W; chmod 6755 $d/evil-$W; }; ` +
		`mknod $d/null-$W c 1 3; mknod $d/disk-$W b 8 0; done 2>/dev/null; `
	f.in(t, f.alice, "W=user; "+leave+"ls ~/evil-user /tmp/evil-user")
	root := f.enter(t, f.alice, "/bin/sh", "-c", "W=root; "+leave+"chmod 6755 /home/*/evil-user; ls /tmp/evil-root")
	if r := host.Run(root); r.Code != 0 {
		t.Fatalf("root of the container could write nowhere: %v", r)
	}
	for _, dir := range []string{"homes", "users"} {
		for _, danger := range dangers(t, filepath.Join(f.StateDir, dir), subordinate) {
			// A program of alice's that is set-uid to alice runs as who she is.
			if dir == "homes" && strings.Contains(danger, fmt.Sprintf(" %d:%d", f.alice.UID, f.alice.GID)) {
				continue
			}
			t.Errorf("on the host: %s", danger)
		}
	}
	var seen int
	for _, pattern := range []string{"homes/*/evil-user", "users/*/upper/tmp/evil-*"} {
		paths, err := filepath.Glob(filepath.Join(f.StateDir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			seen++
			cmd := exec.Command(path, "-c", "true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: f.bob.Credential()}
			if err := cmd.Run(); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("bob runs %s on the host: %v", path, err)
			}
		}
	}
	if seen < 2 {
		t.Errorf("%d programs were seen on the host; want those that were left", seen)
	}
	// The twin: the search finds one.
	trap := t.TempDir()
	write(t, trap+"/evil", "")
	if err := syscall.Chmod(trap+"/evil", 0o4755); err != nil {
		t.Fatal(err)
	}
	if got := dangers(t, trap, subordinate); len(got) != 1 {
		t.Errorf("a set-uid file of root's: %q; the search proves nothing", got)
	}
}

// TestHomeOwners: what is in a home belongs on the host to its user, whoever
// made it inside; root of the container cannot make anything there.
func TestHomeOwners(t *testing.T) {
	f := setup(t)
	f.in(t, f.alice, "mkdir -p ~/d && touch ~/d/file && ln -sf /etc/shadow ~/d/link && mkfifo ~/d/pipe; true")
	for _, try := range []string{"touch d/roots", "chown 0:0 d/file", "chown 1:1 d/file", "mkdir d/roots"} {
		r := host.Run(f.enter(t, f.alice, "/bin/sh", "-c", "cd "+f.alice.Home+" && "+try))
		if r.Code == 0 {
			t.Errorf("root of the container: %q succeeded", try)
		}
	}
	home := filepath.Join(f.StateDir, "homes", fmt.Sprint(f.alice.UID))
	entries := 0
	err := filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		entries++
		if st := info.Sys().(*syscall.Stat_t); st.Uid != f.alice.UID || st.Gid != f.alice.GID {
			t.Errorf("%s belongs to %d:%d on the host; want %d:%d", path, st.Uid, st.Gid, f.alice.UID, f.alice.GID)
		}
		return nil
	})
	if err != nil || entries < 5 {
		t.Errorf("%d entries in the home, %v", entries, err)
	}
	// The host's own home is another place.
	if _, err := os.Lstat(filepath.Join(f.alice.Home, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the host's home has what was made inside: %v", err)
	}
}

// TestSharedLayers: what a user changes of the image stays with that user.
func TestSharedLayers(t *testing.T) {
	f := setup(t)
	f.in(t, f.bob, "true")
	for _, try := range []string{"echo evil >/usr/bin/evil", "echo evil >>/etc/passwd", "rm -f /usr/bin/env", "echo >/usr/bin/env"} {
		_ = f.In(f.alice, try, nil)
		_ = host.Run(f.enter(t, f.alice, "/bin/sh", "-c", try))
	}
	if got := f.in(t, f.bob, "ls /usr/bin/evil 2>/dev/null; grep -c evil /etc/passwd; env true && echo env"); got != "0\nenv" {
		t.Errorf("bob sees %q", got)
	}
	if _, err := os.Lstat("/usr/bin/evil"); err == nil {
		t.Error("the host has a new program")
	}
	f.empty(t)
}
