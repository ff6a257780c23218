package imagestore

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDamage breaks one thing of a store with an image each time. The image is
// refused with its name, others are not, and importing it again repairs it.
func TestDamage(t *testing.T) {
	built := importStore(t)
	tests := []struct {
		name    string
		do      func(s *Store, image Image) error
		refused string // what Mounts says; "" if the image still works
	}{
		{"nothing", func(*Store, Image) error { return nil }, ""},
		{"empty reference", func(s *Store, _ Image) error { return os.Truncate(s.path(dirRefs, "a@latest"), 0) }, "a@latest"},
		{"cut reference", func(s *Store, _ Image) error { return os.Truncate(s.path(dirRefs, "a@latest"), 100) }, "a@latest"},
		{"reference is a directory", func(s *Store, _ Image) error {
			return errors.Join(os.Remove(s.path(dirRefs, "a@latest")), os.Mkdir(s.path(dirRefs, "a@latest"), 0o700))
		}, "a@latest"},
		{"layer gone", func(s *Store, i Image) error { return os.RemoveAll(s.path(dirLayers, i.Layers[0].hex())) }, "import it again"},
		{"layer is a link", func(s *Store, i Image) error {
			dir := s.path(dirLayers, i.Layers[0].hex())
			return errors.Join(os.RemoveAll(dir), os.Symlink("/", dir))
		}, "import it again"},
		{"layer record gone", func(s *Store, i Image) error { return os.Remove(s.path(dirLayerInfo, i.Layers[0].hex())) }, ""},
		{"layer record empty", func(s *Store, i Image) error { return os.Truncate(s.path(dirLayerInfo, i.Layers[0].hex()), 0) }, ""},
		{"configuration gone", func(s *Store, i Image) error { return os.Remove(s.path(dirBlobs, i.ID.hex())) }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := testStore(t, Config{UnpackPath: built.cfg.UnpackPath, WorkerFirstID: testWorkerID})
			archive := tarball(t, tar.Header{Name: "file"})
			image := mustImport(t, s, "a", archive)
			other := mustImport(t, s, "other", tarball(t, tar.Header{Name: "other"}))
			if err := tt.do(s, image); err != nil {
				t.Fatal(err)
			}
			s = reopen(t, s)
			_, err := s.Mounts(t.Context(), "a")
			checkError(t, err, tt.refused)
			if m := mustMounts(t, s, "other"); m.ImageID != other.ID {
				t.Errorf("the other image is %s; want %s", m.ImageID, other.ID)
			}
			if tt.name == "reference is a directory" {
				if err := s.Remove(t.Context(), "a"); err != nil {
					t.Fatal(err)
				}
			}
			if again := mustImport(t, s, "a", archive); again.ID != image.ID || content(t, s, "a") != "file" {
				t.Errorf("imported again it is %s; want %s", again.ID, image.ID)
			}
			checkOrder(t, s)
		})
	}
}

// TestCommitFails makes one directory of the store unwritable at a time: the
// import fails, and the image is the one before.
func TestCommitFails(t *testing.T) {
	built := importStore(t)
	for _, dir := range []string{dirStaging, dirLayers, dirLayerInfo, dirBlobs, dirRefs} {
		t.Run(dir, func(t *testing.T) {
			s := testStore(t, Config{UnpackPath: built.cfg.UnpackPath, WorkerFirstID: testWorkerID})
			before := mustImport(t, s, "a", tarball(t, tar.Header{Name: "before"}))
			bind := s.path(dir)
			readOnly(t, bind)
			_, err := s.Import(t.Context(), "a", bytes.NewReader(tarball(t, tar.Header{Name: "after"})), ImportOptions{})
			if err == nil {
				t.Error("Import succeeded")
			}
			if err := unix.Unmount(bind, 0); err != nil {
				t.Fatal(err)
			}
			if m := mustMounts(t, s, "a"); m.ImageID != before.ID || content(t, s, "a") != "before" {
				t.Errorf("a is %s; want %s as before: %v", m.ImageID, before.ID, err)
			}
			s = reopen(t, s)
			checkOrder(t, s)
			mustImport(t, s, "a", tarball(t, tar.Header{Name: "after"}))
		})
	}
}

// readOnly makes a directory fail as a disk with an error does.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) }) // gone unless the test failed
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// TestRecordTooLarge: a record is read into memory, so it has a bound.
func TestRecordTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	mustWrite(t, path, "carrel-ref 1 ", 0o600)
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	checkError(t, readRecord(kindRef, path, new(refRecord)), "larger than")
}

// FuzzDecodeRecord holds that an accepted record is one that would have been
// written, and that nothing else gets as far as a file name.
func FuzzDecodeRecord(f *testing.F) {
	good, err := encodeRecord(kindRef, refRecord{Name: "a", ID: digestBytes(nil), Layers: []Digest{digestBytes(nil)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("carrel-ref 2 x\n{}"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec := new(refRecord)
		if decodeRecord(kindRef, data, rec) != nil || rec.check(reference{"a", defaultTag}) != nil {
			return
		}
		for _, d := range append(rec.Layers, rec.ID) {
			if len(d.hex()) != 64 || filepath.Base(d.hex()) != d.hex() {
				t.Errorf("digest %q", d)
			}
		}
	})
}
