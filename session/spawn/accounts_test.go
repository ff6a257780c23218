package spawn

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMergeLines(t *testing.T) {
	const image = "root:x:0:0:root:/root:/bin/sh\nother:x:1000:1000::/:/bin/sh\nalice:x:5:5::/:/bin/false\ngarbage\nweb:x:33:33::/:/x\n"
	const alice = "alice:x:1000:1000::/home/alice:/bin/bash"
	want := "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/x\n" + alice + "\n"
	got := mergeLines(image, []string{alice})
	if got != want {
		t.Errorf("mergeLines = %q; want %q", got, want)
	}
	if again := mergeLines(got, []string{alice}); again != want {
		t.Errorf("mergeLines a second time = %q; want no change", again)
	}
	if got := mergeLines("", []string{alice}); got != alice+"\n" {
		t.Errorf("mergeLines of an empty file = %q", got)
	}
}

func TestMergeHosts(t *testing.T) {
	got := mergeHosts("", "alice-h")
	if !strings.Contains(got, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(got, "127.0.1.1\talice-h\n") {
		t.Errorf("mergeHosts of nothing = %q", got)
	}
	if again := mergeHosts(got, "alice-h"); again != got {
		t.Errorf("mergeHosts a second time = %q; want no change", again)
	}
}

// An image may have anything in the place of an account file. Nothing of it is
// followed, waited for or read without bound.
func TestReadSmallRefuses(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("plain"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readSmall(path("plain")); got != "x" {
		t.Fatalf("readSmall of a plain file = %q; want its content", got)
	}
	if err := os.Symlink("plain", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path("dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("huge"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path("huge"), 2<<30); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "dir", "huge", "none"} {
		if got := readSmall(path(name)); got != "" {
			t.Errorf("readSmall of %s = %d bytes; want none", name, len(got))
		}
	}
	if got := readSmall("/dev/zero"); got != "" {
		t.Errorf("readSmall of a device = %d bytes; want none", len(got))
	}
}

func TestReplaceTakesTheLinksPlace(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "passwd")
	if err := os.WriteFile(target, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, link + ".carrel"} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := replace(link, 0o644, "new"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(target); string(b) != "keep" {
		t.Errorf("what the link named was written: %q", b)
	}
	if b, _ := os.ReadFile(link); string(b) != "new" {
		t.Errorf("file = %q; want %q", b, "new")
	}
}
