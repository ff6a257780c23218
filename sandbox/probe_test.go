package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

func TestOnRemote(t *testing.T) {
	const info = `21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 21 0:40 / /home rw shared:1 - nfs4 server:/home rw,hard
31 30 0:41 / /home/local rw - xfs /dev/sdb rw
32 21 0:42 / /srv/a\040b rw - fuse.sshfs x rw
33 21 0:43 / /data rw - nfs server:/data rw
34 33 0:44 / /data rw - ext4 /dev/sdc rw
`
	for path, want := range map[string]bool{
		"/root": false, "/home/alice": true, "/home": true, "/homes/x": false, "/home/local/alice": false, "/srv/a b/x": true, "/data/x": false,
	} {
		if got := onRemote(info, path); got != want {
			t.Errorf("onRemote(%q) = %v; want %v", path, got, want)
		}
	}
}

// hang mounts a FUSE file system that nobody serves.
func hang(t *testing.T, dir string) (release func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testneed.Unmet(t, "needs /dev/fuse: %v", err)
	}
	err = unix.Mount("hang", dir, "fuse.hang", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
	if err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	return func() {
		unix.Close(fd) // what waits gets ENOTCONN
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

// TestHangingHome: a home that does not answer costs its user some seconds and
// the home, and nobody else anything.
func TestHangingHome(t *testing.T) {
	s := newStage(t)
	home := filepath.Join(s.cfg.StateDir, "homes", fmt.Sprint(alice))
	try(t, os.Mkdir(home, 0o700))
	release := hang(t, home)
	began := time.Now()
	started := make(chan *Container, 1)
	go func() { started <- s.start(alice) }()
	s.start(1001)
	if took := time.Since(began); took > homeTime-time.Second {
		t.Errorf("the other's container took %v", took)
	}
	c := <-started
	if took := time.Since(began); took < homeTime || took > homeTime+3*time.Second {
		t.Errorf("the container took %v; want about %v", took, homeTime)
	}
	want := s.spec(alice)
	if !c.HomeMissing() || !c.Outdated(&want) {
		t.Errorf("HomeMissing = %v, Outdated = %v; want both", c.HomeMissing(), c.Outdated(&want))
	}
	if got := s.must(c, "ls -A /home/u1000; echo alive"); got != "alive" {
		t.Errorf("inside: %q", got)
	}
	release()
	try(t, s.Stop(t.Context(), alice))
	try(t, os.Chown(home, alice, alice))
	if c = s.start(alice); c.HomeMissing() || c.Outdated(&want) {
		t.Error("the home answers again and is missing")
	}
}
