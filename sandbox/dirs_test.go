package sandbox

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/sandbox/idrange"
)

func TestCheckSearchable(t *testing.T) {
	dir := tree(t, "a/b/c")
	try(t, os.Chmod(filepath.Dir(dir), 0o755)) // the directory of all of this test's
	if err := checkSearchable(dir + "/a/b/c"); err != nil {
		t.Errorf("all searchable: %v", err)
	}
	for _, closed := range []string{"a", "a/b", "a/b/c"} {
		path := filepath.Join(dir, closed)
		try(t, os.Chmod(path, 0o750))
		err := checkSearchable(dir + "/a/b/c")
		if err == nil || !strings.Contains(err.Error(), "chmod a+x "+path) {
			t.Errorf("%s closed: %v; want an error that names the remedy", closed, err)
		}
		try(t, os.Chmod(path, 0o711))
	}
	if err := checkSearchable(dir + "/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing one: %v; want ErrNotExist", err)
	}
}

// TestMakeDirs makes them under a umask and over what is there already.
func TestMakeDirs(t *testing.T) {
	dir := tree(t)
	try(t, os.Chmod(filepath.Dir(dir), 0o755))
	m := &Manager{cfg: Config{RunDir: dir + "/run", StateDir: dir + "/state"}}
	for range 2 {
		try(t, m.makeDirs())
		for name, mode := range map[string]fs.FileMode{
			"state": 0o711, "state/users": 0o700, "state/homes": 0o700, "run": 0o755, "run/c": 0o700,
			"run/runtime": 0o700, "run/stage": 0o755, "state/skeleton": 0o755, "state/skeleton/proc": 0o555,
		} {
			wantOwner(t, filepath.Join(dir, name), 0, 0, mode)
			try(t, os.Chmod(filepath.Join(dir, name), 0o777)) // to be put right
		}
	}
	for _, name := range []string{"dev", "etc", "home", "proc", "run", "sys", "tmp", "usr"} {
		if info, err := os.Lstat(filepath.Join(dir, "state/skeleton", name)); err != nil || !info.IsDir() {
			t.Errorf("skeleton has no directory %s: %v", name, err)
		}
	}
	if info, err := os.Stat(dir + "/state/skeleton/tmp"); err != nil || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("skeleton's tmp: %v, %v; want it sticky", info.Mode(), err)
	}
}

