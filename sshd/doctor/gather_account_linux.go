package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mailFiles are what mail systems obey in a home.
var mailFiles = []string{".forward", ".procmailrc", ".mailfilter", ".qmail"}

// homeFiles are files and directories of a home that the host obeys.
var homeFiles = append([]string{".ssh/rc", ".ssh/environment", ".pam_environment", ".config/systemd/user"}, mailFiles...)

// look fills in what is to be known of one account, and returns what could not
// be read. Of f, which all accounts share, it only reads.
func (g *Gatherer) look(ctx context.Context, f *Facts, a *Account) []string {
	own := &Facts{SSHD: f.SSHD}
	if f.SSHD.Present && a.Probes == nil {
		a.Probes = g.probe(ctx, own, a.Name)
	}
	g.home(own, a)
	g.units(a)
	a.Cron = g.cron(own, a)
	a.At = g.atd(own, a)
	return own.Unchecked
}

// home looks into pw_dir, which may be on storage that hangs.
func (g *Gatherer) home(f *Facts, a *Account) {
	type result struct {
		problem string
		files   map[string]string
		keys    []Place
	}
	done := make(chan result, 1)
	b := *a // the goroutine may outlive us
	go func() {
		problem := g.homeOwner(&b)
		files, keys := g.homeFiles(&b)
		done <- result{problem, files, keys}
	}()
	select {
	case r := <-done:
		a.DirProblem, a.DirFiles, a.Keys = r.problem, r.files, r.keys
	case <-time.After(homeDeadline):
		f.Unchecked = append(f.Unchecked, fmt.Sprintf("the home of %s, %q, does not answer", a.Name, a.Dir))
	}
}

// homeOwner says who else can change the home; "" for nobody.
func (g *Gatherer) homeOwner(a *Account) string {
	info, uid, err := statUID(g.at(a.Dir))
	switch {
	case err != nil || !info.IsDir() || a.Dir == "/":
		return ""
	case uid != a.UID && uid != 0:
		return fmt.Sprintf("%s belongs to uid %d", a.Dir, uid)
	case info.Mode()&0o022 != 0 && !below(a.Dir, "/nonexistent"):
		return fmt.Sprintf("%s has mode %s", a.Dir, octal(info.Mode()))
	}
	return ""
}

// homeFiles reads what the host obeys. Nothing leads out of the home.
func (g *Gatherer) homeFiles(a *Account) (map[string]string, []Place) {
	if !path.IsAbs(a.Dir) {
		return nil, nil
	}
	root, err := os.OpenRoot(g.at(a.Dir))
	if err != nil {
		return nil, nil
	}
	defer root.Close()
	files := map[string]string{}
	for _, name := range homeFiles {
		info, err := root.Stat(name)
		if err != nil {
			continue
		}
		files[name] = ""
		if info.Mode().IsRegular() {
			files[name], _ = readBounded(root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0))
		}
	}
	var keys []Place
	for _, probe := range a.Probes[:min(1, len(a.Probes))] {
		for _, file := range KeyFiles(probe.Effective, a.Name, a.Dir, a.UID) {
			keys = append(keys, g.keys(root, a, file)...)
		}
	}
	return files, keys
}

// keys returns the entries of a file of keys that are restricted to a command.
func (g *Gatherer) keys(home *os.Root, a *Account, file string) []Place {
	var text string
	if name, err := filepath.Rel(a.Dir, file); err == nil && below(file, a.Dir) {
		text, _ = readBounded(home.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0))
	} else {
		text, _ = readBounded(os.OpenFile(g.at(file), os.O_RDONLY|syscall.O_NONBLOCK, 0))
	}
	found := places(file, text, func(line string) bool {
		options, _, _ := strings.Cut(line, " ssh-") // the key follows its options
		return isCode(line) && options != line && strings.Contains(strings.ToLower(options), "command=")
	})
	for i := range found {
		found[i].Text = "command=…"
	}
	return found
}

// units looks at the user's service manager. That a unit is masked is a link
// to /dev/null, or an empty file (systemd.unit(5)).
func (g *Gatherer) units(a *Account) {
	if linger := "/var/lib/systemd/linger/" + a.Name; g.exists(linger) {
		a.Lingers = linger
	}
	for _, dir := range []string{"/lib/systemd/system", "/usr/lib/systemd/system"} {
		if unit := dir + "/user@.service"; g.exists(unit) {
			a.UserUnit = unit
		}
	}
	if g.withheld(a) {
		a.UserUnit = ""
	}
	for _, dir := range []string{"/etc/systemd/system.control", "/run/systemd/system.control", "/etc/systemd/system", "/run/systemd/system"} {
		for _, unit := range []string{unitName(a.UID), "user@.service"} {
			target, err := os.Readlink(g.at(dir + "/" + unit))
			info, statErr := os.Stat(g.at(dir + "/" + unit))
			if err == nil && target == "/dev/null" || statErr == nil && info.Mode().IsRegular() && info.Size() == 0 {
				a.UserUnit = ""
			}
		}
	}
}

