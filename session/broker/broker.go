package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/imagestore"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/broker/greeting"
)

// Limits of a broker.
const (
	// requestTime bounds the wait for the caller's request frame.
	requestTime = 5 * time.Second
	// spawnTime bounds what carrel-init takes for one session; its own
	// deadline for fork and exec is shorter.
	spawnTime = 5 * time.Second
	// loginTime bounds a whole login, a cold start included.
	loginTime = 30 * time.Second
	// perUser is how many logins of one user may be under way, and total how
	// many of all: each is a goroutine and a few descriptors. Two hundred first
	// logins at once, as a batch system makes them, are to find one container.
	perUser = 256
	total   = 4096
)

// A Broker serves logins. Make it with New and set the fields before Serve.
type Broker struct {
	Accounts  directory
	Policy    func() *policy.Policy // the current one; called once a login
	Images    store
	Sandboxes sandboxes
	Logger    *slog.Logger
	// Observer is told what happened, when nobody waits for it any more; nil is
	// told nothing.
	Observer observer
	// Own answers a user's question about their own container, or does what
	// they want done to it: the text for their terminal, and the exit status.
	// nil leaves the commands to the shell inside.
	Own func(ctx context.Context, account accounts.Account, c OwnCommand) (text string, status int)

	// Greetings remembers last logins.
	Greetings greeting.Store

	closed atomic.Pointer[Closure]
	nextID atomic.Uint64

	mu     sync.Mutex
	users  map[uint32]*user
	count  int // logins under way
	images map[string]*known
}

// An observer is told of logins. Its methods return at once.
type observer interface {
	LoggedIn(uid uint32, id session.ID, terminal bool)
	Refused(uid uint32, why string)
	// Awake is told that a user whose session has been silent is there.
	Awake(uid uint32)
}

// A directory knows the host's accounts.
type directory interface {
	Lookup(ctx context.Context, uid uint32) (accounts.Account, error)
}

// A store knows what an image is made of.
type store interface {
	Mounts(ctx context.Context, name string) (imagestore.Mounts, error)
}

// sandboxes keeps the containers; Manager makes one of a sandbox.Manager. Find
// is quick and takes no lock that a start holds; nil is none. Stop is
// idempotent.
type sandboxes interface {
	Find(uid uint32) container
	Start(ctx context.Context, s sandbox.Spec) (container, error)
	Stop(ctx context.Context, uid uint32) error
}

// A container is a running one; *sandbox.Container says what each method
// means.
type container interface {
	answerer
	Owner() string  // the name of the user that it was started for
	Acquire() error // and Release, around the start of a session
	Release()
	HomeMissing() bool
	Done() <-chan struct{}
	Outdated(s *sandbox.Spec) bool
	InUse() bool
	Paused() sandbox.Pause
	MapsGID(gid uint32) bool
}

// An answerer has a carrel-init to ask.
type answerer interface {
	Dial(ctx context.Context) (*net.UnixConn, error)
	Protocol() uint8 // the version to speak to it
}

// user is the state of one uid. starting is held while the container is being
// started or stopped: whoever waits for it finds the container running.
type user struct {
	logins   int // under way; guarded by Broker.mu, as refs is
	refs     int // logins, and whoever wants or has starting; 0 removes the entry
	starting chan struct{}
	ending   bool // the container is bidden farewell: a login is to wait; guarded by Broker.mu
}

// New returns a broker without its fields.
func New() *Broker {
	b := &Broker{users: make(map[uint32]*user), images: make(map[string]*known)}
	// Ids of a restarted daemon must not meet those of its predecessor, whose
	// sessions still live.
	b.nextID.Store(uint64(time.Now().UnixNano()))
	return b
}

// Listen makes the login socket at path: for everybody, who the kernel names.
func Listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve accepts logins until ctx ends. Logins under way are finished.
func (b *Broker) Serve(ctx context.Context, l *net.UnixListener) error {
	if err := refuseRights(l); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var logins sync.WaitGroup
	defer logins.Wait()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			logins.Go(func() { b.login(context.WithoutCancel(ctx), conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM),
			errors.Is(err, unix.ECONNABORTED):
			b.Logger.Error("accept login", "err", err)
			time.Sleep(50 * time.Millisecond)
		default:
			return err
		}
	}
}

// refuseRights makes senders of descriptors get EPERM. Accepted sockets
// inherit it.
func refuseRights(l *net.UnixListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		// ENOPROTOOPT before Linux 6.16; then recvmsg without a place closes them.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
	})
}