// former sets up what an account of the range 100 left, and returns a manager
// for its successor in the range 200.
func former(t *testing.T) (m *Manager, dir string, now idrange.Range) {
	t.Helper()
	dir = tree(t, "users/1000/upper", "users/1000/work", "homes/1000")
	try(t, os.WriteFile(dir+"/homes/1000/letter", []byte("private"), 0o600))
	try(t, os.Lchown(dir+"/users/1000/upper", 100*idrange.Size, 100*idrange.Size))
	m = &Manager{cfg: Config{StateDir: dir}, log: slog.New(slog.DiscardHandler)}
	return m, dir, idrange.Range{First: 200 * idrange.Size}
}

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	try(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestRetireFormer(t *testing.T) {
	m, dir, now := former(t)
	try(t, m.retireFormer(1000, now))
	want := []string{"1000.former-6553600"}
	for _, parent := range []string{"homes", "users"} {
		if got := names(t, filepath.Join(dir, parent)); !slices.Equal(got, want) {
			t.Errorf("%s: %q; want %q", parent, got, want)
		}
	}
	if b, err := os.ReadFile(dir + "/homes/1000.former-6553600/letter"); string(b) != "private" {
		t.Errorf("the former owner's file: %q, %v", b, err)
	}
	try(t, m.retireFormer(1000, now)) // and nothing more
}

// TestRetireFormerAfterCrash: a crash between the two renames leaves the layer,
// which is the sign, and the next start finishes.
func TestRetireFormerAfterCrash(t *testing.T) {
	m, dir, now := former(t)
	try(t, os.Rename(dir+"/homes/1000", dir+"/homes/1000.former-6553600"))
	try(t, m.retireFormer(1000, now))
	if got := names(t, dir+"/users"); !slices.Equal(got, []string{"1000.former-6553600"}) {
		t.Errorf("users: %q; want the layer put aside", got)
	}
	if _, err := os.Stat(dir + "/homes/1000"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the successor has a home already: %v", err)
	}
}

// TestRetireNobody: the user's own layer, of whichever owner inside it is, and
// one that has not got an owner yet, stay.
func TestRetireNobody(t *testing.T) {
	m, dir, now := former(t)
	for _, owner := range []uint32{0, now.First, now.First + 1000, now.First + idrange.Size - 1} {
		try(t, os.Lchown(dir+"/users/1000/upper", int(owner), int(owner)))
		try(t, m.retireFormer(1000, now))
		if got := names(t, dir+"/homes"); !slices.Equal(got, []string{"1000"}) {
			t.Errorf("owner %d: homes %q; want it left", owner, got)
		}
	}
	try(t, m.retireFormer(2000, now)) // who was never here
	// The twin: one id past the range is another's.
	try(t, os.Lchown(dir+"/users/1000/upper", int(now.First+idrange.Size), 0))
	try(t, m.retireFormer(1000, now))
	if got := names(t, dir+"/homes"); slices.Contains(got, "1000") {
		t.Errorf("homes %q; want it put aside", got)
	}
}

// TestRetireAfterDiscard: who gives up their layer keeps their home, and it stays
// theirs: whoever has the uid next finds none.
func TestRetireAfterDiscard(t *testing.T) {
	m, dir, now := former(t)
	hers := idrange.Range{First: 100 * idrange.Size}
	for range 2 { // the second finds the note alone
		_, err := m.Discard(1000, false)
		try(t, err)
		try(t, m.retireFormer(1000, hers)) // the twin: she finds it
		if got := names(t, dir+"/homes"); !slices.Equal(got, []string{"1000", "1000.owner"}) {
			t.Fatalf("homes of its owner after Discard: %q", got)
		}
	}
	if known, err := m.Known(); err != nil || !slices.Equal(known, []uint32{1000}) {
		t.Errorf("Known = %v, %v; want the home alone", known, err)
	}
	// A start that ended before the new layer had its owner.
	try(t, os.MkdirAll(dir+"/users/1000/upper", 0o755))
	try(t, m.retireFormer(1000, now))
	if got := names(t, dir+"/homes"); !slices.Equal(got, []string{"1000.former-6553600"}) {
		t.Errorf("homes of the next owner: %q", got)
	}
	if b, err := os.ReadFile(dir + "/homes/1000.former-6553600/letter"); string(b) != "private" {
		t.Errorf("the former owner's file: %q, %v", b, err)
	}
}

// TestOwner: the files of a uid belong to whoever had its last container.
func TestOwner(t *testing.T) {
	ids, err := idrange.Open(filepath.Join(t.TempDir(), "ids"), idrange.DefaultRegion())
	try(t, err)
	defer ids.Close()
	m := &Manager{ids: ids}
	for _, name := range []string{"", "alice", "bob"} {
		if name != "" {
			_, _, _, err := ids.Assign(1000, name)
			try(t, err)
		}
		if got := m.Owner(1000); got != name {
			t.Errorf("Owner = %q; want %q", got, name)
		}
	}
}

// TestDiscardSign: there is a note as long as there is a home, and it says whose
// the layer was that went last.
func TestDiscardSign(t *testing.T) {
	m, dir, now := former(t)
	_, err := m.Discard(1000, false)
	try(t, err)
	try(t, os.MkdirAll(dir+"/users/1000/upper", 0o755))
	try(t, os.Lchown(dir+"/users/1000/upper", int(now.First), int(now.First)))
	_, err = m.Discard(1000, false)
	try(t, err)
	wantOwner(t, dir+"/homes/1000.owner", now.First, now.First, 0o600)
	_, err = m.Discard(1000, true)
	try(t, err)
	if got := names(t, dir+"/homes"); slices.Contains(got, "1000.owner") {
		t.Errorf("homes without a home: %q", got)
	}
	// Of a user without a private home there is nothing to say.
	try(t, os.MkdirAll(dir+"/users/2000/upper", 0o755))
	try(t, os.Lchown(dir+"/users/2000/upper", int(now.First), int(now.First)))
	_, err = m.Discard(2000, false)
	try(t, err)
	if got := names(t, dir+"/homes"); slices.Contains(got, "2000.owner") {
		t.Errorf("homes without a home: %q", got)
	}
}

func TestWriteJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, v := range []string{"long enough to be seen", "b"} {
		try(t, writeJSON(path, v))
	}
	b, err := os.ReadFile(path)
	if string(b) != "\"b\"\n" || err != nil {
		t.Errorf("file = %q, %v", b, err)
	}
	if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"f"}) {
		t.Errorf("left behind: %q", got)
	}
	if err := writeJSON(path, func() {}); err == nil {
		t.Error("a function was written")
	}
}
