package test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestHangingHome puts a user's home on storage that does not answer: FUSE
// without a server.
func TestHangingHome(t *testing.T) {
	f := setup(t)
	f.in(t, f.alice, "echo kept >~/kept")
	f.empty(t)
	home := filepath.Join(f.StateDir, "homes", fmt.Sprint(f.alice.UID))
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testneed.Unmet(t, "needs /dev/fuse: %v", err)
	}
	err = unix.Mount("hang", home, "fuse.hang", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd))
	if err != nil {
		t.Fatal(err)
	}
	released := false
	release := func() {
		if released {
			return
		}
		released = true
		if err := errors.Join(unix.Close(fd), unix.Unmount(home, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(release)

	began := time.Now()
	result := make(chan host.Result, 1)
	go func() { result <- f.In(f.alice, "echo ran", nil) }()
	for range 20 {
		f.in(t, f.bob, "true")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("20 logins of another user took %v meanwhile", took)
	}
	wantFailure(t, "a command", <-result, 79, "does not answer")
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("the sentence took %v", took)
	}
	term := terminal(t, f, f.alice, "-l")
	if _, err := term.Expect(`carrel: your home directory does not answer, so this session is without it`); err != nil {
		t.Error(err)
	}
	ask(t, term, "ls ~/kept 2>/dev/null || echo mi''ssing", `[\n\r](missing)\r`)
	release()
	send(t, term, "exit\n")
	term.Wait()
	if got := f.in(t, f.alice, "cat ~/kept"); got != "kept" {
		t.Errorf("when it answers again: %q", got)
	}
	wantLine(t, "logs", f.carrel(t, "logs", "--event", "home", f.alice.Name), `.* home: it did not answer.*`)
}
