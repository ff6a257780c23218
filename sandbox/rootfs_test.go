package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// places are the names that a start opens, mounts on or writes to. An image, or
// the layer as a user left it, may hold anything under them (CVE-2025-31133,
// CVE-2025-52565, CVE-2025-52881, CVE-2026-41579).
var places = map[string][]string{
	"mount points": {"dev", "proc", "sys", "run", "etc", "tmp", "home"},
	"names below": {
		"dev/pts", "dev/null", "dev/console", "dev/ptmx", "dev/shm", "dev/mqueue", "dev/fd", "dev/stdin", "proc/self",
		"proc/sys", "sys/fs/cgroup", "run/.carrel", "etc/passwd", "etc/group", "etc/hostname", "etc/hosts",
		"etc/passwd.carrel", "etc/mtab",
	},
	"the home": {"home/u1000"},
}

// hostile puts something in the place of each name.
var hostile = map[string]func(path, sentinel string) error{
	"absolute links": func(path, sentinel string) error { return os.Symlink(sentinel, path) },
	"relative links": func(path, sentinel string) error {
		return os.Symlink(strings.Repeat("../", 40)+sentinel[1:], path)
	},
	"links through proc":    func(path, sentinel string) error { return os.Symlink("/proc/1/root"+sentinel, path) },
	"loops":                 func(path, _ string) error { return os.Symlink(filepath.Base(path), path) },
	"pipes":                 func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
	"sockets":               func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) },
	"files":                 func(path, _ string) error { return os.WriteFile(path, []byte("x"), 0o666) },
	"kernel's devices":      func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))) },
	"directories of nobody": func(path, _ string) error { return os.Mkdir(path, 0) },
}

