package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/failpoint"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/sandbox/seccomp"
	"github.com/carrel-sh/carrel/sandbox/spec"
	"github.com/carrel-sh/carrel/session"
)

// Config says where a Manager works. All directories are absolute.
type Config struct {
	RunDir       string // such as /run/carrel; every directory above must be searchable by all
	StateDir     string // such as /var/lib/carrel
	LibexecDir   string // with carrel-runtime and carrel-init
	CgroupParent string // such as /carrel; below it everything is the Manager's
	IDs          idrange.Region
	// Link connects the network namespace of a new container, that of the
	// process pid, before any process of the user's can run in it: carrel-init
	// alone lives there, and nobody has been told of the container. nil leaves
	// it with its loopback interface, which is network mode "none".
	Link func(ctx context.Context, uid uint32, pid int) error
	// Ended is told, in a goroutine of its own, that PID 1 of a container has
	// ended; nil is told to nobody. What it leaves is removed by Stop.
	Ended func(uid uint32)
	// StartTimeout bounds one run of carrel-runtime; 0 is 20 seconds.
	StartTimeout time.Duration
	Logger       *slog.Logger // nil discards
}

func (c *Config) startTime() time.Duration {
	if c.StartTimeout == 0 {
		return 20 * time.Second
	}
	return c.StartTimeout
}

// cleanTime bounds the removal of one container.
const cleanTime = 15 * time.Second

// A Manager keeps all containers of a host. Start and Stop of one user must
// not run at the same time; of different users they may.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	ids     *idrange.Table
	seccomp []byte
	// transfer is the path of carrel-transfer, "" if it is not installed: then
	// images need an sftp-server and scp of their own.
	transfer string

	probes probes

	mu       sync.Mutex
	running  map[uint32]*Container
	starting map[uint32][]string // layers of containers that are being started
}

// Open makes the directories, adopts the containers that run and removes what
// is left of others. Only one Manager may work on a StateDir.
func Open(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg, log: cfg.Logger, running: make(map[uint32]*Container), starting: make(map[uint32][]string)}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if err := m.makeDirs(); err != nil {
		return nil, err
	}
	var err error
	if m.ids, err = idrange.Open(filepath.Join(cfg.StateDir, "ids.json"), cfg.IDs); err != nil {
		return nil, err
	}
	if err := m.ids.Check(idrange.HostFiles{}); err != nil {
		return nil, errors.Join(err, m.ids.Close())
	}
	if m.seccomp, err = filter(); err != nil {
		return nil, errors.Join(err, m.ids.Close())
	}
	transfer := filepath.Join(cfg.LibexecDir, "carrel-transfer")
	if _, err := os.Stat(transfer); err == nil {
		m.transfer = transfer
	} else {
		m.log.Warn("file transfer needs programs of the image", "err", err)
	}
	m.adopt()
	go m.sweep()
	return m, nil
}

// filter compiles the system call filter of all containers. On cgroup v2 init
// has each session born in its leaf, which only clone3(2) can do; what else
// clone3 could do is refused by the container's missing capabilities and by
// user.max_user_namespaces=0 (see sandbox/seccomp).
func filter() ([]byte, error) {
	profile := seccomp.Default()
	h, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	if h.Mode == leaf.V2 {
		profile = profile.Allow(unix.SYS_CLONE3)
	}
	return seccomp.Compile(profile)
}

// Close lets another Manager take over. The containers run on.
func (m *Manager) Close() error { return m.ids.Close() }

// Start starts the container of s.User. It must not run already.
func (m *Manager) Start(ctx context.Context, s Spec) (*Container, error) {
	if m.Find(s.User.UID) != nil {
		return nil, fmt.Errorf("container of uid %d runs already", s.User.UID)
	}
	begin := time.Now()
	m.mu.Lock()
	m.starting[s.User.UID] = s.Layers
	m.mu.Unlock()
	c, err := m.start(ctx, s)
	m.mu.Lock()
	delete(m.starting, s.User.UID)
	if err == nil {
		m.running[c.UID] = c
	}
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.tellEnd(c)
	m.log.Info("container started", "user", c.User, "sandbox", groupName(c.UID), "image", c.Image,
		"pid", c.InitPID, "took", time.Since(begin))
	return c, nil
}

func (m *Manager) tellEnd(c *Container) {
	if m.cfg.Ended == nil {
		return
	}
	go func() {
		<-c.exited
		m.cfg.Ended(c.UID)
	}()
}

// Find returns the user's running container, nil if there is none.
func (m *Manager) Find(uid uint32) *Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.running[uid]
	if c == nil {
		return nil
	}
	select {
	case <-c.exited:
		return nil
	default:
		return c
	}
}

