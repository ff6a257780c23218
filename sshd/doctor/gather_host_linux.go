package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sandbox/idrange"
)

// mailers deliver to local accounts by the files in their homes.
var mailers = []string{"/usr/sbin/exim4", "/usr/sbin/exim", "/usr/libexec/postfix/local", "/usr/lib/postfix/sbin/local", "/usr/sbin/sendmail.sendmail", "/usr/sbin/smtpd", "/usr/bin/procmail"}

// services act for accounts, as them, and do not run their login shell.
var services = []Service{
	{"/usr/sbin/vsftpd", "FTP reads and writes the host's files"},
	{"/usr/sbin/proftpd", "FTP reads and writes the host's files"},
	{"/usr/sbin/pure-ftpd", "FTP reads and writes the host's files"},
	{"/usr/sbin/smbd", "Samba reads and writes the host's files"},
	{"/usr/sbin/gdm3", "a graphical login runs on the host"},
	{"/usr/sbin/lightdm", "a graphical login runs on the host"},
	{"/usr/bin/sddm", "a graphical login runs on the host"},
	{"/usr/sbin/xrdp", "a graphical login runs on the host"},
	{"/usr/lib/cockpit/cockpit-session", "Cockpit runs its bridge on the host"},
	{"/usr/libexec/cockpit-session", "Cockpit runs its bridge on the host"},
	{"/usr/lib/rstudio-server/bin/rserver", "RStudio runs sessions on the host"},
	{"/usr/sbin/in.rshd", "rsh runs what ~/.rhosts admits"},
}

// host reads what is about all accounts.
func (g *Gatherer) host(f *Facts) {
	for _, dir := range []string{"/etc/pam.d", "/usr/lib/pam.d"} {
		entries, err := os.ReadDir(g.at(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Unchecked = append(f.Unchecked, err.Error())
		}
		for _, e := range entries {
			if file := dir + "/" + e.Name(); e.Type().IsRegular() && !strings.Contains(e.Name(), ".dpkg-") {
				f.PAM = append(f.PAM, g.lines(f, file, isCode)...)
			}
		}
	}
	for _, program := range mailers {
		if g.executable(program) {
			f.Mailers = append(f.Mailers, program)
		}
	}
	for _, s := range services {
		if g.executable(s.Program) {
			f.Services = append(f.Services, s)
		}
	}
	f.ListedShells = g.lines(f, shellsPath, func(line string) bool { return isCode(line) && f.isCarrelsh(line) })
	region := idrange.Region{First: g.Config.IDs.First, Count: int(g.Config.IDs.Count / config.BlockSize)}
	err := region.Check(idrange.HostFiles{
		Passwd: g.at("/etc/passwd"), Group: g.at("/etc/group"), Subuid: g.at("/etc/subuid"), Subgid: g.at("/etc/subgid"),
	})
	conflicts, ok := errors.AsType[*idrange.Conflicts](err)
	switch {
	case ok:
		f.IDs = conflicts.Found
		for i, c := range f.IDs {
			f.IDs[i].Source = "/" + strings.TrimLeft(strings.TrimPrefix(c.Source, g.Root), "/")
		}
	case err != nil:
		f.Unchecked = append(f.Unchecked, err.Error())
	}
}

const shellsPath = "/etc/shells"

// A demand is what a file of Carrel's must be like.
type demand struct {
	path, what string
	want       fs.FileMode // exact; 0: others than root must not be able to write
	kind       string      // of the finding if it is not
	severity   Severity    // 0: the kind's worst
}

// demands lists what `make install` and carreld make.
func (g *Gatherer) demands() []demand {
	state := func(name string) string { return filepath.Join(g.StateDir, name) }
	run := func(name string) string { return filepath.Join(g.RunDir, name) }
	return []demand{
		{path: g.Carrelsh, what: "the login shell", want: 0o755, kind: "file-mode"},
		{path: g.Carrel, what: "carrel", want: 0o755, kind: "file-mode"},
		{path: g.Carreld, what: "the daemon", want: 0o755, kind: "file-mode"},
		{path: filepath.Join(g.LibexecDir, "carrel-runtime"), what: "which only root starts", want: 0o700, kind: "file-mode"},
		{path: filepath.Join(g.LibexecDir, "carrel-init"), what: "PID 1 of containers, which none of them may read", want: 0o111, kind: "file-mode"},
		{path: filepath.Join(g.LibexecDir, "carrel-unpack"), what: "the image worker", want: 0o755, kind: "file-mode"},
		{path: filepath.Join(g.LibexecDir, "carrel-transfer"), what: "lent to containers", want: 0o755, kind: "file-mode"},
		{path: g.StateDir, what: "the state of carreld", want: 0o711, kind: "state-mode"},
		{path: state("users"), what: "layers of users", want: 0o700, kind: "state-mode"},
		{path: state("images"), what: "images, whose set-uid programs belong to the host's root", want: 0o700, kind: "state-mode"},
		{path: state("homes"), what: "homes, whose files no program of the host may load", want: 0o700, kind: "state-mode", severity: Warning},
		{path: state("ids.json"), what: "the table of ids", want: 0o600, kind: "state-mode", severity: Warning},
		{path: g.RunDir, what: "the sockets of carreld", want: 0o755, kind: "state-mode"},
		{path: run("c"), what: "the sockets of containers", want: 0o700, kind: "state-mode"},
		{path: run("runtime"), what: "the records of containers", want: 0o700, kind: "state-mode"},
		{path: run("login.sock"), what: "where carrelsh asks", want: 0o666, kind: "state-mode", severity: Warning},
		{path: run("admin.sock"), what: "the administrator's socket", want: 0o600, kind: "state-mode"},
	}
}

// installation notes the files of Carrel that are not as they should be, and
// the directories above the programs that somebody but root can change.
func (g *Gatherer) installation(f *Facts) {
	seen := map[string]bool{}
	for _, d := range g.demands() {
		if d.path == "" {
			continue
		}
		info, uid, err := statUID(g.at(d.path))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				f.Unchecked = append(f.Unchecked, err.Error())
			}
			continue
		}
		mode := info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid)
		if uid != 0 || mode != d.want {
			kind, severity := d.kind, d.severity
			// A program that gives rights, or that others can change.
			if info.Mode().IsRegular() && (uid != 0 || mode&(fs.ModeSetuid|fs.ModeSetgid|0o022) != 0) {
				kind, severity = "set-id", 0
			}
			if kind == "state-mode" && uid == 0 && mode&^d.want == 0 {
				severity = Warning // tighter than it should be: logins fail
			}
			f.Files = append(f.Files, File{Path: d.path, What: d.what, Kind: kind, Mode: mode, UID: uid, Want: d.want, Severity: severity})
		}
		for dir := path.Dir(d.path); dir != "/" && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			g.parent(f, dir)
		}
	}
}

