package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// old is a time that files get, so that kept times show.
var old = time.Unix(1234567890, 0)

// A world is two directories: the client's and the other side's.
type world struct{ local, remote string }

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{t.TempDir(), t.TempDir()}
	w.fill(t, w.local, "l")
	w.fill(t, w.remote, "r")
	return w
}

// fill makes a tree with what has broken copies before.
func (world) fill(t *testing.T, top, side string) {
	t.Helper()
	d := side + "dir"
	for _, dir := range []string{d, d + "/sub", d + "/closed", "both"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{
		side + "1.txt": 0o640, side + "2.txt": 0o444, side + "empty": 0o644, side + "run": 0o755 | fs.ModeSetuid, side + " a 'b\" $c": 0o600,
		"-" + side: 0o644, side + "\nline": 0o644, d + "/f": 0o664, d + "/sub/ü": 0o600, d + "/closed/f": 0o400, "both/" + side: 0o644, "same": 0o444,
	} {
		path := filepath.Join(top, name)
		text := name
		if strings.HasSuffix(name, "empty") {
			text = ""
		}
		err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode), os.Chtimes(path, old, old))
		if err != nil {
			t.Fatal(err)
		}
	}
	big := strings.Repeat("0123456789abcdef\x00\n\r\xff", 60_001)
	err := errors.Join(os.WriteFile(filepath.Join(top, side+"big"), []byte(big), 0o644),
		os.Symlink(side+"1.txt", filepath.Join(top, side+"link")),
		os.Symlink("nowhere", filepath.Join(top, d, "dangling")),
		os.Symlink(d, filepath.Join(top, side+"dirlink")))
	for _, dir := range []string{d + "/closed", d + "/sub", d} {
		err = errors.Join(err, os.Chtimes(filepath.Join(top, dir), old, old))
	}
	err = errors.Join(err, os.Chmod(filepath.Join(top, d, "closed"), 0o500|fs.ModeSticky))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, _ error) error {
			if e != nil && e.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	})
}

