package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sshd"
)

// A Runner runs a program of the host and returns what it printed.
type Runner func(ctx context.Context, name string, args ...string) (stdout string, err error)

// A Gatherer reads a host. Config and the paths of Carrel must be set.
type Gatherer struct {
	Root   string // put in front of every path; "" is the host itself
	Run    Runner // nil: Execute
	Cgroup func() (cgroup.Hierarchy, error)

	Config      *config.Config
	ConfigError error // why Config holds the defaults
	// Carrelsh is the path of the installed carrelsh. The other programs are
	// looked at if they exist.
	Carrelsh, Carrel, Carreld, LibexecDir string
	StateDir, RunDir                      string

	Users []string // look at these accounts alone; empty: at all
}

const (
	runDeadline  = 20 * time.Second
	homeDeadline = 5 * time.Second
	maxFileBytes = 1 << 20
)

// Execute is the Runner of the host itself.
func Execute(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runDeadline)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Gather reads the host. What cannot be read is named in Facts.Unchecked; an
// error means that nothing could be found out, as that there is no such user.
func (g *Gatherer) Gather(ctx context.Context) (*Facts, error) {
	if g.Run == nil {
		g.Run = Execute
	}
	if g.Cgroup == nil {
		g.Cgroup = cgroup.Detect
	}
	f := &Facts{Carrelsh: g.Carrelsh, StateDir: g.StateDir, Shells: g.Config.LoginShells}
	if g.ConfigError != nil {
		f.Config = strings.Split(g.ConfigError.Error(), "\n")
	}
	g.server(f)
	if err := g.people(ctx, f); err != nil {
		return nil, err
	}
	g.host(f)
	g.installation(f)
	g.kernel(f)
	running := g.processes(f)
	for i := range f.Accounts {
		f.Accounts[i].Processes = running[fmt.Sprint(f.Accounts[i].UID)]
	}
	g.each(f, func(a *Account) []string { return g.look(ctx, f, a) })
	return f, nil
}

// at returns where a path of the host is.
func (g *Gatherer) at(file string) string { return filepath.Join(g.Root, file) }

// exists reports whether there is something at the path, a dangling link too.
func (g *Gatherer) exists(file string) bool {
	_, err := os.Lstat(g.at(file))
	return err == nil
}

// executable reports whether one of the programs is installed.
func (g *Gatherer) executable(files ...string) bool {
	return slices.ContainsFunc(files, func(file string) bool {
		info, err := os.Stat(g.at(file))
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
	})
}

// text returns the file, "" if it does not exist; whatever else keeps it from
// being read is noted.
func (g *Gatherer) text(f *Facts, file string) string {
	text, err := readBounded(os.Open(g.at(file)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Unchecked = append(f.Unchecked, err.Error())
	}
	return text
}

// readBounded reads a regular file that was opened, and closes it. Of a file
// that is too large it returns the beginning, and an error.
func readBounded(file *os.File, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %q: not a regular file", file.Name())
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileBytes))
	if err == nil && len(text) == maxFileBytes {
		err = fmt.Errorf("read %q: larger than %d bytes", file.Name(), maxFileBytes-1)
	}
	return string(text), err
}

// lines returns the places of a file for which want is true of the line, less
// blanks around it.
func (g *Gatherer) lines(f *Facts, file string, want func(line string) bool) []Place {
	return places(file, g.text(f, file), want)
}

func places(file, text string, want func(line string) bool) []Place {
	var found []Place
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); want(line) {
			found = append(found, Place{file, number, strings.Join(strings.Fields(line), " ")})
		}
	}
	return found
}

// isCode reports whether a line is neither empty nor a comment.
func isCode(line string) bool { return line != "" && line[0] != '#' }

