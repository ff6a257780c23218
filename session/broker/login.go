package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/imagestore"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
)

// failure is why a login got no session: the code for the user, the cause for
// the log.
type failure struct {
	code   session.Failure
	detail string
	cause  error
}

func fail(code session.Failure, detail string, cause error) *failure {
	return &failure{code, detail, cause}
}

// serve decides and starts a session, nil if the caller has it.
func (b *Broker) serve(ctx context.Context, conn *caller, uid uint32, request *session.Request) *failure {
	account, err := b.Accounts.Lookup(ctx, uid)
	if errors.Is(err, accounts.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return fail(session.NoAnswer, "", err)
	}
	if err != nil {
		return fail(session.UnknownAccount, "", err)
	}
	decision, err := b.Policy().Decide(policyRequest(account))
	if err != nil {
		return refusal(err)
	}
	if message, ok := b.shut(request); ok {
		return fail(session.Refused, message, errors.New("closed for maintenance"))
	}
	if own, ok := ownCommand(request, decision); ok && b.Own != nil {
		return b.serveOwn(ctx, conn, account, own, request.Streams)
	}
	wanted, fresh, err := b.wanted(ctx, account, decision)
	if err != nil {
		return imageFailure(decision.Image, err)
	}
	// The second try is for a container that ended between being found and
	// being asked.
	for try := 0; ; try++ {
		c, f := b.container(ctx, wanted, fresh)
		if f != nil {
			return f
		}
		if c.HomeMissing() && !request.Streams.Tty {
			// A person at a terminal is told, and can look what is the matter. A
			// command that takes another directory for its home does harm.
			return fail(session.HomeUnusable, "it does not answer", errors.New("home does not answer"))
		}
		if err := c.Acquire(); err != nil {
			return unfit(err)
		}
		order := b.order(c, wanted, decision, request)
		conn.version = min(conn.version, c.Protocol())
		reply, fds, err := b.spawn(ctx, c, order, conn.version)
		c.Release()
		if err != nil && try == 0 && ended(c) {
			continue
		}
		if err != nil {
			return fail(session.NoAnswer, "", fmt.Errorf("carrel-init: %w", err))
		}
		reply.Notice = b.greeting(account, decision, request, reply)
		f = b.deliver(conn, account.Name, request, reply, fds)
		if f == nil && b.Observer != nil {
			b.Observer.LoggedIn(uid, order.ID, request.Streams.Tty)
		}
		return f
	}
}

func policyRequest(a accounts.Account) policy.Request {
	account := policy.Account{Name: a.Name, UID: a.UID, GID: a.GID, Home: a.Home, Shell: a.Shell}
	for _, g := range a.Groups {
		account.Groups = append(account.Groups, policy.Group(g))
	}
	return policy.Request{Account: account}
}

func refusal(err error) *failure {
	var refused *policy.Refusal
	if errors.As(err, &refused) {
		if refused.Code == policy.CodeHome {
			return fail(session.HomeUnusable, "", err)
		}
		return fail(session.Refused, refused.Message, err)
	}
	return fail(session.Internal, "", err)
}

// SuspendedSentence is for a user whom root suspended.
const SuspendedSentence = "your container has been suspended; please ask the administrator"

// unfit is why a container that runs takes no session.
func unfit(err error) *failure {
	if errors.Is(err, sandbox.ErrSuspended) {
		return fail(session.Refused, SuspendedSentence, err)
	}
	return fail(session.NoAnswer, "", err)
}