// withheld says that the package's drop-in keeps systemd from starting the
// account's manager. Of drop-ins of one name the first counts (systemd.unit(5)).
func (g *Gatherer) withheld(a *Account) bool {
	for _, dir := range []string{"/etc", "/run", "/usr/lib", "/lib"} {
		file := dir + "/systemd/system/user@.service.d/50-carrel.conf"
		if !g.exists(file) {
			continue
		}
		text, err := os.ReadFile(g.at(file))
		return err == nil && slices.ContainsFunc(strings.Split(string(text), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "ExecCondition=") && slices.Contains(strings.Fields(line), a.Shell)
		})
	}
	return false
}

// cron says what cron(8) does for the account, by crontab(1) of Debian.
func (g *Gatherer) cron(f *Facts, a *Account) Schedule {
	var s Schedule
	if g.executable("/usr/bin/crontab") {
		// Without lists Debian's admits everybody, and others root alone.
		s.Allowed = g.allowed(f, a.Name, "cron", g.exists("/etc/debian_version"))
	}
	if !g.executable("/usr/sbin/cron", "/usr/sbin/crond", "/usr/bin/crontab") {
		return s
	}
	for _, spool := range []string{"/var/spool/cron/crontabs/", "/var/spool/cron/"} {
		file := spool + a.Name
		if info, err := os.Lstat(g.at(file)); err == nil && info.Mode().IsRegular() {
			for _, line := range g.lines(f, file, isCode) {
				s.Jobs = append(s.Jobs, line.String())
			}
		}
	}
	tables, err := filepath.Glob(g.at("/etc/cron.d/*"))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	for _, file := range append(tables, g.at("/etc/crontab")) {
		file = "/" + strings.TrimLeft(strings.TrimPrefix(file, g.Root), "/")
		for _, line := range g.lines(f, file, func(line string) bool { return isCode(line) && tableUser(line) == a.Name }) {
			s.Jobs = append(s.Jobs, line.String())
		}
	}
	return s
}

// tableUser returns the user of a line of crontab(5), in the form that the
// system's tables have.
func tableUser(line string) string {
	fields := strings.Fields(line)
	switch {
	case len(fields) >= 3 && strings.HasPrefix(fields[0], "@"):
		return fields[1]
	case len(fields) >= 7 && !strings.Contains(fields[0], "="):
		return fields[5]
	}
	return ""
}

// allowed says why an account may make jobs: a list of those who may, or else
// a list of those who may not, or else what the program does without lists.
func (g *Gatherer) allowed(f *Facts, name, program string, without bool) string {
	allow, deny := "/etc/"+program+".allow", "/etc/"+program+".deny"
	lists := func(file string) bool {
		return len(g.lines(f, file, func(line string) bool { return line == name })) > 0
	}
	switch {
	case g.exists(allow):
		if lists(allow) {
			return allow + " names it"
		}
	case g.exists(deny):
		if !lists(deny) {
			return deny + " does not name it"
		}
	case without:
		return "neither " + allow + " nor " + deny + " exists"
	}
	return ""
}

// atd says what atd(8) does for the account; see at(1) for who may.
func (g *Gatherer) atd(f *Facts, a *Account) Schedule {
	var s Schedule
	if !g.executable("/usr/bin/at") {
		return s
	}
	s.Allowed = g.allowed(f, a.Name, "at", false) // root alone
	for _, spool := range []string{"/var/spool/cron/atjobs", "/var/spool/at"} {
		entries, err := os.ReadDir(g.at(spool))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Unchecked = append(f.Unchecked, err.Error())
		}
		for _, e := range entries {
			file := spool + "/" + e.Name()
			if info, uid, err := statUID(g.at(file)); err == nil && uid == a.UID && info.Mode().IsRegular() {
				s.Jobs = append(s.Jobs, file)
			}
		}
	}
	return s
}

// processes returns, by uid, what runs on the host, but carrelsh and the
// programs that hold its session: sshd, and what login and su fork to wait.
func (g *Gatherer) processes(f *Facts) map[string][]string {
	entries, err := os.ReadDir(g.at("/proc"))
	if err != nil {
		f.Unchecked = append(f.Unchecked, err.Error())
	}
	found := map[string][]string{}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := g.at("/proc/" + e.Name())
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue // gone
		}
		exe, err := os.Readlink(dir + "/exe")
		if err != nil {
			continue // a zombie, a kernel thread, or gone
		}
		exe = strings.TrimSuffix(exe, " (deleted)") // replaced by an upgrade
		if slices.Contains(f.Shells, exe) || exe == f.Carrelsh || isServer(exe) {
			continue
		}
		uid := statusUID(string(status))
		found[uid] = append(found[uid], fmt.Sprintf("%s (%s)", e.Name(), exe))
	}
	return found
}

// isServer reports whether the program is OpenSSH's server, or what it starts
// for a connection.
func isServer(exe string) bool {
	return slices.Contains([]string{"sshd", "sshd-session", "sshd-auth"}, path.Base(exe)) &&
		slices.ContainsFunc([]string{"/usr/sbin", "/usr/bin", "/usr/lib", "/usr/libexec"}, func(dir string) bool { return below(exe, dir) })
}

// statusUID returns the real uid of /proc/PID/status.
func statusUID(status string) string {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if fields := strings.Fields(ids); len(fields) > 0 {
				return fields[0]
			}
		}
	}
	return ""
}
