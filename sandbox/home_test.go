package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// tree makes directories of root's own that nobody else can change.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	testneed.Root(t)
	dir := t.TempDir()
	for _, name := range append([]string{""}, names...) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckHostHome(t *testing.T) {
	const alice, bob = 1000, 2000
	dir := tree(t, "h/alice", "h/bob", "h/deep/er/alice", "hers/alice", "open/alice", "group/alice", "sticky/alice", "real")
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"h/alice", "h/deep/er/alice", "hers/alice", "open/alice", "group/alice", "sticky/alice"} {
		try(t, os.Chown(path(name), alice, alice))
	}
	try(t, os.Chown(path("h/bob"), bob, bob))
	try(t, os.Chown(path("hers"), alice, alice))
	try(t, os.Chmod(path("open"), 0o777))
	try(t, os.Chmod(path("group"), 0o775))
	try(t, os.Chmod(path("sticky"), 0o777|os.ModeSticky))
	try(t, os.Symlink("alice", path("h/link")))
	try(t, os.Symlink(path("h"), path("linked")))
	try(t, os.Symlink("loop", path("h/loop")))
	try(t, os.WriteFile(path("h/file"), nil, 0o600))
	try(t, os.Chown(path("h/file"), alice, alice))
	try(t, syscall.Mkfifo(path("h/fifo"), 0o600))
	tests := []struct {
		path string
		ok   bool
	}{
		{path("h/alice"), true},
		{path("h/deep/er/alice"), true},
		{path("sticky/alice"), true}, // as below /tmp: nobody else can put another in its place
		{path("h/bob"), false},
		{path("h"), false}, // root's
		{path("h/none"), false},
		{path("h/link"), false},
		{path("h/loop"), false},
		{path("linked/alice"), false},
		{path("h/file"), false},
		{path("h/file/alice"), false},
		{path("h/fifo"), false},
		{path("hers/alice"), false},
		{path("open/alice"), false},
		{path("group/alice"), false},
		{"/", false},
		{"", false},
		{"h/alice", false},
		{"./h/alice", false},
		{path("h") + "/../h/alice", false},
		{path("h") + "//alice", false},
		{path("h/alice") + "/", false},
		{path("h/alice") + "/.", false},
		{path("h/alice\x00/x"), false},
	}
	for _, tt := range tests {
		if err := checkHostHome(tt.path, alice); (err == nil) != tt.ok {
			t.Errorf("checkHostHome(%q) = %v; want it to pass: %v", strings.TrimPrefix(tt.path, dir), err, tt.ok)
		}
	}
}

func TestHome(t *testing.T) {
	dir := tree(t, "alice")
	m := &Manager{cfg: Config{StateDir: dir}}
	alice := User{Name: "alice", UID: 1000, GID: 100}
	got, err := m.home(Spec{User: alice, Home: HomeNone, HomePath: "/"})
	if got != "" || err != nil {
		t.Errorf("no home: %q, %v", got, err)
	}
	if got, err := m.home(Spec{User: alice, Home: HomeHost, HomePath: dir + "/alice"}); !errors.Is(err, ErrHome) {
		t.Errorf("root's directory as alice's home: %q, %v; want ErrHome", got, err)
	}
	try(t, os.Chown(dir+"/alice", 1000, 100))
	if got, err := m.home(Spec{User: alice, Home: HomeHost, HomePath: dir + "/alice"}); got != dir+"/alice" || err != nil {
		t.Errorf("the host's home: %q, %v", got, err)
	}
	private := filepath.Join(dir, "homes", "1000")
	for _, what := range []string{"made", "found"} {
		if got, err := m.home(Spec{User: alice}); got != private || err != nil {
			t.Fatalf("%s: %q, %v; want %q", what, got, err, private)
		}
		wantOwner(t, private, 1000, 100, 0o700)
	}
	// In its place may be anything.
	for what, put := range map[string]func() error{
		"a link":       func() error { return os.Symlink(dir+"/alice", private) },
		"a file":       func() error { return os.WriteFile(private, nil, 0o600) },
		"another's":    func() error { return os.Mkdir(private, 0o700) },
		"a loop":       func() error { return os.Symlink("1000", private) },
		"a dead link":  func() error { return os.Symlink("/none", private) },
		"a named pipe": func() error { return syscall.Mkfifo(private, 0o600) },
	} {
		try(t, os.RemoveAll(private))
		try(t, put())
		if got, err := m.home(Spec{User: alice}); !errors.Is(err, ErrHome) {
			t.Errorf("%s: %q, %v; want ErrHome", what, got, err)
		}
	}
}

