package imagestore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	long := strings.Repeat("a", maxRepository)
	tests := []struct {
		in, want, file string // want "" is ErrInvalidName
	}{
		{"debian", "debian", "debian@latest"},
		{"debian:latest", "debian", "debian@latest"},
		{"debian:12", "debian:12", "debian@12"},
		{"lib/debian:12-Slim_x", "lib/debian:12-Slim_x", "lib+debian@12-Slim_x"},
		{"a.b/c__d/e-f---g:1", "a.b/c__d/e-f---g:1", "a.b+c__d+e-f---g@1"},
		{"host", "host", "host@latest"},
		{"host:latest", "host", "host@latest"},
		{"my/host:1", "my/host:1", "my+host@1"},
		{long, long, long + "@latest"},
		{in: long + "a"},
		{in: "host:1"},
		{in: ""}, {in: ":"}, {in: ":1"}, {in: "a:"}, {in: "a:b:c"}, {in: "a:" + strings.Repeat("1", 65)},
		{in: "Debian"}, {in: "."}, {in: ".."}, {in: "a/../b"}, {in: "/a"}, {in: "a/"}, {in: "a//b"}, {in: "-a"}, {in: "a-"}, {in: "a..b"},
		{in: "a___b"}, {in: ".new-1"}, {in: "a\n"}, {in: "a\x00"}, {in: "a b"}, {in: "a@b"}, {in: "a+b"}, {in: "ä"}, {in: "a:.b"}, {in: "a:b/c"},
		{in: "a:1\n"},
	}
	for _, tt := range tests {
		ref, err := parseName(tt.in)
		if tt.want == "" {
			if !errors.Is(err, ErrInvalidName) {
				t.Errorf("parseName(%q) = %v, %v; want ErrInvalidName", tt.in, ref, err)
			}
			continue
		}
		if err != nil || ref.String() != tt.want || ref.fileName() != tt.file {
			t.Errorf("parseName(%q) = %q in file %q, %v; want %q in %q", tt.in, ref, ref.fileName(), err, tt.want, tt.file)
		}
		if back, err := parseFileName(ref.fileName()); err != nil || back != ref {
			t.Errorf("parseFileName(%q) = %v, %v; want %v", ref.fileName(), back, err, ref)
		}
	}
}

// FuzzParseName holds that an accepted name has one short form and one file
// name, which stays in its directory and leads back to it.
func FuzzParseName(f *testing.F) {
	for _, seed := range []string{"debian", "a/b:c", "host", "../x", "a@b", "a+b", ".new-x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		ref, err := parseName(in)
		if err != nil {
			return
		}
		file := ref.fileName()
		if strings.ContainsAny(file, "/\x00\n") || file[0] == '.' || len(file) > 255-len(tempPrefix) {
			t.Errorf("parseName(%q): file name %q", in, file)
		}
		for _, same := range []func() (reference, error){
			func() (reference, error) { return parseFileName(file) },
			func() (reference, error) { return parseName(ref.String()) },
		} {
			if got, err := same(); err != nil || got != ref {
				t.Errorf("parseName(%q) = %v; back again %v, %v", in, ref, got, err)
			}
		}
	})
}

func TestDigestCheck(t *testing.T) {
	good := digestBytes([]byte("x"))
	tests := []struct {
		in Digest
		ok bool
	}{
		{good, true},
		{"", false},
		{"sha256:", false},
		{Digest(good.hex()), false},
		{good + "0", false},
		{good[:len(good)-1], false},
		{"sha512:" + Digest(good.hex()), false},
		{"sha256:../../../../../../../../../../../../../../../../../../../../../../", false},
		{Digest(strings.ToUpper(string(good))), false},
		{Digest("sha256:" + strings.Repeat("é", 32)), false},
	}
	for _, tt := range tests {
		if err := tt.in.check(); (err == nil) != tt.ok {
			t.Errorf("Digest(%q).check() = %v; want ok %t", tt.in, err, tt.ok)
		}
	}
}