// show lists a tree: mode, whether the time is old, name, size and text.
func show(t *testing.T, top string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == top {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		age := "new"
		if info.ModTime().Equal(old) {
			age = "old"
		}
		line := fmt.Sprintf("%v %s %q", info.Mode(), age, strings.TrimPrefix(path, top))
		switch info.Mode().Type() {
		case 0:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %.40q", len(text), text)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + strings.TrimPrefix(target, top)
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// An outcome is all that a user sees of a copy.
type outcome struct {
	Status        int
	Said          []string
	Local, Remote []string
}

// run starts a client in a new world whose other side has the tools.
func run(t *testing.T, tools, stdin string, client ...string) outcome {
	t.Helper()
	w := newWorld(t)
	ssh, err := filepath.Abs("testdata/ssh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(client[0], append([]string{"-S", ssh}, client[1:]...)...)
	cmd.Dir = w.local
	cmd.Env = append(os.Environ(), "REMOTE_HOME="+w.remote, "REMOTE_TOOLS="+tools, "LC_ALL=C.UTF-8", noSleep)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	said := strings.NewReplacer(w.local, "LOCAL", w.remote, "REMOTE").Replace(string(out))
	return outcome{cmd.ProcessState.ExitCode(), strings.Split(strings.TrimSpace(said), "\n"), show(t, w.local), show(t, w.remote)}
}

// openSSH returns the directory of the oracle's remote halves.
func openSSH(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, path := range map[string]string{"scp": testneed.Tool(t, "scp"), "sftp-server": testneed.Tool(t, "/usr/lib/openssh/sftp-server")} {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestSCP copies with Debian's scp in both protocols. The oracle is the same
// copy with OpenSSH's own programs on the other side: a user must not see any
// difference, in files, status or words.
func TestSCP(t *testing.T) {
	scp := testneed.Tool(t, "scp")
	theirs, ours := openSSH(t), tools(t, "scp", "sftp-server")
	for _, args := range []string{
		"l1.txt h:", "l1.txt h:new", "l1.txt h:both", "l1.txt h:both/", "lempty h:", "lbig h:", "l2.txt h:", "lrun h:", "-p lrun l2.txt h:",
		"same h:", "-p same h:", "llink h:", "l1.txt h:rlink", "l1.txt l2.txt h:both", "-r ldir h:", "-r ldir h:new", "-r ldir h:rdir", "-rp ldir h:",
		"-rp ldir h:rdir", "-r both h:", "-rp both h:", "-r ldirlink h:new", "-r lbig ldir h:rdirlink", "-- -l h:", "l1.txt h:~/", "l1.txt h:~",
		"h:r1.txt .", "h:r1.txt new", "h:rempty .", "h:rbig .", "h:rrun .", "-p h:rrun .", "h:r2.txt h:r1.txt both", "h:*.txt .", "h:r?.txt both",
		"h:same .", "h:rlink .", "h:~/r1.txt .", "-r h:rdir .", "-rp h:rdir .", "-rp h:rdir/ new", "-r h:both .", "-r h:rdirlink new", "h:./-r .", "-r h:rdir/* .",
		"h:/dev/null x",
		// What must fail, does so in the same words.
		"l1.txt h:none/x", "l1.txt h:none/", "l1.txt l2.txt h:r1.txt", "l1.txt l2.txt h:none", "-r ldir h:r1.txt", "none h:", "ldir h:",
		"h:none .", "h:none h:r1.txt .", "h:rdir .", "h:none* .", "-r h:none .",
	} {
		for _, protocol := range []string{"-O", "-s"} {
			t.Run(protocol+" "+strings.ReplaceAll(args, "/", "|"), func(t *testing.T) {
				t.Parallel()
				command := append([]string{scp, "-q", protocol}, strings.Fields(args)...)
				want := run(t, theirs, "", command...)
				got := run(t, ours, "", command...)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-OpenSSH +ours):\n%s", diff)
				}
			})
		}
	}
}

// TestSCPNames copies names that a shell or a record could trip over.
func TestSCPNames(t *testing.T) {
	scp := testneed.Tool(t, "scp")
	theirs, ours := openSSH(t), tools(t, "scp", "sftp-server")
	for _, args := range [][]string{
		{"-O", "l a 'b\" $c", "h:"}, {"-s", "l a 'b\" $c", "h:"}, {"-O", "l\nline", "h:"}, {"-s", "l\nline", "h:"},
		{"-O", `h:r\ a\ \'b\"\ \$c`, "."}, {"-s", "h:r a 'b\" $c", "."}, {"-O", "h:r?line", "."}, {"-s", "h:r?line", "."},
		{"-O", "l1.txt", "h:$HOME/x; echo y >z"}, {"-s", "l1.txt", "h:$HOME; echo y >z"},
	} {
		command := append([]string{scp, "-q"}, args...)
		want, got := run(t, theirs, "", command...), run(t, ours, "", command...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("scp %q (-OpenSSH +ours):\n%s", args, diff)
		}
	}
}

// TestSFTP runs batches of Debian's sftp, with the same oracle.
func TestSFTP(t *testing.T) {
	sftp := testneed.Tool(t, "sftp")
	theirs, ours := openSSH(t), tools(t, "sftp-server")
	for _, batch := range []string{
		"pwd", "cd rdir\npwd\nls -1", "cd rdirlink\npwd", "cd rdirlink/..\npwd", "cd rdir/dangling", "cd /../etc//./\npwd", "cd ~\npwd", "ls -1", "ls -1 rdir", "ls r*.txt", "ls -1 none", "cd none", "cd r1.txt", "df none",
		"put l1.txt", "put l1.txt new", "put -p lrun", "put lbig both/", "put -r ldir", "put -rp ldir", "put -p l?.txt both", "put -f lempty", "reput lbig",
		"put l1.txt r2.txt", "put l1.txt none/x",
		"get r1.txt", "get -p rrun", "get rbig new", "get -r rdir", "get -rp rdir", "get r*.txt both", "reget rbig", "get none", "get rdir/dangling",
		"mkdir d", "mkdir r1.txt", "mkdir none/d", "mkdir d\nrmdir d", "rmdir rdir", "rmdir none", "rm r1.txt r2.txt", "rm none", "rm r?.txt", "rm rdir", "rmdir r1.txt", "mkdir d\nrm d",
		"rename r1.txt new", "rename r1.txt r2.txt", "rename none new", "rename -l r1.txt new", "-rename -l r1.txt r2.txt", "rename -l rdir new",
		"rename -l rdir both", "rename -l none new", "rename -l rlink new",
		"ln -s r1.txt l", "ln -s ../x/y rdir/l", "ln -s /a/b l", "ln -s r1.txt r2.txt", "ln r1.txt hard", "ln none hard",
		"chmod 600 r1.txt", "chmod 4711 r1.txt", "chmod 1777 rdir", "chmod 600 none", "chmod 600 rlink",
	} {
		t.Run(strings.NewReplacer("/", "|", "\n", ";").Replace(batch), func(t *testing.T) {
			t.Parallel()
			command := []string{sftp, "-q", "-b", "-", "h"}
			want := run(t, theirs, batch+"\n", command...)
			got := run(t, ours, batch+"\n", command...)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-OpenSSH +ours):\n%s", diff)
			}
		})
	}
}

// TestSFTPDirect is sftp -D, which runs a server on this machine itself.
func TestSFTPDirect(t *testing.T) {
	server := filepath.Join(tools(t, "sftp-server"), "sftp-server")
	dir := t.TempDir()
	for _, test := range []struct {
		options, batch string
		status         int
		tree           []string
	}{
		{"", "mkdir d", 0, []string{"d"}},
		{" -R", "mkdir e", 1, []string{"d"}},
		{" -R", "rmdir d", 1, []string{"d"}},
		{" -R", "rename d e", 1, []string{"d"}},
		{" -R", "rename -l d e", 1, []string{"d"}},
		{" -R", "put /dev/null", 1, []string{"d"}},
		{" -P mkdir", "mkdir e", 1, []string{"d"}},
		{" -P rmdir,remove", "rmdir d", 1, []string{"d"}},
		{" -p realpath,stat,lstat", "rmdir d", 1, []string{"d"}},
		{" -P posix-rename,rename", "rename d e", 1, []string{"d"}},
		{" -p realpath,stat,lstat,rmdir", "rmdir d", 0, nil},
		{" -e -l DEBUG3 -f AUTH -u 077 -d " + dir, "mkdir f", 0, []string{"f"}},
	} {
		cmd := exec.Command(testneed.Tool(t, "sftp"), "-q", "-b", "-", "-D", server+test.options)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), noSleep)
		cmd.Stdin = strings.NewReader(test.batch + "\n")
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != test.status {
			t.Errorf("%q with%q: status %d, %v; want %d\n%s", test.batch, test.options, got, err, test.status, out)
		}
		var names []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !cmp.Equal(names, test.tree) {
			t.Errorf("%q with%q left %q; want %q", test.batch, test.options, names, test.tree)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "f")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("-u 077 made mode %v, %v; want 0700", info.Mode(), err)
	}
}