func wantOwner(t *testing.T, path string, uid, gid uint32, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	if st.Uid != uid || st.Gid != gid || info.Mode().Perm() != mode {
		t.Errorf("%s: owner %d:%d, mode %v; want %d:%d, %v", filepath.Base(path), st.Uid, st.Gid, info.Mode(), uid, gid, mode)
	}
}

func TestCopySkeleton(t *testing.T) {
	dir := tree(t, "skel/.config/a", "out")
	skel, home := filepath.Join(dir, "skel"), filepath.Join(dir, "out", "home")
	outside := filepath.Join(dir, "outside")
	try(t, os.WriteFile(outside, []byte("secret"), 0o600))
	try(t, os.WriteFile(skel+"/.profile", []byte("x"), 0o644))
	try(t, os.WriteFile(skel+"/.config/a/b", []byte("y"), 0o600))
	try(t, os.WriteFile(skel+"/setuid", nil, 0o755))
	try(t, unix.Chmod(skel+"/setuid", 0o6755))
	try(t, os.Symlink(outside, skel+"/link"))
	try(t, os.Symlink("../../outside", skel+"/.config/up"))
	try(t, syscall.Mkfifo(skel+"/fifo", 0o644))
	if err := unix.Mknod(skel+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Logf("no device node: %v", err)
	}
	try(t, copySkeleton(skel, home, 1000, 100))
	wantOwner(t, home, 1000, 100, 0o700)
	wantOwner(t, home+"/.profile", 1000, 100, 0o644)
	wantOwner(t, home+"/.config/a", 1000, 100, 0o755)
	wantOwner(t, home+"/.config/a/b", 1000, 100, 0o600)
	for name, want := range map[string]string{"link": outside, ".config/up": "../../outside"} {
		if got, err := os.Readlink(home + "/" + name); got != want || err != nil {
			t.Errorf("%s = %q, %v; want a link to %q, unresolved", name, got, err, want)
		}
	}
	info, err := os.Lstat(home + "/setuid")
	if err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		t.Errorf("setuid: %v, %v; want no such bit", info.Mode(), err)
	}
	for _, name := range []string{"fifo", "null"} {
		if _, err := os.Lstat(home + "/" + name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was copied: %v", name, err)
		}
	}
	wantOwner(t, outside, 0, 0, 0o600) // a link's target is not chowned
	// Without a skeleton a home is empty; one that is there already is not touched.
	try(t, copySkeleton(dir+"/none", dir+"/out/bare", 1000, 100))
	wantOwner(t, dir+"/out/bare", 1000, 100, 0o700)
	if err := copySkeleton(skel, home, 0, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v; want ErrExist", err)
	}
}

// TestMakeHomeAfterCrash: what a crash left under the temporary name is thrown
// away, and never followed.
func TestMakeHomeAfterCrash(t *testing.T) {
	dir := tree(t, "homes", "keep")
	home := dir + "/homes/1000"
	try(t, os.WriteFile(dir+"/keep/file", nil, 0o600))
	alice := User{Name: "alice", UID: 1000, GID: 100}
	for what, leave := range map[string]func() error{
		"half a home": func() error { return os.MkdirAll(home+".new/x/y", 0o700) },
		"a link":      func() error { return os.Symlink(dir+"/keep", home+".new") },
		"a file":      func() error { return os.WriteFile(home+".new", nil, 0o600) },
	} {
		try(t, os.RemoveAll(home))
		try(t, leave())
		if err := makeHome(home, alice); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		wantOwner(t, home, 1000, 100, 0o700)
		if _, err := os.Lstat(home + ".new"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the temporary one stays: %v", what, err)
		}
		if _, err := os.Lstat(home + "/x"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it became part of the home", what)
		}
	}
	wantOwner(t, dir+"/keep/file", 0, 0, 0o600)
}
