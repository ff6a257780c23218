package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/failpoint"
	"github.com/carrel-sh/carrel/internal/idmap"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/sandbox/spec"
	"github.com/carrel-sh/carrel/session"
)

// A LimitsError says which limits the host cannot enforce.
type LimitsError struct{ Unenforced []cgroup.Unenforced }

func (e *LimitsError) Error() string {
	return fmt.Sprintf("limits not in force: %v", e.Unenforced)
}

// build is a container that is being started. What it holds is given back by
// close, whether the start went well or not.
type build struct {
	m        *Manager
	s        Spec
	dir      string
	ids      idrange.Range
	uids     []idmap.Map
	gids     []idmap.Map
	home     string
	noHome   bool // it does not answer
	group    *cgroup.Group
	lacking  []cgroup.Unenforced
	listener *os.File
	bootOut  *os.File // what init reads first
	bootIn   *os.File
	log      *os.File
	boxes    []string
	mode     leaf.Mode
}

func (b *build) close() {
	for _, f := range []*os.File{b.listener, b.bootOut, b.bootIn, b.log} {
		if f != nil {
			f.Close()
		}
	}
}

// start makes the container. On an error everything is taken back.
func (m *Manager) start(ctx context.Context, s Spec) (*Container, error) {
	b := &build{m: m, s: s, dir: m.containerDir(s.User.UID)}
	if b.noHome = !m.homeAnswers(ctx, &s); b.noHome {
		m.log.Error("home does not answer; the container has none", "user", s.User.Name, "path", s.HomePath)
		b.s.Home = HomeNone // which makes it outdated: the next login tries again
	}
	defer b.close()
	c, err := b.run(ctx)
	if err != nil {
		// Not with ctx: its deadline may be what ended the start.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		return nil, errors.Join(err, m.clean(clean, s.User.UID))
	}
	return c, nil
}

func (b *build) run(ctx context.Context) (*Container, error) {
	if err := b.assignIDs(); err != nil {
		return nil, err
	}
	failpoint.Here("create: ids")
	if err := b.listen(); err != nil {
		return nil, err
	}
	failpoint.Here("create: listening")
	created, err := b.create(ctx)
	if err != nil {
		return nil, err
	}
	c := &Container{dir: b.dir, group: b.group, record: record{
		Version: recordVersion, User: b.s.User.Name, UID: b.s.User.UID,
		InitPID: created.InitPID, BootID: bootID(), Started: time.Now(),
		Image: b.s.Image, ImageID: b.s.ImageID, Layers: b.s.Layers, Digest: b.s.digest(),
		RangeFirst: b.ids.First, GIDMap: b.gids, Limits: b.s.Limits, Unenforced: b.lacking,
		HomePath: b.s.HomePath, Idle: b.s.Idle, NoHome: b.noHome, Speaks: session.Version,
	}}
	if c.InitStart, err = processStart(created.InitPID); err != nil {
		return nil, fmt.Errorf("container ended at once: %w%s", err, b.logged())
	}
	if err := c.watch(); err != nil {
		return nil, fmt.Errorf("container ended at once: %w%s", err, b.logged())
	}
	failpoint.Here("create: running")
	if link := b.m.cfg.Link; link != nil {
		if err := link(ctx, c.UID, c.InitPID); err != nil {
			return nil, fmt.Errorf("connect network: %w", err)
		}
	}
	err = writeJSON(filepath.Join(b.dir, "record.json"), &c.record)
	failpoint.Here("create: recorded")
	return c, err
}

func (b *build) assignIDs() error {
	ids, _, _, err := b.m.ids.Assign(b.s.User.UID, b.s.User.Name)
	if err != nil {
		return err
	}
	gids := []uint32{b.s.User.GID}
	for _, g := range b.s.User.Groups {
		if g.GID != b.s.User.GID {
			gids = append(gids, g.GID)
		}
	}
	var dropped []uint32
	b.ids = ids
	b.uids, b.gids, dropped, err = idrange.Map(ids, b.s.User.UID, gids)
	if err != nil {
		return err
	}
	if len(dropped) > 0 {
		b.m.log.Warn("groups not mapped", "user", b.s.User.Name, "gids", dropped)
	}
	return nil
}

