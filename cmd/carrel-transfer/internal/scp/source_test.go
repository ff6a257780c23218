package scp

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fetch runs a source for a client that answers as given, and then always yes.
func fetch(s source, answers string, paths ...string) (sent string, failed bool) {
	var out strings.Builder
	s.peer = newPeer(io.MultiReader(strings.NewReader(answers), &repeat{piece: []byte(ok), n: 1000}), &out)
	err := s.run(paths)
	return out.String(), err != nil || s.failed
}

// fill makes files below dir: a name that ends in / is a directory, any other
// has its own name as text.
func fill(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(name), 0o644)
		}
		if err == nil {
			err = setAge(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// setAge gives path times that reading it does not change: relatime leaves a
// time of access alone that is after now (mount(8)).
func setAge(path string) error { return os.Chtimes(path, time.Unix(4000000000, 0), time.Unix(1, 0)) }

func TestSource(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	fill(t, dir, "a", "b", "empty/", "d/", "d/f", "new\nline")
	for _, err := range []error{unix.Mkfifo("fifo", 0o644), os.Symlink("a", "link"), os.Symlink("none", "dangling"),
		setAge("d")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, answers string
		s             source
		paths         []string
		want          string
		failed        bool
	}{
		{name: "nothing"},
		{name: "file", paths: []string{"a"}, want: "C0644 1 a\na" + ok},
		{name: "files", paths: []string{"./a", dir + "/b", "link"}, want: "C0644 1 a\na" + ok + "C0644 1 b\nb" + ok + "C0644 1 link\na" + ok},
		{name: "times", s: source{preserve: true}, paths: []string{"a"}, want: "T1 0 4000000000 0\nC0644 1 a\na" + ok},
		{name: "directory", s: source{recursive: true}, paths: []string{"d//"}, want: "D0755 0 d\nC0644 3 f\nd/f" + ok + "E\n"},
		{name: "directory with times", s: source{recursive: true, preserve: true}, paths: []string{"d"},
			want: "T1 0 4000000000 0\nD0755 0 d\nT1 0 4000000000 0\nC0644 3 f\nd/f" + ok + "E\n"},
		{name: "newline", paths: []string{"new\nline"}, want: "C0644 8 new\\^Jline\nnew\nline" + ok},

		{name: "missing", paths: []string{"none", "a"}, want: "\x01scp: none: No such file or directory\nC0644 1 a\na" + ok, failed: true},
		{name: "dangling", paths: []string{"dangling"}, want: "\x01scp: dangling: No such file or directory\n", failed: true},
		{name: "pattern", paths: []string{"*"}, want: "\x01scp: *: No such file or directory\n", failed: true},
		{name: "directory without -r", paths: []string{"d", "a"}, want: "\x01scp: d: not a regular file\nC0644 1 a\na" + ok, failed: true},
		{name: "special", s: source{recursive: true}, paths: []string{"fifo", "/dev/null"},
			want: "\x01scp: fifo: not a regular file\n\x01scp: /dev/null: not a regular file\n", failed: true},
		{name: "empty name", paths: []string{""}, want: "\x01scp: : No such file or directory\n", failed: true},

		{name: "client wants none", answers: ok + "\x01no\n", paths: []string{"a", "b"}, want: "C0644 1 a\nC0644 1 b\nb" + ok, failed: true},
		{name: "client wants no directory", s: source{recursive: true}, answers: ok + "\x01no\n", paths: []string{"d", "b"},
			want: "D0755 0 d\nC0644 1 b\nb" + ok, failed: true},
		{name: "client wants no times", s: source{preserve: true}, answers: ok + "\x01no\n", paths: []string{"a"}, want: "T1 0 4000000000 0\n", failed: true},
		{name: "client is not ready", answers: "\x01no\n", paths: []string{"a"}, want: "C0644 1 a\na" + ok, failed: true},
		{name: "client ends it", answers: ok + "\x02no\n", paths: []string{"a", "b"}, want: "C0644 1 a\n", failed: true},
		{name: "client says nonsense", answers: ok + "Cno\n", paths: []string{"a", "b"}, want: "C0644 1 a\n", failed: true},
		{name: "client says too much", answers: ok + "\x01" + strings.Repeat("x", 1<<20), paths: []string{"a", "b"}, want: "C0644 1 a\n", failed: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			sent, failed := fetch(test.s, test.answers, test.paths...)
			if sent != test.want || failed != test.failed {
				t.Errorf("sent %q, failed %v; want %q, %v", sent, failed, test.want, test.failed)
			}
		})
	}
}

func TestSourceLost(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "a")
	for _, answers := range []string{"", ok, ok + ok, ok + "\x01", ok + "\x01half"} {
		s := source{peer: newPeer(strings.NewReader(answers), io.Discard)}
		if err := s.run([]string{dir + "/a"}); err == nil {
			t.Errorf("run with a client that said %q and went = nil; want an error", answers)
		}
	}
}

// TestSourceShrinks: the client was told a size, and gets it.
func TestSourceShrinks(t *testing.T) {
	var out strings.Builder
	s := source{peer: newPeer(&repeat{piece: []byte(ok), n: 9}, &out)}
	if err := s.file(strings.NewReader("abc"), "f", &unix.Stat_t{Mode: 0o100644, Size: 5}); err != nil {
		t.Fatal(err)
	}
	if want := "C0644 5 f\nabc\x00\x00\x01scp: f: file shrank while it was read\n"; out.String() != want || !s.failed {
		t.Errorf("sent %q, failed %v; want %q", out.String(), s.failed, want)
	}
}

// TestSourceLoop: a directory that holds a link to itself has an end.
func TestSourceLoop(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(".", dir+"/self"); err != nil {
		t.Fatal(err)
	}
	sent, failed := fetch(source{recursive: true}, "", dir)
	if !failed || !strings.Contains(sent, "symbolic links") {
		t.Errorf("a loop was sent as %.80q; want a refusal at the kernel's limit", sent)
	}
}

// TestRoundTrip connects our source to our sink.
func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	fill(t, from, "d/", "d/a b", "d/-x", "d/é", "d/e/", "d/e/f", "d/...")
	big := strings.Repeat("0123456789abcdef", chunk/8)
	if err := os.WriteFile(from+"/d/big", []byte(big), 0o400); err != nil {
		t.Fatal(err)
	}
	up, down := newPipe(), newPipe()
	done := make(chan error, 1)
	go func() {
		s := sink{peer: newPeer(up, down), recursive: true, preserve: true}
		err := s.run([]string{to}, true)
		if err == nil && s.failed {
			err = fmt.Errorf("sink refused something")
		}
		done <- err
	}()
	s := source{peer: newPeer(down, up), recursive: true, preserve: true}
	if err := s.run([]string{from + "/d"}); err != nil || s.failed {
		t.Errorf("source: %v, failed %v", err, s.failed)
	}
	up.PipeWriter.Close()
	if err := <-done; err != nil {
		t.Errorf("sink: %v", err)
	}
	if diff := cmp.Diff(tree(t, from), tree(t, to)); diff != "" {
		t.Errorf("tree (-sent +received):\n%s", diff)
	}
}

type pipe struct {
	*io.PipeReader
	*io.PipeWriter
}

func newPipe() pipe {
	r, w := io.Pipe()
	return pipe{r, w}
}
