package deb

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// A stage is a root file system of this host's programs and nothing else of
// it, in which a script of dpkg's may do what it likes.
type stage struct{ dir string }

func newStage(t *testing.T, scripts map[string]string) stage {
	t.Helper()
	testneed.Root(t)
	testneed.Tool(t, "unshare")
	s := stage{t.TempDir()}
	sh(t, s.dir, `chmod 755 .
mkdir -p usr proc dev etc/ssh/sshd_config.d etc/carrel run/carrel var/lib/carrel/images var/lib/carrel/homes/1000 export/1000
ln -s usr/bin usr/sbin usr/lib .; [ ! -e /lib64 ] || ln -s usr/lib64 .
cp -a /etc/alternatives etc/; : >dev/null; chmod 666 dev/null
echo root:x:0:0::/root:/bin/bash >etc/passwd; echo root:x:0: >etc/group
echo mine >export/1000/file`)
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// run runs a command in there, in a mount namespace that ends with it.
func (s stage) run(t *testing.T, command string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-ec",
		`mount --bind /usr usr; mount -o remount,bind,ro usr; mount -t proc proc proc; exec chroot . /bin/sh -c "$0"`, command)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DPKG_MAINTSCRIPT_PACKAGE=carrel"}
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// TestPrerm is about who keeps the package from being removed. Of two rows that
// differ in one thing, one is refused and the other is not.
func TestPrerm(t *testing.T) {
	const (
		shell   = "alice:x:1000:1000::/home/alice:/usr/bin/carrelsh\n"
		bash    = "alice:x:1000:1000::/home/alice:/bin/bash\n"
		primary = "carol:x:1001:900::/home/carol:/bin/bash\n"
		nobody  = "carrel:x:900:\n"
		members = "carrel:x:900:bob,alice\n"
		chsh    = "\n  chsh -s /bin/bash NAME\n"
		gpasswd = "\n  gpasswd -d NAME carrel\n"
		usermod = "\n  usermod -g GROUP NAME\n"
	)
	conf := string(read(t, "../ssh/50-carrel.conf"))
	for _, test := range []struct {
		name, passwd, group, conf, args string
		want                            []string
	}{
		{"nobody", bash, nobody, conf, "remove", nil},
		{"a login shell", shell, nobody, conf, "remove", []string{"\n  alice\n", chsh}},
		{"members", bash, members, conf, "remove", []string{"\n  alice bob\n", gpasswd}},
		{"a primary group", bash + primary, nobody, conf, "remove", []string{"\n  carol\n", usermod}},
		{"all of them", shell + primary, members, conf, "remove", []string{"\n  alice\n", chsh, "\n  alice bob\n", gpasswd, "\n  carol\n", usermod}},
		{"upgrade", shell + primary, members, conf, "upgrade 2.0", nil},
		{"no conf", bash + primary, members, "", "remove", nil},
		{"a conf that forces nothing", bash + primary, members, strings.Replace(conf, "\tForceCommand", "\t#ForceCommand", 1), "remove", nil},
		{"a conf in other letters", bash, members, "match group carrel\nforcecommand=/usr/bin/carrelsh\n", "remove", []string{gpasswd}},
		{"no group", bash + primary, "", conf, "remove", nil},
		{"no sshd", bash + primary, members, conf, "remove", nil},
		{"no sshd, and a login shell", shell, members, conf, "remove", []string{"\n  alice\n", chsh}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testneed.Root(t)
			testneed.Tool(t, "/usr/sbin/sshd")
			s := newStage(t, map[string]string{"prerm": string(read(t, "scripts/prerm")), "etc/passwd": test.passwd, "etc/group": test.group})
			if test.conf != "" {
				sh(t, s.dir, `printf %s "$0" >etc/ssh/sshd_config.d/50-carrel.conf`, test.conf)
			}
			path := "/usr/sbin:/usr/bin"
			if strings.HasPrefix(test.name, "no sshd") {
				path = "/usr/bin"
			}
			_, said, status := s.run(t, "PATH="+path+" exec sh /prerm "+test.args)
			if (status == 0) != (test.want == nil) || (said == "") != (test.want == nil) || status > 1 {
				t.Errorf("status %d; want refused: %v\n%s", status, test.want != nil, said)
			}
			for _, remedy := range []string{chsh, gpasswd, usermod} {
				if want := strings.Contains(strings.Join(test.want, ""), remedy); strings.Contains(said, remedy) != want {
					t.Errorf("%q is said: %v; want %v\n%s", remedy, !want, want, said)
				}
			}
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("%q is not said:\n%s", want, said)
				}
			}
		})
	}
}