// ended waits a moment for the kernel to say that PID 1 has ended.
func ended(c container) bool {
	select {
	case <-c.Done():
		return true
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

// wanted says what the user's container should look like, and whether that is
// fresh enough to start it.
func (b *Broker) wanted(ctx context.Context, a accounts.Account, d policy.Decision) (sandbox.Spec, bool, error) {
	mounts, fresh, err := b.mounts(ctx, d.Image, b.Sandboxes.Find(a.UID) != nil)
	if err != nil {
		return sandbox.Spec{}, false, err
	}
	s := sandbox.Spec{
		User:  sandbox.User{Name: a.Name, UID: a.UID, GID: a.GID, Shell: d.Shell},
		Image: d.Image, Hostname: hostname(a.Name), Home: sandbox.HomeKind(d.Home), HomePath: d.HomePath,
		Limits: sandbox.Limits{
			MemoryBytes: d.Limits.MemoryBytes, SwapBytes: d.Limits.SwapBytes, CPUWeight: d.Limits.CPUWeight,
			CPUQuotaMicros: d.Limits.CPUQuotaMicros, Pids: d.Limits.Pids,
		},
		BestEffort: d.BestEffort, Idle: sandbox.IdleTimes(d.Idle),
	}
	if s.Limits.SwapBytes == 0 {
		s.Limits.SwapBytes = sandbox.NoSwap
	}
	for _, g := range a.Groups {
		s.User.Groups = append(s.User.Groups, sandbox.Group{Name: g.Name, GID: g.GID})
	}
	made(&s, mounts)
	return s, fresh, nil
}

// made says of what s is made.
func made(s *sandbox.Spec, m imagestore.Mounts) {
	s.ImageID, s.Layers, s.Binds = string(m.ImageID), m.Layers, nil
	for _, bind := range m.Binds {
		s.Binds = append(s.Binds, sandbox.Bind(bind))
	}
}

// imageFailure is why an image cannot be had.
func imageFailure(name string, err error) *failure {
	if errors.Is(err, imagestore.ErrNotFound) {
		return fail(session.NoImage, name, err)
	}
	return fail(startFailure(err), "", err)
}

// hostname is the container's: the user's name and the host's short one, as
// far as hostname(7) allows.
func hostname(user string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "carrel"
	}
	host, _, _ = strings.Cut(host, ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '-'
	}, user+"-"+host)
	return strings.Trim(name[:min(len(name), 63)], "-")
}

// container returns the user's running container and starts it if there is
// none, or if it is to be replaced. Where wanted is not fresh, the store is asked
// what to start from.
func (b *Broker) container(ctx context.Context, wanted sandbox.Spec, fresh bool) (container, *failure) {
	uid := wanted.User.UID
	if c := b.Sandboxes.Find(uid); c != nil && isOf(c, &wanted) && !c.Outdated(&wanted) && !b.isEnding(uid) {
		return c, nil
	}
	var c container
	err := b.exclusive(ctx, uid, func() (err error) {
		if c = b.Sandboxes.Find(uid); c != nil {
			if ok, err := b.replace(c, &wanted); !ok {
				return err
			}
		}
		if !fresh {
			mounts, err := b.lookUp(ctx, wanted.Image)
			if err != nil {
				return err
			}
			made(&wanted, mounts)
		}
		if err := b.Sandboxes.Stop(ctx, uid); err != nil {
			return err
		}
		c, err = b.Sandboxes.Start(ctx, wanted)
		return err
	})
	if errors.Is(err, sandbox.ErrSuspended) {
		return nil, unfit(err)
	}
	if err != nil {
		return nil, imageFailure(wanted.Image, err)
	}
	return c, nil
}

// isOf says that c is the wanted user's own. A uid that now has another name is
// another person's: what runs in c is not theirs to see.
func isOf(c container, wanted *sandbox.Spec) bool { return c.Owner() == wanted.User.Name }

// replace says whether another container takes the place of c: if it is outdated
// and nobody is in it, and whatever runs in it if it is a former owner's. What
// root suspended is root's to end, whoever's it is: nobody gets in, and nothing
// of it is lost.
func (b *Broker) replace(c container, wanted *sandbox.Spec) (bool, error) {
	switch {
	case c.Paused() == sandbox.Suspended:
		return false, sandbox.ErrSuspended
	case !isOf(c, wanted):
		b.Logger.Warn("uid has a new name; its former owner's container is stopped", "user", wanted.User.Name, "former", c.Owner())
	case !c.Outdated(wanted) || c.InUse():
		return false, nil
	default:
		b.Logger.Info("container outdated", "user", wanted.User.Name)
	}
	return true, nil
}

