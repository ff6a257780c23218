package scp

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// outside is a directory with a target in it, and things beside the target that
// a sink must leave alone.
type outside struct {
	top, target string
	before      []string
}

func newOutside(t testing.TB) *outside {
	t.Helper()
	top, err := os.MkdirTemp("", "carrel-transfer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A record may have taken the permissions of a directory away.
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
		os.RemoveAll(top)
	})
	fill(t, top, "decoy", "dir/", "dir/a", "parent/", "parent/a", "parent/target/")
	o := &outside{top: top, target: filepath.Join(top, "parent", "target")}
	o.before = o.beside(t)
	return o
}

// beside lists all but what is below the target. The target's own mode belongs
// to the outside: "." would change it (CVE-2018-20685).
func (o *outside) beside(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{o.top, filepath.Join(o.top, "dir"), filepath.Join(o.top, "parent")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			line := path + " " + info.Mode().String()
			if !e.IsDir() {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				line += " " + string(text)
			}
			all = append(all, line)
		}
	}
	return all
}

func (o *outside) changed(t testing.TB) bool {
	t.Helper()
	return !slices.Equal(o.before, o.beside(t))
}

// FuzzSink holds that whatever a client sends, nothing but what is below the
// target is made or changed, and that every refusal is one line.
func FuzzSink(f *testing.F) {
	for _, name := range append(hostileNames, "a", "...", `\..\x`) {
		f.Add([]byte("C0644 1 "+name+"\nx"+ok), true, true)
		f.Add([]byte("D0755 0 "+name+"\nC0600 1 a\nx"+ok+"E\n"), true, false)
		f.Add([]byte("D0755 0 d\nD0000 0 "+name+"\nE\nE\nE\nC0600 1 decoy\nx"+ok), true, true)
	}
	f.Add([]byte("T1 0 1 0\nD0000 0 d\nE\nC0644 99 short\nx"), true, true)
	f.Add([]byte("\x01no\n\x02bye\n"), false, false)
	f.Add([]byte("C0644 1 a\nx\x01\nC0400 0 a\n"+ok+"C0644 2 a\nyy"+ok), false, false)
	f.Fuzz(func(t *testing.T, sent []byte, recursive, preserve bool) {
		o := newOutside(t)
		var answer strings.Builder
		s := sink{peer: newPeer(strings.NewReader(string(sent)), &answer), recursive: recursive, preserve: preserve, mask: 0o022}
		err := s.run([]string{o.target}, true)
		if o.changed(t) {
			t.Errorf("%q changed what is beside the target: %q; before %q", sent, o.beside(t), o.before)
		}
		if err != nil && !s.failed {
			t.Errorf("%q ended with %v and status 0", sent, err)
		}
		// Answers are \0 and \1...\n, nothing else.
		for rest := answer.String(); rest != ""; {
			if rest[0] == 1 {
				_, rest, _ = strings.Cut(rest, "\n")
				continue
			}
			if rest[0] != 0 {
				t.Fatalf("%q was answered %q", sent, answer.String())
			}
			rest = rest[1:]
		}
	})
}

// FuzzSource holds that no answers of a client make the source hang, or send
// more than the file.
func FuzzSource(f *testing.F) {
	dir := f.TempDir()
	fill(f, dir, "d/", "d/a", "d/b")
	for _, answers := range []string{"", ok, strings.Repeat(ok, 9), ok + "\x01no\n", ok + "\x02\n", ok + ok + "\x01no\n" + ok} {
		f.Add([]byte(answers))
	}
	f.Fuzz(func(t *testing.T, answers []byte) {
		var out strings.Builder
		s := source{peer: newPeer(strings.NewReader(string(answers)), &out), recursive: true}
		err := s.run([]string{dir + "/d"})
		if got := strings.Count(out.String(), "d/a") + strings.Count(out.String(), "d/b"); got > 2 {
			t.Errorf("answers %q: %d files were sent", answers, got)
		}
		if err == nil && !strings.HasSuffix(out.String(), "E\n") && !s.failed {
			t.Errorf("answers %q: ended well after %q", answers, out.String())
		}
	})
}

// TestOutsideCanFail shows that what FuzzSink looks at does notice an escape.
func TestOutsideCanFail(t *testing.T) {
	if o := newOutside(t); o.changed(t) {
		t.Fatal("changed before anything happened")
	}
	for name, escape := range map[string]string{
		"new":      "C0644 1 b\nx" + ok,
		"existing": "C0644 1 a\nx" + ok,
		"mode":     "D0111 0 target\nE\n",
		"dir":      "D0755 0 e\nE\n",
	} {
		o := newOutside(t)
		// A sink whose target is one too high is what ".." would make of it.
		s := sink{peer: newPeer(strings.NewReader(escape), io.Discard), recursive: true, preserve: true}
		if err := s.run([]string{filepath.Dir(o.target)}, true); err != nil || s.failed {
			t.Fatal(err)
		}
		if !o.changed(t) {
			t.Errorf("%s: an escape went unnoticed", name)
		}
	}
}
