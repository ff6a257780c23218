package idrange

import (
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/internal/idmap"
)

var testRange = testRegion.at(1)

// large returns n ids from first on.
func idsFrom(first uint32, n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = first + uint32(i)
	}
	return out
}

func TestMap(t *testing.T) {
	b := testRange.First
	all := []idmap.Map{{Inside: 0, Outside: b, Size: Size}}
	tests := []struct {
		name       string
		uid        uint32
		gids       []uint32
		uids, gmap []idmap.Map
		dropped    []uint32
	}{
		{"a usual user", 1000, []uint32{1000, 27, 100}, all, all, nil},
		{"no groups", 65535, nil, all, all, nil},
		{
			"a user of a directory service", 70_000, []uint32{70_000, 27},
			[]idmap.Map{{Inside: 0, Outside: b, Size: 65000}, {Inside: 65534, Outside: b + 65534, Size: 2}, {Inside: 70_000, Outside: b + 65000 + 70_000%534, Size: 1}},
			[]idmap.Map{{Inside: 0, Outside: b, Size: 65000}, {Inside: 65534, Outside: b + 65534, Size: 2}, {Inside: 70_000, Outside: b + 65000 + 70_000%534, Size: 1}},
			nil,
		},
		{
			"two large gids that want one place, and a small one in their way", 1000,
			[]uint32{65_000 + 534*2, 65_534 * 534, 65_535 * 534, 65_000},
			all,
			[]idmap.Map{
				{Inside: 0, Outside: b, Size: 65000}, {Inside: 65000, Outside: b + 65000, Size: 1}, {Inside: 65534, Outside: b + 65534, Size: 2},
				{Inside: 66068, Outside: b + 65000 + 66068%534, Size: 1},
				{Inside: 65_534 * 534, Outside: b + 65001, Size: 1}, {Inside: 65_535 * 534, Outside: b + 65002, Size: 1},
			},
			nil,
		},
		{"not ids, and of the range itself", 1000, []uint32{math.MaxUint32, b, b + Size - 1, 5, 5}, all, all, []uint32{math.MaxUint32, b, b + Size - 1}},
	}
	for _, tt := range tests {
		uids, gids, dropped, err := Map(testRange, tt.uid, tt.gids)
		if err != nil {
			t.Errorf("%s: Map = %v", tt.name, err)
		}
		if diff := cmp.Diff([]any{tt.uids, tt.gmap, tt.dropped}, []any{uids, gids, dropped}); diff != "" {
			t.Errorf("%s: Map(%d, %d): -want +got:\n%s", tt.name, tt.uid, tt.gids, diff)
		}
	}
}

func TestMapRefused(t *testing.T) {
	tests := []struct {
		r   Range
		uid uint32
	}{
		{testRange, testRange.First},
		{testRange, testRange.First + Size - 1},
		{testRange, math.MaxUint32},
		{Range{}, 1000},
		{Range{Size + 1}, 1000},
		{Range{1 << 31}, 1000},
	}
	for _, tt := range tests {
		if _, _, _, err := Map(tt.r, tt.uid, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Map(%v, %d) = %v; want fs.ErrInvalid", tt.r, tt.uid, err)
		}
	}
}

func TestMapDrops(t *testing.T) {
	tests := []struct {
		name string
		gids []uint32
		drop []uint32
	}{
		{"256 large gids fit", idsFrom(100_000, 256), nil},
		{"the 257th does not", idsFrom(100_000, 258), []uint32{100_256, 100_257}},
		{"small ones among the positions come first", append(idsFrom(100_000, 256), idsFrom(65_000, 82)...), nil},
		{"and take room", append(idsFrom(100_000, 256), idsFrom(65_000, 83)...), []uint32{100_255}},
		{"small ones alone need no extent", idsFrom(65_000, 534), nil},
		{"but do beside a large one", append(idsFrom(100_000, 2), idsFrom(65_000, 534)...), append(idsFrom(65_337, 197), 100_001)},
	}
	for _, tt := range tests {
		_, m, dropped, err := Map(testRange, 1000, tt.gids)
		if diff := cmp.Diff(tt.drop, dropped); err != nil || diff != "" {
			t.Errorf("%s: dropped: %v, -want +got:\n%s", tt.name, err, diff)
		}
		if len(m) > maxExtents {
			t.Errorf("%s: %d extents; the kernel takes %d", tt.name, len(m), maxExtents)
		}
	}
}

