package idrange

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/carrel-sh/carrel/internal/idmap"
)

// Large ids, those from Size up, take host ids from this part of the range.
// 65534 is nobody and 65535 is 16-bit -1, so they keep their own.
const (
	largeFirst = 65000
	largeEnd   = 65534
)

// maxLarge is the most large ids that one map takes, and maxExtents what the
// kernel takes in all: UID_GID_MAP_MAX_EXTENTS, Linux 4.15.
const (
	maxLarge   = 256
	maxExtents = 340
)

// Map returns the uid and gid maps of a container in r for a user with the
// given uid and groups, the primary first.
//
// Inside, 0 to 65535 are r's own ids in order. A uid or gid above that gets an
// extent of its own, whose host id is taken from positions 65000 to 65533 of
// the range; in a map with such an extent the rest of these positions is not
// mapped, but for small ids of the user's own. The position depends on the id
// alone, unless two of the user's ids want the same one, so that files keep
// their group when others come or go.
//
// Gids that find no place, beyond 256 large ones or the kernel's 340 extents,
// that lie in r, or that are invalid, are returned in dropped, the last given
// first to go. No two extents of a map share an id, inside or outside. A uid in
// r is refused with fs.ErrInvalid, as Table.Assign refuses the whole region.
func Map(r Range, uid uint32, gids []uint32) (uidMap, gidMap []idmap.Map, dropped []uint32, err error) {
	if uid == math.MaxUint32 || r.Contains(uid) {
		return nil, nil, nil, fmt.Errorf("map uid %d: %w", uid, fs.ErrInvalid)
	}
	if r.First%Size != 0 || r.First == 0 || uint64(r.First)+Size > limit {
		return nil, nil, nil, fmt.Errorf("map range from %d: %w", r.First, fs.ErrInvalid)
	}
	uidMap, _ = extents(r, []uint32{uid})
	gidMap, dropped = extents(r, gids)
	return uidMap, gidMap, dropped, nil
}

// extents returns the map for ids, sorted by the id inside.
func extents(r Range, ids []uint32) (m []idmap.Map, dropped []uint32) {
	var small, large []uint32
	for i, id := range ids {
		switch {
		case slices.Contains(ids[:i], id): // named twice
		case id == math.MaxUint32 || r.Contains(id):
			dropped = append(dropped, id)
		case id >= Size:
			large = append(large, id)
		case id >= largeFirst && id < largeEnd:
			small = append(small, id)
		}
	}
	if len(large) == 0 {
		return []idmap.Map{{Inside: 0, Outside: r.First, Size: Size}}, dropped
	}
	// Two extents surround the positions; each id between takes one.
	room := maxExtents - 2
	if len(small) > room-1 {
		small, dropped = small[:room-1], append(dropped, small[room-1:]...)
	}
	if keep := min(maxLarge, room-len(small)); len(large) > keep {
		large, dropped = large[:keep], append(dropped, large[keep:]...)
	}
	m = []idmap.Map{
		{Inside: 0, Outside: r.First, Size: largeFirst},
		{Inside: largeEnd, Outside: r.First + largeEnd, Size: Size - largeEnd},
	}
	taken := make(map[uint32]bool)
	for _, id := range small {
		taken[id] = true
		m = append(m, idmap.Map{Inside: id, Outside: r.First + id, Size: 1})
	}
	slices.Sort(large) // who wins a position does not depend on the order given
	for _, id := range large {
		p := place(id, taken)
		taken[p] = true
		m = append(m, idmap.Map{Inside: id, Outside: r.First + p, Size: 1})
	}
	slices.SortFunc(m, func(a, b idmap.Map) int { return cmp.Compare(a.Inside, b.Inside) })
	return m, dropped
}

// place returns the first free position for id, from its own one on. There are
// 534 and never more than 338 taken.
func place(id uint32, taken map[uint32]bool) uint32 {
	const positions = largeEnd - largeFirst
	for i := uint32(0); ; i++ {
		p := largeFirst + (id%positions+i)%positions
		if !taken[p] {
			return p
		}
	}
}
