package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/internal/testroot"
)

// TestDefaultConfiguration holds carrel.toml to its promise: each key with its
// default, behind a #.
func TestDefaultConfiguration(t *testing.T) {
	text, err := os.ReadFile("carrel.toml")
	if err != nil {
		t.Fatal(err)
	}
	asInstalled, err := config.Parse("carrel.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), asInstalled); diff != "" {
		t.Errorf("as installed (-default +got):\n%s", diff)
	}
	uncommented := regexp.MustCompile(`(?m)^#(\S)`).ReplaceAll(text, []byte("$1"))
	got, err := config.Parse("carrel.toml", uncommented)
	if err != nil {
		t.Fatalf("with every key: %v", err)
	}
	if len(got.Rules) != 2 || len(got.Env) != 1 {
		t.Errorf("%d example rules, %v; want 2 and one variable", len(got.Rules), got.Env)
	}
	got.Rules, got.Env = nil, nil
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Errorf("with every key (-default +got):\n%s", diff)
	}
	// Every key that the manual describes.
	manual, err := os.ReadFile("../man/carrel.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`(?m)^\.BR ([a-z_]+) " =`).FindAllSubmatch(manual, -1)
	if len(keys) < 10 {
		t.Fatalf("the manual describes %d keys", len(keys))
	}
	for _, key := range keys {
		if name := string(key[1]); name != "users" && !regexp.MustCompile(`(?m)^#`+name+` = `).Match(text) {
			t.Errorf("carrel.toml does not show %s", name)
		}
	}
}

func TestVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2": "1.2", "1.2.3": "1.2.3", "v1.2-rc1": "1.2.rc1", "": "?", "master": "", "1.2_3": "",
	} {
		out, err := exec.CommandContext(t.Context(), "./version", version).Output()
		got := strings.TrimSpace(string(out))
		switch {
		case want == "?":
			if err != nil || exec.CommandContext(t.Context(), "dpkg", "--validate-version", got).Run() != nil {
				t.Errorf("version of the commit: %q, %v; want one that dpkg takes", got, err)
			}
		case got != want || (err != nil) != (want == ""):
			t.Errorf("version %q = %q, %v; want %q", version, got, err, want)
		}
	}
}

// copyTree copies what git knows of the tree, so that a build of it does not
// know where it was before.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sh(t, "../..", `git ls-files -z | tar --null -T - --ignore-failed-read -cf - 2>/dev/null | tar -xf - -C "$0"; cp -a .git "$0/"`, dir)
	return dir
}

// build runs make deb in dir and returns the package.
func build(t *testing.T, dir string, settings string, env ...string) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", settings+`; exec make -s deb VERSION=1.0 DEBDIR="$0"`, out)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(env, "MAKEFLAGS=")...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, text)
	}
	files, err := filepath.Glob(out + "/carrel_1.0_*.deb")
	if err != nil || len(files) != 1 {
		t.Fatalf("make deb made %q, %v", files, err)
	}
	return files[0]
}

// built is the package of this tree, built once.
var built struct {
	once sync.Once
	path string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

func pkg(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		out, err := os.MkdirTemp("", "carrel-deb-")
		if err != nil {
			t.Fatal(err)
		}
		built.path = filepath.Join(out, "carrel.deb")
		sh(t, out, `mv "$0" carrel.deb`, build(t, "../..", "umask 022", "TZ=UTC", "LC_ALL=C.UTF-8"))
	})
	if built.path == "" {
		t.Fatal("make deb failed before")
	}
	return built.path
}

// TestReproducible builds the package in two places by two different people.
// test/vm does it again with nothing compiled before.
func TestReproducible(t *testing.T) {
	testneed.Root(t)
	first, second := pkg(t), build(t, copyTree(t), "umask 077", "TZ=Asia/Kathmandu", "LC_ALL=C", "USER=somebody")
	a, b := read(t, first), read(t, second)
	if !bytes.Equal(a, b) {
		t.Errorf("two builds differ: %d and %d bytes", len(a), len(b))
	}
	epoch, err := exec.CommandContext(t.Context(), "git", "log", "-1", "--format=%ct").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range list(t, first) {
		if fmt.Sprintln(h.ModTime.Unix()) != string(epoch) {
			t.Errorf("%s is of %v, not of the commit's time", h.Name, h.ModTime)
		}
	}
}

