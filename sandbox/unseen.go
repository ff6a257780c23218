package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
)

// seen is what was known of the container's counters when somebody last
// looked. It is kept in a file as well, so that a daemon that adopts the
// container tells what its predecessor did not see, and not what it did.
type seen struct {
	mu     sync.Mutex
	loaded bool
	events cgroup.Events
}

// Unseen returns what the limits did to the container since it was last
// asked.
func (c *Container) Unseen() (cgroup.Events, error) {
	now, err := c.group.Events()
	if err != nil {
		return cgroup.Events{}, err
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	file := filepath.Join(c.dir, "seen")
	if !c.seen.loaded {
		if text, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(text, &c.seen.events) // a torn file is one that says nothing
		}
		c.seen.loaded = true
	}
	last := c.seen.events
	if now == last {
		return cgroup.Events{}, nil
	}
	c.seen.events = now
	news := cgroup.Events{OOMKills: max(now.OOMKills-last.OOMKills, 0), PidsHits: max(now.PidsHits-last.PidsHits, 0)}
	select {
	case <-c.exited: // its directory is being removed, and must not fill anew
		return news, nil
	default:
	}
	if news == (cgroup.Events{}) {
		return news, nil
	}
	if err := writeJSON(file, now); err != nil && !os.IsNotExist(err) {
		return cgroup.Events{}, err
	}
	return news, nil
}
