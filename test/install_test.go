package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var binaries = []string{"carrel", "carrel-init", "carrel-runtime", "carrel-unpack", "carreld", "carrelsh"}

// TestModes looks at every file that `make install` made.
func TestModes(t *testing.T) {
	f := setup(t)
	modes := map[string]fs.FileMode{"carrel-runtime": 0o700, "carrel-init": 0o111}
	var found []string
	err := filepath.WalkDir(f.Prefix, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if special(info.Mode()) {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if slices.Contains(binaries, e.Name()) && info.Mode().IsRegular() && f.Path(e.Name()) == path {
			found = append(found, e.Name())
			want, ok := modes[e.Name()]
			if !ok {
				want = 0o755
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %v; want %v", path, info.Mode().Perm(), want)
			}
		}
		return nil
	})
	slices.Sort(found)
	if err != nil || !slices.Equal(found, binaries) {
		t.Errorf("installed: %v, %v; want %v", found, err, binaries)
	}
	shells, err := os.ReadFile("/etc/shells")
	if err != nil || strings.Contains(string(shells), f.Prefix) {
		t.Errorf("/etc/shells names our carrelsh (or %v)", err)
	}
	for _, page := range []string{"man1/carrelsh.1", "man8/carreld.8", "man1/carrel.1"} {
		if _, err := os.Stat(filepath.Join(f.Prefix, "share/man", page)); err != nil {
			t.Error(err)
		}
	}
}

// special reports a mode that gives rights to whoever runs the file, or lets
// strangers write it.
func special(mode fs.FileMode) bool {
	return mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 || mode&fs.ModeSymlink == 0 && mode.Perm()&0o022 != 0
}

func TestSpecial(t *testing.T) {
	for mode, want := range map[fs.FileMode]bool{
		0o755: false, 0o755 | fs.ModeSetuid: true, 0o755 | fs.ModeSetgid: true, 0o775: true, 0o757: true,
		0o777 | fs.ModeSymlink: false, 0o755 | fs.ModeDir: false,
	} {
		if got := special(mode); got != want {
			t.Errorf("special(%v) = %v; want %v", mode, got, want)
		}
	}
}

// TestLinkedInto looks into the binaries themselves. What nsenter's
// constructor asks the environment for stands in any file that it is in.
func TestLinkedInto(t *testing.T) {
	f := setup(t)
	for _, name := range binaries {
		content, err := os.ReadFile(f.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := bytes.Contains(content, []byte("_LIBCONTAINER_INITPIPE")), name == "carrel-runtime"; got != want {
			t.Errorf("%s contains nsenter: %v; want %v", name, got, want)
		}
		if r := host.Run(exec.Command("ldd", f.Path(name))); !strings.Contains(r.Stdout+r.Stderr, "not a dynamic executable") && !strings.Contains(r.Stdout, "statically linked") {
			t.Errorf("%s is not static: %v", name, r)
		}
	}
}

// TestUninstall installs somewhere else and takes it away again.
func TestUninstall(t *testing.T) {
	f := setup(t)
	dest := t.TempDir()
	make := func(target string) {
		t.Helper()
		cmd := exec.Command("make", "-s", "-C", "..", target, "BIN="+f.Dir+"/build", "DESTDIR="+dest, "PREFIX=/opt/x", "RUNDIR="+f.RunDir)
		if r := host.Run(cmd); r.Code != 0 {
			t.Fatalf("make %s: %v", target, r)
		}
	}
	files := func() (n int) {
		err := filepath.WalkDir(dest, func(_ string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				n++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	make("install")
	if n := files(); n < len(binaries)+5 {
		t.Errorf("make install DESTDIR made %d files", n)
	}
	make("uninstall")
	if n := files(); n != 0 {
		t.Errorf("make uninstall left %d files", n)
	}
}

// TestDemo runs what newcomers run first.
func TestDemo(t *testing.T) {
	setup(t)
	demo := func(command string) *exec.Cmd {
		cmd := exec.Command("make", "-s", "-C", "..", "demo", "CMD="+command)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SUDO_USER=") })
		return cmd
	}
	cmd := demo(`id -un; echo "$((40+2)), it's"; ps aux | wc -l; exit 42`)
	r := host.Run(cmd)
	lines := strings.Split(r.Stdout, "\n")
	if r.Code != 42 || len(lines) != 4 || lines[0] != fmt.Sprintf("cdemo%d", cmd.Process.Pid) || lines[1] != "42, it's" {
		t.Errorf("make demo: %v; want its lines and exit 42", r)
	}
	wantNoTraces(t, cmd.Process.Pid)

	// A person at a terminal types a few lines.
	term := open(t, demo(""))
	if _, err := term.Expect(`leave it with exit`); err != nil {
		t.Fatal(err)
	}
	// The twin of what is looked for in the end.
	if got := traces(t, term.Pid()); len(got) < 3 {
		t.Errorf("a running demo shows only in %q: the test proves nothing", got)
	}
	ask(t, term, "echo user=$USER $((6*7))", `[\r\n]user=(cdemo\d+ 42)\r`)
	send(t, term, "exit 3\n")
	if r := term.Wait(); r.Code != 3 {
		t.Errorf("make demo, interactive: %v; want exit 3", r)
	}
	wantNoTraces(t, term.Pid())

	// Ctrl-C while a command runs.
	term = open(t, demo("echo up; exec sleep 1000"))
	if _, err := term.Expect(`up\r\n`); err != nil {
		t.Fatal(err)
	}
	send(t, term, "\x03")
	if r := term.Wait(); r.Code != 130 {
		t.Errorf("make demo, Ctrl-C: %v; want exit 130", r)
	}
	wantNoTraces(t, term.Pid())
}

func open(t *testing.T, cmd *exec.Cmd) *host.Terminal {
	t.Helper()
	term, err := host.OnTerminal(cmd, 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { term.Close() })
	return term
}

func wantNoTraces(t *testing.T, pid int) {
	t.Helper()
	if left := traces(t, pid); len(left) != 0 {
		t.Errorf("the demo left something behind:\n%s", strings.Join(left, "\n"))
	}
}

// traces lists what a demo has made on this machine. Its process is the one
// that make was: make becomes scripts/demo, and that the program.
func traces(t *testing.T, pid int) []string {
	t.Helper()
	name, dir := fmt.Sprintf("cdemo%d", pid), fmt.Sprintf("carrel-demo-%d", pid)
	var lines []string
	for _, pattern := range []string{"/var/tmp/" + dir + "-*", "/home/" + name, "/sys/fs/cgroup/" + dir, "/sys/fs/cgroup/*/" + dir} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, matches...)
	}
	for _, file := range []string{"/etc/passwd", "/etc/group", "/etc/subuid", "/proc/self/mountinfo"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			if strings.Contains(line, name+":") || strings.Contains(line, dir) {
				lines = append(lines, file+": "+line)
			}
		}
	}
	procs, err := host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if strings.Contains(p.Exe, dir) || strings.Contains(fmt.Sprint(p.Cgroups), "/"+dir) {
			lines = append(lines, fmt.Sprint(p))
		}
	}
	return lines
}
