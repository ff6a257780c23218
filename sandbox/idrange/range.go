package idrange

import (
	"fmt"
	"io/fs"
)

// Size is the number of ids in a range: the 16 bits that an image's accounts
// live in.
const Size = 65536

// limit is the first id that is never given out: ids of 2^31 and more are
// negative for programs that keep them in an int (systemd's UIDS-GIDS calls
// them "HIC SVNT LEONES").
const limit = 1 << 31

// A Region is Carrel's own part of the host's ids. The zero value is invalid.
type Region struct {
	First uint32 // a multiple of Size, not 0
	Count int    // ranges of Size ids, the worker's included
}

// DefaultRegion lies between what systemd gives to containers and what it
// gives to foreign images (see systemdRanges), above all that useradd writes to
// /etc/subuid (SUB_UID_MAX is 600100000). It holds 4,093 users.
func DefaultRegion() Region { return Region{First: 0x7000_0000, Count: 4094} }

// end returns the id after the last one.
func (g Region) end() uint64 { return uint64(g.First) + uint64(g.Count)*Size }

// Contains reports whether id belongs to the region.
func (g Region) Contains(id uint32) bool { return id >= g.First && uint64(id) < g.end() }

func (g Region) String() string { return fmt.Sprintf("%d-%d", g.First, g.end()-1) }

func (g Region) check() error {
	if g.First == 0 || g.First%Size != 0 || g.Count < 1 || g.Count > limit/Size || g.end() > limit {
		return fmt.Errorf("id region of %d ranges from %d: the first id must be a multiple of %d above 0, and the end at most %d: %w",
			g.Count, g.First, Size, limit, fs.ErrInvalid)
	}
	return nil
}

// at returns the i-th range; the 0th is the worker's.
func (g Region) at(i int) Range { return Range{First: g.First + uint32(i)*Size} }

// A Range is Size ids of one user. Container root is First.
type Range struct{ First uint32 }

// Contains reports whether id belongs to the range.
func (r Range) Contains(id uint32) bool { return id >= r.First && uint64(id) < uint64(r.First)+Size }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, uint64(r.First)+Size-1) }

// An Entry is one range that was given out.
type Entry struct {
	UID     uint32
	Name    string
	Range   Range
	Retired bool // the uid has another name, and another range, by now
}
