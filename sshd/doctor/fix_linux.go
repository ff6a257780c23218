package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sshd"
)

// An Action is what Fix did, or could not do.
type Action struct {
	ID    string `json:"id"` // of the finding that it is for, the first of several
	Did   string `json:"did,omitempty"`
	Error string `json:"error,omitempty"`
}

// Fix applies the remedies of those findings that have a safe one. f is what
// they were found in. It goes on after a failure. Doing it again does nothing.
func (g *Gatherer) Fix(ctx context.Context, f *Facts, findings []Finding) []Action {
	x := &fixer{Gatherer: g, facts: f, spared: make(map[string]bool)}
	var forSSHD []string
	for _, finding := range findings {
		x.id = finding.ID
		finding.Accounts = slices.DeleteFunc(slices.Clone(finding.Accounts), x.spares)
		switch finding.ID {
		case "systemd-user":
			x.mask(ctx, finding.Accounts)
		case "linger":
			x.unlinger(ctx, finding.Accounts)
		case "cron-allowed":
			x.forbid("cron", finding.Accounts)
		case "at-allowed":
			x.forbid("at", finding.Accounts)
		case "shells":
			x.unlist()
		case "set-id", "file-mode", "state-mode":
			x.modes(finding.ID)
		case "sshd-stale":
			x.reload(ctx)
		case "tiocsti":
			x.sysctl(tiocsti, "0")
		default:
			if finding.Fix { // all that the drop-in is the remedy for
				forSSHD = append(forSSHD, finding.Accounts...)
			}
		}
	}
	if len(forSSHD) > 0 {
		x.id = "sshd"
		slices.Sort(forSSHD)
		x.serverFix(ctx, slices.Compact(forSSHD))
	}
	return x.actions
}

// A fixer applies remedies and notes what it did.
type fixer struct {
	*Gatherer
	facts   *Facts
	id      string // of the finding at hand
	actions []Action
	spared  map[string]bool // accounts that were said to be left alone
}

// spares reports whether an account is left alone: a stranger, and one that
// logs in to the host today and is a user of Carrel by a rule about one of its
// groups alone. The remedies would lock it into a container, and whether that is
// meant is the administrator's to decide.
func (x *fixer) spares(name string) bool {
	a := x.account(name)
	if !a.ByGroup || slices.ContainsFunc(a.Probes, func(p Probe) bool { return x.facts.forced(&p) }) {
		return a.Stranger
	}
	if !x.spared[name] {
		x.spared[name] = true
		x.failed(fmt.Errorf("%s is left alone: %s, but its shell is %s and sshd does not force carrelsh; decide with `usermod -aG %s -s %s %s`", name, a.Why, a.Shell, sshd.Group, x.Carrelsh, name))
	}
	return true
}

func (x *fixer) did(format string, args ...any) {
	x.actions = append(x.actions, Action{ID: x.id, Did: fmt.Sprintf(format, args...)})
}

func (x *fixer) failed(err error) {
	x.actions = append(x.actions, Action{ID: x.id, Error: err.Error()})
}

// note says what was done, unless err.
func (x *fixer) note(err error, format string, args ...any) bool {
	if err != nil {
		x.failed(err)
		return false
	}
	x.did(format, args...)
	return true
}

// run runs a program whose success is worth a line.
func (x *fixer) run(ctx context.Context, name string, args ...string) bool {
	_, err := x.Run(ctx, name, args...)
	return x.note(err, "%s %s", name, strings.Join(args, " "))
}

// account returns the facts of the account called name.
func (x *fixer) account(name string) *Account {
	i := slices.IndexFunc(x.facts.Accounts, func(a Account) bool { return a.Name == name })
	return &x.facts.Accounts[i]
}

// systemd reports whether systemd runs (sd_booted(3)).
func (x *fixer) systemd() bool { return x.exists("/run/systemd/system") }

// mask does what `systemctl mask` does, which needs no systemd.
func (x *fixer) mask(ctx context.Context, names []string) {
	const dir = "/etc/systemd/system"
	if err := os.MkdirAll(x.at(dir), 0o755); err != nil {
		x.failed(err)
		return
	}
	var masked []string
	for _, name := range names {
		unit := unitName(x.account(name).UID)
		file := dir + "/" + unit
		// A unit of the administrator's own is not replaced.
		if x.note(os.Symlink("/dev/null", x.at(file)), "linked %s to /dev/null", file) {
			masked = append(masked, unit)
		}
	}
	if len(masked) > 0 && x.systemd() {
		x.run(ctx, "systemctl", "daemon-reload")
		x.run(ctx, "systemctl", append([]string{"stop"}, masked...)...)
	}
}