// checkMap holds what every map must hold for the kernel and for the neighbours.
func checkMap(t *testing.T, r Range, m []idmap.Map, want []uint32) {
	t.Helper()
	if len(m) > maxExtents {
		t.Fatalf("%d extents; the kernel takes %d", len(m), maxExtents)
	}
	outside := slices.Clone(m)
	slices.SortFunc(outside, func(a, b idmap.Map) int { return int(int64(a.Outside) - int64(b.Outside)) })
	for i := range m {
		if m[i].Size == 0 || !r.Contains(m[i].Outside) || !r.Contains(m[i].Outside+m[i].Size-1) {
			t.Fatalf("extent %+v leaves %v", m[i], r)
		}
		if i > 0 && uint64(m[i-1].Inside)+uint64(m[i-1].Size) > uint64(m[i].Inside) {
			t.Fatalf("%+v and %+v overlap inside", m[i-1], m[i])
		}
		if i > 0 && outside[i-1].Outside+outside[i-1].Size > outside[i].Outside {
			t.Fatalf("%+v and %+v overlap outside", outside[i-1], outside[i])
		}
	}
	mapped := func(id uint32) bool {
		return slices.ContainsFunc(m, func(e idmap.Map) bool { return id >= e.Inside && id-e.Inside < e.Size })
	}
	for _, id := range append([]uint32{0, 1, 1000, largeFirst - 1, 65534, 65535}, want...) {
		if !mapped(id) {
			t.Fatalf("id %d is not mapped by %v", id, m)
		}
	}
}

func TestMapProperty(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 2))
	pick := func() uint32 {
		switch rnd.IntN(5) {
		case 0:
			return rnd.Uint32()
		case 1:
			return rnd.Uint32N(Size)
		case 2:
			return 64_990 + rnd.Uint32N(560)
		case 3:
			return 100_000 + 534*rnd.Uint32N(400) // all want one place
		}
		return testRegion.First + rnd.Uint32N(3*Size)
	}
	for range 1000 {
		r := testRegion.at(rnd.IntN(testRegion.Count))
		uid := pick()
		gids := make([]uint32, rnd.IntN(700))
		for i := range gids {
			gids[i] = pick()
		}
		given := slices.Clone(gids)
		uids, groups, dropped, err := Map(r, uid, gids)
		if err != nil {
			if uid != math.MaxUint32 && !r.Contains(uid) {
				t.Fatalf("Map(%v, %d) = %v", r, uid, err)
			}
			continue
		}
		if !slices.Equal(gids, given) {
			t.Fatal("Map changed the caller's gids")
		}
		kept := slices.DeleteFunc(given, func(id uint32) bool { return slices.Contains(dropped, id) })
		checkMap(t, r, uids, []uint32{uid})
		checkMap(t, r, groups, kept)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A group keeps its host id when others come or go, so long as their places
// differ: files in the user's layer hold that id.
func TestMapStable(t *testing.T) {
	at := func(m []idmap.Map, id uint32) uint32 {
		for _, e := range m {
			if e.Inside == id {
				return e.Outside
			}
		}
		return 0
	}
	_, few, _, err := Map(testRange, 1000, []uint32{1000, 70_003})
	if err != nil {
		t.Fatal(err)
	}
	_, many, _, err := Map(testRange, 1000, []uint32{1000, 70_001, 70_002, 70_003, 70_004})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := at(few, 70_003), at(many, 70_003); a != b || a == 0 {
		t.Errorf("gid 70003 is %d on the host, and %d beside other groups", a, b)
	}
}
