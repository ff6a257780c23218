package scp

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tree returns what is below dir: "mode size-or-text path", in order.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	all := []string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := info.Mode().String() + " " + name
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", text)
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// receive runs a sink over the client's bytes and returns what it answered.
func receive(s sink, target, sent string) (answer string, failed bool) {
	var out strings.Builder
	s.peer = newPeer(strings.NewReader(sent), &out)
	err := s.run([]string{target}, false)
	return out.String(), err != nil || s.failed
}

const ok = "\x00"

func TestSink(t *testing.T) {
	for _, test := range []struct {
		name, sent, want string
		s                sink
		failed           bool
		tree             []string
	}{
		{name: "nothing", want: ok},
		{name: "file", sent: "C0664 5 a\nhello" + ok, want: ok + ok + ok, tree: []string{`-rw-r--r-- a "hello"`}},
		{name: "two", sent: "C0600 1 a\nx" + ok + "C0755 0 b c\n" + ok, want: ok + ok + ok + ok + ok,
			tree: []string{`-rw------- a "x"`, `-rwxr-xr-x b c ""`}},
		{name: "read-only", sent: "C0400 1 a\nx" + ok, want: ok + ok + ok, tree: []string{`-r-------- a "x"`}},
		{name: "no special bits without -p", sent: "C7777 1 a\nx" + ok, want: ok + ok + ok, tree: []string{`-rwxr-xr-x a "x"`}},
		{name: "mode with -p", s: sink{preserve: true}, sent: "C4666 1 a\nx" + ok, want: ok + ok + ok, tree: []string{`urw-rw-rw- a "x"`}},
		{name: "directories", s: sink{recursive: true}, want: strings.Repeat(ok, 9),
			sent: "D0755 0 d\nD0700 0 e\nC0644 1 f\nx" + ok + "E\nE\nC0644 0 g\n" + ok,
			tree: []string{"drwxr-xr-x d", "drwx------ d/e", `-rw-r--r-- d/e/f "x"`, `-rw-r--r-- g ""`}},
		{name: "read-only directory", s: sink{recursive: true}, want: strings.Repeat(ok, 5),
			sent: "D0500 0 d\nC0644 1 f\nx" + ok + "E\n", tree: []string{"dr-x------ d", `-rw-r--r-- d/f "x"`}},
		{name: "source could not read", sent: "\x01scp: x: Permission denied\nC0644 1 a\nx" + ok, want: ok + ok + ok, failed: true,
			tree: []string{`-rw-r--r-- a "x"`}},
		{name: "source broke in the file", sent: "C0644 1 a\nx\x01scp: a: I/O error\nC0644 0 b\n" + ok, want: strings.Repeat(ok, 5), failed: true,
			tree: []string{`-rw-r--r-- a "x"`, `-rw-r--r-- b ""`}},
		{name: "source gives up", sent: "\x02bye\nC0644 1 a\nx", want: ok + "\x01scp: the other side ended it\n", failed: true},

		{name: "directory without -r", sent: "D0755 0 d\n", want: ok + "\x01scp: protocol error: received directory without -r\n", failed: true},
		{name: "no record", sent: "hello\n", want: ok + "\x01scp: protocol error: expected control record\n", failed: true},
		{name: "newline", sent: "\n", want: ok + "\x01scp: protocol error: unexpected <newline>\n", failed: true},
		{name: "long line", sent: "C0644 1 " + strings.Repeat("a", maxLine) + "\n", want: ok + "\x01scp: protocol error: record is too long\n", failed: true},
		{name: "endless line", sent: strings.Repeat("C", 1<<20), want: ok + "\x01scp: protocol error: record is too long\n", failed: true},
		{name: "half a record", sent: "C0644 1 a", want: ok + "\x01scp: lost connection\n", failed: true},
		{name: "half a file", sent: "C0644 2 a\nx", want: ok + ok + "\x01scp: lost connection\n", failed: true, tree: []string{`-rw-r--r-- a "x"`}},
		{name: "all but the end of a file", sent: "C0644 1 a\nx", want: ok + ok + "\x01scp: lost connection\n", failed: true, tree: []string{`-rw-r--r-- a "x"`}},
		{name: "half a directory", s: sink{recursive: true}, sent: "D0755 0 d\n", want: ok + ok + "\x01scp: lost connection\n", failed: true,
			tree: []string{"drwxr-xr-x d"}},
		{name: "up from the top", sent: "E\nC0644 1 a\nx", want: ok + ok},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.s.mask = 0o022
			got, failed := receive(test.s, dir, test.sent)
			if got != test.want || failed != test.failed {
				t.Errorf("answer %q, failed %v; want %q, %v", got, failed, test.want, test.failed)
			}
			if test.tree == nil {
				test.tree = []string{}
			}
			if diff := cmp.Diff(test.tree, tree(t, dir)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSinkHostileNames sends names that could mean another place; the twin is
// the same stream with a name that does not.
func TestSinkHostileNames(t *testing.T) {
	for _, kind := range []string{"C0777 1 %s\nx" + ok, "D0777 0 %s\nE\n", "D0777 0 d\nC0777 1 %s\nx" + ok + "E\n", "T1 0 1 0\nC0777 1 %s\nx" + ok} {
		for _, name := range hostileNames {
			top := t.TempDir()
			target := filepath.Join(top, "target")
			if err := os.Mkdir(target, 0o700); err != nil {
				t.Fatal(err)
			}
			sent := fmt.Sprintf(kind, name)
			if answer, failed := receive(sink{recursive: true, preserve: true}, target, sent); !failed || !strings.Contains(answer, "\x01scp: ") {
				t.Errorf("%q was answered %q; want a refusal", sent, answer)
			}
			for _, line := range tree(t, top) {
				if line != "drwx------ target" && line != "drwxr-xr-x target/d" {
					t.Errorf("%q made %s", sent, line)
				}
			}

			sent = fmt.Sprintf(kind, "...harmless")
			if answer, failed := receive(sink{recursive: true, preserve: true}, target, sent); failed {
				t.Errorf("the twin %q was answered %q", sent, answer)
			}
			if got := strings.Join(tree(t, top), "\n"); !strings.Contains(got, "...harmless") {
				t.Errorf("the twin %q made only %s", sent, got)
			}
		}
	}
}

func TestSinkTarget(t *testing.T) {
	const hello = "C0644 5 a\nhello" + ok
	dir := t.TempDir()
	file := filepath.Join(dir, "file")

	// A target that is not there becomes the file, and one that is there keeps
	// its mode and loses its tail.
	if answer, failed := receive(sink{}, file, hello); failed {
		t.Fatalf("new file: %q", answer)
	}
	if err := os.WriteFile(file, []byte("longer than hello"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if answer, failed := receive(sink{}, file, hello); failed {
		t.Fatalf("existing file: %q", answer)
	}
	if diff := cmp.Diff([]string{`-rw-r----- file "hello"`}, tree(t, dir)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}

	for _, test := range []struct {
		targets   []string
		directory bool
		sent      string
		want      string
	}{
		{[]string{file}, true, hello, "\x01scp: " + file + ": Not a directory\n"},
		{[]string{dir + "/none"}, true, hello, "\x01scp: " + dir + "/none: No such file or directory\n"},
		{[]string{dir + "/none/x"}, false, "C0644 5 a\n", ok + "\x01scp: " + dir + "/none/x: No such file or directory\n"},
		{[]string{dir, dir}, false, hello, "\x01scp: ambiguous target\n"},
		{nil, false, hello, "\x01scp: ambiguous target\n"},
		{[]string{dir}, true, hello, ok + ok + ok}, // the twin
	} {
		var out strings.Builder
		s := sink{peer: newPeer(strings.NewReader(test.sent), &out)}
		err := s.run(test.targets, test.directory)
		if out.String() != test.want || (err != nil || s.failed) != strings.Contains(test.want, "\x01") {
			t.Errorf("run(%q, %v) = %v, answer %q; want %q", test.targets, test.directory, err, out.String(), test.want)
		}
	}
}

// TestSinkRefusedEntries goes on after what it cannot make.
func TestSinkRefusedEntries(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	answer, failed := receive(sink{recursive: true}, dir, "C0644 5 d\n"+"D0755 0 f\n"+"C0644 1 g\nx"+ok)
	want := ok + "\x01scp: " + dir + "/d: Is a directory\n" + "\x01scp: " + dir + "/f: Not a directory\n" + ok + ok
	if answer != want || !failed {
		t.Errorf("answer %q, failed %v; want %q", answer, failed, want)
	}
	if got, err := os.ReadFile(dir + "/g"); err != nil || string(got) != "x" {
		t.Errorf("g = %q, %v; want x", got, err)
	}
}

func TestSinkTimes(t *testing.T) {
	dir := t.TempDir()
	sent := "T1000000000 5 1000000001 0\nD0755 0 d\nT1100000000 0 1 0\nC0644 1 f\nx" + ok + "C0644 1 now\nx" + ok + "E\n"
	if answer, failed := receive(sink{recursive: true, preserve: true}, dir, sent); failed {
		t.Fatalf("answer %q", answer)
	}
	for name, want := range map[string]time.Time{"d": time.Unix(1000000000, 5000), "d/f": time.Unix(1100000000, 0)} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s has the time %v, %v; want %v", name, info.ModTime(), err, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "d/now"))
	if err != nil || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("the times of one record were used for the next: %v, %v", info.ModTime(), err)
	}
}

// TestSinkDiskFull writes to the device that is always full.
func TestSinkDiskFull(t *testing.T) {
	const full = "/dev/full"
	data := strings.Repeat("x", 3*chunk)
	sent := fmt.Sprintf("C0644 %d a\n%s%s", len(data), data, ok)
	answer, failed := receive(sink{}, full, sent)
	if want := ok + ok + "\x01scp: /dev/full: No space left on device\n"; answer != want || !failed {
		t.Errorf("answer %q, failed %v; want %q", answer, failed, want)
	}
}

// TestSinkSetGID: a directory in a group's directory stays the group's.
func TestSinkSetGID(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	if answer, failed := receive(sink{recursive: true, mask: 0o022}, dir, "D0755 0 d\nE\n"); failed {
		t.Fatalf("answer %q", answer)
	}
	if info, err := os.Stat(dir + "/d"); err != nil || info.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("the new directory has mode %v, %v; want set-gid", info.Mode(), err)
	}
}

// repeat yields piece n times.
type repeat struct {
	piece []byte
	n     int
	rest  []byte
}

func (r *repeat) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.n == 0 {
			return 0, io.EOF
		}
		r.n--
		r.rest = r.piece
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// TestSinkMemory: neither large files nor many of them take memory.
func TestSinkMemory(t *testing.T) {
	const mib = 1 << 20
	big := io.MultiReader(strings.NewReader(fmt.Sprintf("C0644 %d a\n", 64*mib)),
		&repeat{piece: bytes.Repeat([]byte("x"), mib), n: 64}, strings.NewReader(ok))
	many := &repeat{piece: []byte("C0644 1 a\nx" + ok), n: 5000}
	for name, in := range map[string]io.Reader{"big": big, "many": many} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := sink{peer: newPeer(in, io.Discard)}
		if err := s.run([]string{os.DevNull}, false); err != nil || s.failed {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > mib {
			t.Errorf("%s: %d bytes stay in use", name, grown)
		}
		if total := after.TotalAlloc - before.TotalAlloc; name == "big" && total > mib {
			t.Errorf("%s: %d bytes were allocated", name, total)
		}
		runtime.KeepAlive(s)
	}
}