// TestHostileRoot starts containers of such images, and over such layers of the
// user's. What comes out is a container that is right or, where the user spoilt
// their own layer, an error; the host is as before.
func TestHostileRoot(t *testing.T) {
	s := newStage(t)
	sentinel := makeSentinel(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before, host := s.trace(), hostState(t, sentinel)
	var right, refused int
	for what, put := range hostile {
		for set, names := range places {
			for _, layer := range []string{"image", "upper"} {
				name := fmt.Sprintf("%s for %s of the %s", what, set, layer)
				sp := s.spec(alice)
				try(t, os.RemoveAll(s.userDir(alice)))
				if layer == "image" {
					top := s.layer(strings.ReplaceAll(what+set, " ", "-"), names, put, sentinel)
					sp.Layers = append([]string{top}, sp.Layers...)
				} else {
					s.spoilUpper(names, put, sentinel)
				}
				c, err := s.Start(t.Context(), sp)
				switch {
				case err == nil:
					right++
					s.wantRight(name, c)
					try(t, s.Stop(context.Background(), alice))
				case set == "names below", layer == "image" && set == "mount points":
					// What is mounted hides the ones, and the topmost layer, which
					// is Carrel's own, the others.
					t.Errorf("%s: %v; want a container", name, err)
				default:
					refused++
					t.Logf("%s: %.300v", name, err)
				}
				s.settle(name, before)
				if got := hostState(t, sentinel); got != host {
					t.Fatalf("%s: the host has changed:\n%s\nwas\n%s", name, got, host)
				}
			}
		}
	}
	t.Logf("%d containers, %d refused", right, refused)
	if right == 0 {
		t.Error("no container started at all; the test proves nothing")
	}
	// The twin: the sentinel does notice.
	try(t, os.WriteFile(sentinel+"/file", []byte("y"), 0o600))
	if hostState(t, sentinel) == host {
		t.Error("a changed sentinel goes unnoticed")
	}
}

// TestHomeLink: a link in the place of the home, or of what it lies in, does not
// put the home where Carrel's own programs are, for the first of those is PID 1.
func TestHomeLink(t *testing.T) {
	s := newStage(t)
	toInit := func(path, _ string) error { return os.Symlink("/run/.carrel", path) }
	for _, name := range []string{"home", "home/u1000"} {
		for _, layer := range []string{"image", "upper"} {
			sp := s.spec(alice)
			try(t, os.RemoveAll(s.userDir(alice)))
			if layer == "upper" {
				s.spoilUpper([]string{name}, toInit, "")
			} else {
				sp.Layers = append([]string{s.layer(strings.ReplaceAll(name, "/", "-"), []string{name}, toInit, "")}, sp.Layers...)
			}
			c, err := s.Start(t.Context(), sp)
			if name == "home" && layer == "image" { // Carrel's own layer covers it
				if err != nil {
					t.Errorf("%s of the image: %v; want a container", name, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("%s of the %s: %v, %v; want an error that names the link", name, layer, c, err)
			}
			if err == nil {
				try(t, s.Stop(context.Background(), alice))
			}
		}
	}
}

// layer makes an image's layer with the names replaced.
func (s *stage) layer(dir string, names []string, put func(path, sentinel string) error, sentinel string) string {
	s.t.Helper()
	top := filepath.Join(s.dir, "layers", dir)
	s.spoil(top, names, put, sentinel, 0)
	return top
}

// spoilUpper gives alice's own layer names that she put there as root inside.
func (s *stage) spoilUpper(names []string, put func(path, sentinel string) error, sentinel string) {
	s.t.Helper()
	user := s.userDir(alice)
	upper := filepath.Join(user, "upper")
	ids, _, _, err := s.ids.Assign(alice, "u1000")
	try(s.t, err)
	s.spoil(upper, names, put, sentinel, int(ids.First))
	try(s.t, os.Mkdir(filepath.Join(user, "work"), 0o755))
}

func (s *stage) spoil(dir string, names []string, put func(path, sentinel string) error, sentinel string, owner int) {
	s.t.Helper()
	try(s.t, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		path := filepath.Join(dir, name)
		try(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
		try(s.t, put(path, sentinel))
	}
	try(s.t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, owner, owner)
	}))
}

// wantRight looks at a container from inside and from outside.
func (s *stage) wantRight(name string, c *Container) {
	s.t.Helper()
	const look = `stat -f -c %T /proc /sys /dev /dev/pts /dev/shm /run | tr '\n' ' '; stat -c '%F %t %T' /dev/null; ` +
		`cat /proc/1/comm; id -u; test -e /dev/kmsg && echo kmsg; test -e /proc/1/root/usr && echo root; true`
	const want = "proc sysfs tmpfs devpts tmpfs tmpfs character special file 1 3\ninit\n1000"
	if got, err := s.in(c, look); err != nil || got != want {
		s.t.Errorf("%s: inside %q, %v; want %q", name, got, err, want)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", c.InitPID))
	if err != nil {
		s.t.Errorf("%s: %v", name, err)
	}
	known := []string{"/", "/usr", "/proc", "/dev", "/dev/", "/sys", "/run", "/run/", "/home/u1000", "/proc/", "/sys/"}
	for line := range strings.Lines(string(mounts)) {
		point := strings.Fields(line)[4]
		ok := false
		for _, k := range known {
			ok = ok || point == k || strings.HasSuffix(k, "/") && k != "/" && strings.HasPrefix(point, k) || strings.HasPrefix(point, "/usr/")
		}
		if !ok {
			s.t.Errorf("%s: a mount at %q", name, point)
		}
	}
}

// makeSentinel makes a tree of the host's that nobody may touch.
func makeSentinel(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "sentinel-")
	try(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	try(t, os.Chmod(dir, 0o777)) // whoever gets here could change it
	try(t, os.WriteFile(dir+"/file", []byte("x"), 0o666))
	for _, name := range []string{"dir", "pts", "sys", "fs"} {
		try(t, os.Mkdir(filepath.Join(dir, name), 0o777))
	}
	try(t, unix.Mkfifo(dir+"/null", 0o666))
	return dir
}

// hostState is what a container could have changed of the host.
func hostState(t *testing.T, sentinel string) string {
	t.Helper()
	var b strings.Builder
	try(t, filepath.WalkDir(sentinel, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d inode %d links %d size %d mtime %v ctime %v\n",
			path, info.Mode(), st.Uid, st.Gid, st.Ino, st.Nlink, st.Size, st.Mtim, st.Ctim)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			sum := sha256.Sum256(content)
			fmt.Fprintln(&b, hex.EncodeToString(sum[:]))
			return err
		}
		return nil
	}))
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/hostname",
		"/proc/sys/kernel/sysrq", "/etc/hostname", "/etc/hosts",
	} {
		content, _ := os.ReadFile(path)
		sum := sha256.Sum256(content)
		fmt.Fprintln(&b, path, hex.EncodeToString(sum[:8]))
	}
	for _, path := range []string{"/dev/null", "/dev/pts", "/dev/ptmx", "/dev/console"} {
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		fmt.Fprintln(&b, path, st.Ino, st.Rdev, st.Mode, st.Uid, err)
	}
	return b.String()
}

// TestHostileHome: a home of the host's that is swapped for a link while
// containers start is never another's directory.
func TestHostileHome(t *testing.T) {
	s := newStage(t)
	homes := filepath.Join(s.dir, "homes") // sticky, as /tmp is
	try(t, os.Mkdir(homes, 0o777))
	try(t, os.Chmod(homes, 0o777|os.ModeSticky))
	home, link := homes+"/u1000", homes+"/u1000.link"
	try(t, os.Mkdir(home, 0o700))
	try(t, os.Lchown(home, alice, alice))
	sentinel := makeSentinel(t)
	try(t, os.Symlink(sentinel, link))
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, home, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	sp := s.spec(alice)
	sp.Home, sp.HomePath = HomeHost, home
	for range 20 {
		c, err := s.Start(t.Context(), sp)
		if err != nil {
			continue
		}
		if got, err := s.in(c, "ls "+home); err != nil || strings.Contains(got, "file") {
			t.Errorf("the home shows %q, %v; want nothing of the link's target", got, err)
		}
		try(t, s.Stop(t.Context(), alice))
	}
	close(stop)
	<-stopped
	s.settle("swapped homes", before)
}