// login serves one caller.
func (b *Broker) login(ctx context.Context, accepted *net.UnixConn) {
	conn := &caller{UnixConn: accepted, version: session.Version}
	defer conn.Close()
	// One login's fault must not end all others' daemon.
	defer b.survive(func() { _ = conn.answer(&session.Reply{Failure: session.Internal}, nil) })
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	uid, err := peer(accepted)
	if err != nil {
		b.Logger.Warn("login refused", "reason", "caller unknown", "err", err)
		return
	}
	if !b.enter(uid) {
		b.refuse(conn, uid, session.Busy, "", errors.New("too many logins under way"))
		return
	}
	defer b.leave(uid)
	_ = conn.SetDeadline(time.Now().Add(requestTime))
	request, err := conn.readRequest()
	if errors.Is(err, errAwake) {
		if b.Observer != nil {
			b.Observer.Awake(uid)
		}
		return
	}
	if errors.Is(err, session.ErrFrame) {
		b.refuse(conn, uid, session.Protocol, "", err)
		return
	}
	if err != nil {
		if uid != 0 { // root has no session to ask for: it is carreld's own watchdog
			b.Logger.Info("login given up", "uid", uid, "err", err)
		}
		return
	}
	_ = conn.SetDeadline(time.Now().Add(loginTime))
	if f := b.serve(ctx, conn, uid, request); f != nil {
		b.refuse(conn, uid, f.code, f.detail, f.cause)
	}
}

// survive is deferred. It ends a panic and calls after if there was one.
func (b *Broker) survive(after func()) {
	if r := recover(); r != nil {
		b.Logger.Error("BUG: panic", "panic", r, "stack", string(debug.Stack()))
		after()
	}
}

// refuse tells the caller why there is no session, and the log the cause.
func (b *Broker) refuse(conn *caller, uid uint32, code session.Failure, detail string, cause error) {
	level := slog.LevelError
	if code == session.Refused || code == session.Busy || code == session.Protocol {
		level = slog.LevelWarn
	}
	b.Logger.Log(context.Background(), level, "login refused", "uid", uid, "status", code.Status(), "err", cause)
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = conn.answer(&session.Reply{Failure: code, Detail: detail}, nil)
	discard(conn.UnixConn)
	if b.Observer != nil {
		b.Observer.Refused(uid, code.Sentence(detail))
	}
}

// enter counts a login of uid, false if there are too many.
func (b *Broker) enter(uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.users[uid]; b.count >= total || u != nil && u.logins >= perUser {
		return false
	}
	b.hold(uid).logins++
	b.count++
	return true
}

func (b *Broker) leave(uid uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count--
	b.users[uid].logins--
	b.release(uid)
}

// hold returns the entry of uid and keeps it until release. Both want mu held.
func (b *Broker) hold(uid uint32) *user {
	u := b.users[uid]
	if u == nil {
		u = &user{starting: make(chan struct{}, 1)}
		b.users[uid] = u
	}
	u.refs++
	return u
}

func (b *Broker) release(uid uint32) {
	u := b.users[uid]
	if u.refs--; u.refs == 0 {
		delete(b.users, uid)
	}
}

// exclusive runs f while nobody else starts or stops the container of uid.
func (b *Broker) exclusive(ctx context.Context, uid uint32, f func() error) error {
	b.mu.Lock()
	u := b.hold(uid)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.release(uid)
	}()
	select {
	case u.starting <- struct{}{}:
		defer func() { <-u.starting }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Ended removes what is left of the container of uid, unless the next one runs
// already.
func (b *Broker) Ended(uid uint32) {
	ctx, cancel := context.WithTimeout(context.Background(), loginTime)
	defer cancel()
	err := b.exclusive(ctx, uid, func() error {
		if b.Sandboxes.Find(uid) != nil {
			return nil
		}
		return b.Sandboxes.Stop(ctx, uid)
	})
	if err != nil {
		b.Logger.Error("remove what is left of a container", "uid", uid, "err", err)
	}
}

// Alone runs f, which may do to the files of uid what a running container
// forbids: its container is stopped, and none is started meanwhile.
func (b *Broker) Alone(ctx context.Context, uid uint32, f func() error) error {
	return b.exclusive(ctx, uid, func() error {
		if err := b.Sandboxes.Stop(ctx, uid); err != nil {
			return err
		}
		return f()
	})
}

// StopIdle ends the container of uid, which nobody uses, after farewell, whose
// error leaves it running. A login that is under way before that does, too, and
// is sandbox.ErrBusy. One that comes later waits, and finds the container of the
// next start, or the old one if that stays.
func (b *Broker) StopIdle(ctx context.Context, uid uint32, farewell func() error) error {
	return b.exclusive(ctx, uid, func() error {
		if !b.setEnding(uid) {
			return sandbox.ErrBusy
		}
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.users[uid].ending = false
		}()
		if err := farewell(); err != nil {
			return err
		}
		return b.Sandboxes.Stop(ctx, uid)
	})
}

// setEnding has logins wait for starting, which the caller holds. It is false if
// one has come that does not know.
func (b *Broker) setEnding(uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.users[uid]
	u.ending = u.logins == 0
	return u.ending
}

// isEnding says that the container of uid is bidden farewell. The caller is a
// login, so that none begins when this is false.
func (b *Broker) isEnding(uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.users[uid]
	return u != nil && u.ending
}

// Stop ends the container of uid, after a start that is under way.
func (b *Broker) Stop(ctx context.Context, uid uint32) error {
	return b.exclusive(ctx, uid, func() error { return b.Sandboxes.Stop(ctx, uid) })
}