// Running returns the running containers in no order.
func (m *Manager) Running() []*Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Container, 0, len(m.running))
	for _, c := range m.running {
		list = append(list, c)
	}
	return list
}

// Layers returns the layers of all containers that run or are being started:
// overlayfs needs their files as long as a mount of them exists.
func (m *Manager) Layers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var layers []string
	for _, c := range m.running {
		layers = append(layers, c.Layers...)
	}
	for _, starting := range m.starting {
		layers = append(layers, starting...)
	}
	return layers
}

// Stop ends the user's container, if there is one, and removes all that it
// had but its layer, home and ids. It is idempotent.
func (m *Manager) Stop(ctx context.Context, uid uint32) error {
	m.mu.Lock()
	c := m.running[uid]
	m.mu.Unlock()
	if c != nil {
		if err := c.kill(ctx); err != nil {
			return fmt.Errorf("kill container of uid %d: %w", uid, err)
		}
	}
	if err := m.clean(ctx, uid); err != nil {
		return err
	}
	if c != nil {
		m.log.Info("container stopped", "user", c.User, "sandbox", groupName(uid))
	}
	return nil
}

// clean removes what is left of a container, whatever there is.
func (m *Manager) clean(ctx context.Context, uid uint32) error {
	var errs []error
	group, err := cgroup.Leftover(m.cfg.CgroupParent, groupName(uid))
	if err == nil {
		errs = append(errs, group.Kill(ctx))
	}
	failpoint.Here("clean: killed")
	if _, err := os.Lstat(filepath.Join(m.runtimeDir(), groupName(uid))); err == nil {
		_, err = m.runtime(ctx, "delete", spec.Delete{ID: groupName(uid), StateDir: m.runtimeDir()}, nil, nil)
		errs = append(errs, err)
	}
	failpoint.Here("clean: deleted")
	if group != nil {
		errs = append(errs, group.Remove(ctx))
	}
	failpoint.Here("clean: cgroup")
	errs = append(errs, os.RemoveAll(m.containerDir(uid)))
	m.mu.Lock()
	if c := m.running[uid]; c != nil {
		c.pidfd.Close()
		delete(m.running, uid)
	}
	m.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up container of uid %d: %w", uid, err)
	}
	return nil
}

// adopt takes over the containers that a former daemon started.
func (m *Manager) adopt() {
	uids := make(map[uint32]bool)
	entries, _ := os.ReadDir(filepath.Join(m.cfg.RunDir, "c"))
	for _, e := range entries {
		if uid, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			uids[uint32(uid)] = true
		}
	}
	for _, name := range cgroup.List(m.cfg.CgroupParent) {
		var uid uint32
		if n, err := fmt.Sscanf(name, "u%d", &uid); err == nil && n == 1 && name == groupName(uid) {
			uids[uid] = true
		}
	}
	for uid := range uids {
		if c, err := m.load(uid); err == nil {
			m.running[uid] = c
			m.tellEnd(c)
			m.log.Info("container adopted", "user", c.User, "sandbox", groupName(uid), "pid", c.InitPID)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
		if err := m.clean(ctx, uid); err != nil {
			m.log.Error("stale container", "sandbox", groupName(uid), "err", err)
		} else {
			m.log.Info("stale container removed", "sandbox", groupName(uid))
		}
		cancel()
	}
}

// load makes a Container of a record whose PID 1 still lives.
func (m *Manager) load(uid uint32) (*Container, error) {
	c := &Container{dir: m.containerDir(uid)}
	b, err := os.ReadFile(filepath.Join(c.dir, "record.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &c.record); err != nil {
		return nil, err
	}
	if c.Version != recordVersion || c.UID != uid || c.BootID != bootID() {
		return nil, errors.New("record is of another version, user or boot")
	}
	if c.Protocol() < session.Oldest {
		return nil, fmt.Errorf("container speaks version %d of the protocol, and %d is the oldest that is known", c.Speaks, session.Oldest)
	}
	if c.group, err = cgroup.Load(m.cfg.CgroupParent, groupName(uid)); err != nil {
		return nil, err
	}
	// Whatever else the record names must not be killed as a container.
	if pids, err := c.group.Procs(); err != nil || !slices.Contains(pids, c.InitPID) {
		return nil, errors.Join(errors.New("process of the record is not in the container's cgroup"), err)
	}
	if err := c.loadPause(); err != nil {
		return nil, err
	}
	if err := c.watch(); err != nil {
		return nil, err
	}
	return c, nil
}

func groupName(uid uint32) string { return "u" + strconv.FormatUint(uint64(uid), 10) }