func (b *build) makeDirs() error {
	if err := b.m.retireFormer(b.s.User.UID, b.ids); err != nil {
		return err
	}
	user := b.m.userDir(b.s.User.UID)
	if err := os.MkdirAll(user, 0o700); err != nil {
		return err
	}
	upper, work := filepath.Join(user, "upper"), filepath.Join(user, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := os.Lchown(upper, int(b.ids.First), int(b.ids.First)); err != nil {
		return err
	}
	if err := forgetIdentity(upper); err != nil {
		return err
	}
	var err error
	b.home, err = b.m.home(b.s)
	return err
}

func (b *build) makeCgroup() error {
	group, lacking, err := cgroup.Create(b.m.cfg.CgroupParent, groupName(b.s.User.UID), b.s.Limits)
	if err != nil {
		return err
	}
	b.group, b.lacking = group, lacking
	if len(lacking) > 0 {
		if !b.s.BestEffort {
			return &LimitsError{lacking}
		}
		b.m.log.Warn("limits not in force", "user", b.s.User.Name, "limits", fmt.Sprint(lacking))
	}
	if err := group.Delegate(b.ids.First, b.ids.First); err != nil {
		return err
	}
	// One hierarchy is enough to know a session's processes; each more would
	// cost every login.
	boxes, mode, err := group.BoxDirs("pids")
	for _, box := range boxes {
		b.boxes = append(b.boxes, box.Name())
		box.Close()
	}
	b.mode = mode
	// Only now: it holds the lock that making a cgroup needs.
	cgroup.Poke()
	return err
}

// listen makes the socket that carrel-init inherits. It is bound here, in a
// directory of root's, and listens before init lives: a login that comes early
// waits in its queue.
func (b *build) listen() error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(b.dir, "init.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if b.listener, err = l.File(); err != nil {
		return err
	}
	// File leaves the description blocking, as init wants it.
	b.log, err = os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o600)
	return err
}

// create runs carrel-runtime. While that starts and mounts, the rest of what
// the container needs is made here: on cgroup v1 the wait of Poke alone takes
// longer than all mounts.
func (b *build) create(ctx context.Context) (created spec.Created, err error) {
	if b.bootOut, b.bootIn, err = os.Pipe(); err != nil {
		return created, err
	}
	r, err := b.m.startRuntime(ctx, "create", b.log, []*os.File{b.listener, b.bootOut})
	if err != nil {
		return created, err
	}
	failpoint.Here("create: runtime started")
	placed := make(chan error, 1)
	go func() { placed <- b.makeCgroup() }()
	err = b.makeDirs()
	failpoint.Here("create: directories")
	if err == nil {
		r.send(b.order())
		failpoint.Here("create: ordered")
	}
	if err = errors.Join(err, <-placed); err == nil {
		failpoint.Here("create: cgroup")
		err = b.sendBoot()
	}
	if err != nil {
		r.cancel() // it has made nothing that outlives it
	} else {
		r.send(&spec.Cgroup{Path: b.group.Box(), V2: b.mode == leaf.V2, Boxes: b.boxes})
		failpoint.Here("create: placed")
	}
	out, failed := r.wait()
	failpoint.Here("create: created")
	if err != nil {
		return created, err
	}
	if failed != nil {
		return created, fmt.Errorf("%w%s", failed, b.logged())
	}
	if err := json.Unmarshal(out, &created); err != nil {
		return created, fmt.Errorf("carrel-runtime's answer: %w", err)
	}
	return created, nil
}