// server reads sshd's configuration.
func (g *Gatherer) server(f *Facts) {
	f.SSHD.Present = g.executable(sshdProgram)
	f.SSHD.RC = g.exists("/etc/ssh/sshrc")
	if !f.SSHD.Present {
		return
	}
	var err error
	if f.SSHD.Lines, err = sshd.ReadConfig(g.Root); err != nil {
		f.Unchecked = append(f.Unchecked, err.Error())
	}
	f.SSHD.Stale = g.stale(f.SSHD.Lines)
}

// running returns the id of the sshd that listens, and when it last read its
// configuration: it writes the file of its id each time, after a SIGHUP too.
func (g *Gatherer) running() (pid int, since time.Time, ok bool) {
	text, err := readBounded(os.Open(g.at(pidPath)))
	if err != nil {
		return 0, since, false // it does not run, or is started for each connection
	}
	info, err := os.Stat(g.at(pidPath))
	if err != nil {
		return 0, since, false
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(text)); err != nil {
		return 0, since, false
	}
	exe, err := os.Readlink(g.at(fmt.Sprintf("/proc/%d/exe", pid)))
	return pid, info.ModTime(), err == nil && isServer(strings.TrimSuffix(exe, " (deleted)"))
}

const pidPath = "/run/sshd.pid"

// stale returns a file of the configuration that the running sshd has not read.
func (g *Gatherer) stale(lines []sshd.Line) string {
	_, since, ok := g.running()
	if !ok {
		return ""
	}
	for _, line := range lines {
		if info, err := os.Stat(g.at(line.File)); err == nil && info.ModTime().After(since) {
			return line.File
		}
	}
	return ""
}

const sshdProgram = "/usr/sbin/sshd"

// people finds the users of Carrel.
func (g *Gatherer) people(ctx context.Context, f *Facts) error {
	source := &accounts.Source{PasswdPath: g.at("/etc/passwd"), GroupPath: g.at("/etc/group"), Getent: g.at("/usr/bin/getent")}
	// getent enumerates directory services too, as far as they let it.
	passwd, err := g.Run(ctx, "getent", "passwd")
	if err != nil {
		return err
	}
	sameUID := map[string][]string{}
	var names []string
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 7 {
			continue
		}
		names = append(names, fields[0])
		sameUID[fields[2]] = append(sameUID[fields[2]], fields[0])
		if fields[2] == "0" && g.isCarrelsh(fields[6]) {
			f.RootShells = append(f.RootShells, fields[0])
		}
	}
	if len(g.Users) > 0 {
		names = g.Users
	}
	decide := policy.New(g.Config)
	forces := slices.ContainsFunc(f.SSHD.Lines, func(l sshd.Line) bool {
		return l.Keyword == "forcecommand" && f.isCarrelsh(strings.Trim(l.Args, `"`))
	})
	for _, name := range names {
		// A shared uid or name keeps the account from logging in, but not from
		// being looked at.
		found, err := source.LookupName(ctx, name)
		if errors.Is(err, accounts.ErrAmbiguous) {
			found, err = fromPasswd(passwd, name), nil
		}
		if err != nil {
			if len(g.Users) > 0 {
				return err
			}
			if !errors.Is(err, accounts.ErrNotFound) { // else Carrel serves no such name
				f.Unchecked = append(f.Unchecked, err.Error())
			}
			continue
		}
		if found.UID == 0 && len(g.Users) == 0 {
			continue
		}
		a := g.account(decide, found)
		a.SameUID = slices.DeleteFunc(slices.Clone(sameUID[fmt.Sprint(a.UID)]), func(other string) bool { return other == a.Name })
		if a.Why == "" && forces && !hopeless(a.Shell) {
			a.Probes = g.probe(ctx, f, a.Name)
			if slices.ContainsFunc(a.Probes, func(p Probe) bool { return f.forced(&p) }) {
				a.Why = "sshd forces carrelsh"
			}
		}
		if a.Why == "" && len(g.Users) > 0 {
			a.Why, a.Stranger = "you asked about it", true
		}
		if a.Why != "" {
			f.Accounts = append(f.Accounts, a)
		}
	}
	return nil
}