// TestChainID has vectors computed with sha256sum(1) after the formula of the
// OCI image specification.
func TestChainID(t *testing.T) {
	a, b := digestBytes([]byte("a")), digestBytes([]byte("b"))
	if got := chainID("", a); got != a {
		t.Errorf("chainID of a bottom layer = %s; want its diffID, %s", got, a)
	}
	want := Digest("sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676")
	if got := chainID(a, b); got != want {
		t.Errorf("chainID(a, b) = %s; want %s", got, want)
	}
	if chainID(b, a) == want {
		t.Error("the order does not matter")
	}
}

func TestRecordDamage(t *testing.T) {
	want := refRecord{Name: "a", ID: digestBytes(nil), Created: time.Unix(1, 0).UTC(), Layers: []Digest{digestBytes(nil)}}
	good, err := encodeRecord(kindRef, want)
	if err != nil {
		t.Fatal(err)
	}
	var got refRecord
	if err := decodeRecord(kindRef, good, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decodeRecord (-want +got):\n%s", diff)
	}
	// Every flipped bit and every cut is found.
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if decodeRecord(kindRef, bad, &got) == nil {
			t.Errorf("byte %d flipped: accepted", i)
		}
		if decodeRecord(kindRef, good[:i], &got) == nil {
			t.Errorf("cut at byte %d: accepted", i)
		}
	}
	if err := decodeRecord(kindLayer, good, &got); err == nil {
		t.Error("record of another kind: accepted")
	}
}

func TestOpen(t *testing.T) {
	tests := []struct {
		name string
		make func(dir string) error
		want string
	}{
		{"missing", func(string) error { return nil }, ""},
		{"missing parents", func(dir string) error { return os.Remove(filepath.Dir(dir)) }, ""},
		{"empty", func(dir string) error { return os.Mkdir(dir, 0o700) }, ""},
		{"a store", func(dir string) error { _, err := Open(Config{Dir: dir}); return err }, ""},
		{"open to others", func(dir string) error { return os.Mkdir(dir, 0o711) }, "mode 0711"},
		{"a link", func(dir string) error { return os.Symlink("/", dir) }, "not a directory"},
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "not a directory"},
		{"newer", func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return writeRecord(kindStore, filepath.Join(dir, fileVersion), storeVersion{layoutVersion + 1})
		}, "layout version 2, this program knows 1"},
		{"damaged version", func(dir string) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, fileVersion), []byte("x"), 0o600)
		}, "damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "lib", "images")
			mustMkdir(t, filepath.Dir(dir), 0o755)
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Config{Dir: dir})
			checkError(t, err, tt.want)
			if info, statErr := os.Stat(dir); err == nil && (statErr != nil || info.Mode().Perm() != 0o700) {
				t.Errorf("mode %v, %v; want 0700", info.Mode(), statErr)
			}
		})
	}
	if _, err := Open(Config{Dir: "relative"}); err == nil {
		t.Error("relative Dir: accepted")
	}
}

