package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/idmap"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
)

// A Container is a running one. Its exported fields do not change.
type Container struct {
	record
	pauses pauses
	seen   seen
	dir    string // RunDir/c/UID
	group  *cgroup.Group
	pidfd  *os.File
	exited chan struct{}
}

// A record is what is known of a running container on disk. A release may add
// to it, and what it adds the one before passes over. Version goes up when the
// meaning of the rest changes, which ends every container at an upgrade.
type record struct {
	Version    int                 `json:"version"`
	User       string              `json:"user"`
	UID        uint32              `json:"uid"`
	InitPID    int                 `json:"initPid"`
	InitStart  uint64              `json:"initStart"` // field 22 of proc_pid_stat(5), clock ticks since boot
	BootID     string              `json:"bootId"`
	Started    time.Time           `json:"started"`
	Image      string              `json:"image"`
	ImageID    string              `json:"imageId"`
	Layers     []string            `json:"layers"` // as the Spec has them
	Digest     string              `json:"digest"` // of the Spec
	RangeFirst uint32              `json:"rangeFirst"`
	GIDMap     []idmap.Map         `json:"gidMap"`
	Limits     cgroup.Limits       `json:"limits"`
	Unenforced []cgroup.Unenforced `json:"unenforced,omitempty"`
	HomePath   string              `json:"homePath"`
	HomeIsOwn  bool                `json:"homeIsOwn"`
	Idle       IdleTimes           `json:"idle,omitzero"`
	NoHome     bool                `json:"noHome,omitempty"` // it did not answer
	Speaks     uint8               `json:"speaks"`           // session.Version of the daemon that started it
}

const recordVersion = 1

// Done is closed when PID 1 has ended.
func (c *Container) Done() <-chan struct{} { return c.exited }

// Outdated says that a container for s would be another one.
func (c *Container) Outdated(s *Spec) bool { return c.Digest != s.digest() }

// MapsGID says that the group id exists inside.
func (c *Container) MapsGID(gid uint32) bool {
	for _, m := range c.GIDMap {
		if gid >= m.Inside && gid-m.Inside < m.Size {
			return true
		}
	}
	return false
}

// InUse says that something besides PID 1 runs inside: a session, or what one
// left, such as a tmux whose user is away. It is true if that cannot be told.
func (c *Container) InUse() bool {
	pids, err := c.group.Procs()
	return err != nil || len(pids) != 1 || pids[0] != c.InitPID
}

// Usage reads what the container uses now.
func (c *Container) Usage() (cgroup.Usage, error) { return c.group.Usage() }

// Dial connects to carrel-init. The caller sets a deadline before it reads.
func (c *Container) Dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", filepath.Join(c.dir, "init.sock"))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// Protocol is the version of the protocol to speak to carrel-init. Records of
// the first releases do not name theirs, which was 1.
func (c *Container) Protocol() uint8 { return min(max(c.Speaks, 1), session.Version) }

// watch opens a descriptor of PID 1 and closes exited when it ends. It fails
// if the process is not the one of the record.
func (c *Container) watch() error {
	fd, err := unix.PidfdOpen(c.InitPID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd") // non-blocking, so Go polls it
	if start, err := processStart(c.InitPID); err != nil || start != c.InitStart {
		c.pidfd.Close()
		return errors.New("process of the record has ended")
	}
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	c.exited = make(chan struct{})
	go func() {
		defer close(c.exited)
		// A pidfd can be read, as poll(2) means it, once the process has ended.
		_ = raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || (err != nil && err != unix.EINTR)
		})
	}()
	return nil
}

// kill ends PID 1 and with it all of the container, and waits.
func (c *Container) kill(ctx context.Context) error {
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err := c.killPaused(); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// processStart returns when the process started, in clock ticks since boot:
// with the pid it names one process.
func processStart(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	line := string(b)
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < 20 {
		return 0, errors.New("malformed stat")
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, errors.New("process has ended")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
