package idrange

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var testRegion = Region{First: 0x7000_0000, Count: 4094}

func mustOpen(t testing.TB, path string, g Region) *Table {
	t.Helper()
	table, err := Open(path, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	return table
}

func mustAssign(t testing.TB, table *Table, uid uint32, name string) Range {
	t.Helper()
	r, _, _, err := table.Assign(uid, name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// disjoint reports the first two ranges that share an id.
func disjoint(ranges map[Range]string) error {
	firsts := make(map[uint32]Range)
	for r := range ranges {
		// Aligned ranges overlap only if they are the same block.
		if other, ok := firsts[r.First/Size]; ok || r.First%Size != 0 {
			return fmt.Errorf("%v and %v are not disjoint and aligned", r, other)
		}
		firsts[r.First/Size] = r
	}
	return nil
}

func TestAssign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	table := mustOpen(t, path, testRegion)
	g := testRegion
	steps := []struct {
		uid      uint32
		name     string
		want     Range
		previous *Range
		fresh    bool
	}{
		{1000, "alice", g.at(1), nil, true},
		{1000, "alice", g.at(1), nil, false},
		{1001, "bob", g.at(2), nil, true},
		{1000, "alicia", g.at(3), &Range{g.at(1).First}, true}, // another name, another person
		{1000, "alicia", g.at(3), nil, false},
		{1000, "alice", g.at(4), &Range{g.at(3).First}, true}, // the first range stays retired
		{1002, "bob", g.at(5), nil, true},                     // the same name with another uid
		{70_000, "Ünïcode <&>", g.at(6), nil, true},
		{1001, "bob", g.at(2), nil, false},
	}
	for _, tt := range steps {
		r, previous, fresh, err := table.Assign(tt.uid, tt.name)
		if err != nil {
			t.Fatal(err)
		}
		if r != tt.want || fresh != tt.fresh || !cmp.Equal(previous, tt.previous) {
			t.Errorf("Assign(%d, %q) = %v, %v, %v; want %v, %v, %v", tt.uid, tt.name, r, previous, fresh, tt.want, tt.previous, tt.fresh)
		}
	}
	if r := table.Worker(); r.First != g.First {
		t.Errorf("Worker() = %v; want the first of %v", r, g)
	}
	want := []Entry{
		{1000, "alice", g.at(1), true},
		{1001, "bob", g.at(2), false},
		{1000, "alicia", g.at(3), true},
		{1000, "alice", g.at(4), false},
		{1002, "bob", g.at(5), false},
		{70_000, "Ünïcode <&>", g.at(6), false},
	}
	all := table.All()
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("All: -want +got:\n%s", diff)
	}
	if e, ok := table.Lookup(1000); !ok || e != want[3] {
		t.Errorf("Lookup(1000) = %v, %v; want %v", e, ok, want[3])
	}
	if e, ok := table.Lookup(5); ok {
		t.Errorf("Lookup(5) = %v; want none", e)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, mustOpen(t, path, testRegion).All()); diff != "" {
		t.Errorf("All after reopening: -want +got:\n%s", diff)
	}
}

func TestAssignRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	table := mustOpen(t, path, testRegion)
	before, _ := os.ReadFile(path)
	tests := []struct {
		uid  uint32
		name string
	}{
		{1000, ""},
		{1000, "a\nb"},
		{1000, "a\x00b"},
		{1000, "a:b"},
		{1000, "../b"},
		{1000, "\xff\xfe"}, // JSON would make one name of \xff and \xfe
		{1000, strings.Repeat("n", 257)},
		{math.MaxUint32, "alice"},
		{testRegion.First, "alice"},
		{uint32(testRegion.end() - 1), "alice"},
	}
	for _, tt := range tests {
		if r, _, _, err := table.Assign(tt.uid, tt.name); !errors.Is(err, fs.ErrInvalid) || r != (Range{}) {
			t.Errorf("Assign(%d, %q) = %v, %v; want fs.ErrInvalid", tt.uid, tt.name, r, err)
		}
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Errorf("a refusal changed the file:\n%s", after)
	}
	mustAssign(t, table, testRegion.First-1, "alice")
	mustAssign(t, table, uint32(testRegion.end()), "bob")
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := table.Assign(1000, "alice"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Assign after Close = %v; want fs.ErrClosed", err)
	}
}

func TestAssignFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	small := Region{First: testRegion.First, Count: 3}
	table := mustOpen(t, path, small)
	mustAssign(t, table, 1, "a")
	mustAssign(t, table, 2, "b")
	if _, _, _, err := table.Assign(3, "c"); !errors.Is(err, ErrFull) {
		t.Errorf("Assign in a full region = %v; want ErrFull", err)
	}
	// A new name does not retire the old range when there is no new one.
	if _, _, _, err := table.Assign(2, "bb"); !errors.Is(err, ErrFull) {
		t.Errorf("Assign in a full region = %v; want ErrFull", err)
	}
	if e, ok := table.Lookup(2); !ok || e.Name != "b" || e.Retired {
		t.Errorf("Lookup(2) = %v, %v; want b's entry as it was", e, ok)
	}
	_ = table.Close()
	grown := mustOpen(t, path, Region{First: small.First, Count: 4})
	if r := mustAssign(t, grown, 3, "c"); r != small.at(3) {
		t.Errorf("Assign in the grown region = %v; want %v", r, small.at(3))
	}
	_ = grown.Close()
	if _, err := Open(path, small); err == nil || !strings.Contains(err.Error(), "not shrink") {
		t.Errorf("Open with a smaller region = %v; want a refusal", err)
	}
	if _, err := Open(path, Region{First: small.First + Size, Count: 9}); err == nil || !strings.Contains(err.Error(), "must not change") {
		t.Errorf("Open with another region = %v; want a refusal", err)
	}
}

func TestOpenInvalidRegion(t *testing.T) {
	for _, g := range []Region{
		{}, {Size, 0}, {Size, -1}, {0, 1}, {Size + 1, 1}, {1<<31 - Size, 2}, {1 << 31, 1}, {Size, math.MaxInt},
		{Size, 1 << 15},
	} {
		if _, err := Open(filepath.Join(t.TempDir(), "ids"), g); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Open with %+v = %v; want fs.ErrInvalid", g, err)
		}
	}
	for _, g := range []Region{{1<<31 - Size, 1}, {Size, 1<<15 - 1}, DefaultRegion()} {
		mustOpen(t, filepath.Join(t.TempDir(), "ids"), g)
	}
}

func TestOpenLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	table := mustOpen(t, path, testRegion)
	if _, err := Open(path, testRegion); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open = %v; want ErrInUse", err)
	}
	mustAssign(t, table, 1, "a") // the file is another one now; the lock holds
	if _, err := Open(path, testRegion); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open after a write = %v; want ErrInUse", err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path, testRegion)
}

// Whatever happens to the file, Open names it and never begins anew.
func TestOpenDamaged(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.json")
	table := mustOpen(t, good, testRegion)
	mustAssign(t, table, 1000, "alice")
	mustAssign(t, table, 1001, "bob")
	_ = table.Close()
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(old, repl string) []byte {
		if !strings.Contains(string(data), old) {
			t.Fatalf("no %q in %s", old, data)
		}
		return []byte(strings.Replace(string(data), old, repl, 1))
	}
	forged := func(entries ...Entry) []byte {
		data, err := encode(testRegion.First, entries)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	a := Entry{1000, "alice", testRegion.at(1), false}
	tests := map[string][]byte{
		"empty":               {},
		"truncated":           data[:len(data)/2],
		"no end":              data[:len(data)-2],
		"zeros":               make([]byte, len(data)),
		"not json":            []byte("alice:1000:65536\n"),
		"null":                []byte("null"),
		"appended":            append(data[:len(data):len(data)], data...),
		"flipped digit":       replaced("1000", "1004"),
		"flipped name":        replaced("alice", "alicf"),
		"unknown key":         replaced(`"version"`, `"x": 1, "version"`),
		"newer version":       replaced(`"version": 1`, `"version": 2`),
		"no checksum":         replaced(`"sha256"`, `"sha257"`),
		"duplicate range":     forged(a, Entry{1001, "bob", testRegion.at(1), false}),
		"overlapping range":   forged(Entry{1000, "alice", Range{testRegion.First + 70_000}, false}),
		"gap":                 forged(Entry{1000, "alice", testRegion.at(2), false}),
		"two ranges of a uid": forged(a, Entry{1000, "alice", testRegion.at(2), false}),
		"bad name":            forged(Entry{1000, "a\nb", testRegion.at(1), false}),
	}
	for name, bad := range tests {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path, testRegion)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Open = %v; want ErrDamaged that names the file", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != string(bad) {
			t.Errorf("%s: Open changed the damaged file", name)
		}
	}
	// The twin: white space is no damage.
	if err := os.WriteFile(good, replaced("{", "{ \n "), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := len(mustOpen(t, good, testRegion).All()); got != 2 {
		t.Errorf("%d entries after a change of white space; want 2", got)
	}
}

func TestOpenLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	table := mustOpen(t, path, testRegion)
	mustAssign(t, table, 1000, "alice")
	_ = table.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(path, testRegion); !errors.Is(err, ErrDamaged) {
			t.Fatalf("Open of a lost table = %v; want ErrDamaged", err)
		}
	}
	// The remedy that the message names.
	if err := os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path, testRegion)
}

func TestOpenNotAFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("elsewhere", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, filepath.Join(dir, "missing", "ids")} {
		if _, err := Open(path, testRegion); err == nil {
			t.Errorf("Open(%s) = nil; want an error", path)
		}
	}
}

// A write that fails changes nothing, and the next one succeeds.
func TestAssignWriteFails(t *testing.T) {
	for _, at := range []step{stepCreate, stepWrite, stepSync, stepRename, stepSyncDir, stepFinished} {
		path := filepath.Join(t.TempDir(), "ids.json")
		failing := false
		table, err := open(path, testRegion, func(s step) error {
			if failing && s == at {
				return syscall.ENOSPC
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		mustAssign(t, table, 1, "a")
		failing = true
		if _, _, _, err := table.Assign(2, "b"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s fails: Assign = %v; want ENOSPC", at, err)
		}
		if _, ok := table.Lookup(2); ok {
			t.Errorf("%s fails: the entry is there", at)
		}
		failing = false
		if r := mustAssign(t, table, 3, "c"); r != testRegion.at(2) {
			t.Errorf("%s failed: the next range is %v; want %v", at, r, testRegion.at(2))
		}
		_ = table.Close()
		if got := len(mustOpen(t, path, testRegion).All()); got != 2 {
			t.Errorf("%s failed: %d entries on disk; want 2", at, got)
		}
	}
}

var errCrash = errors.New("power cut")

// TestCrash cuts the power at a random step of a random number of writes, many
// times over. What was not yet synced is lost, kept or half there, as chance
// has it. Every range that Assign ever returned must stay with its user, and no
// two users may ever be given one.
func TestCrash(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "ids.json")
	given := map[Range]string{testRegion.at(0): "the worker"}
	retired := make(map[Range]bool)
	owners := make(map[string]Range)
	names := make(map[uint32]string)
	for range 120 {
		disk := &disk{path: path, rnd: rnd, left: rnd.IntN(40)}
		table, err := open(path, testRegion, disk.hook)
		if err == nil {
			for range 10 {
				uid := uint32(1000 + rnd.IntN(400))
				name := fmt.Sprintf("u%d.%d", uid, rnd.IntN(10)/9) // now and then another name
				var r Range
				if r, _, _, err = table.Assign(uid, name); err != nil {
					if names[uid] != name {
						// The disk may hold the new name or not: neither
						// was promised to anybody.
						delete(owners, fmt.Sprint(uid, names[uid]))
						delete(names, uid)
					}
					break
				}
				key := fmt.Sprint(uid, name)
				if was := fmt.Sprint(uid, names[uid]); names[uid] != name {
					if old, ok := owners[was]; ok {
						retired[old] = true
					}
					delete(owners, was)
					names[uid] = name
				}
				if had, ok := owners[key]; ok && had != r {
					t.Fatalf("%s had %v and now has %v", key, had, r)
				}
				if other, ok := given[r]; ok && other != key || retired[r] {
					t.Fatalf("%v of %q, retired %v, was given to %s", r, other, retired[r], key)
				}
				owners[key], given[r] = r, key
			}
			_ = table.Close() // the lock goes with the process
		}
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		disk.cut()
	}
	table := mustOpen(t, path, testRegion)
	for uid, name := range names {
		if r, _, fresh, err := table.Assign(uid, name); err != nil || fresh || owners[fmt.Sprint(uid, name)] != r {
			t.Errorf("Assign(%d, %q) after all = %v, fresh %v, %v; want %v", uid, name, r, fresh, err, owners[fmt.Sprint(uid, name)])
		}
	}
	if err := disjoint(given); err != nil {
		t.Error(err)
	}
	t.Logf("%d ranges given, %d entries on disk", len(given)-1, len(table.All()))
}

// A disk forgets at a power cut what was not synced.
type disk struct {
	path string
	rnd  *rand.Rand
	left int    // steps until the cut
	old  []byte // the table before the rename that is not synced yet
	at   step   // where the power was cut
}

func (d *disk) hook(s step) error {
	if s == stepRename {
		d.old, _ = os.ReadFile(d.path)
	}
	if d.left--; d.left < 0 {
		d.at = s
		return errCrash
	}
	return nil
}

// cut takes away what may be lost at the step where the power went.
func (d *disk) cut() {
	switch d.at {
	case stepSync: // the temporary file may hold any part of its bytes
		if info, err := os.Stat(d.path + ".new"); err == nil {
			_ = os.Truncate(d.path+".new", d.rnd.Int64N(info.Size()+1))
		}
	case stepSyncDir: // the rename may not have happened
		if d.rnd.IntN(2) == 0 && d.old != nil {
			_ = os.WriteFile(d.path, d.old, 0o600)
		}
	}
}

// Many users at once: each gets one range, and keeps it.
func TestAssignConcurrent(t *testing.T) {
	table := mustOpen(t, filepath.Join(t.TempDir(), "ids.json"), testRegion)
	const users, each = 40, 3
	var mu sync.Mutex
	got := make(map[uint32]Range)
	fresh := 0
	var group sync.WaitGroup
	for i := range users * each {
		group.Go(func() {
			uid := uint32(1000 + i%users)
			r, _, isFresh, err := table.Assign(uid, fmt.Sprint("u", uid))
			mu.Lock()
			defer mu.Unlock()
			if had, ok := got[uid]; err != nil || ok && had != r {
				t.Errorf("Assign(%d) = %v, %v; had %v", uid, r, err, had)
			}
			got[uid] = r
			if isFresh {
				fresh++
			}
		})
	}
	group.Wait()
	ranges := map[Range]string{table.Worker(): "the worker"}
	for uid, r := range got {
		ranges[r] = fmt.Sprint(uid)
	}
	if err := disjoint(ranges); err != nil || len(ranges) != users+1 || fresh != users {
		t.Errorf("%d ranges, %d fresh, %v; want one for each of %d users", len(ranges), fresh, err, users)
	}
}

// The whole default region, and not one more.
func TestAssignMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids.json")
	g := DefaultRegion()
	given := map[Range]string{g.at(0): "the worker"}
	var entries []Entry
	for i := 1; i < g.Count-1; i++ {
		entries = append(entries, Entry{uint32(i), fmt.Sprint("u", i), g.at(i), i%7 == 0})
		given[g.at(i)] = ""
	}
	data, err := encode(g.First, entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	table := mustOpen(t, path, g)
	r := mustAssign(t, table, 100_000, "last")
	given[r] = "last"
	if err := disjoint(given); err != nil || len(given) != g.Count || !g.Contains(r.First+Size-1) {
		t.Errorf("last range %v, %d in all, %v; want %d in %v", r, len(given), err, g.Count, g)
	}
	if _, _, _, err := table.Assign(100_001, "more"); !errors.Is(err, ErrFull) {
		t.Errorf("Assign = %v; want ErrFull", err)
	}
}

// Any file that is accepted has disjoint ranges, one live entry per uid, and
// says the same after it was written again.
func FuzzDecode(f *testing.F) {
	good, err := encode(testRegion.First, []Entry{
		{1000, "alice", testRegion.at(1), true}, {1000, "bob", testRegion.at(2), false},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"table":{"first":1,"entries":[]},"sha256":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, entries, err := decode(data)
		if err != nil {
			return
		}
		ranges := make(map[uint32]bool)
		live := make(map[uint32]bool)
		for _, e := range entries {
			if ranges[e.Range.First] || !e.Retired && live[e.UID] {
				t.Fatalf("accepted %v twice", e)
			}
			ranges[e.Range.First] = true
			live[e.UID] = live[e.UID] || !e.Retired
		}
		again, err := encode(first, entries)
		if err != nil {
			t.Fatal(err)
		}
		first2, entries2, err := decode(again)
		if err != nil || first2 != first || !cmp.Equal(entries, entries2) {
			t.Fatalf("after writing again: %v, %v, %v; had %v, %v", first2, entries2, err, first, entries)
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	for _, users := range []int{0, 4000} {
		b.Run(fmt.Sprint(users), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "ids.json")
			g := Region{First: Size, Count: 1<<15 - 1}
			var entries []Entry
			for i := range users {
				entries = append(entries, Entry{uint32(i), fmt.Sprint("user", i), g.at(i + 1), false})
			}
			data, err := encode(g.First, entries)
			if err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				b.Fatal(err)
			}
			table := mustOpen(b, path, g)
			uid := uint32(10_000)
			for b.Loop() {
				uid++
				if uid > 40_000 {
					b.Fatal("too many rounds")
				}
				mustAssign(b, table, uid, "new")
			}
		})
	}
}