// fakeImage puts an image into the store without unpacking anything.
func fakeImage(t testing.TB, s *Store, name string, layers ...string) refRecord {
	t.Helper()
	ref, err := parseName(name)
	if err != nil {
		t.Fatal(err)
	}
	rec := refRecord{Name: ref.String(), ID: digestBytes([]byte(name)), Created: time.Unix(1e9, 0).UTC(), SizeBytes: 3}
	for _, l := range layers {
		d := digestBytes([]byte(l))
		rec.Layers = append(rec.Layers, d)
		mustMkdir(t, s.path(dirLayers, d.hex()), 0o755)
		mustWrite(t, s.path(dirLayers, d.hex(), "file"), l, 0o644)
	}
	if err := writeRecord(kindRef, s.path(dirRefs, ref.fileName()), rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestMounts(t *testing.T) {
	s := testStore(t, Config{})
	two := fakeImage(t, s, "two:1", "bottom", "top")
	missing := fakeImage(t, s, "missing", "gone")
	if err := os.RemoveAll(s.path(dirLayers, missing.Layers[0].hex())); err != nil {
		t.Fatal(err)
	}
	fakeImage(t, s, "alias", "x")
	if err := os.Rename(s.path(dirRefs, "alias@latest"), s.path(dirRefs, "other@latest")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s.path(dirRefs, "empty@latest"), "", 0o600)
	if err := writeRecord(kindRef, s.path(dirRefs, "evil@latest"), refRecord{Name: "evil", ID: two.ID, Layers: []Digest{"sha256:../../etc"}}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
	}{
		{"two:1", ""},
		{"two", ErrNotFound.Error()},
		{"nothing", ErrNotFound.Error()},
		{"Two", ErrInvalidName.Error()},
		{"missing", missing.Layers[0].hex()},
		{"other", "other@latest"},
		{"empty", "empty@latest"},
		{"evil", "evil@latest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.Mounts(t.Context(), tt.name)
			checkError(t, err, tt.want)
		})
	}
	want := Mounts{ImageID: two.ID, Layers: []string{
		s.path(dirLayers, digestBytes([]byte("top")).hex()), s.path(dirLayers, digestBytes([]byte("bottom")).hex()),
	}}
	if diff := cmp.Diff(want, mustMounts(t, s, "two:1")); diff != "" {
		t.Errorf("Mounts (-want +got):\n%s", diff)
	}
}

func TestList(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "b", "1")
	fakeImage(t, s, "a:2", "1", "2")
	names := func() []string {
		images, err := s.List(t.Context())
		if err != nil {
			t.Log(err)
		}
		var names []string
		for _, i := range images {
			names = append(names, i.Name)
		}
		return names
	}
	want := []string{"host", "a:2", "b"}
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	mustWrite(t, s.path(dirRefs, "c@latest"), "junk", 0o600)
	mustWrite(t, s.path(dirRefs, "Junk"), "junk", 0o600)
	_, err := s.List(t.Context())
	checkError(t, err, "c@latest")
	checkError(t, err, "Junk")
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Errorf("List with damaged records (-want +got):\n%s", diff)
	}
}

func layerDirs(t testing.TB, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(s.path(dirLayers))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func trashDirs(t testing.TB, s *Store) int {
	t.Helper()
	entries, err := os.ReadDir(s.path(dirTrash))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestRemove(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "a", "shared", "only a")
	fakeImage(t, s, "b", "shared", "only b")
	mustMounts(t, s, "host")
	if err := s.Remove(t.Context(), "host"); err == nil {
		t.Error("Remove(host) succeeded")
	}
	if err := s.Remove(t.Context(), "c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove(c) = %v; want ErrNotFound", err)
	}
	if err := s.Remove(t.Context(), "../a"); !errors.Is(err, ErrInvalidName) {
		t.Errorf("Remove(../a) = %v; want ErrInvalidName", err)
	}
	if got := layerDirs(t, s); got != 3 {
		t.Fatalf("%d layers; want 3", got)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mounts(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Mounts(a) = %v; want ErrNotFound", err)
	}
	if got := len(mustMounts(t, s, "b").Layers); got != 2 || layerDirs(t, s) != 2 {
		t.Errorf("b has %d layers of %d; want 2 of 2", got, layerDirs(t, s))
	}
	if err := s.Remove(t.Context(), "b"); err != nil || layerDirs(t, s) != 0 {
		t.Errorf("Remove(b) = %v with %d layers left; want none", err, layerDirs(t, s))
	}
	if _, err := s.Mounts(t.Context(), "host"); err != nil {
		t.Errorf("Mounts(host) = %v", err)
	}
}

// TestRemoveDamaged: a damaged record can be removed, and while there is one
// no layer is taken away, since it might have named any of them.
func TestRemoveDamaged(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "a", "1")
	fakeImage(t, s, "b", "2")
	mustWrite(t, s.path(dirRefs, "a@latest"), "junk", 0o600)
	if err := s.Remove(t.Context(), "b"); err != nil || layerDirs(t, s) != 2 {
		t.Errorf("Remove(b) = %v with %d layers left; want 2", err, layerDirs(t, s))
	}
	if err := s.Remove(t.Context(), "a"); err != nil || layerDirs(t, s) != 0 {
		t.Errorf("Remove(a) = %v with %d layers left; want none", err, layerDirs(t, s))
	}
}