// odd is a name that a shell, a pattern and the kernel's list of mounts write
// differently.
const odd = "a [b]*\\040\t#\n%s"

// TestPurge purges where an administrator has mounted something. The twin of
// each is the script that does not look at the mounts.
func TestPurge(t *testing.T) {
	testneed.Root(t)
	const (
		fill = `mkdir -p $d/images/.x $d/homes/1000; echo x | tee $d/ids.json $d/.hidden $d/..odd $d/images/.x/y $d/homes/1000/file >/run/carrel/file; `
		top  = "/var/lib/carrel\n"
		home = "/var/lib/carrel/homes\n/var/lib/carrel/homes/1000\n"
		file = "/var/lib/carrel/homes/1000/file\n"
		all  = "all of /var/lib/carrel/homes"
	)
	postrm := string(read(t, "scripts/postrm"))
	blind := strings.ReplaceAll(postrm, "/proc/self/mountinfo", "/nowhere") // all that rm does
	for _, test := range []struct {
		name, setup, left, mounted string
		said                       string // unless it is about mounted
	}{
		{name: "nothing", setup: fill},
		{name: "a link", setup: "rm -r $d; mkdir -p /export/1000; ln -s /export $d; ", said: "carrel: not deleted, for /var/lib/carrel is only a link to it: /export\n"},
		{name: "the state", setup: "mount -t tmpfs none $d; " + fill, left: top, mounted: "/var/lib/carrel itself"},
		{name: "the homes", setup: "mount -t tmpfs none $d/homes; " + fill, left: top + home + file, mounted: all},
		{name: "the homes, on the same file system", setup: "mount --bind /export $d/homes; " + fill, left: top + home + file, mounted: all},
		{name: "the state and the homes", setup: "mount -t tmpfs none $d; mkdir $d/homes; mount --bind /export $d/homes; " + fill,
			left: top + home + file, mounted: "/var/lib/carrel itself, " + all},
		{name: "the homes and one of them", setup: "mount --bind /export $d/homes; mount -t tmpfs none $d/homes/1000; " + fill, left: top + home + file, mounted: all},
		{name: "the state and what runs", setup: "mount -t tmpfs none $d; mount -t tmpfs none /run/carrel; " + fill,
			left: "/run/carrel\n" + top, mounted: "/var/lib/carrel itself, /run/carrel itself"},
		{name: "an odd name", setup: fill + `m=$d/homes/1000/$ODD; mkdir "$m" "$d/homes/1000/a b"; mount --bind /export/1000 "$m"; `,
			left: top + home + "/var/lib/carrel/homes/1000/ODD\n/var/lib/carrel/homes/1000/ODD/file\n", mounted: all + "/1000/ODD"},
		{name: "a file", setup: fill + "mount --bind /export/1000/file $d/ids.json; ", left: top + "/var/lib/carrel/ids.json\n", mounted: "all of /var/lib/carrel/ids.json"},
		{name: "the homes, behind a link", setup: "mkdir /srv; mv /var/lib /srv/; ln -s ../srv/lib /var/; mount --bind /export $d/homes; " + fill,
			left: top + home + file, mounted: "all of /srv/lib/carrel/homes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.mounted != "" {
				test.said = "carrel: not deleted, for a file system is mounted there: " + test.mounted + "\n"
			}
			test.left = "/export\n/export/1000\n/export/1000/file\n" + test.left
			purge := func(script string) (diff string) {
				left, said, status := newStage(t, map[string]string{"postrm": script}).run(t, "export ODD='"+odd+"' d=/var/lib/carrel; "+test.setup+
					"sh /postrm purge </dev/null || status=$?; find /export /run/carrel /var/lib/carrel /etc/carrel 2>/dev/null || true; exit $status")
				lines := strings.SplitAfter(strings.ReplaceAll(left, odd, "ODD"), "\n")
				slices.Sort(lines)
				return cmp.Diff([]any{0, test.left, test.said}, []any{status, strings.Join(lines, ""), strings.ReplaceAll(said, odd, "ODD")})
			}
			if diff := purge(postrm); diff != "" {
				t.Errorf("status, what is left, what is said (-want +got):\n%s", diff)
			}
			if diff := purge(blind); (diff == "") != (test.mounted == "") {
				t.Errorf("blind to the mounts it differs: %v; the test proves nothing\n%s", diff != "", diff)
			}
		})
	}
}
