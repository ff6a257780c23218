package idrange

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/durable"
)

var (
	// ErrFull is wrapped by the error of Assign when the region has no range
	// left. Ranges are never reused, so only a larger region helps.
	ErrFull = errors.New("id region is full")

	// ErrInUse is wrapped by the error of Open while another process has the
	// table open.
	ErrInUse = errors.New("id table is in use by another process")
)

// A Table is the open table of ranges. Its methods may be called concurrently.
type Table struct {
	path   string
	region Region
	lock   *os.File
	hook   func(step) error // before each step of a write; for tests

	mu      sync.Mutex
	entries []Entry // entry i has the range i+1 of the region
	closed  bool
}

// Open opens the table at path for the given region and locks it until Close.
// A table that never existed is made; the directory must exist. The region may
// have grown at its end since the table was made, and nothing else.
func Open(path string, region Region) (*Table, error) {
	return open(path, region, func(step) error { return nil })
}

func open(path string, region Region, hook func(step) error) (*Table, error) {
	if err := region.check(); err != nil {
		return nil, err
	}
	t := &Table{path: filepath.Clean(path), region: region, hook: hook}
	if err := t.takeLock(); err != nil {
		return nil, fmt.Errorf("open id table: %w", err)
	}
	if err := t.load(); err != nil {
		t.lock.Close()
		return nil, fmt.Errorf("open id table: %w", err)
	}
	return t, nil
}

// takeLock locks a file beside the table, which itself is replaced at each
// write. The lock goes with the descriptor, so also with the process.
func (t *Table) takeLock() error {
	f, err := os.OpenFile(t.path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := flock(f); err != nil {
		f.Close()
		return err
	}
	t.lock = f
	return nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
			return fmt.Errorf("%q: %w", f.Name(), ErrInUse)
		}
		return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
}

// load reads the table, or makes the first one.
func (t *Table) load() error {
	known, err := t.lock.Stat()
	if err != nil {
		return err
	}
	data, err := readFile(t.path)
	switch {
	case err == nil:
		if err := t.adopt(data); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case known.Size() > 0:
		return fmt.Errorf("%q is lost: %w; restore it from a backup, or, if no container, home or layer of a user is left, remove %q too",
			t.path, ErrDamaged, t.lock.Name())
	default:
		if err := t.save(nil); err != nil {
			return err
		}
	}
	if known.Size() == 0 {
		return t.mark()
	}
	return nil
}

// adopt takes over the entries of a file.
func (t *Table) adopt(data []byte) error {
	first, entries, err := decode(data)
	if err != nil {
		return fmt.Errorf("%q: %w: %w; restore it from a backup", t.path, ErrDamaged, err)
	}
	if first != t.region.First {
		return fmt.Errorf("%q is for a region that begins at %d, the configured one is %v: the first id must not change, for files own those ids",
			t.path, first, t.region)
	}
	if used := len(entries) + 1; used > t.region.Count {
		return fmt.Errorf("%q has %d ranges, the configured region %v only %d: it may grow, not shrink",
			t.path, used, t.region, t.region.Count)
	}
	t.entries = entries
	return nil
}

// mark notes in the lock file that a table exists.
func (t *Table) mark() error {
	if err := t.hook(stepMark); err != nil {
		return err
	}
	if _, err := t.lock.WriteAt([]byte("a table was made; see idrange\n"), 0); err != nil {
		return err
	}
	return errors.Join(t.lock.Sync(), durable.SyncDir(filepath.Dir(t.path)))
}

func (t *Table) save(entries []Entry) error {
	data, err := encode(t.region.First, entries)
	if err != nil {
		return err
	}
	return replace(t.path, data, t.hook)
}

// Close releases the lock. The table must not be used afterwards.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fs.ErrClosed
	}
	t.closed = true
	return t.lock.Close()
}

// Region returns the region that the table was opened with.
func (t *Table) Region() Region { return t.region }

// Worker returns the region's first range, which no user ever gets: it is
// carrel-unpack's.
func (t *Table) Worker() Range { return t.region.at(0) }

// Assign returns the range of the user. fresh says that it was given out now,
// and it is on disk then. previous is the range that the same uid had under
// another name, now retired for ever; nil if there was none. After an error the
// table is as before and nobody has a new range, though a crash right then may
// show it as given. A name that is empty, longer than 256 bytes, not printable UTF-8 or
// holds ":" or "/", and a uid in the region, are refused with fs.ErrInvalid.
func (t *Table) Assign(uid uint32, name string) (r Range, previous *Range, fresh bool, err error) {
	r, previous, fresh, err = t.assign(uid, name)
	if err != nil {
		return Range{}, nil, false, fmt.Errorf("assign ids to user %q, uid %d: %w", name, uid, err)
	}
	return r, previous, fresh, nil
}

func (t *Table) assign(uid uint32, name string) (r Range, previous *Range, fresh bool, err error) {
	if err := checkName(name); err != nil {
		return r, nil, false, err
	}
	if uid == math.MaxUint32 || t.region.Contains(uid) {
		return r, nil, false, fmt.Errorf("the uid is invalid or in Carrel's own region %v: %w", t.region, fs.ErrInvalid)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return r, nil, false, fs.ErrClosed
	}
	entries := t.entries
	at := t.find(uid)
	if at >= 0 {
		if old := entries[at]; old.Name == name {
			return old.Range, nil, false, nil
		}
		entries = slices.Clone(entries)
		entries[at].Retired = true
		previous = &Range{entries[at].Range.First}
	}
	if len(entries)+1 >= t.region.Count {
		return r, nil, false, fmt.Errorf("%w: all %d ranges of %v are given out and none is reused; raise its count",
			ErrFull, t.region.Count, t.region)
	}
	r = t.region.at(len(entries) + 1)
	entries = append(slices.Clip(entries), Entry{UID: uid, Name: name, Range: r})
	if err := t.save(entries); err != nil {
		return r, nil, false, err
	}
	t.entries = entries
	return r, previous, true, nil
}

// find returns the index of the uid's live entry, or -1. The caller holds mu.
func (t *Table) find(uid uint32) int {
	return slices.IndexFunc(t.entries, func(e Entry) bool { return e.UID == uid && !e.Retired })
}

// Lookup returns the entry that the uid has now.
func (t *Table) Lookup(uid uint32) (e Entry, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at := t.find(uid); at >= 0 {
		return t.entries[at], true
	}
	return Entry{}, false
}

// All returns every entry, the retired ones too, in the order of their ranges.
func (t *Table) All() []Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.entries)
}