func TestCollect(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "a", "used", "unused")
	layers := mustMounts(t, s, "a").Layers
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got := trashDirs(t, s); got != 2 {
		t.Fatalf("%d layers in the trash; want 2: a container may have them", got)
	}
	if err := s.Collect(t.Context(), inUse(layers[1:]...)); err != nil || trashDirs(t, s) != 1 {
		t.Errorf("Collect = %v with %d in the trash; want 1", err, trashDirs(t, s))
	}
	if err := s.Collect(t.Context(), inUse()); err != nil || trashDirs(t, s) != 0 {
		t.Errorf("Collect = %v with %d in the trash; want none", err, trashDirs(t, s))
	}
}

// TestCollectAsksLate has a container start while Collect waits for the lock of
// a commit that retires the container's layers.
func TestCollectAsksLate(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "a", "used", "unused")
	layers := mustMounts(t, s, "a").Layers
	ref, err := parseName("a")
	if err != nil {
		t.Fatal(err)
	}
	held, err := lock(t.Context(), s.path(fileLock))
	if err != nil {
		t.Fatal(err)
	}
	var started atomic.Bool // under the lock that Collect waits for
	done := make(chan error)
	go func() {
		done <- s.Collect(t.Context(), func() []string {
			if started.Load() {
				return layers[1:]
			}
			return nil
		})
	}()
	time.Sleep(2 * lockPoll) // that it waits
	started.Store(true)
	if err := s.removeLocked(ref); err != nil {
		t.Fatal(err)
	}
	held.Close()
	if err := <-done; err != nil || trashDirs(t, s) != 1 {
		t.Errorf("Collect = %v with %d in the trash; want the one that is in use", err, trashDirs(t, s))
	}
}

// inUse names layers to Collect.
func inUse(layers ...string) func() []string { return func() []string { return layers } }

// TestTrashAfterBoot pretends that a tree was retired before the last boot.
func TestTrashAfterBoot(t *testing.T) {
	s := testStore(t, Config{})
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{boot + ".layers-aa.x", "0123456789.layers-bb.y", bootDead + ".staging-cc.z"} {
		mustMkdir(t, s.path(dirTrash, name, "sub"), 0o755)
	}
	testStore(t, s.cfg)
	if _, err := os.Stat(s.path(dirTrash, boot+".layers-aa.x", "sub")); err != nil || trashDirs(t, s) != 1 {
		t.Errorf("%v, %d in the trash; want only the one of this boot", err, trashDirs(t, s))
	}
}

func TestOpenCleans(t *testing.T) {
	s := testStore(t, Config{})
	fakeImage(t, s, "a", "kept")
	mustMkdir(t, s.path(dirStaging, "old", "root"), 0o755)
	mustMkdir(t, s.path(dirStaging, "live", "root"), 0o755)
	mustMkdir(t, s.path(dirLayers, digestBytes([]byte("unnamed")).hex()), 0o755)
	mustWrite(t, s.path(dirRefs, tempPrefix+"1"), "half", 0o600)
	mustWrite(t, s.path(dirBlobs, tempPrefix+"1"), "half", 0o600)
	mustWrite(t, s.path(dirLayerInfo, "aa"), "of no layer", 0o600)
	live, err := tryLockDir(s.path(dirStaging, "live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()

	t.Run("while another writes", func(t *testing.T) {
		busy, err := tryLock(s.path(fileLock))
		if err != nil {
			t.Fatal(err)
		}
		defer busy.Close()
		testStore(t, s.cfg)
		if _, err := os.Stat(s.path(dirStaging, "old")); err != nil {
			t.Errorf("cleaned under a writer: %v", err)
		}
	})
	testStore(t, s.cfg)
	want := map[string]string{
		dirStaging: "live", dirLayers: digestBytes([]byte("kept")).hex(), dirRefs: "a@latest", dirBlobs: "", dirLayerInfo: "",
	}
	for dir, want := range want {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, e := range entries {
			got += e.Name()
		}
		if got != want {
			t.Errorf("%s has %q; want %q", dir, got, want)
		}
	}
}
