package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carrel-sh/carrel/sandbox/spec"
)

// homeTime is how long a home may take to answer: with the start that follows,
// its user waits five seconds at most. Past it, the user gets a
// container without one.
const homeTime = 4 * time.Second

// remote are the file systems that wait for somebody else, beside all kinds
// of FUSE. What hangs on one of them may hang for ever, and in the kernel,
// where no signal reaches: nfs(5) with "hard", which is the default.
var remote = []string{
	"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "9p", "virtiofs", "autofs",
	"gfs2", "ocfs2", "orangefs", "panfs", "pvfs2", "coda", "fuse", "fuseblk",
}

// probes are the looks at homes that have not come back.
type probes struct {
	mu   sync.Mutex
	away map[string]bool
}

// homeAnswers says whether the home that s wants can be used at all, within
// homeTime. Only a home on a file system that waits for others is looked at,
// and by a process of its own: what hangs there is abandoned, one process for
// each home, and not a thread of this daemon, which could then not even be
// killed.
func (m *Manager) homeAnswers(ctx context.Context, s *Spec) bool {
	path := ""
	switch s.Home {
	case HomeNone:
		return true
	case HomeHost:
		path = s.HomePath
	default:
		path = filepath.Join(m.cfg.StateDir, "homes", strconv.FormatUint(uint64(s.User.UID), 10))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !onRemote(string(mounts), path) {
		return true
	}
	m.probes.mu.Lock()
	away := m.probes.away[path]
	if !away {
		if m.probes.away == nil {
			m.probes.away = make(map[string]bool)
		}
		m.probes.away[path] = true
	}
	m.probes.mu.Unlock()
	if away {
		return false // the look before has not come back
	}
	back := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), homeTime)
		defer cancel()
		_, err := m.runtime(ctx, "probe", &spec.Probe{Path: path}, nil, nil)
		m.probes.mu.Lock()
		delete(m.probes.away, path)
		m.probes.mu.Unlock()
		back <- err
	}()
	select {
	case err := <-back:
		// That something else is wrong with it, the start finds out.
		return !errors.Is(err, context.DeadlineExceeded)
	case <-time.After(homeTime):
		return false
	}
}

// onRemote says whether path lies on a remote file system. The kernel's list
// of mounts (proc_pid_mountinfo(5)) tells it without a look at the path.
func onRemote(mountinfo, path string) bool {
	longest, kind := "", ""
	for line := range strings.Lines(mountinfo) {
		front, back, ok := strings.Cut(line, " - ")
		fields, tail := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(tail) < 1 {
			continue
		}
		point := unescapeMount.Replace(fields[4])
		inside := point == "/" || path == point || strings.HasPrefix(path, point+"/")
		if inside && len(point) >= len(longest) { // of two on one place the later one shows
			longest, kind = point, tail[0]
		}
	}
	return slices.Contains(remote, kind) || strings.HasPrefix(kind, "fuse.")
}

// unescapeMount undoes what the kernel escapes in mountinfo (mangle in
// fs/seq_file.c).
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// HomeMissing says that the container was started without the home that its
// user has, because that did not answer.
func (c *Container) HomeMissing() bool { return c.NoHome }