// hopeless reports whether nobody logs in with the shell.
func hopeless(shell string) bool {
	return slices.Contains([]string{"nologin", "false", "sync", "halt", "shutdown"}, path.Base(shell))
}

// fromPasswd returns the first account called name, without groups.
func fromPasswd(passwd, name string) accounts.Account {
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		var uid uint32
		if len(fields) != 7 || fields[0] != name {
			continue
		}
		if n, err := fmt.Sscan(fields[2], &uid); n == 1 && err == nil {
			return accounts.Account{Name: name, UID: uid, Home: fields[5], Shell: fields[6]}
		}
	}
	return accounts.Account{Name: name}
}

func (g *Gatherer) isCarrelsh(shell string) bool {
	return slices.Contains(g.Config.LoginShells, shell) || path.Base(shell) == "carrelsh"
}

// account tells what an account is to Carrel.
func (g *Gatherer) account(decide *policy.Policy, from accounts.Account) Account {
	a := Account{Name: from.Name, UID: from.UID, Dir: from.Home, Shell: from.Shell, Contained: g.isCarrelsh(from.Shell)}
	request := policy.Request{Account: policy.Account{Name: from.Name, UID: from.UID, GID: from.GID, Home: from.Home, Shell: from.Shell}}
	for _, group := range from.Groups {
		a.Groups = append(a.Groups, group.Name)
		request.Account.Groups = append(request.Account.Groups, policy.Group(group))
	}
	decision, err := decide.Decide(request)
	if err == nil {
		a.Home, a.Agent = decision.Home, decision.Agent
	}
	a.WritesDir = a.Home == config.HomeHost || below(a.Dir, g.StateDir)
	switch {
	case a.Contained:
		a.Why = "its shell is carrelsh"
	case slices.Contains(a.Groups, sshd.Group):
		a.Why = "it is in the group " + sshd.Group
	case err == nil && decision.Rule != policy.NoRule && g.named(from, decision.Rule):
		a.Why = fmt.Sprintf("carrel.toml:%d serves it", g.Config.Rules[decision.Rule].Line)
		a.ByGroup = !slices.Contains(g.Config.Rules[decision.Rule].Users, a.Name)
	}
	return a
}

// named reports whether a rule is about the account and not about everybody.
func (g *Gatherer) named(a accounts.Account, rule int) bool {
	r := g.Config.Rules[rule]
	return slices.Contains(r.Users, a.Name) ||
		slices.ContainsFunc(a.Groups, func(group accounts.Group) bool { return group.Name != "" && slices.Contains(r.Groups, group.Name) })
}

// probe asks sshd for its effective configuration.
func (g *Gatherer) probe(ctx context.Context, f *Facts, user string) []Probe {
	var probes []Probe
	for _, c := range sshd.Connections(f.SSHD.Lines) {
		text, err := g.Run(ctx, sshdProgram, "-T", "-C", c.Spec(user))
		if err != nil {
			f.Unchecked = append(f.Unchecked, err.Error())
			break
		}
		probes = append(probes, Probe{c, sshd.ParseEffective(text)})
	}
	return probes
}

// each looks at every account, a few at a time, and notes what could not be
// read in the order of accounts.
func (g *Gatherer) each(f *Facts, look func(*Account) (unchecked []string)) {
	var wg sync.WaitGroup
	free := make(chan struct{}, 4)
	unchecked := make([][]string, len(f.Accounts))
	for i := range f.Accounts {
		free <- struct{}{}
		wg.Go(func() {
			unchecked[i] = look(&f.Accounts[i])
			<-free
		})
	}
	wg.Wait()
	f.Unchecked = unique(append(f.Unchecked, slices.Concat(unchecked...)...))
}

// statUID returns the mode and the owner of a file, that of a link's target.
func statUID(file string) (fs.FileInfo, uint32, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		panic("BUG: no Stat_t on Linux")
	}
	return info, st.Uid, nil
}