// parent notes a directory above Carrel's files that others can change. One
// with the sticky bit, as /tmp, keeps what is root's.
func (g *Gatherer) parent(f *Facts, dir string) {
	if slices.ContainsFunc(g.demands(), func(d demand) bool { return d.path == dir }) {
		return
	}
	info, uid, err := statUID(g.at(dir))
	if err != nil || uid == 0 && (info.Mode()&0o022 == 0 || info.Mode()&fs.ModeSticky != 0) {
		return
	}
	f.Files = append(f.Files, File{Path: dir, What: "above Carrel's files", Kind: "set-id", Mode: info.Mode() &^ fs.ModeDir, UID: uid})
}

// kernel reads what the running kernel offers.
func (g *Gatherer) kernel(f *Facts) {
	k := &f.Kernel
	k.Release = strings.TrimSpace(g.text(f, "/proc/sys/kernel/osrelease"))
	if n, err := fmt.Sscanf(k.Release, "%d.%d", &k.Major, &k.Minor); n != 2 || err != nil {
		f.Unchecked = append(f.Unchecked, fmt.Sprintf("kernel release %q", k.Release))
		k.Release = ""
	}
	if !strings.Contains(g.text(f, "/proc/filesystems"), "\toverlay\n") && !g.moduleExists(k.Release, "overlay") {
		k.Missing = append(k.Missing, "overlay file system")
	}
	for file, feature := range map[string]string{
		"/proc/sys/kernel/seccomp/actions_avail": "seccomp filters",
		"/proc/self/ns/user":                     "user namespaces",
		"/proc/self/ns/cgroup":                   "cgroup namespaces",
		"/proc/self/ns/net":                      "network namespaces",
	} {
		if !g.exists(file) {
			k.Missing = append(k.Missing, feature)
		}
	}
	slices.Sort(k.Missing)
	k.Sysctl = map[string]string{}
	for _, name := range []string{tiocsti, "kernel.core_pattern", "user.max_user_namespaces", "user.max_pid_namespaces", "user.max_mnt_namespaces", "user.max_net_namespaces"} {
		if value, err := readBounded(os.Open(g.at("/proc/sys/" + strings.ReplaceAll(name, ".", "/")))); err == nil {
			k.Sysctl[name] = strings.TrimSpace(value)
		}
	}
	g.controllers(f)
}

// moduleExists reports whether the kernel can load a file system that it does
// not have yet.
func (g *Gatherer) moduleExists(release, name string) bool {
	if release == "" {
		return false
	}
	dir := "/lib/modules/" + release
	text, _ := os.ReadFile(g.at(dir + "/modules.dep")) // some are larger than readBounded's
	return strings.Contains(string(text), "/"+name+".ko")
}

// controllers finds out which limits can be enforced.
func (g *Gatherer) controllers(f *Facts) {
	h, err := g.Cgroup()
	if err != nil {
		f.Unchecked = append(f.Unchecked, err.Error())
		return
	}
	f.Kernel.CgroupMode = h.String()
	var v2 []string
	if h.String() == "v2" {
		text, err := readBounded(os.Open(filepath.Join(h.Unified, "cgroup.controllers")))
		if err != nil {
			f.Unchecked = append(f.Unchecked, err.Error())
			return
		}
		v2 = strings.Fields(text)
	}
	for _, controller := range []string{"memory", "cpu", "pids"} {
		if h.V1[controller] == "" && !slices.Contains(v2, controller) {
			f.Kernel.NoLimit = append(f.Kernel.NoLimit, controller)
		}
	}
}
