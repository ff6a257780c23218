package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An Account is a throw-away login of this machine.
type Account struct {
	Name, Home, Shell string
	UID, GID          uint32
	Groups            []uint32
}

// Account makes an account whose login shell is shell, by default this host's
// carrelsh, with a home that useradd(8) fills. Close removes it.
func (h *Host) Account(suffix, shell string) (Account, error) {
	if shell == "" {
		shell = h.Path("carrelsh")
	}
	name := "c" + strings.ReplaceAll(h.name, "-", "") + suffix
	// An account that is locked by "!" is refused by sshd; "*" merely has no password.
	if err := passwdTool("useradd", "-m", "-p", "*", "-s", shell, name); err != nil {
		return Account{}, err
	}
	h.accounts = append(h.accounts, Account{Name: name})
	a, err := Lookup(name)
	if err != nil {
		return Account{}, err
	}
	a.Shell = shell
	h.accounts[len(h.accounts)-1] = a
	return a, nil
}

// Lookup returns an account that the machine has already. It is not removed.
func Lookup(name string) (Account, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Account{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return Account{}, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return Account{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Account{}, err
	}
	a := Account{Name: name, Home: u.HomeDir, UID: uint32(uid), GID: uint32(gid)}
	for _, id := range ids {
		g, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return Account{}, err
		}
		a.Groups = append(a.Groups, uint32(g))
	}
	return a, nil
}

// remove ends what still runs on the host as the account, and deletes it.
func (a Account) remove() error {
	if a.UID != 0 {
		procs, err := Processes()
		if err != nil {
			return err
		}
		for _, p := range procs {
			if p.UID == a.UID {
				_ = syscall.Kill(p.Pid, syscall.SIGKILL)
			}
		}
	}
	return passwdTool("userdel", "-r", a.Name)
}

// passwdTool runs a program of shadow's, again while others hold its lock.
func passwdTool(name string, args ...string) error {
	var out []byte
	for range 50 {
		var err error
		out, err = exec.Command(name, args...).CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &exit):
			return err
		case name == "userdel" && (exit.ExitCode() == 12 || exit.ExitCode() == 6):
			return nil // its home or mail spool, or the account itself, is gone already
		case name == "userdel" && exit.ExitCode() == 8: // still logged in
		case exit.ExitCode() != 1 && exit.ExitCode() != 10: // cannot lock
			return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s %q: %s", name, args, out)
}

// Credential returns what a process of the account runs with.
func (a Account) Credential() *syscall.Credential {
	return &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
}

// Environ returns what login(1) would give a session of the account.
func (a Account) Environ() []string {
	return []string{
		"HOME=" + a.Home, "USER=" + a.Name, "LOGNAME=" + a.Name, "SHELL=" + a.Shell,
		"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8",
	}
}

// WriteHome writes a file of the account's into its home on the host.
func (a Account) WriteHome(name, content string) error {
	path := a.Home + "/" + name
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Chown(path, int(a.UID), int(a.GID))
}

// Remove removes an account before Close does.
func (h *Host) Remove(a Account) error {
	h.accounts = slices.DeleteFunc(h.accounts, func(other Account) bool { return other.Name == a.Name })
	return a.remove()
}