// sendBoot writes all that init needs to know into its pipe.
func (b *build) sendBoot() error {
	boot := session.Boot{
		CgroupMode: uint8(b.mode), Boxes: uint8(len(b.boxes)), Hostname: b.s.Hostname,
		Passwd: passwdLine(b.s), Groups: groupLines(b.s.User), Seccomp: b.m.seccomp,
	}
	frame, err := boot.Encode()
	if err != nil {
		return fmt.Errorf("boot message: %w", err)
	}
	// It must fit, for the reader does not live yet; 1 MiB is what any
	// process may have (pipe(7)), and root more.
	if _, err := unix.FcntlInt(b.bootIn.Fd(), unix.F_SETPIPE_SZ, max(len(frame), 64<<10)); err != nil {
		return os.NewSyscallError("fcntl F_SETPIPE_SZ", err)
	}
	_, err = b.bootIn.Write(frame)
	return errors.Join(err, b.bootIn.Close())
}

func (b *build) order() *spec.Create {
	user := b.m.userDir(b.s.User.UID)
	order := &spec.Create{
		ID: groupName(b.s.User.UID), StateDir: b.m.runtimeDir(), StageDir: b.m.stageDir(),
		UIDMap: b.uids, GIDMap: b.gids, Hostname: b.s.Hostname,
		Root: spec.Root{
			Layers: append([]string{b.m.skeletonDir()}, b.s.Layers...),
			Upper:  filepath.Join(user, "upper"), Work: filepath.Join(user, "work"),
			Binds: b.s.Binds,
		},
		InitPath:     filepath.Join(b.m.cfg.LibexecDir, "carrel-init"),
		TransferPath: b.m.transfer,
		PtyMax:       b.s.PtyMax, ShmBytes: shmBytes, RunBytes: runBytes,
	}
	if order.PtyMax == 0 {
		order.PtyMax = defaultPtyMax
	}
	if b.home != "" {
		order.Home = &spec.Home{
			Source: b.home, Target: b.s.HomePath,
			UID: single(b.uids, b.s.User.UID), GID: single(b.gids, b.s.User.GID),
		}
	}
	return order
}

// Sizes of what a container has of its own in memory, charged to its limit.
const (
	defaultPtyMax = 64 // of the host's kernel.pty.max of 4096
	shmBytes      = 64 << 20
	runBytes      = 16 << 20
)

// single returns the extent of one id: on disk it is the host's own, outside
// it is what the map makes of it.
func single(maps []idmap.Map, id uint32) idmap.Map {
	for _, m := range maps {
		if id >= m.Inside && id-m.Inside < m.Size {
			return idmap.Map{Inside: id, Outside: m.Outside + (id - m.Inside), Size: 1}
		}
	}
	return idmap.Map{}
}

// logged returns the end of the start's log for an error message.
func (b *build) logged() string {
	if b.log == nil {
		return ""
	}
	const limit = 2048
	buf := make([]byte, limit)
	size, err := b.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	n, _ := b.log.ReadAt(buf, max(0, size-limit))
	return quoted(buf[:n])
}

// quoted returns what a program said, for the end of an error message.
func quoted(said []byte) string {
	text := strings.TrimSpace(string(bytes.ToValidUTF8(said, []byte("?"))))
	if text == "" {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}

// passwdLine is the user's line of the container's /etc/passwd (passwd(5)).
func passwdLine(s Spec) string {
	return strings.Join([]string{
		field(s.User.Name), "x", strconv.FormatUint(uint64(s.User.UID), 10), strconv.FormatUint(uint64(s.User.GID), 10),
		"", field(s.HomePath), field(s.User.Shell),
	}, ":")
}

// maxGroupLines is what a session.Boot takes. Directory services put people
// into more groups; a group past it has no name inside.
const maxGroupLines = 1024

func groupLines(u User) []string {
	var lines []string
	for _, g := range u.Groups {
		if g.Name == "" || len(lines) == maxGroupLines {
			continue
		}
		members := ""
		if g.GID != u.GID {
			members = field(u.Name)
		}
		lines = append(lines, strings.Join([]string{field(g.Name), "x", strconv.FormatUint(uint64(g.GID), 10), members}, ":"))
	}
	return lines
}

// field keeps a value from being two.
func field(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ':' || r == '\n' || r == 0 {
			return '_'
		}
		return r
	}, s)
}
