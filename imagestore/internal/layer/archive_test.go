package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// part appends an entry, or something worse, to an archive.
type part func(t testing.TB, w *tar.Writer, raw *bytes.Buffer)

// entryTime is the time of entries that say nothing else.
var entryTime = time.Unix(1_000_000_000, 5e8)

// header writes an entry with a body.
func header(h tar.Header, body string) part {
	return func(t testing.TB, w *tar.Writer, _ *bytes.Buffer) {
		t.Helper()
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = entryTime
		}
		h.Size, h.Format = int64(len(body)), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
}

func file(name, body string) part {
	return header(tar.Header{Typeflag: tar.TypeReg, Name: name}, body)
}

func dir(name string) part {
	return header(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, "")
}

func link(name, target string) part {
	return header(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, "")
}

func hard(name, target string) part {
	return header(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, "")
}

func typed(flag byte, name string) part { return header(tar.Header{Typeflag: flag, Name: name}, "") }

func xattrs(flag byte, name string, pairs ...string) part {
	records := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		records[paxXattr+pairs[i]] = pairs[i+1]
	}
	return header(tar.Header{Typeflag: flag, Name: name, Mode: 0o755, PAXRecords: records}, "")
}

// block writes a header that archive/tar would not write. edit changes the
// 512 bytes before the checksum is made.
func block(flag byte, name, body string, edit func([]byte)) part {
	return func(t testing.TB, w *tar.Writer, raw *bytes.Buffer) {
		t.Helper()
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, blockSize)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x00", len(body)))
		copy(b[136:], "00000000000\x00")
		b[156] = flag
		copy(b[257:], "ustar\x0000")
		if edit != nil {
			edit(b)
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		raw.Write(b)
		raw.WriteString(body + strings.Repeat("\x00", (blockSize-len(body)%blockSize)%blockSize))
	}
}

// pax is one record of an extended header.
func pax(key, value string) string {
	for n := len(key) + len(value) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s=%s\n", n, key, value); len(s) == n {
			return s
		}
	}
}

// archive returns a tar archive of the parts.
func archive(t testing.TB, parts ...part) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, p := range parts {
		p(t, w, &raw)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// site is a directory to apply to, beside one that must not change.
type site struct {
	root, sentinel string
	before         map[string]string
}

// sentinelName is how an archive reaches the sentinel from the top of a layer.
const sentinelName = "../sentinel"

func newSite(t testing.TB) *site {
	t.Helper()
	testneed.Root(t)
	top := t.TempDir()
	s := &site{root: filepath.Join(top, "root"), sentinel: filepath.Join(top, "sentinel")}
	for _, d := range []string{s.root, filepath.Join(s.sentinel, "dir")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"file", "dir/file"} {
		if err := os.WriteFile(filepath.Join(s.sentinel, f), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.before = snapshot(t, s.sentinel)
	return s
}

// touched reports what is different about the sentinel.
func (s *site) touched(t testing.TB) string {
	t.Helper()
	after := snapshot(t, s.sentinel)
	for name, was := range s.before {
		if after[name] != was {
			return fmt.Sprintf("%q is %q; was %q", name, after[name], was)
		}
	}
	for name := range after {
		if _, ok := s.before[name]; !ok {
			return fmt.Sprintf("%q is new", name)
		}
	}
	return ""
}

// snapshot describes a tree: everything but access times.
func snapshot(t testing.TB, top string) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := filepath.Walk(top, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		content, target := []byte{}, ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err = os.ReadFile(path)
		case unix.S_IFLNK:
			target, err = os.Readlink(path)
		}
		rel, _ := filepath.Rel(top, path)
		tree[rel] = fmt.Sprintf("%o %d:%d links %d rdev %d ctime %d %q %q", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, st.Ctim.Nano(), content, target)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// modes describes the entries below root shortly: type and mode in octal, and
// what a link leads to.
func (s *site) modes(t testing.TB) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := filepath.Walk(s.root, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		target, _ := os.Readlink(path)
		if rel, _ := filepath.Rel(s.root, path); rel != "." {
			tree[rel] = strings.TrimSpace(fmt.Sprintf("%o %s", st.Mode, target))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// apply applies an archive with small bounds.
func (s *site) apply(t testing.TB, data []byte, change ...func(*Options)) (Result, error) {
	t.Helper()
	opt := Options{MaxBytes: 16 << 20, MaxEntries: 1000}
	for _, c := range change {
		c(&opt)
	}
	root, err := os.Open(s.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return Apply(root, bytes.NewReader(data), opt)
}

// checkError wants nil for "" and else an error that contains want.
func checkError(t testing.TB, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("Apply = %v; want success", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("Apply = %v; want an error with %q", err, want)
	}
}
