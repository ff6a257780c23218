package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/internal/durable"
)

// ErrRuns says that a container runs whose files were to go.
var ErrRuns = errors.New("the container runs")

// goneMark is in the name of a directory that is being deleted.
const goneMark = ".gone-"

// Discard gives up what the user changed in the root file system: the next
// start has a fresh layer. With home the private home goes, too. The ids stay
// the user's for ever. The container must not run, nor be started meanwhile.
// What there was is out of the way at once, by a rename, and deleted behind;
// had reports whether there was something.
func (m *Manager) Discard(uid uint32, home bool) (had bool, err error) {
	if m.Find(uid) != nil {
		return false, ErrRuns
	}
	if err := m.keepSign(uid); err != nil {
		return false, err
	}
	dirs := []string{m.userDir(uid)}
	if home {
		dirs = append(dirs, filepath.Join(m.cfg.StateDir, "homes", filepath.Base(m.userDir(uid))))
	}
	for _, dir := range dirs {
		gone := fmt.Sprintf("%s%s%d", dir, goneMark, time.Now().UnixNano())
		err := os.Rename(dir, gone)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return had, err
		}
		had = true
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return had, err
		}
		go m.remove(gone)
	}
	if home {
		return had, m.dropSign(uid)
	}
	return had, nil
}

func (m *Manager) remove(dir string) {
	if err := removeTree(dir); err != nil {
		m.log.Error("delete what a user left", "dir", dir, "err", err)
	}
}

// sweep goes on with the deletions that a daemon before did not finish.
func (m *Manager) sweep() {
	for _, parent := range []string{"users", "homes"} {
		left, err := filepath.Glob(filepath.Join(m.cfg.StateDir, parent, "*"+goneMark+"*"))
		if err != nil {
			return // the pattern is bad, which it is not
		}
		for _, dir := range left {
			m.remove(dir)
		}
	}
}

// Known returns the uids that have a layer or a private home, in order.
func (m *Manager) Known() ([]uint32, error) {
	var uids []uint32
	for _, parent := range []string{"users", "homes"} {
		entries, err := os.ReadDir(filepath.Join(m.cfg.StateDir, parent))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.Contains(e.Name(), ".") {
				continue // a former owner's, or on its way out
			}
			if uid, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
				uids = append(uids, uint32(uid))
			}
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids), nil
}

// Paths says where a user's files are on the host; either may not exist.
func (m *Manager) Paths(uid uint32) (layer, home string) {
	return filepath.Join(m.userDir(uid), "upper"), filepath.Join(m.cfg.StateDir, "homes", filepath.Base(m.userDir(uid)))
}
