package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// removeIn names the way and the tree for TestRemoveChild.
const removeIn = "CARREL_TEST_REMOVE"

// TestRemoveChild is the process in which the tests below delete a tree: it may
// have few descriptors, and may be killed.
func TestRemoveChild(t *testing.T) {
	how, dir, ok := strings.Cut(os.Getenv(removeIn), ":")
	if !ok {
		return // a part of other tests
	}
	try(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 48, Max: 48}))
	fmt.Println("begin")
	remove := removeTree
	if how == "os" {
		remove = os.RemoveAll
	}
	try(t, remove(dir))
}

func removeChild(how, dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRemoveChild$")
	cmd.Env = append(os.Environ(), testneed.Env+"=", removeIn+"="+how+":"+dir)
	return cmd
}

const (
	longName      = 200
	immutableFlag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
)

// deepen makes levels directories one below the other, of mode 0, and calls at
// with each of them open.
func deepen(t *testing.T, dir string, levels int, at func(level, fd int)) {
	t.Helper()
	name := strings.Repeat("d", longName)
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	try(t, err)
	for level := range levels {
		try(t, unix.Mkdirat(fd, name, 0))
		below, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		try(t, err)
		try(t, unix.Close(fd))
		fd = below
		at(level, fd)
	}
	try(t, unix.Close(fd))
}

func touchAt(t *testing.T, fd int, name string) {
	t.Helper()
	f, err := unix.Openat(fd, name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	try(t, err)
	try(t, unix.Close(f))
}

// hostileTree makes a tree that is deep in three places, two of them in the
// depth, wide in another, and has links to outside everywhere.
func hostileTree(t *testing.T, outside string) string {
	t.Helper()
	dir := tree(t, "homes", "homes/7.gone-1", "homes/7.gone-1/wide") + "/homes/7.gone-1"
	link := func(fd int) {
		try(t, unix.Symlinkat(outside, fd, "link"))
		touchAt(t, fd, "file\nname")
	}
	deepen(t, dir, 3000, func(level, fd int) {
		if level%10 == 0 {
			link(fd)
		}
		if level == 20 || level == 1500 {
			try(t, unix.Mkdirat(fd, "beside", 0o700))
			deepen(t, "/proc/self/fd/"+strconv.Itoa(fd)+"/beside", 300, func(_, fd int) { link(fd) })
		}
	})
	for i := range 1500 {
		try(t, os.WriteFile(filepath.Join(dir, "wide", strconv.Itoa(i)), nil, 0o600))
		try(t, os.MkdirAll(filepath.Join(dir, "wide", "d"+strconv.Itoa(i), "x"), 0))
	}
	try(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	return dir
}

// outsideTree is what the links of a hostileTree point to.
func outsideTree(t *testing.T) string {
	t.Helper()
	dir := tree(t, "kept")
	t.Cleanup(func() {
		if _, err := os.Stat(dir + "/kept"); err != nil {
			t.Errorf("what a link points to: %v", err)
		}
	})
	return dir
}

func mustBeGone(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRemoveTree(t *testing.T) {
	dir := hostileTree(t, outsideTree(t))
	// The twin runs out of descriptors, and leaves nearly all.
	out, err := removeChild("os", dir).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("too many open files")) {
		t.Errorf("os.RemoveAll: %v, %.200s", err, out)
	}
	if out, err := removeChild("carrel", dir).CombinedOutput(); err != nil {
		t.Errorf("%v: %.2000s", err, out)
	}
	mustBeGone(t, dir)
	if err := removeTree(dir); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

// TestRemoveTreeKilled goes on where another was killed.
func TestRemoveTreeKilled(t *testing.T) {
	dir := hostileTree(t, outsideTree(t))
	killed := 0
	for after := 10 * time.Millisecond; ; after *= 2 {
		cmd := removeChild("carrel", dir)
		out, err := cmd.StdoutPipe()
		try(t, err)
		try(t, cmd.Start())
		said := bufio.NewReader(out)
		_, err = said.ReadString('\n')
		try(t, err)
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		rest, _ := io.ReadAll(said)
		err = cmd.Wait()
		if !timer.Stop() && err != nil {
			killed++
			continue
		}
		if err != nil {
			t.Errorf("%v: %.2000s", err, rest)
		}
		break
	}
	if killed == 0 {
		t.Error("BUG: never killed")
	}
	mustBeGone(t, dir)
}

// TestRemoveTreeTwice has two at work on one tree, as a sweep and a reset may be.
func TestRemoveTreeTwice(t *testing.T) {
	dir := hostileTree(t, outsideTree(t))
	first := make(chan error)
	go func() { first <- removeTree(dir) }()
	// One may give up while the other is at the last entries, but not both.
	if err, other := removeTree(dir), <-first; err != nil && other != nil {
		t.Error(errors.Join(err, other))
	}
	mustBeGone(t, dir)
}

// TestRemoveTreeStuck has things in the tree that nobody may delete: they stay,
// are told in a line, and all else goes.
func TestRemoveTreeStuck(t *testing.T) {
	dir := hostileTree(t, outsideTree(t))
	var mounted, immutable []*os.File
	deepen(t, filepath.Join(dir, "wide"), 40, func(level, fd int) {
		switch level {
		case 3, 35:
			try(t, unix.Mkdirat(fd, "mount", 0o700))
			path := fmt.Sprintf("/proc/self/fd/%d/mount", fd)
			try(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"))
			root, err := os.Open(path)
			try(t, err)
			touchAt(t, int(root.Fd()), "kept")
			mounted = append(mounted, root)
		case 5, 37:
			touchAt(t, fd, "immutable")
			f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d/immutable", fd))
			try(t, err)
			try(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutableFlag))
			immutable = append(immutable, f)
		}
	})
	release := func() {
		for _, f := range mounted {
			_ = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.MNT_DETACH)
		}
		for _, f := range immutable {
			_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
			f.Close()
		}
	}
	defer release()
	err := removeTree(dir)
	if err == nil || !strings.HasPrefix(err.Error(), "4 entries stay; ") || len(err.Error()) > 300 {
		t.Errorf("error %v", err)
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
		t.Errorf("cause %v", err)
	}
	for _, f := range mounted {
		if err := unix.Faccessat(int(f.Fd()), "kept", unix.F_OK, 0); err != nil {
			t.Errorf("in the mounted file system: %v", err)
		}
	}
	if n := entries(t, dir); n > 100 {
		t.Errorf("%d entries left", n)
	}
	release()
	try(t, removeTree(dir))
	mustBeGone(t, dir)
}

// entries counts what is in the tree, which is not deep.
func entries(t *testing.T, dir string) (n int) {
	t.Helper()
	list, err := os.ReadDir(dir)
	try(t, err)
	for _, e := range list {
		n++
		if e.IsDir() {
			f, err := os.Open(filepath.Join(dir, e.Name()))
			try(t, err)
			n += entries(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			f.Close()
		}
	}
	return n
}