func (x *fixer) unlinger(ctx context.Context, names []string) {
	for _, name := range names {
		file := x.account(name).Lingers
		if x.systemd() {
			x.run(ctx, "loginctl", "disable-linger", name)
		}
		if err := os.Remove(x.at(file)); !errors.Is(err, fs.ErrNotExist) {
			x.note(err, "removed %s", file)
		}
	}
}

// forbid keeps accounts from making jobs, by whichever list there is.
func (x *fixer) forbid(program string, names []string) {
	if len(names) == 0 {
		return
	}
	allow, deny := "/etc/"+program+".allow", "/etc/"+program+".deny"
	if x.exists(allow) {
		err := x.edit(allow, func(lines []string) []string {
			return slices.DeleteFunc(lines, func(line string) bool { return slices.Contains(names, strings.TrimSpace(line)) })
		})
		x.note(err, "removed %s from %s", strings.Join(names, ", "), allow)
		return
	}
	err := x.edit(deny, func(lines []string) []string { return append(lines, names...) })
	x.note(err, "added %s to %s", strings.Join(names, ", "), deny)
}

// unlist takes carrelsh out of /etc/shells.
func (x *fixer) unlist() {
	err := x.edit(shellsPath, func(lines []string) []string {
		return slices.DeleteFunc(lines, func(line string) bool { return x.facts.isCarrelsh(strings.TrimSpace(line)) })
	})
	x.note(err, "removed carrelsh from %s", shellsPath)
}

// modes gives files of one kind the owner and the mode that they should have.
func (x *fixer) modes(kind string) {
	for _, file := range x.facts.Files {
		if file.Kind != kind {
			continue
		}
		mode := file.Want
		if mode == 0 { // a directory above Carrel's files
			if file.UID != 0 { // perhaps somebody's home
				x.failed(fmt.Errorf("%s, which is above Carrel's files, is left alone: make it root's, or install Carrel elsewhere", file.Path))
				continue
			}
			mode = file.Mode &^ (fs.ModeSetuid | fs.ModeSetgid | 0o022)
		}
		// The owner first: chown(2) clears set-id bits, and not the other way.
		err := os.Chown(x.at(file.Path), 0, 0)
		if err == nil {
			err = os.Chmod(x.at(file.Path), mode)
		}
		x.note(err, "gave %s to root, mode %s", file.Path, octal(mode))
	}
}

// sysctl sets a value now and at each boot.
func (x *fixer) sysctl(name, value string) {
	err := x.edit(sysctlFile, func(lines []string) []string {
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, name) })
		return append(lines, name+" = "+value)
	})
	if x.note(err, "wrote %s = %s to %s", name, value, sysctlFile) {
		err := os.WriteFile(x.at("/proc/sys/"+strings.ReplaceAll(name, ".", "/")), []byte(value+"\n"), 0o644)
		x.note(err, "set %s to %s", name, value)
	}
}