// TestContents compares the package with what make install installs.
func TestContents(t *testing.T) {
	testneed.Root(t)
	dest := t.TempDir()
	sh(t, "../..", `make -s install DESTDIR="$0/root" BIN="$0/bin"`, dest)
	want := map[string]fs.FileMode{}
	err := filepath.WalkDir(dest+"/root", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			want[strings.TrimPrefix(path, dest+"/root")] = info.Mode().Perm()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]fs.FileMode{}
	for _, h := range list(t, pkg(t)) {
		if h.Uid != 0 || h.Gid != 0 || h.FileInfo().Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 || h.Mode&0o022 != 0 {
			t.Errorf("%s is %v of %d:%d", h.Name, h.FileInfo().Mode(), h.Uid, h.Gid)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "."), ".gz")
		if h.Typeflag == tar.TypeReg && !regexp.MustCompile(`^/etc/|^/usr/lib/|^/usr/share/(doc|lintian)/|/end-containers$`).MatchString(name) {
			got[name] = fs.FileMode(h.Mode)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-make install +package):\n%s", diff)
	}
}

// TestLintian lets Debian's own eyes look at it.
func TestLintian(t *testing.T) {
	testneed.Root(t)
	lintian := testneed.Tool(t, "lintian")
	out, err := exec.CommandContext(t.Context(), lintian, "--allow-root", "--fail-on=error,warning", pkg(t)).CombinedOutput()
	if err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// TestChroot installs, upgrades, removes and purges the package where nothing
// runs, as an image builder does.
func TestChroot(t *testing.T) {
	testneed.Root(t)
	root := t.TempDir()
	sh(t, root, `tar -xf "$0" --exclude=./dev/*`, testroot.DebianRootfs(t))
	sh(t, root, `cp "$0" carrel.deb && mkdir -p dev && : >dev/null && chmod 666 dev/null`, pkg(t))
	in := func(command string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "chroot", root, "/bin/sh", "-c", command)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(command string) string {
		t.Helper()
		out, err := in(command)
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return out
	}
	// Whatever is not dpkg's own memory.
	const snapshot = "find / -xdev -path /proc -prune -o -path /var/lib/dpkg -prune -o -path /var/log -prune -o -path /var/cache -prune" +
		" -o -name '*-' -prune -o -print | sort; cat /etc/group /etc/passwd"
	before := must(snapshot)

	must("dpkg -i /carrel.deb")
	must("carrel config check && getent group carrel && test -L /etc/systemd/system/sockets.target.wants/carrel.socket")
	if got := must("stat -c %a /usr/libexec/carrel/carrel-runtime /usr/libexec/carrel/carrel-init"); got != "700\n111\n" {
		t.Errorf("modes %q", got)
	}
	if strings.Contains(must("cat /etc/shells"), "carrel") {
		t.Error("carrelsh is in /etc/shells")
	}
	must("echo '# mine' >>/etc/carrel/carrel.toml; dpkg -i /carrel.deb; grep mine /etc/carrel/carrel.toml")

	must("useradd -m -s /usr/bin/carrelsh alice && mkdir -p /var/lib/carrel/homes/1000 && : >/var/lib/carrel/homes/1000/file")
	out, err := in("dpkg -r carrel")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(out, "\n  alice\n") || !strings.Contains(out, "chsh -s /bin/bash NAME") {
		t.Errorf("remove with an account: %v\n%s", err, out)
	}
	must("test -x /usr/bin/carrelsh && dpkg -s carrel | grep 'ok installed' && test -L /etc/systemd/system/sockets.target.wants/carrel.socket")

	must("usermod -s /bin/bash alice && dpkg -r carrel && test ! -e /usr/bin/carrelsh && grep mine /etc/carrel/carrel.toml && test -e /var/lib/carrel/homes/1000/file")
	must("dpkg -i /carrel.deb && test -L /etc/systemd/system/sockets.target.wants/carrel.socket && grep mine /etc/carrel/carrel.toml")
	must("userdel -r alice 2>/dev/null; dpkg -P carrel </dev/null")
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(must(snapshot), "\n")); diff != "" {
		t.Errorf("left by purge (-before +after):\n%s", diff)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list returns the headers of a package's files.
func list(t *testing.T, path string) []*tar.Header {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var headers []*tar.Header
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
	}
}

func sh(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", slices.Concat([]string{"-ec", script}, args)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w\n%s", script, err, out))
	}
}