// startFailure is the user's half of why a container could not be started.
func startFailure(err error) session.Failure {
	var limits *sandbox.LimitsError
	switch {
	case errors.As(err, &limits):
		return session.LimitsUnmet
	case errors.Is(err, sandbox.ErrHome):
		return session.HomeUnusable
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return session.NoSpace
	case errors.Is(err, context.DeadlineExceeded):
		return session.NoAnswer
	}
	return session.StartFailed
}

// order is what carrel-init is told to run.
func (b *Broker) order(c container, s sandbox.Spec, d policy.Decision, r *session.Request) *session.Spawn {
	spawn := &session.Spawn{
		ID: session.ID(b.nextID.Add(1)), User: s.User.Name, UID: s.User.UID, GID: s.User.GID,
		Home: s.HomePath, Shells: shells(d.Shell), Command: r.Command, Streams: r.Streams,
		Terminal: r.Terminal, Agent: r.Agent && d.Agent, KillRest: d.KillRest, Umask: r.Umask,
	}
	for _, g := range s.User.Groups {
		if c.MapsGID(g.GID) {
			spawn.Groups = append(spawn.Groups, g.GID)
		}
	}
	spawn.Env = environment(s.User.Name, s.HomePath, session.FilterEnv(r.Env), d.Env)
	return spawn
}

// shells are the wanted shell and what is tried if the image lacks it.
func shells(wanted string) []string {
	list := []string{wanted}
	for _, shell := range []string{"/bin/bash", "/bin/sh"} {
		if shell != wanted {
			list = append(list, shell)
		}
	}
	return list
}

// defaultPath is what sshd gives a user where PAM and login.defs say nothing
// (_PATH_STDPATH), with games as Debian has it.
const defaultPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"

// environment is a session's: Carrel's own names, then what the user brought,
// then what policy sets, each over the one before.
func environment(user, home string, brought, set []string) []string {
	env := []string{"HOME=" + home, "USER=" + user, "LOGNAME=" + user, "PATH=" + defaultPath, "MAIL=/var/mail/" + user}
	for _, list := range [][]string{brought, set} {
		for _, kv := range list {
			env = put(env, kv)
		}
	}
	return env
}

func put(env []string, kv string) []string {
	name, _, _ := strings.Cut(kv, "=")
	for i, old := range env {
		if strings.HasPrefix(old, name+"=") {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}

// greeting is for a person at a terminal, who got a shell and gave no command.
func (b *Broker) greeting(a accounts.Account, d policy.Decision, r *session.Request, reply *session.Reply) string {
	if r.Command.HasText || !r.Streams.Tty || reply.Failure != session.None || d.Motd == "" && !d.LastLogin {
		return ""
	}
	text, err := b.Greetings.Text(a.UID, a.Name, d.Motd, d.LastLogin, r.Env)
	if err != nil {
		b.Logger.Warn("greeting", "user", a.Name, "err", err)
	}
	return text
}

// deliver hands init's answer to the caller.
func (b *Broker) deliver(conn *caller, user string, r *session.Request, reply *session.Reply, fds []int) *failure {
	defer closeAll(fds)
	if reply.Failure != session.None {
		return fail(reply.Failure, reply.Detail, fmt.Errorf("carrel-init: %w", reply.Failure))
	}
	if err := conn.answer(reply, fds); err != nil {
		// The caller is gone; init sees its control socket close.
		b.Logger.Info("login given up", "user", user, "err", err)
		return nil
	}
	b.Logger.Info("session started", "user", user, "tty", r.Streams.Tty, "command", r.Command.HasText)
	return nil
}