// edit replaces the lines of a file, which need not exist.
func (x *fixer) edit(file string, change func(lines []string) []string) error {
	text, err := readBounded(os.Open(x.at(file)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	text = strings.Join(change(lines), "\n")
	if text != "" {
		text += "\n"
	}
	return x.replace(file, text)
}

// replace writes a file that appears whole or not at all, with the owner, group
// and mode that it had; root's, 0644, if it is new. A link stays one.
func (x *fixer) replace(file, text string) error {
	name := x.at(file)
	mode, uid, gid := fs.FileMode(0o644), -1, -1
	if real, err := filepath.EvalSymlinks(name); err == nil {
		var st unix.Stat_t
		if err := unix.Stat(real, &st); err != nil {
			return fmt.Errorf("stat %s: %w", real, err)
		}
		name, mode, uid, gid = real, fs.FileMode(st.Mode&0o777), int(st.Uid), int(st.Gid)
	} else if x.exists(file) {
		return err // a dangling link
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".carrel-doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone after the rename
	defer temp.Close()
	if _, err := temp.WriteString(text); err != nil {
		return err
	}
	if err := errors.Join(temp.Chown(uid, gid), temp.Chmod(mode), temp.Sync()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), name)
}

// serverFix puts accounts under the drop-in: the group, its members, the file,
// and a line that includes it.
func (x *fixer) serverFix(ctx context.Context, names []string) {
	if _, err := x.Run(ctx, sshdProgram, "-t"); err != nil {
		x.failed(fmt.Errorf("sshd refuses its configuration as it is; nothing was changed: %w", err))
		return
	}
	switch text, err := readBounded(os.Open(x.at(sshd.DropInPath))); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		x.failed(err)
		return
	case err == nil && !sshd.IsDropIn(text):
		x.failed(fmt.Errorf("%s was edited, and whom it serves may depend on that, so it is left alone: add %s to it, or move it away and fix again", sshd.DropInPath, strings.Join(names, ", ")))
		return
	}
	if _, err := x.Run(ctx, "getent", "group", sshd.Group); err != nil {
		x.run(ctx, "groupadd", "--system", sshd.Group)
	}
	for _, name := range names {
		if !slices.Contains(x.account(name).Groups, sshd.Group) {
			x.run(ctx, "gpasswd", "-a", name, sshd.Group)
		}
	}
	undo, changed, err := x.writeDropIn()
	if err == nil && changed {
		_, err = x.Run(ctx, sshdProgram, "-t")
	}
	switch {
	case err != nil:
		x.failed(fmt.Errorf("sshd's configuration was put back as it was: %w", errors.Join(err, undo())))
	case changed:
		x.reload(ctx)
	}
}

// writeDropIn writes the drop-in and includes it, and returns what takes that
// back. What is replaced is kept beside it, where sshd does not look.
func (x *fixer) writeDropIn() (undo func() error, changed bool, err error) {
	var undos []func() error
	undo = func() error {
		var errs []error
		for _, u := range slices.Backward(undos) {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	write := func(file, text string) error {
		old, err := readBounded(os.Open(x.at(file)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			undos = append(undos, func() error { return os.Remove(x.at(file)) })
		case err != nil:
			return err
		case old == text:
			return nil
		default:
			undos = append(undos, func() error { return x.replace(file, old) })
			if err := x.replace(file+".before-doctor", old); err != nil {
				return err
			}
			x.did("kept the former %s as %s.before-doctor", file, file)
		}
		changed = true
		return x.noted(x.replace(file, text), "wrote %s", file)
	}
	if err := write(sshd.DropInPath, sshd.DropIn(x.Carrelsh)); err != nil {
		return undo, changed, err
	}
	lines, err := sshd.ReadConfig(x.Root)
	if err != nil {
		return undo, changed, err
	}
	if slices.ContainsFunc(lines, func(l sshd.Line) bool { return l.File == sshd.DropInPath }) {
		return undo, changed, nil
	}
	text, err := readBounded(os.Open(x.at(sshd.ConfigPath)))
	if err != nil {
		return undo, changed, err
	}
	return undo, changed, write(sshd.ConfigPath, "Include "+sshd.DropInPath+"\n"+text)
}

// noted is note for an error that the caller reports.
func (x *fixer) noted(err error, format string, args ...any) error {
	if err == nil {
		x.did(format, args...)
	}
	return err
}

// reload makes a running sshd read its configuration. Connections that are
// open stay as they are.
func (x *fixer) reload(ctx context.Context) {
	if x.Root != "" {
		return
	}
	pid, before, ok := x.running()
	// It has read its configuration when it has written its id again.
	defer func() {
		for end := time.Now().Add(3 * time.Second); ok && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if _, since, again := x.running(); again && since.After(before) {
				return
			}
		}
	}()
	if x.systemd() {
		for _, unit := range []string{"ssh.service", "sshd.service"} {
			if _, err := x.Run(ctx, "systemctl", "--quiet", "is-active", unit); err == nil {
				x.run(ctx, "systemctl", "reload", unit)
				return
			}
		}
	}
	if ok {
		x.note(syscall.Kill(pid, syscall.SIGHUP), "sent SIGHUP to sshd, pid %d", pid)
	}
}
