package accounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	getentDeadline = 5 * time.Second
	keepFound      = time.Minute
	keepMissing    = 5 * time.Second // so that a new account need not wait long
	maxCached      = 4096            // accounts
	maxOutputBytes = 16 << 20        // groups of a large site, with their members
)

// An nssCache holds what getent said, and what it is being asked.
type nssCache struct {
	mu      sync.Mutex
	answers map[string]*answer // by key: a uid in decimal, or a name
}

// An answer is there when done is closed; only then may the rest be read.
type answer struct {
	done    chan struct{}
	account Account
	err     error
	expires time.Time
}

// ask returns the account that getent finds under key, which is a uid or a
// plausible name; right says whether it is the one that was asked for. All who
// ask for one key at the same time share one run of getent. It goes on when
// ctx ends, for the others.
func (s *Source) ask(ctx context.Context, key string, right func(Account) bool) (Account, error) {
	a := s.nss.answer(key, func() (Account, error) {
		return s.getentAccount(key, right)
	})
	// A process in an uninterruptible sleep outlives its killing.
	timeout := time.NewTimer(s.timeout() + time.Second)
	defer timeout.Stop()
	select {
	case <-a.done:
	case <-ctx.Done():
		return Account{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-timeout.C:
		return Account{}, fmt.Errorf("%w: getent cannot be killed", ErrUnavailable)
	}
	account := a.account
	account.Groups = slices.Clone(account.Groups)
	return account, a.err
}

// answer returns the answer for key, and starts to find it if there is none.
func (c *nssCache) answer(key string, find func() (Account, error)) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.answers[key]; a != nil && !a.expired(time.Now()) {
		return a
	}
	c.makeRoom(time.Now())
	a := &answer{done: make(chan struct{})}
	c.answers[key] = a
	go func() {
		defer close(a.done)
		a.account, a.err = find()
		keep := keepMissing
		if a.err == nil {
			keep = keepFound
		}
		a.expires = time.Now().Add(keep)
	}()
	return a
}

// expired reports whether the answer was there and is too old.
func (a *answer) expired(now time.Time) bool {
	select {
	case <-a.done:
		return now.After(a.expires)
	default:
		return false
	}
}

// makeRoom drops old answers, or all that are there, when there are too many.
func (c *nssCache) makeRoom(now time.Time) {
	if c.answers == nil {
		c.answers = map[string]*answer{}
	}
	for _, at := range []time.Time{now, now.Add(2 * keepFound)} {
		if len(c.answers) < maxCached {
			return
		}
		for key, a := range c.answers {
			if a.expired(at) {
				delete(c.answers, key)
			}
		}
	}
}

func (s *Source) timeout() time.Duration {
	if s.deadline > 0 {
		return s.deadline
	}
	return getentDeadline
}

// getentAccount runs getent for an account and its groups.
func (s *Source) getentAccount(key string, right func(Account) bool) (Account, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout())
	defer cancel()
	out, err := s.getent(ctx, "passwd", key)
	if err != nil {
		return Account{}, err
	}
	line, rest, _ := strings.Cut(out, "\n")
	a, ok := parseAccount(line)
	if !ok || rest != "" || !plausibleName(a.Name) {
		return Account{}, fmt.Errorf("%w: getent passwd answers %.80q", ErrUnavailable, out)
	}
	if !right(a) {
		return Account{}, fmt.Errorf("%w: getent answers %q for %q", ErrNotFound, a.Name, key)
	}
	if err := s.alone(a); err != nil {
		return Account{}, err
	}
	if a.Groups, err = s.getentGroups(ctx, a); err != nil {
		return Account{}, err
	}
	return a, nil
}

// alone checks that the files have no account with the name or the uid of a,
// which comes from elsewhere.
func (s *Source) alone(a Account) error {
	files, err := s.current()
	if err != nil {
		return err
	}
	if others := append(slices.Clone(files.ids[a.UID]), files.names[a.Name]...); len(others) > 0 {
		return ambiguous(append(others, a))
	}
	return nil
}

// getentGroups returns the groups of a, with names where there are some.
func (s *Source) getentGroups(ctx context.Context, a Account) ([]Group, error) {
	// "alice                 100 200 300", see getgrouplist(3)
	out, err := s.getent(ctx, "initgroups", a.Name)
	if err != nil {
		return nil, err
	}
	numbers, ok := strings.CutPrefix(out, a.Name)
	if !ok || strings.Count(out, "\n") > 1 {
		return nil, fmt.Errorf("%w: getent initgroups answers %.80q", ErrUnavailable, out)
	}
	var more []Group
	for _, number := range strings.Fields(numbers) {
		gid, ok := parseID(number)
		if !ok {
			return nil, fmt.Errorf("%w: getent initgroups answers %.80q", ErrUnavailable, number)
		}
		more = append(more, Group{GID: gid})
	}
	groups := withPrimary(Group{GID: a.GID}, more)
	return groups, s.nameGroups(ctx, groups)
}

// nameGroups fills in the names of the groups, as far as there are some.
func (s *Source) nameGroups(ctx context.Context, groups []Group) error {
	keys := make([]string, len(groups))
	for i, g := range groups {
		keys[i] = strconv.FormatUint(uint64(g.GID), 10)
	}
	out, err := s.getent(ctx, "group", keys...)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	names := map[uint32]string{}
	for line := range strings.Lines(out) {
		if g, _, ok := parseGroup(line); ok {
			names[g.GID] = g.Name
		}
	}
	for i := range groups {
		groups[i].Name = names[groups[i].GID]
	}
	return nil
}

// getent runs getent for the keys and returns its output. That one of them was
// not found is ErrNotFound, with the output for the others.
func (s *Source) getent(ctx context.Context, database string, keys ...string) (string, error) {
	var out bounded
	cmd := exec.CommandContext(ctx, orDefault(s.Getent, "/usr/bin/getent"), append([]string{database, "--"}, keys...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Dir = "/"
	cmd.Stdout = &out
	cmd.WaitDelay = 100 * time.Millisecond
	// The whole group: NSS modules may start programs of their own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return out.buf.String(), nil
	case errors.Is(err, fs.ErrNotExist): // a host without getent has no NSS that we could ask
		return "", ErrNotFound
	case ctx.Err() != nil:
		return "", fmt.Errorf("%w: getent %s took longer than %v", ErrUnavailable, database, s.timeout())
	case exited && exit.ExitCode() == 2: // getent(1): a key could not be found
		return out.buf.String(), ErrNotFound
	}
	return "", fmt.Errorf("%w: getent %s: %w", ErrUnavailable, database, err)
}

// bounded is a writer that fails instead of growing without end. The failure
// ends the copying, and SIGPIPE the program. The buffer is no embedded field:
// io.Copy would find its ReadFrom and go around Write.
type bounded struct{ buf bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxOutputBytes {
		return 0, errors.New("output is too long")
	}
	return b.buf.Write(p)
}
